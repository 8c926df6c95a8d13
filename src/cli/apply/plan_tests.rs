//! Tests of the plan: what differs and nothing else, in an order that works.
//!
//! A file's text and a made-up directory go in; the steps are compared line by line. Absent: the
//! calls of the steps; the integration tests apply the example to a server.

use crate::cli::directory::calls::Texts;
use crate::cli::output::record::{GrantView, PrincipalView, RoleView};
use crate::domain::login::{LoginMethod, LoginSettings};
use crate::domain::principal::PrincipalKind;

use super::file::parse;
use super::plan::{Action, Found, Step, plan};

fn lines(file: &str, found: &Found, prune: bool) -> Vec<String> {
    let wanted = parse(file).expect("a valid file");
    let plan = plan(&wanted, found, prune).expect("a plan");
    plan.steps.iter().map(Step::line).collect()
}

fn principal(name: &str) -> PrincipalView {
    PrincipalView {
        name: name.to_owned(),
        home: "acme".to_owned(),
        ..PrincipalView::default()
    }
}

fn role(name: &str, actions: &[&str]) -> RoleView {
    RoleView {
        name: name.to_owned(),
        home: "acme".to_owned(),
        actions: actions.iter().map(ToString::to_string).collect(),
        ..RoleView::default()
    }
}

fn grant(principal: &str, role: &str, resource: &str) -> GrantView {
    GrantView {
        grant_id: "7".to_owned(),
        principal: principal.to_owned(),
        role: role.to_owned(),
        resource: resource.to_owned(),
        ..GrantView::default()
    }
}

const FILE: &str = "
home: acme
reason: test
users: [{name: alice}]
service_accounts: [{name: ci}]
roles: [{name: reader, actions: ['secrets:read', 'secrets:list']}]
teams: [{name: web, members: ['user:alice', 'service:ci']}]
grants: [{principal: 'team:web', role: reader, resource: 'acme/web/**'}]
";

fn complete() -> Found {
    Found {
        users: vec![principal("user:alice")],
        service_accounts: vec![principal("service:ci")],
        roles: vec![role("reader", &["secrets:list", "secrets:read"])],
        teams: vec![principal("team:web")],
        members: vec![
            ("team:web".to_owned(), "service:ci".to_owned()),
            ("team:web".to_owned(), "user:alice".to_owned()),
        ],
        grants: vec![grant("team:web", "reader", "acme/web/**")],
        methods: Vec::new(),
    }
}

#[test]
fn everything_is_created_in_the_order_of_its_needs() {
    assert_eq!(
        lines(FILE, &Found::default(), false),
        [
            "+ user:alice",
            "+ service:ci",
            "+ role reader",
            "+ team:web",
            "+ user:alice in team:web",
            "+ service:ci in team:web",
            "+ grant of reader to team:web on acme/web/**",
        ]
    );
}

#[test]
fn a_second_run_has_nothing_to_do() {
    for prune in [false, true] {
        assert_eq!(lines(FILE, &complete(), prune), Vec::<String>::new());
    }
}

#[test]
fn only_what_differs_is_changed() {
    let check = |file: &str, expected: &[&str]| {
        assert_eq!(lines(file, &complete(), false), expected, "{file}");
    };
    let named = |extra: &str| FILE.replace("{name: alice}", &format!("{{name: alice, {extra}}}"));
    check(&named("display_name: ''"), &[]);
    check(&named("display_name: Alice"), &["~ user:alice"]);
    check(&named("labels: {a: b}"), &["~ user:alice"]);
    check(&named("disabled: false"), &[]);
    check(&named("disabled: true"), &["~ user:alice"]);
    check(
        &named("disabled: true, description: x"),
        &["~ user:alice", "~ user:alice"],
    );
    let fewer = FILE.replace("'secrets:read', ", "");
    check(&fewer, &["~ role reader"]);
}

#[test]
fn an_update_names_only_the_fields_that_differ() {
    let file = FILE.replace(
        "{name: alice}",
        "{name: alice, display_name: A, description: ''}",
    );
    let wanted = parse(&file).expect("a valid file");
    let plan = plan(&wanted, &complete(), false).expect("a plan");
    let texts = Texts {
        display_name: Some("A".to_owned()),
        ..Texts::default()
    };
    let name = "user:alice".to_owned();
    assert_eq!(
        plan.steps[0].action,
        Action::UpdatePrincipal(PrincipalKind::User, name, texts)
    );
}

#[test]
fn what_is_not_named_is_deleted_only_with_prune_and_only_below_the_home() {
    let file = "home: acme\nreason: test\n";
    let mut found = complete();
    found.users.push(PrincipalView {
        home: "latchkey".to_owned(),
        ..principal("user:admin")
    });
    found.users.push(PrincipalView {
        home: "acme-other".to_owned(),
        ..principal("user:other")
    });
    found.grants.push(grant("user:admin", "admin", "**"));
    found.members.clear();
    assert_eq!(lines(file, &found, false), Vec::<String>::new());
    assert_eq!(
        lines(file, &found, true),
        [
            "- grant of reader to team:web on acme/web/**",
            "- team:web",
            "- role reader",
            "- service:ci",
            "- user:alice",
        ]
    );
    let wanted = parse(file).expect("a valid file");
    let plan = plan(&wanted, &found, false).expect("a plan");
    assert_eq!(plan.left_alone, 5);
}

#[test]
fn a_member_that_is_not_named_is_removed_with_prune() {
    let file = FILE.replace(", 'service:ci'", "");
    assert_eq!(
        lines(&file, &complete(), true),
        ["- service:ci in team:web"]
    );
}

#[test]
fn login_methods_are_set_where_they_are_named_and_removed_with_prune() {
    let named = |methods: &str| {
        FILE.replace(
            "{name: ci}",
            &format!("{{name: ci, login_methods: {methods}}}"),
        )
    };
    let mut found = complete();
    let (key_pair, secret) = (LoginMethod::KeyPair, LoginMethod::UniversalAuth);
    let set = |method| ("service:ci".to_owned(), method, LoginSettings::default());
    let check = |file: &str, found: &Found, prune: bool, expected: &[&str]| {
        assert_eq!(lines(file, found, prune), expected, "{file}");
    };
    let both = named("{universal_auth: {max_ttl: 12h}, key_pair: {}}");
    let creates = [
        "+ login by universal_auth of service:ci",
        "+ login by key_pair of service:ci",
    ];
    check(&both, &found, false, &creates);
    assert!(lines(&both, &Found::default(), false).ends_with(&creates.map(str::to_owned)));
    found.methods = vec![set(secret), set(key_pair)];
    check(
        &both,
        &found,
        true,
        &["~ login by universal_auth of service:ci"],
    );
    // Where the file says nothing of them they stay, and where it names others, with `--prune` only.
    check(FILE, &found, true, &[]);
    let one = named("{key_pair: {}}");
    check(&one, &found, false, &[]);
    check(
        &one,
        &found,
        true,
        &["- login by universal_auth of service:ci"],
    );
    check(
        &named("{}"),
        &found,
        true,
        &[
            "- login by key_pair of service:ci",
            "- login by universal_auth of service:ci",
        ],
    );
}

#[test]
fn another_home_is_refused() {
    let file = FILE.replace("{name: alice}", "{name: alice, home: acme/web}");
    let wanted = parse(&file).expect("a valid file");
    let error = plan(&wanted, &complete(), false).expect_err("a fixed home");
    assert!(error.contains("user:alice"), "{error}");
}
