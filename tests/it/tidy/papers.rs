//! What the README, the Makefile and the top of the tree say, held against what is there.
//!
//! The code map is the fenced block under `## Architecture` whose lines begin with `src/`: a
//! path, then what it is. A folder's line stands for its `mod.rs`; files below a second level
//! may be left to their folder's line, but what is named must exist.

use super::{File, assert_none, paper, texts, tree};

/// What may stand at the top of the tree besides files and folders whose name begins with a dot.
const TOP_LEVEL: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "build.rs",
    "clippy.toml",
    "deny.toml",
    "examples",
    "fuzz",
    "helm",
    "proto",
    "rustfmt.toml",
    "src",
    "tests",
];

/// Folders in which people keep their own things; split, or the rule would find itself.
const PEOPLES_FOLDERS: [&str; 3] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
];

/// Paths that only the machine at hand has: people's folders, and where this checkout lies.
fn machine_folders() -> Vec<String> {
    let checkout = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = checkout
        .parent()
        .map(|parent| format!("{}/", parent.display()));
    let folders = PEOPLES_FOLDERS.iter().map(|folder| (*folder).to_owned());
    // A checkout at the top of the disk tells nothing.
    folders
        .chain(beside.filter(|path| path.len() > 2))
        .collect()
}

/// The lines of each fenced block between a heading and the next of its level.
fn fenced_blocks<'a>(readme: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (mut blocks, mut open, mut inside) = (Vec::new(), None, heading.is_empty());
    for line in readme.lines() {
        if line.trim_start().starts_with("```") {
            match open.take() {
                Some(block) if inside => blocks.push(block),
                Some(_) => {}
                None => open = Some(Vec::new()),
            }
        } else if let Some(block) = &mut open {
            block.push(line);
        } else if line.starts_with("## ") && !heading.is_empty() {
            inside = line.trim_end() == heading;
        }
    }
    blocks
}

/// The paths that the code map names, with what it says of each.
fn code_map(readme: &str) -> Vec<(String, String)> {
    let blocks = fenced_blocks(readme, "## Architecture");
    let lines = blocks
        .into_iter()
        .flatten()
        .map(str::trim)
        .filter(|line| line.starts_with("src/"));
    lines
        .map(|line| {
            let (path, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            (
                path.trim_end_matches('/').to_owned(),
                rest.trim().to_owned(),
            )
        })
        .collect()
}

fn code_map_violations(readme: &str, files: &[String]) -> Vec<String> {
    let map = code_map(readme);
    let sources = || {
        files
            .iter()
            .filter(|path| path.starts_with("src/") && path.ends_with(".rs"))
    };
    let mut folders: Vec<&str> = sources()
        .filter_map(|path| Some(path.rsplit_once('/')?.0))
        .collect();
    folders.retain(|folder| *folder != "src");
    folders.sort_unstable();
    folders.dedup();
    let shallow =
        sources().filter(|path| path.matches('/').count() <= 2 && !path.ends_with("/mod.rs"));
    let wanted = folders.iter().copied().chain(shallow.map(String::as_str));
    let named = |path: &str| map.iter().any(|(seen, _)| seen == path);
    let mut found: Vec<String> = wanted
        .filter(|path| !named(path))
        .map(|path| format!("README.md: the code map lacks {path}"))
        .collect();
    for (path, says) in &map {
        if !folders.contains(&path.as_str()) && !files.contains(path) {
            found.push(format!(
                "README.md: the code map names {path}, which is not there"
            ));
        }
        if says.is_empty() {
            found.push(format!("README.md: the code map says nothing of {path}"));
        }
    }
    found
}

fn top_level_violations(files: &[String]) -> Vec<String> {
    let tops = files
        .iter()
        .map(|path| path.split('/').next().unwrap_or(path));
    let strange = tops.filter(|top| !top.starts_with('.') && !TOP_LEVEL.contains(top));
    strange
        .map(|top| format!("{top}: does not belong at the top level"))
        .collect()
}

/// The targets of the Makefile that a person calls: those with a `## ` description.
fn make_targets(makefile: &str) -> Vec<&str> {
    let described = makefile
        .lines()
        .filter(|line| line.contains(": ") && line.contains("## "));
    let names = described
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name);
    names
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .collect()
}

/// The targets that a README calls: `make NAME` in backticks, or on a line of a fenced block.
fn make_calls(readme: &str) -> Vec<&str> {
    let inline = readme.split('`').skip(1).step_by(2);
    let fenced = fenced_blocks(readme, "").into_iter().flatten();
    let commands = inline.chain(fenced).filter_map(|text| {
        let command = text.trim().trim_start_matches("$ ");
        command.strip_prefix("make ")?.split_whitespace().next()
    });
    commands.collect()
}

fn make_violations(readme: &str, makefile: &str) -> Vec<String> {
    let (targets, calls) = (make_targets(makefile), make_calls(readme));
    let silent = targets.iter().filter(|target| !calls.contains(target));
    let unknown = calls.iter().filter(|call| !targets.contains(call));
    silent
        .map(|target| format!("README.md does not mention `make {target}`"))
        .chain(
            unknown.map(|call| format!("README.md calls `make {call}`, which the Makefile lacks")),
        )
        .collect()
}

fn machine_paths(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for path in &machine_folders() {
            // `acme/home/prod` is a resource, not a place on a disk.
            let absolute = |at: usize| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_*-".contains(c))
            };
            if line
                .match_indices(path.as_str())
                .any(|(at, _)| absolute(at))
            {
                found.push(super::violation(
                    file,
                    index + 1,
                    &format!("names {path} of one machine"),
                ));
            }
        }
    }
    found
}

#[test]
fn readme_code_map_is_true() {
    assert_none(code_map_violations(&paper("README.md"), &tree()));
}

#[test]
fn top_level_holds_only_what_convention_puts_there() {
    assert_none(top_level_violations(&tree()));
}

#[test]
fn readme_mentions_every_make_target() {
    assert!(
        !make_targets(&paper("Makefile")).is_empty(),
        "no described target in the Makefile"
    );
    assert_none(make_violations(&paper("README.md"), &paper("Makefile")));
}

#[test]
fn nothing_names_a_path_of_one_machine() {
    assert_none(texts("").iter().flat_map(machine_paths));
}

#[test]
fn an_untrue_code_map_is_found() {
    let check = |map: &str, expected: usize| {
        let paths = [
            "src/lib.rs",
            "src/a/mod.rs",
            "src/a/b.rs",
            "src/a/c/mod.rs",
            "src/a/c/d.rs",
            "README.md",
        ];
        let readme = format!(
            "# X\n\n## Architecture\n\n```text\nmain\n```\n\n```text\n{map}\n```\n\n## Z\n"
        );
        let found = code_map_violations(&readme, &paths.map(str::to_owned));
        assert_eq!(found.len(), expected, "{map:?} gave {found:?}");
    };
    let whole =
        "src/lib.rs  table of contents\nsrc/a/  the a\n  src/a/b.rs  the b\nsrc/a/c/  the c";
    check(whole, 0);
    check(&format!("{whole}\nsrc/a/c/d.rs the d"), 0);
    check("", 4);
    check(&whole.replace("the b", ""), 1);
    check(&whole.replace("src/a/b.rs", "src/a/x.rs"), 2);
    check(&format!("{whole}\nsrc/gone/ was here"), 1);
    assert_eq!(code_map("## Architecture\n\n## Z\n```\nsrc/a x\n```\n"), []);
}

#[test]
fn a_stranger_at_the_top_level_is_found() {
    let check = |path: &str, expected: usize| {
        assert_eq!(
            top_level_violations(&[path.to_owned()]).len(),
            expected,
            "{path}"
        );
    };
    check("src/lib.rs", 0);
    check(".ci/run", 0);
    check("notes.txt", 1);
    check("scripts/a.sh", 1);
}

#[test]
fn a_make_target_without_a_mention_is_found() {
    let makefile =
        ".PHONY: test lint\ntest: tools ## Run all tests\nlint: ## Lint\n$(STAMP): x\nx := a: b\n";
    assert_eq!(make_targets(makefile), ["test", "lint"]);
    let check = |readme: &str, expected: usize| {
        let found = make_violations(readme, makefile);
        assert_eq!(found.len(), expected, "{readme:?} gave {found:?}");
    };
    check("Run `make test`, then:\n\n```sh\nmake lint\n```\n", 0);
    check("Run `make test`, and make lint yourself.", 1);
    check("`make test` `make lint` `make coffee`", 1);
}

#[test]
fn a_machine_path_is_found() {
    let check = |text: &str, expected: usize| {
        assert_eq!(
            machine_paths(&File::new("a.md", text)).len(),
            expected,
            "{text:?}"
        );
    };
    check(concat!("see /ho", "me/somebody/x"), 1);
    check(concat!("acme/ho", "me/prod"), 0);
    check("/home and away", 0);
}
