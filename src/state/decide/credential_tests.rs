//! Credentials over State alone: who may make them, and what they can do beside logging in.
//!
//! In the world of `login_tests`, where `service:ci` deploys in `acme/web`.

use super::login_tests::*;
use super::tests::*;
use super::*;
use crate::domain::change::Display;
use crate::domain::key::PublicKey;
use crate::domain::limits::{Networks, Workload};
use crate::domain::login::{LoginMethod, LoginSettings};
use crate::domain::permission::ActionPattern;
use crate::domain::token::{Digest, Secret};

#[test]
fn nobody_comes_to_more_by_making_credentials_or_methods() {
    let mut logins = Logins::new();
    // Bob may issue tokens and manage service accounts at `acme`, and holds little else.
    logins.world.local(Command::CreateRole {
        name: RoleName::parse("manager").expect("valid"),
        home: resource("acme"),
        actions: ["tokens:issue", "services:write", "services:read"]
            .iter()
            .map(|action| ActionPattern::parse(action).expect("valid"))
            .collect(),
        display: Display::default(),
    });
    logins.world.grant("user:bob", "manager", "acme/**");
    let bob = logins.world.user("user:bob");
    let (_, create) = logins.wanted(ScopesAsked::All);
    let create = Command::CreateCredential(Box::new(create));
    let refused = logins.world.as_bearer(&bob, create).expect_err("more");
    assert_eq!(missing(&refused), ["deploy:run@acme/web/**"]);
    let (_, create) = logins.wanted(scopes(&["deploy:run@acme/web/prod"]));
    let create = Command::CreateCredential(Box::new(create));
    let refused = logins.world.as_bearer(&bob, create).expect_err("more");
    assert_eq!(
        missing(&refused),
        ["deploy:run@acme/web/**"],
        "also if it is narrowed"
    );
    for method in LoginMethod::ALL {
        let set = Command::SetMethod(Box::new(SetMethod {
            account: name("service:ci"),
            method,
            settings: LoginSettings::default(),
        }));
        let refused = logins.world.as_bearer(&bob, set).expect_err("more");
        assert_eq!(missing(&refused), ["deploy:run@acme/web/**"]);
    }
    // What he holds as well he may hand on, and no more than that.
    logins.world.grant("user:bob", "deployer", "acme/web/**");
    let (secret, create) = logins.wanted(ScopesAsked::All);
    let create = Command::CreateCredential(Box::new(create));
    logins.world.as_bearer(&bob, create).expect("he holds it");
    logins.world.grant("service:ci", "keeper", "acme/api");
    let claims = logins.login(&secret).expect("good");
    assert_eq!(logins.check(&claims), Reason::Allowed);
    let api = logins.check_from(&claims, "secrets:read@acme/api", "10.0.0.1");
    assert_eq!(api, Reason::NotPermitted, "its ceiling is what bob held");
    // Without the right at the home the account does not exist.
    let dave = logins.world.user("user:dave");
    let (_, create) = logins.wanted(ScopesAsked::Only(Vec::new()));
    let create = Command::CreateCredential(Box::new(create));
    let refused = logins.world.as_bearer(&dave, create).err();
    assert_eq!(refused, Some(Refusal::NotFound("service")));
}

#[test]
fn a_credential_is_not_taken_over_by_who_could_not_make_it() {
    let mut logins = Logins::new();
    logins.world.local(Command::CreateRole {
        name: RoleName::parse("manager").expect("valid"),
        home: resource("acme"),
        actions: vec![ActionPattern::parse("tokens:issue").expect("valid")],
        display: Display::default(),
    });
    logins.world.grant("user:bob", "manager", "acme/**");
    let bob = logins.world.user("user:bob");
    // It permits nothing that he does not hold, but who logs in by it is taken for the account.
    let secret = logins.create(|create| {
        create.scopes = scopes(&["tokens:issue@acme/web"]);
        create.uses = Some(1);
    });
    let id = logins.world.id_of(&secret);
    let fresh = Secret::generate(TokenKind::ClientSecret, &logins.world.entropy);
    let rotate = Command::RotateToken {
        id: Some(id),
        digest: fresh.digest(),
        last4: fresh.last4().to_owned(),
        grace_s: 0,
        expected: None,
    };
    let mut widen = unchanged(id);
    widen.uses_left = Some(None);
    for attempt in [rotate, Command::UpdateToken(Box::new(widen))] {
        let refused = logins.world.as_bearer(&bob, attempt).expect_err("more");
        assert_eq!(missing(&refused), ["deploy:run@acme/web/**"]);
    }
}

#[test]
fn holding_all_that_an_account_holds_does_not_make_its_manager() {
    let mut logins = Logins::new();
    let dave = logins.world.user("user:dave");
    logins.world.grant("user:dave", "deployer", "acme/web/**");
    let (_, create) = logins.wanted(ScopesAsked::All);
    let attempts = LoginMethod::ALL.into_iter().flat_map(|method| {
        let account = name("service:ci");
        let set = Command::SetMethod(Box::new(SetMethod {
            account: account.clone(),
            method,
            settings: LoginSettings::default(),
        }));
        [set, Command::RemoveMethod { account, method }]
    });
    let create = Command::CreateCredential(Box::new(create));
    for attempt in attempts.chain([create]) {
        let refused = logins.world.as_bearer(&dave, attempt).err();
        assert_eq!(refused, Some(Refusal::NotFound("service")));
    }
}

#[test]
fn a_credential_may_end_itself_and_is_told_nothing() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let who = |logins: &Logins, secret: &str| {
        let (caller, now) = (bearer(secret), Now::at(logins.world.now_ms));
        authenticate(&logins.world.state, &caller, now, CallAbout::Itself).map(|_| ())
    };
    assert_eq!(who(&logins, &secret), Err(Refusal::Unauthenticated));
    let end = || Command::RevokeToken {
        target: RevokeTarget::Itself,
        compromised: false,
    };
    let ended = logins.world.run(bearer(&secret), end(), "");
    assert!(matches!(ended, Ok(Outcome::Change { .. })), "{ended:?}");
    assert_eq!(who(&logins, &secret), Err(Refusal::Unauthenticated));
    let again = logins.world.run(bearer(&secret), end(), "").err();
    assert_eq!(again, Some(Refusal::Unauthenticated));
}

/// Registers the same public key each time, by a command that succeeds or not.
fn register(logins: &mut Logins) -> (TokenId, Result<Outcome, Refusal>) {
    register_for(logins, "service:ci")
}

fn register_for(logins: &mut Logins, account: &str) -> (TokenId, Result<Outcome, Refusal>) {
    let key = PublicKey::parse(&std::array::from_fn::<u8, 32, _>(|at| at as u8 + 1));
    let (_, mut create) = logins.wanted(ScopesAsked::All);
    create.account = name(account);
    create.form = CredentialForm::Key(key.expect("a key"));
    let id = create.id;
    let register = Command::CreateCredential(Box::new(create));
    (id, logins.as_admin(register))
}

fn set_key_pair(logins: &mut Logins) {
    set_key_pair_of(logins, "service:ci");
}

fn set_key_pair_of(logins: &mut Logins, account: &str) {
    let set = SetMethod {
        account: name(account),
        method: LoginMethod::KeyPair,
        settings: LoginSettings::default(),
    };
    let set = Command::SetMethod(Box::new(set));
    logins.as_admin(set).expect("set");
}

#[test]
fn a_credential_needs_its_method_and_says_how_to_set_it() {
    let mut logins = Logins::new();
    let (_, refused) = register(&mut logins);
    let refused = refused.expect_err("no method").to_string();
    let verb = "latchkey service login-method set ci key-pair";
    assert!(refused.contains(verb), "{refused}");
    set_key_pair(&mut logins);
    register(&mut logins).1.expect("registered");
}

/// A public key is known to many: registering it tells nothing of where it is registered, and
/// takes nobody's place.
#[test]
fn a_public_key_of_one_account_is_free_for_another() {
    let mut logins = Logins::new();
    set_key_pair(&mut logins);
    logins.world.local(Command::CreatePrincipal {
        name: name("service:squatter"),
        home: resource("acme"),
        display: Display::default(),
    });
    set_key_pair_of(&mut logins, "service:squatter");
    let (id, registered) = register_for(&mut logins, "service:squatter");
    registered.expect("the first");
    register(&mut logins).1.expect("another account's");
    logins.world.local(Command::CreatePrincipal {
        name: name("service:later"),
        home: resource("acme"),
        display: Display::default(),
    });
    set_key_pair_of(&mut logins, "service:later");
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Id(id),
        compromised: false,
    };
    logins.as_admin(revoke).expect("revoked");
    for account in ["service:squatter", "service:ci"] {
        let (_, again) = register_for(&mut logins, account);
        assert!(matches!(again, Err(Refusal::AlreadyExists(_))), "{again:?}");
    }
    // That it was revoked elsewhere is not told either.
    register_for(&mut logins, "service:later")
        .1
        .expect("free there");
}

#[test]
fn a_public_key_that_was_revoked_never_comes_back() {
    let mut logins = Logins::new();
    set_key_pair(&mut logins);
    let forget_all = |logins: &mut Logins| {
        logins.world.now_ms += 1_000;
        for slice in 0..=u8::MAX {
            let forget = Command::Forget {
                before_ms: logins.world.now_ms,
                slice,
            };
            let forgotten = logins.world.run(Caller::System, forget, "");
            forgotten.expect("the server may");
        }
    };
    let (id, registered) = register(&mut logins);
    registered.expect("new");
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Id(id),
        compromised: false,
    };
    logins.as_admin(revoke).expect("revoked");
    forget_all(&mut logins);
    let (_, again) = register(&mut logins);
    assert!(matches!(again, Err(Refusal::AlreadyExists(_))), "{again:?}");
    // Nor of an account that comes after this one.
    let account = name("service:ci");
    let delete = Command::DeletePrincipal(account.clone());
    logins.as_admin(delete).expect("deleted");
    forget_all(&mut logins);
    logins.world.local(Command::CreatePrincipal {
        name: account,
        home: resource("acme"),
        display: Display::default(),
    });
    set_key_pair(&mut logins);
    let (_, again) = register(&mut logins);
    assert!(matches!(again, Err(Refusal::AlreadyExists(_))), "{again:?}");
}

#[test]
fn a_credential_may_be_for_a_workload_alone() {
    let mut logins = Logins::new();
    let workload = Workload::parse("spiffe://acme/ci");
    let secret = logins.create(|create| create.workload = workload.clone());
    let mut update = unchanged(logins.world.id_of(&secret));
    update.workload = Some(workload);
    let same = logins.as_admin(Command::UpdateToken(Box::new(update.clone())));
    assert!(matches!(same, Ok(Outcome::Already)), "{same:?}");
    update.workload = Some(None);
    let freed = logins.as_admin(Command::UpdateToken(Box::new(update)));
    assert!(matches!(freed, Ok(Outcome::Change { .. })), "{freed:?}");
}

#[test]
fn a_registered_key_has_no_secret_to_rotate() {
    let mut logins = Logins::new();
    set_key_pair(&mut logins);
    let (id, registered) = register(&mut logins);
    registered.expect("new");
    let refused = logins.as_admin(Command::RotateToken {
        id: Some(id),
        digest: Digest::of("anything"),
        last4: String::new(),
        grace_s: 0,
        expected: None,
    });
    assert!(
        matches!(refused, Err(Refusal::Precondition(_))),
        "{refused:?}"
    );
}

#[test]
fn uses_that_are_set_later_end_what_is_not_counted() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let counted = LoginSettings {
        uses: Some(5),
        ..LoginSettings::default()
    };
    logins.set(counted).expect("set");
    assert_eq!(logins.check(&claims), Reason::UsesExhausted);
}

#[test]
fn uses_that_are_set_later_end_what_is_stored_and_not_counted() {
    // So long that tokens are stored.
    let long = LoginSettings {
        ttl_s: 60 * 86_400,
        ..LoginSettings::default()
    };
    let mut logins = Logins::with(long.clone());
    let secret = logins.create(|_| {});
    let (token, login) = login_of(&logins, &secret);
    logins.world.run(Caller::System, login, "").expect("stored");
    let narrower = logins.exchange(&bearer(&token), &child()).expect("a child");
    let reason =
        |logins: &Logins, token: &str| logins.world.check(token, "deploy:run", "acme/web/prod");
    assert_eq!(reason(&logins, &token), Reason::Allowed);
    let counted = LoginSettings {
        uses: Some(5),
        ..long
    };
    logins.set(counted).expect("set");
    assert_eq!(reason(&logins, &token), Reason::UsesExhausted);
    assert_eq!(logins.check(&narrower), Reason::UsesExhausted);
    // What is counted from its login on is good.
    let (token, login) = login_of(&logins, &secret);
    logins.world.run(Caller::System, login, "").expect("stored");
    assert_eq!(reason(&logins, &token), Reason::Allowed);
}

/// Whoever has one token of it, a pipeline or an agent, must not end all the others.
#[test]
fn a_service_account_does_not_end_its_own_tokens_unless_it_may() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let account = || name("service:ci");
    let sealed = Logins::caller(&claims);
    for request in [
        CutOffRequest::Subject(account()),
        CutOffRequest::Sessions(account()),
        CutOffRequest::IssuedByPrincipal(account()),
    ] {
        let refused = logins
            .world
            .run(sealed.clone(), Command::RevokeAll(request), "because");
        let hidden = matches!(
            refused,
            Err(Refusal::NotFound(_) | Refusal::NotPermitted(_))
        );
        assert!(hidden, "{refused:?}");
    }
    assert!(logins.login(&secret).is_ok(), "the credential stays");
    assert_eq!(logins.check(&claims), Reason::Allowed);
}

#[test]
fn a_longest_life_bounds_a_period_of_stored_tokens_too() {
    // So long that tokens are stored.
    const PERIOD_S: u32 = 31 * 86_400;
    let mut logins = Logins::with(LoginSettings {
        period_s: Some(PERIOD_S),
        ..LoginSettings::default()
    });
    logins.world.lifetimes.max_s[TokenKind::Access as usize - 1] = Some(PERIOD_S + 5_000);
    let secret = logins.create(|_| {});
    let (token, login) = login_of(&logins, &secret);
    logins.world.run(Caller::System, login, "").expect("stored");
    let id = logins.world.id_of(&token);
    logins.world.now_ms += 30_000_000;
    let renew = Command::RenewToken {
        id: Some(id),
        ttl_s: None,
    };
    logins.as_admin(renew).expect("renewed");
    let record = logins.world.state.token(id).expect("there");
    let end_ms = T0 + u64::from(PERIOD_S + 5_000) * 1_000;
    assert_eq!(record.expires_ms, Some(end_ms));
    let mut narrowing = unchanged(id);
    narrowing.networks = Networks::parse(&["10.0.0.0/8"]);
    let narrowed = logins.as_admin(Command::UpdateToken(Box::new(narrowing)));
    narrowed.expect("whatever else it has");
}

#[test]
fn a_credential_whose_method_is_gone_is_neither_rotated_nor_widened() {
    let mut logins = Logins::new();
    let secret = logins.create(|create| create.uses = Some(5));
    let id = logins.world.id_of(&secret);
    let rotate = |logins: &mut Logins, id| {
        let new = Secret::generate(TokenKind::ClientSecret, &logins.world.entropy);
        logins.as_admin(Command::RotateToken {
            id: Some(id),
            digest: new.digest(),
            last4: new.last4().to_owned(),
            grace_s: 0,
            expected: None,
        })
    };
    let uses = |logins: &mut Logins, left| {
        let mut update = unchanged(id);
        update.uses_left = Some(Some(left));
        logins.as_admin(Command::UpdateToken(Box::new(update)))
    };
    let remove = Command::RemoveMethod {
        account: name("service:ci"),
        method: LoginMethod::UniversalAuth,
    };
    logins.as_admin(remove).expect("removed");
    let is_refused = |answer: Result<Outcome, Refusal>| {
        assert!(
            matches!(answer, Err(Refusal::Precondition(_))),
            "{answer:?}"
        );
    };
    is_refused(rotate(&mut logins, id));
    is_refused(uses(&mut logins, 9));
    uses(&mut logins, 4).expect("narrower");
    // Set again, the method is another one.
    logins.set(LoginSettings::default()).expect("set again");
    is_refused(rotate(&mut logins, id));
    is_refused(uses(&mut logins, 9));
    let fresh = logins.create(|_| {});
    let fresh = logins.world.id_of(&fresh);
    rotate(&mut logins, fresh).expect("of this method");
}

#[test]
fn who_may_revoke_a_credential_may_end_what_it_gave_and_no_other() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let id = logins.world.id_of(&secret);
    let claims = logins.login(&secret).expect("good");
    let end = |id| Command::RevokeAll(CutOffRequest::IssuedByCredential(id));
    // Bob keeps tokens of `acme/web`, the account lies at `acme`: to him it is as unknown as one
    // that is not there.
    let bob = logins.world.user("user:bob");
    for id in [id, TokenId::from_u128(7)] {
        let refused = logins.world.as_bearer(&bob, end(id)).expect_err("bob");
        assert_eq!(missing(&refused), ["tokens:revoke@**"]);
    }
    assert_eq!(logins.check(&claims), Reason::Allowed);
    logins.world.grant("user:bob", "keeper", "acme");
    let other = logins.world.user("user:carol");
    let other = logins.world.id_of(&other);
    let refused = logins
        .world
        .as_bearer(&bob, end(other))
        .expect_err("no credential");
    assert_eq!(missing(&refused), ["tokens:revoke@**"]);
    logins.world.as_bearer(&bob, end(id)).expect("he keeps it");
    // The same, in other words.
    let issued = Command::RevokeAll(CutOffRequest::IssuedByToken(id));
    logins.world.as_bearer(&bob, issued).expect("he keeps it");
    assert_eq!(logins.check(&claims), Reason::Revoked);
    assert!(logins.login(&secret).is_ok(), "the credential stays");
}
