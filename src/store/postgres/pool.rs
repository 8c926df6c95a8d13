//! A few connections for what nobody's turn or lease waits for: lists, snapshots, the log for all
//! but the keeper, last uses, and in a pool of their own logins; bounded, and waited for with a
//! limit.
//!
//! deadpool itself and not its Postgres manager, whose own part is a cache of named prepared
//! statements, which a pooler in transaction mode does not keep. When one connection finds its
//! server gone, going or read-only, all idle ones are dropped: they lead there as well.

use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult};
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::connect::{Connection, Connector};
use super::fault::{self, Fault};
use super::settings::Settings;
use crate::domain::chain::RevisionNumber;
use crate::store::StoreError;

/// Until a connection that was idle must have answered.
const RECYCLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Until another's rows must be free for what writes beside the log.
const LOCK_MS_MAX: u32 = 1_000;

struct Manager {
    connector: Arc<Connector>,
    limit: Duration,
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = StoreError;

    async fn create(&self) -> Result<Connection, StoreError> {
        self.connector.connect(self.limit, None).await
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<StoreError> {
        let gone = |_| RecycleError::message("the connection is gone");
        if !self.connector.is_current(connection) {
            return Err(RecycleError::message("its server takes no writes"));
        }
        connection.client.simple_query("").await.map_err(gone)?;
        Ok(())
    }
}

/// The pool. Its connections are used by one task at a time.
pub(super) struct Pool {
    pool: managed::Pool<Manager>,
    statement_timeout: Duration,
}

impl Pool {
    pub(super) fn new(
        connector: Arc<Connector>,
        size: usize,
        settings: &Settings,
    ) -> Result<Self, StoreError> {
        let limit = settings.statement_timeout;
        let pool = managed::Pool::builder(Manager { connector, limit })
            .max_size(size.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(settings.statement_timeout))
            // Every host has its own; this is only the bound of them all.
            .create_timeout(Some(settings.statement_timeout))
            .recycle_timeout(Some(RECYCLE_TIMEOUT))
            .build()
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self {
            pool,
            statement_timeout: settings.statement_timeout,
        })
    }

    /// Writes in one transaction that may be lost, or be sent twice; what its statements answered.
    pub(super) async fn write(
        &self,
        name: &str,
        work: &str,
    ) -> Result<Vec<SimpleQueryRow>, StoreError> {
        let sent = self.send(name, "SET LOCAL synchronous_commit = off", work);
        let (taken, sent, _) = sent.await?;
        taken.done(sent, 0)
    }

    /// Writes in one transaction that lasts; what its statements answered.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] unless the database said in full what became of it.
    pub(super) async fn write_durably(
        &self,
        name: &str,
        work: &str,
    ) -> Result<Vec<SimpleQueryRow>, StoreError> {
        let unknown = |why: &str| StoreError::OutcomeUnknown(why.to_owned());
        let (taken, sent, warned) = self.send(name, "SELECT latchkey.durably()", work).await?;
        let is_told = match &sent {
            Ok(_) => true,
            Err(Fault::Sql(error)) => fault::is_rolled_back(error),
            Err(_) => false,
        };
        match taken.done(sent, 0) {
            Ok(_) if warned => Err(unknown("the database warned about the commit")),
            Err(_) if !is_told => Err(unknown("the database did not say what became of it")),
            told => told,
        }
    }

    /// Sends a transaction in one message; whether the server warned of something meanwhile. It
    /// waits for no other's rows for long, and has plans by keys alone, whatever is known of the
    /// tables' sizes.
    async fn send(
        &self,
        name: &str,
        begin: &str,
        work: &str,
    ) -> Result<(Reading<'_>, Result<Vec<SimpleQueryRow>, Fault>, bool), StoreError> {
        let limit = self.statement_timeout;
        let message = format!(
            "-- {name}
            BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
            SET LOCAL lock_timeout = {LOCK_MS_MAX};
            SET LOCAL statement_timeout = {};
            SET LOCAL enable_seqscan = off;
            SET LOCAL enable_hashjoin = off;
            SET LOCAL enable_mergejoin = off;
            {begin};
            {work};
            COMMIT",
            limit.as_millis()
        );
        // The server's own limit comes first.
        let taken = self.taken(limit * 2).await?;
        let before = taken.warnings();
        let sent = async { Ok(taken.client()?.simple_query(&message).await?) };
        let sent = taken.bounded(sent).await.map(rows);
        let warned = taken.warnings() != before;
        Ok((taken, sent, warned))
    }

    /// Takes a connection for statements that are each a transaction, with the usual limit.
    pub(super) async fn asking(&self) -> Result<Reading<'_>, StoreError> {
        self.taken(self.statement_timeout).await
    }

    /// Takes a connection, whose work must end within `limit`.
    async fn taken(&self, limit: Duration) -> Result<Reading<'_>, StoreError> {
        let connection = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => super::closed(),
            _ => StoreError::Unavailable("no database connection was free in time".to_owned()),
        })?;
        Ok(Reading {
            pool: self,
            connection: Some(connection),
            limit,
        })
    }

    /// Begins a transaction that reads one moment and must end within `limit`.
    pub(super) async fn reading(&self, limit: Duration) -> Result<Reading<'_>, StoreError> {
        let reading = self.taken(limit).await?;
        let begin = format!(
            "-- begin_reading
            BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
            SET LOCAL statement_timeout = {0};
            SET LOCAL idle_in_transaction_session_timeout = {0}",
            limit.as_millis()
        );
        let begun = async { Ok(reading.client()?.batch_execute(&begin).await?) };
        match reading.briefly(begun).await {
            Ok(()) => Ok(reading),
            Err(fault) => Err(reading.fail(fault, 0)),
        }
    }

    /// A reading with the usual limit.
    pub(super) async fn reading_briefly(&self) -> Result<Reading<'_>, StoreError> {
        self.reading(self.statement_timeout).await
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.pool.close();
    }
}

/// Mostly one transaction that reads. Its connection goes back to the pool only after its end:
/// one that was given up on half-way may still be in its transaction.
pub(super) struct Reading<'p> {
    pool: &'p Pool,
    connection: Option<Object<Manager>>,
    limit: Duration,
}

impl Reading<'_> {
    /// The client, until the reading has ended.
    pub(super) fn client(&self) -> Result<&Client, Fault> {
        let connection = self.connection.as_ref();
        let client = connection.map(|connection| &connection.client);
        client.ok_or_else(|| super::closed().into())
    }

    fn warnings(&self) -> u64 {
        let connection = self.connection.as_ref();
        connection.map_or(0, |connection| connection.warnings())
    }

    /// Waits for `work`, but no longer than the limit.
    pub(super) async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        within(self.limit, work).await
    }

    /// Waits for one answer of many: no longer than a statement may take, whatever the limit.
    pub(super) async fn briefly<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        within(self.pool.statement_timeout.min(self.limit), work).await
    }

    /// Ends the transaction after what was read in it; `revision` is where the caller was.
    pub(super) async fn end<T>(
        self,
        read: Result<T, Fault>,
        revision: RevisionNumber,
    ) -> Result<T, StoreError> {
        let ended = match read {
            Ok(read) => self.commit().await.map(|()| read),
            Err(fault) => Err(fault),
        };
        self.done(ended, revision)
    }

    /// Gives the connection back after what is no transaction any more.
    pub(super) fn done<T>(
        mut self,
        done: Result<T, Fault>,
        revision: RevisionNumber,
    ) -> Result<T, StoreError> {
        match done {
            Ok(read) => {
                drop(self.connection.take());
                Ok(read)
            }
            Err(fault) => Err(self.fail(fault, revision)),
        }
    }

    async fn commit(&self) -> Result<(), Fault> {
        let commit = async {
            Ok(self
                .client()?
                .batch_execute("-- end_reading\nCOMMIT")
                .await?)
        };
        self.briefly(commit).await
    }

    fn fail(self, fault: Fault, revision: RevisionNumber) -> StoreError {
        if fault.loses_server() {
            self.pool.pool.retain(|_, _| false);
        }
        fault.at(revision)
    }
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.collect()
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => {
            let what = "the database did not answer in time".to_owned();
            Err(StoreError::Unavailable(what).into())
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}
