//! The benchmark: medians, spread and ratios, every ratio measured in one run.
//!
//! `cargo bench` runs all of it; `cargo bench -- check 1000000` only the named part.

#![allow(clippy::print_stdout, reason = "what is measured is what is printed")]

mod check;
mod database;
mod envoy;
mod grpc;
mod population;
#[path = "../../tests/it/proxy.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod proxy;
mod replicas;
mod report;
mod sealed;
mod store;
#[path = "../../tests/it/watched.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod watched;

/// The allocator of the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // Cargo passes `--bench`; everything else chooses.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    if grpc::served(&words) {
        return;
    }
    let wanted = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    let counts: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    if wanted("issues") {
        store::issues();
    }
    if wanted("start") {
        store::start();
    }
    if ["replicas", "appends", "fairness", "revocations"]
        .iter()
        .any(|part| wanted(part))
    {
        let callers = counts_or(&counts, &[1, 16, 64]);
        replicas::run(callers, |part| wanted("replicas") || wanted(part));
    }
    if wanted("load") {
        for count in counts_or(&counts, &[1_000_000, 10_000_000]) {
            replicas::load(*count);
        }
    }
    if wanted("check") {
        check::run(counts_or(&counts, &[1_000, 1_000_000, 10_000_000]));
    }
    if wanted("sealed") {
        sealed::run(counts_or(&counts, &[10_000, 1_000_000]));
    }
    if wanted("grpc") {
        grpc::run();
    }
    if wanted("envoy") {
        envoy::run(counts_or(&counts, &[10_000, 1_000_000]));
    }
}

fn counts_or<'a>(counts: &'a [u64], usual: &'a [u64]) -> &'a [u64] {
    if counts.is_empty() { usual } else { counts }
}
