//! Several replicas on one database, as far as logins go: what one seals the others read at once,
//! and what is revoked at one is refused by all.
//!
//! By real processes, each with a way of its own to the database that a test can hold up, and a
//! file of its own with seal keys. Leases are longer than any test, or end while it waits.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use latchkey::proto::v1;
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::Code;
use v1::enforcement::State;
use v1::revoke_all_request::Target as All;
use v1::revoke_token_request::Target;

use super::house::{ACCOUNT, House, REASON};
use crate::fleet::LONG;
use crate::postgres::{Database, database, server};
use crate::program::{Server, fresh};
use crate::proxy::{Flow, Proxy};
use crate::replicas::bootstrap;
use crate::seal_keys::generate;
use crate::wire::{bearer, check};

/// Ends while a test waits for it, and not before on a busy machine.
pub(crate) const SHORT: Duration = Duration::from_secs(10);

/// A database, and what all replicas on it have in common.
pub(crate) struct Site {
    pub(crate) database: Database,
    pub(crate) admin: String,
    pub(crate) dir: TempDir,
}

/// A replica.
pub(crate) struct Member {
    pub(crate) server: Server,
    pub(crate) house: House,
    /// The file with its seal keys.
    pub(crate) keys: PathBuf,
    way: Proxy,
}

impl Site {
    /// With one key for all who come.
    pub(crate) async fn new() -> Self {
        let site = Self {
            database: database().await,
            admin: String::new(),
            dir: fresh(),
        };
        generate(&site.file("all"));
        let admin = tokio::task::block_in_place(|| bootstrap(&site.database));
        Self { admin, ..site }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a replica with the keys that all have.
    pub(crate) async fn member(&self, name: &str, lease: Duration) -> Member {
        let keys = self.file(name);
        // Its mode is copied as well.
        fs::copy(self.file("all"), &keys).expect("copied");
        self.member_with(name, lease, &keys, &[]).await
    }

    /// Starts a replica with keys and settings of its own.
    pub(crate) async fn member_with(
        &self,
        name: &str,
        lease: Duration,
        keys: &Path,
        more: &[&str],
    ) -> Member {
        let way = Proxy::of(server().port).await;
        let port = |port: u16| format!(":{port}/");
        let url = &self.database.url;
        let url = url.replacen(&port(server().port), &port(way.port), 1);
        let settings = [
            format!("lease.length={}ms", lease.as_millis()),
            format!("seal.keys_file={}", keys.display()),
            "seal.poll=100ms".to_owned(),
            "write.confirm_time_max=60s".to_owned(),
            "limits.request_time_max=60s".to_owned(),
            "database.connect_timeout=10s".to_owned(),
        ];
        let mut arguments: Vec<&str> = Vec::new();
        for setting in settings
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
        {
            arguments.extend(["--set", setting]);
        }
        let started = tokio::task::block_in_place(|| Server::replica(&url, name, &arguments));
        let server = started.unwrap_or_else(|said| panic!("{name}: {said}"));
        let house = House::of(&server.address, &self.admin).await;
        Member {
            server,
            house,
            keys: keys.to_owned(),
            way,
        }
    }
}

impl Member {
    /// Cuts it off from the database, as a network does that loses every packet.
    pub(crate) fn partition(&self) {
        self.way.both_ways(Flow::Hold);
    }

    /// Takes the database away from it.
    pub(crate) fn lose_database(&self) {
        self.way.both_ways(Flow::Close);
        self.way.cut();
    }

    /// Ends either.
    pub(crate) fn heal(&self) {
        self.way.both_ways(Flow::Pass);
        self.way.cut();
    }
}

/// Replicas `a` and `b`, and a client secret that both know.
pub(crate) async fn two(lease: Duration) -> (Site, Member, Member, String) {
    let site = Site::new().await;
    let mut a = site.member("a", lease).await;
    let b = site.member("b", lease).await;
    a.house.furnish().await;
    let secret = with_settings(&mut a.house, v1::LoginSettings::default()).await;
    (site, a, b, secret)
}

/// Sets universal auth; a client secret that every replica knows.
pub(crate) async fn with_settings(house: &mut House, settings: v1::LoginSettings) -> String {
    let set = house.set_method(v1::LoginMethodKind::UniversalAuth, settings);
    confirmed(set.await.enforcement);
    known(house, House::wanted()).await
}

/// Makes a client secret that every replica knows.
pub(crate) async fn known(house: &mut House, wanted: v1::CreateClientSecretRequest) -> String {
    let wanted = v1::CreateClientSecretRequest {
        wait_for_replicas: true,
        ..wanted
    };
    let made = house.secret(wanted).await;
    confirmed(made.enforcement);
    made.client_secret
}

#[track_caller]
pub(crate) fn confirmed(told: Option<v1::Enforcement>) {
    let told = told.expect("asked for");
    assert_eq!(told.state(), State::Confirmed, "{told:?}");
}

/// Revokes one token; it is enforced everywhere when this returns.
async fn revoke(house: &mut House, target: Target) {
    let revoke = v1::RevokeTokenRequest {
        target: Some(target),
        reason: REASON.to_owned(),
        ..v1::RevokeTokenRequest::default()
    };
    let revoked = house.tokens.revoke_token(bearer(&house.admin, revoke));
    confirmed(revoked.await.expect("revoked").into_inner().enforcement);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_seals_the_other_reads_at_once_postgres() {
    let (_site, mut a, mut b, secret) = two(LONG).await;
    for _ in 0..10 {
        let token = a.house.login(&secret).await;
        let reason = b.house.may_deploy(&token.access_token).await;
        assert_eq!(reason, v1::Reason::Allowed);
        std::mem::swap(&mut a, &mut b);
    }
    // A credential that the other may not have heard of, used there and here.
    for _ in 0..10 {
        let made = a.house.secret(House::wanted()).await;
        let token = a.house.login(&made.client_secret).await;
        let asked = v1::CheckRequest {
            at_least: token.revision.clone(),
            ..check(&token.access_token, &[("deploy:run", "acme/web/prod")])
        };
        let answer = b.house.checks.check(asked).await.expect("an answer");
        assert_eq!(answer.get_ref().reason(), v1::Reason::Allowed);
        let made = a.house.secret(House::wanted()).await;
        let token = b.house.login(&made.client_secret).await;
        let reason = a.house.may_deploy(&token.access_token).await;
        assert_eq!(reason, v1::Reason::Allowed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_that_spend_nothing_go_on_without_the_database_postgres() {
    let (_site, mut a, mut b, secret) = two(LONG).await;
    let limited = v1::CreateClientSecretRequest {
        uses: Some(2),
        ..House::wanted()
    };
    let limited = known(&mut a.house, limited).await;
    for one in [&mut a, &mut b] {
        one.house.login(&secret).await;
    }
    // One is cut off from the log, and knows the credential.
    b.partition();
    let token = a.house.login(&secret).await;
    let reason = b.house.may_deploy(&token.access_token).await;
    assert_eq!(reason, v1::Reason::Allowed);
    // Then there is no database for anybody, and both hold their leases.
    a.lose_database();
    let of_a = a.house.login(&secret).await;
    let of_b = b.house.login(&secret).await;
    for token in [&of_a, &of_b] {
        for one in [&mut a, &mut b] {
            let reason = one.house.may_deploy(&token.access_token).await;
            assert_eq!(reason, v1::Reason::Allowed);
        }
    }
    let refused = a.house.try_login(&limited).await;
    let refused = refused.expect_err("nothing can be spent");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    // What was asked for in vain may have been lost, and was not given twice.
    a.heal();
    b.heal();
    let mut given = 0;
    loop {
        match a.house.try_login(&limited).await {
            Ok(_) => given += 1,
            Err(status) if status.code() == Code::Unauthenticated => break,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    }
    assert!(given <= 2, "{given} logins of 2");
}

/// One way to end a token that came from a login at `house`.
#[derive(Clone, Copy, Debug)]
enum End {
    Text,
    Session,
    Credential,
    Sessions,
    Subject,
    Disabled,
    Method,
    Key,
}

/// Ends it; confirmed when this returns.
async fn end(
    house: &mut House,
    how: End,
    secret: &v1::CreateClientSecretResponse,
    token: &v1::AccessToken,
) {
    let credential = secret.credential.as_ref().expect("shown");
    match how {
        End::Text => revoke(house, Target::Secret(token.access_token.clone())).await,
        End::Session => revoke(house, Target::AccessTokenId(token.token_id.clone())).await,
        End::Credential => revoke(house, Target::TokenId(credential.token_id.clone())).await,
        End::Sessions => revoke_all(house, All::SessionsOf(ACCOUNT.to_owned())).await,
        End::Subject => revoke_all(house, All::Subject(ACCOUNT.to_owned())).await,
        End::Disabled => {
            let disable = v1::DisableServiceAccountRequest {
                name: ACCOUNT.to_owned(),
                reason: REASON.to_owned(),
                ..v1::DisableServiceAccountRequest::default()
            };
            let disable = bearer(&house.admin, disable);
            let done = house.directory.disable_service_account(disable).await;
            confirmed(done.expect("disabled").into_inner().enforcement);
        }
        End::Method => {
            let remove = v1::RemoveLoginMethodRequest {
                service_account: ACCOUNT.to_owned(),
                kind: v1::LoginMethodKind::UniversalAuth.into(),
                reason: REASON.to_owned(),
                ..v1::RemoveLoginMethodRequest::default()
            };
            let remove = bearer(&house.admin, remove);
            let done = house.credentials.remove_login_method(remove).await;
            confirmed(done.expect("removed").into_inner().enforcement);
        }
        End::Key => {
            let keys = house
                .keys
                .list_keys(bearer(&house.admin, v1::ListKeysRequest {}));
            let keys = keys.await.expect("listed").into_inner().keys;
            let minting = keys.iter().find(|key| key.phase() == v1::KeyPhase::Minting);
            let revoke = v1::RevokeKeyRequest {
                key_id: minting.expect("it seals").key_id.clone(),
                reason: REASON.to_owned(),
                ..v1::RevokeKeyRequest::default()
            };
            let done = house.keys.revoke_key(bearer(&house.admin, revoke)).await;
            confirmed(done.expect("revoked").into_inner().enforcement);
        }
    }
}

async fn revoke_all(house: &mut House, target: All) {
    let revoke = v1::RevokeAllRequest {
        target: Some(target),
        reason: REASON.to_owned(),
        ..v1::RevokeAllRequest::default()
    };
    let done = house.tokens.revoke_all(bearer(&house.admin, revoke)).await;
    confirmed(done.expect("revoked").into_inner().enforcement);
}

async fn enable(house: &mut House) {
    let enable = v1::EnableServiceAccountRequest {
        name: ACCOUNT.to_owned(),
        reason: REASON.to_owned(),
        ..v1::EnableServiceAccountRequest::default()
    };
    let done = house
        .directory
        .enable_service_account(bearer(&house.admin, enable));
    done.await.expect("enabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_sealed_token_at_one_replica_ends_it_at_all_postgres() {
    let (_site, mut a, mut b, _) = two(LONG).await;
    let wanted = || v1::CreateClientSecretRequest {
        wait_for_replicas: true,
        ..House::wanted()
    };
    // How, why it is refused then, and whether the credential and its other sessions go on.
    for (how, why, others_live, credential_lives) in [
        (End::Text, v1::Reason::Revoked, true, true),
        (End::Session, v1::Reason::Revoked, true, true),
        (End::Sessions, v1::Reason::Revoked, false, true),
        (End::Credential, v1::Reason::Revoked, false, false),
        (End::Subject, v1::Reason::Revoked, false, false),
        (End::Disabled, v1::Reason::SubjectDisabled, false, false),
        (End::Method, v1::Reason::Revoked, false, false),
        // The last: nothing is left to seal by.
        (End::Key, v1::Reason::Revoked, false, false),
    ] {
        enable(&mut a.house).await;
        let universal = v1::LoginMethodKind::UniversalAuth;
        let settings = v1::LoginSettings::default();
        a.house.set_method(universal, settings).await;
        let secret = a.house.secret(wanted()).await;
        confirmed(secret.enforcement.clone());
        let token = a.house.login(&secret.client_secret).await;
        let other = b.house.login(&secret.client_secret).await;
        for shown in [&token, &other] {
            let reason = b.house.may_deploy(&shown.access_token).await;
            assert_eq!(reason, v1::Reason::Allowed, "{how:?}");
        }
        end(&mut a.house, how, &secret, &token).await;
        for one in [&mut b, &mut a] {
            let reason = one.house.may_deploy(&token.access_token).await;
            assert_eq!(reason, why, "{how:?}");
            let reason = one.house.may_deploy(&other.access_token).await;
            assert_eq!(reason == v1::Reason::Allowed, others_live, "{how:?}");
            let login = one.house.try_login(&secret.client_secret).await;
            assert_eq!(login.is_ok(), credential_lives, "{how:?}: {login:?}");
            if let Ok(token) = login {
                let reason = one.house.may_deploy(&token.access_token).await;
                assert_eq!(reason, v1::Reason::Allowed, "{how:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_neither_reads_nor_gives_what_was_revoked_postgres() {
    let (_site, mut a, mut b, secret) = two(SHORT).await;
    let token = a.house.login(&secret).await;
    let of_b = b.house.login(&secret).await;
    let reason = b.house.may_deploy(&token.access_token).await;
    assert_eq!(reason, v1::Reason::Allowed);
    b.partition();
    // Confirmed without it: its lease has ended.
    revoke(&mut a.house, Target::Secret(secret.clone())).await;
    for token in [&token, &of_b] {
        let reason = b.house.may_deploy(&token.access_token).await;
        assert_eq!(reason, v1::Reason::Stale);
        let reason = a.house.may_deploy(&token.access_token).await;
        assert_eq!(reason, v1::Reason::Revoked);
    }
    let refused = b
        .house
        .try_login(&secret)
        .await
        .expect_err("it cannot know");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let renew = bearer(&of_b.access_token, v1::RenewAccessTokenRequest::default());
    let refused = b.house.logins.renew_access_token(renew).await;
    assert_eq!(
        refused.expect_err("it cannot know").code(),
        Code::Unavailable
    );
    let exchange = v1::ExchangeTokenRequest {
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::All(v1::AllScopes {})),
        }),
        ..v1::ExchangeTokenRequest::default()
    };
    let exchange = bearer(&of_b.access_token, exchange);
    let refused = b.house.logins.exchange_token(exchange).await;
    assert_eq!(
        refused.expect_err("it cannot know").code(),
        Code::Unavailable
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stood_still_neither_reads_nor_gives_what_was_revoked_postgres() {
    let (_site, mut a, mut b, secret) = two(SHORT).await;
    let token = b.house.login(&secret).await;
    let reason = b.house.may_deploy(&token.access_token).await;
    assert_eq!(reason, v1::Reason::Allowed);
    tokio::task::block_in_place(|| b.server.freeze());
    let asked = check(&token.access_token, &[("deploy:run", "acme/web/prod")]);
    let asked = {
        let mut checks = b.house.checks.clone();
        tokio::spawn(async move { checks.check(asked).await })
    };
    let login = {
        let mut house = b.house.clone();
        let secret = secret.clone();
        tokio::spawn(async move { house.try_login(&secret).await })
    };
    revoke(&mut a.house, Target::Secret(secret)).await;
    b.server.signal(Signal::CONT);
    let answer = asked.await.expect("no panic").expect("an answer");
    let reason = answer.get_ref().reason();
    let refusals = [v1::Reason::Stale, v1::Reason::Revoked];
    assert!(refusals.contains(&reason), "{reason:?}");
    let refused = login.await.expect("no panic").expect_err("it is revoked");
    let codes = [Code::Unavailable, Code::Unauthenticated];
    assert!(codes.contains(&refused.code()), "{refused}");
}
