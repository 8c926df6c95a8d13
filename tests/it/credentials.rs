//! Credentials and logins from the command line: made, used, shown, refused and taken away.
//!
//! Through the program, as a script in a pipeline has it. What the service answers to other clients,
//! and what must never be allowed, is tested beside.

mod record;

use std::fs;
use std::path::{Path, PathBuf};

use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::token::{Secret, TokenKind};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{As, Ran, Server, fresh, latchkey, run, words};

pub(crate) const READ: &str = "secrets:read";
pub(crate) const PLACE: &str = "acme/web";

/// A server with a service account `ci` that may read below `acme`, and a folder for its files.
pub(crate) struct World {
    pub(crate) server: Server,
    files: TempDir,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn start() -> Self {
        let (dir, files) = (fresh(), fresh());
        let server = Server::start_with(dir.path(), &["--set", "seal.poll=100ms"]).expect("serves");
        prepare(&server.admin());
        Self { server, files, dir }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub(crate) fn admin(&self) -> As<'_> {
        self.server.admin()
    }

    #[track_caller]
    pub(crate) fn json(&self, line: &str) -> Value {
        self.admin().run(&format!("{line} --output json")).json()
    }

    /// A client secret: its id and text.
    #[track_caller]
    pub(crate) fn secret(&self, arguments: &str) -> (String, String) {
        let made = self.json(&format!(
            "credential create ci --name n --reason r {arguments}"
        ));
        let text = |key: &str| made[key].as_str().expect(key).to_owned();
        (text("token_id"), text("secret"))
    }

    /// Logs in without a calling token, as whoever logs in has none.
    fn login(&self, arguments: &str, input: &str) -> Ran {
        let mut command = latchkey();
        command.args(words(&format!("login {arguments}")));
        command.env("LATCHKEY_ADDR", &self.server.address);
        run(command, input)
    }

    /// The access token that a secret gives.
    #[track_caller]
    pub(crate) fn token(&self, secret: &str) -> String {
        self.login("ci --secret-file -", secret)
            .ok()
            .stdout
            .trim()
            .to_owned()
    }

    pub(crate) fn allows(&self, token: &str) -> bool {
        self.admin().check(token, READ, PLACE).0
    }
}

#[track_caller]
pub(crate) fn prepare(admin: &As<'_>) {
    for line in [
        "service create ci --home acme --reason r",
        "role create agent --home acme --action secrets:read --reason r",
        "grant create --principal service:ci --role agent --resource acme/** --reason r",
        "service login-method set ci universal-auth --max-ttl 12h --reason r",
        "service login-method set ci key-pair --period 30m --reason r",
    ] {
        admin.run(line).ok();
    }
}

/// A client secret that nobody was given.
pub(crate) fn guess() -> String {
    let secret = Secret::generate(TokenKind::ClientSecret, &OsEntropy);
    secret.reveal().to_owned()
}

/// One word and a line end.
#[track_caller]
pub(crate) fn word(ran: &Ran) -> &str {
    let token = ran.stdout.strip_suffix('\n').expect("a line");
    assert!(!token.contains(char::is_whitespace), "{}", ran.stdout);
    token
}

#[test]
fn a_secret_gives_an_access_token_that_is_renewed_and_handed_on_embedded() {
    let world = World::start();
    let (credential, secret) = world.secret("");
    let file = world.at("secret");
    fs::write(&file, format!("{secret}\n")).expect("written");

    let by_file = world
        .login(&format!("service:ci --secret-file {}", file.display()), "")
        .ok();
    assert!(
        by_file.stderr.contains(", renewable up to "),
        "{}",
        by_file.stderr
    );
    let token = word(&by_file);
    assert!(token.starts_with("lka_") && world.allows(token));
    let mut command = latchkey();
    command.args(words("login ci --ttl 10m --output json"));
    command
        .env("LATCHKEY_ADDR", &world.server.address)
        .env("LATCHKEY_CLIENT_SECRET", &secret);
    let by_variable = run(command, "").json();
    assert_eq!(by_variable["expires_in"], 600);
    assert_eq!(by_variable["token_type"], "Bearer");
    assert_eq!(by_variable["stored"], false);
    assert!(world.allows(by_variable["access_token"].as_str().expect("a token")));

    let bearer = world.server.as_bearer(token);
    let who = bearer.run("token whoami --output json").json();
    assert_eq!(who["kind"], "access");
    assert_eq!(who["subject"], "service:ci");
    assert_eq!(who["sealed"], true);
    assert_eq!(who["parent_token_id"], credential.as_str());
    let next = bearer.run("token renew --ttl 2h").ok();
    let next = word(&next);
    assert!(next != token && world.allows(next) && world.allows(token));
    let refused = bearer.run("token renew --reason r");
    assert!(
        refused.code == 2 && refused.stderr.contains("--ttl alone"),
        "{}",
        refused.stderr
    );

    let handed_on = bearer
        .run("token exchange --scope secrets:read@acme/web --ttl 5m")
        .ok();
    assert!(
        !handed_on.stderr.contains("renewable"),
        "{}",
        handed_on.stderr
    );
    let narrow = word(&handed_on);
    assert!(world.allows(narrow));
    assert!(!world.admin().check(narrow, READ, "acme/api").0);
    let narrow = world.server.as_bearer(narrow);
    let wider = narrow.run("token exchange --scope secrets:read@acme/**");
    wider.refused("[BOUNDARY]\n  missing: secrets:read@acme/**\n");
    let narrowed = world
        .login("ci --secret-file - --scope secrets:read@acme/api", &secret)
        .ok();
    assert!(!world.allows(word(&narrowed)));
}

#[test]
fn a_key_pair_logs_in_without_sending_its_private_half_embedded() {
    let world = World::start();
    for (name, flag) in [("ed25519", ""), ("p256", "--p256")] {
        let (private, public) = (world.at(name), world.at(&format!("{name}.pub")));
        let line = format!("key-pair generate --out {} {flag}", private.display());
        fs::write(&public, world.admin().run(line.trim()).ok().stdout).expect("written");
        let register = |file: &Path| {
            let file = file.display();
            format!("credential register-key ci --public-key-file {file} --name {name} --reason r")
        };
        // Nothing listens there: it is refused before anything is sent.
        let mistaken = format!("{} --addr 127.0.0.1:1", register(&private));
        let mistaken = world.admin().run(&mistaken);
        assert_eq!(mistaken.code, 2, "{}", mistaken.stderr);
        assert!(
            mistaken.stderr.contains("this is a private key"),
            "{}",
            mistaken.stderr
        );

        let made = world.json(&register(&public));
        assert_eq!(
            (&made["kind"], &made["client_id"]),
            (&"public_key".into(), &"service:ci".into())
        );
        assert_eq!(
            made["public_key"],
            fs::read_to_string(&public).expect("readable")
        );
        world
            .admin()
            .run(&register(&public))
            .refused("[ALREADY_EXISTS]");
        let credential = made["token_id"].as_str().expect("an id");
        let login = format!(
            "ci --key-file {} --credential {credential}",
            private.display()
        );
        let token = world.login(&login, "").ok();
        assert!(world.allows(word(&token)));
        world
            .login(&format!("{login} --server-audience other"), "")
            .refused("[LOGIN_REFUSED]");
        let shown = world
            .admin()
            .run(&format!("token show {credential}"))
            .ok()
            .stdout;
        assert!(shown.contains("\n-----BEGIN PUBLIC KEY-----\n"), "{shown}");
        assert!(!shown.contains("\nsecret "), "{shown}");
        world
            .admin()
            .run(&format!("credential revoke {credential} --reason r"))
            .ok();
        assert!(!world.allows(word(&token)));
        let refused = world.login(&format!("{login} --output json"), "");
        let said: Value = serde_json::from_str(&refused.stderr).expect("JSON");
        let why = (&said["error"]["reason"], &said["error"]["cause"]);
        assert_eq!(why, (&"LOGIN_REFUSED".into(), &"revoked".into()));
    }
}

#[test]
fn a_login_without_a_usable_credential_is_a_mistake_embedded() {
    let world = World::start();
    let usage = |arguments: &str, told: &str| {
        let ran = world.login(arguments, "");
        assert!(ran.code == 2 && ran.stderr.contains(told), "{}", ran.stderr);
    };
    let id = "0197f3a2-7c00-7000-8000-000000000000";
    let (pair, public) = (world.at("pair"), world.at("pair.pub"));
    let made = format!("key-pair generate --out {}", pair.display());
    fs::write(&public, world.admin().run(&made).ok().stdout).expect("written");
    usage(
        "ci",
        "no credential: give --secret-file FILE or set LATCHKEY_CLIENT_SECRET",
    );
    usage(
        &format!("ci --key-file /no/such/file --credential {id}"),
        "cannot read /no/such/file",
    );
    let public = format!("ci --key-file {} --credential {id}", public.display());
    usage(&public, "this is a public key: the private one is wanted");
    usage(
        "ci --secret-file /no/such/file",
        "cannot read the secret file /no/such/file",
    );
}

#[test]
fn what_can_be_no_client_secret_is_not_sent_as_a_guess_embedded() {
    let world = World::start();
    let (_, secret) = world.secret("");
    let (_, service) = world
        .admin()
        .issue("--kind service --subject ci --ttl 1h --name n --reason r");
    let access = world.token(&secret);
    for (text, told) in [
        ("lkc_wrong", "that is no client secret"),
        (&secret[..52], "is it cut off or mistyped?"),
        (&format!("{secret}x"), "that is no client secret"),
        (&service, "of kind service, no client secret"),
        (&access, "of kind access, no client secret"),
    ] {
        // Nothing listens there: it is refused before anything is sent.
        let ran = world.login("ci --secret-file - --addr 127.0.0.1:1", text);
        assert!(ran.code == 2 && ran.stderr.contains(told), "{}", ran.stderr);
        assert!(!ran.stderr.contains(text), "{}", ran.stderr);
    }
    let sent = world.login("ci --secret-file - --addr 127.0.0.1:1", &secret);
    assert_eq!(sent.code, 3, "{}", sent.stderr);
}

#[test]
fn refused_logins_look_the_same_embedded() {
    let world = World::start();
    world
        .admin()
        .run("service login-method set ci universal-auth --no-lockout --reason r")
        .ok();
    let (_, secret) = world.secret("");
    let wrong = guess();
    let mut told = Vec::new();
    for (client, secret) in [
        ("ci", wrong.as_str()),
        ("nobody", &secret),
        ("nobody", &wrong),
    ] {
        let ran = world.login(&format!("{client} --secret-file -"), secret);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (1, ""),
            "{client}: {}",
            ran.stderr
        );
        told.push(ran.stderr);
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    let ran = world.login("nobody --secret-file - --output json", &wrong);
    let said: Value = serde_json::from_str(&ran.stderr).expect("JSON");
    assert_eq!(said["error"]["reason"], "LOGIN_REFUSED");
    assert!(said["error"]["cause"].is_null(), "{said}");
    assert!(world.allows(&world.token(&secret)));
}

#[test]
fn failures_lock_a_network_out_and_it_is_shown_embedded() {
    let world = World::start();
    let set = "service login-method set ci universal-auth --lockout-threshold 2 --lockout-reset 1h \
               --lockout-duration 1h --reason r";
    world.admin().run(set).ok();
    let (_, secret) = world.secret("");
    for _ in 0..2 {
        world
            .login("ci --secret-file -", &guess())
            .refused("[LOGIN_REFUSED]");
    }
    // They are counted behind the answers.
    let locked = || world.json("service login-method show ci")["locked"][0]["network"].clone();
    while locked().is_null() {
        std::thread::yield_now();
    }
    assert_eq!(locked(), "127.0.0.1/32");
    world
        .login("ci --secret-file -", &secret)
        .refused("[LOGIN_REFUSED]");
    let shown = world
        .admin()
        .run("service login-method show ci")
        .ok()
        .stdout;
    assert!(
        shown.contains("127.0.0.1/32 is locked out until "),
        "{shown}"
    );
    let told = world.admin().run("audit list --kind login.lock").ok();
    let line = told.stdout.lines().last().expect("a line");
    assert!(line.contains(" service:ci from 127.0.0.1/32"), "{line}");
    let unlock = "service login-method unlock ci --network 127.0.0.1 --reason r";
    world.admin().run(unlock).ok();
    let told = world.admin().run("audit list --kind login.unlock").ok();
    let line = told.stdout.lines().last().expect("a line");
    assert!(line.contains(" service:ci from 127.0.0.1/32"), "{line}");
    assert!(world.allows(&world.token(&secret)));
}

#[test]
fn settings_that_mean_nothing_beside_a_period_are_refused_embedded() {
    let world = World::start();
    for both in ["--ttl 2h", "--uses 5", "--max-ttl 2h"] {
        let set =
            format!("service login-method set ci universal-auth --period 1h {both} --reason r");
        let ran = world.admin().run(&set);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
    }
}

#[test]
fn login_methods_are_set_whole_shown_and_removed_embedded() {
    let world = World::start();
    let long = "service login-method set ci universal-auth --ttl 10m --max-ttl 2h --uses 5 \
                --network 10.0.0.1/8 --login-network 10.1.2.3/16 --lockout-duration 10m --reason r";
    let set = world.json(long);
    assert_eq!(set["ttl_seconds"], 600);
    assert_eq!(set["max_ttl_seconds"], 7_200);
    assert_eq!(set["uses"], 5);
    assert_eq!(set["lockout"]["threshold"], 3);
    assert_eq!(set["lockout"]["duration_seconds"], 600);
    assert_eq!(set["enforcement"]["state"], "confirmed");
    let shown = world.json("service login-method show service:ci");
    assert_eq!(shown["methods"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        shown["methods"][0]["networks"],
        serde_json::json!(["10.0.0.0/8"])
    );
    assert_eq!(
        shown["methods"][0]["login_networks"],
        serde_json::json!(["10.1.0.0/16"])
    );
    // What is not given is the default again.
    let set = world.json("service login-method set ci universal-auth --no-lockout --reason r");
    assert_eq!(
        (&set["ttl_seconds"], &set["lockout"]),
        (&3_600.into(), &Value::Null)
    );
    assert_eq!(
        set.get("networks")
            .or(set.get("uses"))
            .or(set.get("max_ttl_seconds")),
        None
    );
    let shown = world
        .admin()
        .run("service login-method show ci")
        .ok()
        .stdout;
    assert!(
        shown.contains("method              universal_auth\naccess tokens live  1h\n"),
        "{shown}"
    );

    let (_, secret) = world.secret("");
    let token = world.token(&secret);
    let removed = world
        .admin()
        .run("service login-method remove ci universal-auth --reason r")
        .ok();
    assert!(
        removed.stdout.contains("confirmed by 1 replica"),
        "{}",
        removed.stdout
    );
    assert!(!world.allows(&token));
    world
        .login("ci --secret-file -", &secret)
        .refused("[LOGIN_REFUSED]");
    let create = "credential create ci --name n --reason r";
    world.admin().run(create).refused("[FAILED_PRECONDITION]");
    world
        .admin()
        .run("service login-method remove ci key-pair --reason r")
        .ok();
    let shown = world
        .admin()
        .run("service login-method show ci")
        .ok()
        .stdout;
    assert_eq!(shown, "no login method is set: it cannot log in\n");
}

#[test]
fn credentials_are_listed_and_revoked_with_what_they_gave_embedded() {
    let world = World::start();
    let (first, secret) = world.secret("--label env=prod --ttl 30d");
    let (second, other) = world.secret("--network 127.0.0.0/8 --uses 2");
    let listed = |arguments: &str| {
        let list = world.json(&format!("credential list {arguments}"));
        let ids = list["credentials"].as_array().expect("a list").iter();
        ids.map(|one| one["token_id"].as_str().expect("an id").to_owned())
            .collect::<Vec<_>>()
    };
    let only = "credential create ci --name n --reason r --ttl 1h --secret-only";
    let only = world.admin().run(only).ok();
    let told = only.stderr.strip_prefix("credential ").expect(&only.stderr);
    let (third, _) = told.split_once(',').expect("an id and more");
    assert_eq!(
        listed("ci"),
        [first.clone(), second.clone(), third.to_owned()]
    );
    let revoke = format!("credential revoke {third} --reason r");
    world.admin().run(&revoke).ok();
    assert_eq!(
        listed("--kind client_secret --state active"),
        [first.clone(), second.clone()]
    );
    assert_eq!(listed("--kind public-key"), Vec::<String>::new());
    let (token, kept) = (world.token(&secret), world.token(&other));
    let revoked = world.json(&format!("credential revoke {first} --reason leaked"));
    assert_eq!(revoked["already_revoked"], false);
    assert_eq!(revoked["enforcement"]["state"], "confirmed");
    assert!(!world.allows(&token) && world.allows(&kept));
    world
        .login("ci --secret-file -", &secret)
        .refused("[LOGIN_REFUSED]");
    assert_eq!(listed("ci --state active"), std::slice::from_ref(&second));
    let (id, other_kind) = world
        .admin()
        .issue("--kind service --subject ci --ttl 1h --name n --reason r");
    let ran = world
        .admin()
        .run(&format!("credential revoke {id} --reason r"));
    let told = format!("{id} is no credential but a token of kind service");
    assert!(
        ran.code == 2 && ran.stderr.contains(&told),
        "{}",
        ran.stderr
    );
    assert!(world.allows(&other_kind), "nothing was revoked");
    let again = world.json(&format!("credential revoke {first} --reason leaked"));
    assert_eq!(again["already_revoked"], true);
    // Of two logins the second was the last.
    let last = world.token(&other);
    world
        .login("ci --secret-file -", &other)
        .refused("[LOGIN_REFUSED]");
    assert!(world.allows(&last));
}

#[test]
fn sessions_are_revoked_by_id_and_by_account_embedded() {
    let world = World::start();
    let (_, secret) = world.secret("");
    let by_id = |token: &str| {
        let who = world
            .server
            .as_bearer(token)
            .run("token whoami --output json")
            .json();
        who["token_id"].as_str().expect("an id").to_owned()
    };
    let (one, two, three) = (
        world.token(&secret),
        world.token(&secret),
        world.token(&secret),
    );
    let renewed = world.server.as_bearer(&one).run("token renew").ok();
    let handed_on = world
        .server
        .as_bearer(&one)
        .run("token exchange --ttl 5m")
        .ok();
    let id = by_id(word(&renewed));
    let line = format!("token revoke --access-token {id} --reason r");
    let says = |ran: Ran, id: &str, how: &str| {
        let told = format!("{id} {how} at revision ");
        assert!(ran.ok().stdout.starts_with(&told), "{id} {how}");
    };
    says(world.admin().run(&line), &id, "revoked");
    says(world.admin().run(&line), &id, "was revoked before; seen");
    for token in [&one, word(&renewed), word(&handed_on)] {
        assert!(!world.allows(token));
    }
    assert!(world.allows(&two) && world.allows(&three));
    let (second, found) = (by_id(&two), world.token(&secret));
    let itself = world.server.as_bearer(&two).run("token revoke --self");
    says(itself, &second, "revoked");
    assert!(!world.allows(&two) && world.allows(&three));
    let (line, id) = ("token revoke --secret-file - --reason r", by_id(&found));
    let by_text = world.admin().run_with_input(line, &found);
    says(by_text, &id, "revoked");
    let by_text = world
        .admin()
        .run_with_input(&format!("{line} --output json"), &found)
        .json();
    assert_eq!(by_text["token_id"], id.as_str());
    assert_eq!(by_text["kind"], "access");
    assert_eq!(by_text["already_revoked"], true);
    let (_, stored) = world
        .admin()
        .issue("--kind service --subject ci --ttl 1h --name n --reason r");
    world
        .admin()
        .run("token revoke-all --sessions-of service:ci --reason r")
        .ok();
    assert!(!world.allows(&three) && world.allows(&stored));
    let four = world.token(&secret);
    assert!(world.allows(&four), "the credential stays");
    let by_name_alone = "token revoke-all --sessions-of ci --reason r";
    world.admin().run(by_name_alone).ok();
    assert!(!world.allows(&four) && world.allows(&stored));
}
