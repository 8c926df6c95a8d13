//! Tests of the configuration: who wins, what is refused, and that the table of keys is whole.
//!
//! By the door a server takes: a file's text, variables and flags go in, settings come out.
//! Absent: that a setting has its effect; that is tested where it is used.

use toml::{Table, Value};

use super::*;

fn built(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Config {
    let mut sources = Sources::default();
    sources.file("file", file).expect("a valid file");
    let variables = |name: &str| {
        let found = environment.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    sources.environment(variables).expect("valid variables");
    for (name, value) in flags {
        sources.flag(name, value, "--set").expect("a valid flag");
    }
    sources.build().expect("valid settings")
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "[check]\nvalid_for = \"1s\"\n";
    let environment = [("LATCHKEY_CHECK_VALID_FOR", "2s")];
    let flags = [("check.valid_for", "3s")];
    let check = |config: Config, seconds| {
        assert_eq!(config.check.valid_for, Duration::from_secs(seconds));
    };
    check(built("", &[], &[]), 5);
    check(built(file, &[], &[]), 1);
    check(built(file, &environment, &[]), 2);
    check(built(file, &environment, &flags), 3);
    check(built("", &[], &flags), 3);
}

#[test]
fn a_setting_leaves_its_neighbours_alone() {
    let config = built(
        "[limits]\nconnections_max = 9\n",
        &[],
        &[("limits.message_bytes_max", "8192")],
    );
    assert_eq!(config.limits.connections_max, 9);
    assert_eq!(config.limits.message_bytes_max, 8_192);
    assert_eq!(config.limits.connections_per_peer_max, 256);
}

#[test]
fn unknown_keys_and_wrong_values_are_refused_with_their_place() {
    let check = |text: &str, part: &str| {
        let error = Sources::default().file("f.toml", text).expect_err(text);
        let error = error.to_string();
        assert!(
            error.contains(part) && error.contains("f.toml"),
            "{text}: {error}"
        );
    };
    check("chek = 1\n", "chek");
    check("[check]\nvalidfor = \"1s\"\n", "line 2");
    check("[check]\nvalid_for = 5\n", "line 2");
    check("[check]\nvalid_for = \"soon\"\n", "soon");
    check("[listen]\naddr = \"here\"\n", "line 2");
    check(
        "[tokens.max_lifetime]\nuser = \"1500ms\"\n",
        "whole seconds",
    );
    check("[log]\nformat = \"xml\"\n", "xml");

    let flag = |name, value| Sources::default().flag(name, value, "--set");
    assert!(flag("check.validfor", "1s").is_err());
    assert!(flag("limits", "1").is_err());
    assert!(flag("limits.connections_max", "-1").is_err());
    assert!(flag("check.open", "perhaps").is_err());
    let mut sources = Sources::default();
    sources
        .flag("limits.connections_max", "0", "--set")
        .expect("a number");
    assert!(sources.build().is_err());
    let variables = |name: &str| (name == "LATCHKEY_ADMIN_ENABLED").then(|| "maybe".to_owned());
    let error = Sources::default()
        .environment(variables)
        .expect_err("no truth value");
    assert!(
        error.to_string().contains("LATCHKEY_ADMIN_ENABLED"),
        "{error}"
    );
}

#[test]
fn settings_out_of_their_bounds_are_refused_by_name() {
    let huge = usize::MAX >> 3;
    for (name, value, good) in [
        ("database.pool_size", "0", false),
        ("database.statement_timeout", "61s", false),
        ("last_used.interval", "999ms", false),
        ("last_used.interval", "61min", false),
        ("last_used.per_second", "0", false),
        ("last_used.per_second", "10001", false),
        ("envoy.routes_poll", "99ms", false),
        ("envoy.routes_poll", "100ms", true),
        ("envoy.routes_poll", "61min", false),
        ("seal.poll", "99ms", false),
        ("seal.poll", "61min", false),
        ("lease.length", "199ms", false),
        ("lease.length", "301s", false),
        ("lease.poll", "6s", false),
        ("lease.slack", "0", false),
        ("lease.slack", "101", false),
        ("write.confirm_time_max", "61s", false),
        ("limits.requests_waiting_max", "0", false),
        ("limits.requests_waiting_max", "1", true),
        ("limits.requests_waiting_max", &huge.to_string(), false),
        ("limits.lasting_streams_max", "0", false),
        ("limits.lasting_streams_max", "1048577", false),
        ("limits.connections_max", "1048577", false),
        ("limits.connections_per_peer_max", "1048577", false),
        ("limits.streams_per_connection_max", "4294967295", false),
        ("limits.error_resets_max", "1048577", false),
        ("limits.pending_resets_max", "1048577", false),
        ("limits.header_bytes_max", "4095", false),
        ("limits.header_bytes_max", "4294967295", false),
        ("limits.message_bytes_max", "4096", true),
        ("limits.message_bytes_max", "67108864", true),
        ("limits.message_bytes_max", "67108865", false),
        ("limits.connection_age_max", "366days", true),
        ("limits.connection_age_max", "580000000000years", false),
        ("limits.connection_age_grace", "580000000000years", false),
        ("limits.hello_time_max", "2years", false),
        ("limits.request_time_max", "2years", false),
        ("limits.ping_every", "2years", false),
        ("limits.ping_time_max", "2years", false),
        ("limits.drain_notice", "none", true),
        ("limits.drain_notice", "2years", false),
        ("limits.drain_time_max", "2years", false),
        ("check.valid_for", "2years", false),
        ("forget.interval", "2years", false),
        ("forget.retention", "10years", true),
        ("forget.retention", "101years", false),
    ] {
        let mut sources = Sources::default();
        sources.flag(name, value, "--set").expect("of its kind");
        let error = sources.build().err().map(|error| error.to_string());
        assert_eq!(error.is_none(), good, "{name} {value}: {error:?}");
        assert!(error.is_none_or(|error| error.starts_with(name)), "{name}");
    }
}

#[test]
fn the_table_of_keys_is_that_of_the_settings() {
    fn names(prefix: &str, table: &Table, into: &mut Vec<String>) {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            match value {
                Value::Table(table) => names(&format!("{name}."), table, into),
                _ => into.push(name),
            }
        }
    }
    let mut found = Vec::new();
    let table = Table::try_from(Config::default()).expect("settings are a table");
    names("", &table, &mut found);
    let mut keys: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    keys.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, keys);
}

#[test]
fn printed_settings_read_back() {
    let config = built(
        "[tokens.max_lifetime]\nuser = \"90d\"\n",
        &[],
        &[("check.open", "true")],
    );
    let text = toml::to_string(&config).expect("settings are TOML");
    assert_eq!(built(&text, &[], &[]), config);
}

#[test]
fn seal_keys_are_never_printed() {
    let environment = [("LATCHKEY_SEAL_KEYS", "hunter2")];
    let config = built("", &environment, &[]);
    assert_eq!(config.seal.keys.reveal(), "hunter2");
    let text = toml::to_string(&config).expect("settings are TOML");
    let shown = format!("{text} {config:?}");
    assert!(
        !shown.contains("hunter2") && text.contains("keys = \"***\""),
        "{shown}"
    );
}

#[test]
fn no_variable_is_one_that_kubernetes_sets_for_a_service_of_this_name() {
    for key in KEYS {
        let variable = key.variable();
        assert!(!variable.starts_with("LATCHKEY_PORT"), "{variable}");
        assert!(!variable.starts_with("LATCHKEY_SERVICE_"), "{variable}");
    }
}

#[test]
fn checks_are_open_on_loopback_only_unless_set() {
    let check = |addr, open, expected| {
        let config = built("", &[], &[("listen.addr", addr), ("check.open", open)]);
        assert_eq!(config.check_is_open(), expected, "{addr} {open}");
    };
    check("127.0.0.1:1", "auto", true);
    check("[::1]:1", "auto", true);
    check("0.0.0.0:1", "auto", false);
    check("10.0.0.1:1", "auto", false);
    check("10.0.0.1:1", "true", true);
    check("127.0.0.1:1", "false", false);
}

#[test]
fn the_readme_has_this_table_with_these_defaults() {
    fn value(table: &Table, name: &str) -> String {
        let (head, rest) = name.split_once('.').unwrap_or((name, ""));
        match (&table[head], rest) {
            (Value::Table(inner), rest) => value(inner, rest),
            (Value::String(text), _) => text.clone(),
            (other, _) => other.to_string(),
        }
    }
    let defaults = Table::try_from(Config::default()).expect("settings are a table");
    let mut wanted =
        "| Key | Environment | Default | Meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for key in KEYS {
        let (name, variable) = (key.name, key.variable());
        let default = value(&defaults, name);
        wanted += &format!(
            "| `{name}` | `{variable}` | `{default}` | {} |\n",
            key.meaning
        );
    }
    let readme = include_str!("../../README.md");
    let found = readme
        .split_once("<!-- configuration: begin -->\n")
        .and_then(|(_, rest)| rest.split_once("<!-- configuration: end -->"))
        .map(|(table, _)| table);
    assert!(
        found == Some(&wanted),
        "the README wants this table:\n{wanted}"
    );
}

#[test]
fn headers_that_envoy_would_take_for_something_else_are_refused() {
    let check = |key: &str, value: &str, expected: Option<&str>| {
        let mut sources = Sources::default();
        let flagged = sources.flag(key, value, "--set");
        let read = flagged.and_then(|()| sources.build());
        let error = read.err().map(|error| error.to_string());
        match (&error, expected) {
            (None, None) => {}
            (Some(error), Some(part)) if error.contains(part) => {}
            _ => panic!("{key} = {value}: {error:?}, expected {expected:?}"),
        }
    };
    check("envoy.credentials", "x-api-key", None);
    check("envoy.credentials", "authorization, x-token", None);
    check("envoy.credentials", "", Some("no name"));
    check("envoy.credentials", "authorization,", Some("no name"));
    check("envoy.credentials", "Authorization", Some("lower case"));
    check("envoy.credentials", ":path", Some("no name"));
    check("envoy.credentials", "host", Some("not to be used"));
    check("envoy.credentials", "a,b,c,d,e", Some("more than 4"));
    check("envoy.credentials", "a,a", Some("twice"));
    check("envoy.headers.subject", "", None);
    check("envoy.headers.subject", "x-user", None);
    check("envoy.headers.subject", "authorization", Some("twice"));
    check("envoy.headers.subject", "x-latchkey-kind", Some("twice"));
    check("envoy.headers.subject", "x_api_key", Some("twice"));
    check("envoy.headers.subject", "x-envoy-user", Some("not to be"));
    check("envoy.headers.subject", "x user", Some("no name"));
    check(
        "envoy.headers.kind",
        "content-length",
        Some("not to be used"),
    );
    check("envoy.realm", "our api", None);
    check("envoy.realm", "a\"b", Some("without quotes"));
    check("envoy.trusted_hops", "32", None);
    check("envoy.trusted_hops", "33", Some("more than 32"));
    check("envoy.expires_soon", "none", None);
}

#[test]
fn proxies_are_networks_and_by_default_there_are_none() {
    let check = |value: &str, networks: Option<usize>| {
        let mut sources = Sources::default();
        let flagged = sources.flag("login.proxies", value, "--set");
        let read = flagged.and_then(|()| sources.build());
        let proxies = read.map(|config| config.login.proxies().expect("they were read"));
        let count = proxies.map(|proxies| proxies.iter().count());
        let told = "login.proxies: not at most 32 networks such as 10.0.0.0/8";
        let told = count.map_err(|error| assert_eq!(error.to_string(), told, "{value}"));
        assert_eq!(told.ok(), networks, "{value}");
    };
    check("", Some(0));
    check("10.0.0.0/8, 192.0.2.7", Some(2));
    check("10.0.0.0/8,there", None);
}

#[test]
fn audiences_are_few_and_none_is_empty() {
    let check = |value: &str, expected: Option<&str>| {
        let mut sources = Sources::default();
        let flagged = sources.flag("login.audiences", value, "--set");
        let read = flagged.and_then(|()| sources.build());
        let error = read.err().map(|error| error.to_string());
        let told = expected.map(|what| format!("login.audiences: {what}"));
        assert_eq!(error, told, "{value}");
    };
    check("https://latchkey.example, latchkey", None);
    check("a,b,c,d,e,f,g,h", None);
    check("a,b,c,d,e,f,g,h,i", Some("more than 8 audiences"));
    check("", Some("each is 1 to 256 printable characters"));
    check("a,", Some("each is 1 to 256 printable characters"));
    check("a\u{7}", Some("each is 1 to 256 printable characters"));
}

#[test]
fn plain_text_off_loopback_is_told_unless_it_is_asked_for() {
    let check = |flags: &[(&str, &str)], expected: Option<&str>| {
        let found = built("", &[], flags).exposed();
        assert_eq!(found.map(|(key, _)| key), expected, "{flags:?}");
    };
    let (listen, admin) = (("listen.addr", "10.0.0.1:1"), ("admin.addr", "10.0.0.1:2"));
    let tls = [("tls.cert_file", "a"), ("tls.key_file", "b")];
    check(&[], None);
    check(&[("listen.addr", "[::1]:1")], None);
    check(&[("listen.addr", "[::ffff:127.0.0.1]:1")], None);
    check(&[listen], Some("listen.plain_text"));
    check(&[listen, ("listen.plain_text", "true")], None);
    check(&[admin], Some("admin.plain_text"));
    check(&[admin, ("admin.plain_text", "true")], None);
    check(&[admin, ("admin.enabled", "false")], None);
    check(&[listen, admin, tls[0], tls[1]], None);
}

#[test]
fn what_contradicts_itself_about_tls_is_refused() {
    let check = |flags: &[(&str, &str)], expected: Option<&str>| {
        let mut sources = Sources::default();
        for (name, value) in flags {
            sources.flag(name, value, "--set").expect("a valid flag");
        }
        let wrong = sources.build().err().map(|error| error.to_string());
        let named = wrong.as_deref().and_then(|text| text.split(':').next());
        assert_eq!(named, expected, "{flags:?}: {wrong:?}");
    };
    let (cert, key) = (("tls.cert_file", "a"), ("tls.key_file", "b"));
    let (ca, asked) = (("tls.client_ca_file", "c"), ("tls.client_auth", "request"));
    let list = ("access.manage", "spiffe://acme/admin");
    check(&[cert, key, ca, asked, list], None);
    check(&[cert], Some("tls.key_file"));
    check(&[key], Some("tls.key_file"));
    check(&[ca], Some("tls.client_ca_file"));
    check(&[cert, key, asked], Some("tls.client_auth"));
    check(
        &[cert, key, ("admin.client_auth", "request")],
        Some("admin.client_auth"),
    );
    check(
        &[cert, key, ("listen.plain_text", "true")],
        Some("listen.plain_text"),
    );
    check(&[cert, key, ("admin.plain_text", "true")], None);
    check(&[cert, key, ("check.open", "mtls")], Some("check.open"));
    check(&[cert, key, ca, ("check.open", "mtls")], None);
    check(&[cert, key, list], Some("access.manage"));
    check(
        &[cert, key, ca, ("tls.client_auth", "none"), list],
        Some("access.manage"),
    );
    check(
        &[cert, key, ca, ("access.check", "*")],
        Some("access.check"),
    );
    check(&[cert, key, ("tls.poll", "1ms")], Some("tls.poll"));
    for name in ["*.tokens.svc", "https://a", "a:7421"] {
        check(&[("replica.tls_name", name)], Some("replica.tls_name"));
    }
    check(&[("replica.tls_name", "latchkey.tokens.svc")], None);
}

/// What a pod is told of itself is its bare address, of whichever family.
#[test]
fn an_address_of_a_replica_is_one_that_can_be_dialled() {
    let check = |given: &str, expected: Option<&str>| {
        let mut sources = Sources::default();
        let added = sources.flag("replica.address", given, "--set");
        let Some(expected) = expected else {
            let error = added.expect_err(given).to_string();
            assert!(error.contains("HOST:PORT"), "{given}: {error}");
            return;
        };
        added.expect(given);
        let config = sources.build().expect(given);
        assert_eq!(config.replica.address.as_str(), expected, "{given}");
    };
    let same = |address: &str| check(address, Some(address));
    same("");
    same("10.1.2.3:7421");
    same("https://latchkey-0.latchkey.tokens.svc:7421");
    same("latchkey_1:7421");
    same("[fd00::7]:7421");
    same("https://[fd00::7]:7421");
    check("fd00::7:7421", Some("[fd00::7]:7421"));
    check("https://fd00::7:7421", Some("https://[fd00::7]:7421"));
    check("1:2:3:4:5:6:7:8:7421", Some("[1:2:3:4:5:6:7:8]:7421"));
    check("::ffff:10.1.2.3:7421", Some("[::ffff:10.1.2.3]:7421"));
    // A name in brackets, or an address of the other family, is dialled by nobody.
    for wrong in [
        "[10.1.2.3]:7421",
        "[latchkey]:7421",
        "[fd00::7]",
        "[fd00::7:7421",
        "fe80::1%eth0:7421",
        "fd00::7::7421",
        "1:2:3:4:5:6:7:7421",
        "10.1.2.3",
        "10.1.2.3:0",
        "10.1.2.3:+7",
        "10.1.2.3:74210",
        ":7421",
        "https://:7421",
        "tcp://a:7421",
        "https://a:7421/x",
        "u@a:7421",
        "$(POD_IP):7421",
        "a b:7421",
    ] {
        check(wrong, None);
    }
}
