//! The alerts and the dashboard: tried by promtool, and by a Prometheus that scrapes two replicas.
//!
//! `rules_test.yaml` has what makes each alert fire and what does not. Here every alert is also put
//! out of order in both ways, and its tests must find it. The Prometheus is Debian's and a real one:
//! each query of the dashboard has to give data there, and what an alert asks for has to exist.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use latchkey::proto::v1::login_service_client::LoginServiceClient;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Rendered, path, sets, text};
use crate::leaks::{free_port, metrics};
use crate::logins::house::by_secret;
use crate::manifests;
use crate::postgres::database;
use crate::program::{Ran, Server, fresh, run};
use crate::replicas::bootstrap;
use crate::telemetry::collector::Collector;
use crate::tls::kit::House;
use crate::wire::channel;

const RULES: &str = "helm/files/rules.yaml";
const TESTS: &str = "tests/it/chart/rules_test.yaml";
/// By what the rules know Latchkey where they have no metric of its own.
const JOB: &str = "job=\"latchkey\"";
/// Words of the README that begin as metrics do and are none.
const NO_METRICS: [&str; 4] = [
    "latchkey_owner",
    "latchkey_server",
    "latchkey_try",
    "process_metrics",
];
/// Rounds of traffic until Prometheus must have seen everything; a few are enough.
const ROUNDS_MAX: usize = 2_000;

/// A program of Debian's package `prometheus`.
fn debians(name: &str) -> PathBuf {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&places).map(|place| place.join(name));
    let found = found.find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: run `make tools`"))
}

fn promtool(arguments: &[&str]) -> Ran {
    let mut command = Command::new(debians("promtool"));
    command.args(arguments);
    run(command, "")
}

fn rules() -> Vec<Value> {
    let file = manifests::json(&text(RULES));
    let groups = file["groups"].as_array().expect("groups");
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules"));
    rules.cloned().collect()
}

/// The unit tests of one rule alone, in which it asks for something else.
fn tested_with(rule: &Value, expression: &str, tests: &Value) -> Ran {
    let folder = fresh();
    let written = |name: &str, value: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, value.to_string()).expect("written");
        path.to_str().expect("a text").to_owned()
    };
    let (mut rule, mut tests) = (rule.clone(), tests.clone());
    let alert = rule["alert"].clone();
    rule["expr"] = json!(expression);
    let group = json!({"name": "one", "rules": [rule]});
    written("rules.yaml", &json!({"groups": [group]}));
    tests["rule_files"] = json!(["rules.yaml"]);
    let about = |test: &mut Value| {
        let cases = test["alert_rule_test"].as_array_mut().expect("cases");
        cases.retain(|case| case["alertname"] == alert);
        !cases.is_empty()
    };
    tests["tests"]
        .as_array_mut()
        .expect("tests")
        .retain_mut(about);
    promtool(&["test", "rules", &written("tests.yaml", &tests)])
}

#[test]
fn the_alerts_pass_their_tests() {
    let place = |of: &str| path(of).to_str().expect("a text").to_owned();
    promtool(&["check", "rules", &place(RULES)]).ok();
    promtool(&["test", "rules", &place(TESTS)]).ok();
}

#[test]
fn each_alert_that_is_put_out_of_order_is_found() {
    let (rules, tests) = (rules(), manifests::json(&text(TESTS)));
    assert!(rules.len() > 10, "{} alerts", rules.len());
    for rule in rules {
        let alert = rule["alert"].as_str().expect("an alert");
        let expression = rule["expr"].as_str().expect("an expression");
        let tested = |expression: &str| tested_with(&rule, expression, &tests).code;
        assert_eq!(tested(expression), 0, "{alert} as it is");
        assert_ne!(tested("vector(0) > 1"), 0, "no test makes {alert} fire");
        assert_ne!(tested("vector(1)"), 0, "no test keeps {alert} silent");
    }
}

/// The rules as the chart brings them.
fn brought(rendered: &Rendered) -> Vec<Value> {
    let groups = rendered.one("PrometheusRule")["spec"]["groups"].as_array();
    let [group] = groups.expect("groups").as_slice() else {
        panic!("one group")
    };
    group["rules"].as_array().expect("rules").clone()
}

/// Two of them know Latchkey by its job alone. A neighbour's may have a name like it, and another
/// release is no replica of this one.
#[test]
fn the_chart_brings_rules_and_dashboard_for_its_own_job() {
    let mut seen = 0;
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        let Some(monitor) = rendered.one_or_none("ServiceMonitor") else {
            continue;
        };
        let relabeled = &monitor["spec"]["endpoints"][0]["relabelings"][0];
        assert_eq!(relabeled["targetLabel"], "job", "{name}");
        let job = relabeled["replacement"].as_str().expect("a name");
        if rendered.one_or_none("PrometheusRule").is_none() {
            continue;
        }
        let own = format!("job=\"{job}\",namespace=\"tokens\"");
        let mut expected = rules();
        for rule in &mut expected {
            let expression = rule["expr"].as_str().expect("an expression");
            seen += expression.matches(JOB).count();
            rule["expr"] = json!(expression.replace(JOB, &own));
        }
        assert_eq!(brought(&rendered), expected, "{name}");
    }
    assert!(seen > 6, "{seen} jobs");
    let values = "metrics: {prometheusRule: {enabled: true}, dashboard: {enabled: true}}";
    let rendered = Rendered::of(values);
    // Whoever scrapes in a way of their own has a job of another name, which is not missed.
    let mut expected = rules();
    expected.retain(|rule| rule["alert"] != "LatchkeyAbsent");
    assert_eq!(brought(&rendered).len(), expected.len());
    assert!(!rendered.text.contains("LatchkeyAbsent"));
    let maps = rendered
        .all("ConfigMap")
        .filter_map(|it| it["data"]["latchkey.json"].as_str());
    let [dashboard] = maps.collect::<Vec<_>>()[..] else {
        panic!("one dashboard")
    };
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    assert_eq!(dashboard, self::dashboard());
}

#[test]
fn the_readme_says_what_to_do_for_each_alert() {
    let readme = text("README.md");
    let (_, after) = readme
        .split_once("<!-- alerts: begin -->")
        .expect("a table of alerts");
    let (table, _) = after.split_once("<!-- alerts: end -->").expect("its end");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let told: Vec<&str> = rows
        .filter_map(|row| row.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let rules = rules();
    let alerts: Vec<&str> = rules
        .iter()
        .filter_map(|rule| rule["alert"].as_str())
        .collect();
    assert_eq!(told, alerts);
}

fn dashboard() -> Value {
    serde_json::from_str(&text("helm/files/dashboard.json")).expect("JSON")
}

/// The queries of the dashboard, with the panel of each.
fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut found = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("a query");
            let query = query.replace("$namespace", ".*").replace("$job", ".*");
            let query = query.replace("$__rate_interval", "30s");
            assert!(!query.contains('$'), "{title}: {query}");
            found.push((title.to_owned(), query));
        }
    }
    assert!(found.len() > 20, "{} queries", found.len());
    found
}

/// What one matcher of an alert asks for: each value that it names, or any.
fn matched(matcher: &str) -> Vec<String> {
    let quoted = |text: &str| text.trim_matches('"').to_owned();
    if let Some((label, values)) = matcher.split_once("=~") {
        let values = quoted(values);
        let each = values
            .split('|')
            .map(|value| format!("{label}=\"{value}\""));
        return each.collect();
    }
    match matcher.split_once("!=") {
        Some((label, _)) => vec![format!("{label}!=\"\"")],
        None => vec![matcher.to_owned()],
    }
}

/// What the alerts ask for: that each metric is there, and has each label that it is asked for by,
/// with each value.
fn asked_for() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rule in rules() {
        let expression = rule["expr"].as_str().expect("an expression").to_owned();
        for part in expression.split("latchkey_").skip(1) {
            let end = part
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            if rest.starts_with('"') || rest.starts_with('.') {
                continue;
            }
            let matchers = rest.strip_prefix('{').and_then(|it| it.split_once('}'));
            let labels = matchers.map_or("", |(inside, _)| inside).split(',');
            let labels = labels.filter(|one| !one.is_empty()).map(matched);
            let mut queries = vec![String::new()];
            for values in labels {
                let with = |query: &String| {
                    let each = values.iter().map(|value| format!("{query}{value},"));
                    each.collect::<Vec<_>>()
                };
                queries = queries.iter().flat_map(with).collect();
            }
            let queries = queries.iter();
            found.extend(queries.map(|labels| format!("latchkey_{name}{{{labels}}}")));
        }
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

/// The metrics that the README names.
fn named() -> BTreeSet<String> {
    let is_of_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let readme = text("README.md");
    let words = readme.split(|c| !is_of_a_name(c));
    let begin = |word: &&str| word.starts_with("latchkey_") || word.starts_with("process_");
    let words = words.filter(begin).filter(|it| !NO_METRICS.contains(it));
    words.map(str::to_owned).collect()
}

/// The metrics that a server shows, by the names that they are asked for.
fn shown(server: &Server) -> BTreeSet<String> {
    let text = metrics(&server.admin_address);
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let kinds = kinds.filter_map(|line| line.split_once(' '));
    let name = |(name, kind)| match kind {
        "counter" => format!("{name}_total"),
        _ => str::to_owned(name),
    };
    kinds.map(name).collect()
}

/// A Prometheus of the test's own.
struct Prometheus {
    child: Child,
    address: String,
    _folder: TempDir,
}

impl Prometheus {
    fn scraping(targets: &[&str]) -> Self {
        let folder = fresh();
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [path(RULES)],
            "scrape_configs": [{
                "job_name": "latchkey",
                "static_configs": [{"targets": targets, "labels": {"namespace": "tokens"}}],
            }],
        });
        let file = folder.path().join("prometheus.yaml");
        std::fs::write(&file, config.to_string()).expect("written");
        let address = free_port();
        let child = Command::new(debians("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    /// What it answers to a path; nothing while it does not listen yet.
    fn get(&mut self, path: &str) -> Option<Value> {
        let ended = self.child.try_wait().expect("our child");
        assert!(ended.is_none(), "Prometheus has ended: {ended:?}");
        let mut stream = TcpStream::connect(&self.address).ok()?;
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// The numbers that a query gives now; an error of it is one of the test.
    fn query(&mut self, query: &str) -> Vec<f64> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let Some(answer) = self.get(&format!("query?query={escaped}")) else {
            return Vec::new();
        };
        // It says so while it starts.
        if answer["errorType"] == "unavailable" {
            return Vec::new();
        }
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = answer["data"]["result"].as_array().expect("a vector");
        let numbers = result
            .iter()
            .map(|it| it["value"][1].as_str().expect("a number"));
        numbers.map(|it| it.parse().expect("a number")).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of everything that is counted: writes that are confirmed and refused, and Checks too.
fn traffic(server: &Server, token: &str) {
    let admin = server.as_bearer(token);
    let (id, secret) = admin.issue("--kind user --ttl 1h --name a --reason a --wait");
    assert!(admin.check(&secret, "secrets:read", "acme/web").0);
    admin.run(&format!("token revoke {id} --reason a")).ok();
    admin.run(&format!("token revoke {id} --reason ''"));
    let nobody = server.as_bearer(&secret);
    assert_ne!(
        nobody
            .run_with_input("check --token-file - --need a:b@c", &secret)
            .code,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_has_what_dashboard_and_alerts_ask_for_postgres() {
    let database = database().await;
    let token = bootstrap(&database);
    // Who sends nothing has no counts of it.
    let collector = Collector::start().await;
    let endpoint = collector.setting();
    let start = |name: &str| {
        // No lease ends on a busy machine.
        let settings = [
            "canary.interval=1s",
            "check.open=false",
            "lease.length=60s",
            &endpoint,
        ];
        let settings = settings.map(|setting| ["--set", setting]);
        let started = Server::replica(&database.url, name, settings.as_flattened());
        started.unwrap_or_else(|said| panic!("{name}: {said}"))
    };
    let (a, b) = (start("a"), start("b"));
    let secured = House::open(&["admin.plain_text=true"]);
    let targets = [&a, &b, &secured.server].map(|server| server.admin_address.as_str());
    let guess = by_secret("nobody", "lkc_guess");
    let mut logins = LoginServiceClient::new(channel(&a.address).await);
    logins.login(guess).await.expect_err("refused");
    let mut prometheus = Prometheus::scraping(&targets);
    let mut wanted = queries();
    wanted.extend(
        asked_for()
            .into_iter()
            .map(|query| ("an alert".to_owned(), query)),
    );
    // What nobody knows gives nothing, however long one waits.
    let unknown = "latchkey_nonsense_total{}";
    for _ in 0..ROUNDS_MAX {
        traffic(&a, &token);
        wanted.retain(|(_, query)| {
            !prometheus
                .query(query)
                .iter()
                .any(|number| !number.is_nan())
        });
        if wanted.is_empty() {
            break;
        }
    }
    assert!(wanted.is_empty(), "no data for {wanted:?}");
    assert_eq!(prometheus.query(unknown), [0.0; 0]);
    // All that there is was there by now, and the README knows it and nothing else.
    let all = [&a, &b, &secured.server].map(shown).into_iter().flatten();
    assert_eq!(named(), all.collect());
    let loaded = prometheus.get("rules").expect("an answer");
    let loaded = loaded["data"]["groups"][0]["rules"]
        .as_array()
        .expect("rules")
        .clone();
    assert_eq!(loaded.len(), rules().len());
    for rule in &loaded {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}
