//! The route table of a server that runs: swapped, refused, and what requests notice of it.
//!
//! Requests are asked about as Envoy asks, over gRPC. That a table is taken is seen in the
//! metrics, never waited for by time.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use latchkey::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use latchkey::proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use latchkey::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::leaks::{admin_page, metrics, value};
use crate::program::{Server, fresh};
use crate::wire::channel;

const RELOADS: &str = "latchkey_route_table_reloads_total ";
const REFUSALS: &str = "latchkey_route_table_refusals_total ";
const REFUSED: &str = "latchkey_route_table_refused ";
const ROUTES: &str = "latchkey_routes ";

/// Waits until a number of the server's metrics is this one.
fn until(server: &Server, name: &str, expected: u64) {
    while value(&metrics(&server.admin_address), name) != Some(expected as f64) {
        std::thread::yield_now();
    }
}

/// A route that any token of the test may take.
fn open(path: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\n")
}

/// A route that needs more than the token has.
fn closed(path: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\naction = \"a:other\"\nresource = \"acme\"\n")
}

/// A folder as Kubernetes mounts a ConfigMap: every version is a folder behind a link that is
/// swapped.
struct Mounted {
    dir: TempDir,
    versions: u32,
}

impl Mounted {
    fn new(table: &str) -> Self {
        let mut mounted = Self {
            dir: fresh(),
            versions: 0,
        };
        mounted.swap(table);
        symlink("..data/routes.toml", mounted.file()).expect("linked");
        mounted
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("routes.toml")
    }

    fn swap(&mut self, table: &str) {
        let at = |name: &str| self.dir.path().join(name);
        let (old, new) = (self.versions, self.versions + 1);
        let version = format!("..{new}");
        std::fs::create_dir(at(&version)).expect("made");
        std::fs::write(at(&version).join("routes.toml"), table).expect("written");
        symlink(&version, at("..data_tmp")).expect("linked");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
        if old > 0 {
            std::fs::remove_dir_all(at(&format!("..{old}"))).expect("removed");
        }
        self.versions = new;
    }
}

/// A server with a table, and a token that it permits little.
struct World {
    server: Server,
    token: String,
    _dir: TempDir,
}

impl World {
    fn start(mounted: &Mounted, more: &[&str]) -> Self {
        let dir = fresh();
        let file = format!("envoy.routes_file={}", mounted.file().display());
        let arguments = [&["--set", &file], more].concat();
        let server = Server::start_with(dir.path(), &arguments).expect("starts");
        let issue = "--kind resource --resource acme --scope a:b@acme --ttl 1h --name n --reason r";
        let (_, token) = server.admin().issue(issue);
        Self {
            server,
            token,
            _dir: dir,
        }
    }

    async fn asker(&self) -> Asker {
        let channel = channel(&self.server.address).await;
        Asker {
            client: AuthorizationClient::new(channel),
            token: self.token.clone(),
        }
    }

    fn is_ready(&self) -> bool {
        let answer = admin_page(&self.server.admin_address, "/readyz");
        answer.starts_with("HTTP/1.1 200 ")
    }
}

#[derive(Clone)]
struct Asker {
    client: AuthorizationClient<Channel>,
    token: String,
}

impl Asker {
    /// Whether a GET of the path passes.
    async fn passes(&mut self, path: &str) -> bool {
        let http = HttpRequest {
            method: "GET".to_owned(),
            host: "api.example.com".to_owned(),
            path: path.to_owned(),
            headers: [("authorization".to_owned(), format!("Bearer {}", self.token))].into(),
            ..HttpRequest::default()
        };
        let request = Request { http: Some(http) };
        let attributes = AttributeContext {
            request: Some(request),
            ..AttributeContext::default()
        };
        let question = CheckRequest {
            attributes: Some(attributes),
        };
        let answer = self.client.check(question).await.expect("an answer");
        answer.into_inner().status.expect("a status").code == 0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_swapped_under_load_and_no_request_is_lost_embedded() {
    const SWAPS: u64 = 12;
    let even = open("/always") + &open("/even") + &closed("/odd");
    let odd = open("/always") + &closed("/even") + &open("/odd");
    let mut mounted = Mounted::new(&even);
    // Only a signal reads it again.
    let world = World::start(&mounted, &["--set", "envoy.routes_poll=1h"]);
    let (over, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut asker = world.asker().await;
    let load = {
        let (over, asked, mut asker) = (Arc::clone(&over), Arc::clone(&asked), asker.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert!(asker.passes("/always").await);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    for swap in 1..=SWAPS {
        assert!(
            asker
                .passes(if swap % 2 == 1 { "/even" } else { "/odd" })
                .await
        );
        let before = asked.load(Ordering::Relaxed);
        mounted.swap(if swap % 2 == 1 { &odd } else { &even });
        world.server.signal(Signal::HUP);
        until(&world.server, RELOADS, swap);
        assert!(
            !asker
                .passes(if swap % 2 == 1 { "/even" } else { "/odd" })
                .await
        );
        while asked.load(Ordering::Relaxed) == before && !load.is_finished() {
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Ordering::Relaxed);
    load.await.expect("every request had its answer");
    assert_eq!(
        value(&metrics(&world.server.admin_address), REFUSALS),
        Some(0.0)
    );
    // A signal without a change is no reload.
    world.server.signal(Signal::HUP);
    assert!(asker.passes("/always").await);
    assert_eq!(
        value(&metrics(&world.server.admin_address), RELOADS),
        Some(SWAPS as f64)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_has_changed_is_found_without_a_signal_embedded() {
    let mut mounted = Mounted::new(&open("/a"));
    let world = World::start(&mounted, &["--set", "envoy.routes_poll=100ms"]);
    let mut asker = world.asker().await;
    assert!(asker.passes("/a").await && !asker.passes("/b").await);
    until(&world.server, ROUTES, 1);
    mounted.swap(&(open("/b") + &open("/c")));
    until(&world.server, ROUTES, 2);
    assert!(asker.passes("/b").await && !asker.passes("/a").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_table_is_refused_told_and_changes_nothing_embedded() {
    let mut mounted = Mounted::new(&open("/a"));
    let world = World::start(&mounted, &["--set", "envoy.routes_poll=1h"]);
    let mut asker = world.asker().await;
    let wrong = open("/b") + "[[route]]\npath = \"/a\"\nacton = \"a:b\"\n";
    for refusals in [1, 2] {
        mounted.swap(&format!("{wrong}# {refusals}\n"));
        world.server.signal(Signal::HUP);
        until(&world.server, REFUSALS, refusals);
        until(&world.server, REFUSED, 1);
        assert!(asker.passes("/a").await && !asker.passes("/b").await);
        assert!(world.is_ready());
    }
    let logged = world.server.logged();
    let place = format!("{}:5: unknown field `acton`", mounted.file().display());
    assert_eq!(logged.matches(&place).count(), 2, "{logged}");
    std::fs::remove_file(mounted.file()).expect("removed");
    world.server.signal(Signal::HUP);
    until(&world.server, REFUSALS, 3);
    assert!(asker.passes("/a").await && world.is_ready());
    std::fs::write(mounted.file(), open("/b")).expect("written");
    world.server.signal(Signal::HUP);
    until(&world.server, RELOADS, 1);
    until(&world.server, REFUSED, 0);
    assert!(asker.passes("/b").await && !asker.passes("/a").await);
}

#[test]
fn a_server_does_not_start_on_a_wrong_table_embedded() {
    let check = |table: Option<&str>, said: &str| {
        let dir = fresh();
        let file = dir.path().join("routes.toml");
        if let Some(table) = table {
            std::fs::write(&file, table).expect("written");
        }
        let data = dir.path().join("data");
        let setting = format!("envoy.routes_file={}", file.display());
        let refused = Server::start_with(&data, &["--set", &setting]);
        let refused = refused.err().expect("it does not start");
        let told = format!("{}{said}", file.display());
        assert!(refused.contains(&told), "{told}: {refused}");
        assert!(!data.exists(), "nothing is made before the table is read");
    };
    check(None, ": cannot be read: ");
    check(Some(""), ": it has no [[route]]");
    check(
        Some("[[route]]\npath = \"a\"\n"),
        ":2: a path begins with '/'",
    );
}

#[tokio::test]
async fn without_a_table_every_request_is_denied_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let token = server.admin.clone().expect("a token");
    let client = AuthorizationClient::new(channel(&server.address).await);
    let mut asker = Asker { client, token };
    assert!(!asker.passes("/").await);
    until(&server, ROUTES, 0);
}
