//! A store that is moved to another: locked, proved while it is read, and marked at the end.
//!
//! Nothing in it is written but the mark beside the database. What is sent is what `transfer`
//! lists: the log's exact bytes, each entry hashed again and its chain followed, then the tables
//! row by row, in chunks, so that memory does not grow with the store.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tokio::sync::mpsc;

use super::fault::Fault;
use super::log;
use super::moved::Moved;
use super::place::{Lock, Place};
use super::witness::Witness;
use super::{OpenError, compare, schema};
use crate::domain::chain::Head;
use crate::store::StoreError;
use crate::store::transfer::{Cell, Chunk, Last, Progress, TABLES, Table};

/// Bytes of rows after which a chunk is sent.
const CHUNK_BYTES: usize = 256 * 1024;
/// What a row costs beside its bytes.
const ROW_BYTES: usize = 64;
/// Rows between two reports of progress.
const PROGRESS_EVERY: u64 = 4_096;

/// A data directory that nobody else uses, read from one end to the other.
pub struct Source {
    place: Place,
    connection: Connection,
    last: Last,
    _lock: Lock,
}

/// Why sending ended before the last row.
enum Ended {
    /// Nobody receives any more.
    Gone,
    Fault(Fault),
}

impl<F: Into<Fault>> From<F> for Ended {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

impl Source {
    /// Takes the directory for this process, and proves that its database is no older copy and
    /// that its pages are whole; [`Source::send`] proves the rest. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]; a store that was moved before is no error, see [`Source::marked`].
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let place = Place::existing(folder)?;
        if !place.database().exists() {
            return Err(OpenError::NoDatabase(place.database()));
        }
        let lock = place.lock()?;
        let failed = |source| OpenError::files(&place.witness(), source);
        let seen = Witness::seen(&place.witness()).map_err(failed)?;
        let connection = schema::open_reader(&place.database())?;
        let fault = |fault: Fault| OpenError::Store(fault.at(seen.revision));
        schema::quick_check(&connection).map_err(fault)?;
        let last = log::last(&connection).map_err(fault)?;
        compare(&connection, &last.head, &seen)?;
        Ok(Self {
            place,
            connection,
            last,
            _lock: lock,
        })
    }

    /// Where its log ends.
    #[must_use]
    pub fn last(&self) -> Last {
        self.last
    }

    /// Refuses a store that was moved, or was being moved to another store than `to`.
    ///
    /// # Errors
    /// [`OpenError::Moved`] or [`OpenError::Moving`].
    pub fn marked(&self, to: &str) -> Result<(), OpenError> {
        match Moved::read(&self.place)? {
            // That one ended without a trace there, or this would not be asked.
            Some(mark) if !mark.done && mark.to == to => Ok(()),
            _ => Moved::refuse(&self.place, false),
        }
    }

    /// Sends every row that `transfer` lists, and verifies the whole log on the way; a failure is
    /// the last that is sent. Blocks.
    pub fn send(
        &self,
        chunks: &mpsc::Sender<Result<Chunk, StoreError>>,
        progress: Option<Progress<'_>>,
    ) {
        let mut sink = Sink {
            chunks,
            progress,
            table: 0,
            rows: Vec::new(),
            bytes: 0,
            done: 0,
            of: 0,
        };
        if let Err(Ended::Fault(fault)) = self.send_all(&mut sink) {
            let error = fault.at(self.last.head.revision);
            drop(chunks.blocking_send(Err(error)));
        }
    }

    fn send_all(&self, sink: &mut Sink<'_>) -> Result<(), Ended> {
        for table in TABLES {
            let sql = format!("-- count_rows\nSELECT count(*) FROM {}", table.name);
            sink.of += self
                .connection
                .query_row(&sql, [], |row| row.get::<_, u64>(0))?;
        }
        for (index, table) in TABLES.iter().enumerate() {
            sink.table = index;
            match table.name {
                "log" => self.send_log(sink, table)?,
                "members" => self.send_each(sink, table, MEMBERS)?,
                name => {
                    let columns = table.columns.iter().map(|(column, _)| *column);
                    let columns = columns.collect::<Vec<_>>().join(", ");
                    let order = if name == "logins" { "number" } else { "1" };
                    let sql =
                        format!("-- send_table\nSELECT {columns} FROM {name} ORDER BY {order}");
                    self.send_each(sink, table, &sql)?;
                }
            }
            sink.flush()?;
        }
        sink.tell();
        Ok(())
    }

    fn send_log(&self, sink: &mut Sink<'_>, table: &Table) -> Result<(), Ended> {
        let mut ended = Ok(());
        let walked = log::walk(&self.connection, Head::EMPTY, |row, entry| {
            let mut cells = Vec::with_capacity(table.columns.len());
            // The log's own columns, with the batch of each entry, which only its body says here.
            for (column, _) in table.columns {
                cells.push(match *column {
                    "batch_id" => Cell::Bytes(entry.batch_id.to_vec()),
                    column => cell(row.get_ref(column)?)?,
                });
            }
            ended = sink.push(cells);
            Ok(ended.is_ok())
        });
        ended?;
        walked?;
        Ok(())
    }

    fn send_each(&self, sink: &mut Sink<'_>, table: &Table, sql: &str) -> Result<(), Ended> {
        let mut select = self.connection.prepare(sql)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let read = |index| cell(row.get_ref(index)?);
            let cells = (0..table.columns.len()).map(read);
            sink.push(cells.collect::<Result<_, Fault>>()?)?;
        }
        Ok(())
    }

    /// Marks the store as being moved: from here on nobody serves it by mistake. To be called
    /// just before the other store commits.
    ///
    /// # Errors
    /// [`OpenError`] when the mark cannot be written.
    pub fn moving(&self, to: &str) -> Result<(), OpenError> {
        self.mark(to, false)
    }

    /// Marks the store as moved, for good.
    ///
    /// # Errors
    /// [`OpenError`] when the mark cannot be written.
    pub fn moved(&self, to: &str) -> Result<(), OpenError> {
        self.mark(to, true)
    }

    /// Takes the mark away: the other store surely has nothing.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be removed.
    pub fn stays(&self) -> Result<(), OpenError> {
        Moved::take_back(&self.place)
    }

    fn mark(&self, to: &str, done: bool) -> Result<(), OpenError> {
        let mark = Moved {
            to: to.to_owned(),
            revision: self.last.head.revision,
            done,
        };
        mark.write(&self.place)
    }
}

/// When and by whom a member was added stands in the log alone.
const MEMBERS: &str = "-- send_members
    SELECT m.team, m.member, m.made_at, coalesce(l.instant_ms, 0), coalesce(l.actor, '')
    FROM members m LEFT JOIN log l ON l.revision = m.made_at ORDER BY m.team, m.member";

fn cell(value: ValueRef<'_>) -> Result<Cell, Fault> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Number(number),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| Fault::Row("text"))?;
            Cell::Text(text.to_owned())
        }
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
        ValueRef::Real(_) => return Err(Fault::Row("number")),
    })
}

struct Sink<'a> {
    chunks: &'a mpsc::Sender<Result<Chunk, StoreError>>,
    progress: Option<Progress<'a>>,
    table: usize,
    rows: Vec<Vec<Cell>>,
    bytes: usize,
    done: u64,
    of: u64,
}

impl Sink<'_> {
    fn push(&mut self, cells: Vec<Cell>) -> Result<(), Ended> {
        let size = |cell: &Cell| match cell {
            Cell::Null | Cell::Number(_) => 0,
            Cell::Text(text) => text.len(),
            Cell::Bytes(bytes) => bytes.len(),
        };
        self.bytes += ROW_BYTES + cells.iter().map(size).sum::<usize>();
        self.rows.push(cells);
        self.done += 1;
        if self.done.is_multiple_of(PROGRESS_EVERY) {
            self.tell();
        }
        match self.bytes < CHUNK_BYTES {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&mut self) -> Result<(), Ended> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let chunk = Chunk {
            table: self.table,
            rows: std::mem::take(&mut self.rows),
        };
        let sent = self.chunks.blocking_send(Ok(chunk));
        sent.map_err(|_| Ended::Gone)
    }

    fn tell(&self) {
        if let Some(progress) = self.progress {
            progress(self.done, self.of);
        }
    }
}
