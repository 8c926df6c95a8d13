//! Envoy itself: the program that `make tools` installs, with a configuration of the test's own.
//!
//! It takes ports that nobody has and tells them; a test knows its listeners by name. It is there
//! once it says that it serves, and gone when the test is; what a failed test's Envoy said is
//! printed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::client::get;
use crate::program::tool;
use crate::watched::{Watched, in_folder, write};

/// How much of what it said is shown when a test fails.
const TOLD_LINES_MAX: usize = 12;

const START: &str = include_str!("start.sh");

/// A running Envoy; it ends with its handle.
pub(crate) struct Envoy {
    watched: Watched,
    admin: u16,
    ports: BTreeMap<String, u16>,
}

impl Envoy {
    pub(crate) async fn start(config: &Value) -> Self {
        let program = tool("envoy");
        let (watched, ()) = tokio::task::block_in_place(|| {
            in_folder("envoy", |folder| {
                write(&folder.path.join("envoy.json"), &config.to_string());
                let mut script = folder.own_script(START);
                script.env("ENVOY", &program);
                (script, ())
            })
        });
        let admin = std::fs::read_to_string(watched.folder.join("admin")).expect("it is told");
        let (_, admin) = admin.rsplit_once(':').expect("an address");
        let mut envoy = Self {
            watched,
            admin: admin.trim().parse().expect("a port"),
            ports: BTreeMap::new(),
        };
        let told = envoy.ask("/listeners?format=json").await;
        let told: Value = serde_json::from_str(&told).expect("JSON");
        for listener in told["listener_statuses"].as_array().expect("a list") {
            let name = listener["name"].as_str().expect("a name");
            let port = &listener["local_address"]["socket_address"]["port_value"];
            let port = port.as_u64().and_then(|port| port.try_into().ok());
            envoy.ports.insert(name.to_owned(), port.expect("a port"));
        }
        envoy
    }

    /// Where a listener listens.
    #[track_caller]
    pub(crate) fn port(&self, listener: &str) -> u16 {
        self.ports[listener]
    }

    /// What its administration answers.
    pub(crate) async fn ask(&self, path: &str) -> String {
        let answer = get(path).send(self.admin).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// A file that it wrote.
    pub(crate) fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.watched.folder.join(name)).unwrap_or_default()
    }
}

impl Drop for Envoy {
    #[expect(clippy::print_stderr, reason = "a failed test shows it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["log", "requests"] {
                let written = self.written(name);
                let lines = Vec::from_iter(written.lines());
                let last = &lines[lines.len().saturating_sub(TOLD_LINES_MAX)..];
                eprintln!("{}", last.join("\n"));
            }
        }
    }
}
