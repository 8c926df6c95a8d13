//! Bytes of Envoy's whole API, against the trimmed definitions under `proto/envoy`.
//!
//! `golden.py` writes them with the code that is generated from Envoy's own definitions, every
//! field set, and what is committed is what it writes. The trimmed types read every value of it
//! that they know, and write answers byte for byte as the whole ones do. The definitions themselves
//! are compared too: names, numbers, types, oneofs. And a server is asked by a client that knows
//! nothing but the whole definitions.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;

use latchkey::proto::DESCRIPTOR;
use latchkey::proto::envoy::config::core::v3 as core;
use latchkey::proto::envoy::service::auth::v3 as auth;
use latchkey::proto::envoy::r#type::v3::HttpStatus;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{FileDescriptorSet, Struct, Value};
use tonic_types::pb::Status;

use auth::attribute_context::{HttpRequest, Peer};
use auth::check_response::HttpResponse;

use crate::program::{Ran, Server, fresh, tool};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/envoy/golden.py");

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("golden/", $name, ".bin")).as_slice()
    };
}

fn request(bytes: &[u8]) -> auth::AttributeContext {
    let request = auth::CheckRequest::decode(bytes).expect("a request");
    request.attributes.expect("attributes")
}

fn http(attributes: &auth::AttributeContext) -> &HttpRequest {
    let request = attributes.request.as_ref().expect("a request");
    request.http.as_ref().expect("an HTTP request")
}

fn socket(peer: Option<&Peer>) -> Option<(&str, u32)> {
    let address = peer?.address.as_ref()?.address.as_ref()?;
    let core::address::Address::SocketAddress(socket) = address;
    let core::socket_address::PortSpecifier::PortValue(port) = socket.port_specifier?;
    Some((&socket.address, port))
}

/// What is the same in both full requests: everything but the headers.
fn all_but_headers(attributes: &auth::AttributeContext) {
    let (source, destination) = (attributes.source.as_ref(), attributes.destination.as_ref());
    assert_eq!(socket(source), Some(("192.0.2.7", 50123)));
    assert_eq!(socket(destination), Some(("2001:db8::1", 8443)));
    let (source, destination) = (source.expect("one"), destination.expect("one"));
    assert_eq!(source.principal, "spiffe://example.com/ns/front/sa/web");
    let pem = "-----BEGIN%20CERTIFICATE-----%0AMIIB%0A-----END%20CERTIFICATE-----%0A";
    assert_eq!(source.certificate, pem);
    assert_eq!(destination.principal, "spiffe://example.com/ns/back/sa/api");
    assert_eq!(destination.certificate, "");
    let http = http(attributes);
    assert_eq!(http.id, "15270914123163486206");
    assert_eq!(http.method, "POST");
    assert_eq!(http.path, "/v1/projects/web/secrets/db?version=2");
    assert_eq!(http.host, "api.example.com");
    assert_eq!(http.protocol, "HTTP/1.1");
    let extensions = [
        ("latchkey.action", "secrets:read"),
        ("latchkey.path", "/v1/projects/{project}/secrets/{name}"),
        (
            "latchkey.resource",
            "acme/{project}/{header:x-environment}/{name}",
        ),
        ("other", "value"),
    ];
    assert_eq!(attributes.context_extensions, texts(extensions));
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
    pairs.map(|(key, value)| (key.into(), value.into())).into()
}

fn structure<const N: usize>(fields: [(&str, Kind); N]) -> Struct {
    let fields = fields.map(|(key, kind)| (key.to_owned(), Value { kind: Some(kind) }));
    Struct {
        fields: BTreeMap::from(fields),
    }
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

fn option(key: &str, value: &str, append: bool) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        append: Some(append),
    }
}

fn status(code: i32, message: &str) -> Option<Status> {
    let (message, details) = (message.to_owned(), Vec::new());
    Some(Status {
        code,
        message,
        details,
    })
}

/// The answer is read from the bytes, and written as them.
#[track_caller]
fn same(bytes: &[u8], answer: &auth::CheckResponse) {
    assert!(auth::CheckResponse::decode(bytes).expect("an answer") == *answer);
    assert_eq!(answer.encode_to_vec(), bytes);
}

fn python(arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = Command::new(tool("python3"));
    command.arg(SCRIPT).args(arguments);
    crate::program::run_with_bytes(command, input)
}

#[test]
fn headers_and_all_else_are_read_from_the_whole_request() {
    let attributes = request(golden!("request_headers"));
    all_but_headers(&attributes);
    let headers = [
        (":authority", "api.example.com"),
        (":method", "POST"),
        (":path", "/v1/projects/web/secrets/db?version=2"),
        ("authorization", "Bearer lkr_1"),
        ("x-api-key", "lkr_2,lkr_3"),
        ("x-environment", "prod"),
        ("x-forwarded-for", "203.0.113.9, 10.0.0.1"),
    ];
    assert_eq!(http(&attributes).headers, texts(headers));
    assert!(http(&attributes).header_map.is_none());
}

#[test]
fn raw_headers_are_read_in_their_order_and_byte_for_byte() {
    let attributes = request(golden!("request_header_map"));
    all_but_headers(&attributes);
    assert!(http(&attributes).headers.is_empty());
    let map = http(&attributes).header_map.as_ref().expect("a map");
    let read = map.headers.iter().map(|header| {
        assert_eq!(header.value, "", "raw values only");
        (header.key.as_str(), &header.raw_value[..])
    });
    let expected: [(&str, &[u8]); 6] = [
        ("authorization", b"Bearer lkr_1"),
        ("authorization", b"Bearer lkr_2"),
        ("x-empty", b""),
        ("x-environment", b"prod"),
        ("x-latin", b"gr\xf6\xdfe"),
        ("x-utf8", "größe".as_bytes()),
    ];
    assert!(read.eq(expected));
}

#[test]
fn a_proxyless_request_is_read_without_what_it_lacks() {
    let attributes = request(golden!("request_proxyless"));
    assert_eq!(
        socket(attributes.source.as_ref()),
        Some(("198.51.100.4", 41000))
    );
    assert!(attributes.context_extensions.is_empty());
    let http = http(&attributes);
    assert_eq!((http.id.as_str(), http.host.as_str()), ("", ""));
    assert_eq!(http.method, "POST");
    assert_eq!(http.path, "/acme.v1.Secrets/Get");
    assert_eq!(http.protocol, "HTTP/2");
    let map = http.header_map.as_ref().expect("a map");
    assert_eq!(map.headers[0].raw_value, b"Bearer lkr_1".as_slice());
}

#[test]
fn a_peer_on_a_pipe_has_no_address() {
    let attributes = request(golden!("request_over_a_pipe"));
    assert_eq!(socket(attributes.source.as_ref()), None);
    assert_eq!(socket(attributes.destination.as_ref()), None);
    let source = attributes.source.expect("a source");
    assert!(source.address.is_some_and(|it| it.address.is_none()));
}

#[test]
fn an_allow_is_written_as_the_whole_definitions_write_it() {
    let ok = auth::OkHttpResponse {
        headers: vec![
            option("x-latchkey-subject", "user:alice", false),
            option("x-seen-by", "latchkey", true),
        ],
        headers_to_remove: vec!["x-latchkey-scopes".into(), "authorization".into()],
        response_headers_to_add: vec![option(
            "x-latchkey-token-expires-at",
            "2030-01-01T00:00:00Z",
            false,
        )],
    };
    let answer = auth::CheckResponse {
        status: status(0, ""),
        http_response: Some(HttpResponse::OkResponse(ok)),
        dynamic_metadata: Some(structure([
            ("reason", text("allowed")),
            ("subject", text("user:alice")),
            ("valid_for_ms", Kind::NumberValue(5000.0)),
        ])),
    };
    same(golden!("response_allowed"), &answer);
}

#[test]
fn a_denial_is_written_as_the_whole_definitions_write_it() {
    let challenge = r#"Bearer realm="latchkey""#;
    let denied = auth::DeniedHttpResponse {
        status: Some(HttpStatus { code: 401 }),
        headers: vec![option("www-authenticate", challenge, false)],
        body: r#"{"reason":"unknown"}"#.to_owned(),
    };
    let answer = auth::CheckResponse {
        status: status(16, "unknown"),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        dynamic_metadata: Some(structure([("reason", text("unknown"))])),
    };
    same(golden!("response_denied"), &answer);
}

#[test]
fn what_is_left_out_is_passed_over() {
    let read = |bytes: &[u8]| auth::CheckResponse::decode(bytes).expect("an answer");
    let more = read(golden!("response_more_than_we_send"));
    let Some(HttpResponse::OkResponse(ok)) = more.http_response else {
        panic!("it is an allow");
    };
    assert_eq!(ok.headers[0].append, None);
    let header = ok.headers[0].header.as_ref().expect("a header");
    assert_eq!(
        (header.key.as_str(), &header.raw_value[..]),
        ("x-raw", &b"\xff"[..])
    );
    let failed = read(golden!("response_failed"));
    assert!(failed.status == status(14, ""));
    assert!(failed.http_response.is_none());
}

#[test]
fn what_is_committed_is_what_the_whole_definitions_write() {
    let folder = fresh();
    let path = folder.path().to_str().expect("text");
    python(&["write", path], b"").ok();
    let committed = Path::new(SCRIPT).with_extension("");
    assert_eq!(files(&committed), files(folder.path()), "golden.py write");
}

/// The files of a folder with what is in them, as digits.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        let bytes = std::fs::read(&path).expect("readable");
        let digits = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        (name.into_owned(), digits)
    };
    entries.map(file).collect()
}

#[test]
fn the_trimmed_definitions_are_parts_of_envoys() {
    python(&["compare"], DESCRIPTOR).ok();
}

#[test]
fn a_definition_that_is_not_envoys_is_found() {
    let check = |change: fn(&mut FileDescriptorSet), expected: &str| {
        let mut set = FileDescriptorSet::decode(DESCRIPTOR).expect("build.rs encoded it");
        change(&mut set);
        python(&["compare"], &set.encode_to_vec()).refused(expected);
    };
    check(
        |set| field(set, "DeniedHttpResponse", "body").number = Some(4),
        "envoy.service.auth.v3.DeniedHttpResponse.body is number 3, not 4",
    );
    check(
        |set| field(set, "DeniedHttpResponse", "body").name = Some("text".into()),
        "DeniedHttpResponse.text is not Envoy's",
    );
    check(
        |set| field(set, "HeaderValue", "raw_value").r#type = Some(9),
        "HeaderValue.raw_value is of type 12, not 9",
    );
    check(
        |set| field(set, "HeaderMap", "headers").label = Some(1),
        "HeaderMap.headers is repeated in one of the two",
    );
    check(
        |set| field(set, "CheckResponse", "denied_response").oneof_index = None,
        "CheckResponse.denied_response is in the oneof http_response, not None",
    );
    check(
        |set| {
            let wrong = ".envoy.service.auth.v3.OkHttpResponse".to_owned();
            field(set, "CheckResponse", "status").type_name = Some(wrong);
        },
        "CheckResponse.status is a .google.rpc.Status, not a .envoy",
    );
    check(
        |set| set.file.retain(|file| !file.package().starts_with("envoy")),
        "there is no message of Envoy's",
    );
}

fn field<'a>(
    set: &'a mut FileDescriptorSet,
    message: &str,
    name: &str,
) -> &'a mut prost_types::FieldDescriptorProto {
    let files = set.file.iter_mut();
    let files = files.filter(|file| file.package().starts_with("envoy."));
    let mut messages = files.flat_map(|file| &mut file.message_type);
    let message = messages
        .find(|it| it.name() == message)
        .expect("the message");
    let mut fields = message.field.iter_mut();
    fields.find(|it| it.name() == name).expect("the field")
}

#[test]
fn a_client_of_the_whole_definitions_reads_every_answer_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let arguments = "--kind resource --resource acme/web --name golden --ttl 1h --reason try \
                     --scope secrets:read@acme/web/prod/**";
    let (id, secret) = server.admin().issue(arguments);
    let said = python(&["ask", &server.address], secret.as_bytes())
        .ok()
        .stdout;
    let answers: BTreeMap<String, serde_json::Value> = said
        .lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(line["unknown"], 0, "{line}");
            let asked = line["asked"].as_str().expect("a name").to_owned();
            (asked, line["answer"].take())
        })
        .collect();
    for form in ["headers", "header_map"] {
        let answer = &answers[form];
        assert_eq!(answer["status"], serde_json::json!({}), "{answer}");
        let facts = &answer["dynamic_metadata"];
        assert_eq!(facts["reason"], "allowed");
        assert_eq!(facts["token_id"], id.as_str());
        let headers = answer["ok_response"]["headers"]
            .as_array()
            .expect("headers");
        assert_eq!(headers.len(), 5, "{answer}");
        assert!(headers.iter().all(|it| it["append"] == false), "{answer}");
    }
    let denied = |form: &str, status: &str, reason: &str| {
        let answer = &answers[form];
        assert_ne!(
            answer["status"]["code"],
            serde_json::Value::Null,
            "{answer}"
        );
        assert_eq!(
            answer["denied_response"]["status"]["code"], status,
            "{answer}"
        );
        assert_eq!(answer["dynamic_metadata"]["reason"], reason, "{answer}");
        assert!(answer.get("ok_response").is_none(), "{answer}");
    };
    denied("none", "Unauthorized", "no_token");
    let called = |form: &str, id: &str| {
        let body = answers[form]["denied_response"]["body"].as_str();
        let body: serde_json::Value = serde_json::from_str(body.expect("a body")).expect("JSON");
        assert_eq!(body["request_id"], id, "{form}");
    };
    called("none", "4f2c-1");
    called("elsewhere", "15270914123163486206");
    denied("doubled", "BadRequest", "several_tokens");
    denied("elsewhere", "Forbidden", "not_permitted");
    denied("proxyless", "Forbidden", "no_route");
    denied("empty", "BadRequest", "path");
    assert_eq!(answers.len(), 7);
}
