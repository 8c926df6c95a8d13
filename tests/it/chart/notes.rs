//! NOTES, which Helm shows after an install or an upgrade: true for every set of values.
//!
//! They are all that many ever read of the chart.

use super::{Rendered, sets};

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

#[test]
fn notes_say_who_may_ask_for_checks() {
    let said = |values: &str, expected: &str| {
        let notes = Rendered::of(values).notes;
        let ways = [
            "bring a token",
            "show a certificate",
            "whoever reaches it",
            "`config.access.check` names",
        ];
        for way in ways {
            assert_eq!(notes.contains(way), way == expected, "{values}: {notes}");
        }
    };
    said("{}", "bring a token");
    said("{config: {check: {open: 'true'}}}", "whoever reaches it");
    // Not loopback, and so not open.
    said("{config: {check: {open: auto}}}", "bring a token");
    said("config: null", "bring a token");
    let mutual = "tls: {enabled: true, existingSecret: a, clientCa: {existingSecret: b}}";
    let values = format!("{{{mutual}, config: {{check: {{open: mtls}}}}}}");
    said(&values, "show a certificate");
    let listed = "config: {check: {open: 'true'}, access: {check: 'spiffe://a/b'}}";
    said(
        &format!("{{{mutual}, {listed}}}"),
        "`config.access.check` names",
    );
}

#[test]
fn notes_say_that_nobody_outside_is_let_in() {
    let outside = "networkPolicy.clients";
    let told = |values: &str| Rendered::of(values).notes.contains(outside);
    assert!(told("service: {readyType: LoadBalancer}"));
    assert!(told("service: {readyType: NodePort}"));
    assert!(!told("{}"));
    assert!(!told(
        "{service: {readyType: LoadBalancer}, networkPolicy: {enabled: false}}"
    ));
    let named = "{service: {readyType: LoadBalancer}, networkPolicy: {clients: [{ipBlock: {cidr: 0.0.0.0/0}}]}}";
    assert!(!told(named));
}

/// A name in them is one of what is rendered, or said to be for somebody to make.
#[test]
fn notes_name_services_that_there_are() {
    for (name, values) in sets() {
        let rendered = Rendered::of(&values);
        for service in rendered.all("Service") {
            let service = service["metadata"]["name"].as_str().expect("a name");
            let address = format!("{service}.tokens.svc:7421");
            assert!(rendered.notes.contains(&address), "{name}: {address}");
        }
    }
}
