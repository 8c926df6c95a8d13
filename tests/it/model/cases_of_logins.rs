//! Literal stories of logins: what the random ones reach too seldom.
//!
//! On State and the oracle at once; every step compares them.

use std::net::IpAddr;

use latchkey::domain::change::Display;
use latchkey::domain::limits::Networks;
use latchkey::domain::login::{LoginMethod, LoginSettings};
use latchkey::domain::scopes::Scopes;
use latchkey::domain::seal::key::KeyId;
use latchkey::domain::token::{Secret, TokenId, TokenKind};
use latchkey::state::decide::{
    Caller, Command, CreateCredential, CredentialForm, Login, RevokeTarget, ScopesAsked, SetMethod,
};
use latchkey::state::login::{ExchangeAsked, LoginAsked, Shown};

use super::T0;
use super::commands::{create_grant, create_principal, create_role, envelope, name, plain_issue};
use super::compare::entropy;
use super::direct::{Pair, Step};
use super::oracle::{Asked, Place};
use super::sealed::{LoginStep, Shower};
use super::story::only;

fn here() -> Option<IpAddr> {
    "10.1.2.3".parse().ok()
}

fn place() -> Place {
    let (address, peer) = (here(), None);
    Place { address, peer }
}

/// State and oracle with a service account that has a client secret, from these networks.
fn with_secret(settings: LoginSettings, networks: &[&str]) -> (Pair, Secret) {
    let mut pair = Pair::new();
    let secret = Secret::generate(TokenKind::ClientSecret, &entropy(1));
    let create = CreateCredential {
        id: TokenId::generate(T0, &entropy(2)),
        form: CredentialForm::Secret(secret.digest()),
        account: name("service:s1"),
        scopes: ScopesAsked::All,
        ttl_s: None,
        not_before_ms: None,
        uses: None,
        networks: Networks::parse(networks).expect("networks"),
        workload: None,
        display: Display::default(),
    };
    for command in [
        Command::RaiseFormat(2),
        Command::MintBy {
            key: KeyId(1),
            salt: [7; 16],
        },
        create_principal("service:s1", "a"),
        create_role("keeper", "a", &["s:read", "tokens:*"]),
        create_grant("service:s1", "keeper", "a/**"),
        universal(settings),
        Command::CreateCredential(Box::new(create)),
    ] {
        both(&mut pair, Caller::Local, command);
    }
    (pair, secret)
}

fn universal(settings: LoginSettings) -> Command {
    Command::SetMethod(Box::new(SetMethod {
        account: name("service:s1"),
        method: LoginMethod::UniversalAuth,
        settings,
    }))
}

fn set_universal(pair: &mut Pair, settings: LoginSettings) {
    both(pair, Caller::Local, universal(settings));
}

/// Settings whose tokens live longer than anything sealed.
fn stored() -> LoginSettings {
    LoginSettings {
        ttl_s: 3_000_000,
        ..LoginSettings::default()
    }
}

/// A login whose token is stored: the key of its secret.
fn enter_stored(pair: &mut Pair, secret: &Secret) -> u128 {
    let access = Secret::generate(TokenKind::Access, &entropy(3));
    let login = Login {
        asked: asked(secret),
        id: TokenId::generate(T0, &entropy(4)),
        digest: access.digest(),
        last4: String::new(),
    };
    both(pair, Caller::System, Command::Login(Box::new(login)));
    access.digest().key()
}

/// A token that is derived from a stored access token.
fn derive(pair: &mut Pair, key: u128, networks: Networks) -> TokenId {
    let derived = Secret::generate(TokenKind::Access, &entropy(6));
    let id = TokenId::generate(T0, &entropy(7));
    let mut issue = plain_issue(id, derived.digest(), TokenKind::Access);
    issue.derive = true;
    issue.scopes = only(&["s:read@a"]);
    issue.limits.networks = networks;
    let derive = Command::IssueToken(Box::new(issue));
    both(pair, place().bearer(key), derive);
    id
}

/// Carries a command out, which must be a change.
#[track_caller]
fn both(pair: &mut Pair, caller: Caller, command: Command) {
    let before = pair.state.head();
    let step = Step::Command(T0, envelope(caller, command));
    pair.step(&step, &[]).expect("the same");
    assert_ne!(pair.state.head(), before, "a change");
}

fn asked(secret: &Secret) -> LoginAsked {
    LoginAsked {
        account: name("service:s1"),
        shown: Shown::Secret(secret.digest().key()),
        client_ip: here(),
        peer: None,
        ttl_s: None,
        scopes: Scopes::All,
        audience: None,
    }
}

fn child() -> ExchangeAsked {
    ExchangeAsked {
        scopes: Scopes::All,
        ttl_s: None,
        networks: Networks::default(),
        audience: None,
        workload: None,
    }
}

#[test]
fn an_exchange_is_up_to_eight_deep() {
    let (mut pair, secret) = with_secret(LoginSettings::default(), &[]);
    let id = |number: u64| TokenId::generate(T0, &entropy(100 + number));
    let enter = LoginStep::Enter(Box::new(asked(&secret)), id(0));
    pair.login_step(T0, &enter).expect("the same");
    for depth in 1..10 {
        let shown = Shower::Sealed(id(depth - 1));
        let step = LoginStep::Exchange(shown, place(), Box::new(child()), id(depth));
        pair.login_step(T0, &step).expect("the same");
        // The credential is above all of them.
        let given = pair.sealed.len() as u64 == depth + 1;
        assert_eq!(given, depth < 8, "{depth}");
    }
}

#[test]
fn a_key_is_retired_when_what_it_sealed_has_ended() {
    let (mut pair, secret) = with_secret(LoginSettings::default(), &[]);
    let id = TokenId::generate(T0, &entropy(100));
    let enter = LoginStep::Enter(Box::new(asked(&secret)), id);
    pair.login_step(T0, &enter).expect("the same");
    let next = Command::MintBy {
        key: KeyId(2),
        salt: [8; 16],
    };
    both(&mut pair, Caller::Local, next);
    let month = 30 * 24 * 60 * 60 * 1_000;
    for (at, retired) in [(T0, false), (T0 + month - 1, false), (T0 + month, true)] {
        let before = pair.state.head();
        let retire = Command::RetireKey(KeyId(1));
        let step = Step::Command(at, envelope(Caller::Local, retire));
        pair.step(&step, &[]).expect("the same");
        assert_eq!(pair.state.head() != before, retired, "{at}");
        let check = LoginStep::Check(id, Asked::default());
        pair.login_step(T0, &check).expect("the same");
    }
}

#[test]
fn from_where_a_credential_logs_in_bounds_no_token_that_it_gives() {
    let (mut pair, secret) = with_secret(stored(), &["10.0.0.0/8"]);
    let key = enter_stored(&mut pair, &secret);
    // Wider than the credential's networks: those are of logins alone.
    let elsewhere = Networks::parse(&["192.0.2.0/24"]).expect("networks");
    let exchanged = ExchangeAsked {
        networks: elsewhere.clone(),
        ..child()
    };
    let id = TokenId::generate(T0, &entropy(5));
    let step = LoginStep::Exchange(Shower::Stored(key), place(), Box::new(exchanged), id);
    pair.login_step(T0, &step).expect("the same");
    assert_eq!(pair.sealed.len(), 1, "a child");
    derive(&mut pair, key, elsewhere);
}

#[test]
fn a_derived_token_ends_as_the_settings_of_now_end_its_parent() {
    let (mut pair, secret) = with_secret(stored(), &[]);
    let key = enter_stored(&mut pair, &secret);
    let ttl_s = 3_600;
    set_universal(&mut pair, LoginSettings { ttl_s, ..stored() });
    let id = derive(&mut pair, key, Networks::default());
    let derived = pair.state.token(id).expect("there");
    assert_eq!(derived.expires_ms, Some(T0 + 3_600_000));
}

#[test]
fn the_end_of_a_session_is_kept_a_day_longer_than_its_tokens_could_live() {
    let (mut pair, _) = with_secret(LoginSettings::default(), &[]);
    let session = TokenId::generate(T0, &entropy(100));
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Session(session),
        compromised: false,
    };
    both(&mut pair, Caller::Local, revoke);
    let kept_ms = 31 * 24 * 60 * 60 * 1_000;
    for (at, forgotten) in [(T0 + kept_ms, false), (T0 + kept_ms + 1, true)] {
        let before = pair.state.head();
        let forget = Command::Forget {
            before_ms: at,
            slice: 0,
        };
        let step = Step::Command(at, envelope(Caller::System, forget));
        pair.step(&step, &[]).expect("the same");
        assert_eq!(pair.state.head() != before, forgotten, "{at}");
    }
}

#[test]
fn a_session_keeps_the_end_that_it_began_with() {
    let settings = LoginSettings {
        ttl_s: 600,
        max_ttl_s: Some(1_200),
        ..LoginSettings::default()
    };
    let (mut pair, secret) = with_secret(settings.clone(), &[]);
    let id = TokenId::generate(T0, &entropy(100));
    let enter = LoginStep::Enter(Box::new(asked(&secret)), id);
    pair.login_step(T0, &enter).expect("the same");
    let max_ttl_s = Some(7_200);
    set_universal(
        &mut pair,
        LoginSettings {
            max_ttl_s,
            ..settings
        },
    );
    let mut last = id;
    for (after_s, ends_s) in [(500, 1_100), (1_000, 1_200)] {
        let now = T0 + after_s * 1_000;
        let renew = LoginStep::Renew(last, place(), None);
        pair.login_step(now, &renew).expect("the same");
        last = last.renewed(now);
        let renewed = pair.oracle.sealed(last).expect("renewed");
        assert_eq!(renewed.expires, Some(T0 + ends_s * 1_000));
    }
}
