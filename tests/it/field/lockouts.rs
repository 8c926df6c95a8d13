//! Infisical's "clear lockouts": an operator ends what failing logins have locked out.
//!
//! Clients come from several addresses of this machine's loopback.

use latchkey::proto::v1;
use tonic::{Code, Status};

use super::company::{REASON, missing, refused, seconds};
use super::door::{Door, on_each_store};
use super::entrance::{BOT, login, settings, wanted};
use crate::wire::bearer;

on_each_store! {
    lockouts_are_ended_all_at_once_or_of_one_network
    lockouts_are_ended_by_whoever_may_set_the_method
}

/// Two failures within an hour lock out for a day.
async fn two_lock_out(door: &Door) -> String {
    door.furnish().await;
    let lockout = v1::LockoutPolicy {
        threshold: 2,
        duration: Some(seconds(86_400)),
        reset: Some(seconds(3_600)),
    };
    door.universal_auth(v1::LoginSettings {
        lockout: Some(lockout),
        ..settings(600, 1_200)
    })
    .await;
    door.secret(wanted()).await.secret
}

/// Tries a secret from an address of this machine that ends like this.
async fn enters(door: &Door, last: u8, secret: &str) -> bool {
    let mut logins = door.logins_from([127, 0, 0, last]).await;
    let answer = logins.login(login(secret)).await;
    if let Err(status) = &answer {
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    answer.is_ok()
}

async fn guess(door: &Door, last: u8) {
    assert!(!enters(door, last, "lkc_guess").await);
}

/// Guesses until these addresses are locked out, which happens behind the answers.
async fn lock_out(door: &Door, addresses: &[u8]) {
    let locks = async || {
        let log = door.log().await.into_iter();
        log.filter(|one| one.kind == "login.lock").count()
    };
    let before = locks().await;
    for last in addresses {
        guess(door, *last).await;
        guess(door, *last).await;
    }
    while locks().await < before + addresses.len() {
        tokio::task::yield_now().await;
    }
}

async fn unlock(
    door: &Door,
    token: &str,
    network: &str,
) -> Result<v1::UnlockLoginsResponse, Status> {
    let request = v1::UnlockLoginsRequest {
        service_account: BOT.to_owned(),
        network: network.to_owned(),
        reason: REASON.to_owned(),
        ..v1::UnlockLoginsRequest::default()
    };
    let mut credentials = door.credentials();
    let answer = credentials.unlock_logins(bearer(token, request)).await;
    answer.map(tonic::Response::into_inner)
}

async fn lockouts_are_ended_all_at_once_or_of_one_network(door: Door) {
    let secret = two_lock_out(&door).await;
    lock_out(&door, &[7, 8, 9]).await;
    assert!(!enters(&door, 7, &secret).await && !enters(&door, 8, &secret).await);
    let done = unlock(&door, &door.admin, "127.0.0.7").await;
    let done = done.expect("unlocked");
    assert_eq!(done.unlocked, ["127.0.0.7/32"]);
    assert!(done.enforcement.is_some(), "it holds on every server");
    assert!(enters(&door, 7, &secret).await && !enters(&door, 8, &secret).await);
    let done = unlock(&door, &door.admin, "").await.expect("unlocked");
    assert_eq!(done.unlocked, ["127.0.0.8/32", "127.0.0.9/32"]);
    assert!(enters(&door, 8, &secret).await && enters(&door, 9, &secret).await);
    // What is not locked out may be unlocked, and what has failed there is counted anew.
    guess(&door, 7).await;
    let none = unlock(&door, &door.admin, "").await.expect("so already");
    assert!(none.unlocked.is_empty());
    guess(&door, 7).await;
    lock_out(&door, &[8]).await;
    assert!(enters(&door, 7, &secret).await && !enters(&door, 8, &secret).await);
    let log = door.log().await;
    let ended = log.iter().filter(|one| one.kind == "login.unlock");
    let mut ended: Vec<_> = ended.map(|one| one.details["networks"].as_str()).collect();
    ended.sort_unstable();
    assert_eq!(ended, ["127.0.0.7/32", "127.0.0.8/32, 127.0.0.9/32"]);
}

async fn lockouts_are_ended_by_whoever_may_set_the_method(door: Door) {
    let secret = two_lock_out(&door).await;
    lock_out(&door, &[7]).await;
    for (who, home) in [("user:stranger", "acme"), ("user:manager", "acme")] {
        door.principal(who, home).await;
    }
    door.role("manager", "acme", &["services:write"]).await;
    door.grant("user:manager", "manager", "acme/**").await;
    let stranger = door.login("user:stranger").await;
    let foreign = unlock(&door, &stranger, "").await;
    refused(foreign, Code::NotFound, "NOT_FOUND");
    // Whoever lets the account be guessed at again holds what it holds.
    let manager = door.login("user:manager").await;
    let status = refused(
        unlock(&door, &manager, "").await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(missing(&status), ["deploy:run@acme/web/**"]);
    let wrong = unlock(&door, &door.admin, "127.0.0.0/8").await;
    refused(wrong, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert!(!enters(&door, 7, &secret).await);
    door.grant("user:manager", "deployer", "acme/web/**").await;
    let done = unlock(&door, &manager, "").await.expect("unlocked");
    assert_eq!(done.unlocked, ["127.0.0.7/32"]);
    assert!(enters(&door, 7, &secret).await);
}
