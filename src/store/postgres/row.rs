//! Columns of a row as the domain's values.
//!
//! A value of another form is a fault, never a panic and never a guess. Numbers are unsigned in
//! the domain and `bigint` in the tables.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::fault::Fault;
use crate::domain::token::TokenId;

/// A column as the driver reads it.
pub(super) fn value<'r, T: FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, Fault> {
    row.try_get(index)
        .map_err(|_| Fault::Row("value of another form"))
}

/// A number.
pub(super) fn number<N: TryFrom<i64>>(row: &Row, index: usize) -> Result<N, Fault> {
    N::try_from(value::<i64>(row, index)?).map_err(|_| Fault::Row("number"))
}

/// A number, if there is one.
pub(super) fn optional_number<N: TryFrom<i64>>(
    row: &Row,
    index: usize,
) -> Result<Option<N>, Fault> {
    let found = value::<Option<i64>>(row, index)?;
    let number = found.map(N::try_from).transpose();
    number.map_err(|_| Fault::Row("number"))
}

/// Exactly so many bytes.
pub(super) fn bytes<const N: usize>(row: &Row, index: usize) -> Result<[u8; N], Fault> {
    sized(value::<&[u8]>(row, index)?)
}

/// Exactly so many bytes, if there are any.
pub(super) fn optional_bytes<const N: usize>(
    row: &Row,
    index: usize,
) -> Result<Option<[u8; N]>, Fault> {
    value::<Option<&[u8]>>(row, index)?.map(sized).transpose()
}

fn sized<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| Fault::Row("number of bytes"))
}

/// A token's id.
pub(super) fn token_id(row: &Row, index: usize) -> Result<TokenId, Fault> {
    let id: uuid::Uuid = value(row, index)?;
    Ok(TokenId::from_bytes(id.into_bytes()))
}
