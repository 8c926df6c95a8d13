//! What the README says of other systems, held against the tests that show it.
//!
//! Every row of its tables under *What you know* links the tests that show it, as
//! ``[`NAME`](PATH)``, or says `not matched:` and why. Every test that is linked is there, and
//! every scene of `tests/it/field` is linked.

use super::{File, assert_none, paper, sources};

const BEGIN: &str = "<!-- known: begin -->";
const END: &str = "<!-- known: end -->";

/// The tables, line by line.
fn tables(readme: &str) -> Vec<&str> {
    let inside = readme
        .split_once(BEGIN)
        .and_then(|(_, rest)| rest.split_once(END));
    let (inside, _) = inside.unwrap_or_default();
    inside
        .lines()
        .filter(|line| line.starts_with("| "))
        .collect()
}

/// The tests that a line links: name and path.
fn links(line: &str) -> Vec<(&str, &str)> {
    let parts = line.split("[`").skip(1);
    let links = parts.filter_map(|part| {
        let (name, rest) = part.split_once("`](")?;
        let (path, _) = rest.split_once(')')?;
        Some((name, path))
    });
    links.collect()
}

/// The scenes of a file: what its `on_each_store!` lists.
fn scenes(text: &str) -> Vec<&str> {
    let listed = text.split("\non_each_store! {").skip(1);
    let listed = listed.filter_map(|rest| rest.split_once('}'));
    listed
        .flat_map(|(names, _)| names.split_whitespace())
        .collect()
}

fn has_test(files: &[File], name: &str, path: &str) -> bool {
    let file = files.iter().find(|file| file.path == path);
    file.is_some_and(|file| file.text.contains(&format!("fn {name}(")))
}

fn violations(readme: &str, files: &[File]) -> Vec<String> {
    let rows = tables(readme);
    let linked: Vec<(&str, &str)> = rows.iter().flat_map(|row| links(row)).collect();
    let mut found = Vec::new();
    for row in &rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let last = cells.last().copied().unwrap_or_default();
        let is_head = last == "Shown by" || row.starts_with("| ---");
        if !is_head
            && (cells.len() != 3 || links(last).is_empty() && !last.starts_with("not matched: "))
        {
            found.push(format!("README.md: neither a test nor a reason: {row}"));
        }
    }
    for (name, path) in &linked {
        if !has_test(files, name, path) {
            found.push(format!("README.md: there is no test {name} in {path}"));
        }
    }
    for file in files
        .iter()
        .filter(|file| file.path.starts_with("tests/it/field/"))
    {
        for scene in scenes(&file.text) {
            if !linked.contains(&(scene, file.path.as_str())) {
                found.push(format!("README.md: nothing links {scene} of {}", file.path));
            }
        }
    }
    found
}

#[test]
fn what_the_readme_knows_of_other_systems_is_shown_by_tests() {
    let rows = tables(&paper("README.md")).len();
    assert!(rows > 20, "only {rows} rows between {BEGIN} and {END}");
    let files: Vec<File> = ["tests", "src"]
        .iter()
        .flat_map(|folder| sources(folder))
        .collect();
    assert_none(violations(&paper("README.md"), &files));
}

#[test]
fn a_row_without_a_test_and_a_scene_without_a_row_are_found() {
    let field = "\non_each_store! {\n    one\n    two\n}\nasync fn one(d: Door) {}\nasync fn two(d: Door) {}\n";
    let files = [
        File::new("tests/it/field/a.rs", field),
        File::new("tests/it/b.rs", "fn three() {}"),
    ];
    let check = |rows: &str, expected: usize| {
        let head = "| You know | Here | Shown by |\n| --- | --- | --- |";
        let readme = format!("x\n{BEGIN}\n{head}\n{rows}\n{END}\n| a | b | c |");
        let found = violations(&readme, &files);
        assert_eq!(found.len(), expected, "{rows} gave {found:?}");
    };
    let one = "| a | b | [`one`](tests/it/field/a.rs) |";
    let two = "| a | b | [`two`](tests/it/field/a.rs), [`three`](tests/it/b.rs) |";
    check(&format!("{one}\n{two}"), 0);
    check(
        &format!("{one}\n{two}\n| a | b | not matched: no need |"),
        0,
    );
    check(one, 1);
    check("", 2);
    check(&format!("{one}\n{two}\n| a | b | |"), 1);
    check(&format!("{one}\n{two}\n| a | b |"), 1);
    check(
        &format!("{one}\n{two}\n| a | b | [`four`](tests/it/b.rs) |"),
        1,
    );
    check(
        &format!("{one}\n{two}\n| a | b | [`one`](tests/it/c.rs) |"),
        1,
    );
}
