//! Exports read back as what was written, and nothing else is taken for one.
//!
//! Every line is broken in turn: taken away, repeated, exchanged, changed.

use super::*;
use crate::domain::change::{Change, CutOffTarget};
use crate::domain::entry::{Actor, EntryKind};
use crate::domain::principal::PrincipalId;

/// Entries behind a head.
fn entries(mut head: Head, count: u64) -> Vec<LogEntry> {
    let next = |_| {
        let entry = Entry {
            revision: head.revision + 1,
            instant_ms: 1_700_000_000_000 + head.revision,
            actor: Actor {
                principal: None,
                token: None,
                name: "local".to_owned(),
            },
            kind: EntryKind::TokenRevokeAll,
            target: "user:alice".to_owned(),
            reason: "two\nlines".to_owned(),
            batch_id: [7; 16],
            request: None,
            state_digest: None,
            change: Change::CutOff(CutOffTarget::Subject(PrincipalId(1))),
        };
        let logged = LogEntry::new(entry, &head);
        head = logged.head;
        logged
    };
    (0..count).map(next).collect()
}

fn export(after: Head, entries: &[LogEntry]) -> (Exported, Vec<u8>) {
    let mut export = Export::begin(Vec::new(), after).expect("memory");
    export.add(entries).expect("memory");
    export.end().expect("memory")
}

fn lines(text: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(text).expect("text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn an_export_verifies_and_says_what_it_holds() {
    let log = entries(Head::EMPTY, 9);
    for (after, part) in [
        (Head::EMPTY, &log[..]),
        (log[2].head, &log[3..7]),
        (log[4].head, &[]),
    ] {
        let (exported, text) = export(after, part);
        let until = part.last().map_or(after, |last| last.head);
        assert_eq!(exported, Exported { after, until });
        assert_eq!(verify(&*text).expect("whole"), exported);
    }
}

/// The line where an edited export is found to be wrong.
fn wrong_at(edit: impl FnOnce(&mut Vec<String>)) -> u64 {
    let (_, text) = export(Head::EMPTY, &entries(Head::EMPTY, 4));
    let mut lines = lines(&text);
    edit(&mut lines);
    let text = lines.join("\n");
    match verify(text.as_bytes()) {
        Err(ExportError::Line { line, .. }) => line,
        other => panic!("{other:?}: {text}"),
    }
}

#[test]
fn an_export_that_is_not_whole_or_was_changed_is_refused() {
    let check = |edit: &dyn Fn(&mut Vec<String>), expected| {
        assert_eq!(wrong_at(|lines| edit(lines)), expected);
    };
    // One, four entries, one.
    check(&|lines| lines.truncate(0), 1);
    check(&|lines| lines.truncate(5), 6);
    check(&|lines| drop(lines.remove(0)), 1);
    check(&|lines| drop(lines.remove(2)), 3);
    check(&|lines| drop(lines.remove(4)), 5);
    check(&|lines| lines.insert(3, lines[2].clone()), 4);
    check(&|lines| lines.swap(2, 3), 3);
    check(&|lines| lines.push(String::new() + "{}"), 7);
    check(
        &|lines| lines[0] = lines[0].replace("\"version\":1", "\"version\":2"),
        1,
    );
    check(
        &|lines| lines[2] = lines[2].replace("user:alice", "user:eve"),
        3,
    );
    check(
        &|lines| lines[2] = lines[2].replace("revoke_all", "revoke"),
        3,
    );
    check(&|lines| lines[3].truncate(40), 4);
    check(
        &|lines| lines[5] = lines[5].replace("\"entries\":4", "\"entries\":5"),
        6,
    );
}

#[test]
fn a_changed_body_is_found_also_when_its_text_agrees() {
    let (_, text) = export(Head::EMPTY, &entries(Head::EMPTY, 2));
    let text = String::from_utf8(text).expect("text");
    // The name in the body, as digits.
    let changed = text.replacen(&hex(b"alice"), &hex(b"mallo"), 1);
    let changed = changed.replacen("user:alice", "user:mallo", 1);
    assert_ne!(changed, text);
    let Err(ExportError::Line { line: 2, what }) = verify(changed.as_bytes()) else {
        panic!("taken");
    };
    assert!(what.contains("changed"), "{what}");
}

#[test]
fn another_history_after_the_same_revision_is_another_export() {
    let log = entries(Head::EMPTY, 3);
    let elsewhere = Head {
        chain: [9; 32],
        ..log[0].head
    };
    let (_, text) = export(elsewhere, &log[1..]);
    let refused = verify(&*text);
    assert!(
        matches!(refused, Err(ExportError::Line { line: 2, .. })),
        "{refused:?}"
    );
}
