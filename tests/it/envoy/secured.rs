//! Envoy asks over mTLS, and is let in by the SPIFFE ID of its certificate instead of a token.
//!
//! As the README says, with nothing set of versions and protocols: Envoy's own are what is spoken.

use serde_json::{Value, json};

use super::client::get;
use super::config::config;
use super::mesh::{SECRET, asking, port, web};
use super::process::Envoy;
use super::upstream::Upstream;
use crate::tls::kit::{House, Pair};
use crate::wire::bearer;

/// The same configuration, whose questions are asked with this certificate.
fn secured(mut config: Value, house: &House, name: &str, pair: &Pair) -> Value {
    let [cert, key] = house.files.pair(name, pair);
    let ca = house.files.folder().join("ca.pem");
    let file = |name: &str| json!({"filename": name});
    let socket = json!({
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3\
                      .UpstreamTlsContext",
            "sni": "localhost",
            "common_tls_context": {
                "tls_certificates": [{"certificate_chain": file(&cert), "private_key": file(&key)}],
                "validation_context": {"trusted_ca": {"filename": ca}},
            },
        },
    });
    let clusters = config["static_resources"]["clusters"].as_array_mut();
    for cluster in clusters.expect("clusters") {
        if cluster["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("asked-by-"))
        {
            cluster["transport_socket"] = socket.clone();
        }
    }
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_is_let_in_by_its_certificate_and_no_other_is() {
    let settings = ["check.open=mtls", "access.check=spiffe://acme/envoy"];
    let house = tokio::task::block_in_place(|| House::mutual(&settings));
    let admin = house.client("spiffe://acme/admin");
    let mut tokens = latchkey::proto::v1::token_service_client::TokenServiceClient::new(
        house.channel(Some(&admin)).await,
    );
    let issued = tokens.issue_token(bearer(house.admin_token(), web())).await;
    let token = issued.expect("issued").into_inner().secret;
    let upstream = Upstream::start().await;
    let mut listener = asking("raw", port(&house.server));
    let start = async |listener, name: &str, id: &str| {
        let config = config(&[listener], upstream.port);
        Envoy::start(&secured(config, &house, name, &house.client(id))).await
    };
    let envoy = start(listener.clone(), "envoy", "spiffe://acme/envoy").await;
    let raw = envoy.port("raw");
    assert_eq!(get(SECRET).bearer(&token).send(raw).await.status, 200);
    assert_eq!(get(SECRET).send(raw).await.status, 401);
    assert_eq!(
        get(SECRET).bearer("lkr_nobodys").send(raw).await.status,
        401
    );
    // Another's certificate is a denial and no error: nobody who fails open lets it pass.
    listener.failure_mode_allow = true;
    let other = start(listener, "other", "spiffe://acme/other").await;
    let answer = get(SECRET).bearer(&token).send(other.port("raw")).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let kept_out = r#"latchkey_access_refused_total{group="check"}"#;
    assert!(house.metric(kept_out).await >= 1.0);
    assert_eq!(upstream.seen().len(), 1);
}
