//! Metrics of decisions, times, the store and the process, as a real run leaves them.
//!
//! Absent: what only several replicas show; a real Prometheus evaluates every query of the
//! dashboard and of the alerts beside the chart's tests.

use latchkey::proto::v1;
use latchkey::proto::v1::check_service_client::CheckServiceClient;

use super::shown;
use crate::leaks::metrics;
use crate::program::{Server, fresh};
use crate::wire::{channel, check};

fn server(folder: &tempfile::TempDir) -> Server {
    Server::start_with(folder.path(), &["--admin", "127.0.0.1:0"])
        .unwrap_or_else(|said| panic!("{said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_counted_by_reason_and_kind_and_timed_by_the_way_they_came_embedded() {
    let folder = fresh();
    let server = server(&folder);
    let before = metrics(&server.admin_address);
    let allowed = r#"latchkey_checks_total{reason="allowed",kind="user"}"#;
    let revoked = r#"latchkey_checks_total{reason="revoked",kind="user"}"#;
    let malformed = r#"latchkey_checks_total{reason="malformed",kind="none"}"#;
    // They are there before the first: a counter that appears with 1 shows no increase.
    assert_eq!(
        [allowed, revoked, malformed].map(|name| shown(&before, name)),
        [0.0; 3]
    );

    let (id, secret) = server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let question = || check(&secret, &[("a:b", "c")]);
    client.check(question()).await.expect("answered");
    let batch = v1::BatchCheckRequest {
        checks: vec![question(); 3],
        ..Default::default()
    };
    client.batch_check(batch).await.expect("answered");
    server
        .admin()
        .run(&format!("token revoke {id} --reason a"))
        .ok();
    client.check(question()).await.expect("answered");
    let stranger = format!("{secret}?");
    client
        .check(check(&stranger, &[("a:b", "c")]))
        .await
        .expect("answered");

    let after = metrics(&server.admin_address);
    assert_eq!(shown(&after, allowed), 4.0);
    assert_eq!(shown(&after, revoked), 1.0);
    assert_eq!(shown(&after, malformed), 1.0);
    let timed = |way: &str, part: &str| {
        shown(
            &after,
            &format!("latchkey_check_seconds_{part}{{method=\"{way}\"}}"),
        )
    };
    assert_eq!(timed("CheckService/Check", "count"), 3.0);
    assert_eq!(timed("CheckService/BatchCheck", "count"), 1.0);
    assert_eq!(timed("CheckService/StreamCheck", "count"), 0.0);
    let sum = timed("CheckService/Check", "sum");
    assert!(sum > 0.0, "{sum}");
    let inside = r#"latchkey_check_seconds_bucket{le="+Inf",method="CheckService/Check"}"#;
    assert_eq!(shown(&after, inside), 3.0);
}

#[test]
fn the_store_the_writer_and_the_process_are_measured_embedded() {
    let folder = fresh();
    let server = server(&folder);
    server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a");
    server.admin().run("token list").ok();
    let text = metrics(&server.admin_address);
    let of_store = |part: &str, operation: &str| {
        shown(
            &text,
            &format!("latchkey_store_{part}{{operation=\"{operation}\"}}"),
        )
    };
    // The administrator, the token.
    assert_eq!(
        of_store("seconds_count", "append"),
        shown(&text, "latchkey_batches_total")
    );
    assert!(of_store("seconds_sum", "append") > 0.0);
    assert!(of_store("seconds_count", "list") >= 1.0);
    assert_eq!(of_store("failures_total", "append"), 0.0);
    assert_eq!(
        shown(&text, "latchkey_batch_entries_sum"),
        shown(&text, "latchkey_entries_total")
    );

    assert!(shown(&text, "process_resident_memory_bytes") > 1e6);
    assert!(shown(&text, "process_cpu_seconds_total") >= 0.0);
    let (open, most) = (
        shown(&text, "process_open_fds"),
        shown(&text, "process_max_fds"),
    );
    assert!(open > 3.0 && open < most, "{open} {most}");
    let started = shown(&text, "process_start_time_seconds");
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    // The kernel tells its start in whole seconds.
    let age = now.as_secs_f64() - started;
    assert!((-2.0..3_600.0).contains(&age), "{age}");
}
