//! Scenes of the field by the command line: what users of InfraSonar, Terrakube and Infisical type.
//!
//! What each of these systems does, by the API and on both stores, is in `field`. These are on the
//! company of `examples/acme.yaml`, each on a server of its own.

use serde_json::json;

use crate::program::{Server, fresh};

struct Company {
    server: Server,
    _dir: tempfile::TempDir,
}

impl Company {
    fn embedded() -> Self {
        let dir = fresh();
        let server = Server::start(dir.path());
        let yaml = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/acme.yaml");
        server.admin().run(&format!("apply -f {yaml} --yes")).ok();
        Self { server, _dir: dir }
    }

    /// A token of a user's own, as a console would have given it.
    fn login(&self, user: &str) -> String {
        let arguments = format!(
            "--kind user --subject user:{user} --ttl 8h --name console --reason 'signed in'"
        );
        self.server.admin().issue(&arguments).1
    }
}

#[test]
fn infrasonar_container_token_is_issued_by_a_flagged_user_and_identifies_its_container_embedded() {
    let company = Company::embedded();
    let (alice, bob) = (company.login("alice"), company.login("bob"));
    let issue = "token issue --kind resource --resource acme/containers/dc1 --ttl 24h --name agent";
    let scope = "--scope 'role:agent@acme/containers/dc1/**'";
    let (alice, bob) = (
        company.server.as_bearer(&alice),
        company.server.as_bearer(&bob),
    );

    // The reason is asked for.
    let asked = alice.run(&format!("{issue} {scope}"));
    assert!(
        asked.code == 2 && asked.stderr.contains("--reason"),
        "{}",
        asked.stderr
    );
    // Without the flag there is no token, and the answer names what is missing.
    bob.run(&format!("{issue} {scope} --reason 'new agent'"))
        .refused("tokens:issue@acme/containers/dc1");
    // Nobody grants more than held: exactly what is missing is listed.
    let more = alice
        .run(&format!(
            "{issue} --scope 'role:agent@acme/containers/dc1/**' \
             --scope 'billing:read@acme/containers/dc1' --reason 'new agent'"
        ))
        .refused("billing:read@acme/containers/dc1");
    assert!(
        !more.stderr.contains("checks:insert"),
        "held is not missing: {}",
        more.stderr
    );

    let (id, token) = alice.issue(&format!("{} {scope} --reason 'new agent'", &issue[12..]));
    let said = company
        .server
        .admin()
        .run_with_input(
            "check --token-file - --action checks:insert --resource acme/containers/dc1/host7 --output json",
            &token,
        )
        .json();
    assert_eq!(
        said["resource"], "acme/containers/dc1",
        "it identifies its container"
    );
    assert_eq!(said["token_id"], id.as_str());
    let elsewhere = company
        .server
        .admin()
        .check(&token, "checks:insert", "acme/containers/dc2");
    assert_eq!(elsewhere, (false, "not_permitted".to_owned()));
}

#[test]
fn terrakube_token_is_shown_once_and_told_apart_by_description_embedded() {
    let company = Company::embedded();
    let alice = company.login("alice");
    let alice = company.server.as_bearer(&alice);
    let (id, secret) = alice.issue(
        "--kind user --ttl 720h --name laptop --description 'terraform on my laptop' --reason laptop",
    );
    for line in [
        format!("token show {id} --output json"),
        "token list --output json".to_owned(),
        format!("token show {id}"),
        "token list".to_owned(),
        "audit list".to_owned(),
    ] {
        let ran = alice.run(&line);
        assert!(!ran.stdout.contains(&secret), "{line} shows the secret");
    }
    let shown = alice.run(&format!("token show {id} --output json")).json();
    assert_eq!(shown["description"], "terraform on my laptop");
    let (created, expires) = (shown["created_at"].as_str(), shown["expires_at"].as_str());
    assert!(created.is_some() && created < expires, "{shown}");
}

#[test]
fn terrakube_team_token_is_issued_by_a_member_and_ends_with_the_membership_embedded() {
    let company = Company::embedded();
    let (carol, dave) = (company.login("carol"), company.login("dave"));
    let issue = "--kind team --subject team:platform --ttl 24h --name pipeline --reason pipeline";
    let outsider = company
        .server
        .as_bearer(&dave)
        .run(&format!("token issue {issue}"));
    outsider.refused("member");
    let (_, team) = company.server.as_bearer(&carol).issue(issue);
    let admin = company.server.admin();
    let check = |secret: &str| admin.check(secret, "secrets:write", "acme/web/prod/db");
    assert!(check(&team).0 && check(&carol).0);

    let removed = admin
        .run("team remove-member platform user:carol --revoke-tokens --reason left --output json")
        .json();
    assert_eq!(
        removed["tokens"].as_array().map(Vec::len),
        Some(1),
        "{removed}"
    );
    assert_eq!(
        check(&carol),
        (false, "not_permitted".to_owned()),
        "at once"
    );
    assert_eq!(
        check(&team),
        (false, "revoked".to_owned()),
        "with the tokens that she issued"
    );
}

#[test]
fn infisical_service_token_works_on_environments_and_globs_and_expires_embedded() {
    let company = Company::embedded();
    let admin = company.server.admin();
    let (id, token) = admin.issue(
        "--kind service --subject service:ci-runner \
         --scope 'secrets:read,secrets:write@acme/web/staging/**' \
         --scope 'secrets:read@acme/web/prod/*/config' --ttl 1h --name ci --reason ci",
    );
    assert!(token.starts_with("lks_"), "the prefix of its kind");
    let said = admin
        .run_with_input("check --token-file - --output json", &token)
        .json();
    assert_eq!(
        (&said["kind"], &said["subject"]),
        (&json!("service"), &json!("service:ci-runner"))
    );
    for (action, resource, expected) in [
        ("secrets:read", "acme/web/staging/db/password", true),
        ("secrets:write", "acme/web/staging", true),
        ("secrets:read", "acme/web/prod/api/config", true),
        ("secrets:read", "acme/web/prod/api/config/deep", false),
        ("secrets:write", "acme/web/prod/api/config", false),
        ("secrets:delete", "acme/web/staging/db", false),
        ("secrets:read", "acme/other", false),
    ] {
        assert_eq!(
            admin.check(&token, action, resource).0,
            expected,
            "{action} {resource}"
        );
    }
    // It is listed, renamed and deleted by id, without its secret.
    let listed = admin
        .run("token list --subject service:ci-runner --output json")
        .json();
    assert!(listed.to_string().contains(&id), "{listed}");
    admin
        .run(&format!("token update {id} --name ci-old --reason rename"))
        .ok();
    admin
        .run(&format!("token revoke {id} --reason rotated"))
        .ok();
    let again = admin
        .run(&format!("token revoke {id} --reason again --output json"))
        .json();
    assert_eq!(
        again["already_revoked"], true,
        "revoking twice is not an error"
    );
    assert_eq!(
        admin.check(&token, "secrets:read", "acme/web/staging").1,
        "revoked"
    );
    let (_, short) = admin.issue(
        "--kind service --subject service:ci-runner --scope 'secrets:read@acme/web/prod' --ttl 1s \
         --name s --reason s",
    );
    // Bounded by the token's own second: asked until the answer changes.
    let reasons = std::iter::repeat_with(|| admin.check(&short, "secrets:read", "acme/web/prod").1);
    let expired = reasons.take(2_000).any(|reason| reason == "expired");
    assert!(expired, "a token of one second expires");
}

#[test]
fn infisical_api_key_has_full_access_as_its_user_and_no_more_embedded() {
    let company = Company::embedded();
    let alice = company.login("alice");
    let (id, key) = company
        .server
        .as_bearer(&alice)
        .issue("--kind user --ttl 24h --name key --reason 'api key'");
    let with_key = company.server.as_bearer(&key);
    let me = with_key.run("token whoami --output json").json();
    assert_eq!(me["subject"], "user:alice");
    let admin = company.server.admin();
    for (action, resource, expected) in [
        ("tokens:issue", "acme/containers/dc1", true),
        ("checks:insert", "acme/containers/dc1/host7", true),
        ("secrets:read", "acme/web/prod", false),
    ] {
        assert_eq!(admin.check(&key, action, resource).0, expected, "{action}");
        assert_eq!(
            admin.check(&alice, action, resource).0,
            expected,
            "{action}"
        );
    }
    // It does what she may: issue, list and delete her own.
    with_key.issue("--kind user --ttl 1h --name second --reason 'by the key'");
    with_key
        .run("user create eve --home acme --reason x")
        .refused("users:write");
    with_key.run("token revoke --self").ok();
    assert_eq!(
        admin.check(&key, "tokens:issue", "acme/containers/dc1").1,
        "revoked"
    );
    let shown = company
        .server
        .as_bearer(&alice)
        .run(&format!("token show {id} --output json"));
    assert_eq!(shown.json()["state"], "revoked");
}

#[test]
fn applying_the_company_twice_changes_nothing_embedded() {
    let company = Company::embedded();
    let yaml = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/acme.yaml");
    let before = company
        .server
        .admin()
        .run("audit list --output json")
        .stdout;
    let again = company
        .server
        .admin()
        .run(&format!("apply -f {yaml} --yes"))
        .ok();
    assert!(again.stdout.contains("nothing to do"), "{}", again.stdout);
    assert_eq!(
        company
            .server
            .admin()
            .run("audit list --output json")
            .stdout,
        before
    );
}

#[test]
fn login_methods_are_applied_from_a_file_embedded() {
    let company = Company::embedded();
    let admin = company.server.admin();
    let apply = |methods: &str, flags: &str| {
        let file = format!(
            "home: acme/ci\nreason: r\nservice_accounts: [{{name: builds, login_methods: {methods}}}]\n"
        );
        let line = format!("apply -f - --yes {flags}");
        admin.run_with_input(line.trim(), &file).ok().stdout
    };
    let shown = || {
        let shown = admin.run("service login-method show builds --output json");
        shown.json()["methods"].clone()
    };
    let both = "{universal_auth: {max_ttl: 12h, networks: ['10.0.0.1']}, key_pair: {}}";
    assert!(
        apply(both, "").contains("3 steps done"),
        "an account and two methods"
    );
    assert_eq!(shown()[0]["max_ttl_seconds"], 43_200);
    assert_eq!(shown()[1]["method"], "key_pair");
    assert!(apply(both, "--prune").contains("nothing to do"));
    let shorter = both.replace("12h", "6h");
    let told = apply(&shorter, "");
    assert!(told.contains("~ login by universal_auth of service:builds\n    max_ttl: 6h\n"));
    assert_eq!(shown()[0]["max_ttl_seconds"], 21_600);
    let one = "{key_pair: {}}";
    assert!(apply(one, "").contains("1 more are not in the file"));
    assert!(apply(one, "--prune").contains("- login by universal_auth of service:builds"));
    assert_eq!(shown().as_array().map(Vec::len), Some(1));
}

#[test]
fn what_a_deleted_user_issued_is_ended_by_the_number_in_the_log_embedded() {
    let company = Company::embedded();
    let alice = company.login("alice");
    let (_, agent) = company.server.as_bearer(&alice).issue(
        "--kind resource --resource acme/containers/dc1 --ttl 24h --name agent --reason agent \
         --scope 'role:agent@acme/containers/dc1/**'",
    );
    let admin = company.server.admin();
    let check = || admin.check(&agent, "checks:insert", "acme/containers/dc1");
    admin.run("user delete alice --reason left").ok();
    assert!(check().0, "it outlives her");
    let log = admin.run("audit list --kind principal.delete --output json");
    let log = log.json();
    let number = &log["changes"][0]["details"]["principal_id"];
    let number = number.as_str().expect("told");
    admin
        .run(&format!(
            "token revoke-all --issued-by-principal {number} --reason left"
        ))
        .ok();
    assert_eq!(check(), (false, "revoked".to_owned()));
}
