//! What the chart renders, held against the program: settings, variables, flags, ports and probes.
//!
//! The program itself is asked wherever it can be: it reads the rendered file, parses the rendered
//! arguments, loads a generated seal key and answers the probes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use latchkey::config::{Config, KEYS, Sources};
use serde_json::Value;

use super::given::{main_of, settings, text_of, words};
use super::{Rendered, ours, schema_paths, sets, text};
use crate::postgres::database;
use crate::program::{Ran, Server, fresh, latchkey, run};
use crate::replicas::bootstrap;
use crate::tls::kit::{Authority, Files};
use crate::tls::replicas::{named, until_drilled};

/// Settings that the chart makes from values of its own, so that `config` has none of them.
const OWN: [&str; 27] = [
    "admin.addr",
    "admin.client_auth",
    "admin.enabled",
    "admin.plain_text",
    "database.ca_file",
    "database.listen_url",
    "database.password_file",
    "database.url",
    "envoy.routes_file",
    "limits.drain_notice",
    "limits.drain_time_max",
    "listen.addr",
    "listen.plain_text",
    "replica.address",
    "replica.ca_file",
    "replica.name",
    "replica.tls_name",
    "seal.keys",
    "seal.keys_dir",
    "seal.keys_file",
    "store.data_dir",
    "telemetry.otlp.ca_file",
    "telemetry.otlp.headers",
    "telemetry.otlp.headers_file",
    "tls.cert_file",
    "tls.client_ca_file",
    "tls.key_file",
];

fn program(arguments: &[&str]) -> Ran {
    let mut command = latchkey();
    command.args(arguments);
    run(command, "")
}

fn config(text: &str) -> Config {
    let mut sources = Sources::default();
    sources.file("latchkey.toml", text).expect("settings");
    sources.build().expect("settings")
}

#[test]
fn every_setting_is_a_value_or_made_by_the_chart() {
    let schema: Value = serde_json::from_str(&text("helm/values.schema.json")).expect("JSON");
    let mut free = Vec::new();
    schema_paths(&schema["properties"]["config"], "", &mut free);
    let mut known: Vec<&str> = free.iter().map(String::as_str).chain(OWN).collect();
    known.sort_unstable();
    let mut keys: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    keys.sort_unstable();
    assert_eq!(
        known, keys,
        "values.schema.json, `config`, and what the chart makes itself"
    );
}

/// A truth value where the program wants a word is told by Helm, not by a pod that does not start.
#[test]
fn a_setting_is_of_the_kind_that_the_program_takes() {
    fn same(schema: &Value, default: &Value, path: &str) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, inner) in properties {
                same(inner, &default[name], &format!("{path}.{name}"));
            }
            return;
        }
        let kind = match default {
            Value::String(_) => "string",
            Value::Number(_) => "integer",
            Value::Bool(_) => "boolean",
            other => panic!("{path}: {other}"),
        };
        assert_eq!(schema["type"], kind, "{path}");
    }
    let schema: Value = serde_json::from_str(&text("helm/values.schema.json")).expect("JSON");
    let defaults = program(&["serve", "--print-config", "--output", "json"]).json();
    same(&schema["properties"]["config"], &defaults, "config");
}

#[test]
fn the_program_takes_the_rendered_settings() {
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        let settings = settings(&rendered);
        let port = |section: &str| {
            let addr = settings[section]["addr"].as_str().expect("an address");
            let (host, port) = addr.rsplit_once(':').expect("a port");
            assert!(["0.0.0.0", "[::]"].contains(&host), "{name}: {host}");
            port.parse::<u64>().expect("a number")
        };
        let (grpc, admin) = (port("listen"), port("admin"));
        let (_, pod) = rendered.server();
        let container = main_of(pod);
        let ports = container["ports"].as_array().expect("ports");
        let named = |wanted: &str| {
            let found = ports.iter().find(|it| it["name"] == wanted);
            found.and_then(|it| it["containerPort"].as_u64())
        };
        assert_eq!(
            (named("grpc"), named("admin")),
            (Some(grpc), Some(admin)),
            "{name}"
        );
        let ready = &container["readinessProbe"]["grpc"]["port"];
        assert!(ready.is_null() || *ready == grpc, "{name}: {ready}");
        for service in rendered.all("Service") {
            for port in service["spec"]["ports"].as_array().expect("ports") {
                assert_eq!(
                    port["port"].as_u64(),
                    named(port["name"].as_str().expect("a name")),
                    "{name}"
                );
            }
        }
        let embedded = rendered.server().0 == "StatefulSet";
        assert_eq!(
            settings["store"]["data_dir"] == "/var/lib/latchkey/data",
            embedded,
            "{name}"
        );
    }
}

/// The program itself says what it would speak where.
#[test]
fn what_is_asked_in_tls_speaks_it_and_nothing_is_exposed() {
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        let text = text_of(&rendered);
        let config = config(&text);
        assert_eq!(config.exposed(), None, "{name}");
        let secured = config.tls.is_set();
        assert_eq!(config.admin_is_secured(), secured, "{name}");
        let container = main_of(rendered.server().1);
        let scheme = if secured { "HTTPS" } else { "HTTP" };
        for probe in ["startupProbe", "livenessProbe"] {
            assert_eq!(
                container[probe]["httpGet"]["scheme"], scheme,
                "{name}: {probe}"
            );
        }
        // A kubelet speaks gRPC without TLS only.
        let ready = &container["readinessProbe"];
        assert_eq!(ready["grpc"].is_null(), secured, "{name}");
        for monitor in rendered.all("ServiceMonitor") {
            let asked = &monitor["spec"]["endpoints"][0]["scheme"];
            assert_eq!(*asked == "https", secured, "{name}: {asked}");
        }
        let variables = container["env"].as_array().expect("variables");
        let address = variables
            .iter()
            .find(|it| it["name"] == "LATCHKEY_REPLICA_ADDRESS");
        let address = address.expect("an address")["value"]
            .as_str()
            .expect("a text");
        assert_eq!(
            address.starts_with("https://"),
            secured,
            "{name}: {address}"
        );
        let test = rendered.one("Pod");
        let asked = words(&main_of(&test["spec"])["args"])[1];
        assert_eq!(
            asked.starts_with("--addr=https://"),
            secured,
            "{name}: {asked}"
        );
    }
    // Without what the chart says of it, it would not start.
    let silent = text_of(&Rendered::of("{}")).replace("listen.plain_text = true\n", "");
    assert!(config(&silent).exposed().is_some());
}

#[test]
fn values_reach_the_program_as_they_are_meant() {
    let (_, values) = sets()
        .into_iter()
        .find(|(name, _)| name == "everything.yaml")
        .expect("it is there");
    let settings = settings(&Rendered::of(&values));
    assert_eq!(settings["check"]["open"], "true");
    assert_eq!(settings["check"]["valid_for"], "2s");
    assert_eq!(settings["envoy"]["realm"], "tokens & <more>");
    assert_eq!(settings["envoy"]["strip_credential"], true);
    assert_eq!(settings["envoy"]["headers"]["subject"], "x-subject");
    assert_eq!(settings["limits"]["message_bytes_max"], 2_097_152);
    assert_eq!(settings["limits"]["drain_time_max"], "20s");
    assert_eq!(settings["log"]["level"], "info,latchkey::rpc=debug");
    assert_eq!(
        settings["database"]["ca_file"],
        "/etc/latchkey/database/root.pem"
    );
    assert_eq!(settings["seal"]["keys_dir"], "/etc/latchkey/seal-keys");
    let telemetry = &settings["telemetry"];
    assert_eq!(telemetry["access"]["ratio"], "0.01");
    assert_eq!(telemetry["otlp"]["metrics_every"], "30s");
    let authorities = &telemetry["otlp"]["ca_file"];
    assert_eq!(authorities, "/etc/latchkey/otlp-ca/root.pem");
}

/// Replicas with the certificate that cert-manager is asked for, and the rendered settings, drill each
/// other by their addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canary_runs_with_the_rendered_certificate_postgres() {
    let rendered = Rendered::of(&text("tests/it/chart/values/everything.yaml"));
    let settings = settings(&rendered);
    let name = settings["replica"]["tls_name"].as_str().expect("a name");
    let access = settings["access"]["check"].as_str().expect("a list");
    let spec = &rendered.one("Certificate")["spec"];
    assert_eq!(words(&spec["usages"])[1..], ["server auth", "client auth"]);
    let database = database().await;
    tokio::task::block_in_place(|| bootstrap(&database));
    let (ca, files) = (Authority::new(), Files::new());
    let authorities = files.put("ca.pem", &ca.pem);
    let pair = ca.elsewhere(&words(&spec["dnsNames"]));
    let [authorities, access] = [
        format!("tls.client_ca_file={}", authorities.display()),
        format!("access.check={access}"),
    ];
    let more = [&authorities[..], &access, "canary.interval=1s"];
    let start = |called| named(&database.url, &files, (called, &pair), name, &more);
    let (a, _b) = (start("a"), start("b"));
    until_drilled(&a, "b");
}

#[test]
fn whoever_asks_a_replica_over_tls_wants_the_same_name() {
    let mut seen = 0;
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        let settings = settings(&rendered);
        let wanted = &settings["replica"]["tls_name"];
        let secured = settings["tls"]["cert_file"] != "";
        assert_eq!(*wanted != "", secured, "{name}");
        let drills = settings["canary"]["interval"] != "none";
        let expected = match secured && drills {
            true => "/etc/latchkey/tls/ca.crt",
            false => "",
        };
        assert_eq!(settings["replica"]["ca_file"], expected, "{name}");
        if !secured {
            continue;
        }
        let names = rendered.one_or_none("Certificate");
        let names = names.map(|it| words(&it["spec"]["dnsNames"]));
        let has = |names: Vec<&str>| names.iter().any(|name| *name == wanted);
        assert!(names.is_none_or(has), "{name}");
        let flag = format!("--server-name={}", wanted.as_str().expect("a name"));
        let test = main_of(&rendered.one("Pod")["spec"]);
        assert!(
            words(&test["args"]).contains(&flag.as_str()),
            "{name}: {test}"
        );
        for monitor in rendered.all("ServiceMonitor") {
            let asked = &monitor["spec"]["endpoints"][0]["tlsConfig"]["serverName"];
            assert_eq!(asked, wanted, "{name}");
            seen += 1;
        }
    }
    assert!(seen > 1, "{seen}");
}

/// What is named by settings is mounted there, and nothing that is mounted is lost on the program.
#[test]
fn what_settings_name_is_mounted() {
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        let settings = settings(&rendered);
        let (_, pod) = rendered.server();
        let container = main_of(pod);
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        let volumes = pod["volumes"].as_array().expect("volumes");
        let is_mounted = |path: &str| {
            mounts
                .iter()
                .any(|mount| path.starts_with(mount["mountPath"].as_str().expect("a path")))
        };
        for key in [
            "/database/ca_file",
            "/seal/keys_dir",
            "/envoy/routes_file",
            "/replica/ca_file",
            "/telemetry/otlp/ca_file",
            "/tls/cert_file",
            "/tls/client_ca_file",
            "/tls/key_file",
        ] {
            let path = settings.pointer(key).and_then(Value::as_str);
            let path = path.expect("a path");
            assert!(path.is_empty() || is_mounted(path), "{name}: {path}");
        }
        let config = words(&container["args"])[2];
        assert!(is_mounted(config), "{name}: {config}");
        let claimed = rendered.one_or_none("StatefulSet");
        let claims = claimed.map_or(&Value::Null, |it| &it["spec"]["volumeClaimTemplates"]);
        for mount in mounts {
            let there = |list: &Value| {
                let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
                list.iter().any(|it| {
                    it["name"] == mount["name"] || it["metadata"]["name"] == mount["name"]
                })
            };
            assert!(
                there(&Value::from(volumes.clone())) || there(claims),
                "{name}: {mount}"
            );
        }
    }
}

#[test]
fn the_program_knows_the_rendered_arguments_and_variables() {
    let mut seen = 0;
    for (name, values) in sets() {
        for (kind, pod) in Rendered::of(&values).pods() {
            for container in ours(pod) {
                let mut arguments = words(&container["args"]);
                arguments.push("--help");
                let ran = program(&arguments);
                assert_eq!(ran.code, 0, "{name}: {kind}: {}", ran.stderr);
                seen += 1;
                for variable in container["env"].as_array().into_iter().flatten() {
                    let variable = variable["name"].as_str().expect("a name");
                    let known = KEYS.iter().any(|key| key.variable() == variable);
                    assert!(
                        known || !variable.starts_with("LATCHKEY_"),
                        "{name}: {kind}: {variable}"
                    );
                }
            }
        }
    }
    assert!(seen > 14, "{seen} containers");
    // An argument that the program does not know is no help.
    assert_eq!(program(&["health", "--adress=http://x", "--help"]).code, 2);
}

#[test]
fn a_pod_has_the_time_to_drain_that_the_program_takes() {
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        let settings = settings(&rendered);
        let (_, pod) = rendered.server();
        let seconds = |value: &Value| value.as_u64().expect("seconds");
        let grace = seconds(&pod["terminationGracePeriodSeconds"]);
        let [delay, drain] = ["drain_notice", "drain_time_max"].map(|key| {
            let text = settings["limits"][key].as_str().expect("a duration");
            let duration = humantime::parse_duration(text).expect("a duration");
            duration.as_secs()
        });
        // Who looks now and then must have looked.
        assert!(delay >= 5, "{name}: {delay} s");
        // The store is closed, and the lease handed back, after that.
        assert!(
            grace >= delay + drain + 10,
            "{name}: {grace} s for {delay} s and {drain} s"
        );
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_server_answers_the_probes() {
    let dir = fresh();
    let server = Server::start(dir.path());
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        let container = main_of(rendered.server().1);
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            if let Some(service) = container[probe]["grpc"]["service"].as_str() {
                let asked = ["health", "--addr", &server.address, "--service", service];
                assert_eq!(program(&asked).ok().stdout, "serving\n", "{name}: {probe}");
                continue;
            }
            let asked = &container[probe]["httpGet"];
            assert_eq!(asked["port"], "admin", "{name}: {probe}");
            let path = asked["path"].as_str().expect("a path");
            // The service that the test of the release asks for, too.
            let test = main_of(&rendered.one("Pod")["spec"]);
            let service = words(&test["args"]).into_iter();
            let service = service
                .filter_map(|it| it.strip_prefix("--service="))
                .next();
            if probe == "readinessProbe" {
                let wanted = format!("/readyz?service={}", service.expect("a service"));
                assert_eq!(path, wanted, "{name}");
            }
            let answer = get(&server.admin_address, path);
            assert_eq!(answer, "HTTP/1.1 200 OK", "{name}: {probe}");
        }
    }
    for monitor in sets().iter().map(|(_, values)| Rendered::of(values)) {
        for monitor in monitor.all("ServiceMonitor") {
            let endpoint = &monitor["spec"]["endpoints"][0];
            assert_eq!(endpoint["port"], "admin");
            let path = endpoint["path"].as_str().expect("a path");
            assert_eq!(get(&server.admin_address, path), "HTTP/1.1 200 OK");
        }
    }
    let unknown = [
        "health",
        "--addr",
        &server.address,
        "--service",
        "latchkey.v1.Chek",
    ];
    assert_eq!(program(&unknown).code, 3);
    assert_eq!(
        get(&server.admin_address, "/health"),
        "HTTP/1.1 404 Not Found"
    );
}

#[test]
fn a_server_seals_with_the_generated_key() {
    use base64::Engine as _;
    let rendered = Rendered::of("sealKeys: {generate: true}");
    let keys = fresh();
    let data = rendered.one("Secret")["data"]
        .as_object()
        .expect("entries")
        .clone();
    for (name, value) in &data {
        let value = value.as_str().expect("a text");
        let key = base64::engine::general_purpose::STANDARD
            .decode(value)
            .expect("base64");
        let file = keys.path().join(name);
        std::fs::write(&file, key).expect("written");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&file, mode).expect("its mode is set");
    }
    assert_eq!(data.len(), 1);
    let dir = fresh();
    let setting = format!("seal.keys_dir={}", keys.path().display());
    let server = Server::start_with(dir.path(), &["--set", &setting]);
    let server = server.unwrap_or_else(|said| panic!("the key is refused: {said}"));
    let listed = server.admin().run("seal-key list --output json").json();
    assert_eq!(
        listed["keys"][0]["loaded_by"].as_array().map(Vec::len),
        Some(1),
        "{listed}"
    );
}

#[test]
fn a_route_table_is_one_to_the_program() {
    let mut seen = 0;
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        for map in rendered.all("ConfigMap") {
            let Some(routes) = map["data"]["routes.toml"].as_str() else {
                continue;
            };
            let folder = fresh();
            let file = folder.path().join("routes.toml");
            std::fs::write(&file, routes).expect("written");
            let ran = program(&["routes", "check", "--file", file.to_str().expect("a text")]);
            assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
            seen += 1;
        }
    }
    assert!(seen > 0, "no set of values has routes");
}

#[test]
fn versions_agree() {
    let chart = text("helm/Chart.yaml");
    let of = |key: &str| {
        let line = chart
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}: ")));
        line.expect(key).trim_matches('"').to_owned()
    };
    assert_eq!(of("appVersion"), env!("CARGO_PKG_VERSION"));
    let oldest = of("kubeVersion");
    let oldest = oldest.trim_start_matches(">=").trim_end_matches(".0-0");
    let check = text("tests/it/manifests/check.py");
    let versions = check
        .lines()
        .find(|line| line.starts_with("KUBERNETES = "))
        .expect("versions");
    assert!(
        versions.starts_with(&format!("KUBERNETES = (\"{oldest}\"")),
        "{versions}: {oldest}"
    );
}
