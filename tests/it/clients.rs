//! Real clients from package registries, which know the API through reflection only: grpcurl
//! and Python's grpcio.
//!
//! And the standard health service. `make tools` installs what is used here.

use std::process::Command;

use serde_json::Value;

use crate::program::{Ran, Server, fresh, run, tool};

fn grpcurl(server: &Server, arguments: &[&str], method: &str, message: &str) -> Ran {
    let mut command = Command::new(tool("grpcurl"));
    command.args(["-plaintext", "-d", "@"]).args(arguments);
    command.arg(&server.address).arg(method);
    run(command, message)
}

#[test]
fn grpcurl_lists_issues_checks_and_revokes_through_reflection_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = format!(
        "authorization: Bearer {}",
        server.admin.as_deref().expect("fresh")
    );
    let mut list = Command::new(tool("grpcurl"));
    list.args(["-plaintext", &server.address, "list"]);
    let services = run(list, "").ok().stdout;
    for service in [
        "envoy.service.auth.v3.Authorization",
        "grpc.health.v1.Health",
        "latchkey.v1.AuditService",
        "latchkey.v1.CheckService",
        "latchkey.v1.DirectoryService",
        "latchkey.v1.TokenService",
    ] {
        assert!(services.contains(service), "{service} is not in {services}");
    }
    assert!(
        !services.contains("latchkey.log"),
        "the log's format is private"
    );

    let issue = r#"{"kind": "TOKEN_KIND_RESOURCE", "resource": "acme/web", "name": "g",
        "scopes": {"only": {"scopes": ["secrets:read@acme/web/**"]}}, "ttl": "3600s", "reason": "try"}"#;
    let issued = grpcurl(
        &server,
        &["-H", &admin],
        "latchkey.v1.TokenService/IssueToken",
        issue,
    )
    .json();
    let secret = issued["secret"].as_str().expect("a secret");
    let check = |resource: &str| -> Value {
        let message = format!(
            r#"{{"token": "{secret}", "needs": [{{"action": "secrets:read", "resource": "{resource}"}}]}}"#
        );
        grpcurl(&server, &[], "latchkey.v1.CheckService/Check", &message).json()
    };
    assert_eq!(check("acme/web/db")["allowed"], true);
    let denied = check("acme/api");
    assert_eq!(
        (&denied["allowed"], &denied["reason"]),
        (&Value::Null, &"REASON_NOT_PERMITTED".into())
    );
    let revoke = format!(r#"{{"secret": "{secret}", "reason": "tried"}}"#);
    grpcurl(
        &server,
        &["-H", &admin],
        "latchkey.v1.TokenService/RevokeToken",
        &revoke,
    )
    .json();
    assert_eq!(check("acme/web/db")["reason"], "REASON_REVOKED");

    let refused = grpcurl(&server, &[], "latchkey.v1.TokenService/IssueToken", issue);
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("Unauthenticated"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("UNAUTHENTICATED"),
        "rich details: {}",
        refused.stderr
    );
}

#[test]
fn python_finds_the_api_by_reflection_and_uses_it_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients.py");
    let mut command = Command::new(tool("python3"));
    command.arg(script).arg(&server.address);
    let ran = run(command, server.admin.as_deref().expect("fresh")).ok();
    assert_eq!(
        ran.stdout.trim(),
        "allowed, denied, streamed, revoked, healthy",
        "{}",
        ran.stderr
    );
}

#[test]
fn health_is_told_per_service_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    for service in [
        "",
        "latchkey.v1.CheckService",
        "latchkey.v1.TokenService",
        "envoy.service.auth.v3.Authorization",
    ] {
        let message = format!(r#"{{"service": "{service}"}}"#);
        let health = grpcurl(&server, &[], "grpc.health.v1.Health/Check", &message).json();
        assert_eq!(health["status"], "SERVING", "{service}");
    }
    let unknown = grpcurl(
        &server,
        &[],
        "grpc.health.v1.Health/Check",
        r#"{"service": "x"}"#,
    );
    assert!(unknown.stderr.contains("NotFound"), "{}", unknown.stderr);
}
