//! Key pairs: a service account logs in by what it signs, and its private key never leaves it.
//!
//! For who knows Infisical's methods without a shared secret, or RFC 7523.

use std::time::{SystemTime, UNIX_EPOCH};

use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::key::Algorithm;
use latchkey::domain::key_pair::{KeyPair, Statement};
use latchkey::domain::token::TokenId;
use latchkey::proto::v1;
use tonic::{Code, Status};
use v1::login_request::Proof;

use super::company::{REASON, refused};
use super::door::{Door, on_each_store};
use super::entrance::BOT;
use crate::wire::bearer;

const AUDIENCE: &str = "latchkey";

on_each_store! {
    a_registered_key_logs_in_by_a_signed_assertion
    an_assertion_is_good_once_and_for_its_account_alone
    a_key_that_is_revoked_or_a_private_one_logs_nobody_in
}

async fn registered(door: &Door, pem: &str) -> Result<v1::RegisterPublicKeyResponse, Status> {
    let request = v1::RegisterPublicKeyRequest {
        service_account: BOT.to_owned(),
        public_key: pem.to_owned(),
        name: "laptop".to_owned(),
        reason: REASON.to_owned(),
        ..v1::RegisterPublicKeyRequest::default()
    };
    let request = bearer(&door.admin, request);
    let answer = door.credentials().register_public_key(request).await?;
    Ok(answer.into_inner())
}

async fn with_key(door: &Door, algorithm: Algorithm) -> (KeyPair, String) {
    let pair = KeyPair::generate(algorithm, &OsEntropy).expect("a pair");
    let made = registered(door, &pair.public().to_pem()).await;
    let id = made
        .expect("registered")
        .credential
        .expect("shown")
        .token_id;
    (pair, id)
}

async fn key_pairs(door: &Door) {
    door.furnish().await;
    let settings = v1::LoginSettings {
        lockout_disabled: true,
        ..v1::LoginSettings::default()
    };
    let kind = v1::LoginMethodKind::KeyPair;
    let set = door.method_by(&door.admin, kind, settings).await;
    set.expect("set");
}

fn stated<'a>(credential: &str, jti: &'a str) -> Statement<'a> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Statement {
        credential: TokenId::parse(credential).expect("an id"),
        client: BOT,
        audience: AUDIENCE,
        now_s: now.expect("after 1970").as_secs(),
        life_s: 60,
        jti,
    }
}

async fn shown(
    door: &Door,
    client_id: &str,
    pair: &KeyPair,
    statement: &Statement<'_>,
) -> Result<v1::AccessToken, Status> {
    let assertion = pair.assertion(statement).expect("signed");
    let request = v1::LoginRequest {
        client_id: client_id.to_owned(),
        proof: Some(Proof::Assertion(assertion)),
        ..v1::LoginRequest::default()
    };
    let answer = door.logins().login(request).await?;
    Ok(answer.into_inner().token.expect("a token"))
}

async fn a_registered_key_logs_in_by_a_signed_assertion(door: Door) {
    key_pairs(&door).await;
    for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
        let (pair, id) = with_key(&door, algorithm).await;
        let token = shown(&door, BOT, &pair, &stated(&id, "1")).await;
        let token = token.expect("let in");
        assert_eq!(door.deploys(&token).await, v1::Reason::Allowed);
        door.revoke(&id).await;
        assert_eq!(door.deploys(&token).await, v1::Reason::Revoked);
    }
}

async fn an_assertion_is_good_once_and_for_its_account_alone(door: Door) {
    key_pairs(&door).await;
    door.principal("service:other", "acme").await;
    let (pair, id) = with_key(&door, Algorithm::Ed25519).await;
    let (stranger, _) = with_key(&door, Algorithm::Ed25519).await;
    let base = stated(&id, "once");
    shown(&door, BOT, &pair, &base)
        .await
        .expect("the first time");
    let unused = Statement {
        jti: "unused",
        ..base
    };
    let others = Statement {
        client: "service:other",
        ..unused
    };
    let cases = [
        ("service:other", &pair, unused),
        (BOT, &stranger, unused),
        (BOT, &pair, others),
    ];
    let mut told = Vec::new();
    for (client_id, pair, statement) in &cases {
        let answer = shown(&door, client_id, pair, statement).await;
        let status = refused(answer, Code::Unauthenticated, "LOGIN_REFUSED");
        told.push(status.message().to_owned());
    }
    told.dedup();
    assert_eq!(told.len(), 1, "they look the same: {told:?}");
    // Who can sign guesses nothing, is told why, and is never locked out by it.
    let audience = Statement {
        audience: "others",
        ..unused
    };
    let at = |now_s| Statement { now_s, ..unused };
    let far_ahead = Statement {
        life_s: 86_400,
        ..unused
    };
    for (statement, why) in [
        (base, "(uses_exhausted)"),
        (audience, "(audience)"),
        (at(base.now_s - 3_600), "(expired)"),
        (at(base.now_s + 300), "(not_yet_valid)"),
        (far_ahead, "(not_yet_valid)"),
    ] {
        let answer = shown(&door, BOT, &pair, &statement).await;
        let status = refused(answer, Code::Unauthenticated, "LOGIN_REFUSED");
        assert!(
            status.message().contains(why),
            "{} is not {why}",
            status.message()
        );
    }
    // None of these used it up; and a restart does not give the first one back.
    shown(&door, BOT, &pair, &unused).await.expect("let in");
    let door = door.again().await;
    refused(
        shown(&door, BOT, &pair, &base).await,
        Code::Unauthenticated,
        "LOGIN_REFUSED",
    );
}

async fn a_key_that_is_revoked_or_a_private_one_logs_nobody_in(door: Door) {
    key_pairs(&door).await;
    let (pair, id) = with_key(&door, Algorithm::P256).await;
    door.revoke(&id).await;
    let answer = shown(&door, BOT, &pair, &stated(&id, "1")).await;
    let status = refused(answer, Code::Unauthenticated, "LOGIN_REFUSED");
    assert!(status.message().contains("revoked"), "{status}");
    // It cannot be registered a second time either.
    refused(
        registered(&door, &pair.public().to_pem()).await,
        Code::AlreadyExists,
        "ALREADY_EXISTS",
    );
    let fresh = KeyPair::generate(Algorithm::Ed25519, &OsEntropy).expect("a pair");
    let answer = registered(&door, &fresh.to_pem()).await;
    let status = refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert!(status.message().contains("private"), "{status}");
}
