//! What a `SELECT` of this store binds, and how it is sent.
//!
//! Values go with their types in one message and without a name, so that nothing is prepared.
//! Used by the lists.

use std::fmt::Write as _;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::fault::Fault;
use crate::domain::token::TokenId;
use crate::store::query;

/// What a condition compares with.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Id(Uuid),
}

impl Value {
    /// A token's id.
    pub(super) fn id(id: TokenId) -> Self {
        Self::Id(Uuid::from_bytes(id.to_bytes()))
    }

    fn bound(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Text(text) => (text, Type::TEXT),
            Self::Number(number) => (number, Type::INT8),
            Self::Id(id) => (id, Type::UUID),
        }
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A statement with the values of this store.
pub(super) type Query = query::Query<Value>;

/// The rows of a statement, in an order, at most so many.
pub(super) async fn rows(
    select: Query,
    client: &Client,
    order: &str,
    limit: usize,
) -> Result<Vec<Row>, Fault> {
    let (sql, values) = select.end(&format!(" ORDER BY {order} LIMIT {limit}"));
    let bound: Vec<_> = values.iter().map(Value::bound).collect();
    Ok(client.query_typed(&numbered(&sql), &bound).await?)
}

// Postgres counts its parameters where other databases write a question mark.
fn numbered(sql: &str) -> String {
    let mut parts = sql.split('?');
    let mut numbered = parts.next().unwrap_or_default().to_owned();
    for (number, part) in (1..).zip(parts) {
        // Writing to a `String` cannot fail.
        let _ = write!(numbered, "${number}{part}");
    }
    numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_in_their_order() {
        assert_eq!(numbered("SELECT 1"), "SELECT 1");
        assert_eq!(numbered("a = ? AND (b > ?)"), "a = $1 AND (b > $2)");
    }
}
