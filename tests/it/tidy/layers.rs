//! Who may name whom: the arrows between layers, and the files that alone may touch a thing.
//!
//! ```text
//! main ─► cli ─► everything      rpc ─► authority ─► replica ─► state, store (trait) ─► domain
//!                                  └──► config (the limits of the port), routes, seal, tls ─► followed, domain
//! ```
//!
//! Unit tests inside a file are exempt: they may build what they need. A module that the table
//! does not know is a violation, so that a new layer is first written down here.

use super::scan::{lines_with, paths};
use super::{File, assert_none, check, sources, violation};

/// What each layer may name of the crate, besides itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("proto", &[]),
    ("config", &["domain", "routes"]),
    ("telemetry", &["domain"]),
    ("state", &["domain"]),
    ("store", &["domain", "state"]),
    ("replica", &["domain", "state", "store"]),
    ("authority", &["domain", "state", "replica", "store"]),
    (
        "rpc",
        &[
            "domain",
            "authority",
            "proto",
            "telemetry",
            "config",
            "routes",
            "seal",
            "tls",
        ],
    ),
    ("routes", &["domain", "followed"]),
    ("seal", &["domain", "followed"]),
    ("tls", &["domain", "followed"]),
    ("followed", &[]),
    ("client", &["domain", "proto"]),
    ("cli", EVERYTHING),
    ("main", &["cli"]),
    ("lib", EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "domain",
    "proto",
    "config",
    "telemetry",
    "state",
    "store",
    "replica",
    "authority",
    "routes",
    "seal",
    "tls",
    "followed",
    "rpc",
    "client",
    "cli",
];

/// Files of `domain` that encode the log, and may name its generated messages (`proto::…log…`).
const LOG_ENCODING: &[&str] = &["src/domain/change", "src/domain/entry", "src/domain/wire"];

/// The concrete stores, which only `cli` and they themselves may name.
const STORES: &[&str] = &["embedded", "postgres"];

/// Crates that only these files may name.
const CONFINED: &[(&[&str], &[&str])] = &[
    (
        &[
            "tonic",
            "tonic_health",
            "tonic_prost",
            "tonic_reflection",
            "tonic_types",
        ],
        &[
            "src/rpc",
            "src/client",
            "src/cli",
            "src/proto",
            "src/telemetry",
        ],
    ),
    (
        &[
            "opentelemetry",
            "opentelemetry_proto",
            "opentelemetry_sdk",
            "tracing_opentelemetry",
            "tracing_subscriber",
        ],
        &["src/telemetry"],
    ),
    (
        &["prost", "prost_types"],
        &[
            "src/rpc",
            "src/client",
            "src/cli",
            "src/proto",
            "src/domain/change",
            "src/domain/entry",
            "src/domain/wire",
        ],
    ),
    (&["rusqlite"], &["src/store/embedded"]),
    (
        &[
            "tokio_postgres",
            "tokio_postgres_rustls",
            "postgres_protocol",
            "deadpool",
        ],
        &["src/store/postgres"],
    ),
    (&["rustls"], &["src/store/postgres", "src/tls"]),
    (&["tokio_rustls"], &["src/tls"]),
];

/// What `domain` and `state` never name: they are pure.
const IMPURE: &[&str] = &[
    "tokio",
    "axum",
    "std::env",
    "std::fs",
    "std::process",
    "async fn",
];

const CLOCK: &str = "src/domain/clock.rs";
const GRPC_ERRORS: &str = "src/rpc/errors.rs";

fn layer_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside
        .split('/')
        .next()
        .unwrap_or(inside)
        .trim_end_matches(".rs")
}

/// `path` as seen from the crate's root, `None` when it leads out of the crate.
fn from_root(file: &str, path: &[String]) -> Option<Vec<String>> {
    if matches!(path[0].as_str(), "crate" | "latchkey") {
        return Some(path[1..].to_vec());
    }
    let mut base: Vec<&str> = file
        .trim_start_matches("src/")
        .trim_end_matches(".rs")
        .split('/')
        .collect();
    base.retain(|part| !matches!(*part, "mod" | "lib" | "main"));
    let ups = path.iter().take_while(|part| *part == "super").count();
    if ups == 0 && path[0] != "self" {
        return None;
    }
    base.truncate(base.len().saturating_sub(ups));
    let rest = path
        .iter()
        .skip_while(|part| matches!(part.as_str(), "super" | "self"));
    Some(
        base.into_iter()
            .map(str::to_owned)
            .chain(rest.cloned())
            .collect(),
    )
}

fn arrows(file: &File) -> Vec<String> {
    let layer = layer_of(&file.path);
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == layer) else {
        return vec![violation(
            file,
            1,
            &format!("layer `{layer}` is not in the table of arrows"),
        )];
    };
    let encodes_log = LOG_ENCODING
        .iter()
        .any(|prefix| file.path.starts_with(prefix));
    let mut found = Vec::new();
    for (line, path) in paths(&file.ships) {
        let Some(inside) = from_root(&file.path, &path) else {
            continue;
        };
        let Some(target) = inside.first() else {
            continue;
        };
        let log =
            encodes_log && target == "proto" && inside.iter().any(|part| part.contains("log"));
        if target != layer && !allowed.contains(&target.as_str()) && !log {
            found.push(violation(
                file,
                line,
                &format!("{layer} names {}", inside.join("::")),
            ));
        }
        let concrete = STORES
            .iter()
            .find(|store| target == "store" && inside.get(1).is_some_and(|part| part == *store));
        let inside_it = |store| file.path.starts_with(&format!("src/store/{store}"));
        if concrete.is_some_and(|store| layer != "cli" && !inside_it(store)) {
            found.push(violation(file, line, "only cli names a concrete store"));
        }
    }
    found
}

fn confined_crates(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (crates, homes) in CONFINED {
        if homes.iter().any(|home| at_home(&file.path, home)) {
            continue;
        }
        for name in *crates {
            for line in crate_uses(&file.ships, name) {
                found.push(violation(
                    file,
                    line,
                    &format!("`{name}` belongs to {homes:?}"),
                ));
            }
        }
    }
    found
}

/// Whether the path is the home itself, a file named like it, or inside it.
fn at_home(path: &str, home: &str) -> bool {
    path.strip_prefix(home)
        .is_some_and(|rest| rest.starts_with(['.', '/', '_']))
}

fn crate_uses(code: &str, name: &str) -> Vec<usize> {
    let mut lines = lines_with(code, &format!("{name}::"));
    lines.extend(lines_with(code, &format!("use {name}")));
    lines.sort_unstable();
    lines.dedup();
    lines
}

fn purity(file: &File) -> Vec<String> {
    if !matches!(layer_of(&file.path), "domain" | "state") {
        return Vec::new();
    }
    let named = |word: &&str| lines_with(&file.ships, word);
    let say = |word: &str, line| violation(file, line, &format!("a pure layer names `{word}`"));
    IMPURE
        .iter()
        .flat_map(|word| named(word).into_iter().map(|line| say(word, line)))
        .collect()
}

/// Readings of a clock: from the system, or through a crate that asks the system.
fn clock_reads(file: &File) -> Vec<String> {
    if file.path == CLOCK {
        return Vec::new();
    }
    let words = [
        "SystemTime",
        "UNIX_EPOCH",
        "clock_gettime",
        "now_v7",
        "Timestamp::now",
        "Zoned::now",
    ];
    let mut lines: Vec<usize> = words
        .iter()
        .flat_map(|word| lines_with(&file.ships, word))
        .collect();
    let imported = |from: &str| {
        let path = [from, "time", "Instant"];
        paths(&file.ships)
            .into_iter()
            .any(|(_, seen)| seen.len() > 2 && seen[..3] == path)
    };
    // Tokio's instants pace timers and stand still in paused tests; they decide nothing.
    if imported("std") || !imported("tokio") {
        lines.extend(lines_with(&file.ships, "Instant::now"));
    }
    lines
        .into_iter()
        .map(|line| violation(file, line, "only domain/clock.rs reads a clock"))
        .collect()
}

fn grpc_codes(file: &File) -> Vec<String> {
    if layer_of(&file.path) != "rpc" || file.path == GRPC_ERRORS {
        return Vec::new();
    }
    let makes_status = |line: &str| {
        line.match_indices("Status::").any(|(at, found)| {
            let whole = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let rest = &line[at + found.len()..];
            whole && rest.starts_with(|c: char| c.is_lowercase())
        })
    };
    let mut lines = lines_with(&file.ships, "Code::");
    lines.extend(lines_with(&file.ships, "tonic::Code"));
    let statuses = file
        .ships
        .lines()
        .enumerate()
        .filter(|(_, line)| makes_status(line));
    lines.extend(statuses.map(|(index, _)| index + 1));
    let say = |line| {
        violation(
            file,
            line,
            "only rpc/errors.rs makes gRPC codes and statuses",
        )
    };
    lines.into_iter().map(say).collect()
}

fn names_getrandom(file: &File) -> bool {
    !crate_uses(&file.ships, "getrandom").is_empty()
}

#[test]
fn layers_import_in_one_direction_only() {
    assert_none(sources("src").iter().flat_map(arrows));
}

#[test]
fn tonic_prost_and_drivers_stay_in_their_layers() {
    assert_none(sources("src").iter().flat_map(confined_crates));
}

#[test]
fn domain_and_state_do_no_io() {
    assert_none(sources("src").iter().flat_map(purity));
}

#[test]
fn one_file_reads_the_clock() {
    assert_none(sources("src").iter().flat_map(clock_reads));
    assert!(
        sources("src").iter().any(|file| file.path == CLOCK),
        "{CLOCK} is gone: rename it here"
    );
}

#[test]
fn one_file_asks_for_randomness() {
    let files = sources("src");
    let asking: Vec<_> = files
        .iter()
        .filter(|file| names_getrandom(file))
        .map(|file| &file.path)
        .collect();
    assert_eq!(
        asking.len(),
        1,
        "randomness is a parameter, one file has the source: {asking:?}"
    );
}

#[test]
fn one_file_maps_errors_to_grpc_codes() {
    assert_none(sources("src").iter().flat_map(grpc_codes));
}

#[test]
fn an_arrow_that_points_back_is_found() {
    check(
        arrows,
        r#"
        0 src/state/check.rs use crate::domain::token;
        1 src/state/check.rs use crate::store::Store;
        1 src/state/check.rs use crate::{domain::a, rpc::b, state::c};
        1 src/state/check.rs use super::radix; use super::super::rpc::x;
        0 src/state/decide/mod.rs use super::super::domain::x;
        1 src/domain/token.rs fn f() { crate::proto::log::x() }
        0 src/domain/change.rs use crate::proto::log::Change;
        1 src/domain/change.rs use crate::proto::v1::Change;
        0 src/store/mod.rs pub mod embedded;
        1 src/store/mod.rs pub use self::embedded::Embedded;
        1 src/replica/mod.rs use crate::store::{embedded, Store};
        0 src/store/embedded/mod.rs use crate::store::embedded::tables;
        1 src/store/embedded/mod.rs use crate::store::postgres::Line;
        1 src/replica/mod.rs use crate::store::postgres::PostgresStore;
    "#,
    );
}

#[test]
fn an_arrow_that_skips_a_layer_is_found() {
    check(
        arrows,
        r#"
        1 src/rpc/check.rs use crate::replica::Replica;
        1 src/rpc/check.rs use crate::state::Decision;
        1 src/client/mod.rs use crate::authority::x;
        0 src/main.rs fn main() { latchkey::cli::run() }
        2 src/main.rs fn main() { latchkey::store::embedded::open() }
        0 src/cli/serve.rs use crate::store::embedded::Embedded;
        1 src/misc.rs
        0 src/state/a.rs #[cfg(test)] mod tests { use crate::store::x; }
    "#,
    );
}

#[test]
fn a_crate_outside_its_layer_is_found() {
    check(
        confined_crates,
        r#"
        1 src/authority/mod.rs use tonic::Status;
        1 src/authority/mod.rs fn f(x: prost_types::Any) {}
        0 src/domain/wire.rs use prost::Message;
        1 src/domain/token.rs use prost::Message;
        1 src/rpc/mod.rs use tonic::Status; use rusqlite::Row;
        1 src/rpcx.rs use tonic::Status;
        0 src/telemetry/otlp.rs use opentelemetry_proto::tonic::x;
        1 src/replica/mod.rs use opentelemetry::Context;
        0 src/store/embedded/mod.rs use rusqlite::Row;
        1 src/store/mod.rs use rusqlite as sql;
        0 src/store/mod.rs // rusqlite::Row is not named
    "#,
    );
}

#[test]
fn io_in_a_pure_layer_is_found() {
    check(
        purity,
        r#"
        1 src/domain/entry.rs use std::fs::File;
        1 src/state/mod.rs use tokio::sync::Mutex;
        1 src/state/mod.rs pub async fn decide() {}
        0 src/replica/mod.rs use tokio::sync::Mutex;
    "#,
    );
}

#[test]
fn a_second_clock_is_found() {
    check(
        clock_reads,
        r#"
        1 src/replica/mod.rs use std::time::SystemTime;
        1 src/replica/mod.rs use std::time::Instant; fn f() { Instant::now() }
        1 src/replica/mod.rs fn f() { std::time::Instant::now() }
        0 src/replica/mod.rs use tokio::time::Instant; fn f() { Instant::now() }
        1 src/domain/token.rs fn f() { Uuid::now_v7() }
        0 src/domain/clock.rs fn f() { rustix::time::clock_gettime(id) }
        1 src/cli/output.rs fn f() { jiff::Timestamp::now() }
    "#,
    );
}

#[test]
fn a_second_source_of_randomness_is_found() {
    assert!(names_getrandom(&File::new(
        "src/a.rs",
        "fn f() { getrandom::fill(x) }"
    )));
    assert!(!names_getrandom(&File::new(
        "src/a.rs",
        "// getrandom::fill\nfn f() {}"
    )));
}

#[test]
fn a_grpc_code_outside_the_one_file_is_found() {
    check(
        grpc_codes,
        r#"
        1 src/rpc/auth.rs fn f() { Status::unauthenticated(x) }
        1 src/rpc/auth.rs fn f() { Code::Aborted }
        0 src/rpc/auth.rs fn f() -> Result<(), Status> { TokenStatus::new() }
        0 src/rpc/auth.rs fn f() { ServingStatus::Serving; StatusCode::OK }
        0 src/rpc/errors.rs fn f() { Status::unauthenticated(x) }
    "#,
    );
}
