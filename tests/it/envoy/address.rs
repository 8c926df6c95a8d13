//! Where a request comes from and which workload sends it, as Envoy vouches for it.
//!
//! Clients are addresses of this machine's loopback, and workloads have certificates of an
//! authority that `openssl` makes.

use latchkey::proto::v1;

use super::certificates::Certificates;
use super::client::get;
use super::config::Listener;
use super::mesh::{Mesh, SECRET, asking, web};

/// A token for these networks alone.
fn within(networks: &[&str]) -> v1::IssueTokenRequest {
    v1::IssueTokenRequest {
        networks: networks.iter().map(|&network| network.to_owned()).collect(),
        ..web()
    }
}

/// A mesh that trusts so many hops, whose Envoy adds the peer's address.
async fn trusting(hops: usize) -> Mesh {
    let setting = format!("envoy.trusted_hops={hops}");
    Mesh::start(&[&setting], |port| {
        let mut raw = asking("raw", port);
        raw.appends_address = true;
        let mut joined = raw.clone();
        (joined.name, joined.raw_headers) = ("joined", false);
        vec![raw, joined]
    })
    .await
}

/// What comes from an address, through other proxies or with what they would have written, and
/// whether a token passes.
async fn check(mesh: &Mesh, token: &str, from: [u8; 4], forwarded: &[&str], passes: bool) {
    for listener in ["raw", "joined"] {
        let mut ask = get(SECRET).bearer(token).from(from);
        for line in forwarded {
            ask = ask.header("X-Forwarded-For", line);
        }
        let answer = ask.send(mesh.envoy.port(listener)).await;
        let case = format!("{listener}: {from:?} {forwarded:?}");
        if passes {
            assert_eq!(answer.status, 200, "{case}: {answer:?}");
        } else {
            assert_eq!(answer.status, 401, "{case}: {answer:?}");
            assert_eq!(answer.json()["reason"], "network", "{case}");
        }
    }
}

const HOME: [u8; 4] = [127, 0, 0, 2];
const AWAY: [u8; 4] = [127, 0, 0, 3];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_trusted_hop_the_client_is_who_is_connected() {
    let mesh = trusting(0).await;
    let token = mesh.issue(within(&["127.0.0.2/32"])).await.secret;
    check(&mesh, &token, HOME, &[], true).await;
    check(&mesh, &token, HOME, &["192.0.2.1"], true).await;
    check(&mesh, &token, AWAY, &[], false).await;
    check(&mesh, &token, AWAY, &["127.0.0.2"], false).await;
    check(&mesh, &token, AWAY, &["127.0.0.2", "127.0.0.2"], false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_trusted_hop_the_client_is_whom_envoy_wrote_down() {
    let mesh = trusting(1).await;
    let token = mesh.issue(within(&["127.0.0.2/32"])).await.secret;
    check(&mesh, &token, HOME, &[], true).await;
    check(&mesh, &token, HOME, &["192.0.2.1"], true).await;
    check(&mesh, &token, HOME, &["192.0.2.1", "nonsense,"], true).await;
    check(&mesh, &token, AWAY, &[], false).await;
    check(&mesh, &token, AWAY, &["127.0.0.2"], false).await;
    check(
        &mesh,
        &token,
        AWAY,
        &["127.0.0.2", "127.0.0.2,127.0.0.2"],
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_trusted_hops_the_client_is_whom_the_proxy_before_envoy_wrote_down() {
    let mesh = trusting(2).await;
    let networks = ["192.0.2.0/24", "2001:db8::/32", "127.0.0.0/8"];
    let token = mesh.issue(within(&networks[..2])).await.secret;
    for (forwarded, passes) in [
        (&["192.0.2.7"][..], true),
        (&["192.0.2.7:4711"], true),
        (&["2001:db8::7"], true),
        (&["[2001:db8::7]:4711"], true),
        (&["::ffff:192.0.2.7"], true),
        (&["198.51.100.9, 192.0.2.7"], true),
        (&["198.51.100.9", "192.0.2.7"], true),
        (&["nonsense,192.0.2.7"], true),
        // What the client wrote itself is further left, however much of it there is.
        (&["192.0.2.7, 198.51.100.9"], false),
        (&["192.0.2.7", "198.51.100.9"], false),
        (&["192.0.2.7,192.0.2.7,192.0.2.7", "198.51.100.9"], false),
        (&["192.0.2.7,"], false),
        (&["192.0.2.7,unknown"], false),
        (&["192.0.2.7 192.0.2.7"], false),
        (&["192.0.2.07"], false),
        (&["3221225991"], false),
        (&["_hidden"], false),
    ] {
        check(&mesh, &token, HOME, forwarded, passes).await;
    }
    // Too few entries: the client is not known, whoever is connected.
    let anywhere = mesh.issue(within(&networks)).await.secret;
    check(&mesh, &anywhere, HOME, &["192.0.2.7"], true).await;
    check(&mesh, &anywhere, HOME, &[], false).await;
    check(&mesh, &anywhere, HOME, &["unknown"], false).await;
    // To a token that may be used anywhere that is nothing.
    let unbound = mesh.secret().await;
    check(&mesh, &unbound, HOME, &["unknown"], true).await;
}

const WEB: &str = "spiffe://acme.example/ns/shop/sa/web";

/// A token for this workload alone.
fn bound(workload: &str) -> v1::IssueTokenRequest {
    v1::IssueTokenRequest {
        workload: workload.to_owned(),
        ..web()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_workload_is_for_who_has_its_certificate() {
    let certificates = Certificates::make(&[
        ("web", &format!("URI:{WEB}")),
        ("api", "URI:spiffe://acme.example/ns/shop/sa/api"),
        ("both", &format!("DNS:web.example,URI:{WEB}")),
        (
            "second",
            &format!("URI:spiffe://acme.example/ns/shop/sa/api,URI:{WEB}"),
        ),
        ("name", "DNS:web.example"),
        ("plain", ""),
    ]);
    let mesh = Mesh::start(&[], |port| {
        let mut mutual = asking("mutual", port);
        mutual.certificates = Some(certificates.folder());
        let mut shown = mutual.clone();
        (shown.name, shown.include_certificate) = ("shown", true);
        let open: Listener = asking("open", port);
        vec![mutual, shown, open]
    })
    .await;
    let token = mesh.issue(bound(WEB)).await.secret;
    let ask = get(SECRET)
        .bearer(&token)
        .header("x-forwarded-client-cert", format!("URI={WEB}"));
    for listener in ["mutual", "shown"] {
        for (name, status) in [
            ("web", 200),
            ("both", 200),
            ("api", 401),
            ("second", 401),
            ("name", 401),
            ("plain", 401),
        ] {
            let stream = ask.connect(mesh.envoy.port(listener)).await;
            let answer = ask
                .send_over(certificates.secured(name, stream).await)
                .await;
            assert_eq!(answer.status, status, "{listener} {name}: {answer:?}");
            if status == 401 {
                assert_eq!(answer.json()["reason"], "workload");
            }
        }
    }
    let answer = ask.send(mesh.envoy.port("open")).await;
    assert_eq!(answer.json()["reason"], "workload", "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_certificate_is_for_who_has_it_if_envoy_shows_it() {
    let names = [
        ("plain", ""),
        ("other", ""),
        ("web", &*format!("URI:{WEB}")),
    ];
    let certificates = Certificates::make(&names);
    let mesh = Mesh::start(&[], |port| {
        let mut shown = asking("shown", port);
        shown.certificates = Some(certificates.folder());
        shown.include_certificate = true;
        let mut kept = shown.clone();
        (kept.name, kept.include_certificate) = ("kept", false);
        vec![shown, kept]
    })
    .await;
    for owner in ["plain", "web"] {
        let bound = mesh.issue(bound(&certificates.thumbprint(owner)));
        // A header of the client's is no certificate.
        let claim = format!("Hash={}", certificates.thumbprint(owner));
        let ask = get(SECRET)
            .bearer(&bound.await.secret)
            .header("x-forwarded-client-cert", claim);
        for (listener, name) in [
            ("shown", "plain"),
            ("shown", "other"),
            ("shown", "web"),
            ("kept", "plain"),
            ("kept", "web"),
        ] {
            let stream = ask.connect(mesh.envoy.port(listener)).await;
            let answer = ask
                .send_over(certificates.secured(name, stream).await)
                .await;
            if (listener, name) == ("shown", owner) {
                answer.seen();
            } else {
                assert_eq!(answer.status, 401, "{listener}: {name} for {owner}");
                assert_eq!(answer.json()["reason"], "workload");
            }
        }
    }
}
