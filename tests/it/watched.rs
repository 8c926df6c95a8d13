//! Server processes of the tests, gone when the test process is; as root most of them are started
//! as somebody without its rights.
//!
//! A shell script runs the server and then reads its standard input, a pipe that the test process
//! holds: each line is a command that it runs in the server's folder. When the test process ends,
//! also by SIGKILL, the script reads the end of its input, stops the server and removes the
//! folder. Nothing is left, and nothing has to be called.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// How often a port that somebody else took in between is replaced.
const TRIES: usize = 5;
/// `nobody`, on every Linux.
const NOBODY: u32 = 65_534;

/// A server and the script that ends it, which it does when this is dropped.
pub(crate) struct Watched {
    pub(crate) folder: PathBuf,
    script: Child,
    /// None once it is to end.
    pipes: Mutex<Option<Pipes>>,
}

struct Pipes {
    commands: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Where a server has its files.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    /// A script that starts a server in the folder, or exits; its function `stop` ends it again.
    pub(crate) fn script(&self, text: &str) -> Command {
        let mut command = self.own_script(text);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// The same as who runs the tests: for a program that nobody else may be able to read.
    pub(crate) fn own_script(&self, text: &str) -> Command {
        let mut command = Command::new("sh");
        // A group of its own: what ends the tests from a terminal must not end what cleans up.
        command.args(["-c", &self.text(text)]).process_group(0);
        command
    }

    /// The same, with a small file system of its own as `disk` in the folder: one that can be
    /// full. Nobody outside sees it, and it goes with the script.
    pub(crate) fn script_with_disk(&self, text: &str, size: &str) -> Command {
        let (disk, mut options) = (self.path.join("disk"), format!("size={size},mode=0700"));
        let mut command = Command::new("unshare");
        let mut inner = vec!["sh".to_owned(), "-c".to_owned(), self.text(text)];
        if is_root() {
            options.push_str(&format!(",uid={NOBODY},gid={NOBODY}"));
            let user = ["setpriv".to_owned(), "--clear-groups".to_owned()];
            let ids = ["--reuid", "--regid"].map(|id| format!("{id}={NOBODY}"));
            inner.splice(0..0, user.into_iter().chain(ids));
        } else {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        // Outlives the script, which cannot take away where it stands.
        let around = r#"mkdir "$1" && mount -t tmpfs -o "$2" tmpfs "$1" || exit 1
            disk="$1"; folder="$3"; shift 3
            "$@"; cd /; umount "$disk"; rm -rf "$folder""#;
        command.args(["--mount", "sh", "-c", around, "sh"]);
        command.arg(disk).arg(options).arg(&self.path).args(inner);
        command.process_group(0);
        command
    }

    fn text(&self, text: &str) -> String {
        let path = self.path.display();
        format!(
            r#"cd '{path}' || exit 1
               trap "cd /; rm -rf '{path}' 2>/dev/null" EXIT
               {text}
               echo ready
               while read -r line; do
                   eval "$line" </dev/null >>commands.log 2>&1
                   echo "done $?"
               done
               stop >/dev/null 2>&1"#
        )
    }
}

/// Starts a server by the script that `make` gives for a new folder, again if it fails.
pub(crate) fn in_folder<T>(name: &str, make: impl Fn(&Folder) -> (Command, T)) -> (Watched, T) {
    let mut why = String::new();
    for _ in 0..TRIES {
        let folder = folder(name);
        let (mut command, value) = make(&folder);
        match start(&mut command, folder) {
            Ok(watched) => return (watched, value),
            Err(output) => why = output,
        }
    }
    panic!("{name} does not start: {why}");
}

fn folder(name: &str) -> Folder {
    let made = tempfile::Builder::new()
        .prefix(&format!("latchkey-{name}-"))
        .tempdir();
    let path = made.expect("a folder").keep();
    if is_root() {
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&path, mode).expect("closed to others");
    Folder { path }
}

fn start(command: &mut Command, folder: Folder) -> Result<Watched, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = command.spawn().expect("a shell");
    let commands = script.stdin.take().expect("piped");
    let mut output = BufReader::new(script.stdout.take().expect("piped"));
    let mut said = String::new();
    while output.read_line(&mut said).is_ok_and(|bytes| bytes > 0) {
        if said.ends_with("ready\n") {
            return Ok(Watched {
                folder: folder.path,
                script,
                pipes: Mutex::new(Some(Pipes { commands, output })),
            });
        }
    }
    let _ = output.read_to_string(&mut said);
    let _ = script.wait();
    Err(said)
}

impl Watched {
    /// Runs one line of shell in the server's folder, as its user; blocks until it has ended.
    pub(crate) fn run(&self, line: &str) {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let pipes = pipes.as_mut().expect("it is there until the drop");
        writeln!(pipes.commands, "{line}").expect("the script reads");
        let mut said = String::new();
        pipes.output.read_line(&mut said).expect("the script says");
        let log = self.folder.join("commands.log");
        let logged = || std::fs::read_to_string(log).unwrap_or_default();
        assert_eq!(said, "done 0\n", "{line}: {}", logged());
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let pipes = self.pipes.get_mut();
        drop(pipes.unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.script.wait();
    }
}

/// A port that nobody had a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// The folder on the path that has a program.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut folders = std::env::split_paths(&path);
    folders.find(|folder| folder.join(program).exists())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Writes a file that a server reads.
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}
