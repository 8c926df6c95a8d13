//! What the command line and the client tell of replicas: how far a change has come, who there
//! is, and how to wait.
//!
//! Against whole servers in this process, one of which is cut off from the database.

use std::time::Duration;

use latchkey::client::{CallError, CallingToken, Client, Enforced};
use latchkey::proto::v1;
use serde_json::{Value, json};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::crash::issue;
use crate::fleet::{LONG, Node, Options, fleet};
use crate::program::{Ran, latchkey, run, words};
use crate::stale::until_serving;

fn by(node: &Node, token: &str, line: &str, input: &str) -> Ran {
    let mut command = latchkey();
    command
        .args(words(line))
        .env("LATCHKEY_ADDR", &node.address)
        .env("LATCHKEY_TOKEN", token);
    run(command, input)
}

const ISSUE: &str = "token issue --kind resource --resource acme/web --scope a:b@acme/web \
                     --ttl 1h --name n --reason r";

#[tokio::test(flavor = "multi_thread")]
async fn the_program_says_how_far_a_change_has_come_postgres() {
    let ([a, b], admin) = fleet([LONG; 2].map(Options::lease)).await;
    let plain = by(&a, &admin, &format!("{ISSUE} --output json"), "").json();
    assert!(plain.get("enforcement").is_none(), "{plain}");
    let waited = by(&a, &admin, &format!("{ISSUE} --wait --output json"), "").json();
    let confirmed = json!({"state": "confirmed", "replicas": ["a", "b"]});
    assert_eq!(waited["enforcement"], confirmed);
    let secret = waited["secret"].as_str().expect("a secret");
    let shown = by(&a, &admin, &format!("{ISSUE} --wait"), "").ok();
    assert!(
        shown.stdout.contains("confirmed by 2 replicas: a, b"),
        "{}",
        shown.stdout
    );
    let alone = by(&a, &admin, &format!("{ISSUE} --wait --secret-only"), "").ok();
    assert_eq!(alone.stdout.lines().count(), 1, "{}", alone.stdout);
    assert!(alone.stderr.contains("confirmed by 2 replicas: a, b"));

    b.partition();
    let revoke = "token revoke --secret-file - --reason r --timeout 3s";
    let revoked = by(&a, &admin, &format!("{revoke} --output json"), secret).json();
    let enforcement = &revoked["enforcement"];
    assert_eq!(enforcement["state"], "committed");
    assert_eq!(
        (&enforcement["replicas"], &enforcement["missing"]),
        (&json!(["a"]), &json!(["b"]))
    );
    let after = enforcement["everywhere_after_ms"].as_u64().expect("told");
    assert!((1..=315_001).contains(&after), "{after}");
    let again = by(&a, &admin, revoke, secret).ok();
    let lines: Vec<&str> = again.stdout.lines().collect();
    assert!(lines[0].contains("was revoked before"), "{lines:?}");
    assert!(lines[1].starts_with("committed; enforced everywhere after 3"));
    assert!(lines[1].ends_with(" s; missing: b"), "{lines:?}");
    let revision = revoked["revision"].as_str().expect("a revision");
    let wait = format!("wait {revision} --timeout 3s");
    let waited = by(&a, &admin, &wait, "");
    assert_eq!(waited.code, 3, "{}{}", waited.stdout, waited.stderr);
    assert!(waited.stdout.ends_with("missing: b\n"), "{}", waited.stdout);
    b.heal();
    let waited = by(&a, &admin, &format!("wait {revision} --timeout 60s"), "").ok();
    assert_eq!(waited.stdout, "confirmed by 2 replicas: a, b\n");
    let other = by(&a, &admin, "wait 1-0011223344556677 --output json", "");
    assert_eq!(other.code, 3, "{}", other.stderr);
    assert!(
        other.stderr.contains("HISTORY_DIVERGED"),
        "{}",
        other.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_directory_command_says_how_far_it_has_come_postgres() {
    let ([a, _b], admin) = fleet([LONG; 2].map(Options::lease)).await;
    let told = |line: &str| {
        let ran = by(&a, &admin, &format!("{line} --reason r --output json"), "").json();
        ran.get("enforcement").cloned()
    };
    let confirmed = Some(json!({"state": "confirmed", "replicas": ["a", "b"]}));
    for line in [
        "user create alice --home acme",
        "team create platform --home acme",
        "role create agent --home acme --action a:b",
        "team add-member platform user:alice",
        "user enable alice",
    ] {
        assert_eq!(told(line), None, "{line}");
        let line = line.replace("alice", "bob").replace("agent", "agent2");
        let line = line.replace("create platform", "create platform2");
        assert_eq!(told(&format!("{line} --wait")), confirmed, "{line}");
    }
    let grant = by(
        &a,
        &admin,
        "grant create --principal user:alice --role agent --resource acme/** --reason r --wait \
         --output json",
        "",
    );
    let grant = grant.json();
    assert_eq!(grant.get("enforcement").cloned(), confirmed);
    let grant = grant["grant_id"].as_str().expect("an id");
    for line in [
        &format!("grant delete {grant}"),
        "role update agent --action a:c",
        "role delete agent",
        "team remove-member platform user:alice",
        "user disable alice",
        "user delete alice",
        "token revoke-all --subject user:bob",
    ] {
        assert_eq!(told(line), confirmed, "{line}");
    }
    let yaml = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/acme.yaml");
    let applied = by(
        &a,
        &admin,
        &format!("apply -f {yaml} --yes --wait --output json"),
        "",
    );
    assert_eq!(applied.json().get("enforcement").cloned(), confirmed);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_the_replicas_to_who_may_see_them_postgres() {
    let ([a, b], admin) = fleet([LONG; 2].map(Options::lease)).await;
    let issued = by(&a, &admin, &format!("{ISSUE} --wait --output json"), "").json();
    until_serving(&a, "latchkey.v1.TokenService", ServingStatus::Serving).await;
    let told = by(&a, &admin, "status --output json", "").json();
    assert_eq!(told["lease_ms"], 300_000);
    let replicas = told["replicas"].as_array().expect("a list");
    let names: Vec<&Value> = replicas.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(replicas[0]["is_this_server"], true);
    assert_eq!(replicas[1]["address"], b.address.as_str());
    let head = told["head"].as_str().expect("a head");
    let head: u64 = head
        .split('-')
        .next()
        .expect("a number")
        .parse()
        .expect("digits");
    assert_eq!(replicas[0]["applied_revision"], head);
    let shown = by(&a, &admin, "status", "").ok().stdout;
    assert!(
        shown.contains("BEHIND") && shown.contains(&b.address),
        "{shown}"
    );
    let secret = issued["secret"].as_str().expect("a secret");
    let told = by(&a, secret, "status --output json", "").json();
    assert!(told.get("replicas").is_none(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_tells_confirmed_from_committed_postgres() {
    let ([a, b], admin) = fleet([LONG; 2].map(Options::lease)).await;
    let client = Client::connect(format!("http://{}", a.address)).await;
    let client = client
        .expect("connected")
        .with_call_deadline(Duration::from_secs(60));
    let client = client.with_token(CallingToken::parse(&admin).expect("a token"));
    let waiting = v1::IssueTokenRequest {
        wait_for_replicas: true,
        ..issue(1)
    };
    let issued = client.issue(waiting).await.expect("issued");
    let names = || vec!["a".to_owned(), "b".to_owned()];
    let everywhere = Enforced::Confirmed { replicas: names() };
    assert_eq!(Enforced::of(issued.enforcement.as_ref()), everywhere);
    let plain = client.issue(issue(2)).await.expect("issued");
    assert_eq!(
        Enforced::of(plain.enforcement.as_ref()),
        Enforced::NotAwaited
    );
    let revision = plain.revision.expect("a revision");
    let waited = client.wait_for_revision(revision.clone()).await;
    assert_eq!(waited.expect("waited"), everywhere);
    b.partition();
    let revoke = v1::RevokeTokenRequest {
        target: Some(v1::revoke_token_request::Target::Secret(issued.secret)),
        reason: "test".to_owned(),
        ..v1::RevokeTokenRequest::default()
    };
    let short = client.clone().with_call_deadline(Duration::from_secs(3));
    let answer = short.revoke(revoke).await.expect("durable");
    let told = Enforced::of(answer.enforcement.as_ref());
    let Enforced::Committed {
        missing,
        everywhere_after,
        ..
    } = told
    else {
        panic!("{told:?}");
    };
    assert!(everywhere_after.is_some());
    assert_eq!(missing, ["b"]);
    let other = v1::Revision {
        chain: vec![9; 8],
        ..revision
    };
    match client.wait_for_revision(other).await {
        Err(CallError::Refused { reason, .. }) => assert_eq!(reason, "HISTORY_DIVERGED"),
        found => panic!("{found:?}"),
    }
}
