//! What every Rust file keeps to: size, header, names, and the words that never appear.
//!
//! Rules about `src` only hold for what ships there, not for its unit tests, unless they say so.
//! Exceptions stand in a table here with their reason, and a test fails on one that is no longer
//! needed.

use super::scan::{functions, lines_with};
use super::{File, assert_none, check, check_text, sources, violation};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const HEADER_LINES_MIN: usize = 3;
const HEADER_LINES_MAX: usize = 15;
/// Up to this many lines a file may say all there is to say in one sentence.
const SHORT_FILE_LINES: usize = 60;

const NAMES_FORBIDDEN: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "types", "manager", "misc",
];

/// Tests that may sleep: file, how often, and why the sleep is not a synchronisation.
const SLEEPS_ALLOWED: &[(&str, usize, &str)] = &[
    ("tests/it/outage.rs", 2, "virtual time passes by it"),
    (
        "tests/it/outage/line.rs",
        2,
        "a call hangs, in virtual time",
    ),
    ("tests/it/logins/flood.rs", 1, "virtual time passes by it"),
    ("tests/it/faults/disturb.rs", 1, "a fault lasts for a time"),
    ("tests/it/proxy.rs", 2, "a slow network is what it makes"),
];

fn file_length(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    let say = || {
        violation(
            file,
            lines,
            &format!("{lines} lines, {FILE_LINES_MAX} at most"),
        )
    };
    (lines > FILE_LINES_MAX).then(say).into_iter().collect()
}

fn header(file: &File) -> Vec<String> {
    let header = file
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .count();
    let short = file.text.lines().count() <= SHORT_FILE_LINES;
    let min = if short { 1 } else { HEADER_LINES_MIN };
    let say = || {
        let wanted = format!("wants {min} to {HEADER_LINES_MAX}");
        violation(
            file,
            1,
            &format!("a `//!` header of {header} lines, {wanted}"),
        )
    };
    (!(min..=HEADER_LINES_MAX).contains(&header))
        .then(say)
        .into_iter()
        .collect()
}

fn function_length(file: &File) -> Vec<String> {
    let all = [&file.ships, &file.tests]
        .into_iter()
        .flat_map(|code| functions(code));
    all.filter(|function| function.body_lines > FUNCTION_LINES_MAX)
        .map(|function| {
            let what = format!("`{}` has {} lines", function.name, function.body_lines);
            violation(
                file,
                function.line,
                &format!("{what}, {FUNCTION_LINES_MAX} at most"),
            )
        })
        .collect()
}

fn folder_depth(file: &File) -> Vec<String> {
    // `src/one/two/file.rs` has three slashes.
    let deep = file.path.matches('/').count() > 3;
    deep.then(|| violation(file, 1, "more than two levels of folders"))
        .into_iter()
        .collect()
}

fn forbidden_names(file: &File) -> Vec<String> {
    let folders = file
        .path
        .rsplit_once('/')
        .map_or("", |(folders, _)| folders);
    folders
        .split('/')
        .chain([file.stem()])
        .filter(|name| NAMES_FORBIDDEN.contains(name))
        .map(|name| {
            violation(
                file,
                1,
                &format!("`{name}` says nothing about what is inside"),
            )
        })
        .collect()
}

/// Words that never stand in any Rust file, wherever they are.
fn forbidden_words(file: &File) -> Vec<String> {
    let code = [&file.ships, &file.tests];
    let mut found = Vec::new();
    for word in ["dbg!", "todo!", "unimplemented!", "#[ignore", "unsafe"] {
        let lines = code.into_iter().flat_map(|code| lines_with(code, word));
        found.extend(lines.map(|line| violation(file, line, &format!("`{word}`"))));
    }
    // Split, or the rule would find itself.
    for word in [concat!("TO", "DO"), concat!("FIX", "ME")] {
        let lines = lines_with(&file.text, word).into_iter();
        found.extend(lines.map(|line| violation(file, line, &format!("`{word}`: file an issue"))));
    }
    found
}

fn unwraps(file: &File) -> Vec<String> {
    let lines = lines_with(&file.ships, ".unwrap()").into_iter();
    lines
        .map(|line| violation(file, line, "`.unwrap()`: say why it holds with `expect`"))
        .collect()
}

/// `get_` is left to names that gRPC fixes.
fn getters(file: &File) -> Vec<String> {
    if file.path.starts_with("src/rpc") || file.path.starts_with("src/client") {
        return Vec::new();
    }
    let named = functions(&file.ships)
        .into_iter()
        .filter(|function| function.name.starts_with("get_"));
    named
        .map(|function| violation(file, function.line, &format!("`{}`", function.name)))
        .collect()
}

/// How often the file's tests sleep.
fn sleeps(file: &File) -> Vec<String> {
    let mut lines = lines_with(&file.tests, "sleep(");
    lines.extend(lines_with(&file.tests, "sleep_ms("));
    lines.extend(lines_with(&file.tests, "sleep_until("));
    lines
        .into_iter()
        .map(|line| violation(file, line, "a test sleeps: wait for what it waits for"))
        .collect()
}

fn sleeps_beyond(file: &File, allowed: &[(&str, usize, &str)]) -> Vec<String> {
    let mut found = sleeps(file);
    let entry = allowed.iter().find(|(path, ..)| *path == file.path);
    let count = entry.map_or(0, |(_, count, _)| *count);
    if found.len() < count {
        return vec![violation(
            file,
            1,
            &format!("{count} sleeps allowed, {} found", found.len()),
        )];
    }
    if found.len() == count {
        found.clear();
    }
    found
}

/// A file below `folder` that no `mod` names is never compiled, and its tests never run.
fn undeclared(files: &[File], roots: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files
        .iter()
        .filter(|file| !roots.contains(&file.path.as_str()))
    {
        let Some((folder, _)) = file.path.rsplit_once('/') else {
            continue;
        };
        let (name, folder) = match folder.rsplit_once('/') {
            Some((above, name)) if file.stem() == "mod" => (name, above),
            _ => (file.stem(), folder),
        };
        let parents = [format!("{folder}/mod.rs"), format!("{folder}.rs")];
        let is_parent = |other: &&File| {
            let root = roots.iter().any(|root| {
                **root == other.path && root.rsplit_once('/').is_some_and(|(at, _)| at == folder)
            });
            root || parents.contains(&other.path)
        };
        let declares = |parent: &File| {
            let mark = format!("mod {name};");
            [&parent.ships, &parent.tests]
                .into_iter()
                .any(|code| !lines_with(code, &mark).is_empty())
        };
        // `#[path]` names a file beside the one that it stands in; the scanner blanks strings.
        let mark = format!("#[path = \"{name}.rs\"]");
        let beside = |other: &File| {
            let at = other.path.rsplit_once('/').map(|(at, _)| at);
            at == Some(folder) && other.text.contains(&mark)
        };
        if !files.iter().filter(is_parent).any(declares) && !files.iter().any(beside) {
            found.push(violation(file, 1, "no `mod` names this file"));
        }
    }
    found
}

fn everywhere() -> Vec<File> {
    sources("")
}

fn src_and_tests() -> Vec<File> {
    let mut files = sources("src");
    files.extend(sources("tests"));
    files
}

#[test]
fn files_are_at_most_600_lines() {
    assert_none(everywhere().iter().flat_map(file_length));
}

#[test]
fn files_begin_with_a_header_of_3_to_15_lines() {
    assert_none(everywhere().iter().flat_map(header));
}

#[test]
fn functions_are_at_most_70_lines() {
    assert_none(everywhere().iter().flat_map(function_length));
}

#[test]
fn src_has_at_most_two_levels_of_folders() {
    assert_none(sources("src").iter().flat_map(folder_depth));
}

#[test]
fn no_file_or_folder_is_named_after_nothing() {
    assert_none(src_and_tests().iter().flat_map(forbidden_names));
}

#[test]
fn no_debris_no_ignored_test_no_unsafe() {
    assert_none(everywhere().iter().flat_map(forbidden_words));
}

#[test]
fn nothing_that_ships_unwraps() {
    assert_none(sources("src").iter().flat_map(unwraps));
}

#[test]
fn nothing_but_grpc_names_begins_with_get() {
    assert_none(sources("src").iter().flat_map(getters));
}

#[test]
fn no_test_sleeps_as_synchronisation() {
    assert_none(
        src_and_tests()
            .iter()
            .flat_map(|file| sleeps_beyond(file, SLEEPS_ALLOWED)),
    );
    for (path, _, reason) in SLEEPS_ALLOWED {
        assert!(
            src_and_tests().iter().any(|file| file.path == *path),
            "{path} is gone ({reason})"
        );
    }
}

#[test]
fn every_file_is_compiled() {
    assert_none(undeclared(&sources("src"), &["src/lib.rs", "src/main.rs"]));
    assert_none(undeclared(&sources("tests"), &["tests/it/main.rs"]));
}

#[test]
fn sizes_beyond_the_limits_are_found() {
    check_text(file_length, "src/a.rs", &"\n".repeat(600), 0);
    check_text(file_length, "src/a.rs", &"\n".repeat(601), 1);
    check(
        header,
        r#"
        0 src/a.rs //! One.
        1 src/a.rs use a;
    "#,
    );
    check_text(
        header,
        "src/a.rs",
        &format!("//! One.\n{}", "x\n".repeat(60)),
        1,
    );
    check_text(
        header,
        "src/a.rs",
        &format!("//! One.\n//!\n//! Two.\n{}", "x\n".repeat(60)),
        0,
    );
    check_text(header, "src/a.rs", &"//! x\n".repeat(16), 1);
    check_text(
        function_length,
        "src/a.rs",
        &format!("fn a() {{\n{}}}", "x;\n".repeat(70)),
        0,
    );
    check_text(
        function_length,
        "src/a.rs",
        &format!("fn a() {{\n{}}}", "x;\n".repeat(71)),
        1,
    );
    check_text(
        function_length,
        "tests/a.rs",
        &format!("fn a() {{\n{}}}", "x;\n".repeat(71)),
        1,
    );
    check(
        folder_depth,
        r#"
        0 src/a/b/c.rs
        1 src/a/b/c/d.rs
    "#,
    );
}

#[test]
fn names_that_say_nothing_are_found() {
    check(
        forbidden_names,
        r#"
        1 src/utils.rs
        1 src/common/mod.rs
        1 tests/it/helpers.rs
        0 src/domain/token.rs
    "#,
    );
    check(
        getters,
        r#"
        1 src/state/a.rs fn get_x() {}
        0 src/rpc/tokens.rs async fn get_token() {}
    "#,
    );
}

#[test]
fn words_that_never_stand_are_found() {
    check_text(
        forbidden_words,
        "src/a.rs",
        concat!("// TO", "DO: later"),
        1,
    );
    check(
        forbidden_words,
        r#"
        3 tests/a.rs #[ignore = "slow"] fn a() { dbg!(x); todo!() }
        1 src/a.rs #[cfg(test)] mod tests { fn a() { unsafe { x } } }
        0 src/a.rs #![forbid(unsafe_code)] // unsafe is in a comment
    "#,
    );
    check(
        unwraps,
        r#"
        1 src/a.rs fn a() { b.unwrap() }
        0 src/a.rs #[cfg(test)] mod tests { fn a() { b.unwrap() } }
        0 src/a/tests.rs fn a() { b.unwrap() }
    "#,
    );
}

#[test]
fn a_sleeping_test_is_found() {
    let asleep = "async fn a() { tokio::time::sleep(x).await }";
    check_text(sleeps, "tests/it/a.rs", asleep, 1);
    check_text(sleeps, "src/a.rs", asleep, 0);
    check_text(
        sleeps,
        "src/a.rs",
        &format!("#[cfg(test)]\nmod tests {{ {asleep} }}"),
        1,
    );
    check(
        sleeps,
        r#"
        1 tests/it/a.rs fn a() { std::thread::sleep(x) }
    "#,
    );
    let beyond = |count| {
        sleeps_beyond(
            &File::new("tests/it/a.rs", asleep),
            &[("tests/it/a.rs", count, "")],
        )
    };
    assert!(beyond(0).len() == 1 && beyond(1).is_empty() && beyond(2).len() == 1);
}

#[test]
fn a_file_that_no_mod_names_is_found() {
    let files = |lib: &str| {
        let texts = [
            ("src/lib.rs", lib),
            ("src/a/mod.rs", "mod b;"),
            ("src/a/b.rs", ""),
            ("src/c.rs", ""),
        ];
        texts.map(|(path, text)| File::new(path, text))
    };
    assert!(undeclared(&files("pub mod a; mod c;"), &["src/lib.rs"]).is_empty());
    assert_eq!(undeclared(&files("pub mod a;"), &["src/lib.rs"]).len(), 1);
    assert_eq!(
        undeclared(&files("mod c; // mod a;"), &["src/lib.rs"]).len(),
        1
    );
}
