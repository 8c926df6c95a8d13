//! Everything that the program prints: lines, tables, JSON documents, notices and progress.
//!
//! Results go to standard output, one JSON document or a table for people; all else goes to
//! standard error. A reader that has gone away (`| head`) ends the program quietly. Text of the
//! server is cleaned of control characters before a terminal sees it. No secret is written here
//! except in the answer that created it.

pub(crate) mod access;
pub(crate) mod change;
pub(crate) mod made;
pub(crate) mod meter;
pub(crate) mod record;
pub(crate) mod token;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table};
use jiff::Timestamp;
use serde::Serialize;

use crate::proto::v1;

use super::failure::{CliError, Exit};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document; for what is watched, one a line.
    Json,
}

/// The standard output in one format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    /// An output in `format`.
    #[must_use]
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether JSON is wanted.
    #[must_use]
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints `document` as JSON, or what `text` writes for people.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub(crate) fn show<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce(&mut Page),
    ) -> Result<(), CliError> {
        if self.is_json() {
            return json(document);
        }
        let mut page = Page::default();
        text(&mut page);
        write(&page.text)
    }
}

/// Text for people, built line by line and table by table.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    /// What was added so far.
    #[must_use]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(&clean(line.as_ref()));
        self.text.push('\n');
    }

    /// Adds a table without borders; nothing but a note when it has no rows.
    pub(crate) fn table(&mut self, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let mut table = Table::new();
        table
            .load_style(comfy_table::presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(header.to_vec());
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
        }
        if table.is_empty() {
            self.line("nothing found");
        } else {
            self.rows(&table);
        }
    }

    /// Adds names with their values; what has no value is left out.
    pub(crate) fn fields(&mut self, fields: &[(&str, String)]) {
        let mut table = Table::new();
        table
            .load_style(comfy_table::presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            table.add_row(vec![(*name).to_owned(), clean(value)]);
        }
        self.rows(&table);
    }

    fn rows(&mut self, table: &Table) {
        for line in table.lines() {
            // The first column starts at the edge, and no line ends in blanks.
            let line = line.strip_prefix(' ').unwrap_or(&line);
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }
}

/// Prints one JSON document on one line.
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn json<T: Serialize>(document: &T) -> Result<(), CliError> {
    let mut text = serde_json::to_string(document)
        .map_err(|error| CliError::refused(format!("cannot write the answer: {error}")))?;
    text.push('\n');
    write(&text)
}

/// Prints bytes as they are; flushed, so that a script that waits for a line gets it.
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn write(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::told(Exit::Done),
        _ => CliError::refused(format!("cannot write the answer: {error}")),
    })
}

/// Prints a line on standard error; a closed one is no reason to fail.
pub(crate) fn notice(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", clean(line));
}

/// Asks a question on the terminal; `None` when there is none to ask on.
#[must_use]
pub(crate) fn confirm(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    if asked.is_err() || io::stdin().read_line(&mut answer).is_err() {
        return Some(false);
    }
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// `text` with its control characters replaced, so that it cannot move a cursor or set a title.
#[must_use]
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A revision as `NUMBER-HEX`; empty for none.
#[must_use]
pub(crate) fn revision(revision: Option<&v1::Revision>) -> String {
    let Some(revision) = revision else {
        return String::new();
    };
    match revision.chain.as_slice() {
        [] => revision.number.to_string(),
        chain => format!("{}-{}", revision.number, hex(chain)),
    }
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An instant as RFC 3339 writes it; none for none.
#[must_use]
pub(crate) fn instant(timestamp: Option<&prost_types::Timestamp>) -> Option<String> {
    let timestamp = timestamp?;
    let instant = Timestamp::new(timestamp.seconds, timestamp.nanos).ok()?;
    Some(instant.to_string())
}

/// A duration of the API; none for none, and for a negative one.
#[must_use]
pub(crate) fn duration(duration: Option<&prost_types::Duration>) -> Option<Duration> {
    let duration = duration?;
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok()?;
    Some(Duration::new(seconds, nanos))
}

/// A duration for people, such as `1h 30m`; empty for none.
#[must_use]
pub(crate) fn span(duration: Option<Duration>) -> String {
    duration.map_or_else(String::new, |duration| {
        humantime::format_duration(duration).to_string()
    })
}

/// Labels for people: `a=b, c=d`, in the order of their keys.
pub(crate) fn labels<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let texts: Vec<String> = pairs
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_its_number_and_its_chain() {
        let check = |number, chain: &[u8], expected: &str| {
            let chain = chain.to_vec();
            assert_eq!(revision(Some(&v1::Revision { number, chain })), expected);
        };
        check(12, &[0x9f, 0x2c, 1, 2, 3, 4, 5, 6], "12-9f2c010203040506");
        check(3, &[], "3");
        assert_eq!(revision(None), "");
    }

    #[test]
    fn instants_are_rfc_3339() {
        let timestamp = prost_types::Timestamp {
            seconds: 1_769_860_800,
            nanos: 0,
        };
        assert_eq!(
            instant(Some(&timestamp)).as_deref(),
            Some("2026-01-31T12:00:00Z")
        );
        assert_eq!(instant(None), None);
    }

    #[test]
    fn a_page_has_no_control_characters_and_no_trailing_blanks() {
        let mut page = Page::default();
        page.table(
            &["NAME", "X"],
            [vec!["a\u{1b}[2Jb".to_owned(), "y".to_owned()]],
        );
        page.fields(&[("name", "v".to_owned()), ("absent", String::new())]);
        assert!(!page.text.contains('\u{1b}') && !page.text.contains("absent"));
        assert!(
            page.text.lines().all(|line| line == line.trim()),
            "{}",
            page.text
        );
    }
}
