//! A `SELECT` put together from the filters that were given.
//!
//! Values are always bound, never written into the text. They go with their types in one message
//! and without a name, so that nothing is prepared. Used by the lists.

use std::fmt::Write as _;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::fault::Fault;
use crate::domain::permission::Resource;
use crate::domain::token::TokenId;
use crate::store::columns::under;

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

/// A statement in the making, and the values that it binds.
pub(super) struct Query {
    sql: String,
    values: Vec<Value>,
    filtered: bool,
}

impl Query {
    /// Begins with everything up to `WHERE`.
    pub(super) fn select(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            values: Vec::new(),
            filtered: false,
        }
    }

    /// Adds a condition; each `?` in it is bound to the next of `values`.
    pub(super) fn filter(
        &mut self,
        condition: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> &mut Self {
        self.sql
            .push_str(if self.filtered { " AND (" } else { " WHERE (" });
        let mut values = values.into_iter();
        for (index, part) in condition.split('?').enumerate() {
            if index > 0 {
                self.values.extend(values.next());
                // Writing to a `String` cannot fail.
                let _ = write!(self.sql, "${}", self.values.len());
            }
            self.sql.push_str(part);
        }
        self.sql.push(')');
        self.filtered = true;
        self
    }

    /// Adds a condition if there is a value for it.
    pub(super) fn filter_some(&mut self, condition: &str, value: Option<Value>) -> &mut Self {
        if let Some(value) = value {
            self.filter(condition, [value]);
        }
        self
    }

    /// Keeps rows whose `column` is this resource or one below it.
    pub(super) fn filter_under(&mut self, column: &str, resource: Option<&Resource>) -> &mut Self {
        if let Some(resource) = resource {
            let condition = format!("{column} = ? OR ({column} >= ? AND {column} < ?)");
            self.filter(&condition, under(resource).map(Value::Text));
        }
        self
    }

    /// The rows, in an order, at most so many.
    pub(super) async fn rows(
        &self,
        client: &Client,
        order: &str,
        limit: usize,
    ) -> Result<Vec<Row>, Fault> {
        let sql = format!("{} ORDER BY {order} LIMIT {limit}", self.sql);
        let bound: Vec<_> = self.values.iter().map(Value::bound).collect();
        Ok(client.query_typed(&sql, &bound).await?)
    }
}
