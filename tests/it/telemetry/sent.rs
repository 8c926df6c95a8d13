//! Metrics as a collector receives them: the same that `/metrics` shows, by the same names.
//!
//! Compared with the text of the admin port, whose Prometheus is tested beside the chart.
//! Sendings are waited for, however long they take on a busy machine.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric};

use super::access::server;
use super::collector::{Attributes, Collector, attributes};
use super::shown;
use crate::leaks::metrics;
use crate::program::fresh;
use crate::wire::{channel, check};
use latchkey::proto::v1::check_service_client::CheckServiceClient;

/// Readings until a sending must have been counted; one a second is.
const READINGS_MAX: usize = 100_000;

/// What kind a metric is of, in the words of the text.
fn kind(metric: &Metric) -> &'static str {
    match metric.data.as_ref().expect("data") {
        Data::Sum(sum) => {
            let cumulative = AggregationTemporality::Cumulative;
            assert_eq!(sum.aggregation_temporality(), cumulative);
            assert!(sum.is_monotonic);
            "counter"
        }
        Data::Gauge(_) => "gauge",
        Data::Histogram(_) => "histogram",
        other => panic!("{other:?}"),
    }
}

/// The numbers of a metric by their attributes.
fn numbers(metrics: &[Metric], name: &str) -> BTreeMap<Attributes, f64> {
    let metric = metrics.iter().find(|metric| metric.name == name);
    let metric = metric.unwrap_or_else(|| panic!("{name}"));
    let points = match metric.data.as_ref().expect("data") {
        Data::Sum(sum) => &sum.data_points,
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{other:?}"),
    };
    let number = |value| match value {
        Some(Value::AsDouble(number)) => number,
        other => panic!("{other:?}"),
    };
    let points = points.iter();
    points
        .map(|point| {
            assert!(point.time_unix_nano >= point.start_time_unix_nano);
            (attributes(&point.attributes), number(point.value))
        })
        .collect()
}

fn labels(all: &[(&str, &str)]) -> Attributes {
    let all = all.iter();
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_admin_port_shows_is_sent_to_the_collector_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let endpoint = collector.setting();
    let settings = [
        &*endpoint,
        "telemetry.otlp.metrics_every=1s",
        "telemetry.namespace=prod",
    ];
    let server = tokio::task::block_in_place(|| server(&folder, &settings));
    let (_, secret) = server
        .admin()
        .issue("--kind user --ttl 1h --name a --reason a");
    let mut client = CheckServiceClient::new(channel(&server.address).await);
    for _ in 0..3 {
        client.check(check(&secret, &[])).await.expect("answered");
    }
    let text = tokio::task::block_in_place(|| metrics(&server.admin_address));
    let allowed = labels(&[("kind", "user"), ("reason", "allowed")]);
    let all_counted = |sent: &[Metric]| {
        let checks = sent.iter().any(|metric| metric.name == "latchkey_checks");
        checks && numbers(sent, "latchkey_checks").get(&allowed) == Some(&3.0)
    };
    let sent = collector.metrics_once(all_counted).await;
    let log = tokio::task::block_in_place(|| server.terminate());

    let by_text = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let by_text: BTreeMap<_, _> = by_text.filter_map(|line| line.split_once(' ')).collect();
    let received: BTreeMap<_, _> = sent
        .iter()
        .map(|one| (one.name.as_str(), kind(one)))
        .collect();
    assert!(by_text.len() > 30, "{by_text:?}");
    assert_eq!(received, by_text);
    let name = r#"latchkey_checks_total{reason="allowed",kind="user"}"#;
    assert_eq!(shown(&text, name), 3.0);
    let revision = numbers(&sent, "latchkey_revision")[&labels(&[])];
    assert_eq!(revision, shown(&text, "latchkey_revision"));

    let times = sent.iter().find(|one| one.name == "latchkey_check_seconds");
    let Some(Data::Histogram(times)) = times.and_then(|one| one.data.as_ref()) else {
        panic!("{sent:?}")
    };
    let way = labels(&[("method", "CheckService/Check")]);
    let mut points = times.data_points.iter();
    let point = points.find(|one| attributes(&one.attributes) == way);
    let point = point.expect("a point");
    assert_eq!(point.count, 3);
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), 3);
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    let sum = shown(
        &text,
        r#"latchkey_check_seconds_sum{method="CheckService/Check"}"#,
    );
    assert_eq!(point.sum, Some(sum));

    let resource = collector.resources().pop().expect("one");
    assert_eq!(resource["service.name"], "latchkey");
    assert_eq!(resource["service.namespace"], "prod");
    assert!(!collector.holds(&secret[4..30]) && !log.contains(&secret[4..30]));
}

#[tokio::test(flavor = "multi_thread")]
async fn sendings_are_counted_and_one_that_fails_is_said_once_embedded() {
    let (folder, collector) = (fresh(), Collector::start().await);
    let endpoint = collector.setting();
    let settings = [
        &*endpoint,
        "telemetry.otlp.metrics_every=1s",
        "telemetry.otlp.timeout=100ms",
    ];
    let server = tokio::task::block_in_place(|| server(&folder, &settings));
    // Read again and again until there is one, as often as it may take.
    let until_counted = |how: &str| {
        let metric = format!("latchkey_metrics_{how}_total");
        let counted = |_: &usize| shown(&metrics(&server.admin_address), &metric) > 0.0;
        let found = tokio::task::block_in_place(|| (0..READINGS_MAX).find(counted));
        assert!(found.is_some(), "none is {how}");
    };
    until_counted("sent");
    collector.freeze();
    until_counted("failed");
    let log = tokio::task::block_in_place(|| server.terminate());
    let said = log.matches("the collector takes no metrics").count();
    assert_eq!(said, 1, "{log}");
}
