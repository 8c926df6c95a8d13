//! One private Postgres for the whole test binary, and a database of its own for every test.
//!
//! Started from the system's binaries, as an unprivileged user, with its files in a folder that
//! goes when the test process does, however that ends. `LATCHKEY_TEST_DATABASE_URL` names another
//! server of this machine to use instead, by a role that may do everything there; the program's
//! role gets the same password. The program connects as the role and with the grants that the
//! README gives it, and no more.

pub(crate) mod bouncer;
pub(crate) mod control;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use latchkey::store::postgres::{Settings, up};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::watched::{self, Watched, free_port, in_folder};

/// The role that the program runs as.
pub(crate) const SERVER_ROLE: &str = "latchkey_server";
/// Whom a private server has to do everything; elsewhere that is whoever the URL names.
const ADMIN: &str = "postgres";
const TEMPLATE: &str = "latchkey_template";

const INIT: &str = r#"
    export LC_ALL=C
    "$BIN/initdb" -D data -U postgres -A trust -E UTF8 --no-sync >initdb.log 2>&1 ||
        { cat initdb.log; exit 1; }
"#;

/// Also ends a server that a test has frozen.
const START: &str = r#"
    stop() {
        kill -CONT "$(head -n 1 data/postmaster.pid)"
        "$BIN/pg_ctl" -D data -m immediate stop
    }
    "$BIN/pg_ctl" -D data -l log -w -t 60 -o "-p $PORT $OPTIONS -k $PWD" start >start.log 2>&1 ||
        { cat start.log log; exit 1; }
"#;

const OPTIONS: &str = "-c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=500 \
                       -c shared_buffers=64MB";

/// A server: where it listens, and who may do everything there.
pub(crate) struct Server {
    pub(crate) port: u16,
    host: String,
    admin: String,
    /// Of both roles; empty where nobody asks for one.
    password: String,
    prepared: OnceCell<()>,
    watched: Option<Watched>,
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

/// The server of this test binary.
pub(crate) fn server() -> &'static Server {
    &SERVER
}

impl Server {
    fn start() -> Self {
        match std::env::var("LATCHKEY_TEST_DATABASE_URL") {
            Ok(url) => Self::elsewhere(&url),
            Err(_) => Self::private(""),
        }
    }

    fn elsewhere(url: &str) -> Self {
        let config: tokio_postgres::Config = url.parse().expect("LATCHKEY_TEST_DATABASE_URL");
        let hosts = config.get_hosts().first();
        let Some(tokio_postgres::config::Host::Tcp(host)) = hosts else {
            panic!("LATCHKEY_TEST_DATABASE_URL names no TCP host");
        };
        Self {
            port: config.get_ports().first().copied().unwrap_or(5432),
            host: host.clone(),
            admin: config.get_user().expect("a user").to_owned(),
            password: String::from_utf8_lossy(config.get_password().unwrap_or_default()).into(),
            prepared: OnceCell::new(),
            watched: None,
        }
    }

    /// Starts a server of a test's own, with more options than the usual ones.
    pub(crate) fn private(options: &str) -> Self {
        Self::prepared_by(INIT, options, None)
    }

    /// Starts a server whose files a script makes, with a disk of its own of that size beside them.
    fn prepared_by(init: &str, options: &str, disk: Option<&str>) -> Self {
        let bin = binaries();
        let (watched, port) = in_folder("postgres", |folder| {
            let port = free_port();
            let text = format!("{init}{START}");
            let mut script = match disk {
                Some(size) => folder.script_with_disk(&text, size),
                None => folder.script(&text),
            };
            script
                .env("BIN", &bin)
                .env("PORT", port.to_string())
                .env("OPTIONS", format!("{OPTIONS} {options}"));
            (script, port)
        });
        Self {
            port,
            host: "127.0.0.1".to_owned(),
            admin: ADMIN.to_owned(),
            password: String::new(),
            prepared: OnceCell::new(),
            watched: Some(watched),
        }
    }

    /// A URL of a database here, for a role.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        let Self { host, port, .. } = self;
        let role = match role {
            ADMIN => self.admin.as_str(),
            role => role,
        };
        let password = match self.password.as_str() {
            "" => String::new(),
            password => format!(":{}", percent_encoded(password)),
        };
        format!("postgres://{role}{password}@{host}:{port}/{database}?sslmode=disable")
    }

    /// Runs statements as the one who may do everything.
    pub(crate) async fn admin(&self, database: &str, sql: &str) {
        let client = self.client(&self.admin, database).await;
        client.batch_execute(sql).await.expect(sql);
    }

    /// From now on members seem to answer only while they hold a lease, whatever they say: a way
    /// to break the promise.
    pub(crate) async fn hide_who_serves_stale(&self, database: &str) {
        let sql = "CREATE FUNCTION public.hide() RETURNS trigger LANGUAGE plpgsql AS
              $$ BEGIN NEW.serves_stale := false; RETURN NEW; END $$;
            CREATE TRIGGER hide BEFORE INSERT OR UPDATE ON latchkey.replicas
              FOR EACH ROW EXECUTE FUNCTION public.hide();
            UPDATE latchkey.replicas SET serves_stale = false";
        self.admin(database, sql).await;
    }

    /// A client of a role.
    pub(crate) async fn client(&self, role: &str, database: &str) -> Client {
        let url = self.url(role, database);
        let (client, connection) = tokio_postgres::connect(&url, NoTls)
            .await
            .expect("connected");
        tokio::spawn(connection);
        client
    }

    /// A fresh one, migrated.
    pub(crate) async fn database(&self) -> Database {
        self.database_with("").await
    }

    /// The same, made with more options.
    pub(crate) async fn database_with(&self, options: &str) -> Database {
        self.prepared.get_or_init(|| self.prepare()).await;
        let name = self.create(&format!("TEMPLATE {TEMPLATE} {options}")).await;
        Database {
            url: self.url(SERVER_ROLE, &name),
            name,
        }
    }

    /// A database made with these options.
    pub(crate) async fn create(&self, options: &str) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("latchkey_{}_{number}", std::process::id());
        let sql = format!("CREATE DATABASE {name} {options}");
        self.admin("postgres", &sql).await;
        name
    }

    async fn prepare(&self) {
        let client = self.client(&self.admin, "postgres").await;
        let sql = format!(
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SERVER_ROLE}') THEN
               CREATE ROLE {SERVER_ROLE} LOGIN; END IF; END $$"
        );
        client.batch_execute(&sql).await.expect("the role");
        if !self.password.is_empty() {
            let password = self.password.replace('\'', "''");
            let sql = format!(
                "ALTER ROLE {SERVER_ROLE} PASSWORD E'{}'",
                password.replace('\\', "\\\\")
            );
            client.batch_execute(&sql).await.expect("its password");
        }
        let sql = format!("DROP DATABASE IF EXISTS {TEMPLATE}");
        client.batch_execute(&sql).await.expect("dropped");
        let sql = format!("CREATE DATABASE {TEMPLATE}");
        client.batch_execute(&sql).await.expect("a database");
        let settings = Settings {
            url: self.url(&self.admin, TEMPLATE),
            ..Settings::default()
        };
        up(&settings).await.expect("migrated");
        self.admin(TEMPLATE, &grants()).await;
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What the README grants to the program's role.
pub(crate) fn grants() -> String {
    let readme = include_str!("../../README.md");
    let (_, after) = readme.split_once("<!-- grants: begin -->").expect("grants");
    let (block, _) = after.split_once("<!-- grants: end -->").expect("grants");
    let sql = block.trim().trim_start_matches("```sql");
    sql.trim_end_matches("```").to_owned()
}

/// A migrated database that nobody else uses.
pub(crate) struct Database {
    pub(crate) name: String,
    /// For the program's role.
    pub(crate) url: String,
}

/// A fresh one on the server of this test binary.
pub(crate) async fn database() -> Database {
    server().database().await
}

/// A fresh database without tables, and its owner's URL; the program's role gets its grants by
/// [`Database::grant`].
pub(crate) async fn bare_database() -> (Database, String) {
    database().await; // The roles.
    let server = server();
    let name = server.create("").await;
    let owner = server.url(&server.admin, &name);
    let url = server.url(SERVER_ROLE, &name);
    (Database { name, url }, owner)
}

impl Database {
    /// What the README grants to the program's role, once there are tables.
    pub(crate) async fn grant(&self) {
        server().admin(&self.name, &grants()).await;
    }
}

/// A fresh database without tables.
pub(crate) async fn empty_database() -> String {
    server().create("").await
}

/// Where the system has its Postgres: on the path, or where Debian puts the newest.
fn binaries() -> PathBuf {
    // What stands on the path may be a link to one of many programs that belong together.
    let linked = watched::on_path("initdb").and_then(|bin| bin.join("initdb").canonicalize().ok());
    if let Some(bin) = linked.as_deref().and_then(Path::parent) {
        return bin.to_owned();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let folders = versions.into_iter().flatten().flatten();
    let bins = folders.map(|entry| entry.path().join("bin"));
    let newest = bins.filter(|bin| bin.join("initdb").exists()).max();
    newest.unwrap_or_else(|| {
        panic!("no Postgres here: run 'sudo apt-get install postgresql', or 'make tools' as root")
    })
}
