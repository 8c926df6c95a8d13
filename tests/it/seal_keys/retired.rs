//! Retiring a seal key 30 days after it sealed last: what it sealed is refused on every server from
//! then on, and what others seal goes on.
//!
//! The log begins two months ago, by hand. By then nothing that the key sealed is left, so a token
//! that would outlive it is made here, with the key at hand.

use std::fs;
use std::path::Path;

use latchkey::domain::seal::claims::{Claims, Sealed};
use latchkey::domain::seal::key::{KeyId, SealKey};
use latchkey::domain::seal::ring::{Ring, Room};
use latchkey::proto::v1;
use latchkey::store::embedded::{EmbeddedStore, OpenOptions};
use tonic::Code;

use super::{generate, replica_with_keys};
use crate::logins::fleet::{confirmed, with_settings};
use crate::logins::house::{House, REASON};
use crate::logins::past::{SALT, begin, open};
use crate::postgres::database;
use crate::program::{Server, fresh};
use crate::replicas::bootstrap;
use crate::wire::bearer;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Two keys in a file: one that sealed until 31 days ago, and one that has sealed since.
fn keys(file: &Path) -> [(KeyId, u64); 2] {
    let id = || generate(file).parse().expect("an id");
    [(id(), 62 * DAY_MS), (id(), 31 * DAY_MS)]
}

/// The same token as if another key had sealed it.
fn sealed_by(file: &Path, key: KeyId, token: &str) -> String {
    let lines = fs::read_to_string(file).expect("readable");
    let ring = Ring::new(
        lines
            .lines()
            .map(|line| SealKey::parse(line).expect("a key")),
    );
    let mut room = Room::default();
    let opened = ring.open(token, &mut room, |_| Some(SALT)).expect("ours");
    let claims: Claims = Sealed::read(opened).expect("claims").to_claims();
    ring.seal(&claims, key, &SALT).expect("it is loaded")
}

async fn retire(house: &House, key: KeyId) -> Result<v1::RetireKeyResponse, tonic::Status> {
    let request = v1::RetireKeyRequest {
        key_id: key.to_string(),
        reason: REASON.to_owned(),
        ..v1::RetireKeyRequest::default()
    };
    let mut keys = house.keys.clone();
    let answer = keys.retire_key(bearer(&house.admin, request)).await?;
    Ok(answer.into_inner())
}

async fn phase(house: &mut House, key: KeyId) -> v1::KeyPhase {
    let list = bearer(&house.admin, v1::ListKeysRequest {});
    let keys = house.keys.list_keys(list).await.expect("listed");
    let keys = keys.into_inner().keys;
    let found = keys.iter().find(|one| one.key_id == key.to_string());
    found.expect("it is known").phase()
}

/// Retires the former of two keys at the last of these servers: what it has sealed is good on all
/// until then, and refused by all as soon as that is confirmed.
async fn check(houses: &mut [House], file: &Path, [former, now]: [KeyId; 2]) -> (String, String) {
    let first = &mut houses[0];
    first.furnish().await;
    let secret = with_settings(first, v1::LoginSettings::default()).await;
    let token = first.login(&secret).await.access_token;
    let old = sealed_by(file, former, &token);
    for house in &mut *houses {
        for token in [&token, &old] {
            assert_eq!(house.may_deploy(token).await, v1::Reason::Allowed);
        }
        assert_eq!(phase(house, former).await, v1::KeyPhase::Verifying);
    }
    let last = houses.last().expect("one at least");
    let refused = retire(last, now).await.expect_err("it seals");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    confirmed(retire(last, former).await.expect("retired").enforcement);
    for house in &mut *houses {
        assert_eq!(house.may_deploy(&old).await, v1::Reason::Revoked);
        assert_eq!(house.may_deploy(&token).await, v1::Reason::Allowed);
        assert_eq!(phase(house, former).await, v1::KeyPhase::Retired);
        let asked = bearer(&old, v1::WhoAmIRequest {});
        let refused = house.tokens.who_am_i(asked).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        let next = house.login(&secret).await.access_token;
        assert_eq!(house.may_deploy(&next).await, v1::Reason::Allowed);
    }
    // There is no way back.
    let last = houses.last_mut().expect("one at least");
    let rotate = v1::RotateKeyRequest {
        key_id: former.to_string(),
        reason: REASON.to_owned(),
        ..v1::RotateKeyRequest::default()
    };
    let refused = last.keys.rotate_key(bearer(&last.admin, rotate)).await;
    let refused = refused.expect_err("it is over");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    (token, old)
}

#[tokio::test]
async fn what_a_retired_key_sealed_is_refused_and_the_rest_goes_on_embedded() {
    let dir = fresh();
    let file = dir.path().join("seal.keys");
    let keys = keys(&file);
    let store = EmbeddedStore::open(dir.path(), OpenOptions::default()).expect("opened");
    begin(&store, &keys).await;
    drop(store);
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("nobody was there");
    let house = House::of(&server.address, &admin).await;
    let ids = keys.map(|(id, _)| id);
    let (token, old) = check(&mut [house], &file, ids).await;

    // The file is let go of it, and nobody asks for it.
    let lines = fs::read_to_string(&file).expect("readable");
    let kept: Vec<&str> = lines.lines().skip(1).collect();
    server.terminate();
    fs::write(&file, kept.join("\n")).expect("written");
    let server = Server::start(dir.path());
    let mut house = House::of(&server.address, &admin).await;
    assert_eq!(house.may_deploy(&token).await, v1::Reason::Allowed);
    assert_eq!(house.may_deploy(&old).await, v1::Reason::Unknown);
    let logged = server.terminate();
    assert!(!logged.contains("not loaded"), "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_retired_key_sealed_is_refused_by_every_replica_postgres() {
    let (database, files) = (database().await, fresh());
    let file = files.path().join("keys");
    let keys = keys(&file);
    begin(&open(&database).await, &keys).await;
    let admin = tokio::task::block_in_place(|| bootstrap(&database));
    let mut servers = Vec::new();
    let mut houses = Vec::new();
    for name in ["a", "b", "c"] {
        let start = || replica_with_keys(&database.url, name, &file);
        let server = tokio::task::block_in_place(start);
        houses.push(House::of(&server.address, &admin).await);
        servers.push(server);
    }
    check(&mut houses, &file, keys.map(|(id, _)| id)).await;
}
