//! The rules of how Latchkey is written, held against its own source tree.
//!
//! Run by everybody who runs the tests. Each rule is a function from one file to the list of its
//! violations; one test holds it against the tree, another against literal text that must fail,
//! so no rule is a check that cannot fail. Deliberately absent: what rustc, clippy, rustfmt,
//! cargo-deny and `buf lint` already check.

mod known;
mod layers;
mod papers;
mod scan;
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

/// One file of the tree, its text, and its code without comments and strings, tests apart.
struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
    /// What goes into the program.
    ships: String,
    /// What `#[cfg(test)]` marks; everything, in `tests/` and in files of tests.
    tests: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") {
            scan::code(text)
        } else {
            String::new()
        };
        let (ships, tests) = if is_test(path) {
            (String::new(), code)
        } else {
            scan::split_tests(&code)
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            ships,
            tests,
        }
    }

    fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.split('.').next().unwrap_or(name)
    }
}

/// Whether the whole file is tests, by where it is or by its name.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that is or could be committed, relative to the root, in order.
fn tree() -> Vec<String> {
    let mut found = listed_by_git().unwrap_or_else(|| {
        let mut found = Vec::new();
        walk(root(), &mut found);
        found
    });
    found.retain(|path| root().join(path).is_file());
    found.sort();
    found
}

/// `None` where there is no git, or no checkout: in a source archive every file counts.
fn listed_by_git() -> Option<Vec<String>> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ])
    .current_dir(root());
    let output = git.output().ok().filter(|output| output.status.success())?;
    let names = String::from_utf8(output.stdout).expect("paths are UTF-8");
    Some(names.split_terminator('\0').map(str::to_owned).collect())
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    let entries = std::fs::read_dir(folder).expect("the tree can be read");
    let paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the tree can be read").path())
        .collect();
    for path in paths {
        let relative = path
            .strip_prefix(root())
            .expect("inside the root")
            .to_str()
            .expect("paths are UTF-8");
        if matches!(relative, "target" | ".git") {
            continue;
        }
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(relative.to_owned());
        }
    }
}

/// Every file below a folder that is text, with its text.
fn texts(folder: &str) -> Vec<File> {
    let inside = tree()
        .into_iter()
        .filter(|path| folder.is_empty() || path.starts_with(&format!("{folder}/")));
    inside
        .filter_map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).ok()?;
            Some(File::new(&path, &text))
        })
        .collect()
}

/// Every Rust file below a folder; there is at least one, or the rule would hold of nothing.
fn sources(folder: &str) -> Vec<File> {
    let found: Vec<File> = texts(folder)
        .into_iter()
        .filter(|file| file.path.ends_with(".rs"))
        .collect();
    assert!(!found.is_empty(), "no Rust file below {folder:?}");
    found
}

/// The text of a file at the root that must exist.
fn paper(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn violation(file: &File, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", file.path)
}

/// Fails with the whole list, one violation a line.
fn assert_none(violations: impl IntoIterator<Item = String>) {
    let found: Vec<String> = violations.into_iter().collect();
    assert!(
        found.is_empty(),
        "{} violations:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// Holds a rule against literal files, one a line: the violations wanted, the path, the code.
fn check(rule: fn(&File) -> Vec<String>, cases: &str) {
    for case in cases.lines().map(str::trim).filter(|case| !case.is_empty()) {
        let mut parts = case.splitn(3, ' ');
        let expected = parts
            .next()
            .and_then(|count| count.parse().ok())
            .expect("a count");
        let path = parts.next().expect("a path");
        check_text(rule, path, parts.next().unwrap_or_default(), expected);
    }
}

/// Holds a rule against one literal file, and says how many violations it must find.
fn check_text(rule: fn(&File) -> Vec<String>, path: &str, text: &str, expected: usize) {
    let found = rule(&File::new(path, text));
    assert_eq!(found.len(), expected, "{path}: {text:?} gave {found:?}");
}
