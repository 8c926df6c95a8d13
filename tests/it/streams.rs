//! Many questions at once: BatchCheck, and StreamCheck from its opening to the server's end.
//!
//! By the API over the wire; half a message is sent by a bare HTTP/2 client. A server whose time
//! for requests is short stands for one that is waited on for long.

use latchkey::proto::v1;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;
use v1::check_service_client::CheckServiceClient;
use v1::stream_check_response::Outcome;

use crate::leaks::{free_port, metrics};
use crate::program::{Server, fresh};
use crate::wire::{bearer, channel, check};

const SHORT: &str = "limits.request_time_max=200ms";
const CLOSED: &str = "check.open=false";

async fn client(server: &Server) -> CheckServiceClient<Channel> {
    CheckServiceClient::new(channel(&server.address).await)
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

fn batch(checks: Vec<v1::CheckRequest>) -> v1::BatchCheckRequest {
    v1::BatchCheckRequest {
        checks,
        at_least: None,
    }
}

#[tokio::test]
async fn a_batch_out_of_its_limits_is_refused_with_the_field_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let mut client = client(&server).await;
    let good = || check(&admin, &[("a:b", "c")]);
    let at_least = v1::CheckRequest {
        at_least: Some(v1::Revision::default()),
        ..good()
    };
    let request_id = v1::CheckRequest {
        request_id: "id-1".to_owned(),
        ..good()
    };
    for (checks, field) in [
        (vec![], "checks"),
        (vec![good(); 257], "checks"),
        (vec![good(), at_least], "checks.at_least"),
        (vec![good(), request_id], "checks.request_id"),
        (vec![good(), check(&admin, &[("a:*", "c")])], "needs"),
    ] {
        let status = client.batch_check(batch(checks)).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        let details = status.get_error_details();
        let violations = &details.bad_request().expect(field).field_violations;
        assert!(violations[0].field.starts_with(field), "{violations:?}");
    }
    let most = client.batch_check(batch(vec![good(); 256])).await;
    assert_eq!(most.expect("answered").into_inner().results.len(), 256);
}

#[tokio::test]
async fn a_batch_is_answered_in_order_at_one_revision_and_counts_no_use_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let (_, once) = server
        .admin()
        .issue("--kind user --uses 1 --name once --reason test");
    let mut client = client(&server).await;
    let needs = [("a:b", "c")];
    let asked = batch(vec![
        check(&once, &needs),
        check("", &needs),
        check(&once, &needs),
        check("lku_nonsense", &needs),
        check(&admin, &needs),
    ]);
    let answer = client.batch_check(asked.clone()).await.expect("answered");
    let results = answer.into_inner().results;
    let reasons: Vec<v1::Reason> = results.iter().map(v1::CheckResponse::reason).collect();
    let expected = [
        v1::Reason::Allowed,
        v1::Reason::NoToken,
        v1::Reason::Allowed,
        v1::Reason::Unknown,
        v1::Reason::Allowed,
    ];
    assert_eq!(reasons, expected);
    let head = results[0].revision.clone().expect("a revision");
    assert!(
        results
            .iter()
            .all(|one| one.revision.as_ref() == Some(&head))
    );

    // The batch's own `at_least` is reached, or the batch fails as a whole.
    let at = |number| v1::BatchCheckRequest {
        at_least: Some(v1::Revision {
            number,
            ..head.clone()
        }),
        ..asked.clone()
    };
    client.batch_check(at(head.number)).await.expect("reached");
    let mut future = Request::new(at(head.number + 1));
    future.set_timeout(std::time::Duration::from_millis(200));
    let status = client.batch_check(future).await.expect_err("not reached");
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
}

/// A stream of questions and its answers.
struct Asked {
    questions: mpsc::Sender<v1::StreamCheckRequest>,
    answers: Streaming<v1::StreamCheckResponse>,
}

impl Asked {
    async fn open(
        client: &mut CheckServiceClient<Channel>,
        caller: Option<&str>,
    ) -> Result<Self, Status> {
        let (questions, asked) = mpsc::channel(8);
        let stream = ReceiverStream::new(asked);
        let request = match caller {
            Some(token) => bearer(token, stream),
            None => Request::new(stream),
        };
        let answers = client.stream_check(request).await?.into_inner();
        Ok(Self { questions, answers })
    }

    /// Asks, and waits for the answer.
    async fn ask(&mut self, id: u64, check: Option<v1::CheckRequest>) -> Result<Outcome, Status> {
        let question = v1::StreamCheckRequest { id, check };
        self.questions.send(question).await.expect("open");
        let answer = self.answers.message().await?.expect("one answer each");
        assert_eq!(answer.id, id);
        Ok(answer.outcome.expect("an outcome"))
    }

    async fn reason(&mut self, token: &str) -> Result<v1::Reason, Status> {
        match self.ask(7, Some(check(token, &[("a:b", "c")]))).await? {
            Outcome::Check(answer) => Ok(answer.reason()),
            Outcome::Error(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_refused_question_has_an_error_of_its_own_and_is_counted_embedded() {
    let dir = fresh();
    let admin_port = free_port();
    let server = Server::start_with(dir.path(), &["--admin", &admin_port]).expect("starts");
    let admin = server.admin.clone().expect("fresh");
    let mut client = client(&server).await;
    let mut asked = Asked::open(&mut client, None).await.expect("opens");
    for (id, question) in [(1, None), (2, Some(check(&admin, &[("a:*", "c")])))] {
        let outcome = asked.ask(id, question).await.expect("goes on");
        let Outcome::Error(error) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.code, Code::InvalidArgument as i32);
        assert_eq!(error.reason, "INVALID_ARGUMENT");
        assert!(!error.message.contains(&admin));
    }
    let reason = asked.reason(&admin).await;
    assert_eq!(reason.expect("goes on"), v1::Reason::Allowed);

    // Unary ones and batches are counted with them.
    let refused = check(&admin, &[("a:*", "c")]);
    client.check(refused.clone()).await.expect_err("refused");
    let refused = batch(vec![refused]);
    client.batch_check(refused).await.expect_err("refused");
    let shown = metrics(&admin_port);
    let line = "latchkey_checks_refused_total{reason=\"INVALID_ARGUMENT\"} 4";
    assert!(shown.contains(line), "{shown}");
}

#[tokio::test]
async fn a_token_that_is_revoked_mid_stream_is_denied_and_a_caller_is_cut_off_embedded() {
    let dir = fresh();
    let server = Server::start_with(dir.path(), &["--set", CLOSED]).expect("starts");
    let admin = server.admin();
    let (asked_id, asked_of) = admin.issue("--kind user --name asked --reason test");
    let (caller_id, caller) = admin.issue("--kind user --name caller --reason test");
    let mut client = client(&server).await;
    let opened = Asked::open(&mut client, Some(&caller)).await;
    let mut asked = opened.expect("opens");
    let reason_of = asked.reason(&asked_of).await;
    assert_eq!(reason_of.expect("answered"), v1::Reason::Allowed);
    let revoke = |id: &str| {
        admin.run(&format!("token revoke {id} --reason now")).ok();
    };
    revoke(&asked_id);
    let reason_of = asked.reason(&asked_of).await;
    assert_eq!(reason_of.expect("answered"), v1::Reason::Revoked);
    revoke(&caller_id);
    let status = asked.reason(&asked_of).await.expect_err("cut off");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unauthenticated, "UNAUTHENTICATED")
    );
}

#[tokio::test]
async fn a_stranger_opens_no_stream_on_a_closed_server_embedded() {
    let dir = fresh();
    let server = Server::start_with(dir.path(), &["--set", CLOSED]).expect("starts");
    let admin = server.admin();
    let (id, gone) = admin.issue("--kind user --name gone --reason test");
    admin.run(&format!("token revoke {id} --reason now")).ok();
    let mut client = client(&server).await;
    for caller in [None, Some("lku_nonsense"), Some(&*gone)] {
        let status = Asked::open(&mut client, caller).await.err();
        let status = status.expect("refused before a question");
        assert_eq!(status.code(), Code::Unauthenticated, "{caller:?}");
    }
}

#[tokio::test]
async fn a_question_beyond_the_limit_of_streams_ends_its_stream_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let mut client = client(&server).await;
    let mut asked = Asked::open(&mut client, None).await.expect("opens");
    let huge = check(&"x".repeat(64 << 10), &[]);
    let status = asked.ask(1, Some(huge)).await.expect_err("too long");
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_silent_stream_is_ended_and_one_that_has_asked_is_not_embedded() {
    let dir = fresh();
    let server = Server::start_with(dir.path(), &["--set", SHORT]).expect("starts");
    let admin = server.admin.clone().expect("fresh");
    let mut client = client(&server).await;
    let mut asked = Asked::open(&mut client, None).await.expect("opens");
    asked.reason(&admin).await.expect("answered");
    let mut silent = Asked::open(&mut client, None).await.expect("opens");
    let status = silent.answers.message().await.expect_err("ended");
    assert_eq!(status.code(), Code::Unavailable);
    // It has been as silent for longer.
    asked.reason(&admin).await.expect("answered");
}

#[tokio::test]
async fn a_stream_ends_with_its_connection_and_that_is_counted_embedded() {
    let dir = fresh();
    let ages = ["age_max=1s", "age_grace=1s"].map(|age| format!("limits.connection_{age}"));
    let admin_port = free_port();
    let mut arguments = vec!["--admin", &*admin_port];
    arguments.extend(ages.iter().flat_map(|age| ["--set", age]));
    let server = Server::start_with(dir.path(), &arguments).expect("starts");
    let admin = server.admin.clone().expect("fresh");
    let mut client = client(&server).await;
    let mut asked = Asked::open(&mut client, None).await.expect("opens");
    asked.reason(&admin).await.expect("answered");
    // Asked to end after a second, it has not: nobody says that its stream has ended.
    asked.answers.message().await.expect_err("cut");
    let shown = metrics(&admin_port);
    let cut = |why: &str, count: u32| {
        let line = format!("latchkey_connections_cut_total{{why=\"{why}\"}} {count}");
        assert!(shown.contains(&line), "{shown}");
    };
    cut("age", 1);
    cut("stalled", 0);
}

/// Sends bytes to a method, with these headers and without an end; the status of its answer.
pub(crate) async fn half_sent(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    bytes: Vec<u8>,
) -> String {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc");
    let add = |request: http::request::Builder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    let request = headers.iter().fold(request, add);
    let request = request.body(()).expect("a request");
    let mut sender = sender.ready().await.expect("ready");
    let (response, mut body) = sender.send_request(request, false).expect("sent");
    body.send_data(bytes.into(), false).expect("sent");
    let response = response.await.expect("headers");
    let mut headers = response.headers().clone();
    let mut answer = response.into_body();
    while let Some(data) = answer.data().await {
        data.expect("data");
    }
    headers.extend(
        answer
            .trailers()
            .await
            .expect("trailers")
            .unwrap_or_default(),
    );
    connection.abort();
    let status = headers.get("grpc-status").expect("a status");
    status.to_str().expect("ascii").to_owned()
}

#[tokio::test]
async fn half_a_message_is_waited_for_as_any_request_and_no_longer_embedded() {
    let dir = fresh();
    let server = Server::start_with(dir.path(), &["--set", SHORT]).expect("starts");
    let admin = server.admin.clone().expect("fresh");
    let message = v1::StreamCheckRequest {
        id: 1,
        check: Some(check(&admin, &[])),
    };
    let message = message.encode_to_vec();
    let framed = [&[0, 0, 0, 0][..], &[message.len() as u8], &message].concat();
    let whole_and_half = [&framed[..], &framed[..9]].concat();
    let path = "/latchkey.v1.CheckService/StreamCheck";
    for bytes in [&framed[..3], &framed[..9], &whole_and_half] {
        let status = half_sent(&server.address, path, &[], bytes.to_vec()).await;
        assert_eq!(status, "14", "{bytes:?}");
    }
    // A length beyond the limit is refused before anything is kept for it.
    let long = [0, 0, 1, 0, 1].to_vec();
    assert_eq!(half_sent(&server.address, path, &[], long).await, "11");
    let mut client = client(&server).await;
    client.check(check(&admin, &[])).await.expect("answered");
}

#[tokio::test]
async fn half_a_question_about_the_api_ends_its_stream_embedded() {
    let dir = fresh();
    let server = Server::start_with(dir.path(), &["--set", SHORT]).expect("starts");
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        // It ends: with what status is the library's.
        half_sent(&server.address, &path, &[], vec![0, 0, 0, 0, 9, 1]).await;
    }
}

#[tokio::test]
async fn streams_are_told_when_the_server_stops_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let mut client = client(&server).await;
    let mut asked = Asked::open(&mut client, None).await.expect("opens");
    asked.reason(&admin).await.expect("answered");
    let ended = tokio::task::spawn_blocking(|| server.terminate());
    let status = asked.answers.message().await.expect_err("told");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "UNAVAILABLE")
    );
    ended.await.expect("in time");
}
