//! Sessions over State alone: exchange, callers that are sealed, seal keys.
//!
//! In the world of `login_tests`, where `service:ci` deploys in `acme/web`.

use std::sync::Arc;

use super::super::check::{SeenScopes, check_sealed};
use super::login_tests::*;
use super::tests::*;
use super::*;
use crate::domain::limits::{Audience, Networks};
use crate::domain::login::LoginSettings;
use crate::domain::seal::SEALED_MS_MAX;
use crate::domain::seal::claims::{Claims, Sealed};
use crate::domain::seal::key::KeyId;

#[test]
fn an_exchange_gives_no_more_and_ends_with_its_parent() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let caller = Logins::caller(&claims);
    let mut asked = child();
    asked.scopes = only(&["deploy:run@acme/web/prod"]);
    asked.audience = Audience::parse("web");
    asked.ttl_s = Some(10 * 3_600);
    let narrow = logins.exchange(&caller, &asked).expect("a child");
    assert_eq!(narrow.expires_ms, claims.expires_ms, "never longer");
    assert_eq!(logins.check(&narrow), Reason::Allowed);
    let dev = logins.check_from(&narrow, "deploy:run@acme/web/dev", "10.0.0.1");
    assert_eq!(dev, Reason::NotPermitted);
    // A child of it inherits what it does not narrow, and gets no wider.
    let narrower = Logins::caller(&narrow);
    let same = logins.exchange(&narrower, &child()).expect("a grandchild");
    assert_eq!(
        (&same.scopes, &same.audience),
        (&narrow.scopes, &narrow.audience)
    );
    assert_eq!(same.ancestors, [narrow.id.session(), claims.id.session()]);
    let mut wider = child();
    wider.scopes = only(&["deploy:run@acme/web/**"]);
    let refused = logins.exchange(&narrower, &wider).expect_err("wider");
    assert_eq!(missing(&refused), ["deploy:run@acme/web/**"]);
    let mut other = child();
    other.audience = Audience::parse("api");
    let refused = logins.exchange(&narrower, &other).expect_err("another's");
    assert_eq!(field(&refused), "audience");
    // It is not renewed but exchanged anew, and nothing is derived from it that has a row.
    assert!(matches!(
        logins.renew(&narrow, None),
        Err(Refusal::Precondition(_))
    ));
    let (_, mut issue) = logins
        .world
        .asked(TokenKind::Access, None, ScopesAsked::All);
    issue.derive = true;
    let derive = Command::IssueToken(Box::new(issue));
    assert!(matches!(
        logins.world.run(caller.clone(), derive, "because"),
        Err(Refusal::Precondition(_))
    ));
    // Eight deep, and no deeper.
    let mut deep = claims;
    for _ in 0..7 {
        deep = logins
            .exchange(&Logins::caller(&deep), &child())
            .expect("so deep");
        assert_eq!(logins.check(&deep), Reason::Allowed);
    }
    let deeper = logins.exchange(&Logins::caller(&deep), &child());
    assert!(matches!(deeper, Err(Refusal::Limit(_))), "{deeper:?}");
}

#[test]
fn a_stored_token_is_exchanged_and_its_child_ends_with_it() {
    let mut logins = Logins::new();
    let carol = logins.world.user("user:carol");
    let claims = logins.exchange(&bearer(&carol), &child()).expect("a child");
    assert_eq!(claims.expires_ms, T0 + 900_000);
    assert_eq!(logins.check(&claims), Reason::Allowed);
    // Groups are not frozen in it.
    logins.world.local(Command::RemoveMember {
        team: name("team:platform"),
        member: name("user:carol"),
        cut_off_tokens: false,
    });
    assert_eq!(logins.check(&claims), Reason::NotPermitted);
    let id = logins.world.id_of(&carol);
    logins.world.local(Command::AddMember {
        team: name("team:platform"),
        member: name("user:carol"),
    });
    assert_eq!(logins.check(&claims), Reason::Allowed);
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Id(id),
        compromised: false,
    };
    logins.as_admin(revoke).expect("revoked");
    assert_eq!(logins.check(&claims), Reason::Revoked);
    // One with a number of uses has no children.
    let (secret, mut issue) =
        logins
            .world
            .asked(TokenKind::User, Some("user:dave"), ScopesAsked::All);
    issue.uses = Some(3);
    let dave = logins
        .world
        .issue(Caller::Local, secret, issue)
        .expect("set up");
    let refused = logins.exchange(&bearer(&dave), &child());
    assert!(
        matches!(refused, Err(Refusal::Precondition(_))),
        "{refused:?}"
    );
}

#[test]
fn a_sealed_caller_acts_by_its_power_and_answers_for_what_it_issues() {
    let mut logins = Logins::new();
    logins.world.grant("service:ci", "keeper", "acme");
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let (issued, mut issue) =
        logins
            .world
            .asked(TokenKind::Resource, None, scopes(&["secrets:read@acme"]));
    issue.resource = Some(resource("acme"));
    let caller = Logins::caller(&claims);
    let issued = logins
        .world
        .issue(caller.clone(), issued, issue)
        .expect("permitted");
    let check = |logins: &Logins| logins.world.check(&issued, "secrets:read", "acme");
    assert_eq!(check(&logins), Reason::Allowed);
    let beyond = Command::DeletePrincipal(name("user:bob"));
    let refused = logins.world.run(caller.clone(), beyond, "because");
    assert!(matches!(refused, Err(Refusal::NotFound(_))), "{refused:?}");
    // Revoked as compromised, what its session issued is over as well.
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Itself,
        compromised: true,
    };
    let revoked = logins
        .world
        .run(caller.clone(), revoke, "")
        .expect("its own");
    assert!(matches!(
        revoked,
        Outcome::Change {
            kind: EntryKind::SessionRevoke,
            ..
        }
    ));
    assert_eq!(check(&logins), Reason::Revoked);
    assert_eq!(logins.check(&claims), Reason::Revoked);
    let refused = logins.world.run(caller, Command::Confirm, "").err();
    assert_eq!(refused, Some(Refusal::Unauthenticated));
}

#[test]
fn keys_follow_one_another_and_go_when_their_tokens_have_ended() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let next = KeyId(2);
    let phases = |logins: &Logins| -> Vec<_> {
        let keys = logins.world.state.seal_keys();
        keys.map(|key| (key.id.0, key.phase.name())).collect()
    };
    let refused = logins.as_admin(Command::RetireKey(KEY));
    assert!(matches!(refused, Err(Refusal::Precondition(_))), "it seals");
    let mint = |key| Command::MintBy { key, salt: [9; 16] };
    logins.as_admin(mint(next)).expect("rotated");
    assert_eq!(phases(&logins), [(1, "verifying"), (2, "minting")]);
    assert_eq!(logins.check(&claims), Reason::Allowed);
    let refused = logins.as_admin(Command::RetireKey(KEY));
    assert!(
        matches!(refused, Err(Refusal::Precondition(_))),
        "its tokens live"
    );
    logins.world.now_ms += SEALED_MS_MAX;
    logins.as_admin(Command::RetireKey(KEY)).expect("retired");
    assert_eq!(phases(&logins), [(1, "retired"), (2, "minting")]);
    let refused = logins.as_admin(mint(KEY));
    assert!(
        matches!(refused, Err(Refusal::Precondition(_))),
        "never again"
    );
    logins.as_admin(Command::RevokeKey(next)).expect("revoked");
    assert_eq!(phases(&logins), [(1, "retired"), (2, "revoked")]);
    assert!(logins.world.state.minting_key().is_none());
    let bob = logins.world.user("user:bob");
    let refused = logins
        .world
        .as_bearer(&bob, mint(KeyId(3)))
        .expect_err("bob");
    assert_eq!(missing(&refused), ["keys:write@**"]);
}

#[test]
fn revoked_sessions_are_kept_while_a_token_of_them_could_live() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let revoke = |claims: &Claims| Command::RevokeToken {
        target: RevokeTarget::Sealed(Arc::from(claims.encode(KEY))),
        compromised: false,
    };
    logins.as_admin(revoke(&claims)).expect("revoked");
    let again = logins.as_admin(revoke(&claims)).expect("no error");
    assert!(matches!(again, Outcome::Already));
    for slice in 0..=u8::MAX {
        let forget = Command::Forget {
            before_ms: T0 + SEALED_MS_MAX,
            slice,
        };
        logins.world.now_ms = T0 + SEALED_MS_MAX;
        logins.world.run(Caller::System, forget, "").expect("swept");
    }
    logins.world.now_ms = T0;
    assert_eq!(logins.check(&claims), Reason::Revoked);
    logins.world.now_ms = T0 + 2 * SEALED_MS_MAX;
    let forget = Command::Forget {
        before_ms: logins.world.now_ms,
        slice: 0,
    };
    logins.world.run(Caller::System, forget, "").expect("swept");
    // An id that no session can have is not remembered, and neither is one of nobody's.
    let unknown = |id| Command::RevokeToken {
        target: RevokeTarget::Session(id),
        compromised: false,
    };
    let ahead = claims.id.renewed(logins.world.now_ms + HOUR);
    for id in [TokenId::from_u128(7), ahead] {
        let refused = logins.as_admin(unknown(id)).err();
        assert_eq!(refused, Some(Refusal::NotFound("token")));
    }
    let bob = logins.world.user("user:bob");
    let now = TokenId::generate(logins.world.now_ms, &logins.world.entropy);
    let refused = logins.world.as_bearer(&bob, unknown(now)).expect_err("bob");
    assert_eq!(missing(&refused), ["tokens:revoke@**"]);
}

#[test]
fn what_a_check_tells_of_a_sealed_token() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let mut asked = child();
    asked.scopes = only(&["deploy:run@acme/web/prod", "deploy:run@acme/web/dev"]);
    let narrow = logins
        .exchange(&Logins::caller(&claims), &asked)
        .expect("a child");
    let bytes = narrow.encode(KEY);
    let request = CheckRequest {
        token: "",
        needs: &[],
        context: Context::default(),
        kinds: KindSet::from_kinds([TokenKind::Access]),
    };
    let sealed = Sealed::read(&bytes).expect("claims");
    let decision = check_sealed(&logins.world.state, sealed, &request, Now::at(T0));
    assert!(decision.allowed());
    let seen = decision.token.expect("known");
    assert_eq!(
        (seen.id, seen.kind, seen.subject),
        (narrow.id, TokenKind::Access, "service:ci")
    );
    assert_eq!(seen.stored, logins.world.id_of(&secret));
    assert_eq!(seen.expires_ms, Some(narrow.expires_ms));
    assert!(matches!(seen.scopes, SeenScopes::Sealed(_)));
    let texts: Vec<_> = seen.scopes.texts().collect();
    assert_eq!(
        texts,
        [
            ("deploy:run", "acme/web/dev"),
            ("deploy:run", "acme/web/prod")
        ]
    );
    let other = CheckRequest {
        kinds: KindSet::from_kinds([TokenKind::User]),
        ..request
    };
    let decision = check_sealed(&logins.world.state, sealed, &other, Now::at(T0));
    assert_eq!(decision.reason, Reason::WrongKind);
}

#[test]
fn an_access_token_with_uses_is_stored_and_dies_like_a_sealed_one() {
    let mut logins = Logins::with(LoginSettings {
        uses: Some(2),
        ..LoginSettings::default()
    });
    let secret = logins.create(|_| {});
    let granted = logins.granted(&Logins::asked(&secret)).expect("good");
    assert!(granted.is_stored());
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let (token, login) = login_of(&logins, &secret);
        logins.world.run(Caller::System, login, "").expect("stored");
        tokens.push(token);
    }
    let check =
        |logins: &Logins, token: &str| logins.world.check(token, "deploy:run", "acme/web/prod");
    assert_eq!(check(&logins, &tokens[0]), Reason::Allowed);
    let record = logins.world.state.token(logins.world.id_of(&tokens[0]));
    let record = record.expect("stored");
    assert_eq!(
        (record.kind, record.parent),
        (TokenKind::Access, Some(logins.world.id_of(&secret)),)
    );
    let sessions = Command::RevokeAll(CutOffRequest::Sessions(name("service:ci")));
    logins.as_admin(sessions).expect("cut off");
    assert_eq!(check(&logins, &tokens[0]), Reason::Revoked);
    let (token, login) = login_of(&logins, &secret);
    logins.world.run(Caller::System, login, "").expect("stored");
    assert_eq!(check(&logins, &token), Reason::Allowed, "made after it");
    let shorter = LoginSettings {
        ttl_s: 60,
        ..LoginSettings::default()
    };
    logins.set(shorter).expect("shorter");
    logins.world.now_ms += 60_000;
    assert_eq!(check(&logins, &token), Reason::Expired);
    // Longer than a sealed token may live, it is stored as well.
    logins.world.now_ms = T0;
    let long = LoginSettings {
        ttl_s: 31 * 24 * 3_600,
        ..LoginSettings::default()
    };
    logins.set(long).expect("longer");
    let granted = logins.granted(&Logins::asked(&secret)).expect("good");
    assert!(granted.is_stored());
}

#[test]
fn from_where_a_credential_logs_in_bounds_no_token_that_it_gives() {
    let mut logins = Logins::with(LoginSettings {
        ttl_s: 31 * 24 * 3_600,
        ..LoginSettings::default()
    });
    logins.world.grant("service:ci", "keeper", "acme");
    let secret = logins.create(|create| {
        create.networks = Networks::parse(&["10.0.0.0/8"]).expect("networks");
    });
    let (token, login) = login_of(&logins, &secret);
    logins.world.run(Caller::System, login, "").expect("stored");
    let elsewhere = Networks::parse(&["192.0.2.0/24"]).expect("networks");
    // Exchanged or derived, it is the same.
    let mut asked = child();
    asked.networks = elsewhere.clone();
    logins.exchange(&bearer(&token), &asked).expect("a child");
    let (derived, mut issue) =
        logins
            .world
            .asked(TokenKind::Access, None, scopes(&["deploy:run@acme/web"]));
    issue.derive = true;
    issue.limits.networks = elsewhere;
    let caller = bearer(&token);
    logins.world.issue(caller, derived, issue).expect("derived");
}

#[test]
fn whatever_a_session_issued_or_gave_is_cut_off_by_any_id_of_it() {
    let mut logins = Logins::new();
    logins.world.grant("service:ci", "keeper", "acme");
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let caller = Logins::caller(&claims);
    let narrower = logins.exchange(&caller, &child()).expect("a child");
    let asked = scopes(&["secrets:read@acme"]);
    let (issued, mut issue) = logins.world.asked(TokenKind::Resource, None, asked);
    issue.resource = Some(resource("acme"));
    let issued = logins
        .world
        .issue(caller, issued, issue)
        .expect("permitted");
    let cut_off = CutOffRequest::IssuedByToken(claims.id);
    logins
        .as_admin(Command::RevokeAll(cut_off))
        .expect("cut off");
    let reason = logins.world.check(&issued, "secrets:read", "acme");
    assert_eq!(reason, Reason::Revoked);
    assert_eq!(logins.check(&narrower), Reason::Revoked);
    assert_eq!(
        logins.check(&claims),
        Reason::Allowed,
        "the token itself stays"
    );
}

#[test]
fn an_access_token_is_revoked_by_its_id_whether_it_is_stored_or_sealed() {
    let mut logins = Logins::with(LoginSettings {
        uses: Some(5),
        ..LoginSettings::default()
    });
    let secret = logins.create(|_| {});
    let (token, login) = login_of(&logins, &secret);
    logins.world.run(Caller::System, login, "").expect("stored");
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Session(logins.world.id_of(&token)),
        compromised: false,
    };
    logins.as_admin(revoke).expect("revoked");
    let reason = logins.world.check(&token, "deploy:run", "acme/web/prod");
    assert_eq!(reason, Reason::Revoked);
}

#[test]
fn only_a_login_begins_a_session() {
    // So long a life is stored, and exchanged for something sealed and short.
    let mut logins = Logins::with(LoginSettings {
        ttl_s: 31 * 24 * 3_600,
        max_ttl_s: Some(60 * 24 * 3_600),
        ..LoginSettings::default()
    });
    let secret = logins.create(|_| {});
    let (token, login) = login_of(&logins, &secret);
    logins.world.run(Caller::System, login, "").expect("stored");
    let narrower = logins.exchange(&bearer(&token), &child()).expect("a child");
    let refused = logins.renew(&narrower, None).expect_err("exchanged");
    assert!(matches!(refused, Refusal::Precondition(_)), "{refused:?}");
    // Revoked, it is remembered for as long as it could live, and not at all once it is over.
    let revoke = |claims: &Claims| Command::RevokeToken {
        target: RevokeTarget::Sealed(claims.encode(KEY).into()),
        compromised: false,
    };
    logins.as_admin(revoke(&narrower)).expect("revoked");
    let Some(Change::RevokeSession {
        account, until_ms, ..
    }) = logins
        .world
        .log
        .last()
        .map(|logged| logged.entry.change.clone())
    else {
        panic!("a session is revoked");
    };
    let of = account.and_then(|id| logins.world.state.principal(id));
    assert_eq!(of.map(|of| of.name.clone()), Some(name("service:ci")));
    assert!(until_ms < narrower.expires_ms + HOUR);
    let other = logins.exchange(&bearer(&token), &child()).expect("a child");
    logins.world.now_ms = other.expires_ms;
    let over = logins.as_admin(revoke(&other)).expect("no error");
    assert!(matches!(over, Outcome::Already), "{over:?}");
}

#[test]
fn a_session_of_any_age_is_revoked_by_its_first_id() {
    let mut logins = Logins::with(LoginSettings {
        period_s: Some(3_600),
        ..LoginSettings::default()
    });
    let secret = logins.create(|_| {});
    let first = logins.login(&secret).expect("good");
    let mut claims = first.clone();
    for _ in 0..1_000 {
        logins.world.now_ms += HOUR - 1;
        claims = logins.renew(&claims, None).expect("for ever").0;
    }
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Session(first.id),
        compromised: false,
    };
    logins.as_admin(revoke).expect("revoked");
    assert_eq!(logins.check(&claims), Reason::Revoked);
}

#[test]
fn whoever_is_behind_a_token_cannot_know_whether_it_is_revoked() {
    let mut logins = Logins::new();
    let before = logins.world.state.clone();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    assert_eq!(logins.check(&claims), Reason::Allowed);
    let now = std::mem::replace(&mut logins.world.state, before);
    assert_eq!(
        logins.check(&claims),
        Reason::Stale,
        "its credential may come"
    );
    logins.world.state = now;
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Id(claims.origin),
        compromised: false,
    };
    logins.as_admin(revoke).expect("revoked");
    assert_eq!(logins.check(&claims), Reason::Revoked);
}
