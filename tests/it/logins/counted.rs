//! What is counted across replicas: uses, assertions, failures. Never one more than was given.
//!
//! Logins and Checks come at the same time to two real processes on one database, one of which is
//! killed where that may lose a use. A network that logs in from elsewhere is another address of
//! the loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use latchkey::domain::clock::{Clock as _, SystemClock};
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::key::Algorithm;
use latchkey::domain::key_pair::{KeyPair, Statement};
use latchkey::domain::token::TokenId;
use latchkey::proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::login_request::Proof;
use v1::login_service_client::LoginServiceClient;

use super::fleet::{confirmed, known, two, with_settings};
use super::house::{ACCOUNT, House, REASON, by_secret, seconds};
use crate::fleet::LONG;
use crate::program::Server;
use crate::wire::{bearer, check};

/// Callers of each replica.
const CALLERS: usize = 6;

fn unlocked() -> v1::LoginSettings {
    v1::LoginSettings {
        lockout_disabled: true,
        ..v1::LoginSettings::default()
    }
}

/// What all callers of both replicas are answered who send the same login at the same time.
async fn at_once(houses: [&House; 2], asked: &v1::LoginRequest) -> Vec<Result<(), Status>> {
    let calls: Vec<_> = (0..2 * CALLERS)
        .map(|n| {
            let (mut logins, asked) = (houses[n % 2].logins.clone(), asked.clone());
            tokio::spawn(async move { logins.login(asked).await.map(drop) })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.expect("no panic"));
    }
    answers
}

/// How many were given; all others were refused, and not because of trouble.
#[track_caller]
fn given(answers: &[Result<(), Status>]) -> usize {
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    answers.iter().filter(|answer| answer.is_ok()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_logins_of_all_come_at_once_and_one_key_seals_postgres() {
    let (_site, mut a, b, secret) = two(LONG).await;
    let answers = at_once([&a.house, &b.house], &by_secret(ACCOUNT, &secret)).await;
    assert_eq!(given(&answers), answers.len());
    let keys = bearer(&a.house.admin, v1::ListKeysRequest {});
    let keys = a.house.keys.list_keys(keys).await.expect("listed");
    let phases: Vec<_> = keys.get_ref().keys.iter().map(v1::SealKey::phase).collect();
    assert_eq!(phases, [v1::KeyPhase::Minting]);
}

fn times(uses: u32) -> v1::CreateClientSecretRequest {
    v1::CreateClientSecretRequest {
        uses: Some(uses),
        ..House::wanted()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_give_a_client_secret_its_uses_and_no_more_postgres() {
    let (_site, mut a, b, _) = two(LONG).await;
    for uses in [1, 2, 5, 9] {
        let secret = known(&mut a.house, times(uses)).await;
        let answers = at_once([&a.house, &b.house], &by_secret(ACCOUNT, &secret)).await;
        assert_eq!(given(&answers), uses as usize);
        let answers = at_once([&a.house, &b.house], &by_secret(ACCOUNT, &secret)).await;
        assert_eq!(given(&answers), 0);
    }
}

/// Logs in until it is refused or learns nothing; how that ended.
async fn spend(mut house: House, secret: String, given: Arc<AtomicUsize>) -> Status {
    loop {
        match house.try_login(&secret).await {
            Ok(_) => drop(given.fetch_add(1, Ordering::SeqCst)),
            Err(end) => return end,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_are_lost_but_never_granted_twice_when_a_replica_is_killed_postgres() {
    const USES: usize = 400;
    let (site, mut a, mut b, unlimited) = two(LONG).await;
    let secret = known(&mut a.house, times(USES as u32)).await;
    // Or who seals for the first time asks the one that is killed whether it knows the key.
    for house in [&mut a.house, &mut b.house] {
        house.login(&unlimited).await;
    }
    let given = Arc::new(AtomicUsize::new(0));
    let start = |house: &House| tokio::spawn(spend(house.clone(), secret.clone(), given.clone()));
    let at_a: Vec<_> = (0..CALLERS).map(|_| start(&a.house)).collect();
    let at_b: Vec<_> = (0..CALLERS).map(|_| start(&b.house)).collect();
    while given.load(Ordering::SeqCst) < USES / 20 {
        tokio::task::yield_now().await;
    }
    tokio::task::block_in_place(|| b.server.cut());
    for task in at_b {
        let end = task.await.expect("no panic");
        assert_ne!(
            end.code(),
            Code::Unauthenticated,
            "it was spent before: {end}"
        );
    }
    for task in at_a {
        let end = task.await.expect("no panic");
        assert_eq!(end.code(), Code::Unauthenticated, "{end}");
    }
    let given = given.load(Ordering::SeqCst);
    // Each caller of the one that was killed may have lost the use that it waited for.
    assert!(
        (USES - CALLERS..=USES).contains(&given),
        "{given} of {USES}"
    );
    let mut again = site.member("b", LONG).await;
    for house in [&mut a.house, &mut again.house] {
        let refused = house.try_login(&secret).await.expect_err("spent");
        assert!(refused.message().contains("uses_exhausted"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_allow_a_stored_access_token_its_uses_and_no_more_postgres() {
    let (_site, mut a, mut b, _) = two(LONG).await;
    for uses in [1, 5] {
        let settings = v1::LoginSettings {
            uses: Some(uses),
            ..v1::LoginSettings::default()
        };
        let secret = with_settings(&mut a.house, settings).await;
        let token = a.house.login(&secret).await;
        assert!(token.stored);
        let asked = v1::CheckRequest {
            // The other may not have heard of it.
            at_least: token.revision.clone(),
            ..check(&token.access_token, &[("deploy:run", "acme/web/prod")])
        };
        let calls: Vec<_> = (0..2 * CALLERS)
            .map(|n| {
                let house = if n % 2 == 0 { &a.house } else { &b.house };
                let (mut checks, asked) = (house.checks.clone(), asked.clone());
                tokio::spawn(async move { checks.check(asked).await })
            })
            .collect();
        let mut allowed = 0;
        for call in calls {
            let answer = call.await.expect("no panic").expect("an answer");
            match answer.get_ref().reason() {
                v1::Reason::Allowed => allowed += 1,
                reason => assert_eq!(reason, v1::Reason::UsesExhausted),
            }
        }
        assert_eq!(allowed, uses);
        for one in [&mut a, &mut b] {
            let reason = one.house.may_deploy(&token.access_token).await;
            assert_eq!(reason, v1::Reason::UsesExhausted);
        }
    }
}

/// Registers a public key that every replica knows; its credential.
async fn registered(house: &mut House, pair: &KeyPair) -> TokenId {
    let register = v1::RegisterPublicKeyRequest {
        service_account: ACCOUNT.to_owned(),
        public_key: pair.public().to_pem(),
        name: "pipeline".to_owned(),
        wait_for_replicas: true,
        reason: REASON.to_owned(),
        ..v1::RegisterPublicKeyRequest::default()
    };
    let register = bearer(&house.admin, register);
    let done = house.credentials.register_public_key(register).await;
    let done = done.expect("registered").into_inner();
    confirmed(done.enforcement);
    let credential = done.credential.expect("shown");
    TokenId::parse(&credential.token_id).expect("an id")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_take_an_assertion_once_postgres() {
    let (site, mut a, mut b, _) = two(LONG).await;
    // Or the second of them would be a guess like others.
    let set = a.house.set_method(v1::LoginMethodKind::KeyPair, unlocked());
    confirmed(set.await.enforcement);
    let mut used = Vec::new();
    for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
        let pair = KeyPair::generate(algorithm, &OsEntropy).expect("a pair");
        let credential = registered(&mut a.house, &pair).await;
        for jti in ["1", "2", "3"] {
            let signed = pair.assertion(&Statement {
                credential,
                client: ACCOUNT,
                audience: "latchkey",
                now_s: SystemClock::start().now().latest / 1_000,
                life_s: 300,
                jti,
            });
            let asked = v1::LoginRequest {
                client_id: ACCOUNT.to_owned(),
                proof: Some(Proof::Assertion(signed.expect("signed"))),
                ..v1::LoginRequest::default()
            };
            let answers = at_once([&a.house, &b.house], &asked).await;
            assert_eq!(given(&answers), 1, "{algorithm:?} {jti}");
            used.push(asked);
        }
    }
    // Nor are they taken by who was not there.
    tokio::task::block_in_place(|| b.server.cut());
    b = site.member("b", LONG).await;
    for asked in &used {
        let answers = at_once([&a.house, &b.house], asked).await;
        assert_eq!(given(&answers), 0);
    }
}

/// Logins at a replica from another address of the loopback.
pub(super) async fn from(server: &Server, last: u8) -> LoginServiceClient<Channel> {
    let address = format!("http://{}", server.address);
    let endpoint = Channel::from_shared(address).expect("an address");
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    let channel = endpoint.local_address(Some(from)).connect().await;
    LoginServiceClient::new(channel.expect("a connection"))
}

async fn guess(logins: &mut LoginServiceClient<Channel>) {
    let refused = logins.login(by_secret(ACCOUNT, "garbage")).await;
    let refused = refused.expect_err("a guess");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_at_two_replicas_add_up_and_lock_out_one_network_of_one_account_postgres() {
    const OTHER: &str = "service:other";
    let (_site, mut a, mut b, _) = two(LONG).await;
    // Nothing is too long ago here.
    let settings = v1::LoginSettings {
        lockout: Some(v1::LockoutPolicy {
            threshold: 3,
            duration: seconds(3_600),
            reset: seconds(3_600),
        }),
        ..v1::LoginSettings::default()
    };
    let secret = with_settings(&mut a.house, settings).await;
    let other = other_account(&mut a.house, OTHER).await;
    let (mut at_a, mut at_b) = (from(&a.server, 7).await, from(&b.server, 7).await);
    let mut elsewhere = from(&b.server, 8).await;
    // What succeeds where they failed ends them.
    guess(&mut at_a).await;
    guess(&mut at_a).await;
    at_a.login(by_secret(ACCOUNT, &secret))
        .await
        .expect("right");
    guess(&mut at_b).await;
    guess(&mut at_b).await;
    assert_eq!(b.house.locked().await, [""; 0]);
    // What succeeds elsewhere, or as somebody else, ends nothing.
    elsewhere
        .login(by_secret(ACCOUNT, &secret))
        .await
        .expect("right");
    guess(&mut elsewhere).await;
    at_b.login(by_secret(OTHER, &other)).await.expect("right");
    guess(&mut at_a).await;
    let (networks, revision) = loop {
        let (networks, revision) = a.house.locked_at().await;
        if !networks.is_empty() {
            break (networks, revision);
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(networks, ["127.0.0.7/32"]);

    let wait = v1::WaitForRevisionRequest { revision };
    let mut cluster = v1::cluster_service_client::ClusterServiceClient::new(
        crate::wire::channel(&a.server.address).await,
    );
    let waited = cluster
        .wait_for_revision(bearer(&a.house.admin, wait))
        .await;
    confirmed(waited.expect("waited").into_inner().enforcement);
    for logins in [&mut at_a, &mut at_b] {
        let refused = logins.login(by_secret(ACCOUNT, &secret)).await;
        assert_eq!(refused.expect_err("locked").code(), Code::Unauthenticated);
        // Nobody else is.
        logins
            .login(by_secret(OTHER, &other))
            .await
            .expect("another account");
    }
    assert_eq!(b.house.locked().await, ["127.0.0.7/32"]);
    for house in [&mut a.house, &mut b.house] {
        house.login(&secret).await;
    }
    elsewhere
        .login(by_secret(ACCOUNT, &secret))
        .await
        .expect("another network");
}

/// Another service account; its client secret.
async fn other_account(house: &mut House, name: &str) -> String {
    let account = v1::CreateServiceAccountRequest {
        name: name.to_owned(),
        home: "acme".to_owned(),
        reason: REASON.to_owned(),
        ..v1::CreateServiceAccountRequest::default()
    };
    let made = bearer(&house.admin, account);
    let made = house.directory.create_service_account(made).await;
    made.expect("an account");
    let set = v1::SetLoginMethodRequest {
        service_account: name.to_owned(),
        kind: v1::LoginMethodKind::UniversalAuth.into(),
        reason: REASON.to_owned(),
        ..v1::SetLoginMethodRequest::default()
    };
    let set = bearer(&house.admin, set);
    house.credentials.set_login_method(set).await.expect("set");
    let wanted = v1::CreateClientSecretRequest {
        service_account: name.to_owned(),
        ..House::wanted()
    };
    known(house, wanted).await
}
