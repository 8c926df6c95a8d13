//! Key pairs: a service account logs in by what it signs, and its private key never leaves it.
//!
//! For who knows Infisical's methods without a shared secret, or RFC 7523.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::key::Algorithm;
use latchkey::domain::key_pair::{KeyPair, Statement};
use latchkey::domain::token::TokenId;
use latchkey::proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use v1::login_request::Proof;

use super::company::{REASON, refused, seconds};
use super::door::{Door, on_each_store};
use super::entrance::BOT;
use crate::wire::bearer;

const AUDIENCE: &str = "latchkey";

on_each_store! {
    a_registered_key_logs_in_by_a_signed_assertion
    an_assertion_is_good_once_and_for_its_account_alone
    what_is_no_assertion_is_told_what_is_wrong_and_who_can_sign_guesses_nothing
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
    let never = v1::LoginSettings {
        lockout_disabled: true,
        ..v1::LoginSettings::default()
    };
    key_pairs_with(door, never).await;
}

async fn key_pairs_with(door: &Door, settings: v1::LoginSettings) {
    door.furnish().await;
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
        life_s: 300,
        jti,
    }
}

fn by(client_id: &str, assertion: String) -> v1::LoginRequest {
    v1::LoginRequest {
        client_id: client_id.to_owned(),
        proof: Some(Proof::Assertion(assertion)),
        ..v1::LoginRequest::default()
    }
}

async fn shown(
    door: &Door,
    client_id: &str,
    pair: &KeyPair,
    statement: &Statement<'_>,
) -> Result<v1::AccessToken, Status> {
    let assertion = pair.assertion(statement).expect("signed");
    let answer = door.logins().login(by(client_id, assertion)).await?;
    Ok(answer.into_inner().token.expect("a token"))
}

/// Why a login was refused, as programs read it; none if that is not told.
fn cause(refused: &Status) -> Option<String> {
    let info = refused.get_details_error_info().expect("details");
    info.metadata.get("cause").cloned()
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
    let nobodys = Statement {
        client: "service:nobody",
        ..unused
    };
    let mut told = Vec::new();
    for (client_id, pair, statement) in [
        // It is signed with a key of another account, or of none.
        ("service:other", &pair, others),
        ("service:nobody", &pair, nobodys),
        (BOT, &stranger, unused),
    ] {
        let answer = shown(&door, client_id, pair, &statement).await;
        let status = refused(answer, Code::Unauthenticated, "LOGIN_REFUSED");
        assert_eq!(cause(&status), None);
        told.push(status.message().to_owned());
    }
    told.dedup();
    assert_eq!(told.len(), 1, "they look the same: {told:?}");
    let answer = shown(&door, BOT, &pair, &base).await;
    let status = refused(answer, Code::Unauthenticated, "LOGIN_REFUSED");
    assert_eq!(cause(&status).as_deref(), Some("replayed"));
    // None of these used it up; and a restart does not give the first one back.
    shown(&door, BOT, &pair, &unused).await.expect("let in");
    let door = door.again().await;
    refused(
        shown(&door, BOT, &pair, &base).await,
        Code::Unauthenticated,
        "LOGIN_REFUSED",
    );
}

/// A JWT of these parts, signed by nobody.
fn unsigned(header: &str, claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        part(header),
        part(claims),
        URL_SAFE_NO_PAD.encode([7; 64])
    )
}

/// Sends what is no assertion, thrice each.
async fn not_read(door: &Door, id: &str) {
    let header = |rest: &str| format!("{{\"alg\":\"EdDSA\"{rest}}}");
    let known = header(&format!(",\"kid\":\"{id}\""));
    let claims = |rest: &str| format!("{{\"iss\":\"a\",\"sub\":\"a\",\"aud\":\"a\"{rest}}}");
    let whole = claims(",\"exp\":2,\"jti\":\"1\"");
    for (text, what) in [
        (unsigned(&known, &claims(",\"exp\":2")), "`jti`"),
        (
            unsigned(&known, &claims(",\"exp\":2.5,\"jti\":\"1\"")),
            "`exp`",
        ),
        (unsigned(&header(""), &whole), "`kid`"),
        (unsigned(&known.replace("EdDSA", "HS256"), &whole), "`alg`"),
        (
            unsigned(&known.replace("}", ",\"crit\":[]}"), &whole),
            "`crit`",
        ),
        ("x".repeat(4_097), "4096"),
        ("garbage".to_owned(), "dots"),
    ] {
        let mut told = Vec::new();
        for client_id in [BOT, "service:nobody", BOT] {
            let answer = door.logins().login(by(client_id, text.clone())).await;
            let status = refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
            told.push(status.message().to_owned());
        }
        told.dedup();
        assert_eq!(told.len(), 1, "whoever it is sent for: {told:?}");
        assert!(
            told[0].starts_with("assertion: ") && told[0].contains(what),
            "{told:?}"
        );
    }
}

async fn what_is_no_assertion_is_told_what_is_wrong_and_who_can_sign_guesses_nothing(door: Door) {
    let twice = v1::LoginSettings {
        lockout: Some(v1::LockoutPolicy {
            threshold: 2,
            duration: Some(seconds(3_600)),
            reset: Some(seconds(3_600)),
        }),
        ..v1::LoginSettings::default()
    };
    key_pairs_with(&door, twice).await;
    let (pair, id) = with_key(&door, Algorithm::Ed25519).await;
    let (stranger, _) = with_key(&door, Algorithm::Ed25519).await;
    not_read(&door, &id).await;
    // Who can sign is told why, and is never locked out by it.
    let base = stated(&id, "unused");
    let others = Statement {
        client: "service:other",
        ..base
    };
    let audience = Statement {
        audience: "others",
        ..base
    };
    let at = |now_s| Statement { now_s, ..base };
    let far_ahead = Statement {
        life_s: 86_400,
        ..base
    };
    for (statement, why) in [
        (others, "other_client"),
        (audience, "audience"),
        (at(base.now_s - 3_600), "expired"),
        (at(base.now_s + 300), "not_yet_valid"),
        (far_ahead, "too_far_ahead"),
    ] {
        for _ in 0..2 {
            let answer = shown(&door, BOT, &pair, &statement).await;
            let status = refused(answer, Code::Unauthenticated, "LOGIN_REFUSED");
            assert_eq!(cause(&status).as_deref(), Some(why), "{status}");
            assert!(status.message().contains("assertion"), "{status}");
        }
    }
    // Counted in their order: a guess from elsewhere after all that were none.
    let guess = stranger.assertion(&base).expect("signed");
    let mut elsewhere = door.logins_from([127, 0, 0, 9]).await;
    for _ in 0..2 {
        let answer = elsewhere.login(by(BOT, guess.clone())).await;
        refused(answer, Code::Unauthenticated, "LOGIN_REFUSED");
    }
    assert_eq!(door.until_locked().await, ["127.0.0.9/32"]);
    // None of these used it up.
    shown(&door, BOT, &pair, &base).await.expect("let in");
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
