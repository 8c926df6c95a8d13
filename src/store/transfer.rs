//! What a copy from one store to another carries: the log, every table that it makes, when tokens
//! were last used, and what logins left that lasts.
//!
//! Both stores name their columns alike, so that a copy is rows of cells and no second projection.
//! Used by the store that sends and the one that takes; a test holds the list against the tables
//! of both. Deliberately absent: what is no part of the history (members, turns, checkpoints).

use super::StoreError;
use crate::domain::chain::Head;
use crate::domain::clock::UnixMs;
use crate::domain::format::format_max;

/// Told now and then what is done, and of how much; the two are equal at the end.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// The head row: where the log ends, and what replaying it would count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// Where the log begins: the last revision that was trimmed, with the chain at it.
    pub cut: Head,
    /// The head.
    pub head: Head,
    /// The instant of the head entry.
    pub instant_ms: UnixMs,
    /// The digest of State that it carries.
    pub state_digest: Option<[u8; 32]>,
    /// The highest internal id that a principal was given.
    pub principal_max: u32,
    /// The highest internal id that a grant was given.
    pub grant_max: u32,
    /// How many request ids are remembered.
    pub requests: u64,
    /// The log's format level.
    pub format: u32,
}

impl Last {
    /// Refuses a log that may hold entries which this program cannot read, before one is met.
    ///
    /// # Errors
    /// [`StoreError::Format`].
    pub fn readable(&self) -> Result<(), StoreError> {
        let (level, reads) = (self.format, format_max());
        match level > reads {
            true => Err(StoreError::Format { level, reads }),
            false => Ok(()),
        }
    }
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A number.
    Number,
    /// Yes or no, as 1 or 0.
    Flag,
    /// A text, also one of JSON.
    Text,
    /// Bytes.
    Bytes,
    /// The 16 bytes of a token's id.
    Id,
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A number, or a flag.
    Number(i64),
    /// A text.
    Text(String),
    /// Bytes, or an id.
    Bytes(Vec<u8>),
}

/// A table, and its columns in the order in which they are carried.
#[derive(Debug)]
pub struct Table {
    /// Its name in both stores.
    pub name: &'static str,
    /// Names and sorts of its columns.
    pub columns: &'static [(&'static str, Sort)],
}

/// Rows of one table.
#[derive(Debug)]
pub struct Chunk {
    /// Which, by its place in [`TABLES`].
    pub table: usize,
    /// The rows; never none.
    pub rows: Vec<Vec<Cell>>,
}

/// What arrives, piece by piece; tables come in the order of [`TABLES`].
pub type Chunks = tokio::sync::mpsc::Receiver<Result<Chunk, StoreError>>;

use Sort::{Bytes, Flag, Id, Number, Text};

/// Every table that is carried.
pub const TABLES: &[Table] = &[
    Table {
        name: "log",
        columns: &[
            ("revision", Number),
            ("instant_ms", Number),
            ("kind", Text),
            ("actor", Text),
            ("actor_principal", Number),
            ("actor_token", Id),
            ("target", Text),
            ("reason", Text),
            ("batch_id", Bytes),
            ("body", Bytes),
            ("body_hash", Bytes),
            ("chain", Bytes),
        ],
    },
    Table {
        name: "principals",
        columns: &[
            ("id", Number),
            ("kind", Number),
            ("name", Text),
            ("home", Text),
            ("disabled", Flag),
            ("made_at", Number),
            ("created_ms", Number),
            ("changed_at", Number),
            ("display_name", Text),
            ("description", Text),
            ("labels", Text),
            ("deleted_at", Number),
        ],
    },
    Table {
        name: "members",
        columns: &[
            ("team", Number),
            ("member", Number),
            ("made_at", Number),
            ("created_ms", Number),
            ("added_by", Text),
        ],
    },
    Table {
        name: "roles",
        columns: &[
            ("name", Text),
            ("home", Text),
            ("actions", Text),
            ("made_at", Number),
            ("created_ms", Number),
            ("changed_at", Number),
            ("description", Text),
            ("labels", Text),
        ],
    },
    Table {
        name: "grants",
        columns: &[
            ("id", Number),
            ("principal", Number),
            ("role", Text),
            ("resource", Text),
            ("made_at", Number),
            ("created_ms", Number),
        ],
    },
    METHODS,
    Table {
        name: "seal_keys",
        columns: &[
            ("id", Number),
            ("salt", Bytes),
            ("phase", Number),
            ("since_ms", Number),
            ("changed_at", Number),
        ],
    },
    Table {
        name: "revoked_sessions",
        columns: &[
            ("session", Id),
            ("until_ms", Number),
            ("changed_at", Number),
        ],
    },
    Table {
        name: "login_locks",
        columns: &[
            ("principal", Number),
            ("network", Text),
            ("until_ms", Number),
            ("changed_at", Number),
        ],
    },
    TOKENS,
    // Of no history, and yet worth having.
    Table {
        name: "token_used",
        columns: &[("token", Id), ("instant_ms", Number), ("address", Text)],
    },
    // So that none is accepted once more.
    Table {
        name: "used_assertions",
        columns: &[("id", Bytes), ("until_ms", Number)],
    },
    // Numbered anew, in their order.
    Table {
        name: "logins",
        columns: &[
            ("instant_ms", Number),
            ("account", Number),
            ("credential", Id),
            ("token", Id),
            ("address", Text),
            ("expires_ms", Number),
            ("kind", Number),
            ("parent", Id),
        ],
    },
    Table {
        name: "token_issuers",
        columns: &[("token", Id), ("principal", Number)],
    },
    Table {
        name: "token_labels",
        columns: &[("token", Id), ("key", Text), ("value", Text)],
    },
    Table {
        name: "cut_offs",
        columns: &[("kind", Text), ("target", Text), ("revision", Number)],
    },
    Table {
        name: "requests",
        columns: &[
            ("revision", Number),
            ("key", Bytes),
            ("fingerprint", Bytes),
            ("instant_ms", Number),
        ],
    },
];

const TOKENS: Table = Table {
    name: "tokens",
    columns: &[
        ("id", Id),
        ("digest", Bytes),
        ("kind", Number),
        ("subject", Number),
        ("resource", Text),
        ("scopes", Text),
        ("ceiling", Text),
        ("issuers", Bytes),
        ("parent", Id),
        ("made_at", Number),
        ("not_before_ms", Number),
        ("expires_ms", Number),
        ("expires_max_ms", Number),
        ("ttl_s", Number),
        ("period_s", Number),
        ("uses_limit", Number),
        ("uses_left", Number),
        ("networks", Text),
        ("audience", Text),
        ("workload", Text),
        ("rotation", Number),
        ("grace_key", Bytes),
        ("grace_until_ms", Number),
        ("revoked_at", Number),
        ("revoked_ms", Number),
        ("issuer", Number),
        ("changed_at", Number),
        ("last4", Text),
        ("name", Text),
        ("description", Text),
        ("revoke_reason", Text),
        ("slice", Number),
        ("ended_ms", Number),
        ("public_key", Bytes),
    ],
};

const METHODS: Table = Table {
    name: "login_methods",
    columns: &[
        ("principal", Number),
        ("method", Number),
        ("made_at", Number),
        ("changed_at", Number),
        ("ttl_s", Number),
        ("max_ttl_s", Number),
        ("period_s", Number),
        ("uses", Number),
        ("networks", Text),
        ("login_networks", Text),
        ("lockout_threshold", Number),
        ("lockout_duration_s", Number),
        ("lockout_reset_s", Number),
    ],
};
