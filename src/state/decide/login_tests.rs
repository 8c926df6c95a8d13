//! Logins over State alone: what they give, and everything that ends it.
//!
//! Sealed tokens are claims here: that nobody else makes any is the seal's promise. Exchange and
//! seal keys are in `session_tests`, the boundary is in `credential_tests`.

use super::super::check::check_sealed;
use super::super::login::{ExchangeAsked, LoginAsked, LoginRefused, Shown, exchange, grant, renew};
use super::tests::*;
use super::*;
use crate::domain::change::Display;
use crate::domain::format::FORMAT_LOGINS;
use crate::domain::limits::Networks;
use crate::domain::login::{LoginCause, LoginMethod, LoginSettings};
use crate::domain::scopes::{PermissionSet, Scopes};
use crate::domain::seal::claims::{Claims, Sealed};
use crate::domain::seal::key::KeyId;
use crate::domain::token::Secret;

pub(super) const KEY: KeyId = KeyId(1);
pub(super) const HOUR: u64 = 60 * 60 * 1_000;

/// A world in which `service:ci` deploys in `acme/web`, and logs in.
pub(super) struct Logins {
    pub(super) world: World,
    pub(super) admin: String,
}

impl Logins {
    pub(super) fn new() -> Self {
        Self::with(LoginSettings {
            max_ttl_s: Some(3 * 3_600),
            ..LoginSettings::default()
        })
    }

    pub(super) fn with(settings: LoginSettings) -> Self {
        let mut world = World::new();
        world.local(Command::RaiseFormat(FORMAT_LOGINS));
        world.grant("service:ci", "deployer", "acme/web/**");
        world.local(Command::MintBy {
            key: KEY,
            salt: [7; 16],
        });
        let admin = world.user("user:alice");
        let mut logins = Self { world, admin };
        logins.set(settings).expect("set");
        logins
    }

    pub(super) fn as_admin(&mut self, command: Command) -> Result<Outcome, Refusal> {
        let admin = self.admin.clone();
        self.world.as_bearer(&admin, command)
    }

    pub(super) fn set(&mut self, settings: LoginSettings) -> Result<Outcome, Refusal> {
        self.as_admin(Command::SetMethod(Box::new(SetMethod {
            account: name("service:ci"),
            method: LoginMethod::UniversalAuth,
            settings,
        })))
    }

    pub(super) fn wanted(&self, scopes: ScopesAsked) -> (String, CreateCredential) {
        let secret = Secret::generate(TokenKind::ClientSecret, &self.world.entropy);
        let create = CreateCredential {
            id: TokenId::generate(self.world.now_ms, &self.world.entropy),
            form: CredentialForm::Secret(secret.digest()),
            account: name("service:ci"),
            scopes,
            ttl_s: None,
            not_before_ms: None,
            uses: None,
            networks: Networks::default(),
            workload: None,
            display: Display::default(),
        };
        (secret.reveal().to_owned(), create)
    }

    pub(super) fn create(&mut self, edit: impl FnOnce(&mut CreateCredential)) -> String {
        let (secret, mut create) = self.wanted(ScopesAsked::All);
        edit(&mut create);
        let created = self.as_admin(Command::CreateCredential(Box::new(create)));
        created.expect("created");
        secret
    }

    pub(super) fn asked(secret: &str) -> LoginAsked {
        LoginAsked {
            account: name("service:ci"),
            shown: Shown::Secret(crate::domain::token::Digest::of(secret).key()),
            client_ip: "10.0.0.1".parse().ok(),
            peer: None,
            ttl_s: None,
            scopes: Scopes::All,
            audience: None,
        }
    }

    pub(super) fn granted(
        &self,
        asked: &LoginAsked,
    ) -> Result<super::super::login::Granted, LoginRefused> {
        let (now, lifetimes) = (Now::at(self.world.now_ms), self.world.lifetimes);
        grant(&self.world.state, asked, now, lifetimes)
    }

    pub(super) fn login(&self, secret: &str) -> Result<Claims, LoginRefused> {
        let granted = self.granted(&Self::asked(secret))?;
        assert!(!granted.is_stored());
        Ok(Claims {
            id: TokenId::generate(self.world.now_ms, &self.world.entropy),
            ..granted.claims
        })
    }

    pub(super) fn check_from(&self, claims: &Claims, need: &str, from: &str) -> Reason {
        let bytes = claims.encode(KEY);
        let sealed = Sealed::read(&bytes).expect("claims");
        let (action, on) = need.split_once('@').expect("both");
        let needs = [Need::parse(action, on).expect("need")];
        let request = CheckRequest {
            token: "",
            needs: &needs,
            context: Context {
                client_ip: from.parse().ok(),
                audience: Some("web"),
                workload: None,
            },
            kinds: KindSet::ALL,
        };
        let now = Now::at(self.world.now_ms);
        check_sealed(&self.world.state, sealed, &request, now).reason
    }

    pub(super) fn check(&self, claims: &Claims) -> Reason {
        self.check_from(claims, "deploy:run@acme/web/prod", "10.0.0.1")
    }

    pub(super) fn caller(claims: &Claims) -> Caller {
        Caller::Sealed {
            claims: claims.encode(KEY).into(),
            client_ip: "10.0.0.1".parse().ok(),
            peer: None,
        }
    }

    pub(super) fn renew(
        &self,
        claims: &Claims,
        ttl_s: Option<u32>,
    ) -> Result<(Claims, bool), Refusal> {
        let (now, lifetimes) = (Now::at(self.world.now_ms), self.world.lifetimes);
        renew(
            &self.world.state,
            &Self::caller(claims),
            ttl_s,
            now,
            lifetimes,
        )
    }

    pub(super) fn exchange(
        &self,
        caller: &Caller,
        asked: &ExchangeAsked,
    ) -> Result<Claims, Refusal> {
        let (now, lifetimes) = (Now::at(self.world.now_ms), self.world.lifetimes);
        let claims = exchange(&self.world.state, caller, asked, now, lifetimes)?;
        Ok(Claims {
            id: TokenId::generate(self.world.now_ms, &self.world.entropy),
            ..claims
        })
    }
}

pub(super) fn child() -> ExchangeAsked {
    ExchangeAsked {
        scopes: Scopes::All,
        ttl_s: None,
        networks: Networks::default(),
        audience: None,
        workload: None,
    }
}

pub(super) fn only(texts: &[&str]) -> Scopes {
    let permissions = texts.iter().map(|text| {
        let (action, on) = text.split_once('@').expect("both");
        Permission::parse(action, on).expect("valid")
    });
    Scopes::Only(PermissionSet::new(permissions).expect("few"))
}

#[test]
fn a_login_gives_what_the_account_holds_and_no_more() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    assert_eq!(logins.check(&claims), Reason::Allowed);
    let elsewhere = logins.check_from(&claims, "deploy:run@acme/api", "10.0.0.1");
    assert_eq!(elsewhere, Reason::NotPermitted);
    assert_eq!(claims.expires_ms, T0 + HOUR);
    // The credential itself is good for nothing else.
    let reason = logins.world.check(&secret, "deploy:run", "acme/web/prod");
    assert_eq!(reason, Reason::WrongKind);
    let refused = logins.world.as_bearer(&secret, Command::Confirm);
    assert_eq!(refused.expect_err("a credential"), Refusal::Unauthenticated);
    // What the account gets later, what is born from it has as well, and loses with it.
    logins.world.grant("service:ci", "keeper", "acme/api");
    let later = |logins: &Logins| logins.check_from(&claims, "secrets:read@acme/api", "10.0.0.1");
    // But no more than the issuer of the credential held: alice holds everything.
    assert_eq!(later(&logins), Reason::Allowed);
    logins.world.now_ms += HOUR;
    assert_eq!(logins.check(&claims), Reason::Expired);
}

#[test]
fn scopes_of_the_credential_and_of_the_login_narrow() {
    let mut logins = Logins::new();
    let secret = logins.create(|create| create.scopes = scopes(&["deploy:run@acme/web/prod"]));
    let claims = logins.login(&secret).expect("good");
    let at = |logins: &Logins, claims: &Claims, on: &str| {
        logins.check_from(claims, &format!("deploy:run@{on}"), "10.0.0.1")
    };
    assert_eq!(at(&logins, &claims, "acme/web/prod"), Reason::Allowed);
    assert_eq!(at(&logins, &claims, "acme/web/dev"), Reason::NotPermitted);
    let wide = logins.create(|_| {});
    let mut asked = Logins::asked(&wide);
    asked.scopes = only(&["deploy:run@acme/web/dev"]);
    let claims = logins.granted(&asked).expect("good").claims;
    assert_eq!(at(&logins, &claims, "acme/web/dev"), Reason::Allowed);
    assert_eq!(at(&logins, &claims, "acme/web/prod"), Reason::NotPermitted);
    // What is asked for beyond the credential is not given.
    let mut asked = Logins::asked(&secret);
    asked.scopes = only(&["*@**"]);
    let claims = logins.granted(&asked).expect("good").claims;
    assert_eq!(at(&logins, &claims, "acme/web/dev"), Reason::NotPermitted);
}

#[test]
fn a_wrong_credential_is_a_guess_and_a_right_one_that_ended_says_why() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let refused = |logins: &Logins, asked: LoginAsked| logins.granted(&asked).err();
    let other = logins.world.user("user:bob");
    for (shown, account) in [
        ("lkc_nothing", "service:ci"),
        (other.as_str(), "service:ci"),
        (secret.as_str(), "service:other"),
        (secret.as_str(), "user:alice"),
    ] {
        let mut asked = Logins::asked(shown);
        asked.account = name(account);
        assert_eq!(
            refused(&logins, asked),
            Some(LoginRefused::Wrong),
            "{account}"
        );
    }
    let ended = |logins: &Logins, secret: &str| refused(logins, Logins::asked(secret));
    let begins = logins.create(|create| create.not_before_ms = Some(T0 + HOUR));
    let why = Some(LoginRefused::Ended(LoginCause::Credential(
        Reason::NotYetValid,
    )));
    assert_eq!(ended(&logins, &begins), why);
    let short = logins.create(|create| create.ttl_s = Some(60));
    let elsewhere = logins.create(|create| {
        create.networks = Networks::parse(&["192.0.2.0/24"]).expect("valid");
    });
    let why = Some(LoginRefused::Ended(LoginCause::Credential(Reason::Network)));
    assert_eq!(ended(&logins, &elsewhere), why);
    let mut unknown = Logins::asked(&elsewhere);
    unknown.client_ip = None;
    assert_eq!(
        refused(&logins, unknown),
        why,
        "an unknown address is outside"
    );
    logins.world.now_ms += 60_000;
    let why = Some(LoginRefused::Ended(LoginCause::Credential(Reason::Expired)));
    assert_eq!(ended(&logins, &short), why);
    let id = logins.world.id_of(&secret);
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Id(id),
        compromised: false,
    };
    logins.as_admin(revoke).expect("revoked");
    let why = Some(LoginRefused::Ended(LoginCause::Credential(Reason::Revoked)));
    assert_eq!(ended(&logins, &secret), why);
}

type End = fn(&mut Logins, &str, &Claims) -> Command;

/// Every way in which what a login gave ends before its time, and whether a new login by the same
/// credential is good then.
const ENDS: [(&str, End, bool); 10] = [
    (
        "the credential",
        |logins, secret, _| Command::RevokeToken {
            target: RevokeTarget::Id(logins.world.id_of(secret)),
            compromised: false,
        },
        false,
    ),
    (
        "the method",
        |_, _, _| Command::RemoveMethod {
            account: name("service:ci"),
            method: LoginMethod::UniversalAuth,
        },
        false,
    ),
    (
        "the account, disabled",
        |_, _, _| Command::SetDisabled {
            name: name("service:ci"),
            disabled: true,
        },
        false,
    ),
    (
        "the account",
        |_, _, _| Command::DeletePrincipal(name("service:ci")),
        false,
    ),
    (
        "all that speaks for it",
        |_, _, _| Command::RevokeAll(CutOffRequest::Subject(name("service:ci"))),
        false,
    ),
    (
        "all its sessions",
        |_, _, _| Command::RevokeAll(CutOffRequest::Sessions(name("service:ci"))),
        true,
    ),
    (
        "what the credential gave",
        |logins, secret, _| {
            let id = logins.world.id_of(secret);
            Command::RevokeAll(CutOffRequest::IssuedByCredential(id))
        },
        true,
    ),
    (
        "the token, shown",
        |_, _, claims| Command::RevokeToken {
            target: RevokeTarget::Sealed(claims.encode(KEY).into()),
            compromised: false,
        },
        true,
    ),
    (
        "the session, by an id of it",
        |logins, _, claims| Command::RevokeToken {
            target: RevokeTarget::Session(claims.id.renewed(logins.world.now_ms)),
            compromised: false,
        },
        true,
    ),
    ("the key", |_, _, _| Command::RevokeKey(KEY), false),
];

#[test]
fn whatever_ends_a_credential_ends_what_was_born_from_it() {
    for (what, end, again) in ENDS {
        let mut logins = Logins::new();
        let secret = logins.create(|_| {});
        let claims = logins.login(&secret).expect("good");
        logins.world.now_ms += 1_000;
        let (renewed, _) = logins.renew(&claims, None).expect("renewable");
        let narrower = logins.exchange(&Logins::caller(&renewed), &child());
        let narrower = narrower.expect("a child");
        for before in [&claims, &renewed, &narrower] {
            assert_eq!(logins.check(before), Reason::Allowed, "{what}");
        }
        let command = end(&mut logins, &secret, &claims);
        logins.as_admin(command).expect(what);
        for after in [&claims, &renewed, &narrower] {
            assert_ne!(logins.check(after), Reason::Allowed, "{what}");
        }
        assert!(logins.renew(&renewed, None).is_err(), "{what}");
        if what == "the key" {
            continue;
        }
        let new = logins.login(&secret);
        let works = new.is_ok_and(|new| logins.check(&new) == Reason::Allowed);
        assert_eq!(works, again, "{what}");
    }
}

#[test]
fn a_method_that_is_set_again_revives_nothing() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let remove = Command::RemoveMethod {
        account: name("service:ci"),
        method: LoginMethod::UniversalAuth,
    };
    logins.as_admin(remove).expect("removed");
    logins.set(LoginSettings::default()).expect("set again");
    assert_eq!(logins.check(&claims), Reason::Revoked);
    assert_eq!(
        logins.login(&secret).err(),
        Some(LoginRefused::Ended(LoginCause::NoMethod))
    );
    let new = logins.create(|_| {});
    let claims = logins.login(&new).expect("good");
    assert_eq!(logins.check(&claims), Reason::Allowed);
    // Other settings are not another method.
    logins.set(LoginSettings::default()).expect("as it is");
    assert_eq!(logins.check(&claims), Reason::Allowed);
}

#[test]
fn settings_hold_for_the_tokens_that_are_there() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    let here = Networks::parse(&["10.0.0.0/8"]).expect("valid");
    let settings = LoginSettings {
        networks: here,
        ..LoginSettings::default()
    };
    logins.set(settings).expect("narrower");
    let need = "deploy:run@acme/web/prod";
    assert_eq!(
        logins.check_from(&claims, need, "10.9.9.9"),
        Reason::Allowed
    );
    assert_eq!(
        logins.check_from(&claims, need, "192.0.2.1"),
        Reason::Network
    );
    assert_eq!(logins.check_from(&claims, need, "unknown"), Reason::Network);
    let settings = LoginSettings {
        ttl_s: 60,
        ..LoginSettings::default()
    };
    logins.world.now_ms += 59_000;
    logins.set(settings).expect("shorter");
    assert_eq!(logins.check(&claims), Reason::Allowed);
    logins.world.now_ms += 1_000;
    assert_eq!(logins.check(&claims), Reason::Expired);
    let settings = LoginSettings {
        ttl_s: 10 * 3_600,
        ..LoginSettings::default()
    };
    logins.set(settings).expect("longer");
    assert_eq!(logins.check(&claims), Reason::Allowed);
    logins.world.now_ms = T0 + HOUR;
    assert_eq!(logins.check(&claims), Reason::Expired, "its own end stays");
}

#[test]
fn a_renewal_is_clipped_at_the_end_of_the_session_and_then_refused() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let mut claims = logins.login(&secret).expect("good");
    let first = claims.clone();
    for round in 1..=5 {
        logins.world.now_ms += HOUR / 2;
        let (renewed, clipped) = logins.renew(&claims, None).expect("in its session");
        assert_eq!(renewed.id.session(), first.id.session());
        assert_ne!(renewed.id, claims.id);
        assert_eq!(renewed.id.created_ms(), logins.world.now_ms);
        assert_eq!(clipped, round == 5);
        claims = renewed;
    }
    assert_eq!(claims.expires_ms, T0 + 3 * HOUR);
    assert_eq!(logins.check(&first), Reason::Expired);
    logins.world.now_ms = T0 + 3 * HOUR - 1;
    assert_eq!(logins.check(&claims), Reason::Allowed);
    let (last, clipped) = logins.renew(&claims, None).expect("a moment more");
    assert!(clipped && last.expires_ms == T0 + 3 * HOUR);
    logins.world.now_ms += 1;
    let refused = logins.renew(&claims, None).expect_err("over");
    assert_eq!(refused, Refusal::Unauthenticated);
}

#[test]
fn a_period_is_renewable_for_ever_and_nothing_is_without_either() {
    let mut logins = Logins::with(LoginSettings {
        period_s: Some(3_600),
        ..LoginSettings::default()
    });
    let secret = logins.create(|_| {});
    let mut claims = logins.login(&secret).expect("good");
    for _ in 0..2_000 {
        logins.world.now_ms += HOUR - 1;
        claims = logins.renew(&claims, None).expect("for ever").0;
    }
    assert_eq!(logins.check(&claims), Reason::Allowed);
    logins
        .set(LoginSettings::default())
        .expect("no period any more");
    assert_eq!(logins.check(&claims), Reason::Expired, "its session is old");
    let claims = logins.login(&secret).expect("good");
    let refused = logins.renew(&claims, None).expect_err("not renewable");
    assert!(matches!(refused, Refusal::Precondition(_)), "{refused:?}");
}

#[test]
fn what_was_born_never_outlives_its_credential() {
    let mut logins = Logins::new();
    let secret = logins.create(|create| create.ttl_s = Some(600));
    let claims = logins.login(&secret).expect("good");
    assert_eq!(claims.expires_ms, T0 + 600_000);
    let (renewed, clipped) = logins.renew(&claims, None).expect("renewable");
    assert!(clipped && renewed.expires_ms == T0 + 600_000);
    // A longest life that is set bounds sessions, periods too.
    let mut logins = Logins::with(LoginSettings {
        period_s: Some(3_600),
        ..LoginSettings::default()
    });
    logins.world.lifetimes.max_s[TokenKind::Access as usize - 1] = Some(5_000);
    let secret = logins.create(|_| {});
    let claims = logins.login(&secret).expect("good");
    logins.world.now_ms += 3_000_000;
    let (renewed, clipped) = logins.renew(&claims, None).expect("renewable");
    assert!(clipped && renewed.expires_ms == T0 + 5_000_000);
}

pub(super) fn login_of(logins: &Logins, secret: &str) -> (String, Command) {
    let token = Secret::generate(TokenKind::Access, &logins.world.entropy);
    let login = Login {
        asked: Logins::asked(secret),
        id: TokenId::generate(logins.world.now_ms, &logins.world.entropy),
        digest: token.digest(),
        last4: token.last4().to_owned(),
    };
    let text = token.reveal().to_owned();
    (text, Command::Login(Box::new(login)))
}

#[test]
fn the_uses_of_a_secret_are_its_logins_and_end_no_session() {
    let mut logins = Logins::new();
    let secret = logins.create(|create| create.uses = Some(2));
    let claims = logins.login(&secret).expect("good");
    for left in [1, 0] {
        let (_, login) = login_of(&logins, &secret);
        let spent = logins.world.run(Caller::System, login, "");
        assert!(matches!(spent, Ok(Outcome::Change { .. })));
        let id = logins.world.id_of(&secret);
        let uses = logins.world.state.token(id).and_then(|record| record.uses);
        assert_eq!(uses.map(|uses| uses.left), Some(left));
    }
    let (_, login) = login_of(&logins, &secret);
    let refused = logins
        .world
        .run(Caller::System, login, "")
        .expect_err("spent");
    assert_eq!(
        refused,
        Refusal::LoginRefused(Some(LoginCause::Credential(Reason::UsesExhausted)))
    );
    assert_eq!(logins.check(&claims), Reason::Allowed, "what it gave lives");
    // Nobody but the server itself carries out logins.
    let (_, login) = login_of(&logins, &secret);
    assert!(matches!(
        logins.as_admin(login),
        Err(Refusal::NotPermitted(_))
    ));
}
