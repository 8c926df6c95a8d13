//! Hosts that are made to be read in two ways: by the route table as another one, by the service,
//! which takes off a port or a name before `@`, as the one that the table guards.
//!
//! `admin.example.com` needs a permission and everything else is public. A client without a token
//! names the guarded host in every spelling that a lenient service undoes.

use super::client::get;
use super::config::Listener;
use super::mesh::Mesh;

const TABLE: &str = r#"
[[route]]
host = "admin.example.com"
path = "/**"
action = "admin:all"
resource = "acme"

[[route]]
path = "/**"
optional = true
"#;

/// A host, and what comes of it without a token.
const CASES: &[(&str, &str)] = &[
    ("elsewhere.example.com", "200"),
    ("admin.example.com", "401 no_token"),
    ("ADMIN.example.COM", "401 no_token"),
    // To an Envoy that takes off neither these are other hosts than the guarded one.
    ("elsewhere.example.com:8443", "403 no_route"),
    ("[2001:db8::1]:8443", "403 no_route"),
    ("admin.example.com:", "403 no_route"),
    ("admin.example.com:8443", "403 no_route"),
    ("admin.example.com.", "403 no_route"),
    ("admin.example.com.:443", "403 no_route"),
    // What no host looks like is none of anybody's.
    ("admin.example.com:+443", "403 no_route"),
    ("admin.example.com:http", "403 no_route"),
    ("admin.example.com:000443", "403 no_route"),
    ("admin.example.com:443:443", "403 no_route"),
    ("admin.example.com..", "403 no_route"),
    ("user@admin.example.com", "403 no_route"),
    ("elsewhere:x@admin.example.com", "403 no_route"),
    ("admin.example.com%2e", "403 no_route"),
    ("admin.example.com%00", "403 no_route"),
    ("admin.example.com,elsewhere.example.com", "403 no_route"),
    ("admin.example.com;elsewhere", "403 no_route"),
    ("admin.example.com'", "403 no_route"),
    ("[admin.example.com]", "403 no_route"),
    (".", "403 no_route"),
    (":443", "403 no_route"),
    // These Envoy refuses by itself.
    ("admin.example.com/", "400"),
    ("admin.example.com elsewhere", "400"),
    ("admin.example.com#", "400"),
    ("admin.example.com\\", "400"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_none_passes_no_route_embedded() {
    let folder = crate::program::fresh();
    let table = folder.path().join("routes.toml");
    std::fs::write(&table, TABLE).expect("written");
    let setting = format!("envoy.routes_file={}", table.display());
    let mesh = Mesh::start(&[&setting], |port| vec![Listener::asking("front", port)]).await;
    let port = mesh.envoy.port("front");
    let mut wrong = Vec::new();
    for (host, expected) in CASES {
        let answer = get("/x").header("host", host).send(port).await;
        let reason = match answer.header("content-type") {
            Some("application/json") => answer.json()["reason"].as_str().map(str::to_owned),
            _ => None,
        };
        let reason = reason.map(|reason| format!(" {reason}"));
        let came = format!("{}{}", answer.status, reason.unwrap_or_default());
        if came != *expected {
            wrong.push(format!("{host:?}: {came:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
