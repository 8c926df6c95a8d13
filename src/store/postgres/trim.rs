//! Trimming the log: what an owner of the tables does now and then, beside servers that run.
//!
//! Partitions are detached first, in one message whose locks are waited for but a moment: whoever
//! reads or writes the log meanwhile waits as long, and a trim that meets a long reader gives way
//! and tries again. Then they are dropped in the same way, which no server waits for. A trim that
//! was cut off between the two is finished by the next.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;

use super::OpenError;
use super::connect;
use super::fault::{self, Fault};
use super::migrate;
use super::row::{bytes, number};
use super::settings::Settings;
use crate::domain::chain::Head;
use crate::store::{StoreError, Trim};

/// How long the log may be waited for, and so kept waiting, at a time.
const LOCK_TIME_MAX: Duration = Duration::from_millis(100);
/// Between two tries; the others go on meanwhile.
const PAUSE: Duration = Duration::from_millis(500);
const TRIES_MAX: usize = 60;

/// Trims the log, and returns where it then begins. What a member has not applied and whatever
/// does not fill a partition stays.
///
/// # Errors
/// [`OpenError`]; what was trimmed stays so.
pub async fn trim(settings: &Settings, trim: &Trim) -> Result<Head, OpenError> {
    let connection = connect::once(&settings.url, settings).await?;
    let client = &connection.client;
    migrate::check(client).await?;
    let past = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let detach = format!(
        "latchkey.trim_log({}, {}, {})",
        past(trim.before_ms),
        past(trim.upto),
        past(trim.requests_from_ms()),
    );
    if !gently(client, &detach).await? {
        let what = "the log was in use all the time; nothing was trimmed".to_owned();
        return Err(StoreError::Unavailable(what).into());
    }
    if !gently(client, "latchkey.drop_trimmed()").await? {
        tracing::warn!("somebody reads what was trimmed; the next trim drops it");
    }
    let sql = "-- trim\nSELECT revision, chain FROM latchkey.log_cut";
    let row = client.query_typed_one(sql, &[]).await;
    let row = row.map_err(|error| OpenError::Store(Fault::Sql(error).at(0)))?;
    let cut = || {
        Ok(Head {
            revision: number(&row, 0)?,
            chain: bytes(&row, 1)?,
        })
    };
    cut().map_err(|fault: Fault| OpenError::Store(fault.at(0)))
}

/// Calls a function whose locks are waited for but a moment, again while somebody has them; false
/// if that went on all the time.
async fn gently(client: &Client, call: &str) -> Result<bool, OpenError> {
    // A trim that a failover loses is made again: locks are not held while a standby is awaited.
    let sql = format!(
        "-- trim
        BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {};
        SET LOCAL synchronous_commit = local;
        SELECT {call};
        COMMIT",
        LOCK_TIME_MAX.as_millis(),
    );
    for _ in 0..TRIES_MAX {
        let Err(error) = client.simple_query(&sql).await else {
            return Ok(true);
        };
        if !fault::is_locked(&error) && !fault::is_retried(&error) {
            return Err(OpenError::Store(Fault::Sql(error).at(0)));
        }
        let rolled_back = client.simple_query("-- trim\nROLLBACK").await;
        rolled_back.map_err(|error| OpenError::Store(Fault::Sql(error).at(0)))?;
        tracing::info!("somebody reads the log for long; trying again");
        sleep(PAUSE).await;
    }
    Ok(false)
}
