//! The tables, and how connections to them are opened.
//!
//! The log is the truth; every other table is what the log makes, kept in the same transaction
//! so that lists, SQL users and start-up need no replay. Numbers of kinds are those of the
//! domain (`TokenKind`, `PrincipalKind`); instants are Unix milliseconds. Deliberately absent: an
//! index on the digest, which nobody looks up by here, and foreign keys: what is consistent is
//! decided before it comes here, and a test holds the tables against a replay.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::fault::Fault;
use super::{OpenError, log};
use crate::store::StoreError;

/// `LtKy`: tells our files from those of other programs.
const APPLICATION_ID: i32 = 0x4c74_4b79;
/// The version of the tables that [`STEPS`] lead to.
const SCHEMA_VERSION: i32 = 7;
const STATEMENTS_CACHED: usize = 64;
/// Other processes only read (a backup, a verification), and readers do not block in WAL mode.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// What the WAL is cut back to after a checkpoint.
const WAL_BYTES_KEPT: i64 = 64 * 1024 * 1024;

/// What makes each version of the tables from the one before it, the first from nothing.
const STEPS: [&str; SCHEMA_VERSION as usize] = [
    TABLES,
    FORMAT,
    TOKEN_USED,
    CUT,
    LOGINS,
    CREDENTIALS,
    RENEWALS,
];

/// The log's format level.
const FORMAT: &str = "-- add_format
ALTER TABLE head ADD COLUMN format INTEGER NOT NULL DEFAULT 1;
";

/// Beside what the log makes.
const TOKEN_USED: &str = "-- add_token_used
-- When, and from where, each token was last used, to the hour. A row goes with its token.
CREATE TABLE token_used (
  token      BLOB PRIMARY KEY,
  instant_ms INTEGER NOT NULL,
  address    TEXT
) STRICT, WITHOUT ROWID;
";

/// One row: the last revision that was trimmed from the log, and the chain hash at it.
const CUT: &str = "-- add_cut
CREATE TABLE log_cut (
  id       INTEGER PRIMARY KEY CHECK (id = 1),
  revision INTEGER NOT NULL,
  chain    BLOB NOT NULL
) STRICT;
INSERT INTO log_cut VALUES (1, 0, zeroblob(32));
";

/// Beside what the log makes, too.
const LOGINS: &str = "-- add_logins
-- Hashes of the one-time ids of assertions, and until when each must not come again.
CREATE TABLE used_assertions (
  id       BLOB PRIMARY KEY,
  until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX used_assertions_by_end ON used_assertions (until_ms);

-- The login record. token: the access token that was given, one row each.
CREATE TABLE logins (
  number     INTEGER PRIMARY KEY,
  instant_ms INTEGER NOT NULL,
  account    INTEGER NOT NULL,
  credential BLOB NOT NULL,
  token      BLOB NOT NULL UNIQUE,
  address    TEXT,
  expires_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX logins_by_account ON logins (account);
CREATE INDEX logins_by_credential ON logins (credential);
";

/// What the log makes since format 2.
const CREDENTIALS: &str = "-- add_credentials
ALTER TABLE tokens ADD COLUMN public_key BLOB;

-- The settings of a login method of an account. Where a lockout is NULL nobody is locked out.
CREATE TABLE login_methods (
  principal          INTEGER NOT NULL,
  method             INTEGER NOT NULL,
  made_at            INTEGER NOT NULL,
  changed_at         INTEGER NOT NULL,
  ttl_s              INTEGER NOT NULL,
  max_ttl_s          INTEGER,
  period_s           INTEGER,
  uses               INTEGER,
  networks           TEXT,
  login_networks     TEXT,
  lockout_threshold  INTEGER,
  lockout_duration_s INTEGER,
  lockout_reset_s    INTEGER,
  PRIMARY KEY (principal, method)
) STRICT, WITHOUT ROWID;

-- Every seal key that was ever used here. Its material is nowhere in the database.
CREATE TABLE seal_keys (
  id         INTEGER PRIMARY KEY,
  salt       BLOB NOT NULL,
  phase      INTEGER NOT NULL,
  since_ms   INTEGER NOT NULL,
  changed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE revoked_sessions (
  session    BLOB PRIMARY KEY,
  until_ms   INTEGER NOT NULL,
  changed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX revoked_sessions_by_end ON revoked_sessions (until_ms);

-- network: an address and how many bits of it count, or `unknown`.
CREATE TABLE login_locks (
  principal  INTEGER NOT NULL,
  network    TEXT NOT NULL,
  until_ms   INTEGER NOT NULL,
  changed_at INTEGER NOT NULL,
  PRIMARY KEY (principal, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX login_locks_by_end ON login_locks (until_ms);
";

/// The login record has renewals and exchanges as well.
const RENEWALS: &str = "-- add_renewals
-- kind: 1 login, 2 renewal, 3 exchange. parent: the token that was renewed or exchanged. account: 0
-- where the token speaks for a resource.
ALTER TABLE logins ADD COLUMN kind INTEGER NOT NULL DEFAULT 1;
ALTER TABLE logins ADD COLUMN parent BLOB;
";

const TABLES: &str = "-- create_tables
CREATE TABLE log (
  revision        INTEGER PRIMARY KEY,
  instant_ms      INTEGER NOT NULL,
  kind            TEXT NOT NULL,
  actor           TEXT NOT NULL,
  actor_principal INTEGER,
  actor_token     BLOB,
  target          TEXT NOT NULL,
  reason          TEXT NOT NULL,
  body            BLOB NOT NULL,
  body_hash       BLOB NOT NULL,
  chain           BLOB NOT NULL
) STRICT;

-- One row: the newest revision, and what replaying the log would count.
CREATE TABLE head (
  id            INTEGER PRIMARY KEY CHECK (id = 1),
  revision      INTEGER NOT NULL,
  chain         BLOB NOT NULL,
  instant_ms    INTEGER NOT NULL,
  state_digest  BLOB,
  principal_max INTEGER NOT NULL,
  grant_max     INTEGER NOT NULL,
  requests      INTEGER NOT NULL
) STRICT;

-- One row that is no part of State: the last batch that was compared with the head, and where
-- the log was whole when the store last closed cleanly.
CREATE TABLE housekeeping (
  id              INTEGER PRIMARY KEY CHECK (id = 1),
  touched         BLOB NOT NULL,
  clean           INTEGER NOT NULL,
  checkpoint      INTEGER NOT NULL,
  checkpoint_hash BLOB NOT NULL
) STRICT;

-- name is the text form, `user:alice`. A row outlives its principal, so that lists have names.
CREATE TABLE principals (
  id           INTEGER PRIMARY KEY,
  kind         INTEGER NOT NULL,
  name         TEXT NOT NULL,
  home         TEXT NOT NULL,
  disabled     INTEGER NOT NULL,
  made_at      INTEGER NOT NULL,
  created_ms   INTEGER NOT NULL,
  changed_at   INTEGER NOT NULL,
  display_name TEXT NOT NULL,
  description  TEXT NOT NULL,
  labels       TEXT NOT NULL,
  deleted_at   INTEGER
) STRICT;
CREATE UNIQUE INDEX principals_by_name ON principals (name) WHERE deleted_at IS NULL;
CREATE INDEX principals_gone ON principals (id) WHERE deleted_at IS NOT NULL;

CREATE TABLE members (
  team    INTEGER NOT NULL,
  member  INTEGER NOT NULL,
  made_at INTEGER NOT NULL,
  PRIMARY KEY (team, member)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_member ON members (member);

CREATE TABLE roles (
  name        TEXT PRIMARY KEY,
  home        TEXT NOT NULL,
  actions     TEXT NOT NULL,
  made_at     INTEGER NOT NULL,
  created_ms  INTEGER NOT NULL,
  changed_at  INTEGER NOT NULL,
  description TEXT NOT NULL,
  labels      TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE grants (
  id         INTEGER PRIMARY KEY,
  principal  INTEGER NOT NULL,
  role       TEXT NOT NULL,
  resource   TEXT NOT NULL,
  made_at    INTEGER NOT NULL,
  created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX grants_by_principal ON grants (principal);
CREATE INDEX grants_by_role ON grants (role);
CREATE INDEX grants_by_resource ON grants (resource);

-- What State holds comes first: start-up reads no further. scopes: NULL is all, '' is nothing.
-- slice is the first byte of the digest, ended_ms the earlier of expiry and revocation: plain
-- columns, because SQLite covers no query by an index on generated ones.
CREATE TABLE tokens (
  id              BLOB PRIMARY KEY,
  digest          BLOB NOT NULL,
  kind            INTEGER NOT NULL,
  subject         INTEGER,
  resource        TEXT,
  scopes          TEXT,
  ceiling         TEXT,
  issuers         BLOB NOT NULL,
  parent          BLOB,
  made_at         INTEGER NOT NULL,
  not_before_ms   INTEGER,
  expires_ms      INTEGER,
  expires_max_ms  INTEGER,
  ttl_s           INTEGER,
  period_s        INTEGER,
  uses_limit      INTEGER,
  uses_left       INTEGER,
  networks        TEXT,
  audience        TEXT,
  workload        TEXT,
  rotation        INTEGER NOT NULL,
  grace_key       BLOB,
  grace_until_ms  INTEGER,
  revoked_at      INTEGER,
  revoked_ms      INTEGER,
  issuer          INTEGER,
  changed_at      INTEGER NOT NULL,
  last4           TEXT NOT NULL,
  name            TEXT NOT NULL,
  description     TEXT NOT NULL,
  revoke_reason   TEXT,
  slice           INTEGER NOT NULL,
  ended_ms        INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_subject ON tokens (subject) WHERE subject IS NOT NULL;
CREATE INDEX tokens_by_resource ON tokens (resource) WHERE resource IS NOT NULL;
CREATE INDEX tokens_by_parent ON tokens (parent) WHERE parent IS NOT NULL;
-- Not by slice first: its 256 places would cost a page of WAL for every token issued.
CREATE INDEX tokens_by_end ON tokens (ended_ms, slice) WHERE ended_ms IS NOT NULL;

-- Every principal that answers for a token.
CREATE TABLE token_issuers (
  principal INTEGER NOT NULL,
  token     BLOB NOT NULL,
  PRIMARY KEY (principal, token)
) STRICT, WITHOUT ROWID;

CREATE TABLE token_labels (
  token BLOB NOT NULL,
  key   TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (token, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX token_labels_by_key ON token_labels (key, value, token);

-- target: a principal's id, TEAM/MEMBER, a token id or a resource.
CREATE TABLE cut_offs (
  kind     TEXT NOT NULL,
  target   TEXT NOT NULL,
  revision INTEGER NOT NULL,
  PRIMARY KEY (kind, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
  revision    INTEGER PRIMARY KEY,
  key         BLOB NOT NULL UNIQUE,
  fingerprint BLOB NOT NULL,
  instant_ms  INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_by_instant ON requests (instant_ms);

INSERT INTO head VALUES (1, 0, zeroblob(32), 0, NULL, 0, 0, 0);
INSERT INTO housekeeping VALUES (1, zeroblob(16), 0, 0, zeroblob(32));
";

/// Opens the one connection that writes, and makes the tables in an empty file.
pub(super) fn open_writer(path: &Path, pages_max: Option<u32>) -> Result<Connection, OpenError> {
    // Never created here: `Place` makes the file with its mode, and a lost one must be noticed.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connect(path, flags)?;
    make_tables(&mut connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    if let Some(pages) = pages_max {
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(connection)
}

/// Opens a connection for what need not last: its commits wait for no disk. What the other one
/// commits is as durable as ever, for that syncs the whole write-ahead log.
pub(super) fn open_lax_writer(
    path: &Path,
    pages_max: Option<u32>,
) -> Result<Connection, OpenError> {
    let connection = open_writer(path, pages_max)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// Opens a connection that cannot write.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags)?;
    match version(&connection, path)? {
        0 => Err(OpenError::NoDatabase(path.to_owned())),
        SCHEMA_VERSION => Ok(connection),
        found => Err(OpenError::SchemaVersion {
            found,
            known: SCHEMA_VERSION,
        }),
    }
}

/// Opens a copy that nobody else has, to be proved; `named` is what the operator called it.
pub(super) fn open_copy(path: &Path, named: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = connect(path, flags).and_then(|connection| {
        let version = version(&connection, named)?;
        Ok((connection, version))
    });
    match opened {
        Ok((_, 0)) => Err(OpenError::NoDatabase(named.to_owned())),
        Ok((mut connection, version)) => {
            step_up(&mut connection, version)?;
            Ok(connection)
        }
        // Not even a header of SQLite's.
        Err(OpenError::Store(StoreError::Damaged { .. })) => {
            Err(OpenError::Foreign(named.to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// The version of the tables in the file; 0 in an empty one.
fn version(connection: &Connection, path: &Path) -> Result<i32, OpenError> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    match (application, version) {
        (APPLICATION_ID, 1..=SCHEMA_VERSION) => Ok(version),
        (APPLICATION_ID, _) => Err(OpenError::SchemaVersion {
            found: version,
            known: SCHEMA_VERSION,
        }),
        (0, 0) if tables(connection)? == 0 => Ok(0),
        _ => Err(OpenError::Foreign(path.to_owned())),
    }
}

fn tables(connection: &Connection) -> rusqlite::Result<u32> {
    let sql = "-- tables\nSELECT count(*) FROM sqlite_schema";
    connection.query_row(sql, [], |row| row.get(0))
}

fn make_tables(connection: &mut Connection) -> Result<(), OpenError> {
    let path = connection.path().map(Path::new).map(Path::to_owned);
    let path = path.unwrap_or_default();
    let found = version(connection, &path)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(OpenError::NoWal(path));
    }
    step_up(connection, found)
}

/// Brings the tables from a version to the newest, all at once.
fn step_up(connection: &mut Connection, found: i32) -> Result<(), OpenError> {
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(())
}

/// Checks the form of every page and record. What it finds is named by the first revision whose
/// entry cannot be read, or else by the head.
pub(super) fn quick_check(connection: &Connection) -> Result<(), Fault> {
    let sql = "-- quick_check\nPRAGMA quick_check(1)";
    let found: Result<String, _> = connection.query_row(sql, [], |row| row.get(0));
    let what = match found {
        Ok(found) if found == "ok" => return Ok(()),
        Ok(_) => "the check of the database file found damage".to_owned(),
        Err(error) => match Fault::from(error).at(0) {
            StoreError::Damaged { what, .. } => what,
            other => return Err(other.into()),
        },
    };
    log::verify_all(connection, None)?;
    let revision = log::read_head(connection)?.head.revision;
    Err(Fault::damaged(revision, what))
}

#[cfg(test)]
mod tests {
    #[test]
    fn sqlite_is_at_least_3_51_3() {
        // Older ones can lose a commit when a WAL is reset while another connection recovers.
        assert!(
            rusqlite::version_number() >= 3_051_003,
            "{}",
            rusqlite::version()
        );
    }
}
