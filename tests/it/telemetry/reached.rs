//! How a server finds its collector, and which it believes: over TLS, and by the environment.
//!
//! The collector speaks TLS with certificates that are made here. What must be lost is counted until
//! it is, in more than one sending, and what is said of it is read from the log of the whole run.

use std::time::{Duration, Instant};

use latchkey::proto::v1;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::Request;
use v1::check_service_client::CheckServiceClient;

use super::access::server;
use super::collector::Collector;
use super::shown;
use super::traces::{UNARY, ended, trace, traced};
use crate::leaks::metrics;
use crate::program::{Server, fresh, latchkey, run};
use crate::tls::kit::{Authority, Files};
use crate::wire::{channel, check};

/// Readings until something must have been counted, as often as it may take.
const READINGS_MAX: usize = 100_000;
/// How long what must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The variables that name a collector to whatever tells of itself, and how it is spoken to.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

/// Asks a Check of a trace that is recorded.
async fn ask(server: &Server, number: u8) {
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    let question = traced(number, true, Request::new(check("", &[])));
    client.check(question).await.expect("answered");
}

/// Comes back once so many are counted.
#[track_caller]
fn counted(server: &Server, metric: &str, wanted: f64) {
    let is_so = |_: &usize| shown(&metrics(&server.admin_address), metric) >= wanted;
    let found = tokio::task::block_in_place(|| (0..READINGS_MAX).find(is_so));
    assert!(found.is_some(), "{metric}: {wanted} wanted");
}

/// The settings of a server that tells the collector there, if it is signed by these.
fn settings(files: &Files, endpoint: &str, authorities: &str) -> [String; 3] {
    let file = files.put("collectors.pem", authorities);
    [
        format!("telemetry.otlp.endpoint={endpoint}"),
        format!("telemetry.otlp.ca_file={}", file.display()),
        "telemetry.otlp.metrics_every=1s".to_owned(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_over_tls_whose_authority_is_known_takes_all_embedded() {
    let (folder, files, ca) = (fresh(), Files::new(), Authority::new());
    let collector = Collector::secured(&ca.server(&[])).await;
    // Several may sign, as while authorities are exchanged.
    let authorities = format!("{}{}", Authority::named("the next").pem, ca.pem);
    let set = settings(&files, &collector.endpoint(), &authorities);
    let server = tokio::task::block_in_place(|| server(&folder, &set.each_ref().map(|it| &**it)));
    ask(&server, 1).await;
    collector.received(1).await;
    let sent = collector.metrics_once(|sent| !sent.is_empty()).await;
    assert!(sent.iter().any(|one| one.name == "latchkey_checks"));
    counted(&server, "latchkey_spans_sent_total", 1.0);
    let log = ended(server);
    collector.span(&trace(1), UNARY);
    assert!(!log.contains("the collector takes no"), "{log}");
}

/// A collector that is not believed: nothing reaches it, and the server goes on and says so once.
async fn refused(collector: Collector, endpoint: &str, authorities: &str, why: &str) {
    let (folder, files) = (fresh(), Files::new());
    let set = settings(&files, endpoint, authorities);
    let server = tokio::task::block_in_place(|| server(&folder, &set.each_ref().map(|it| &**it)));
    for number in 1..=2 {
        ask(&server, number).await;
        // Not sent together.
        counted(&server, "latchkey_spans_failed_total", number.into());
    }
    counted(&server, "latchkey_metrics_failed_total", 2.0);
    let text = tokio::task::block_in_place(|| metrics(&server.admin_address));
    let sent = ["spans", "metrics"].map(|what| format!("latchkey_{what}_sent_total"));
    assert_eq!(sent.map(|metric| shown(&text, &metric)), [0.0; 2]);
    let log = ended(server);
    assert_eq!(collector.calls(), 0, "{why}");
    for what in ["spans", "metrics"] {
        let said = format!("the collector takes no {what}");
        let mut lines = log.lines().filter(|line| line.contains(&said));
        let line = lines.next().unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(why), "{why}: {line}");
        assert_eq!(lines.next(), None, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_believed_is_told_nothing_and_that_is_said_once_embedded() {
    let ca = Authority::new();
    let by_another = Collector::secured(&Authority::named("another").server(&[])).await;
    let endpoint = by_another.endpoint();
    refused(by_another, &endpoint, &ca.pem, "UnknownIssuer").await;
    let elsewhere = Collector::secured(&ca.elsewhere(&["collector.example"])).await;
    let endpoint = elsewhere.endpoint();
    refused(elsewhere, &endpoint, &ca.pem, "not valid for name").await;
    let over = Collector::secured(&ca.expired_server()).await;
    let endpoint = over.endpoint();
    refused(over, &endpoint, &ca.pem, "expired").await;
    // It speaks plain text where it should not.
    let plain = Collector::start().await;
    let endpoint = plain.endpoint().replace("http:", "https:");
    refused(plain, &endpoint, &ca.pem, "corrupt message").await;
}

/// Leads to a collector. Once it is told so, the connections that there are carry nothing any more,
/// and nobody hears of it, as where a machine is gone; later ones are good.
async fn leading_to(collector: &Collector) -> (String, watch::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let here = listener.local_addr().expect("bound");
    let there = collector.endpoint().replace("http://", "");
    let (lose, lost) = watch::channel(());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&there).await.expect("connected");
            let mut lost = lost.clone();
            lost.mark_unchanged();
            tokio::spawn(async move {
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    Ok(()) = lost.changed() => std::future::pending().await,
                }
            });
        }
    });
    (format!("telemetry.otlp.endpoint=http://{here}"), lose)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_whose_machine_is_gone_is_looked_for_again_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let (endpoint, lose) = leading_to(&collector).await;
    let settings = [
        &*endpoint,
        "telemetry.otlp.timeout=400ms",
        "telemetry.otlp.metrics_every=none",
    ];
    let server = tokio::task::block_in_place(|| server(&folder, &settings));
    ask(&server, 1).await;
    collector.received(1).await;
    lose.send_replace(());
    let begun = Instant::now();
    while collector.spans().len() < 2 {
        ask(&server, 2).await;
        assert!(begun.elapsed() < PATIENCE, "{}", server.logged());
    }
    ended(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_that_the_environment_names_is_told_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let mut command = latchkey();
    command.arg("dev").arg("--data-dir").arg(folder.path());
    command.args(["--set", "telemetry.otlp.metrics_every=1s"]);
    command.env(ENDPOINT, collector.endpoint());
    let started = tokio::task::block_in_place(|| Server::launch(&mut command));
    let server = started.unwrap_or_else(|said| panic!("{said}"));
    ask(&server, 1).await;
    collector.received(1).await;
    collector.metrics_once(|sent| !sent.is_empty()).await;
    ended(server);
    collector.span(&trace(1), UNARY);
}

#[test]
fn the_environment_names_a_collector_where_the_settings_do_not() {
    const ONE: &str = "http://one:4317";
    const OTHER: &str = "http://other:4317";
    const SETTING: &str = "LATCHKEY_TELEMETRY_OTLP_ENDPOINT";
    let check = |variables: &[(&str, &str)], arguments: &[&str], expected: &str| {
        let mut command = latchkey();
        command.args(["serve", "--print-config", "--output", "json"]);
        command.args(arguments).envs(variables.iter().copied());
        let settings = run(command, "").json();
        let found = &settings["telemetry"]["otlp"]["endpoint"];
        assert_eq!(found, expected, "{variables:?} {arguments:?}");
    };
    check(&[], &[], "");
    check(&[(ENDPOINT, ONE)], &[], ONE);
    check(&[(ENDPOINT, "")], &[], "");
    // Only what is spoken here.
    check(&[(ENDPOINT, ONE), (PROTOCOL, "grpc")], &[], ONE);
    check(&[(ENDPOINT, ONE), (PROTOCOL, "")], &[], ONE);
    check(&[(ENDPOINT, ONE), (PROTOCOL, "http/protobuf")], &[], "");
    // What is meant for this program alone goes first, also that there is none.
    check(&[(ENDPOINT, ONE), (SETTING, OTHER)], &[], OTHER);
    check(&[(ENDPOINT, ONE), (SETTING, "")], &[], "");
    let set = format!("telemetry.otlp.endpoint={OTHER}");
    check(&[(ENDPOINT, ONE)], &["--set", &set], OTHER);
    let folder = fresh();
    let file = folder.path().join("latchkey.toml");
    std::fs::write(&file, format!("telemetry.otlp.endpoint = '{OTHER}'\n")).expect("written");
    let file = file.to_str().expect("a text");
    check(&[(ENDPOINT, ONE)], &["--config", file], OTHER);
}
