//! Compare-and-append: one message to the database, one answer, no lock in between.
//!
//! ```text
//!  BEGIN; SET LOCAL …; SELECT … latchkey.append(…); COMMIT; SELECT … latchkey.missed(…)
//! ```
//!
//! One message of the simple protocol: the database starts when all of it has arrived and takes
//! the lock and gives it back without hearing from us again; what a refusal missed is sent after
//! the commit, so a reader that has stopped reading holds nobody up. How far the answers came
//! tells what is known: an error of the server before the commit's own answer wrote nothing; a
//! connection lost, a warning (a wait for a standby was cancelled) or a deadline tells nothing.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::connect::Connection;
use super::fault::{self, Fault};
use super::line::Line;
use super::operations::{Operations, operations};
use super::settings::Settings;
use super::{literal, records};
use crate::domain::chain::Head;
use crate::domain::clock::UnixMs;
use crate::domain::entry::LogEntry;
use crate::store::follow::follow;
use crate::store::{Appended, Batch, StoreError};

/// Most entries that a refusal brings along.
const MISSED_MAX: usize = 1_000;
/// Bytes of entries after which a refusal brings no more.
const MISSED_BYTES: usize = 1024 * 1024;
/// How often a serialization failure or a deadlock is tried again.
const RETRIES_MAX: usize = 3;
/// How long the turn is that a refused replica has, and how often it doubles. A slow machine needs
/// longer to decide again; a turn ends with its append, so only one that stands still costs others.
const TURN_MS: u64 = 20;
const TURN_DOUBLES_MAX: u32 = 3;
/// After so long without a refusal the earlier ones say nothing any more.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(5);
/// Statements of the message up to and with the commit.
const STATEMENTS_COMMITTED: usize = 5;
/// The outcome of a batch that is written.
const COMMITTED: &str = "committed";

/// Who appends, and within what time.
pub(super) struct Appender {
    line: Line,
    /// Of this store, for turns.
    owner: [u8; 16],
    // Locked for a few instructions, across no await.
    refusals: Mutex<Refusals>,
    statement_timeout: Duration,
    lock_timeout: Duration,
}

/// How often a batch was refused since the last one that was written, and when the last time was.
#[derive(Default)]
struct Refusals {
    count: u32,
    last: Option<Instant>,
}

/// What one message came to.
struct Answer {
    /// Whether the commit was acknowledged.
    committed: bool,
    outcome: String,
    revision: u64,
    crowded: bool,
    missed: Vec<Missed>,
    /// What follows the commit failed: the connection is worth nothing more.
    broken: bool,
}

struct Missed {
    revision: u64,
    chain: [u8; 32],
    body: Vec<u8>,
}

/// Why there is no answer, and what may be done about it.
enum Failed {
    /// The server rolled back: a lasting or a passing reason, nothing is written.
    RolledBack(tokio_postgres::Error),
    /// Nothing was sent.
    Unsent(StoreError),
    /// Anything may have happened.
    Unknown(String),
    /// An answer that no version of the functions gives.
    Odd(Fault),
}

impl Appender {
    pub(super) fn new(line: Line, owner: [u8; 16], settings: &Settings) -> Self {
        Self {
            line,
            owner,
            refusals: Mutex::default(),
            statement_timeout: settings.statement_timeout,
            lock_timeout: settings.lock_timeout,
        }
    }

    /// Appends a batch if the head is its base.
    pub(super) async fn append(&self, batch: &Batch) -> Result<Appended, StoreError> {
        let operations = operations(&batch.entries)?;
        let verbs = operations.iter().map(|one| literal::text(one.verb));
        let verbs = verbs.collect::<Vec<_>>().join(",");
        let message = self.message(batch, &operations, &verbs)?;
        let appended = self.carried(batch, &message).await;
        match appended {
            // What only compares, as settling does, took no time to decide.
            _ if batch.entries.is_empty() => {}
            Ok(Appended::Committed) => self.refusals(|refusals| *refusals = Refusals::default()),
            Ok(Appended::Conflict(_)) => self.refusals(|refusals| refusals.add(Instant::now())),
            Err(_) => {}
        }
        appended
    }

    fn refusals<T>(&self, with: impl FnOnce(&mut Refusals) -> T) -> T {
        let refusals = self.refusals.lock();
        with(&mut refusals.unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives a batch up if the head is its base.
    pub(super) async fn void(&self, batch: &Batch) -> Result<Appended, StoreError> {
        let nothing = Batch {
            entries: Vec::new(),
            ..batch.clone()
        };
        let message = self.message(&nothing, &operations(&[])?, "'void'")?;
        self.carried(&nothing, &message).await
    }

    async fn carried(&self, batch: &Batch, message: &str) -> Result<Appended, StoreError> {
        let patience_ends = Instant::now() + self.statement_timeout;
        let mut retries = 0;
        let mut made_room = false;
        loop {
            match self.send(message).await {
                Ok(answer) if answer.outcome == "turn" => {
                    // The others' turns end by themselves, but so does patience.
                    if Instant::now() >= patience_ends {
                        let what = "it is another replica's turn to append".to_owned();
                        return Err(StoreError::Unavailable(what));
                    }
                }
                Ok(answer) => return self.settle(batch, answer).await,
                Err(Failed::RolledBack(error)) => {
                    if fault::is_retried(&error) && retries < RETRIES_MAX {
                        retries += 1;
                    } else if fault::is_out_of_room(&error) && !made_room {
                        made_room = true;
                        self.make_room(batch).await?;
                    } else {
                        return Err(Fault::from(error).at(batch.base.revision + 1));
                    }
                }
                Err(Failed::Unsent(error)) => return Err(error),
                Err(Failed::Unknown(why)) => return Err(StoreError::OutcomeUnknown(why)),
                Err(Failed::Odd(fault)) => return Err(fault.at(batch.base.revision)),
            }
        }
    }

    /// Gives the connection up.
    pub(super) fn close(&self) {
        self.line.close();
    }

    fn message(
        &self,
        batch: &Batch,
        operations: &Operations,
        verbs: &str,
    ) -> Result<String, StoreError> {
        let (entries, last) = log_rows(batch, operations)?;
        let rows = operations.iter().map(|one| literal::text(&one.json()));
        let base = batch.base.revision;
        let batch_id = literal::bytes(&batch.id);
        Ok(format!(
            "-- append
            BEGIN ISOLATION LEVEL READ COMMITTED;
            SET LOCAL lock_timeout = {lock};
            SET LOCAL statement_timeout = {limit};
            SELECT outcome, revision, crowded FROM latchkey.append({owner}, {batch_id}, {base},
              {chain}, {entries}, ARRAY[{verbs}]::text[], ARRAY[{rows}]::json[], {last}, {turn});
            COMMIT;
            SELECT revision, chain, body
            FROM latchkey.missed({base}, {MISSED_MAX}, {MISSED_BYTES})",
            lock = self.lock_timeout.as_millis(),
            limit = self.statement_timeout.as_millis(),
            owner = literal::bytes(&self.owner),
            chain = literal::bytes(&batch.base.chain),
            rows = rows.collect::<Vec<_>>().join(","),
            turn = self.refusals(|refusals| refusals.turn_ms(Instant::now())),
        ))
    }

    async fn send(&self, message: &str) -> Result<Answer, Failed> {
        let connection = self.line.connection(self.statement_timeout).await;
        let connection = connection.map_err(Failed::Unsent)?;
        // Beyond the server's own limit, which leaves no doubt.
        let deadline = Instant::now() + self.statement_timeout * 2;
        let warnings = connection.warnings();
        let answered = timeout_at(deadline, ask(&connection, message)).await;
        let answer = match answered {
            Ok(Ok(answer)) => {
                if answer.broken {
                    self.line.discard(&connection);
                }
                answer
            }
            Ok(Err(failed)) => {
                self.recover(&connection, &failed).await;
                return Err(failed);
            }
            Err(_) => {
                self.line.discard(&connection);
                let why = "the database did not answer in time".to_owned();
                return Err(Failed::Unknown(why));
            }
        };
        if connection.warnings() != warnings && answer.outcome == COMMITTED {
            let why = "the database warned about the commit".to_owned();
            return Err(Failed::Unknown(why));
        }
        Ok(answer)
    }

    /// Brings the connection out of the transaction that failed in it, or gives it up.
    async fn recover(&self, connection: &Arc<Connection>, failed: &Failed) {
        if let Failed::RolledBack(error) = failed
            && fault::is_read_only(error)
        {
            self.line.takes_no_writes();
        }
        let usable = match failed {
            Failed::RolledBack(error) if !fault::loses_server(error) => {
                let rollback = connection.client.batch_execute("-- append\nROLLBACK");
                let deadline = Instant::now() + self.statement_timeout;
                matches!(timeout_at(deadline, rollback).await, Ok(Ok(())))
            }
            _ => false,
        };
        if !usable {
            self.line.discard(connection);
        }
    }

    async fn settle(&self, batch: &Batch, answer: Answer) -> Result<Appended, StoreError> {
        let base = &batch.base;
        match answer.outcome.as_str() {
            COMMITTED => {
                if answer.crowded
                    && let Err(error) = self.extend(answer.revision).await
                {
                    // There is room yet; the next append asks again.
                    tracing::warn!(%error, "the log's next partition could not be made");
                }
                Ok(Appended::Committed)
            }
            "moved" => Ok(Appended::Conflict(read_missed(base, answer.missed)?)),
            "diverged" => Err(StoreError::Damaged {
                revision: base.revision.min(answer.revision),
                what: "the base is not in this log's history".to_owned(),
            }),
            "voided" => Err(StoreError::Unavailable("the batch was given up".to_owned())),
            _ => Err(Fault::Row("outcome").at(base.revision)),
        }
    }

    async fn make_room(&self, batch: &Batch) -> Result<(), StoreError> {
        let count = u64::try_from(batch.entries.len()).unwrap_or(u64::MAX);
        self.extend(batch.base.revision.saturating_add(count)).await
    }

    /// Makes the partitions that the log needs up to a revision.
    async fn extend(&self, revision: u64) -> Result<(), StoreError> {
        let connection = self.line.connection(self.statement_timeout).await?;
        let sql = format!(
            "-- extend_log
            BEGIN ISOLATION LEVEL READ COMMITTED; SELECT latchkey.extend_log({revision}); COMMIT"
        );
        let made = connection.client.simple_query(&sql);
        let made = match timeout_at(Instant::now() + self.statement_timeout, made).await {
            Ok(made) => made.map_err(|error| Fault::from(error).at(revision)),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        };
        if made.is_err() {
            self.line.discard(&connection);
        }
        made.map(drop)
    }
}

impl Refusals {
    fn count(&self, now: Instant) -> u32 {
        match self.last {
            Some(last) if now.saturating_duration_since(last) < REFUSAL_TIME_MAX => self.count,
            _ => 0,
        }
    }

    fn add(&mut self, now: Instant) {
        self.count = self.count(now).saturating_add(1);
        self.last = Some(now);
    }

    /// The turn that is asked for: the first refusal may have been another's luck.
    fn turn_ms(&self, now: Instant) -> u64 {
        TURN_MS << (self.count(now) / 2).min(TURN_DOUBLES_MAX)
    }
}

/// The rows of the log and the head after them; both NULL for an empty batch.
fn log_rows(batch: &Batch, operations: &Operations) -> Result<(String, String), StoreError> {
    let mut rows = Vec::with_capacity(batch.entries.len());
    let mut head = batch.base;
    for logged in &batch.entries {
        let body_hash: [u8; 32] = Sha256::digest(&logged.body).into();
        head = head.after_hash(&body_hash);
        if head != logged.head || logged.entry.revision != head.revision {
            let what = "its entries do not continue its base";
            return Err(StoreError::Refused(what.to_owned()));
        }
        rows.push(records::log(logged, &body_hash)?);
    }
    let Some(last) = batch.entries.last().map(|last| &last.entry) else {
        return Ok(("NULL".to_owned(), "NULL".to_owned()));
    };
    let instant_ms: UnixMs = last.instant_ms;
    let last = serde_json::json!({
        "revision": records::stored(head.revision)?,
        "chain": records::hex(&head.chain),
        "instant_ms": records::stored(instant_ms)?,
        "state_digest": last.state_digest.map(|digest| records::hex(&digest)),
        "principal_max": operations.principal_max,
        "grant_max": operations.grant_max,
    });
    let refused = |_| StoreError::Refused("a row is no JSON".to_owned());
    let rows = serde_json::to_string(&rows).map_err(refused)?;
    Ok((literal::text(&rows), literal::text(&last.to_string())))
}

async fn ask(connection: &Connection, message: &str) -> Result<Answer, Failed> {
    if connection.client.is_closed() {
        let what = "the connection to the database was lost".to_owned();
        return Err(Failed::Unsent(StoreError::Unavailable(what)));
    }
    let mut answer = Answer {
        committed: false,
        outcome: String::new(),
        revision: 0,
        crowded: false,
        missed: Vec::new(),
        broken: false,
    };
    let sent = connection.client.simple_query_raw(message).await;
    let mut messages = pin!(sent.map_err(|error| failed(error, &answer))?);
    let mut statements = 0;
    while let Some(message) = messages.next().await {
        let message = match message {
            Ok(message) => message,
            // What was acknowledged stands, whatever becomes of what follows it.
            Err(_) if answer.committed && answer.outcome == COMMITTED => {
                answer.broken = true;
                break;
            }
            Err(error) => return Err(failed(error, &answer)),
        };
        match message {
            SimpleQueryMessage::Row(row) if statements < STATEMENTS_COMMITTED => {
                answer.read_outcome(&row).map_err(Failed::Odd)?;
            }
            SimpleQueryMessage::Row(row) => {
                answer.missed.push(missed(&row).map_err(Failed::Odd)?);
            }
            SimpleQueryMessage::CommandComplete(_) => {
                statements += 1;
                answer.committed = statements >= STATEMENTS_COMMITTED;
            }
            _ => {}
        }
    }
    Ok(answer)
}

/// What an error means, by how far the answers had come.
fn failed(error: tokio_postgres::Error, answer: &Answer) -> Failed {
    if answer.committed || fault::is_rolled_back(&error) {
        // Nothing was to be written, or nothing is left of it.
        return Failed::RolledBack(error);
    }
    Failed::Unknown(match error.code() {
        Some(code) => format!(
            "the database ended the connection (SQLSTATE {})",
            code.code()
        ),
        None => format!("the connection to the database was lost: {error}"),
    })
}

impl Answer {
    fn read_outcome(&mut self, row: &SimpleQueryRow) -> Result<(), Fault> {
        self.outcome = text(row, 0)?.to_owned();
        self.revision = text(row, 1)?.parse().map_err(|_| Fault::Row("revision"))?;
        self.crowded = row.get(2) == Some("t");
        Ok(())
    }
}

fn missed(row: &SimpleQueryRow) -> Result<Missed, Fault> {
    let bytes = |index| literal::parse_hex(text(row, index)?).ok_or(Fault::Row("log entry"));
    Ok(Missed {
        revision: text(row, 0)?.parse().map_err(|_| Fault::Row("revision"))?,
        chain: bytes(1)?.try_into().map_err(|_| Fault::Row("chain hash"))?,
        body: bytes(2)?,
    })
}

fn text(row: &SimpleQueryRow, index: usize) -> Result<&str, Fault> {
    row.get(index).ok_or(Fault::Row("answer"))
}

/// The entries after a base that is no longer the head, the first of them if they are many.
fn read_missed(base: &Head, missed: Vec<Missed>) -> Result<Vec<LogEntry>, StoreError> {
    let mut head = *base;
    let mut entries = Vec::with_capacity(missed.len());
    for one in missed {
        let entry = follow(&mut head, one.revision, &one.body, &one.chain)?;
        entries.push(LogEntry {
            entry,
            body: one.body,
            head,
        });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_gets_longer_with_refusals_but_not_without_end() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        let mut turns = vec![refusals.turn_ms(now)];
        for _ in 0..9 {
            refusals.add(now);
            turns.push(refusals.turn_ms(now));
        }
        assert_eq!(turns, [20, 20, 40, 40, 80, 80, 160, 160, 160, 160]);
    }

    #[test]
    fn refusals_of_long_ago_make_no_turn_longer() {
        let then = Instant::now();
        let mut refusals = Refusals::default();
        for _ in 0..9 {
            refusals.add(then);
        }
        let soon = then + REFUSAL_TIME_MAX / 2;
        assert_eq!(refusals.turn_ms(soon), 160);
        let late = then + REFUSAL_TIME_MAX;
        assert_eq!(refusals.turn_ms(late), 20);
        refusals.add(late);
        assert_eq!(refusals.turn_ms(late), 20, "the first again");
    }
}
