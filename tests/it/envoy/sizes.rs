//! Requests as large as Envoy takes them, where the operator fails open.
//!
//! What makes the question one that is not answered lets its sender pass. So whatever of a request
//! is made large, up to Envoy's own limit, a client without a token is denied.

use super::client::{Answer, Ask, get};
use super::mesh::{Mesh, SECRET, asking};

/// Envoy's own limit of a request's headers, less what a request has beside the large one.
const LARGE: usize = 60 * 1_024 - 1_000;

async fn mesh() -> Mesh {
    Mesh::start(&[], |port| {
        let mut open = asking("open", port);
        (open.failure_mode_allow, open.traces) = (true, true);
        vec![open]
    })
    .await
}

async fn denied(mesh: &Mesh, what: &str, ask: Ask) {
    let answer: Answer = ask.send(mesh.envoy.port("open")).await;
    assert!(
        (400..500).contains(&answer.status),
        "{what}: {}",
        answer.status
    );
    assert_eq!(mesh.reached(), Vec::<String>::new(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_size_of_a_request_lets_it_pass_embedded() {
    let mesh = mesh().await;
    let traced = || {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        get(SECRET).header("traceparent", parent)
    };
    for size in [100, 10_000, 16_000, 17_000, 33_000, LARGE] {
        let text = "a".repeat(size);
        for name in [
            "x-large",
            "cookie",
            "authorization",
            "x-request-id",
            "x-api-key",
        ] {
            denied(
                &mesh,
                &format!("{name} {size}"),
                get(SECRET).header(name, &text),
            )
            .await;
        }
        let forwarded = "1, ".repeat(size / 3);
        denied(
            &mesh,
            &format!("forwarded {size}"),
            get(SECRET).header("x-forwarded-for", forwarded),
        )
        .await;
        let state = traced().header("tracestate", format!("a={text}"));
        denied(&mesh, &format!("tracestate {size}"), state).await;
        denied(
            &mesh,
            &format!("baggage {size}"),
            traced().header("baggage", format!("a={text}")),
        )
        .await;
        denied(
            &mesh,
            &format!("path {size}"),
            get(format!("{SECRET}{text}")),
        )
        .await;
        denied(
            &mesh,
            &format!("query {size}"),
            get(format!("{SECRET}?{text}")),
        )
        .await;
    }
    let many = (0..90).fold(traced(), |ask, at| {
        ask.header("tracestate", format!("a{at}={}", "b".repeat(500)))
    });
    denied(&mesh, "many", many).await;
}
