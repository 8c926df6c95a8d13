//! The route table in use: read at start, and again whenever its file has changed.
//!
//! ```text
//! every poll, or told to ─► bytes of the file ─► as judged before? ─► parse ─► swapped whole
//!                                                                         └──► or refused: the old one stays
//! ```
//!
//! Compares what the file says, not when it was written: a ConfigMap is swapped by a link above
//! it. What the poll finds counts once it is read twice alike, for a file that is written in
//! place is half there for a while; who says that it is to be read vouches for it. One task
//! writes the table; requests hold the one they began with, and none waits.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::table::{TABLE_BYTES_MAX, Table, TableError};
use super::withheld::Withheld;

/// How soon what has changed is read once more.
const SETTLE_TIME: Duration = Duration::from_millis(100);

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

/// What became of the table since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Routes in use.
    pub routes: usize,
    /// Times that another table was taken.
    pub reloads: u64,
    /// Contents of the file that were refused.
    pub refusals: u64,
    /// Whether the file is another than the table in use, because it is refused.
    pub refused: bool,
}

/// The table in use. Its follower alone writes it; a request reads it without a lock.
#[derive(Debug, Default)]
pub struct Live {
    table: ArcSwap<Table>,
    reloads: AtomicU64,
    refusals: AtomicU64,
    refused: AtomicBool,
    look: Notify,
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
        let read = read(file);
        let table = judge(file, &read, &withheld)?;
        tracing::info!(file = %file.display(), routes = table.len(), "routes read");
        let live = Arc::new(Self::of(table));
        let follower = Follower {
            live: Arc::clone(&live),
            file: file.to_owned(),
            withheld: Arc::new(withheld),
            judged: read,
            changed: None,
        };
        Ok((live, follower))
    }

    /// A table that stays as it is.
    #[must_use]
    pub fn of(table: Table) -> Self {
        Self {
            table: ArcSwap::from_pointee(table),
            ..Self::default()
        }
    }

    /// The table as it is now; a request asks once, and goes by what it was given.
    #[must_use]
    #[inline]
    pub fn current(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Has the file read at once, and what it says taken as it is.
    pub fn look_now(&self) {
        self.look.notify_one();
    }

    /// What became of the table since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            routes: self.current().len(),
            reloads: self.reloads.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// The bytes of the file, or why there are none.
type Content = Result<Vec<u8>, String>;

/// Who keeps the table as its file says.
#[derive(Debug)]
pub struct Follower {
    live: Arc<Live>,
    file: PathBuf,
    withheld: Arc<Withheld>,
    /// What the file said when it was last taken or refused.
    judged: Content,
    /// What it says now, if that was seen once only.
    changed: Option<Content>,
}

impl Follower {
    /// Follows the file until it is dropped.
    pub async fn run(mut self, poll: Duration) {
        loop {
            let wait = match self.changed {
                None => poll,
                Some(_) => poll.min(SETTLE_TIME),
            };
            let told = tokio::select! {
                () = self.live.look.notified() => true,
                () = sleep(wait) => false,
            };
            self.look(told).await;
        }
    }

    /// Looks at the file once; what is new is taken or refused if it was seen before, or if it is
    /// vouched for.
    async fn look(&mut self, vouched: bool) {
        let file = self.file.clone();
        // The file may lie on a disk that hangs; that is not to hold up requests.
        let Ok(read) = spawn_blocking(move || read(&file)).await else {
            return;
        };
        if read == self.judged {
            self.changed = None;
            return;
        }
        if !vouched && self.changed.as_ref() != Some(&read) {
            self.changed = Some(read);
            return;
        }
        self.changed = None;
        let (file, withheld) = (self.file.clone(), Arc::clone(&self.withheld));
        let judged = spawn_blocking(move || (judge(&file, &read, &withheld), read)).await;
        if let Ok((table, read)) = judged {
            self.judged = read;
            self.take(table);
        }
    }
    fn take(&self, judged: Result<Table, OpenError>) {
        let live = &*self.live;
        live.refused.store(judged.is_err(), Ordering::Relaxed);
        match judged {
            Ok(table) => {
                tracing::info!(file = %self.file.display(), routes = table.len(), "routes read");
                live.table.store(Arc::new(table));
                live.reloads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(%error, "routes refused: those before stay in use");
                live.refusals.fetch_add(1, Ordering::Relaxed);
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

    fn counts(routes: usize, reloads: u64, refusals: u64, refused: bool) -> Counts {
        Counts {
            routes,
            reloads,
            refusals,
            refused,
        }
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
        assert_eq!(world.live.counts(), counts(1, 0, 0, false));
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
        assert_eq!(world.live.counts(), counts(2, 1, 0, false));
        world.look_twice().await;
        assert_eq!(world.live.counts(), counts(2, 1, 0, false), "taken once");
    }

    #[tokio::test]
    async fn what_is_vouched_for_is_taken_at_once() {
        let mut world = World::start();
        world.write(table_for("/b"));
        world.follower.look(true).await;
        assert!(has(&world.live.current(), "/b"));
        world.follower.look(true).await;
        assert_eq!(world.live.counts(), counts(1, 1, 0, false));
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
            assert_eq!(world.live.counts(), counts(1, 0, before + 1, true));
            assert!(has(&world.live.current(), "/a") && !has(&world.live.current(), "/b"));
        }
        world.write(table_for("/b"));
        world.look_twice().await;
        assert_eq!(world.live.counts(), counts(1, 1, 4, false));
        assert!(has(&world.live.current(), "/b"));
    }

    #[tokio::test]
    async fn a_file_that_is_gone_leaves_the_table_and_may_come_back() {
        let mut world = World::start();
        std::fs::remove_file(world.dir.path().join("routes.toml")).expect("removed");
        world.look_twice().await;
        world.look_twice().await;
        assert_eq!(world.live.counts(), counts(1, 0, 1, true));
        world.write(table_for("/a"));
        world.look_twice().await;
        assert_eq!(world.live.counts(), counts(1, 1, 1, false));
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
