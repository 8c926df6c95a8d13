//! Whether every table and column of both stores is carried by a copy, or is none of the history.
//!
//! By the schemas that the two stores have made; a table that is new belongs in one of the lists.

use latchkey::store::embedded::{EmbeddedStore, OpenOptions};
use latchkey::store::transfer::TABLES;
use rusqlite::Connection;

use super::same;
use crate::postgres::{database, server};
use crate::program::fresh;

const HEAD: [&str; 10] = [
    "chain",
    "format",
    "grant_max",
    "id",
    "instant_ms",
    "principal_max",
    "requests",
    "revision",
    "state_digest",
    "touched",
];

const NO_HISTORY: &[&str] = &[
    "cluster",
    "head",
    // Carried beside the head row.
    "log_cut",
    "log_parts",
    // May be lost.
    "login_failures",
    "replicas",
    "schema_versions",
    "swept",
    "turn",
    "voided",
];

/// Whatever a table of either store holds is carried, or is none of the history.
#[tokio::test]
async fn every_table_of_both_stores_is_carried_or_named_here_postgres() {
    let database = database().await;
    let client = server().client("postgres", &database.name).await;
    let sql = "SELECT c.table_name::text, c.column_name::text FROM information_schema.columns c
        JOIN pg_class p ON p.relname = c.table_name
        JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = c.table_schema
        WHERE c.table_schema = 'latchkey' AND NOT p.relispartition ORDER BY 1, 2";
    let found = client.query(sql, &[]).await.expect("a schema");
    let mut found: Vec<(String, String)> =
        found.iter().map(|row| (row.get(0), row.get(1))).collect();
    let head = found.iter().filter(|(table, _)| table == "head");
    let head: Vec<&str> = head.map(|(_, column)| column.as_str()).collect();
    assert_eq!(
        head, HEAD,
        "what the head row has is carried, but for its id and `touched`"
    );
    found.retain(|(table, _)| !NO_HISTORY.contains(&table.as_str()));
    // Numbered anew where they arrive.
    let number = ("logins".to_owned(), "number".to_owned());
    found.retain(|column| *column != number);
    let carried = TABLES.iter().flat_map(|table| {
        let columns = table.columns.iter();
        columns.map(|(column, _)| (table.name.to_owned(), (*column).to_owned()))
    });
    let mut carried: Vec<_> = carried.collect();
    carried.sort();
    same::assert_same(&texts(&found), &texts(&carried));

    let folder = fresh();
    drop(EmbeddedStore::open(folder.path(), OpenOptions::default()).expect("opened"));
    let connection = Connection::open(folder.path().join("latchkey.db")).expect("opened");
    let mut select = connection
        .prepare("SELECT s.name, c.name FROM sqlite_schema s, pragma_table_info(s.name) c WHERE s.type = 'table'")
        .expect("a schema");
    let columns = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let columns: Vec<(String, String)> = columns
        .expect("columns")
        .map(|one| one.expect("a column"))
        .collect();
    for (table, column) in columns {
        let housekeeping = ["head", "housekeeping", "log_cut"].contains(&table.as_str());
        let column = (table, column);
        let known = column == number || carried.contains(&column);
        let (table, column) = column;
        assert!(housekeeping || known, "{table}.{column} is not carried");
    }
}

fn texts(pairs: &[(String, String)]) -> Vec<String> {
    pairs
        .iter()
        .map(|(table, column)| format!("{table}.{column}"))
        .collect()
}
