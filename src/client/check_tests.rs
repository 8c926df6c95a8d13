//! The typed client against a server of canned answers: verdicts, errors, and lateness.
//!
//! Every case goes through a socket. What must not happen comes first: no allow that is late,
//! contradicts itself, or comes with an error becomes a `Verdict::Allowed`.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::fake_tests::{Answer, Fake, allow, deny, late, nobody, revision};
use super::{CallError, CallingToken, CheckError, CheckQuery, Client, Verdict};
use crate::domain::clock::Clock;
use crate::proto::v1;

const TOKEN: &str = "lku_0123456789";

fn name(outcome: &Result<Verdict, CheckError>) -> String {
    match outcome {
        Ok(Verdict::Allowed(_)) => "allowed".into(),
        Ok(Verdict::Denied(denial)) => format!("denied {}", denial.reason.as_str_name()),
        Err(CheckError::Stale { retry_after }) => format!("stale {retry_after:?}"),
        Err(CheckError::TooLate) => "too late".into(),
        Err(CheckError::DeadlineExceeded) => "deadline".into(),
        Err(CheckError::NotReached) => "not reached".into(),
        Err(CheckError::HistoryDiverged) => "diverged".into(),
        Err(CheckError::Unavailable(_)) => "unavailable".into(),
        Err(CheckError::CallerRefused(_)) => "caller".into(),
        Err(CheckError::InvalidQuestion(_)) => "question".into(),
        Err(CheckError::Contradiction(_)) => "contradiction".into(),
    }
}

async fn check(answer: Answer, expected: &str) {
    let fake = Fake::start(answer.clone()).await;
    let outcome = fake.client().await.check(CheckQuery::new(TOKEN)).await;
    assert_eq!(name(&outcome), expected, "{answer:?}");
}

#[tokio::test]
async fn only_a_whole_allow_allows() {
    check(late(0, allow()), "allowed").await;
    for reason in [v1::Reason::Unknown, v1::Reason::NotPermitted] {
        let expected = format!("denied {}", reason.as_str_name());
        check(late(0, deny(reason)), &expected).await;
    }
    let stale = deny(v1::Reason::Stale);
    check(late(0, stale), "stale Some(1.5s)").await;

    let mut newer = deny(v1::Reason::Unknown);
    newer.reason = 999;
    check(late(0, newer), "denied REASON_UNSPECIFIED").await;
    let mut answer = deny(v1::Reason::Revoked);
    answer.allowed = true;
    check(late(0, answer), "contradiction").await;
    let mut answer = allow();
    answer.allowed = false;
    check(late(0, answer), "contradiction").await;
    let mut answer = allow();
    answer.valid_for = None;
    check(late(0, answer), "contradiction").await;
    let mut answer = allow();
    answer.valid_for = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    check(late(0, answer), "contradiction").await;
    let mut answer = allow();
    answer.revision = None;
    check(late(0, answer), "contradiction").await;
}

#[tokio::test]
async fn an_allow_that_comes_late_is_no_allow() {
    check(late(99, allow()), "allowed").await;
    check(late(100, allow()), "too late").await;
    check(late(59_999, allow()), "too late").await;
    let mut long = allow();
    long.valid_for = Some(prost_types::Duration {
        seconds: 3_600,
        nanos: 0,
    });
    // A suspend: the timers stood still, the boot clock did not.
    check(late(59_999, long.clone()), "allowed").await;
    check(late(60_000, long), "deadline").await;
}

#[tokio::test]
async fn no_answer_within_the_deadline_is_an_error() {
    let fake = Fake::start(Answer::Never).await;
    let query = CheckQuery::new(TOKEN).deadline(Duration::from_millis(20));
    let outcome = fake.client().await.check(query).await;
    assert_eq!(name(&outcome), "deadline");
}

#[tokio::test]
async fn an_error_says_what_the_caller_can_do() {
    let with = |code, reason: &str| {
        let details = ErrorDetails::with_error_info(reason, "latchkey", HashMap::new());
        Answer::Fail(Status::with_error_details(code, "", details))
    };
    check(with(Code::DeadlineExceeded, "NOT_REACHED"), "not reached").await;
    check(with(Code::Aborted, "HISTORY_DIVERGED"), "diverged").await;
    for (status, expected) in [
        (Status::unauthenticated(""), "caller"),
        (Status::permission_denied(""), "caller"),
        (Status::invalid_argument(""), "question"),
        (Status::deadline_exceeded(""), "deadline"),
        (Status::resource_exhausted(""), "unavailable"),
        (Status::unavailable(""), "unavailable"),
        (Status::internal(""), "unavailable"),
        (Status::unimplemented(""), "unavailable"),
    ] {
        check(Answer::Fail(status), expected).await;
    }
    let client = Client::connect_lazy(nobody().await).expect("an address");
    let outcome = client.check(CheckQuery::new(TOKEN)).await;
    assert_eq!(name(&outcome), "unavailable");
}

#[tokio::test]
async fn an_identity_says_who_and_until_when() {
    let fake = Fake::start(late(40, allow())).await;
    let client = fake.client().await;
    let sent_ms = fake.clock.boot_ms();
    let Ok(Verdict::Allowed(identity)) = client.check(CheckQuery::new(TOKEN)).await else {
        panic!("it is allowed");
    };
    assert_eq!(identity.subject, "user:alice");
    assert_eq!(identity.kind, v1::TokenKind::User);
    assert_eq!(identity.revision, revision(7));
    assert_eq!(identity.expires_at, Some(2_000_000_000_005));
    assert_eq!(identity.valid_until(), sent_ms + 100);
    fake.clock.advance(59);
    assert!(identity.is_fresh(&*fake.clock));
    fake.clock.advance(1);
    assert!(!identity.is_fresh(&*fake.clock));
}

#[tokio::test]
async fn a_query_is_sent_whole_with_the_calling_token_and_the_deadline() {
    let fake = Fake::start(late(0, allow())).await;
    let token = CallingToken::parse("lks_caller").expect("a token");
    let client = fake.client().await.with_token(token);
    let query = CheckQuery::new(TOKEN)
        .need("secrets:read", "acme/web")
        .context(v1::Context {
            audience: Some("billing".into()),
            ..Default::default()
        })
        .accept(v1::TokenKind::Service)
        .at_least(revision(3))
        .request_id("r-1");
    assert!(!format!("{query:?}").contains("0123456789"));
    assert_eq!(name(&client.check(query).await), "allowed");

    let (question, metadata) = fake.seen().pop().expect("one question");
    assert_eq!(question.token, TOKEN);
    assert_eq!(question.needs.len(), 1);
    assert_eq!(
        question.context.and_then(|it| it.audience).as_deref(),
        Some("billing")
    );
    assert_eq!(question.accepted_kinds, [i32::from(v1::TokenKind::Service)]);
    assert_eq!(question.at_least, Some(revision(3)));
    assert_eq!(question.request_id, "r-1");
    assert_eq!(
        metadata.get("authorization").expect("it"),
        "Bearer lks_caller"
    );
    assert!(metadata.contains_key("grpc-timeout"));
    assert!(!format!("{client:?}").contains("lks_caller"));
}

#[tokio::test]
async fn own_writes_are_demanded_of_every_check() {
    let fake = Fake::start(late(0, allow())).await;
    let plain = fake.client().await;
    let client = plain.clone().with_own_writes_read();
    let demanded = async |client: &Client, query: CheckQuery| {
        let _ = client.check(query).await;
        fake.seen().pop().expect("a question").0.at_least
    };
    let query = || CheckQuery::new(TOKEN);
    assert_eq!(demanded(&client, query()).await, None);
    client.issue(Default::default()).await.expect("issued");
    assert_eq!(demanded(&client, query()).await, Some(revision(11)));
    client
        .clone()
        .revoke(Default::default())
        .await
        .expect("revoked");
    assert_eq!(demanded(&client, query()).await, Some(revision(12)));
    client.observe(Some(&revision(9)));
    let older = query().at_least(revision(10));
    assert_eq!(demanded(&client, older).await, Some(revision(12)));
    let newer = query().at_least(revision(13));
    assert_eq!(demanded(&client, newer).await, Some(revision(13)));
    client.forget_own_writes();
    assert_eq!(demanded(&client, query()).await, None);

    plain.issue(Default::default()).await.expect("issued");
    assert_eq!(demanded(&plain, query()).await, None);
}

#[tokio::test]
async fn every_call_has_a_token_and_a_deadline() {
    let fake = Fake::start(Answer::Never).await;
    let token = CallingToken::parse("lks_caller").expect("a token");
    let client = fake.client().await.with_token(token);
    let subject = client.whoami().await.expect("an answer").subject;
    assert!(subject.contains("Bearer lks_caller"), "{subject}");
    assert!(!subject.contains("None"), "{subject}");

    let client = client.with_call_deadline(Duration::from_millis(20));
    let request = v1::GetTokenRequest::default();
    let status = client
        .raw_tokens()
        .get_token(request)
        .await
        .expect_err("no answer");
    assert!(matches!(
        CallError::from(status),
        CallError::OutcomeUnknown(_)
    ));
}
