//! The API over the wire: a plain client, and what a hostile one may send.
//!
//! Bad input is a clear error with the field in it, and the server goes on.

use std::io::{Read, Write};
use std::net::TcpStream;

use latchkey::proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use v1::check_service_client::CheckServiceClient;
use v1::token_service_client::TokenServiceClient;

use crate::crash::issue;
use crate::program::{Server, fresh};

/// A channel to a server.
pub(crate) async fn channel(address: &str) -> Channel {
    Channel::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect()
        .await
        .expect("a connection")
}

/// A request as the bearer of `token`.
pub(crate) fn bearer<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().expect("ascii");
    request.metadata_mut().insert("authorization", value);
    request
}

/// A question about `token`.
pub(crate) fn check(token: &str, needs: &[(&str, &str)]) -> v1::CheckRequest {
    v1::CheckRequest {
        token: token.to_owned(),
        needs: needs
            .iter()
            .map(|(action, resource)| v1::Need {
                action: (*action).to_owned(),
                resource: (*resource).to_owned(),
            })
            .collect(),
        ..v1::CheckRequest::default()
    }
}

#[tokio::test]
async fn what_is_not_a_token_is_unknown_and_nothing_more_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let wrong_checksum = format!(
        "{}{}",
        &admin[..52],
        if admin.ends_with('0') { "1" } else { "0" }
    );
    let stranger = {
        let other = fresh();
        Server::start(other.path()).admin.clone().expect("fresh")
    };
    let long = "x".repeat(100_000);
    let mut answers = Vec::new();
    for token in [
        "lku_garbage",
        &wrong_checksum,
        &stranger,
        "Bearer x",
        "\u{0}",
        &long,
    ] {
        let answer = client.check(check(token, &[])).await.expect("an answer");
        answers.push(answer.into_inner());
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0], "they look the same");
        assert_eq!(
            (answer.allowed, answer.reason()),
            (false, v1::Reason::Unknown)
        );
    }
    let none = client
        .check(check("", &[]))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(none.reason(), v1::Reason::NoToken);
}

#[tokio::test]
async fn the_straight_way_of_a_check_answers_as_the_general_one_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let channel = channel(&server.address).await;
    let mut tokens = TokenServiceClient::new(channel.clone());
    let issued = tokens.issue_token(bearer(&admin, issue(1))).await;
    let narrow = issued.expect("issued").into_inner().secret;
    let mut client = CheckServiceClient::new(channel);
    let here = [("a:b", "crash/1")];
    let elsewhere = [("a:b", "crash/2")];
    for (token, needs) in [
        (&admin, &here[..]),
        (&admin, &[]),
        (&narrow, &here),
        (&narrow, &elsewhere),
        (&narrow, &[]),
        (&"lku_garbage".to_owned(), &here),
    ] {
        let message = check(token, needs);
        let alone = client.check(message.clone()).await.expect("an answer");
        // Decoded and encoded by prost, as nothing of a batch goes the straight way.
        let batch = v1::BatchCheckRequest {
            checks: vec![message],
            at_least: None,
        };
        let batch = client.batch_check(batch).await.expect("an answer");
        assert_eq!(batch.into_inner().results, [alone.into_inner()]);
    }
}

#[tokio::test]
async fn an_allow_by_a_former_secret_is_valid_no_longer_than_its_grace_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let channel = channel(&server.address).await;
    let mut client = CheckServiceClient::new(channel.clone());
    let mut tokens = TokenServiceClient::new(channel);
    let issued = tokens.issue_token(bearer(&admin, issue(1))).await;
    let issued = issued.expect("issued").into_inner();
    let valid_ms = |answer: v1::CheckResponse| {
        assert!(answer.allowed, "{answer:?}");
        let valid_for = answer.valid_for.expect("an allow says for how long");
        valid_for.seconds * 1_000 + i64::from(valid_for.nanos) / 1_000_000
    };
    let asked = check(&issued.secret, &[]);
    let before = client.check(asked.clone()).await.expect("an answer");
    let before_ms = valid_ms(before.into_inner());
    let grace = prost_types::Duration {
        seconds: before_ms / 1_000 - 1,
        nanos: 0,
    };
    let rotation = v1::RotateTokenRequest {
        token_id: issued.token.expect("shown").token_id,
        grace: Some(grace),
        ..v1::RotateTokenRequest::default()
    };
    let rotated = tokens.rotate_token(bearer(&admin, rotation)).await;
    rotated.expect("rotated");
    let after = client.check(asked).await.expect("an answer");
    assert!(valid_ms(after.into_inner()) <= grace.seconds * 1_000);
}

#[tokio::test]
async fn bad_needs_are_a_clear_error_with_the_field_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    for needs in [
        [("secrets:*", "a")],
        [("*", "a")],
        [("Secrets:read", "a")],
        [("", "a")],
        [("a:b", "")],
        [("a:b", "/a")],
        [("a:b", "a/")],
        [("a:b", "a//b")],
        [("a:b", "a/../b")],
        [("a:b", "a/**")],
        [("a:b", "a%2fb")],
        [("a:b:c:d:e", "a")],
    ] {
        let status = client
            .check(check(&admin, &needs))
            .await
            .expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{needs:?}");
        let details = status.get_error_details();
        let fields = details
            .bad_request()
            .expect("a bad request")
            .field_violations
            .clone();
        assert!(fields[0].field.starts_with("needs"), "{fields:?}");
        assert_eq!(details.error_info().expect("info").domain, "latchkey");
    }
    let many = vec![("a:b", "c"); 33];
    let status = client
        .check(check(&admin, &many))
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_8_mb_token_is_refused_and_the_server_goes_on_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let huge = "x".repeat(8 << 20);
    let status = client.check(check(&huge, &[])).await.expect_err("refused");
    assert!(
        matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{status:?}"
    );
    assert!(!status.message().contains("xxxx"));
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let answer = client
        .check(check(&admin, &[("a:b", "c")]))
        .await
        .expect("answered");
    assert!(answer.into_inner().allowed);
}

#[test]
fn garbage_and_half_messages_close_the_connection_and_nothing_else_embedded() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let dir = fresh();
    let server = Server::start(dir.path());
    let settings = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    let half_headers = [&settings[..], &[0, 0, 40, 1, 4, 0, 0, 0, 1, 0x82]].concat();
    let oversized = [&settings[..], &[0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1]].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0xFF; 4096],
        &PREFACE[..10],
        &half_headers,
        &oversized,
    ] {
        let mut stream = TcpStream::connect(&server.address).expect("connects");
        stream.write_all(bytes).expect("writes");
        // It may have closed already.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // Ends by itself: the server closes what makes no sense, with or without a reset.
        let _ = stream.read_to_end(&mut answer);
    }
    let admin = server.admin.clone().expect("fresh");
    assert!(server.admin().check(&admin, "a:b", "c").0);
}

#[tokio::test]
async fn a_repeat_returns_the_first_answer_without_the_secret_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let mut client = TokenServiceClient::new(channel(&server.address).await);
    let request = v1::IssueTokenRequest {
        kind: v1::TokenKind::User as i32,
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::All(v1::AllScopes {})),
        }),
        name: "first".to_owned(),
        labels: (0..16)
            .map(|n| (format!("key-{n}"), n.to_string()))
            .collect(),
        reason: "test".to_owned(),
        request_id: "id-1".to_owned(),
        ..v1::IssueTokenRequest::default()
    };
    let first = client
        .issue_token(bearer(&admin, request.clone()))
        .await
        .expect("issued")
        .into_inner();
    let again = client
        .issue_token(bearer(&admin, request.clone()))
        .await
        .expect("repeated")
        .into_inner();
    assert!(!first.secret.is_empty() && !first.secret_withheld);
    assert!(again.secret.is_empty() && again.secret_withheld);
    assert_eq!(
        (&again.token, &again.revision),
        (&first.token, &first.revision)
    );
    let other = v1::IssueTokenRequest {
        name: "second".to_owned(),
        ..request
    };
    let status = client
        .issue_token(bearer(&admin, other))
        .await
        .expect_err("another request");
    let details = status.get_error_details();
    assert_eq!(
        details.error_info().expect("info").reason,
        "REQUEST_ID_REUSED"
    );
}

#[tokio::test]
async fn a_check_demands_a_revision_and_another_history_is_aborted_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let answer = client
        .check(check(&admin, &[]))
        .await
        .expect("answered")
        .into_inner();
    let head = answer.revision.expect("a revision");
    let at = |revision: v1::Revision| v1::CheckRequest {
        at_least: Some(revision),
        ..check(&admin, &[])
    };
    client.check(at(head.clone())).await.expect("reached");
    let other = v1::Revision {
        chain: vec![7; 8],
        ..head.clone()
    };
    let status = client.check(at(other)).await.expect_err("another history");
    assert_eq!(status.code(), Code::Aborted);
    let mut future = Request::new(at(v1::Revision {
        number: head.number + 1,
        ..head
    }));
    future.set_timeout(std::time::Duration::from_millis(50));
    let status = client.check(future).await.expect_err("not reached");
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
}

#[tokio::test]
async fn two_tokens_in_one_call_are_refused_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let mut client = TokenServiceClient::new(channel(&server.address).await);
    let value: tonic::metadata::AsciiMetadataValue =
        format!("Bearer {admin}").parse().expect("ascii");
    let mut twice = bearer(&admin, v1::WhoAmIRequest {});
    twice.metadata_mut().append("authorization", value);
    let mut joined = Request::new(v1::WhoAmIRequest {});
    let value = format!("Bearer {admin},Bearer {admin}")
        .parse()
        .expect("ascii");
    joined.metadata_mut().insert("authorization", value);
    for request in [twice, joined, Request::new(v1::WhoAmIRequest {})] {
        let status = client.who_am_i(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    client
        .who_am_i(bearer(&admin, v1::WhoAmIRequest {}))
        .await
        .expect("one is fine");
}

#[tokio::test]
async fn a_use_counts_once_for_a_request_id_also_the_last_one_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (_, one) = server
        .admin()
        .issue("--kind user --uses 1 --name one --reason test");
    let (_, other) = server
        .admin()
        .issue("--kind user --uses 1 --name other --reason test");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let ask = |token: &str, id: &str| v1::CheckRequest {
        request_id: id.to_owned(),
        ..check(token, &[("a:b", "c")])
    };
    for (token, id, expected) in [
        (&one, "id-1", v1::Reason::Allowed),
        (&one, "id-1", v1::Reason::Allowed),
        (&other, "id-1", v1::Reason::Allowed),
        (&one, "id-2", v1::Reason::UsesExhausted),
        (&one, "", v1::Reason::UsesExhausted),
    ] {
        let answer = client
            .check(ask(token, id))
            .await
            .expect("answered")
            .into_inner();
        assert_eq!(answer.reason(), expected, "{id}");
        assert_eq!(answer.allowed, expected == v1::Reason::Allowed);
    }
}

#[test]
fn one_peer_that_holds_its_places_does_not_keep_others_from_revoking_embedded() {
    // More calls than there are places for all, as many on a connection as it may have.
    const CONNECTIONS: usize = 11;
    const CALLS: usize = 199;
    let dir = fresh();
    let server = Server::start(dir.path());
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect_from_another_address(&server.address);
        stream.write_all(&half_requests(CALLS)).expect("writes");
        held.push(stream);
    }
    // The last connection is told, call by call, that there is no place: so all were heard.
    let mut told = 0;
    let mut bytes = [0; 4096];
    while told < CALLS * 9 {
        told += held[CONNECTIONS - 1].read(&mut bytes).expect("answers");
    }
    let (id, _) = server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a");
    server
        .admin()
        .run(&format!("token revoke {id} --reason now"))
        .ok();
    drop(held);
}

/// A connection from 127.0.0.2, as from another machine.
fn connect_from_another_address(address: &str) -> TcpStream {
    use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let here = SocketAddrV4::new([127, 0, 0, 2].into(), 0);
    bind(&socket, &here).expect("an address of this machine");
    let there: SocketAddrV4 = address.parse().expect("an address");
    connect(&socket, &there).expect("connects");
    TcpStream::from(socket)
}

/// Headers of so many calls, each without an end.
fn half_requests(count: usize) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let path = b"/latchkey.v1.TokenService/WhoAmI";
    // Literal header fields without indexing: :method, :scheme, :path, content-type.
    let mut block = vec![0x83, 0x86, 0x04, path.len() as u8];
    block.extend(path);
    block.extend([0x0F, 0x10, 16]);
    block.extend(b"application/grpc");
    for stream in (1_u32..).step_by(2).take(count) {
        bytes.extend([0, 0, block.len() as u8, 1, 4]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(&block);
    }
    bytes
}

#[tokio::test]
async fn a_write_is_logged_with_the_token_that_called_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (id, token) = server.admin().issue("--kind user --name a --reason a");
    let mut client = TokenServiceClient::new(channel(&server.address).await);
    let renewed = client
        .renew_token(bearer(&token, v1::RenewTokenRequest::default()))
        .await;
    assert!(renewed.is_err(), "it cannot be renewed, and that is logged");
    let revoked = client
        .revoke_token(bearer(&token, v1::RevokeTokenRequest::default()))
        .await;
    revoked.expect("itself");
    let logged = server.terminate();
    for method in ["RenewToken", "RevokeToken"] {
        let line = logged.lines().find(|line| line.contains(method));
        let line = line.expect("a line for each write");
        assert!(line.contains(&id), "{line}");
    }
}
