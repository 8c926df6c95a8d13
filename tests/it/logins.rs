//! Logins through the public doors: universal auth, key pairs, sealed tokens, exchange, seal keys.
//!
//! On a server of its own for each; what holds for State alone is tested beside it.

mod callers;
mod counted;
mod explained;
pub(crate) mod fleet;
mod flood;
pub(crate) mod house;
mod old_key;
pub(crate) mod past;
mod seen;
mod spread;

use latchkey::proto::v1;
use tonic::Code;

use crate::fleet::why;
use crate::program::{Server, fresh};
use crate::wire::{bearer, check};
use house::{ACCOUNT, House, REASON, by_secret, seconds};

async fn with_universal_auth(server: &Server) -> (House, String) {
    let mut house = House::furnished(server).await;
    let settings = v1::LoginSettings {
        max_ttl: seconds(7_200),
        // Nothing is too long ago here, however slow the machine is.
        lockout: Some(v1::LockoutPolicy {
            threshold: 3,
            duration: seconds(3_600),
            reset: seconds(3_600),
        }),
        ..v1::LoginSettings::default()
    };
    let set = house.set_method(v1::LoginMethodKind::UniversalAuth, settings);
    let method = set.await.method.expect("as it is");
    assert_eq!(method.settings.expect("all").ttl, seconds(3_600));
    let made = house.secret(House::wanted()).await;
    assert_eq!(made.client_id, ACCOUNT);
    (house, made.client_secret)
}

#[tokio::test]
async fn a_client_secret_gives_a_sealed_token_that_has_no_row_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let token = house.login(&secret).await;
    assert_eq!(token.token_type, "Bearer");
    assert!(!token.stored && token.renewable);
    assert!(token.access_token.starts_with("lka_") && token.access_token.len() > 53);
    let (_, word) = token.access_token.split_at(4);
    assert!(word.bytes().all(|byte| byte.is_ascii_alphanumeric()));

    let answer = house
        .check(&token.access_token, &[("deploy:run", "acme/web/prod")])
        .await;
    assert!(answer.allowed, "{answer:?}");
    assert_eq!(
        (answer.kind(), answer.subject.as_str()),
        (v1::TokenKind::Access, ACCOUNT)
    );
    assert_eq!(answer.token_id, token.token_id);
    assert_eq!(answer.expires_at, token.expires_at);
    let answer = house
        .check(&token.access_token, &[("deploy:run", "acme/api")])
        .await;
    assert_eq!(answer.reason(), v1::Reason::NotPermitted);
    let answer = house
        .check(&secret, &[("deploy:run", "acme/web/prod")])
        .await;
    assert_eq!(
        answer.reason(),
        v1::Reason::WrongKind,
        "a credential only logs in"
    );

    // It knows itself, and nobody finds it in a list.
    let who = bearer(&token.access_token, v1::WhoAmIRequest {});
    let who = house
        .tokens
        .who_am_i(who)
        .await
        .expect("itself")
        .into_inner();
    assert_eq!(who.subject, ACCOUNT);
    let shown = who.token.expect("its claims");
    assert!(shown.sealed && shown.state() == v1::TokenState::Active);
    assert_eq!(shown.token_id, token.token_id);
    let mine = bearer(&token.access_token, v1::GetTokenRequest::default());
    let mine = house
        .tokens
        .get_token(mine)
        .await
        .expect("itself")
        .into_inner();
    assert_eq!(
        mine.token.map(|token| token.token_id),
        Some(token.token_id.clone())
    );
    let list = v1::ListTokensRequest {
        kind: v1::TokenKind::Access.into(),
        ..v1::ListTokensRequest::default()
    };
    let listed = house.tokens.list_tokens(bearer(&house.admin, list)).await;
    assert_eq!(listed.expect("a page").into_inner().tokens, []);
}

#[tokio::test]
async fn what_is_not_set_of_a_method_is_the_default_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let mut house = House::furnished(&server).await;
    let kind = v1::LoginMethodKind::UniversalAuth;
    let set = house.set_method(kind, v1::LoginSettings::default()).await;
    let expected = v1::LoginSettings {
        ttl: seconds(3_600),
        lockout: Some(v1::LockoutPolicy {
            threshold: 3,
            duration: seconds(300),
            reset: seconds(30),
        }),
        ..v1::LoginSettings::default()
    };
    assert_eq!(set.method.expect("as it is").settings, Some(expected));
}

#[tokio::test]
async fn not_one_character_of_a_sealed_token_can_be_changed_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let token = house.login(&secret).await;
    for at in [0, 5, 60, token.access_token.len() - 1] {
        let mut bytes = token.access_token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
        let changed = String::from_utf8(bytes).expect("ascii");
        let reason = house.may_deploy(&changed).await;
        assert_eq!(reason, v1::Reason::Unknown, "{at}");
    }
}

#[tokio::test]
async fn sealed_tokens_outlive_the_server_and_are_renewed_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let (mut house, secret) = with_universal_auth(&server).await;
    let token = house.login(&secret).await;
    drop(house);
    server.kill();
    let server = Server::start(dir.path());
    let mut house = House::of(&server.address, &admin).await;
    assert_eq!(
        house.may_deploy(&token.access_token).await,
        v1::Reason::Allowed
    );

    // Renewed, it has another id, in the same session.
    let renew = bearer(&token.access_token, v1::RenewAccessTokenRequest::default());
    let renewed = house
        .logins
        .renew_access_token(renew)
        .await
        .expect("renewed");
    let renewed = renewed.into_inner().token.expect("a token");
    assert_ne!(renewed.token_id, token.token_id);
    assert_eq!(renewed.token_id[14..], token.token_id[14..]);
    assert_eq!(
        house.may_deploy(&renewed.access_token).await,
        v1::Reason::Allowed
    );
    assert_eq!(
        house.may_deploy(&token.access_token).await,
        v1::Reason::Allowed
    );
}

#[tokio::test]
async fn a_revoked_session_is_refused_through_a_crash_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let (mut house, secret) = with_universal_auth(&server).await;
    let (token, other) = (house.login(&secret).await, house.login(&secret).await);
    let renew = bearer(&token.access_token, v1::RenewAccessTokenRequest::default());
    let renewed = house.logins.renew_access_token(renew).await;
    let renewed = renewed.expect("renewed").into_inner();
    let renewed = renewed.token.expect("a token");

    // Whoever has it may end it, and with it the whole session; other sessions go on.
    let revoke = bearer(&token.access_token, v1::RevokeTokenRequest::default());
    let revoked = house
        .tokens
        .revoke_token(revoke)
        .await
        .expect("revoked")
        .into_inner();
    assert!(!revoked.already_revoked);
    assert!(revoked.enforcement.is_some());
    for gone in [&token, &renewed] {
        assert_eq!(
            house.may_deploy(&gone.access_token).await,
            v1::Reason::Revoked
        );
    }
    assert_eq!(
        house.may_deploy(&other.access_token).await,
        v1::Reason::Allowed
    );
    let by_id = v1::RevokeTokenRequest {
        target: Some(v1::revoke_token_request::Target::AccessTokenId(
            other.token_id.clone(),
        )),
        reason: REASON.to_owned(),
        ..v1::RevokeTokenRequest::default()
    };
    let revoked = house.tokens.revoke_token(bearer(&admin, by_id)).await;
    revoked.expect("revoked by its id");
    assert_eq!(
        house.may_deploy(&other.access_token).await,
        v1::Reason::Revoked
    );

    // And all that is known of it survives a crash.
    drop(house);
    server.kill();
    let server = Server::start(dir.path());
    let mut house = House::of(&server.address, &admin).await;
    for gone in [&token, &renewed, &other] {
        assert_eq!(
            house.may_deploy(&gone.access_token).await,
            v1::Reason::Revoked
        );
    }
    let new = house.login(&secret).await;
    assert_eq!(
        house.may_deploy(&new.access_token).await,
        v1::Reason::Allowed
    );
}

#[tokio::test]
async fn guesses_look_alike_and_lock_out_only_who_makes_them_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let mut refusals = Vec::new();
    for (client_id, shown) in [
        ("service:nobody", secret.as_str()),
        ("nobody", secret.as_str()),
        (ACCOUNT, "garbage"),
        (ACCOUNT, house.admin.clone().as_str()),
    ] {
        let refused = house.logins.login(by_secret(client_id, shown)).await;
        let refused = refused.expect_err("no guess is right");
        refusals.push((refused.code(), why(&refused), refused.message().to_owned()));
    }
    refusals.dedup();
    let [(code, reason, _)] = refusals.as_slice() else {
        panic!("guesses can be told apart: {refusals:?}");
    };
    assert_eq!(
        (*code, reason.as_str()),
        (Code::Unauthenticated, "LOGIN_REFUSED")
    );

    // Two were of the account: the third locks this address out, the right secret with it.
    house.login(&secret).await;
    for _ in 0..3 {
        house
            .logins
            .login(by_secret(ACCOUNT, "garbage"))
            .await
            .expect_err("a guess");
    }
    // They are counted behind the answers.
    while house.locked().await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(house.locked().await, ["127.0.0.1/32"]);
    let refused = house.try_login(&secret).await.expect_err("locked out");
    assert_eq!(
        refused.message(),
        refusals[0].2,
        "and it looks like any guess"
    );
    goes_on(&server, &mut house).await;
}

async fn goes_on(server: &Server, house: &mut House) {
    // The log has one lock of each, whoever goes on, and no failure.
    for _ in 0..5 {
        house
            .logins
            .login(by_secret(ACCOUNT, "garbage"))
            .await
            .expect_err("a guess");
    }
    // Counted in their order: with those from elsewhere the ones before are.
    let mut elsewhere = counted::from(server, 9).await;
    for _ in 0..3 {
        let guess = elsewhere.login(by_secret(ACCOUNT, "garbage")).await;
        guess.expect_err("a guess");
    }
    while house.locked().await.len() < 2 {
        tokio::task::yield_now().await;
    }
    let told = server.logged();
    let told = told.lines().filter(|line| line.contains("locked out"));
    let of_the_first = told.filter(|line| line.contains("127.0.0.1/32"));
    assert_eq!(of_the_first.count(), 1, "who goes on is told of once");
    let changes = server
        .admin()
        .run("audit list --output json --kind login.lock")
        .json();
    let listed = changes["changes"].as_array().map(Vec::len);
    assert_eq!(listed, Some(2), "{changes}");
}

#[tokio::test]
async fn nobody_is_locked_out_behind_a_proxy_of_many_clients_embedded() {
    let dir = fresh();
    let proxies = ["--set", "login.proxies=127.0.0.1, 10.0.0.0/8"];
    let server = Server::start_with(dir.path(), &proxies).expect("serves");
    let (mut house, secret) = with_universal_auth(&server).await;
    let guess = by_secret(ACCOUNT, "garbage");
    let mut elsewhere = counted::from(&server, 9).await;
    for logins in [&mut house.logins, &mut elsewhere] {
        for _ in 0..3 {
            logins.login(guess.clone()).await.expect_err("a guess");
        }
    }
    // Counted in their order: those through the proxy were the first.
    while house.locked().await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(house.locked().await, ["127.0.0.9/32"]);
    house.login(&secret).await;
}

#[tokio::test]
async fn a_use_of_a_client_secret_is_never_granted_twice_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let (mut house, _) = with_universal_auth(&server).await;
    let limited = v1::CreateClientSecretRequest {
        uses: Some(3),
        ..House::wanted()
    };
    let secret = house.secret(limited).await.client_secret;
    let mut given = 0;
    let logins: Vec<_> = (0..8)
        .map(|_| {
            let (mut logins, secret) = (house.logins.clone(), secret.clone());
            tokio::spawn(async move { logins.login(by_secret(ACCOUNT, &secret)).await.is_ok() })
        })
        .collect();
    for login in logins {
        given += usize::from(login.await.expect("no panic"));
    }
    assert_eq!(given, 3);
    drop(house);
    server.kill();
    let server = Server::start(dir.path());
    let mut house = House::of(&server.address, &admin).await;
    let refused = house.try_login(&secret).await.expect_err("spent");
    assert!(refused.message().contains("uses_exhausted"), "{refused}");
}

#[tokio::test]
async fn an_access_token_with_uses_is_stored_and_counted_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let settings = v1::LoginSettings {
        uses: Some(2),
        ..v1::LoginSettings::default()
    };
    house
        .set_method(v1::LoginMethodKind::UniversalAuth, settings)
        .await;
    let token = house.login(&secret).await;
    assert!(token.stored);
    assert_eq!(token.access_token.len(), 53);
    let mut reasons = Vec::new();
    for _ in 0..3 {
        reasons.push(house.may_deploy(&token.access_token).await);
    }
    let spent = [
        v1::Reason::Allowed,
        v1::Reason::Allowed,
        v1::Reason::UsesExhausted,
    ];
    assert_eq!(reasons, spent);
    let shown = v1::GetTokenRequest {
        token_id: token.token_id.clone(),
    };
    let shown = house.tokens.get_token(bearer(&house.admin, shown)).await;
    let shown = shown.expect("a row").into_inner().token.expect("shown");
    assert_eq!(
        (shown.kind(), shown.uses_left),
        (v1::TokenKind::Access, Some(0))
    );
}

#[tokio::test]
async fn an_exchanged_token_is_narrower_and_ends_with_its_parent_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let parent = house.login(&secret).await;
    let exchange = |scopes: &[&str], audience: &str| v1::ExchangeTokenRequest {
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::Only(v1::ScopeList {
                scopes: scopes.iter().map(ToString::to_string).collect(),
            })),
        }),
        ttl: seconds(60),
        audience: audience.to_owned(),
        ..v1::ExchangeTokenRequest::default()
    };
    let asked = exchange(&["deploy:run@acme/web/prod"], "agents");
    let child = house
        .logins
        .exchange_token(bearer(&parent.access_token, asked))
        .await;
    let child = child.expect("a child").into_inner().token.expect("a token");
    assert!(!child.renewable && !child.clipped);
    let mut asked = check(&child.access_token, &[("deploy:run", "acme/web/prod")]);
    let answer = house
        .checks
        .check(asked.clone())
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.reason(), v1::Reason::Audience);
    asked.context = Some(v1::Context {
        audience: Some("agents".to_owned()),
        ..v1::Context::default()
    });
    let answer = house
        .checks
        .check(asked.clone())
        .await
        .expect("an answer")
        .into_inner();
    assert!(answer.allowed, "{answer:?}");
    assert_eq!(answer.scopes.map(|scopes| scopes.permission_count), Some(1));
    let wider = exchange(&["deploy:run@acme/web/**"], "agents");
    let refused = house
        .logins
        .exchange_token(bearer(&child.access_token, wider))
        .await;
    let refused = refused.expect_err("wider than its parent");
    assert_eq!(why(&refused), "BOUNDARY");
    assert!(
        refused.message().contains("deploy:run@acme/web/**"),
        "{refused}"
    );
    house.revoke_found(&parent.access_token).await;
    let answer = house
        .checks
        .check(asked)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.reason(), v1::Reason::Revoked);
}

#[tokio::test]
async fn keys_are_listed_rotated_and_revoked_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let token = house.login(&secret).await;
    let list = |house: &mut House| {
        let list = bearer(&house.admin, v1::ListKeysRequest {});
        let mut keys = house.keys.clone();
        async move { keys.list_keys(list).await.expect("keys").into_inner().keys }
    };
    let keys = list(&mut house).await;
    let [key] = keys.as_slice() else {
        panic!("{keys:?}");
    };
    assert_eq!(key.phase(), v1::KeyPhase::Minting);
    assert_eq!((key.loaded_by.len(), key.missing_on.len()), (1, 0));
    // There is no other to go on with.
    let rotate = v1::RotateKeyRequest {
        reason: REASON.to_owned(),
        ..v1::RotateKeyRequest::default()
    };
    let refused = house.keys.rotate_key(bearer(&house.admin, rotate)).await;
    let refused = refused.expect_err("no new key");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let retire = v1::RetireKeyRequest {
        key_id: key.key_id.clone(),
        reason: REASON.to_owned(),
        ..v1::RetireKeyRequest::default()
    };
    let refused = house.keys.retire_key(bearer(&house.admin, retire)).await;
    assert_eq!(
        refused.expect_err("it seals").code(),
        Code::FailedPrecondition
    );
    let revoke = v1::RevokeKeyRequest {
        key_id: key.key_id.clone(),
        reason: REASON.to_owned(),
        ..v1::RevokeKeyRequest::default()
    };
    let revoked = house.keys.revoke_key(bearer(&house.admin, revoke)).await;
    assert!(revoked.expect("revoked").into_inner().enforcement.is_some());
    assert_eq!(
        house.may_deploy(&token.access_token).await,
        v1::Reason::Revoked
    );
    let refused = house
        .try_login(&secret)
        .await
        .expect_err("no key to seal by");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}
