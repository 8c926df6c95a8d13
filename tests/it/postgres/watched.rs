//! Server processes of the tests: started unprivileged, and gone when the test process is.
//!
//! A shell script runs the server and then reads its standard input, a pipe that the test process
//! holds: when that process ends, also by SIGKILL, the script reads the end of it, stops the
//! server and removes the folder. Nothing is left, and nothing has to be called.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How often a port that somebody else took in between is replaced.
const TRIES: usize = 5;
/// `nobody`, on every Linux.
const NOBODY: u32 = 65_534;

/// A server and the script that ends it, which it does when this is dropped.
pub(crate) struct Watched {
    script: Child,
}

/// Where a server has its files.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    /// A script that starts in the folder, prints `ready` and reads its input to the end.
    pub(crate) fn script(&self, text: &str) -> Command {
        let path = self.path.display();
        let text = format!("cd '{path}' || exit 1\n{text}\ncd /\nrm -rf '{path}'\n");
        let mut command = Command::new("sh");
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        // A group of its own: what ends the tests from a terminal must not end what cleans up.
        command.args(["-c", &text]).process_group(0);
        command
    }
}

/// Starts a server by the script that `make` gives for a new folder, again if it fails.
pub(crate) fn in_folder<T>(name: &str, make: impl Fn(&Folder) -> (Command, T)) -> (Watched, T) {
    let mut why = String::new();
    for _ in 0..TRIES {
        let folder = folder(name);
        let (mut command, value) = make(&folder);
        match start(&mut command) {
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

fn start(command: &mut Command) -> Result<Watched, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = command.spawn().expect("a shell");
    let mut output = BufReader::new(script.stdout.take().expect("piped"));
    let mut said = String::new();
    while output.read_line(&mut said).is_ok_and(|bytes| bytes > 0) {
        if said.ends_with("ready\n") {
            return Ok(Watched { script });
        }
    }
    let _ = output.read_to_string(&mut said);
    let _ = script.wait();
    Err(said)
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
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
