//! The Helm chart: rendered and linted by Helm's own engine, and held against the schemas of what
//! it makes.
//!
//! `chart/helm.py` drives the engine; `chart/values` has the sets of values that everything here is
//! tried with. `program` holds what is rendered against the program, `rules` tries the alerts. Each
//! check is also given something broken, for one that refuses nothing proves nothing. No cluster is
//! asked.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::manifests::check;
use crate::program::{Ran, fresh, run, tool};

mod program;
mod rules;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/chart/helm.py");

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn text(of: &str) -> String {
    let path = path(of);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn helm(arguments: &[&str], chart: &Path, values: &str) -> Ran {
    let mut command = Command::new(tool("python3"));
    command.arg(SCRIPT).arg(arguments[0]).arg(chart);
    run_with(command, &arguments[1..], values)
}

fn run_with(mut command: Command, arguments: &[&str], input: &str) -> Ran {
    command.args(arguments);
    run(command, input)
}

/// What Helm makes of the chart.
struct Rendered {
    text: String,
    notes: String,
    documents: Vec<Value>,
}

impl Rendered {
    #[track_caller]
    fn of(values: &str) -> Self {
        let rendered = helm(&["render"], &path("helm"), values).json();
        let documents = rendered["documents"].as_array().expect("a list").clone();
        let text = |key: &str| rendered[key].as_str().expect(key).to_owned();
        Self {
            text: text("text"),
            notes: text("notes"),
            documents,
        }
    }

    /// The only manifest of a kind.
    #[track_caller]
    fn one<'a>(&'a self, kind: &'a str) -> &'a Value {
        let mut found = self.all(kind);
        let one = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
        assert!(found.next().is_none(), "more than one {kind}");
        one
    }

    fn one_or_none(&self, kind: &str) -> Option<&Value> {
        self.documents.iter().find(|it| it["kind"] == kind)
    }

    fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.documents.iter().filter(move |it| it["kind"] == kind)
    }

    /// The pod specs of everything that makes pods, with what makes them.
    fn pods(&self) -> impl Iterator<Item = (String, &Value)> {
        self.documents.iter().filter_map(|it| {
            let kind = it["kind"].as_str().expect("a kind").to_owned();
            let spec = match kind.as_str() {
                "Pod" => &it["spec"],
                "Job" | "Deployment" | "DaemonSet" | "StatefulSet" => {
                    &it["spec"]["template"]["spec"]
                }
                _ => return None,
            };
            Some((kind, spec))
        })
    }

    /// What serves, with its pod.
    #[track_caller]
    fn server(&self) -> (&str, &Value) {
        let kinds = ["Deployment", "DaemonSet", "StatefulSet"];
        let mut servers = self
            .documents
            .iter()
            .filter(|it| kinds.iter().any(|kind| it["kind"] == *kind));
        let server = servers.next().expect("something that serves");
        assert!(servers.next().is_none(), "two things serve");
        (
            server["kind"].as_str().expect("a kind"),
            &server["spec"]["template"]["spec"],
        )
    }
}

/// The containers of a pod that run the program, those that run before it included.
fn ours(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = [&pod["initContainers"], &pod["containers"]];
    let all = lists.into_iter().filter_map(Value::as_array).flatten();
    all.filter(|it| it["command"][0] == "/usr/local/bin/latchkey")
}

/// Every set of values: its name and its text.
fn sets() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(path("tests/it/chart/values")).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let sets: Vec<_> = names
        .map(|name| {
            let text = text(&format!("tests/it/chart/values/{name}"));
            (name, text)
        })
        .collect();
    assert!(sets.len() >= 6, "{} sets of values", sets.len());
    sets
}

/// A copy of the chart in which a text stands in the place of another.
#[track_caller]
fn broken(file: &str, from: &str, to: &str) -> TempDir {
    let folder = fresh();
    let copied = Command::new("cp")
        .arg("-r")
        .arg(path("helm"))
        .arg(folder.path().join("latchkey"))
        .status();
    assert!(copied.expect("cp runs").success());
    let file = folder.path().join("latchkey").join(file);
    let good = std::fs::read_to_string(&file).expect("a file of the chart");
    assert!(good.contains(from), "{from:?} is not in {}", file.display());
    std::fs::write(&file, good.replacen(from, to, 1)).expect("written");
    folder
}

/// Helm does not render these values, and says why.
#[track_caller]
fn refused(values: &Value, why: &str) {
    let ran = helm(&["render"], &path("helm"), &values.to_string());
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, 1, "{values} renders");
    assert!(said.contains(why), "{why:?} is not in {said}");
}

#[test]
fn every_set_of_values_passes_lint_and_schemas() {
    for (name, values) in sets() {
        helm(&["lint"], &path("helm"), &values).ok();
        let ran = check(&Rendered::of(&values).text);
        assert_eq!(ran.code, 0, "{name}: {}{}", ran.stdout, ran.stderr);
    }
}

#[test]
fn a_broken_chart_is_found_by_lint() {
    let found = |file: &str, from: &str, to: &str, why: &str| {
        let folder = broken(file, from, to);
        let ran = helm(
            &["lint"],
            &folder.path().join("latchkey"),
            "store: postgres",
        );
        assert_eq!(ran.code, 1, "{to:?} passes: {}", ran.stdout);
        assert!(ran.stdout.contains(why), "{why:?}: {}", ran.stdout);
    };
    found("Chart.yaml", "version: 0.1.0", "version: one", "is invalid");
    found("templates/service.yaml", "{{- end }}", "", "unexpected EOF");
    found(
        "templates/service.yaml",
        "spec:",
        "spec: {{ .Values.nobody.knows }}",
        "nil pointer",
    );
    found(
        "templates/settings.yaml",
        "metadata:",
        "metadata: [",
        "error converting YAML",
    );
    found(
        "values.yaml",
        "kind: Deployment",
        "kind: Paper",
        "value must be one of",
    );
    // A warning is not let pass either.
    found(
        "templates/scaling.yaml",
        "policy/v1",
        "policy/v1beta1",
        "deprecated",
    );
}

#[test]
fn a_broken_manifest_is_found_by_its_schema() {
    let (_, values) = sets()
        .into_iter()
        .find(|(name, _)| name == "everything.yaml")
        .expect("it is there");
    let good = Rendered::of(&values).text;
    let found = |from: &str, to: &str, why: &str| {
        assert!(good.contains(from), "{from:?} is not rendered");
        let ran = check(&good.replacen(from, to, 1));
        assert_eq!(ran.code, 1, "{to:?} passes: {}", ran.stdout);
        assert!(ran.stdout.contains(why), "{why:?}: {}", ran.stdout);
    };
    found(
        "readinessProbe:",
        "readyProbe:",
        "'readyProbe' was unexpected",
    );
    found("maxUnavailable: 2", "maxUnavailable: [2]", "is not valid");
    found(
        "backoffLimit: 2",
        "backoffLimit: few",
        "'few' is not of type",
    );
    found(
        "port: admin\n      path:",
        "port: admin\n      pathe:",
        "'pathe' was unexpected",
    );
    found("for: 2m", "since: 2m", "'since' was unexpected");
    found(
        "issuerRef:",
        "issuer:",
        "'issuerRef' is a required property",
    );
    found("dnsNames:", "dnsName:", "'dnsName' was unexpected");
    found("algorithm: ECDSA", "algorithm: DSA", "'DSA' is not one of");
    found(
        "kind: ServiceMonitor",
        "kind: ServiceMonitors",
        "nothing here knows this kind",
    );
    found(
        "kind: PodDisruptionBudget",
        "kind: Budget",
        "nothing here knows this kind",
    );
    // Known to the newest Kubernetes only: the oldest that the chart takes has to know it too.
    let newest = good.replacen(
        "      enableServiceLinks:",
        "      hostnameOverride: a\n      enableServiceLinks:",
        1,
    );
    let said = check(&newest).stdout;
    assert!(
        said.contains("(Kubernetes 1.31)") && !said.contains("(Kubernetes 1.37)"),
        "{said}"
    );
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let one = "store: embedded bears one replica";
    refused(&json!({"replicas": 2}), one);
    refused(&json!({"kind": "DaemonSet"}), one);
    refused(&json!({"autoscaling": {"enabled": true}}), one);
    let daemons =
        json!({"store": "postgres", "kind": "DaemonSet", "autoscaling": {"enabled": true}});
    refused(&daemons, "cannot be autoscaled");
    let least = json!({"store": "postgres", "autoscaling": {"enabled": true, "minReplicas": 20}});
    refused(&least, "minReplicas is more than");
    refused(
        &json!({"sealKeys": {"existingSecret": "a", "generate": true}}),
        "give one of them",
    );
    refused(
        &json!({"routes": {"existingConfigMap": "a", "table": "b"}}),
        "give one of them",
    );
    let tls = |more: Value| json!({"tls": more});
    refused(&tls(json!({"enabled": true})), "where is the certificate");
    // Nobody may take a server for one that does TLS.
    refused(
        &tls(json!({"existingSecret": "certificate"})),
        "which is meant",
    );
    refused(
        &tls(json!({"clientCa": {"existingSecret": "ca"}})),
        "which is meant",
    );
    let two = json!({"enabled": true, "existingSecret": "a", "certManager": {"enabled": true}});
    refused(&tls(two), "give one of them");
    let nobody = json!({"enabled": true, "certManager": {"enabled": true}});
    refused(&tls(nobody), "who issues");
    let collector = json!({"otlp": {"endpoint": "https://collector:4317"}});
    let collector = json!({"config": {"telemetry": collector}});
    refused(&collector, "telemetry.ca.existingSecret");
}

#[test]
fn values_that_nobody_knows_are_refused() {
    let unknown = "additional properties";
    refused(&json!({"replicaCount": 3}), unknown);
    refused(&json!({"image": {"repo": "x"}}), unknown);
    refused(&json!({"config": {"chekc": {"open": "true"}}}), unknown);
    refused(&json!({"config": {"check": {"opne": "true"}}}), unknown);
    refused(
        &json!({"config": {"check": {"open": true}}}),
        "got boolean, want string",
    );
    // What the chart sets itself.
    refused(
        &json!({"config": {"listen": {"addr": "0.0.0.0:1"}}}),
        unknown,
    );
    refused(
        &json!({"config": {"database": {"url": "postgres://u:p@h/d"}}}),
        unknown,
    );
    refused(
        &json!({"image": {"digest": "sha256:1"}}),
        "does not match pattern",
    );
    refused(&json!({"drain": {"closeSeconds": 1}}), "minimum");
}

#[test]
fn an_embedded_store_has_one_replica_and_its_volume() {
    let rendered = Rendered::of("{}");
    let server = rendered.one("StatefulSet");
    assert_eq!(server["spec"]["replicas"], 1);
    let claim = &server["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["metadata"]["name"], "data");
    assert_eq!(
        server["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"],
        "Retain"
    );
    for kind in ["PodDisruptionBudget", "HorizontalPodAutoscaler", "Job"] {
        assert_eq!(rendered.all(kind).count(), 0, "{kind}");
    }
    let given = Rendered::of("persistence: {existingClaim: mine}");
    assert!(given.one("StatefulSet")["spec"]["volumeClaimTemplates"].is_null());
    let (_, pod) = given.server();
    let volumes = pod["volumes"].as_array().expect("volumes");
    let mine = json!({"name": "data", "persistentVolumeClaim": {"claimName": "mine"}});
    assert!(volumes.contains(&mine), "{volumes:?}");
}

#[test]
fn replicas_on_a_database_are_spread_and_kept() {
    let rendered = Rendered::of("store: postgres");
    let server = rendered.one("Deployment");
    assert_eq!(server["spec"]["replicas"], 3);
    assert_eq!(
        server["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"],
        0
    );
    assert_eq!(
        rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"],
        1
    );
    let spread = rendered.server().1["topologySpreadConstraints"].as_array();
    assert_eq!(spread.map(Vec::len), Some(2));
    let hook = &rendered.one("Job")["metadata"]["annotations"]["helm.sh/hook"];
    assert_eq!(hook, "pre-install,pre-upgrade");
    // One replica that may not be away would keep its node for ever.
    let one = Rendered::of("{store: postgres, replicas: 1}");
    assert_eq!(one.all("PodDisruptionBudget").count(), 0);
    let scaled = Rendered::of("{store: postgres, autoscaling: {enabled: true}}");
    assert!(scaled.one("Deployment")["spec"]["replicas"].is_null());
    assert_eq!(
        scaled.one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["kind"],
        "Deployment"
    );
    let local = Rendered::of("{store: postgres, kind: DaemonSet}");
    // On its node it is the only one: the next has to be there before it goes.
    let update = &local.one("DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(*update, json!({"maxUnavailable": 0, "maxSurge": 1}));
    let services: Vec<&Value> = local.all("Service").collect();
    assert!(
        services
            .iter()
            .any(|it| it["spec"]["internalTrafficPolicy"] == "Local")
    );
}

#[test]
fn an_administrator_is_made_also_by_an_upgrade() {
    let rendered = Rendered::of("{store: postgres, bootstrap: {existingSecret: admin}}");
    let made = "latchkey-bootstrap";
    let job = rendered
        .all("Job")
        .find(|it| it["metadata"]["name"] == made);
    let job = job.expect("a Job for the first administrator");
    // Its Secret may be named later, and a first install may have failed halfway.
    assert_eq!(
        job["metadata"]["annotations"]["helm.sh/hook"],
        "post-install,post-upgrade"
    );
}

#[test]
fn no_pod_may_do_more_than_it_needs() {
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        for (kind, pod) in rendered.pods() {
            let named = format!("{name}: {kind}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{named}");
            assert_eq!(pod["enableServiceLinks"], false, "{named}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{named}");
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
                "{named}"
            );
            let mut seen = 0;
            for container in ours(pod) {
                let context = &container["securityContext"];
                assert_eq!(context["readOnlyRootFilesystem"], true, "{named}");
                assert_eq!(context["allowPrivilegeEscalation"], false, "{named}");
                assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{named}");
                assert!(
                    container["resources"]["limits"]["memory"].is_string(),
                    "{named}"
                );
                seen += 1;
            }
            assert!(seen > 0, "{named}");
        }
    }
}

#[test]
fn a_generated_seal_key_is_kept_and_never_made_anew() {
    let values = "sealKeys: {generate: true}";
    let rendered = Rendered::of(values);
    let secret = rendered.one("Secret");
    assert_eq!(
        secret["metadata"]["annotations"]["helm.sh/resource-policy"],
        "keep"
    );
    let again = Rendered::of(values);
    assert_ne!(secret["data"], again.one("Secret")["data"]);
    // Without the cluster nobody knows the key that is there, and another would refuse all tokens.
    let ran = helm(&["render", "upgrade"], &path("helm"), values);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(
        ran.stderr.contains("is gone, or the cluster was not asked"),
        "{}",
        ran.stderr
    );
    // By default nothing secret is rendered at all.
    for (name, values) in sets() {
        if !values.contains("generate: true") {
            assert_eq!(Rendered::of(&values).all("Secret").count(), 0, "{name}");
        }
    }
}

#[test]
fn other_settings_make_other_pods_and_other_routes_do_not() {
    let sum = |values: &str| {
        let rendered = Rendered::of(values);
        let server = rendered.one("StatefulSet");
        let notes = &server["spec"]["template"]["metadata"]["annotations"];
        notes["checksum/settings"]
            .as_str()
            .expect("a sum")
            .to_owned()
    };
    let before = sum("routes: {table: a}");
    assert_eq!(before, sum("routes: {table: b}"));
    assert_ne!(
        before,
        sum("{routes: {table: a}, config: {check: {valid_for: 1s}}}")
    );
}

#[test]
fn notes_name_what_is_missing() {
    let notes = Rendered::of("store: postgres").notes;
    assert!(
        notes.contains("the Secret latchkey-database, entry `url`"),
        "{notes}"
    );
    assert!(notes.contains("nobody can log in"), "{notes}");
    let notes = Rendered::of("{}").notes;
    assert!(!notes.contains("latchkey-database"), "{notes}");
}

/// The names of a schema's properties and those below them, as far as it closes objects.
fn schema_paths(schema: &Value, path: &str, found: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        found.push(path.to_owned());
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{path} is open");
    for (name, inner) in properties {
        let dot = if path.is_empty() { "" } else { "." };
        schema_paths(inner, &format!("{path}{dot}{name}"), found);
    }
}

#[test]
fn every_value_is_documented_and_has_a_schema() {
    let told = helm(&["leaves"], &path("helm"), "").json();
    let list = |key: &str| -> Vec<String> {
        let list = told[key].as_array().expect(key).iter();
        list.map(|it| it.as_str().expect("a path").to_owned())
            .collect()
    };
    let (leaves, rows) = (list("leaves"), list("rows"));
    let within = |path: &str, of: &str| path == of || path.starts_with(&format!("{of}."));
    for leaf in &leaves {
        let documented = rows.iter().any(|row| within(leaf, row));
        assert!(documented, "values.yaml: {leaf} has no comment `# -- …`");
    }
    let schema: Value = serde_json::from_str(&text("helm/values.schema.json")).expect("JSON");
    let mut paths = Vec::new();
    schema_paths(&schema, "", &mut paths);
    for leaf in &leaves {
        let known = paths
            .iter()
            .any(|path| within(leaf, path) || within(path, leaf));
        assert!(known, "values.schema.json: {leaf} is missing");
    }
    for path in paths.iter().filter(|path| *path != "global") {
        let there = rows
            .iter()
            .any(|row| within(path, row) || within(row, path));
        assert!(there, "values.yaml: {path} of the schema is missing");
    }
}

#[test]
fn the_table_of_values_is_that_of_the_chart() {
    let table = helm(&["table"], &path("helm"), "").ok().stdout;
    let readme = text("helm/README.md");
    let inside = readme.split_once("<!-- values: begin -->\n");
    let inside = inside.and_then(|(_, rest)| rest.split_once("<!-- values: end -->"));
    let (inside, _) = inside.expect("a table in helm/README.md");
    assert!(
        inside == table,
        "helm/README.md has another table of values than values.yaml; it should be:\n{table}"
    );
}
