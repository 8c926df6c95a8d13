//! The manifests under `examples/`: by the schemas of their kinds, and by the programs that read
//! what stands in their ConfigMaps.
//!
//! `manifests/check.py`, which `chart` uses too, knows Kubernetes' schemas and those of operators,
//! and `manifests/tables.yaml` those fields of other kinds that our examples use, since no package
//! registry has their schemas. Each kind is also broken in several ways here: a check that refuses
//! nothing proves nothing.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::{Ran, fresh, latchkey, run, tool};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/manifests/check.py");
const FOLDERS: [&str; 3] = ["kubernetes", "istio", "envoy-gateway"];

fn example(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every manifest of a folder, and that there is one.
fn all(folder: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(folder);
    let entries = std::fs::read_dir(path).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| format!("{folder}/{}", name.to_string_lossy()));
    let manifests: Vec<String> = names.filter(|name| name.ends_with(".yaml")).collect();
    assert!(!manifests.is_empty(), "{folder}");
    manifests
}

pub(crate) fn check(manifests: &str) -> Ran {
    let mut command = Command::new(tool("python3"));
    command.args([SCRIPT, "judge"]).arg(tool(".."));
    run(command, manifests)
}

/// The one YAML document of a text.
pub(crate) fn json(text: &str) -> Value {
    let mut command = Command::new(tool("python3"));
    command.args([SCRIPT, "json"]);
    run(command, text).json()
}

/// What a ConfigMap of an example has under a key.
fn data(path: &str, config_map: &str, key: &str) -> String {
    let mut command = Command::new(tool("python3"));
    command.args([SCRIPT, "data", config_map, key]);
    run(command, &example(path)).ok().stdout
}

/// The check refuses an example in which a text stands in the place of another, and says why.
#[track_caller]
fn refused(path: &str, from: &str, to: &str, why: &str) {
    let good = example(path);
    assert!(good.contains(from), "{from:?} is not in {path}");
    let ran = check(&good.replacen(from, to, 1));
    assert_eq!(ran.code, 1, "{to:?} passes: {}{}", ran.stdout, ran.stderr);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains(why), "{why:?}: {said}");
}

#[test]
fn every_example_is_what_the_schemas_ask_for() {
    for path in FOLDERS.into_iter().flat_map(all) {
        let ran = check(&example(&path));
        assert_eq!(ran.code, 0, "{path}: {}{}", ran.stdout, ran.stderr);
    }
}

#[test]
fn a_broken_kubernetes_manifest_is_refused() {
    let refused = |from, to, why| refused("kubernetes/latchkey.yaml", from, to, why);
    refused("replicas: 3", "replicas: three", "'three' is not of type");
    refused(
        "containerPort: 7421",
        "port: 7421",
        "'containerPort' is a required property",
    );
    refused(
        "readOnlyRootFilesystem",
        "readOnlyRootFileSystem",
        "('readOnlyRootFileSystem' was unexpected)",
    );
    refused(
        "  selector:\n    matchLabels: {app.kubernetes.io/name: latchkey}\n  strategy",
        "  strategy",
        "'selector' is a required property",
    );
    refused(
        "kind: Deployment",
        "kind: Deploymant",
        "nothing here knows this kind",
    );
    refused(
        "apiVersion: policy/v1",
        "apiVersion: policy/v1beta1",
        "nothing here knows this kind",
    );
    refused(
        "metadata: {name: latchkey-routes, namespace",
        "metadata: {namespace",
        "no metadata.name",
    );
    refused(
        "clusterIP: None",
        "clusterIP: None\n  clusterIP: ''",
        "stands twice",
    );
}

/// The services of the API, by its own files.
fn services() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/latchkey/v1");
    let files = std::fs::read_dir(folder).expect("a folder");
    let texts = files.map(|it| std::fs::read_to_string(it.expect("a file").path()).expect("read"));
    let all = texts.collect::<String>();
    let names = all.lines().filter_map(|line| line.strip_prefix("service "));
    let found: Vec<_> = names
        .map(|name| name.trim_end_matches(" {").to_owned())
        .collect();
    assert!(found.len() > 6, "{found:?}");
    found
}

#[test]
fn the_mesh_lets_in_whoever_logs_in_and_manages() {
    let policy = example("istio/policy.yaml");
    for service in services() {
        let path = format!("- /latchkey.v1.{service}/*\n");
        // Checks are open there, to the gateway alone.
        assert_eq!(
            policy.contains(&path),
            service != "CheckService",
            "{service}"
        );
    }
}

#[test]
fn a_broken_istio_manifest_is_refused() {
    let policy = |from, to, why| refused("istio/policy.yaml", from, to, why);
    policy("action: CUSTOM", "action: ASK", "'ASK' is not one of");
    policy(
        "provider: {name: latchkey}",
        "provider: latchkey",
        "'latchkey' is not of type",
    );
    policy(
        "methods: [POST]",
        "method: [POST]",
        "'method' was unexpected",
    );
    policy(
        "mtls: {mode: STRICT}",
        "mtls: {mode: STRICTLY}",
        "'STRICTLY' is not one of",
    );
    policy(
        "apiVersion: security.istio.io/v1\n",
        "apiVersion: security.istio.io/v9\n",
        "nothing here knows",
    );
    let mesh = |from, to, why| refused("istio/mesh.yaml", from, to, why);
    mesh(
        "port: 7421",
        "port: '7421'",
        "'7421' is not of type 'integer'",
    );
    mesh(
        "failOpen: false\n",
        "failOpen: false\n          failClosed: true\n",
        "'failClosed' was unexpected",
    );
    mesh(
        "          timeout: 0.25s\n",
        "",
        "'timeout' is a required property",
    );
    mesh("MERGE_SLASHES", "MERGE", "'MERGE' is not one of");
    let gateway = |from, to, why| refused("istio/gateway.yaml", from, to, why);
    gateway(
        "operation: MERGE",
        "operation: PATCH",
        "'PATCH' is not one of",
    );
    // The values of patches are Envoy's, and are held against Envoy's own definitions.
    let port = "strip_any_host_port";
    gateway(
        port,
        "strip_all_host_port",
        "no field named \"strip_all_host_port\"",
    );
    gateway("REJECT_REQUEST", "REFUSE_REQUEST", "REFUSE_REQUEST");
}

#[test]
fn a_broken_envoy_gateway_manifest_is_refused() {
    let refused = |from, to, why| refused("envoy-gateway/gateway.yaml", from, to, why);
    refused(
        "failOpen: false",
        "failOpen: 'no'",
        "'no' is not of type 'boolean'",
    );
    refused(
        "    failOpen: false\n",
        "",
        "'failOpen' is a required property",
    );
    refused(
        "timeout: 250ms",
        "timeout: 250ms\n    timeOut: 1s",
        "'timeOut' was unexpected",
    );
    refused(
        "backendRefs:\n        - {name: latchkey-ready,",
        "backendRefs:\n        - {service: latchkey-ready,",
        "'name' is a required property",
    );
    refused(
        "kind: Gateway, name: front}\n  extAuth",
        "kind: Service, name: front}\n  extAuth",
        "'Service' is not one of",
    );
    refused(
        "{name: latchkey.action, value: \"secrets:read\"}",
        "{name: latchkey.action}",
        "is not valid under any",
    );
    refused(
        "escapedSlashesAction: RejectRequest",
        "escapedSlashesAction: Reject",
        "'Reject' is not one of",
    );
    refused(
        "certificateRefs",
        "certificates",
        "'certificates' was unexpected",
    );
    refused("method: GET", "method: get", "'get' is not one of");
    refused(
        "    - {group: \"\", kind: Service",
        "    - {kind: Service",
        "'group' is a required property",
    );
}

#[test]
fn what_the_config_maps_hold_for_latchkey_is_good() {
    let path = "kubernetes/latchkey.yaml";
    let folder = fresh();
    let written = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let routes = written("routes.toml", &data(path, "latchkey-routes", "routes.toml"));
    let settings = data(path, "latchkey", "latchkey.toml");
    let place = "/etc/latchkey/routes/routes.toml";
    assert!(settings.contains(place), "{settings}");
    let settings = written("latchkey.toml", &settings.replace(place, &routes));
    let print = |settings: &str| {
        let mut command = latchkey();
        command.args(["serve", "--print-config", "--config", settings]);
        run(command, "")
    };
    print(&settings).ok();
    let routes_check = |file: &str| {
        let mut command = latchkey();
        command.args(["routes", "check", "--file", file]);
        run(command, "")
    };
    routes_check(&routes).ok();
    routes_check(&written("table.toml", &example("envoy/routes.toml"))).ok();
    let wrong = example("envoy/routes.toml").replacen("action", "acton", 1);
    let refused = routes_check(&written("table.toml", &wrong));
    assert_eq!(refused.code, 2, "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains("acton"), "{}", refused.stderr);
}

/// A restart mends no database that is away, and takes the servers that would be there after it.
#[test]
fn no_server_is_killed_for_a_database_that_is_away() {
    let text = example("kubernetes/latchkey.yaml");
    let mut documents = text.split("\n---\n");
    let server = documents.find(|it| it.contains("kind: Deployment"));
    let server = json(server.expect("what serves"));
    let container = &server["spec"]["template"]["spec"]["containers"][0];
    let asked = |probe: &str| container[probe]["httpGet"]["path"].clone();
    assert_eq!(asked("startupProbe"), "/healthz");
    assert_eq!(asked("livenessProbe"), "/healthz");
    assert_eq!(asked("readinessProbe"), "/readyz");
}

/// Envoy's own verdict on a configuration.
pub(crate) fn tried_by_envoy(configuration: &str) -> Ran {
    let folder = fresh();
    let path = folder.path().join("envoy.yaml");
    std::fs::write(&path, configuration).expect("written");
    let mut command = Command::new(tool("envoy"));
    command.args(["--mode", "validate", "--disable-hot-restart", "-c"]);
    command.arg(&path);
    run(command, "")
}

#[test]
fn envoys_configurations_are_good_to_envoy() {
    tried_by_envoy(&example("envoy/envoy.yaml")).ok();
    let folder = fresh();
    // Envoy looks whether what it watches is there.
    let place = folder.path().to_str().expect("text");
    let path = "kubernetes/envoy.yaml";
    let token = data(path, "envoy", "token.yaml").replace("/etc/envoy", place);
    std::fs::create_dir(folder.path().join("token")).expect("made");
    std::fs::write(folder.path().join("token/token"), "lks_1").expect("written");
    std::fs::write(folder.path().join("token.yaml"), token).expect("written");
    let text = data(path, "envoy", "envoy.yaml").replace("/etc/envoy", place);
    tried_by_envoy(&text).ok();
    let wrong = text.replacen("failure_mode_allow", "failure_mode_deny", 1);
    tried_by_envoy(&wrong).refused("failure_mode_deny");
}

/// What of the configurations for Envoy may differ, and where.
const DIFFERENT: [&str; 7] = [
    "/node",
    "/static_resources/listeners/0/address",
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0\
     /typed_config/grpc_service/initial_metadata",
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config\
     /virtual_hosts/0/routes",
    "/static_resources/clusters/0/typed_extension_protocol_options\
     /envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters",
    "/static_resources/clusters/0/load_assignment",
    "/static_resources/clusters/1/load_assignment",
];

#[test]
fn envoy_is_set_alike_in_every_example() {
    let read = |text: &str| {
        let mut read = json(text);
        for path in DIFFERENT {
            let (parent, name) = path.rsplit_once('/').expect("a path");
            let parent = read.pointer_mut(parent).and_then(Value::as_object_mut);
            parent.expect("it is there").remove(name);
        }
        read
    };
    let bare = read(&example("envoy/envoy.yaml"));
    let kubernetes = read(&data("kubernetes/envoy.yaml", "envoy", "envoy.yaml"));
    assert_eq!(kubernetes, bare);
    assert_eq!(read(&example("compose/envoy.yaml")), bare);
}

/// The rows of the table under a line of the README, by cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    let readme = example("../README.md");
    let (_, after) = readme.split_once(heading).expect(heading);
    let rows = after.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

/// What stands between backticks.
fn named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_setting_that_is_recommended_stands_in_the_examples() {
    let texts = |folder: &str| -> String { all(folder).iter().map(|path| example(path)).collect() };
    let recommended = table("Set so, everything else may be as you like:");
    assert!(recommended.len() > 10, "{recommended:?}");
    for (folder, instead) in [
        ("envoy", ("", "")),
        ("kubernetes", ("initial_metadata", "credential_injector")),
    ] {
        let text = texts(folder);
        for row in &recommended {
            for name in named(&row[0]) {
                let name = if name == instead.0 { instead.1 } else { name };
                let set = text.contains(&format!("{name}:")) || text.contains(&format!(".{name}"));
                assert_eq!(set, row[1] != "unset", "{folder}: {name}");
            }
        }
    }
    let elsewhere = table("Where these stand in the other examples");
    let (gateway, istio) = (texts("envoy-gateway"), texts("istio"));
    for row in &recommended {
        let Some(name) = named(&row[0]).next() else {
            continue;
        };
        let found = elsewhere
            .iter()
            .find(|row| named(&row[0]).next() == Some(name));
        let found = found.unwrap_or_else(|| panic!("{name} is in one table only"));
        for (cell, text) in [(&found[1], &gateway), (&found[2], &istio)] {
            let is_said = cell.starts_with("no") || named(cell).next().is_some();
            assert!(is_said, "{name}: {cell}");
            for word in named(cell) {
                assert!(text.contains(word), "{name}: {word} stands in no example");
            }
        }
    }
}
