//! The Helm chart: rendered and linted by Helm's own engine, and held against the schemas of what
//! it makes.
//!
//! `chart/helm.py` drives the engine; `chart/values` has the sets of values that everything here is
//! tried with. `workloads` looks at what runs, `notes` at what is said, `refused` at values that do
//! not go, `given` and `program` hold what is rendered against the program, `rules` tries the alerts. Each check is also given
//! something broken, for one that refuses nothing proves nothing. No cluster is asked.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::manifests::check;
use crate::program::{Ran, fresh, run, tool};

mod given;
mod notes;
mod program;
mod refused;
mod rules;
mod workloads;

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
