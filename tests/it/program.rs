//! The program as its users run it: a server on a port of its own, and commands against it.
//!
//! Every server has its own data directory and ends with its handle; nothing is shared between
//! tests. Readiness is the JSON line that `dev` prints, never a pause.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;
use tempfile::TempDir;

/// What a command printed and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Asserts a refusal or a denial, and that it says `text`.
    #[track_caller]
    pub(crate) fn refused(self, text: &str) -> Self {
        assert_eq!(self.code, 1, "{}{}", self.stdout, self.stderr);
        let said = format!("{}{}", self.stdout, self.stderr);
        assert!(said.contains(text), "{text:?} is not in {said}");
        self
    }
}

/// A running `latchkey dev` or `serve`.
pub(crate) struct Server {
    child: Child,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    pub(crate) address: String,
    /// Where its metrics are.
    pub(crate) admin_address: String,
    /// The token that was shown; none on a directory that existed.
    pub(crate) admin: Option<String>,
}

impl Server {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[]).unwrap_or_else(|said| panic!("the server did not start: {said}"))
    }

    /// Starts with more arguments; if it does not come up, what it said.
    pub(crate) fn start_with(dir: &Path, arguments: &[&str]) -> Result<Self, String> {
        let mut command = latchkey();
        command.arg("dev").arg("--data-dir").arg(dir);
        Self::launch(command.args(arguments))
    }

    /// Starts a server of the next version, as far as a debug build can be one.
    pub(crate) fn start_next(dir: &Path, arguments: &[&str]) -> Result<Self, String> {
        let mut command = latchkey();
        command.arg("dev").arg("--data-dir").arg(dir);
        command.env("LATCHKEY_DEBUG_NEXT_FORMAT", "1");
        Self::launch(command.args(arguments))
    }

    /// Starts a replica on a database; if it does not come up, what it said.
    pub(crate) fn replica(url: &str, name: &str, arguments: &[&str]) -> Result<Self, String> {
        Self::launch_replica(latchkey(), url, name, arguments)
    }

    /// The same, where it is told to listen: one that comes back is where it was.
    pub(crate) fn replica_at(
        listen: &str,
        url: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<Self, String> {
        let mut command = latchkey();
        Self::of_replica(&mut command, url, name, arguments);
        Self::launch_at(listen, &mut command)
    }

    /// The same, of the next version.
    pub(crate) fn next_replica(url: &str, name: &str, arguments: &[&str]) -> Result<Self, String> {
        let mut command = latchkey();
        command.env("LATCHKEY_DEBUG_NEXT_FORMAT", "1");
        Self::launch_replica(command, url, name, arguments)
    }

    fn launch_replica(
        mut command: Command,
        url: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<Self, String> {
        Self::of_replica(&mut command, url, name, arguments);
        Self::launch(&mut command)
    }

    fn of_replica(command: &mut Command, url: &str, name: &str, arguments: &[&str]) {
        command
            .args(["serve", "--set", &format!("replica.name={name}")])
            .args(["--admin", "127.0.0.1:0"])
            .args(arguments)
            .env("LATCHKEY_DATABASE_URL", url);
    }

    /// Starts what a command is, with an address and a form of output; if it does not come up, what
    /// it said.
    pub(crate) fn launch(command: &mut Command) -> Result<Self, String> {
        Self::launch_at("127.0.0.1:0", command)
    }

    fn launch_at(listen: &str, command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .args(["--listen", listen, "--output", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let reader = gather(child.stderr.take().expect("piped"), Arc::clone(&stderr));
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("readable");
        let mut server = Self {
            child,
            stderr,
            reader: Some(reader),
            address: String::new(),
            admin_address: String::new(),
            admin: None,
        };
        if line.is_empty() {
            let _ = server.child.wait();
            return Err(server.finish());
        }
        let ready: Value = serde_json::from_str(&line).expect("one JSON line");
        server.address = ready["listen"].as_str().expect("an address").to_owned();
        let admin = ready["admin_listen"].as_str().unwrap_or_default();
        server.admin_address = admin.to_owned();
        server.admin = ready["admin_token"].as_str().map(str::to_owned);
        Ok(server)
    }

    /// Everything that it has logged so far.
    pub(crate) fn logged(&self) -> String {
        self.stderr.lock().expect("log").clone()
    }

    /// Ends it as a power cut would, as far as a process can tell.
    pub(crate) fn kill(mut self) -> String {
        self.cut();
        self.finish()
    }

    /// The same, to put another server in its place.
    pub(crate) fn cut(&mut self) {
        self.child.kill().expect("running");
        let _ = self.child.wait();
    }

    /// Sends it a signal; one that has ended hears nothing.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// Stops all its threads, until it is told to go on; they have stopped when this returns.
    pub(crate) fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
        let pid = rustix::process::Pid::from_child(&self.child);
        // The parent hears of it once the last thread has stopped.
        let stopped = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED);
        let (_, status) = stopped.expect("our child").expect("waited for");
        assert!(status.stopped(), "{status:?}");
    }

    /// What the system tells of its process under a name.
    pub(crate) fn process(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.child.id());
        std::fs::read_to_string(path).expect("it runs")
    }

    /// The most memory that it had at any time.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = self.process("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse().ok()).expect("a peak")
    }

    /// Ends it as an operator would.
    pub(crate) fn terminate(mut self) -> String {
        self.signal(rustix::process::Signal::TERM);
        let status = self.child.wait().expect("ends");
        let said = self.finish();
        assert!(status.success(), "{status}: {said}");
        said
    }

    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reads to the end");
        }
        self.logged()
    }

    /// A command line as the bearer of `token`.
    pub(crate) fn as_bearer<'a>(&'a self, token: &'a str) -> As<'a> {
        As {
            server: self,
            token,
        }
    }

    /// A command line as the administrator.
    pub(crate) fn admin(&self) -> As<'_> {
        self.as_bearer(self.admin.as_deref().expect("a fresh directory"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(mut from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read) = from.read(&mut bytes)
            && read > 0
        {
            let text = String::from_utf8_lossy(&bytes[..read]);
            to.lock().expect("log").push_str(&text);
        }
    })
}

/// Commands against a server as the bearer of a token.
#[derive(Clone, Copy)]
pub(crate) struct As<'a> {
    server: &'a Server,
    token: &'a str,
}

impl As<'_> {
    /// Runs a command line; words are split at blanks, `'…'` keeps blanks.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_with_input(line, "")
    }

    #[track_caller]
    pub(crate) fn run_with_input(&self, line: &str, input: &str) -> Ran {
        let mut command = latchkey();
        command
            .args(words(line))
            .env("LATCHKEY_ADDR", &self.server.address)
            .env("LATCHKEY_TOKEN", self.token);
        run(command, input)
    }

    /// Issues a token with these arguments; its id and secret.
    #[track_caller]
    pub(crate) fn issue(&self, arguments: &str) -> (String, String) {
        let line = format!("token issue {arguments} --output json");
        let issued = self.run(&line).json();
        let text = |key: &str| issued[key].as_str().expect(key).to_owned();
        (text("token_id"), text("secret"))
    }

    /// Asks a Check of `secret`; whether it is allowed, and the reason.
    #[track_caller]
    pub(crate) fn check(&self, secret: &str, action: &str, resource: &str) -> (bool, String) {
        let line =
            format!("check --token-file - --action {action} --resource {resource} --output json");
        let ran = self.run_with_input(&line, secret);
        let said: Value = serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}{}", ran.stdout, ran.stderr));
        let allowed = said["allowed"].as_bool().expect("allowed");
        assert_eq!(ran.code, i32::from(!allowed), "{}", ran.stdout);
        (allowed, said["reason"].as_str().expect("reason").to_owned())
    }
}

/// The program, with nothing of the caller's environment that it reads.
pub(crate) fn latchkey() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
    for (name, _) in std::env::vars() {
        if name.starts_with("LATCHKEY_") || name.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end with this input.
pub(crate) fn run(command: Command, input: &str) -> Ran {
    run_with_bytes(command, input.as_bytes())
}

/// The same, where the input is no text.
pub(crate) fn run_with_bytes(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    // A command that reads nothing may have closed its input already.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// The words of a command line: blanks part them, single quotes keep blanks.
pub(crate) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// A fresh directory for one test.
pub(crate) fn fresh() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

/// A tool that `make tools` installs.
pub(crate) fn tool(name: &str) -> PathBuf {
    let folder = std::env::var_os("LATCHKEY_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin"),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make tools`",
        path.display()
    );
    path
}
