//! A `SELECT` put together from the filters that were given.
//!
//! Values are always bound, never written into the text: each `?` stands for the next of them,
//! and a store that writes its parameters in another way rewrites those. Used by the lists of
//! every store, which say what a value is.

use crate::domain::permission::Resource;

use super::columns::under;

/// A statement in the making, and the values that it binds.
pub(super) struct Query<V> {
    sql: String,
    values: Vec<V>,
    filtered: bool,
}

impl<V: From<String>> Query<V> {
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
        values: impl IntoIterator<Item = V>,
    ) -> &mut Self {
        self.sql
            .push_str(if self.filtered { " AND (" } else { " WHERE (" });
        self.sql.push_str(condition);
        self.sql.push(')');
        self.filtered = true;
        self.values.extend(values);
        self
    }

    /// Adds a condition if there is a value for it.
    pub(super) fn filter_some(&mut self, condition: &str, value: Option<V>) -> &mut Self {
        if let Some(value) = value {
            self.filter(condition, [value]);
        }
        self
    }

    /// Keeps rows whose `column` is this resource or one below it.
    pub(super) fn filter_under(&mut self, column: &str, resource: Option<&Resource>) -> &mut Self {
        if let Some(resource) = resource {
            let condition = format!("{column} = ? OR ({column} >= ? AND {column} < ?)");
            self.filter(&condition, under(resource).map(V::from));
        }
        self
    }

    /// Ends the statement with everything after the conditions.
    pub(super) fn end(mut self, order: &str) -> (String, Vec<V>) {
        self.sql.push_str(order);
        (self.sql, self.values)
    }
}
