//! What of a release runs, and as what: servers, Jobs, the test, and what keeps them.
//!
//! Of the rendered manifests alone; whether the program takes them is asked in `program`.

use serde_json::{Value, json};

use super::{Rendered, helm, ours, path, sets};

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

/// The pods of the Jobs and of the test: what makes each, its metadata and its spec.
fn helpers(rendered: &Rendered) -> Vec<(String, &Value, &Value)> {
    let made = rendered.all("Job").chain(rendered.all("Pod"));
    let pods = made.map(|it| {
        let template = if it["kind"] == "Job" {
            &it["spec"]["template"]
        } else {
            it
        };
        let name = it["metadata"]["name"].as_str().expect("a name").to_owned();
        (name, &template["metadata"], &template["spec"])
    });
    let found: Vec<_> = pods.collect();
    assert_eq!(found.len(), 3, "both Jobs and the test");
    found
}

/// A password in a file, a proxy's variables: a Job that lacks what servers have fails the install.
#[test]
fn the_jobs_reach_the_database_as_the_servers_do() {
    let values = json!({
        "store": "postgres",
        "bootstrap": {"existingSecret": "admin"},
        "config": {"database": {"connect_timeout": "7s", "pool_size": 3}, "log": {"level": "debug"}},
        "extraEnv": [
            {"name": "LATCHKEY_DATABASE_PASSWORD_FILE", "value": "/run/password/servers"},
            {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        ],
        "migrate": {"extraEnv": [
            {"name": "LATCHKEY_DATABASE_PASSWORD_FILE", "value": "/run/password/owner"},
        ]},
        "extraEnvFrom": [{"secretRef": {"name": "more"}}],
        "extraVolumes": [{"name": "password", "secret": {"secretName": "password"}}],
        "extraVolumeMounts": [{"name": "password", "mountPath": "/run/password"}],
    });
    let rendered = Rendered::of(&values.to_string());
    let jobs = rendered
        .all("Job")
        .map(|it| &it["spec"]["template"]["spec"]);
    let mut seen = 0;
    for pod in jobs.chain([rendered.server().1]) {
        let container = ours(pod).last().expect("ours");
        let variable = |name: &str| {
            let all = container["env"].as_array().expect("variables").iter();
            let named: Vec<&Value> = all.filter(|it| it["name"] == name).collect();
            assert_eq!(named.len(), 1, "{name}: {container}");
            named[0]["value"].clone()
        };
        let whose = ["owner", "servers"][usize::from(container["name"] != "migrate")];
        let file = format!("/run/password/{whose}");
        assert_eq!(variable("LATCHKEY_DATABASE_PASSWORD_FILE"), file);
        assert_eq!(variable("HTTPS_PROXY"), "http://proxy:3128");
        assert_eq!(container["envFrom"], values["extraEnvFrom"]);
        let has = |list: &Value, one: &Value| list.as_array().expect("a list").contains(one);
        assert!(has(
            &container["volumeMounts"],
            &values["extraVolumeMounts"][0]
        ));
        assert!(has(&pod["volumes"], &values["extraVolumes"][0]));
        seen += 1;
    }
    assert_eq!(seen, 3);
    // Its settings are not there yet when it runs.
    let migrate = rendered
        .all("Job")
        .find(|it| it["metadata"]["name"] == "latchkey-migrate");
    let migrate = &migrate.expect("it")["spec"]["template"]["spec"]["containers"][0];
    for set in [
        "database.connect_timeout=7s",
        "database.pool_size=3",
        "log.level=debug",
    ] {
        let set = json!(format!("--set={set}"));
        assert!(
            migrate["args"].as_array().expect("args").contains(&set),
            "{migrate}"
        );
    }
}

/// A sidecar that is put into the pod of a Job never ends, so that a mesh has to be told.
#[test]
fn the_pods_of_jobs_and_test_are_told_of_meshes_and_nodes() {
    let near = json!({"podAntiAffinity": {}, "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}],
    }}});
    let values = json!({
        "store": "postgres",
        "bootstrap": {"existingSecret": "admin"},
        "jobs": {
            "podLabels": {"sidecar.istio.io/inject": "false"},
            "podAnnotations": {"linkerd.io/inject": "disabled"},
            "resources": {"limits": {"memory": "99Mi"}},
        },
        "podLabels": {"sidecar.istio.io/inject": "true"},
        "nodeSelector": {"pool": "tokens"},
        "tolerations": [{"operator": "Exists"}],
        "priorityClassName": "high",
        "affinity": near,
    });
    let rendered = Rendered::of(&values.to_string());
    for (name, metadata, spec) in helpers(&rendered) {
        assert_eq!(
            metadata["labels"]["sidecar.istio.io/inject"], "false",
            "{name}"
        );
        assert_eq!(
            metadata["annotations"]["linkerd.io/inject"], "disabled",
            "{name}"
        );
        for key in ["nodeSelector", "tolerations", "priorityClassName"] {
            assert_eq!(spec[key], values[key], "{name}: {key}");
        }
        // Away from servers would be nowhere.
        let affinity = json!({"nodeAffinity": near["nodeAffinity"]});
        assert_eq!(spec["affinity"], affinity, "{name}");
        // Who makes an administrator loads the store, as a server does.
        let memory = &spec["containers"][0]["resources"]["limits"]["memory"];
        let expected = if name.ends_with("-bootstrap") {
            "1Gi"
        } else {
            "99Mi"
        };
        assert_eq!(*memory, expected, "{name}");
    }
    assert_eq!(rendered.server().1["affinity"], near);
    let plain = Rendered::of("{store: postgres, bootstrap: {existingSecret: admin}}");
    for (name, _, spec) in helpers(&plain) {
        assert!(spec["affinity"].is_null(), "{name}");
    }
}

/// Before an install, of all that the chart makes nothing is there.
#[test]
fn a_job_before_the_install_asks_for_nothing_that_comes_with_it() {
    let account = |values: &str| {
        let rendered = Rendered::of(values);
        let mut jobs = rendered.all("Job");
        let job = jobs.find(|it| it["metadata"]["name"] == "latchkey-migrate");
        job.expect("it")["spec"]["template"]["spec"]["serviceAccountName"].clone()
    };
    assert!(account("store: postgres").is_null());
    let there = "{store: postgres, serviceAccount: {create: false, name: vaulted}}";
    assert_eq!(account(there), "vaulted");
}

/// Whoever has the first token rotates it and deletes its Secret; pods start as before.
#[test]
fn the_first_administrators_secret_may_be_deleted() {
    for values in ["{", "{store: postgres, "] {
        let rendered = Rendered::of(&format!("{values}bootstrap: {{existingSecret: admin}}}}"));
        let mut seen = 0;
        for (kind, pod) in rendered.pods() {
            let volumes = pod["volumes"].as_array().into_iter().flatten();
            for volume in volumes.filter(|it| it["secret"]["secretName"] == "admin") {
                assert_eq!(volume["secret"]["optional"], true, "{kind}");
                seen += 1;
            }
        }
        assert_eq!(seen, 1, "{values}");
        assert!(rendered.notes.contains("rotate it"), "{}", rendered.notes);
    }
}
