//! Values that Helm refuses to render: those that nobody knows, and those that cannot work together.
//!
//! What the program or a cluster would refuse only once pods are there is told before, and why.

use serde_json::{Value, json};

use super::{Rendered, helm, path, text};
use crate::manifests::check;
use crate::program::{Server, fresh, latchkey, run};

/// Helm does not render these values, and says why.
#[track_caller]
fn refused(values: &Value, why: &str) {
    let ran = helm(&["render"], &path("helm"), &values.to_string());
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, 1, "{values} renders");
    assert!(said.contains(why), "{why:?} is not in {said}");
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

/// Who proves who it is: nobody without TLS, and nobody whom no authority vouches for.
#[test]
fn what_asks_for_certificates_needs_who_vouches_for_them() {
    let with = |tls: Value, config: Value| json!({"tls": tls, "config": config});
    let plain = json!({});
    let one_sided = json!({"enabled": true, "existingSecret": "a"});
    let mutual = json!({
        "enabled": true, "existingSecret": "a", "clientCa": {"existingSecret": "b"},
    });
    let needs = "needs tls.clientCa.existingSecret";
    let mtls = json!({"check": {"open": "mtls"}});
    let listed = json!({"access": {"manage": "spiffe://a/b"}});
    let required = json!({"tls": {"client_auth": "require"}});
    for config in [&mtls, &listed, &required] {
        refused(&with(plain.clone(), config.clone()), needs);
        refused(&with(one_sided.clone(), config.clone()), needs);
        Rendered::of(&with(mutual.clone(), config.clone()).to_string());
    }
    let mut silent = listed.clone();
    silent["tls"] = json!({"client_auth": "none"});
    refused(&with(mutual, silent), "nobody is asked for a certificate");
}

#[test]
fn words_that_the_program_does_not_know_are_refused() {
    let one_of = "value must be one of";
    refused(&json!({"config": {"check": {"open": "yes"}}}), one_of);
    refused(&json!({"config": {"log": {"format": "xml"}}}), one_of);
    refused(&json!({"config": {"tls": {"client_auth": "on"}}}), one_of);
    refused(&json!({"config": {"tls": {"min_version": "1.1"}}}), one_of);
    let typo = json!({"probes": {"readinessService": "latchkey.v1.Chek"}});
    refused(&typo, one_of);
}

/// The words of the schema are those that the program takes, all of them.
#[test]
fn every_word_of_the_schema_is_one_to_the_program() {
    let schema: Value = serde_json::from_str(&text("helm/values.schema.json")).expect("JSON");
    let words = |path: &str| -> Vec<String> {
        let list = schema.pointer(path).and_then(Value::as_array);
        let list = list.unwrap_or_else(|| panic!("{path}")).iter();
        list.map(|it| it.as_str().expect("a text").to_owned())
            .collect()
    };
    for key in [
        "check.open",
        "log.format",
        "tls.client_auth",
        "tls.min_version",
    ] {
        let inner = key.replace('.', "/properties/");
        let words = words(&format!("/properties/config/properties/{inner}/enum"));
        assert!(words.len() > 1, "{key}");
        for word in words {
            let mut command = latchkey();
            let set = format!("{key}={word}");
            // What contradicts the rest is told by another error.
            command.args(["serve", "--print-config", "--set", &set]);
            let ran = run(command, "");
            assert!(
                !ran.stderr.contains("unknown variant"),
                "{set}: {}",
                ran.stderr
            );
        }
    }
    let dir = fresh();
    let server = Server::start(dir.path());
    let services = words("/properties/probes/properties/readinessService/enum");
    assert!(services.len() > 8, "{services:?}");
    for service in services {
        let mut command = latchkey();
        command.args(["health", "--addr", &server.address, "--service", &service]);
        assert_eq!(run(command, "").ok().stdout, "serving\n", "{service}");
    }
}

#[test]
fn a_certificate_is_renewed_before_it_ends() {
    let of = |more: Value| {
        let mut made = json!({"enabled": true, "issuerRef": {"name": "internal"}});
        let more = more.as_object().expect("values").clone();
        made.as_object_mut().expect("values").extend(more);
        json!({"tls": {"enabled": true, "certManager": made}})
    };
    let short = of(json!({"duration": "24h"}));
    let rendered = Rendered::of(&short.to_string());
    // Left to cert-manager, which takes a third of what it is good for.
    assert!(rendered.one("Certificate")["spec"]["renewBefore"].is_null());
    let why = "tls.certManager.renewBefore";
    refused(&of(json!({"duration": "24h", "renewBefore": "24h"})), why);
    refused(&of(json!({"duration": "1h30m", "renewBefore": "91m"})), why);
    refused(&of(json!({"duration": "59m"})), "at least an hour");
    Rendered::of(&of(json!({"duration": "1h30m", "renewBefore": "89m59s"})).to_string());
}

#[test]
fn a_name_that_no_service_may_have_is_refused() {
    refused(&json!({"nameOverride": "a.b"}), "does not match pattern");
    refused(&json!({"fullnameOverride": "1x"}), "does not match pattern");
    let named = |release: &str| helm(&["render", "as", release], &path("helm"), "{}");
    let ran = named("1x");
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(
        ran.stderr.contains("1x-latchkey is no name for a Service"),
        "{}",
        ran.stderr
    );
    named("x1").ok();
    let other = json!({"fullnameOverride": "x"}).to_string();
    helm(&["render", "as", "1x"], &path("helm"), &other).ok();
}

#[test]
fn what_the_chart_has_itself_cannot_be_given_again() {
    let tls = json!({"enabled": true, "existingSecret": "a"});
    let volume = |store: &str, name: &str| {
        json!({
            "store": store, "tls": tls, "bootstrap": {"existingSecret": "b"},
            "extraVolumes": [{"name": name, "emptyDir": {}}],
        })
    };
    for name in ["tmp", "data", "settings", "tls", "bootstrap"] {
        let there = format!("extraVolumes: {name} is there already");
        refused(&volume("embedded", name), &there);
        if name != "data" {
            refused(&volume("postgres", name), &there);
        }
    }
    Rendered::of(&volume("postgres", "data").to_string());
    let twice =
        json!({"extraVolumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]});
    refused(&twice, "extraVolumes: a is there already");
    let mount = json!({"extraVolumeMounts": [{"name": "a", "mountPath": "/tmp"}]});
    refused(&mount, "extraVolumeMounts: /tmp");
    let variable =
        |name: &str| json!({"store": "postgres", "extraEnv": [{"name": name, "value": "x"}]});
    for name in [
        "LATCHKEY_DATABASE_URL",
        "LATCHKEY_REPLICA_ADDRESS",
        "POD_IP",
        // A variable goes before the file, in which the chart says the same.
        "LATCHKEY_LISTEN_ADDR",
        "LATCHKEY_CHECK_OPEN",
    ] {
        refused(&variable(name), &format!("extraEnv: {name}"));
    }
    Rendered::of(&variable("LATCHKEY_LEASE_LENGTH").to_string());
    let mut owner = variable("A");
    owner["migrate"] = json!({"extraEnv": [{"name": "LATCHKEY_DATABASE_URL", "value": "x"}]});
    refused(&owner, "migrate.extraEnv: LATCHKEY_DATABASE_URL");
    let selected = json!({"app.kubernetes.io/component": "x"});
    refused(
        &json!({"podLabels": selected}),
        "podLabels: app.kubernetes.io/component",
    );
    refused(
        &json!({"commonLabels": selected}),
        "commonLabels: app.kubernetes.io/component",
    );
    refused(
        &json!({"jobs": {"podLabels": selected}}),
        "jobs.podLabels: app.",
    );
    let summed = json!({"checksum/settings": "x"});
    refused(
        &json!({"podAnnotations": summed}),
        "podAnnotations: checksum/settings",
    );
    // Many roll pods by a sum of their own.
    Rendered::of("podAnnotations: {checksum/secret: x}");
    let hook = json!({"helm.sh/hook": "test"});
    refused(
        &json!({"jobs": {"podAnnotations": hook}}),
        "jobs.podAnnotations: helm.sh/hook",
    );
    for kind in ["serviceMonitor", "prometheusRule", "dashboard"] {
        let metrics = json!({"metrics": {kind: {"labels": {"helm.sh/chart": "x"}}}});
        refused(&metrics, &format!("metrics.{kind}.labels: helm.sh/chart"));
    }
}

/// Two lines of one key are an error to some, and to others the last.
#[test]
fn a_label_that_is_given_twice_stands_once() {
    let labels = json!({"release": "its"});
    let monitor = json!({"enabled": true, "labels": labels});
    let values = json!({
        "store": "postgres",
        "commonLabels": {"release": "all"},
        "podLabels": labels,
        "jobs": {"podLabels": labels},
        "metrics": {"serviceMonitor": monitor, "prometheusRule": monitor, "dashboard": monitor},
    });
    let rendered = Rendered::of(&values.to_string());
    let ran = check(&rendered.text);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    let label = |it: &Value| it["metadata"]["labels"]["release"].clone();
    for kind in ["ServiceMonitor", "PrometheusRule", "Pod"] {
        assert_eq!(label(rendered.one(kind)), "its", "{kind}");
    }
    assert_eq!(
        label(&rendered.one("Deployment")["spec"]["template"]),
        "its"
    );
    assert_eq!(label(rendered.one("NetworkPolicy")), "all");
}

#[test]
fn what_is_off_or_taken_away_is_no_error() {
    let secured = json!({"enabled": true, "existingSecret": "a"});
    for values in [
        json!({"tls": secured, "config": {"canary": {"interval": "none"}}}),
        json!({"config": null}),
        json!({"store": "postgres", "config": null}),
        json!({"config": {"check": null}}),
        json!({"config": {"check": {"open": null}}}),
        json!({"affinity": null}),
        json!({"routes": {"table": "  \n[[route]]\npath = \"/x\"\naction = \"a:b\"\nresource = \"c\"\n"}}),
        json!({"routes": {"table": "    # first\n\n[[route]]\n"}}),
    ] {
        let rendered = Rendered::of(&values.to_string());
        let Some(table) = values["routes"]["table"].as_str() else {
            continue;
        };
        let mut tables = rendered
            .all("ConfigMap")
            .filter_map(|it| it["data"]["routes.toml"].as_str());
        let lines = |text: &str| -> Vec<String> {
            text.lines().map(|it| it.trim_end().to_owned()).collect()
        };
        assert_eq!(tables.next().map(lines), Some(lines(table)));
    }
}

/// Replicas that drill each other are callers of Check, by the certificate that the chart asks for.
#[test]
fn the_canary_may_ask_where_callers_are_listed() {
    let of = |access: &str, every: &str| {
        json!({
            "tls": {
                "enabled": true,
                "clientCa": {"existingSecret": "b"},
                "certManager": {"enabled": true, "issuerRef": {"name": "i"}, "dnsNames": ["own"]},
            },
            "config": {"access": {"check": access}, "canary": {"interval": every}},
        })
    };
    let why = "config.access.check names no replica: add latchkey.tokens.svc";
    refused(&of("spiffe://a/b", "1m"), why);
    for (access, every) in [
        ("spiffe://a/b", "none"),
        ("", "1m"),
        ("spiffe://a/b, latchkey.tokens.svc", "1m"),
        ("latchkey-ready.tokens.svc,spiffe://a/b", "1m"),
        ("own", "1m"),
    ] {
        Rendered::of(&of(access, every).to_string());
    }
}
