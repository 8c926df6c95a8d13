//! Certificates that change while the server runs: new connections see them, old ones go on, and
//! what cannot be used is refused and told.
//!
//! By the program as it is run, over connections of its own for each certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::version::TLS13;

use super::kit::{Authority, House, der};

async fn shows(house: &House) -> Vec<u8> {
    let stream = house.shaken(None, &[&TLS13]).await.expect("let in");
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().expect("certificates");
    shown[0].to_vec()
}

/// Waits for a number of the server's to be this.
async fn counts(house: &House, name: &str, expected: f64) {
    while house.metric(name).await != expected {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_shown_to_new_connections_and_no_request_is_lost() {
    let house = House::open(&[]);
    let first = shows(&house).await;
    let client = house.connected(None).await;
    let (ended, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let (client, ended, asked) = (client.clone(), Arc::clone(&ended), Arc::clone(&asked));
            tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    client.whoami().await.expect("no request is lost");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for reload in 1..=3 {
        let pair = house.ca.server(&["another.test"]);
        house.files.pair("server", &pair);
        counts(&house, "latchkey_tls_reloads_total", f64::from(reload)).await;
        assert_eq!(shows(&house).await, der(&pair).as_ref());
        // Some more were asked on the old connection since.
        let before = asked.load(Ordering::Relaxed);
        while asked.load(Ordering::Relaxed) < before + 10 {
            tokio::task::yield_now().await;
        }
    }
    assert_ne!(shows(&house).await, first);
    ended.store(true, Ordering::Relaxed);
    for asking in asking {
        asking.await.expect("no request is lost");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_refused_told_and_the_old_goes_on() {
    let house = House::open(&[]);
    let first = shows(&house).await;
    let ends = "latchkey_tls_certificate_expires_seconds";
    assert!(house.metric(ends).await > 1e9);
    // Another's key.
    house.files.put("server.key", &house.ca.server(&[]).key);
    counts(&house, "latchkey_tls_refused", 1.0).await;
    assert_eq!(shows(&house).await, first);
    let said = house.server.logged();
    assert!(said.contains("not the key of the certificate"), "{said}");
    // And mended again.
    let pair = house.ca.server(&[]);
    house.files.pair("server", &pair);
    counts(&house, "latchkey_tls_refused", 0.0).await;
    counts(&house, "latchkey_tls_reloads_total", 1.0).await;
    assert!(house.metric("latchkey_tls_refusals_total").await >= 1.0);
    assert_eq!(shows(&house).await, der(&pair).as_ref());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_good_now_takes_no_place_of_one_that_is() {
    let house = House::open(&[]);
    let first = shows(&house).await;
    house.files.pair("server", &house.ca.expired_server());
    counts(&house, "latchkey_tls_refused", 1.0).await;
    assert_eq!(shows(&house).await, first);
    let said = house.server.logged();
    assert!(said.contains("has expired"), "{said}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now");
    let begins = now + Duration::from_secs(3_600);
    let next = house.ca.server_between(begins, 2 * begins);
    house.files.pair("server", &next);
    counts(&house, "latchkey_tls_refusals_total", 2.0).await;
    assert_eq!(shows(&house).await, first);
    let said = house.server.logged();
    assert!(said.contains("is not valid yet"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_has_the_files_read_at_once() {
    let house = House::open(&["tls.poll=1h"]);
    let pair = house.ca.server(&[]);
    house.files.pair("server", &pair);
    house.server.signal(rustix::process::Signal::HUP);
    counts(&house, "latchkey_tls_reloads_total", 1.0).await;
    assert_eq!(shows(&house).await, der(&pair).as_ref());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_of_clients_lets_in_others_and_keeps_out_those_before() {
    let house = House::mutual(&[]);
    let (other, old) = (
        Authority::named("the next authority"),
        house.client("spiffe://acme/a"),
    );
    let new = other.client("spiffe://acme/a");
    let ca = house.files.put("clients.pem", &house.ca.pem);
    assert!(ca.exists());
    tokio::task::block_in_place(|| house.run(Some(&old), "token whoami").ok());
    // Both at first, so that nobody is cut off, and then the new one alone; the server's own
    // certificate is of the old one, which the commands go on to believe.
    let believed = house.files.put("believed.pem", &house.ca.pem);
    let run = |shown| {
        let mut command = house.command(house.admin_token(), Some(shown), "token whoami");
        command.env("LATCHKEY_CA_FILE", &believed);
        tokio::task::block_in_place(|| crate::program::run(command, "").code)
    };
    house
        .files
        .put("ca.pem", &format!("{}{}", house.ca.pem, other.pem));
    counts(&house, "latchkey_tls_reloads_total", 1.0).await;
    assert_eq!((run(&old), run(&new)), (0, 0));
    house.files.put("ca.pem", &other.pem);
    counts(&house, "latchkey_tls_reloads_total", 2.0).await;
    assert_eq!((run(&old), run(&new)), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_port_speaks_tls_too_and_asks_nobody_unless_set() {
    let house = House::mutual(&[]);
    assert!(house.admin_page("/readyz").await.contains("200 OK"));
    let plain = House::open(&["admin.plain_text=true"]);
    let address = plain.server.admin_address.clone();
    let page = move || crate::leaks::admin_page(&address, "/healthz");
    let page = tokio::task::spawn_blocking(page).await.expect("asked");
    assert!(page.contains("200 OK"), "{page}");
    let asks = House::mutual(&["admin.client_auth=require"]);
    let client = asks.client("spiffe://acme/prometheus");
    let (ca, address) = (&asks.ca.pem, &asks.server.admin_address);
    super::kit::admin_page(ca, address, Some(&client), "/metrics")
        .await
        .expect("let in");
    let kept_out = super::kit::admin_page(ca, address, None, "/metrics").await;
    assert!(kept_out.is_err(), "{kept_out:?}");
}
