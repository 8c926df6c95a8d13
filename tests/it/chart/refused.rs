//! Values that Helm refuses to render: those that nobody knows, and those that cannot work together.
//!
//! What the program or a cluster would refuse only once pods are there is told before, and why.

use serde_json::{Value, json};

use super::{helm, path};

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
