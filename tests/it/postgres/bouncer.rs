//! Debian's PgBouncer in transaction mode, in front of the server of this test binary.
//!
//! What it breaks is the point: named statements, settings of a session, and LISTEN, which it
//! takes and swallows.

use std::path::PathBuf;
use std::sync::LazyLock;

use super::watched::{Watched, free_port, in_folder, on_path, write};
use super::{SERVER_ROLE, server};

const START: &str = r#"
    "$BIN" -q pgbouncer.ini >out 2>&1 &
    tries=0
    until "$ISREADY" -q -h 127.0.0.1 -p "$PORT"; do
        tries=$((tries + 1))
        kill -0 $! 2>/dev/null && [ $tries -lt 200 ] || { cat out; kill $!; exit 1; }
        sleep 0.05
    done
    echo ready
    cat >/dev/null
    kill $!
"#;

static BOUNCER: LazyLock<(Watched, u16)> = LazyLock::new(start);

/// The URL of a database as the pooler offers it.
pub(crate) fn url(database: &str) -> String {
    let port = BOUNCER.1;
    format!("postgres://{SERVER_ROLE}@127.0.0.1:{port}/{database}?sslmode=disable")
}

fn start() -> (Watched, u16) {
    let server = server().port;
    in_folder("pgbouncer", |folder| {
        let port = free_port();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = users\npool_mode = transaction\n\
             max_client_conn = 2000\ndefault_pool_size = 8\nserver_idle_timeout = 5\n"
        );
        write(&folder.path.join("pgbouncer.ini"), &settings);
        write(
            &folder.path.join("users"),
            &format!("\"{SERVER_ROLE}\" \"\"\n"),
        );
        let mut script = folder.script(START);
        script
            .env("BIN", program())
            .env("ISREADY", super::binaries().join("pg_isready"))
            .env("PORT", port.to_string());
        (script, port)
    })
}

fn program() -> PathBuf {
    let sbin = PathBuf::from("/usr/sbin/pgbouncer");
    match on_path("pgbouncer") {
        Some(folder) => folder.join("pgbouncer"),
        None if sbin.exists() => sbin,
        None => panic!("no PgBouncer here: run 'sudo apt-get install pgbouncer', or 'make tools'"),
    }
}
