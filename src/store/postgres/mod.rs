//! The Postgres store: any number of processes on one database.
//!
//! ```text
//!  append ─► a line of its own ─► latchkey.append(…)      lock, head, log, tables, one NOTIFY
//!  feed, heartbeat, barrier ─► lines of their own         past a pooler, where there is one
//!  lists, snapshots, the rest ─► a small pool             LISTEN ─► wakes
//!  logins ─► a smaller one
//! ```
//!
//! Nothing it does holds a lock across a round trip, needs a named prepared statement or a
//! session's setting, so it works through a pooler in transaction mode. Deliberately absent: a
//! second copy of any rule in SQL, cancel requests, and reads from standbys.

mod append;
mod connect;
mod copy;
mod directory_list;
mod directory_row;
mod error;
mod fault;
mod line;
mod listen;
mod literal;
mod log;
mod login_row;
mod logins;
mod members;
mod migrate;
mod operations;
mod pool;
mod query;
mod records;
mod row;
mod settings;
mod snapshot;
mod tls;
mod token_list;
mod token_row;
mod trim;
mod used;
mod verify;

use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entropy::Entropy;
use crate::domain::entry::LogEntry;
use crate::domain::token::TokenId;
use crate::store::cluster::{Cluster, Incarnation, Joining, Renewal, Renewed, Roster};
use crate::store::list::{
    GrantQuery, LastUsed, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};
use crate::store::logins::{
    Failure, FailureKey, LoginNoted, LoginQuery, Logins, OneTime, StoredLogin,
};
use crate::store::{Appended, Batch, Snapshot, Store, StoreError};

pub use copy::{Found, Target};
pub use error::OpenError;
pub use migrate::{Version, grant, known, status, up};
pub use settings::Settings;
pub use trim::trim;
pub use verify::verify;

use append::Appender;
use connect::{CONNECT_LIMIT, Connector, Generation};
use line::Line;
use listen::Listener;
use log::Feed;
use members::Members;
use pool::Pool;

/// Connections for failures and assertions: whoever logs in takes none from lists.
const LOGIN_CONNECTIONS: usize = 4;

/// The store of one process among others. Dropping it ends its connections and its one task.
pub struct PostgresStore {
    appender: Appender,
    feed: Feed,
    members: Members,
    pool: Arc<Pool>,
    logins: Pool,
    listener: Listener,
}

impl PostgresStore {
    /// Connects, and refuses a database whose tables are not of this version.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed.
    pub async fn open(settings: &Settings, entropy: &dyn Entropy) -> Result<Self, OpenError> {
        let generation = Generation::default();
        let connector = Arc::new(Connector::new(&settings.url, settings, &generation)?);
        let direct = match &settings.listen_url {
            Some(url) => Arc::new(Connector::new(url, settings, &generation)?),
            None => Arc::clone(&connector),
        };
        let connection = connector.connect(CONNECT_LIMIT, None).await?;
        migrate::check(&connection.client).await?;
        drop(connection);
        // Joining is a call like any other, and has less time than connecting may take.
        let heartbeat = Line::new("heartbeat", &direct);
        heartbeat.connection(CONNECT_LIMIT).await?;
        let mut owner = [0; 16];
        entropy.fill(&mut owner);
        Ok(Self {
            appender: Appender::new(Line::new("append", &connector), owner, settings),
            feed: Feed {
                line: Line::new("feed", &direct),
                limit: settings.cluster_timeout,
            },
            members: Members {
                heartbeat,
                barrier: Line::new("barrier", &direct),
                limit: settings.cluster_timeout,
            },
            pool: Arc::new(Pool::new(
                Arc::clone(&connector),
                settings.pool_size,
                settings,
            )?),
            logins: Pool::new(connector, LOGIN_CONNECTIONS, settings)?,
            listener: Listener::start(direct, settings.probe_every),
        })
    }
}

/// Reads one page or row in a transaction of its own.
macro_rules! read {
    ($store:expr, $read:path, $what:expr) => {{
        let reading = $store.pool.reading_briefly().await?;
        let read = reading.bounded(async { $read(reading.client()?, $what).await });
        let read = read.await;
        reading.end(read, 0).await
    }};
}

#[async_trait]
impl Store for PostgresStore {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (sender, found) = oneshot::channel();
        let (chunks, rows) = mpsc::channel(snapshot::CHUNKS_QUEUED);
        // Ends with its receiver.
        tokio::spawn(snapshot::stream(Arc::clone(&self.pool), sender, chunks));
        let stopped = |_| StoreError::Unavailable("a reader stopped".to_owned());
        let found = found.await.map_err(stopped)??;
        Ok(Snapshot {
            head: found.head,
            instant_ms: found.instant_ms,
            state_digest: found.state_digest,
            rows,
        })
    }

    async fn append(&self, batch: Batch) -> Result<Appended, StoreError> {
        self.appender.append(&batch).await
    }

    async fn void(&self, batch: &Batch) -> Result<Appended, StoreError> {
        self.appender.void(batch).await
    }

    async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let asking = self.pool.asking().await?;
        let read = asking.bounded(async {
            log::changes_after(asking.client()?, "changes_after", revision, limit).await
        });
        let read = read.await;
        asking.done(read, revision)
    }

    async fn cut(&self) -> Result<Head, StoreError> {
        let asking = self.pool.asking().await?;
        let read = asking.bounded(async { log::cut(asking.client()?).await });
        let read = read.await;
        asking.done(read, 0)
    }

    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
        read!(self, token_list::token, id)
    }

    async fn tokens(&self, query: TokenQuery) -> Result<Page<StoredToken, TokenId>, StoreError> {
        read!(self, token_list::tokens, &query)
    }

    async fn principals(
        &self,
        query: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, StoreError> {
        read!(self, directory_list::principals, &query)
    }

    async fn members(&self, query: MemberQuery) -> Result<Page<StoredMember, String>, StoreError> {
        read!(self, directory_list::members, &query)
    }

    async fn roles(&self, query: RoleQuery) -> Result<Page<StoredRole, String>, StoreError> {
        read!(self, directory_list::roles, &query)
    }

    async fn grants(&self, query: GrantQuery) -> Result<Page<StoredGrant, u32>, StoreError> {
        read!(self, directory_list::grants, &query)
    }

    async fn note_used(&self, used: &[(TokenId, LastUsed)]) -> Result<(), StoreError> {
        used::note(&self.pool, used).await
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.listener.close();
        self.pool.close();
        self.logins.close();
        self.appender.close();
        self.feed.line.close();
        self.members.close();
        Ok(())
    }
}

#[async_trait]
impl Logins for PostgresStore {
    async fn note_failure(&self, failure: &Failure) -> Result<u32, StoreError> {
        logins::note_failure(&self.logins, failure).await
    }

    async fn clear_failures(&self, keys: RangeInclusive<FailureKey>) -> Result<(), StoreError> {
        logins::clear_failures(&self.logins, &keys).await
    }

    async fn consume(&self, once: &OneTime) -> Result<bool, StoreError> {
        logins::consume(&self.logins, once).await
    }

    async fn note_logins(&self, logins: &[LoginNoted]) -> Result<(), StoreError> {
        logins::note_logins(&self.pool, logins).await
    }

    async fn logins(&self, query: LoginQuery) -> Result<Page<StoredLogin, u64>, StoreError> {
        read!(self, logins::logins, &query)
    }
}

#[async_trait]
impl Cluster for PostgresStore {
    async fn join(&self, joining: &Joining) -> Result<u64, StoreError> {
        self.members.join(joining).await
    }

    async fn renew(&self, renewal: &Renewal) -> Result<Renewed, StoreError> {
        self.members.renew(renewal).await
    }

    async fn report(&self, incarnation: Incarnation, applied: Head) -> Result<(), StoreError> {
        self.members.report(incarnation, applied).await
    }

    async fn roster(&self) -> Result<Roster, StoreError> {
        self.members.roster().await
    }

    async fn leave(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        self.members.remove(incarnation, None).await.map(drop)
    }

    async fn remove(&self, incarnation: Incarnation, heartbeat: u64) -> Result<bool, StoreError> {
        self.members.remove(incarnation, Some(heartbeat)).await
    }

    async fn feed(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.feed.read(revision, limit).await
    }

    fn wakes(&self) -> watch::Receiver<u64> {
        self.listener.wakes()
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}
