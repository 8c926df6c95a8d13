//! Traces through a real Envoy: its client's, then its own span, then Latchkey's.
//!
//! The client says that its trace is recorded; Envoy carries it on in the metadata of its question.

use super::client::get;
use super::mesh::{Mesh, SECRET, asking};
use crate::telemetry::collector::Collector;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_a_span_in_the_trace_of_envoys_client_embedded() {
    let collector = Collector::start().await;
    let endpoint = collector.setting();
    let settings = [endpoint.as_str()];
    let mesh = Mesh::start(&settings, |port| {
        let mut listener = asking("web", port);
        (listener.traces, listener.samples) = (true, true);
        vec![listener]
    });
    let mesh = mesh.await;
    let secret = mesh.secret().await;
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    let ask = get(SECRET).bearer(&secret).header("traceparent", parent);
    let answer = ask.send(mesh.envoy.port("web")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    collector.received(1).await;
    let latchkey = mesh.latchkey;
    tokio::task::block_in_place(|| latchkey.terminate());
    let span = collector.span(TRACE, "envoy.service.auth.v3.Authorization/Check");
    // Envoy's span is between the two.
    assert!(!span.parent.is_empty() && span.parent != CLIENT, "{span:?}");
    assert_eq!(span.attributes["latchkey.reason"], "allowed");
    assert_eq!(span.attributes["url.path"], SECRET);
    assert!(!collector.holds(&secret[4..30]));
}
