//! The login record from the command line: logins, renewals and exchanges, with what they came from.
//!
//! It is written in batches: whoever has just been given a token may find it a moment later.

use serde_json::Value;

use super::{World, guess, word};

#[test]
fn logins_are_listed_with_what_and_from_where_embedded() {
    let world = World::start();
    let ((first, secret), (second, other)) = (world.secret(""), world.secret(""));
    world.token(&secret);
    world.token(&other);
    world
        .login("ci --secret-file -", &guess())
        .refused("[LOGIN_REFUSED]");
    let listed = |arguments: &str| {
        let list = world.json(&format!("credential logins {arguments}"));
        let logins = list["logins"].as_array().expect("a list").clone();
        let text = |login: &Value, name: &str| login[name].as_str().expect(name).to_owned();
        let shown = logins.iter().map(|login| {
            assert_eq!(text(login, "from"), "127.0.0.1");
            assert_eq!(text(login, "service_account"), "service:ci");
            text(login, "credential_id")
        });
        shown.collect::<Vec<_>>()
    };
    // They are written in batches.
    while listed("ci").len() < 2 {
        std::thread::yield_now();
    }
    assert_eq!(
        listed(""),
        [second.clone(), first.clone()],
        "the newest first"
    );
    assert_eq!(listed(&format!("--credential {first}")), [first]);
    assert_eq!(listed("ci --limit 1"), [second]);
}

#[test]
fn renewals_and_exchanges_are_listed_with_what_they_came_from_embedded() {
    let world = World::start();
    let (credential, secret) = world.secret("");
    let token = world.token(&secret);
    let given = |by: &str, line: &str| {
        let ran = world.server.as_bearer(by).run(line).ok();
        word(&ran).to_owned()
    };
    let hand_on = "token exchange --scope secrets:read@acme/web";
    let renewed = given(&token, "token renew");
    let handed_on = given(&renewed, hand_on);
    // A stored token is exchanged as well; this one speaks for a resource, and nobody logged in.
    let (resource, stored) = world.admin().issue(
        "--kind resource --resource acme/web --scope secrets:read@acme/web --name r --reason r",
    );
    let of_resource = given(&stored, hand_on);
    let id = |token: &str| {
        let who = world
            .server
            .as_bearer(token)
            .run("token whoami --output json");
        who.json()["token_id"].as_str().expect("an id").to_owned()
    };
    let listed = |arguments: &str| {
        let list = world.json(&format!("credential logins {arguments}"));
        list["logins"].as_array().expect("a list").clone()
    };
    while listed("").len() < 4 {
        std::thread::yield_now();
    }
    let row = |kind: &str, speaks_for: &str, credential: &str, token: &str, parent: Value| {
        let row = [kind, speaks_for, credential, &id(token)].map(Value::from);
        [&row[..], &[parent]].concat()
    };
    let seen = |arguments: &str| {
        let names = [
            "kind",
            "service_account",
            "credential_id",
            "token_id",
            "parent_id",
        ];
        let rows = listed(arguments).into_iter();
        rows.map(|login| names.map(|name| login[name].clone()).to_vec())
            .collect::<Vec<_>>()
    };
    let ci = "service:ci";
    let of_account = [
        row("exchange", ci, &credential, &handed_on, id(&renewed).into()),
        row("renewal", ci, &credential, &renewed, id(&token).into()),
        row("login", ci, &credential, &token, Value::Null),
    ];
    assert_eq!(seen("ci"), of_account);
    assert_eq!(seen(&format!("--credential {credential}")), of_account);
    let of_resource = [row(
        "exchange",
        "",
        &resource,
        &of_resource,
        resource.clone().into(),
    )];
    assert_eq!(seen(&format!("--credential {resource}")), of_resource);
    assert_eq!(seen("--limit 1"), of_resource);
    let table = world.admin().run("credential logins ci").ok().stdout;
    assert!(
        table.contains("renewal") && table.contains("PARENT"),
        "{table}"
    );
}
