//! What all replicas must know before one of them goes on: seal keys, and the format of the log.
//!
//! By real processes that read files of their own. A replica that lacks a key says that it cannot
//! know, and denies nothing that another would allow. That keys are retired after 30 days is
//! tested beside the decision.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use latchkey::proto::v1;
use tonic::{Code, Status};

use super::fleet::{Member, SHORT, Site, confirmed, known, two};
use super::house::{ACCOUNT, House, REASON};
use crate::program::Server;
use crate::seal_keys::generate;
use crate::wire::bearer;

/// What nothing here takes longer than unless it hangs.
const HANGS: Duration = Duration::from_secs(60);

/// A file of keys that is another at once, as a mounted Secret is.
fn replace(file: &Path, keys: &str) {
    let next = file.with_extension("next");
    // Its mode is copied as well.
    let template = file.with_file_name("all");
    fs::copy(template, &next).expect("copied");
    fs::write(&next, keys).expect("written");
    fs::rename(&next, file).expect("renamed");
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("readable")
}

async fn key(house: &mut House, id: &str) -> Option<v1::SealKey> {
    let keys = house
        .keys
        .list_keys(bearer(&house.admin, v1::ListKeysRequest {}));
    let keys = keys.await.expect("listed").into_inner().keys;
    keys.into_iter().find(|key| key.key_id == id)
}

/// Waits until all know which replicas have loaded a key.
async fn until_loaded(house: &mut House, id: &str, by: &[&str], not_by: &[&str]) {
    let began = Instant::now();
    loop {
        let key = key(house, id).await.unwrap_or_default();
        if key.loaded_by == by && key.missing_on == not_by {
            return;
        }
        assert!(began.elapsed() < HANGS, "{key:?}");
    }
}

async fn rotate(house: &mut House, id: &str) -> Result<v1::RotateKeyResponse, Status> {
    let rotate = v1::RotateKeyRequest {
        key_id: id.to_owned(),
        wait_for_replicas: true,
        reason: REASON.to_owned(),
        ..v1::RotateKeyRequest::default()
    };
    let rotated = house.keys.rotate_key(bearer(&house.admin, rotate)).await?;
    Ok(rotated.into_inner())
}

#[track_caller]
fn in_vain<T: std::fmt::Debug>(answer: Result<T, Status>, why: &str) {
    let refused = answer.expect_err(why);
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains(why), "{refused}");
}

/// Has all replicas seal by a new key, first held by one of them only; its id.
async fn rotated(a: &mut Member, b: &mut Member) -> String {
    let id = generate(&a.keys);
    until_loaded(&mut a.house, &id, &["a"], &["b"]).await;
    for house in [&mut a.house, &mut b.house] {
        in_vain(rotate(house, &id).await, "is not loaded by b");
        in_vain(
            rotate(house, "").await,
            "no new seal key is loaded by every server",
        );
    }
    replace(&b.keys, &read(&a.keys));
    until_loaded(&mut a.house, &id, &["a", "b"], &[]).await;
    let answer = rotate(&mut b.house, "").await.expect("both have loaded it");
    assert_eq!(answer.key_id, id);
    confirmed(answer.enforcement);
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_seals_once_every_replica_has_loaded_it_postgres() {
    let (_site, mut a, mut b, secret) = two(SHORT).await;
    let old = a.house.login(&secret).await;
    let keys = a
        .house
        .keys
        .list_keys(bearer(&a.house.admin, v1::ListKeysRequest {}));
    let keys = keys.await.expect("listed").into_inner().keys;
    let former = keys[0].key_id.clone();
    let id = rotated(&mut a, &mut b).await;
    for (id, phase) in [
        (&former, v1::KeyPhase::Verifying),
        (&id, v1::KeyPhase::Minting),
    ] {
        let key = key(&mut a.house, id).await.expect("it is used");
        assert_eq!(key.phase(), phase);
    }
    let new = [a.house.login(&secret).await, b.house.login(&secret).await];
    for token in [&old, &new[0], &new[1]] {
        for house in [&mut a.house, &mut b.house] {
            let reason = house.may_deploy(&token.access_token).await;
            assert_eq!(reason, v1::Reason::Allowed);
        }
    }
    // What the former has sealed may live for 30 days.
    let retire = v1::RetireKeyRequest {
        key_id: former,
        reason: REASON.to_owned(),
        ..v1::RetireKeyRequest::default()
    };
    let retired = b
        .house
        .keys
        .retire_key(bearer(&b.house.admin, retire))
        .await;
    in_vain(retired, "720 hours");
    let back = b.house.may_deploy(&old.access_token).await;
    assert_eq!(back, v1::Reason::Allowed);
}

/// Asks who the bearer is.
async fn who(house: &mut House, token: &str) -> Result<v1::WhoAmIResponse, Status> {
    let asked = bearer(token, v1::WhoAmIRequest {});
    house
        .tokens
        .who_am_i(asked)
        .await
        .map(tonic::Response::into_inner)
}

/// Asserts that a replica cannot know of a token, though others can.
async fn cannot_know(house: &mut House, token: &v1::AccessToken) {
    let reason = house.may_deploy(&token.access_token).await;
    assert_eq!(reason, v1::Reason::Stale);
    let refused = who(house, &token.access_token).await.expect_err("unread");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_a_key_cannot_know_and_denies_nothing_else_postgres() {
    let (site, mut a, mut b, secret) = two(SHORT).await;
    let old = a.house.login(&secret).await;
    let id = rotated(&mut a, &mut b).await;
    let new = a.house.login(&secret).await;
    // Of two that come, one has the key that seals, the other has neither.
    let (with, without) = (site.file("c"), site.file("d"));
    let keys = read(&a.keys);
    replace(&with, keys.lines().last().expect("the new one"));
    generate(&without);
    let mut c = site.member_with("c", SHORT, &with, &[]).await;
    let mut d = site.member_with("d", SHORT, &without, &[]).await;
    cannot_know(&mut c.house, &old).await;
    cannot_know(&mut d.house, &old).await;
    cannot_know(&mut d.house, &new).await;
    let given = c.house.login(&secret).await;
    let refused = d.house.try_login(&secret).await.expect_err("no key");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let admin = site.admin.clone();
    for house in [&mut a.house, &mut c.house] {
        for token in [&new, &given] {
            let reason = house.may_deploy(&token.access_token).await;
            assert_eq!(reason, v1::Reason::Allowed);
        }
    }
    for house in [&mut c.house, &mut d.house] {
        who(house, &admin).await.expect("it is stored");
        let answer = house.check(&admin, &[]).await;
        assert_eq!(answer.reason(), v1::Reason::Allowed);
        assert_eq!(house.may_deploy(&secret).await, v1::Reason::WrongKind);
        assert_eq!(house.may_deploy("lka_garbage").await, v1::Reason::Unknown);
    }
    until_loaded(&mut a.house, &id, &["a", "b", "c"], &["d"]).await;

    // Once it has read them, it knows.
    replace(&without, &keys);
    let reads = async { while d.house.may_deploy(&old.access_token).await == v1::Reason::Stale {} };
    tokio::time::timeout(HANGS, reads)
        .await
        .expect("read in time");
    for token in [&old, &new, &given] {
        let reason = d.house.may_deploy(&token.access_token).await;
        assert_eq!(reason, v1::Reason::Allowed);
    }
    d.house.login(&secret).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_logs_in_while_a_replica_of_the_first_format_is_there_postgres() {
    let site = Site::new().await;
    let mut a = site.member("a", SHORT).await;
    let older = ["changes.format_max=1"];
    let all = site.file("all");
    let mut old = site.member_with("old", SHORT, &all, &older).await;
    a.house.furnish().await;
    let set = |house: &House| {
        let set = v1::SetLoginMethodRequest {
            service_account: ACCOUNT.to_owned(),
            kind: v1::LoginMethodKind::UniversalAuth.into(),
            reason: REASON.to_owned(),
            ..v1::SetLoginMethodRequest::default()
        };
        let mut credentials = house.credentials.clone();
        let set = bearer(&house.admin, set);
        async move { credentials.set_login_method(set).await }
    };
    for house in [&mut a.house, &mut old.house] {
        let refused = set(house).await.expect_err("one reads less");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        let refused = house.try_login("lkc_garbage").await.expect_err("a guess");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    let Member { server, .. } = old;
    tokio::task::block_in_place(|| server.terminate());
    set(&a.house).await.expect("it has left");
    let secret = known(&mut a.house, House::wanted()).await;
    let token = a.house.login(&secret).await;
    let reason = a.house.may_deploy(&token.access_token).await;
    assert_eq!(reason, v1::Reason::Allowed);
    // It does not come back.
    let arguments = ["--set", older[0]];
    let said =
        tokio::task::block_in_place(|| Server::replica(&site.database.url, "old", &arguments));
    let said = said.err().expect("the log is of a newer format");
    assert!(said.contains("format 2"), "{said}");
}
