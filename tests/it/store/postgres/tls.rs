//! TLS towards a database: who is let in by which mode, and who is not.
//!
//! The server is a test's own, of the name `localhost`, with a certificate of a test's own
//! authority; another authority is there to be the wrong one.

use latchkey::domain::entropy::OsEntropy;
use latchkey::store::StoreError;
use latchkey::store::postgres::{OpenError, PostgresStore, Settings};

use crate::postgres::{Database, Server, server};

/// What an open comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// Connections with TLS.
    Hidden,
    /// Connections without.
    Plain,
    /// A server that is not believed, or lets nobody in.
    Refused,
    /// Settings that make no sense.
    Wrong,
}
use Comes::{Hidden, Plain, Refused, Wrong};

/// Of an authority whose key nobody has; good until 2126.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBejCCAR+gAwIBAgIUD0bG/bxUYwlVGopbfkitRHL3UtEwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMjA4MzM0MVoYDzIxMjYxMDI5MDgz
MzQxWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQmCOGzu325wubqkwKE3RV0qAouLER3hmFyz+d8OJbgF2LhxZ8osO/wNhimwNKD
fADHwITQWSKxmEBY3Mz5KfxPo1MwUTAdBgNVHQ4EFgQUMINSZXLaLDVrgXMVUmpY
rSDq1UQwHwYDVR0jBBgwFoAUMINSZXLaLDVrgXMVUmpYrSDq1UQwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAlA37zFQFiLlU4rB0Vmenq+4sVszl
sCHOmyXG6Z6Fj9cCIQCg9B+Apm/RaJG6p4zoCByKQmuZs5sqwD1f/E9yxnmWlQ==
-----END CERTIFICATE-----
";

async fn check(server: &Server, database: &Database, host: &str, query: &str, expected: Comes) {
    let name = &database.name;
    let url = database.url.replacen("127.0.0.1", host, 1);
    let settings = Settings {
        url: url.replacen("sslmode=disable", query, 1),
        ..Settings::default()
    };
    let opened = PostgresStore::open(&settings, &OsEntropy).await;
    let came = match &opened {
        Ok(_) if is_hidden(server, name).await => Hidden,
        Ok(_) => Plain,
        Err(OpenError::Store(StoreError::Unavailable(_))) => Refused,
        Err(OpenError::Settings(_)) => Wrong,
        Err(other) => panic!("{query}: {other}"),
    };
    assert_eq!(came, expected, "{host} {query}: {:?}", opened.err());
}

/// Whether all connections of the store that is open are encrypted; there is at least one.
async fn is_hidden(server: &Server, database: &str) -> bool {
    let client = server.client("postgres", "postgres").await;
    let sql = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE datname = $1 AND application_name = 'latchkey'";
    loop {
        let all = client.query_one(sql, &[&database]).await.expect("asked");
        // The listener's connection is on its way.
        if let Some(all) = all.get(0) {
            return all;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_must_be_the_right_server_is_verified() {
    let server = Server::with_tls();
    let database = server.database().await;
    let by = |mode: &str, authority: &str| {
        let path = server.file(authority);
        format!("sslmode={mode}&sslrootcert={}", path.display())
    };
    let check = async |host: &str, query: &str, expected: Comes| {
        check(&server, &database, host, query, expected).await;
    };
    check("localhost", &by("verify-full", "ca.pem"), Hidden).await;
    check("127.0.0.1", &by("verify-full", "ca.pem"), Refused).await;
    check("127.0.0.1", &by("verify-ca", "ca.pem"), Hidden).await;
    for mode in ["verify-full", "verify-ca"] {
        check("localhost", &by(mode, "other.pem"), Refused).await;
        check("localhost", &by(mode, "none.pem"), Wrong).await;
        // A file without a certificate.
        check("localhost", &by(mode, "names"), Wrong).await;
        check("localhost", &format!("sslmode={mode}"), Wrong).await;
    }
    // A CA file alone asks for all of it.
    let authority = |name| format!("sslrootcert={}", server.file(name).display());
    check("localhost", &authority("ca.pem"), Hidden).await;
    check("127.0.0.1", &authority("ca.pem"), Refused).await;
    check("localhost", &authority("other.pem"), Refused).await;
    for mode in ["prefer", "require"] {
        check("127.0.0.1", &format!("sslmode={mode}"), Hidden).await;
    }
    check("localhost", "", Hidden).await;
    check("localhost", "sslmode=disable", Refused).await;
}

#[tokio::test]
async fn a_server_without_tls_is_not_who_must_have_it() {
    let database = server().database().await;
    // Any certificate will do: none is ever shown.
    let made = tempfile::TempDir::new().expect("a directory");
    let authority = made.path().join("ca.pem");
    std::fs::write(&authority, AUTHORITY).expect("written");
    let authority = format!("sslrootcert={}", authority.display());
    for mode in ["verify-full", "verify-ca", "require"] {
        let query = format!("sslmode={mode}&{authority}");
        check(server(), &database, "127.0.0.1", &query, Refused).await;
    }
    check(server(), &database, "127.0.0.1", &authority, Refused).await;
    check(server(), &database, "127.0.0.1", "sslmode=prefer", Plain).await;
    check(server(), &database, "127.0.0.1", "sslmode=disable", Plain).await;
}
