//! Members as rows: joining, renewing, reporting, and who is there.
//!
//! Each call is one message of the simple protocol on a line of its own, so that it neither waits
//! for a pool nor holds a row's lock for bytes still under way, and has a deadline. Renewals and
//! reports do not wait for each other: the heartbeat has one line, the barrier another.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::fault::{self, Fault};
use super::line::Line;
use super::literal;
use crate::domain::chain::Head;
use crate::store::StoreError;
use crate::store::cluster::{History, Incarnation, Joining, Member, Renewal, Renewed, Roster};

/// The two lines, and within what time each call must have its answer.
pub(super) struct Members {
    pub(super) heartbeat: Line,
    pub(super) barrier: Line,
    pub(super) limit: Duration,
}

impl Members {
    pub(super) async fn join(&self, joining: &Joining) -> Result<u64, StoreError> {
        let sql = format!(
            "SELECT latchkey.join_cluster({}, {}, {}, {}, {}, {}, {})",
            literal::bytes(&joining.incarnation.0),
            literal::text(&joining.name),
            literal::text(&joining.address),
            joining.lease_ms,
            joining.format_max,
            joining.serves_stale,
            key_ids(&joining.keys),
        );
        let rows = self.write(&self.heartbeat, "join", &sql).await;
        let rows = rows.map_err(|error| match error {
            StoreError::Format { level, .. } => StoreError::Format {
                level,
                reads: joining.format_max,
            },
            other => other,
        })?;
        let row = rows.first().ok_or(Fault::Row("lease"));
        row.and_then(|row| number(row, 0))
            .map_err(|fault| fault.at(0))
    }

    pub(super) async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError> {
        let sql = format!(
            "SELECT revision, chain, chain_at_applied, database_ms, system, timeline
            FROM latchkey.renew({}, {}, {}, {}, {})",
            literal::bytes(&renewal.incarnation.0),
            renewal.lease_ms,
            renewal.applied.revision,
            literal::bytes(&renewal.applied.chain),
            key_ids(&renewal.keys),
        );
        let rows = self.write(&self.heartbeat, "renew", &sql).await?;
        match rows.first() {
            None => Ok(Renewed::Unknown),
            Some(row) => held(row).map_err(|fault| fault.at(renewal.applied.revision)),
        }
    }

    pub(super) async fn report(
        &self,
        incarnation: Incarnation,
        applied: Head,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "SET LOCAL synchronous_commit = off;
            UPDATE latchkey.replicas SET applied = {revision}, reported_ms = latchkey.now_ms()
            WHERE incarnation = {} AND applied < {revision}
              AND EXISTS (SELECT FROM latchkey.log WHERE revision = {revision} AND chain = {})",
            literal::bytes(&incarnation.0),
            literal::bytes(&applied.chain),
            revision = applied.revision,
        );
        self.write(&self.barrier, "report", &sql).await.map(drop)
    }

    pub(super) async fn roster(&self) -> Result<Roster, StoreError> {
        // One row of each table: to a planner that has no statistics, their product is so large
        // that it compiles the query, which takes it longer than a barrier.
        let sql = "-- roster
            SELECT c.lease_ms, h.revision, encode(h.chain, 'hex'), latchkey.now_ms(),
              encode(r.incarnation, 'hex'), r.name, r.address, r.lease_ms, r.heartbeat, r.applied,
              r.format_max, r.joined_ms, r.reported_ms, r.serves_stale,
              array_to_string(r.keys, ',')
            FROM (SELECT lease_ms FROM latchkey.cluster LIMIT 1) c
            CROSS JOIN (SELECT revision, chain FROM latchkey.head LIMIT 1) h
            LEFT JOIN latchkey.replicas r ON true ORDER BY r.incarnation";
        let rows = self
            .ask(&self.barrier, sql)
            .await
            .map_err(|lost| lost.read())?;
        roster(&rows).map_err(|fault| fault.at(0))
    }

    pub(super) async fn remove(
        &self,
        incarnation: Incarnation,
        heartbeat: Option<u64>,
    ) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT latchkey.remove_member({}, {})",
            literal::bytes(&incarnation.0),
            heartbeat.map_or_else(|| "NULL".to_owned(), |number| number.to_string()),
        );
        let rows = self.write(&self.heartbeat, "remove_member", &sql).await?;
        Ok(rows.first().and_then(|row| row.get(0)) == Some("t"))
    }

    pub(super) fn close(&self) {
        self.heartbeat.close();
        self.barrier.close();
    }

    /// Writes in one transaction that waits for no lock longer than we wait for its answer. While
    /// a standby is away, whoever renewed last keeps its row's lock until it is back; without a
    /// limit every further try would leave one more server process waiting behind it.
    async fn write(
        &self,
        line: &Line,
        name: &str,
        sql: &str,
    ) -> Result<Vec<SimpleQueryRow>, StoreError> {
        let limit = self.limit.as_millis();
        let sql = format!(
            "-- {name}
            BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {limit}; {sql};\nCOMMIT"
        );
        self.ask(line, &sql).await.map_err(Lost::written)
    }

    async fn ask(&self, line: &Line, sql: &str) -> Result<Vec<SimpleQueryRow>, Lost> {
        let connection = line.connection(self.limit).await.map_err(Lost::Unsent)?;
        if connection.client.is_closed() {
            line.discard(&connection);
            let what = "the connection to the database was lost".to_owned();
            return Err(Lost::Unsent(StoreError::Unavailable(what)));
        }
        let warnings = connection.warnings();
        let lost = match timeout(self.limit, connection.client.simple_query(sql)).await {
            Ok(Ok(_)) if connection.warnings() != warnings => {
                return Err(Lost::Unknown(
                    "the database warned about the commit".to_owned(),
                ));
            }
            Ok(Ok(messages)) => {
                let rows = messages.into_iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                return Ok(rows.collect());
            }
            Ok(Err(error)) if fault::is_rolled_back(&error) => {
                if fault::is_read_only(&error) {
                    line.takes_no_writes();
                }
                Lost::Unsent(Fault::from(error).at(0))
            }
            Ok(Err(_)) => Lost::Unknown("the connection to the database was lost".to_owned()),
            Err(_) => Lost::Unknown("the database did not answer in time".to_owned()),
        };
        line.discard(&connection);
        Err(lost)
    }
}

/// Why there is no answer.
enum Lost {
    /// Nothing was sent, or the server rolled back.
    Unsent(StoreError),
    Unknown(String),
}

impl Lost {
    /// For what would have written.
    fn written(self) -> StoreError {
        match self {
            Self::Unsent(error) => error,
            Self::Unknown(why) => StoreError::OutcomeUnknown(why),
        }
    }

    /// For what only reads.
    fn read(self) -> StoreError {
        match self {
            Self::Unsent(error) => error,
            Self::Unknown(why) => StoreError::Unavailable(why),
        }
    }
}

fn held(row: &SimpleQueryRow) -> Result<Renewed, Fault> {
    Ok(Renewed::Held {
        head: Head {
            revision: number(row, 0)?,
            chain: bytes(row, 1)?,
        },
        chain_at_applied: row.get(2).map(|_| bytes(row, 2)).transpose()?,
        database_ms: number(row, 3)?,
        history: History {
            system: number(row, 4)?,
            timeline: u32::from_str_radix(text(row, 5)?, 16).map_err(|_| Fault::Row("timeline"))?,
        },
    })
}

fn roster(rows: &[SimpleQueryRow]) -> Result<Roster, Fault> {
    let first = rows.first().ok_or(Fault::Row("roster"))?;
    let there = rows.iter().filter(|row| row.get(4).is_some());
    Ok(Roster {
        members: there.map(member).collect::<Result<_, _>>()?,
        lease_ms: number(first, 0)?,
        head: Head {
            revision: number(first, 1)?,
            chain: bytes(first, 2)?,
        },
        database_ms: number(first, 3)?,
    })
}

fn member(row: &SimpleQueryRow) -> Result<Member, Fault> {
    Ok(Member {
        incarnation: Incarnation(bytes(row, 4)?),
        name: text(row, 5)?.to_owned(),
        address: text(row, 6)?.to_owned(),
        lease_ms: number(row, 7)?,
        heartbeat: number(row, 8)?,
        applied: number(row, 9)?,
        format_max: number(row, 10)?,
        joined_ms: number(row, 11)?,
        reported_ms: number(row, 12)?,
        serves_stale: text(row, 13)? == "t",
        keys: parse_key_ids(text(row, 14)?)?,
    })
}

fn key_ids(keys: &[u32]) -> String {
    let keys: Vec<String> = keys.iter().map(u32::to_string).collect();
    format!("ARRAY[{}]::bigint[]", keys.join(","))
}

fn parse_key_ids(text: &str) -> Result<Vec<u32>, Fault> {
    let keys = text.split(',').filter(|key| !key.is_empty());
    let keys = keys.map(|key| key.parse().map_err(|_| Fault::Row("key's id")));
    keys.collect()
}

fn text(row: &SimpleQueryRow, index: usize) -> Result<&str, Fault> {
    row.get(index).ok_or(Fault::Row("member"))
}

fn number<N: std::str::FromStr>(row: &SimpleQueryRow, index: usize) -> Result<N, Fault> {
    text(row, index)?.parse().map_err(|_| Fault::Row("number"))
}

fn bytes<const N: usize>(row: &SimpleQueryRow, index: usize) -> Result<[u8; N], Fault> {
    let bytes = literal::parse_hex(text(row, index)?).ok_or(Fault::Row("number of bytes"))?;
    bytes.try_into().map_err(|_| Fault::Row("number of bytes"))
}
