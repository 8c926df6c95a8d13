//! Lists of tokens, with what refuses them.
//!
//! A page reads at most so many rows, because a filter by state or issuing token can reject any
//! number of them; it may then be short and still have a next. Cut-offs are looked up once for
//! each target that a page meets. Reads tables only; nothing here takes part in a decision.

use std::collections::{BTreeMap, HashMap};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};

use super::fault::Fault;
use super::token_row::{RECORD_COLUMN_COUNT, RECORD_COLUMNS, TokenRows};
use super::used::last_used;
use crate::domain::chain::RevisionNumber;
use crate::domain::change::{CutOffTarget, Subject, TokenRecord};
use crate::domain::token::TokenId;
use crate::store::columns::{
    cut_off_columns, cut_offs_of, is_issued_by, lacks_method, page_rows, state_of, under,
};
use crate::store::list::{Page, StoredToken, TokenQuery};
use crate::store::query::Query;

/// Most rows that one page looks at.
const PAGE_SCAN_MAX: usize = 50_000;

const NAMES: &str = "LEFT JOIN principals s ON s.id = t.subject \
                     LEFT JOIN principals i ON i.id = t.issuer";
/// Where a token is a credential, when the method was set by which it logs in.
const METHOD: &str = "LEFT JOIN login_methods m ON m.principal = t.subject \
                      AND m.method = CASE t.kind WHEN 6 THEN 1 WHEN 7 THEN 2 END";
const LIST_COLUMNS: &str = "s.name, s.deleted_at, i.name, t.name, t.description, t.last4, \
                            t.changed_at, t.revoke_reason, m.made_at";

/// One token by id.
pub(super) fn token(
    connection: &mut Connection,
    id: TokenId,
) -> Result<Option<StoredToken>, Fault> {
    let transaction = connection.transaction()?;
    let sql = format!(
        "-- token\nSELECT {RECORD_COLUMNS}, {LIST_COLUMNS} FROM tokens t {NAMES} {METHOD} WHERE t.id = ?1"
    );
    let mut select = transaction.prepare_cached(&sql)?;
    let mut rows = select.query([id.to_bytes()])?;
    let mut reader = Reader::new(&transaction);
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut token = reader.read(row)?;
    reader.complete(&mut token)?;
    Ok(Some(token))
}

/// Tokens, oldest first.
pub(super) fn tokens(
    connection: &mut Connection,
    query: &TokenQuery,
) -> Result<Page<StoredToken, TokenId>, Fault> {
    // The head and the rows of one moment: a cut-off must not be newer than what it cuts off.
    let transaction = connection.transaction()?;
    let (sql, values) = statement(query);
    let mut select = transaction.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut reader = Reader::new(&transaction);
    let limit = page_rows(query.limit);
    let mut page = Page {
        rows: Vec::new(),
        next: None,
    };
    let mut last = None;
    let mut scanned = 0;
    while let Some(row) = rows.next()? {
        if page.rows.len() == limit || scanned == PAGE_SCAN_MAX {
            page.next = last;
            break;
        }
        scanned += 1;
        let token = reader.read(row)?;
        last = Some(token.record.id);
        let state = state_of(&token.record, token.cut_off, query.now_ms);
        // Its issuers are packed in the row: read, and bounded, like a state.
        let issued = query
            .issuer_token
            .is_none_or(|id| is_issued_by(&token.record, id));
        if issued && query.state.is_none_or(|wanted| wanted == state) {
            page.rows.push(token);
        }
    }
    for token in &mut page.rows {
        reader.complete(token)?;
    }
    Ok(page)
}

/// A statement that walks an index in the order of token ids where a filter has one, so that a
/// page costs what it holds and not what matches; the other filters are tested row by row.
fn statement(query: &TokenQuery) -> (String, Vec<Value>) {
    let issuer = query.issuer.map(|id| Value::from(id.0));
    let (key, text) = query.label.clone().unzip();
    let (key, text) = (key.map(Value::Text), text.flatten().map(Value::Text));
    let (walked, by_issuer, by_label) = match (query.subject, &issuer, &text) {
        (None, Some(_), _) => ("token_issuers w CROSS JOIN", true, false),
        (None, None, Some(_)) => ("token_labels w CROSS JOIN", false, true),
        _ => ("", false, false),
    };
    let (joined, id) = match walked {
        "" => ("", "t.id"),
        _ => (" ON t.id = w.token", "w.token"),
    };
    let mut select = Query::select(format!(
        "-- tokens\nSELECT {RECORD_COLUMNS}, {LIST_COLUMNS} FROM {walked} tokens t{joined} {NAMES} {METHOD}"
    ));
    let parent = query.parent.map(|id| Value::Blob(id.to_bytes().to_vec()));
    select
        .filter_some("t.subject = ?", query.subject.map(|id| id.0.into()))
        .filter_some("t.parent = ?", parent);
    let condition = match by_issuer {
        true => "w.principal = ?",
        false => "EXISTS (SELECT 1 FROM token_issuers WHERE principal = ? AND token = t.id)",
    };
    select.filter_some(condition, issuer);
    match (key, text) {
        (Some(key), Some(text)) if by_label => {
            select.filter("w.key = ? AND w.value = ?", [key, text]);
        }
        (Some(key), Some(text)) => {
            let labelled =
                "SELECT 1 FROM token_labels WHERE token = t.id AND key = ? AND value = ?";
            select.filter(&format!("EXISTS ({labelled})"), [key, text]);
        }
        (key, _) => {
            let labelled = "SELECT token FROM token_labels WHERE key = ?";
            select.filter_some(&format!("t.id IN ({labelled})"), key);
        }
    }
    if let Some(resource) = &query.resource_under {
        select.filter(
            "t.id IN (SELECT id FROM tokens WHERE resource = ? UNION ALL
                      SELECT id FROM tokens WHERE resource >= ? AND resource < ?)",
            under(resource).map(Value::Text),
        );
    }
    let after = query
        .after
        .map(|after| Value::Blob(after.to_bytes().to_vec()));
    select
        .filter_some("t.kind = ?", query.kind.map(|kind| (kind as u8).into()))
        .filter_some(&format!("{id} > ?"), after);
    select.end(&format!(" ORDER BY {id}"))
}

/// Reads rows of one transaction.
struct Reader<'c> {
    connection: &'c Connection,
    records: TokenRows,
    cut_offs: HashMap<CutOffTarget, RevisionNumber>,
}

impl<'c> Reader<'c> {
    fn new(connection: &'c Connection) -> Self {
        Self {
            connection,
            records: TokenRows::default(),
            cut_offs: HashMap::new(),
        }
    }

    /// Everything but what [`Reader::complete`] adds.
    fn read(&mut self, row: &Row<'_>) -> Result<StoredToken, Fault> {
        const AT: usize = RECORD_COLUMN_COUNT;
        let record = self.records.read(row)?;
        let subject_gone = row.get::<_, Option<RevisionNumber>>(AT + 1)?.is_some();
        let lacks_method = lacks_method(&record, row.get(AT + 8)?);
        let cut_off = subject_gone || lacks_method || self.is_cut_off(&record)?;
        let subject_name = match &record.subject {
            Subject::Resource(resource) => resource.to_string(),
            Subject::Principal(_) => row.get(AT)?,
        };
        Ok(StoredToken {
            record,
            subject_name,
            issuer_name: row.get(AT + 2)?,
            name: row.get(AT + 3)?,
            description: row.get(AT + 4)?,
            labels: BTreeMap::new(),
            last4: row.get(AT + 5)?,
            changed_at: row.get(AT + 6)?,
            cut_off,
            revoke_reason: row.get(AT + 7)?,
            last_used: None,
        })
    }

    /// Adds labels, the last use, and the name of an issuer that is a resource token.
    fn complete(&mut self, token: &mut StoredToken) -> Result<(), Fault> {
        let sql = "-- token_labels\nSELECT key, value FROM token_labels WHERE token = ?1";
        let mut select = self.connection.prepare_cached(sql)?;
        let labels = select.query_map([token.record.id.to_bytes()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        token.labels = labels.collect::<rusqlite::Result<_>>()?;
        token.last_used = last_used(self.connection, token.record.id)?;
        let issuer = token.record.issuers.first();
        if token.issuer_name.is_none()
            && let Some(issuing) = issuer.and_then(|issuer| issuer.tokens.first())
        {
            let sql = "-- issuing_resource\nSELECT resource FROM tokens WHERE id = ?1";
            let mut select = self.connection.prepare_cached(sql)?;
            let found = select.query_row([issuing.to_bytes()], |row| row.get(0));
            token.issuer_name = found.optional()?.flatten();
        }
        Ok(())
    }

    fn is_cut_off(&mut self, record: &TokenRecord) -> Result<bool, Fault> {
        for (target, since) in cut_offs_of(record) {
            if since < self.cut_off(target)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The revision below which a target is refused; 0 refuses nothing.
    fn cut_off(&mut self, target: CutOffTarget) -> Result<RevisionNumber, Fault> {
        if let Some(revision) = self.cut_offs.get(&target) {
            return Ok(*revision);
        }
        let (kind, text) = cut_off_columns(&target);
        let sql = "-- cut_off\nSELECT revision FROM cut_offs WHERE kind = ?1 AND target = ?2";
        let mut select = self.connection.prepare_cached(sql)?;
        let found = select.query_row(params![kind, text], |row| row.get(0));
        let revision = found.optional()?.unwrap_or(0);
        self.cut_offs.insert(target, revision);
        Ok(revision)
    }
}
