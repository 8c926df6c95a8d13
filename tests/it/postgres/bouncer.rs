//! Debian's PgBouncer in transaction mode, in front of the server of this test binary.
//!
//! What it breaks is the point: named statements, settings of a session, and LISTEN, which it
//! takes and swallows.

use std::path::PathBuf;
use std::sync::LazyLock;

use super::{SERVER_ROLE, server};
use crate::watched::{Watched, free_port, in_folder, on_path, write};

const SETTINGS: &str = "pgbouncer.ini";

const START: &str = r#"
    stop() { kill "$pooler"; }
    "$BIN" -q pgbouncer.ini >out 2>&1 &
    pooler=$!
    tries=0
    until "$ISREADY" -q -h 127.0.0.1 -p "$PORT"; do
        tries=$((tries + 1))
        kill -0 "$pooler" 2>/dev/null && [ $tries -lt 200 ] || { cat out; stop; exit 1; }
        sleep 0.05
    done
"#;

static BOUNCER: LazyLock<Bouncer> = LazyLock::new(|| Bouncer::start(server().port));

/// The URL of a database of this test binary's server as the pooler offers it.
pub(crate) fn url(database: &str) -> String {
    BOUNCER.url(database)
}

/// One pooler.
pub(crate) struct Bouncer {
    watched: Watched,
    pub(crate) port: u16,
}

impl Bouncer {
    /// In front of the server on that port.
    pub(crate) fn start(server: u16) -> Self {
        let password = super::server().password.replace('"', "\"\"");
        let (watched, port) = in_folder("pgbouncer", |folder| {
            let port = free_port();
            write(&folder.path.join(SETTINGS), &settings(port, server));
            write(
                &folder.path.join("users"),
                &format!("\"{SERVER_ROLE}\" \"{password}\"\n"),
            );
            let mut script = folder.script(START);
            script
                .env("BIN", program())
                .env("ISREADY", super::binaries().join("pg_isready"))
                .env("PORT", port.to_string());
            (script, port)
        });
        Self { watched, port }
    }

    /// The URL of a database as this pooler offers it.
    pub(crate) fn url(&self, database: &str) -> String {
        let port = self.port;
        format!("postgres://{SERVER_ROLE}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// Leads to the server on another port from the next transaction on; clients notice nothing.
    pub(crate) fn lead_to(&self, server: u16) {
        let path = self.watched.folder.join(SETTINGS);
        write(&path, &settings(self.port, server));
        self.watched.run("kill -HUP \"$pooler\"");
    }
}

fn settings(port: u16, server: u16) -> String {
    format!(
        "[databases]\n* = host=127.0.0.1 port={server}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = trust\nauth_file = users\npool_mode = transaction\n\
         max_client_conn = 2000\ndefault_pool_size = 8\nserver_idle_timeout = 5\n"
    )
}

fn program() -> PathBuf {
    let sbin = PathBuf::from("/usr/sbin/pgbouncer");
    match on_path("pgbouncer") {
        Some(folder) => folder.join("pgbouncer"),
        None if sbin.exists() => sbin,
        None => panic!("no PgBouncer here: run 'sudo apt-get install pgbouncer', or 'make tools'"),
    }
}
