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
