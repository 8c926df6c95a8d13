//! What clients get while Latchkey cannot answer: the table of the README, measured.
//!
//! A replica behind proxies that hold its bytes up, to Envoy and to its database. Requests come
//! with a good token, with a revoked one and with none, and all claim to be somebody else.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use super::client::{Answer, get, until};
use super::config::{Listener, config};
use super::mesh::{NEEDS, SECRET, port, web};
use super::process::Envoy;
use super::upstream::Upstream;
use crate::fleet::revoke;
use crate::postgres::{database, server};
use crate::program::Server;
use crate::proxy::{Flow, Proxy};
use crate::replicas::bootstrap;
use crate::wire::{bearer, channel};
use latchkey::proto::v1::token_service_client::TokenServiceClient;

/// So short that whoever waits for it does not wait long.
const SHORT: &str = "0.2s";
const LATER: Duration = Duration::from_secs(2);
const SETTINGS: [&str; 4] = ["--set", "lease.length=3s", "--set", "check.open=true"];

/// Both modes, each with the usual answers, with a short time-out, and with an error for stale.
fn listeners(port: u16) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for (failure_mode_allow, names) in [
        (false, ["closed", "closed-short", "closed-error"]),
        (true, ["open", "open-short", "open-error"]),
    ] {
        let stale = ["deny", "deny", "error"];
        for (name, stale) in names.into_iter().zip(stale) {
            let needs = [&NEEDS[..], &[("latchkey.stale", stale)]].concat();
            let mut listener = Listener::asking(name, port).route("/v1/secrets/", &needs);
            listener.failure_mode_allow = failure_mode_allow;
            listener.status_on_error = Some(503);
            if name.ends_with("short") {
                listener.timeout = SHORT;
            }
            listeners.push(listener);
        }
    }
    listeners
}

/// A replica between two proxies, and an Envoy that asks it.
struct Stage {
    latchkey: Server,
    envoy: Envoy,
    upstream: Upstream,
    to_database: Proxy,
    to_latchkey: Proxy,
    /// The secrets of a token that may, and of one that was revoked.
    good: String,
    revoked: String,
}

impl Stage {
    async fn start() -> Self {
        let (database, upstream) = (database().await, Upstream::start().await);
        let admin = tokio::task::block_in_place(|| bootstrap(&database));
        let to_database = Proxy::of(server().port).await;
        let from = format!(":{}/", server().port);
        let url = database
            .url
            .replacen(&from, &format!(":{}/", to_database.port), 1);
        let latchkey = tokio::task::block_in_place(|| Server::replica(&url, "a", &SETTINGS));
        let latchkey = latchkey.unwrap_or_else(|said| panic!("it did not start: {said}"));
        let mut tokens = TokenServiceClient::new(channel(&latchkey.address).await);
        let mut issued = Vec::new();
        for _ in 0..2 {
            let token = tokens.issue_token(bearer(&admin, web())).await;
            issued.push(token.expect("issued").into_inner().secret);
        }
        let [good, revoked] = <[String; 2]>::try_from(issued).expect("two");
        let done = tokens.revoke_token(bearer(&admin, revoke(&revoked))).await;
        done.expect("revoked");
        let to_latchkey = Proxy::start(SocketAddr::from(([127, 0, 0, 1], port(&latchkey)))).await;
        let envoy = Envoy::start(&config(&listeners(to_latchkey.port), upstream.port)).await;
        Self {
            latchkey,
            envoy,
            upstream,
            to_database,
            to_latchkey,
            good,
            revoked,
        }
    }

    async fn send(&self, listener: &str, token: Option<&str>) -> Answer {
        let ask = get(SECRET).header("x-latchkey-subject", "user:root");
        let ask = token.map_or(ask.clone(), |token| ask.bearer(token));
        ask.send(self.envoy.port(listener)).await
    }

    /// What becomes of the three requests.
    async fn cell(&self, listener: &str) -> String {
        let before = self.upstream.seen().len();
        let mut seen = Vec::new();
        for token in [Some(&*self.good), Some(&*self.revoked), None] {
            seen.push(told(&self.send(listener, token).await));
        }
        let passed = seen
            .iter()
            .filter(|told| told.starts_with("passes"))
            .count();
        assert_eq!(self.upstream.seen().len() - before, passed, "{seen:?}");
        let [good, revoked, none] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!(revoked, none);
        if good == none {
            return format!("everything {good}");
        }
        format!("a good token {good}, everything else {none}")
    }

    /// A line of the table, by its two listeners.
    async fn row(&self, what: &str, suffix: &str) -> String {
        let (closed, open) = (format!("closed{suffix}"), format!("open{suffix}"));
        let (closed, open) = (self.cell(&closed).await, self.cell(&open).await);
        format!("| {what} | {closed} | {open} |")
    }

    /// Until it answers again as ever.
    async fn healed(&self) {
        for listener in [
            "closed",
            "closed-short",
            "closed-error",
            "open",
            "open-short",
        ] {
            let answers = async || self.send(listener, Some(&self.revoked)).await.status == 401;
            until("as ever", answers).await;
        }
    }

    /// Until nobody vouches any more for what it knows.
    async fn stale(&self) {
        let is_stale = async || self.send("closed", Some(&self.good)).await.status == 503;
        until("stale", is_stale).await;
    }
}

/// What one request came to.
fn told(answer: &Answer) -> String {
    if answer.status == 200 {
        let seen = answer.seen();
        return match seen.all("x-latchkey-subject")[..] {
            ["resource:acme/web"] => "passes".to_owned(),
            ["user:root"] => "passes unjudged, as whoever it claims to be".to_owned(),
            ref other => panic!("{other:?}"),
        };
    }
    if answer.body.is_empty() {
        return format!("is refused with {}", answer.status);
    }
    match answer.json()["reason"].as_str().expect("a reason") {
        "revoked" | "no_token" => format!("is denied with {}", answer.status),
        reason => format!("is denied with {} `{reason}`", answer.status),
    }
}

async fn table() -> Vec<String> {
    let mut stage = Stage::start().await;
    stage.healed().await;
    let mut lines = vec![stage.row("answers", "").await];
    stage.to_latchkey.to_client(Flow::Late(LATER));
    lines.push(stage.row("answers later than `timeout`", "-short").await);
    stage.to_latchkey.to_client(Flow::Pass);
    stage.healed().await;
    tokio::task::block_in_place(|| stage.latchkey.freeze());
    lines.push(
        stage
            .row("is frozen: connected, and silent", "-short")
            .await,
    );
    stage.latchkey.signal(Signal::CONT);
    stage.healed().await;
    stage.to_database.to_server(Flow::Hold);
    stage.stale().await;
    lines.push(stage.row("is stale", "").await);
    lines.push(
        stage
            .row("is stale, `latchkey.stale: error`", "-error")
            .await,
    );
    stage.to_database.to_server(Flow::Pass);
    stage.to_database.cut();
    stage.healed().await;
    stage.latchkey.cut();
    lines.insert(1, stage.row("is gone: nobody listens", "").await);
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_of_outages_behind_envoy_is_what_clients_get_postgres() {
    let readme = include_str!("../../../README.md");
    let (_, after) = readme
        .split_once("<!-- envoy outages: begin -->")
        .expect("a table");
    let (block, _) = after
        .split_once("<!-- envoy outages: end -->")
        .expect("a table");
    let written: Vec<&str> = block
        .lines()
        .filter(|line| line.starts_with("| "))
        .collect();
    let seen = table().await;
    assert_eq!(
        written[2..],
        seen,
        "what the README says, and what was seen"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_unjudged_has_no_identity_if_envoy_takes_it_away_first() {
    let upstream = Upstream::start().await;
    let mut open = Listener::asking("open", crate::watched::free_port());
    open.failure_mode_allow = true;
    open.removes = &["x-latchkey-"];
    let envoy = Envoy::start(&config(&[open], upstream.port)).await;
    let ask = get(SECRET)
        .header("X-Latchkey-Subject", "user:root")
        .header("x-other", "1");
    let seen = ask.send(envoy.port("open")).await.seen();
    assert!(seen.all("x-latchkey-subject").is_empty(), "{seen:?}");
    assert_eq!(seen.all("x-other"), ["1"]);
}
