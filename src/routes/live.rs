//! The route table in use: read at start, and again whenever its file has changed.
//!
//! How it is followed is that of everything that is read while the server runs; here is what is
//! read, what is taken and what is refused.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::followed;

use super::table::{TABLE_BYTES_MAX, Table, TableError};
use super::withheld::Withheld;

/// The table in use; see [`followed::Live`].
pub type Live = followed::Live<Table>;
/// Who keeps the table as its file says.
pub type Follower = followed::Follower<RouteFile>;

/// Why a table is not taken from its file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// It cannot be read.
    #[error("{file}: cannot be read: {error}")]
    Unreadable {
        /// Its path.
        file: String,
        /// What the system says.
        error: String,
    },
    /// It is no table.
    #[error("{}: {}", Place(.file, .wrong.line), .wrong.message)]
    Wrong {
        /// Its path.
        file: String,
        /// What is wrong with it.
        wrong: TableError,
    },
}

/// A file and a line of it, as compilers write them.
struct Place<'a>(&'a str, Option<usize>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(line) => write!(f, "{}:{line}", self.0),
            None => f.write_str(self.0),
        }
    }
}

impl Table {
    /// The table of a file.
    ///
    /// # Errors
    /// [`OpenError`] with the file, and the line where one is wrong.
    pub fn read(file: &Path, withheld: &Withheld) -> Result<Self, OpenError> {
        judge(file, &read(file), withheld)
    }
}

impl Live {
    /// No routes: what Envoy's own routes do not answer is denied.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The table of a file, and who follows it.
    ///
    /// # Errors
    /// [`OpenError`]: who starts with a wrong table does not know what it lets through.
    pub fn open(file: &Path, withheld: Withheld) -> Result<(Arc<Self>, Follower), OpenError> {
        Self::follow(RouteFile {
            file: file.to_owned(),
            withheld: Arc::new(withheld),
        })
    }
}

/// The bytes of the file, or why there are none.
type Content = Result<Vec<u8>, String>;

/// A file with a table, and the headers that it may not read.
#[derive(Clone, Debug)]
pub struct RouteFile {
    file: PathBuf,
    withheld: Arc<Withheld>,
}

impl followed::Source for RouteFile {
    type Content = Content;
    type Value = Table;
    type Error = OpenError;

    fn read(&self) -> Content {
        read(&self.file)
    }

    fn judge(&self, content: &Content) -> Result<Table, OpenError> {
        judge(&self.file, content, &self.withheld)
    }

    fn tell(&self, judged: Result<&Table, &OpenError>) {
        match judged {
            Ok(table) => {
                tracing::info!(file = %self.file.display(), routes = table.len(), "routes read");
            }
            Err(error) => {
                tracing::warn!(%error, "routes refused: those before stay in use");
            }
        }
    }
}

fn read(file: &Path) -> Content {
    let mut bytes = Vec::new();
    // One more than there may be tells that there are too many.
    let limit = TABLE_BYTES_MAX as u64 + 1;
    let read = File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| error.to_string())
}

fn judge(file: &Path, content: &Content, withheld: &Withheld) -> Result<Table, OpenError> {
    let file = file.display().to_string();
    let bytes = match content {
        Ok(bytes) => bytes,
        Err(error) => {
            let error = error.clone();
            return Err(OpenError::Unreadable { file, error });
        }
    };
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        TableError {
            line: Some(line),
            message: "it is no UTF-8".to_owned(),
        }
    });
    text.and_then(|text| Table::parse(text, withheld))
        .map_err(|wrong| OpenError::Wrong { file, wrong })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use std::time::Duration;

    use crate::followed::{Counts, SETTLE_TIME};

    use super::super::{HeaderValue, Headers, Request};
    use super::*;

    struct NoHeaders;

    impl Headers for NoHeaders {
        fn header(&self, _: &str) -> HeaderValue<'_> {
            HeaderValue::Absent
        }
    }

    fn table_for(path: &str) -> String {
        format!("[[route]]\npath = \"{path}\"\n")
    }

    fn has(table: &Table, path: &str) -> bool {
        let request = Request {
            host: "any",
            method: "GET",
            path,
        };
        table.find(&request, &NoHeaders).is_ok()
    }

    fn counts(routes: usize, reloads: u64, refusals: u64, refused: bool) -> (usize, Counts) {
        let counts = Counts {
            reloads,
            refusals,
            refused,
        };
        (routes, counts)
    }

    struct World {
        dir: TempDir,
        live: Arc<Live>,
        follower: Follower,
    }

    impl World {
        fn start() -> Self {
            let dir = TempDir::new().expect("a directory");
            let file = dir.path().join("routes.toml");
            std::fs::write(&file, table_for("/a")).expect("written");
            let (live, follower) = Live::open(&file, Withheld::default()).expect("a table");
            Self {
                dir,
                live,
                follower,
            }
        }

        fn counts(&self) -> (usize, Counts) {
            (self.live.current().len(), self.live.counts())
        }

        fn write(&self, text: impl AsRef<[u8]>) {
            std::fs::write(self.dir.path().join("routes.toml"), text).expect("written");
        }

        async fn look_twice(&mut self) {
            self.follower.look(false).await;
            self.follower.look(false).await;
        }
    }

    #[tokio::test]
    async fn what_has_changed_is_taken_once_it_is_read_twice_alike() {
        let mut world = World::start();
        world.look_twice().await;
        assert_eq!(world.counts(), counts(1, 0, 0, false));
        world.write(table_for("/b"));
        world.follower.look(false).await;
        assert!(has(&world.live.current(), "/a"), "it may be half written");
        world.write(table_for("/c") + &table_for("/d"));
        world.follower.look(false).await;
        assert!(
            has(&world.live.current(), "/a"),
            "it is still being written"
        );
        world.follower.look(false).await;
        assert!(has(&world.live.current(), "/c") && !has(&world.live.current(), "/a"));
        assert_eq!(world.counts(), counts(2, 1, 0, false));
        world.look_twice().await;
        assert_eq!(world.counts(), counts(2, 1, 0, false), "taken once");
    }

    #[tokio::test]
    async fn what_is_vouched_for_is_taken_at_once() {
        let mut world = World::start();
        world.write(table_for("/b"));
        world.follower.look(true).await;
        assert!(has(&world.live.current(), "/b"));
        world.follower.look(true).await;
        assert_eq!(world.counts(), counts(1, 1, 0, false));
    }

    #[tokio::test]
    async fn a_wrong_table_is_refused_once_and_the_old_one_stays() {
        let mut world = World::start();
        for wrong in [
            "[[route]]\npath = \"/b\"\n[[route]]\npath = \"c\"\n".as_bytes(),
            b"",
            b"[[route]]\npath = \"/\xff\"\n",
            &vec![b'#'; TABLE_BYTES_MAX + 1],
        ] {
            let before = world.live.counts().refusals;
            world.write(wrong);
            world.look_twice().await;
            world.look_twice().await;
            assert_eq!(world.counts(), counts(1, 0, before + 1, true));
            assert!(has(&world.live.current(), "/a") && !has(&world.live.current(), "/b"));
        }
        world.write(table_for("/b"));
        world.look_twice().await;
        assert_eq!(world.counts(), counts(1, 1, 4, false));
        assert!(has(&world.live.current(), "/b"));
    }

    #[tokio::test]
    async fn a_file_that_is_gone_leaves_the_table_and_may_come_back() {
        let mut world = World::start();
        std::fs::remove_file(world.dir.path().join("routes.toml")).expect("removed");
        world.look_twice().await;
        world.look_twice().await;
        assert_eq!(world.counts(), counts(1, 0, 1, true));
        world.write(table_for("/a"));
        world.look_twice().await;
        assert_eq!(world.counts(), counts(1, 1, 1, false));
    }

    #[tokio::test]
    async fn a_request_goes_by_the_table_that_it_began_with() {
        let mut world = World::start();
        let begun = world.live.current();
        world.write(table_for("/b"));
        world.look_twice().await;
        assert!(has(&begun, "/a") && !has(&begun, "/b"));
        assert!(has(&world.live.current(), "/b"));
    }

    /// As Kubernetes mounts a ConfigMap: the file is a link into a folder behind a link, and that
    /// one is swapped.
    #[tokio::test(start_paused = true)]
    async fn a_config_map_that_is_swapped_is_followed() {
        let dir = TempDir::new().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for (version, path) in [("..1", "/a"), ("..2", "/b")] {
            std::fs::create_dir(at(version)).expect("made");
            std::fs::write(at(version).join("routes.toml"), table_for(path)).expect("written");
        }
        symlink("..1", at("..data")).expect("linked");
        symlink("..data/routes.toml", at("routes.toml")).expect("linked");
        let (live, follower) =
            Live::open(&at("routes.toml"), Withheld::default()).expect("a table");
        let task = tokio::spawn(follower.run(Duration::from_secs(2)));

        symlink("..2", at("..data_tmp")).expect("linked");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
        std::fs::remove_dir_all(at("..1")).expect("removed");
        taken(&live, 1).await;
        assert!(has(&live.current(), "/b") && !has(&live.current(), "/a"));

        std::fs::write(at("..2").join("routes.toml"), table_for("/c")).expect("written");
        live.look_now();
        taken(&live, 2).await;
        assert!(has(&live.current(), "/c"));
        task.abort();
    }

    /// Time is the test's: it passes whenever nothing else is to be done.
    async fn taken(live: &Live, reloads: u64) {
        while live.counts().reloads < reloads {
            tokio::time::advance(SETTLE_TIME).await;
        }
    }

    #[test]
    fn a_wrong_file_refuses_the_start_and_is_told_with_its_line() {
        let dir = TempDir::new().expect("a directory");
        let file = dir.path().join("routes.toml");
        let told = || {
            Live::open(&file, Withheld::default())
                .expect_err("refused")
                .to_string()
        };
        let shown = file.display();
        assert!(
            told().starts_with(&format!("{shown}: cannot be read: ")),
            "{}",
            told()
        );
        std::fs::write(&file, "\n[[route]]\npath = \"a\"\n").expect("written");
        assert_eq!(told(), format!("{shown}:3: a path begins with '/'"));
        std::fs::write(&file, "# nothing\n").expect("written");
        assert!(
            told().starts_with(&format!("{shown}: it has no [[route]]")),
            "{}",
            told()
        );
    }
}
