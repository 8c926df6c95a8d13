//! Lists of tokens, with what refuses them.
//!
//! A page reads at most so many rows, because a filter by state or issuing token can reject any
//! number of them; it may then be short and still have a next. Rows, cut-offs, labels and names
//! are looked up for many tokens at a time. Reads tables only; nothing here takes part in a
//! decision.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::directory_row::cut_off_target;
use super::fault::Fault;
use super::query::{Query, Value, rows};
use super::row::{number, optional_number, token_id, value};
use super::token_row::{RECORD_COLUMN_COUNT, RECORD_COLUMNS, TokenRows};
use super::used::{LAST_USED, last_used};
use crate::domain::chain::RevisionNumber;
use crate::domain::change::{CutOffTarget, Subject, TokenRecord};
use crate::domain::token::TokenId;
use crate::store::columns::{
    cut_off_columns, cut_offs_of, is_issued_by, lacks_method, page_rows, state_of, under,
};
use crate::store::list::{LastUsed, Page, StoredToken, TokenQuery};

/// Most rows that one page looks at.
const PAGE_SCAN_MAX: usize = 50_000;
/// Rows that are read at a time when a filter may reject many.
const CHUNK_ROWS: usize = 1_000;

const NAMES: &str = "LEFT JOIN latchkey.principals s ON s.id = t.subject \
                     LEFT JOIN latchkey.principals i ON i.id = t.issuer";
/// Where a token is a credential, when the method was set by which it logs in.
const METHOD: &str = "LEFT JOIN latchkey.login_methods m ON m.principal = t.subject \
                      AND m.method = CASE t.kind WHEN 6 THEN 1 WHEN 7 THEN 2 END";
const LIST_COLUMNS: &str = "s.name, s.deleted_at, i.name, t.name, t.description, t.last4, \
                            t.changed_at, t.revoke_reason, m.made_at";

/// One token by id.
pub(super) async fn token(client: &Client, id: TokenId) -> Result<Option<StoredToken>, Fault> {
    let mut select = Query::select(format!(
        "-- token\nSELECT {RECORD_COLUMNS}, {LIST_COLUMNS} FROM latchkey.tokens t {NAMES} {METHOD}"
    ));
    select.filter("t.id = ?", [Value::id(id)]);
    let found = rows(select, client, "t.id", 1).await?;
    let mut reader = Reader::new(client);
    let mut tokens = reader.read(&found).await?;
    reader.complete(&mut tokens).await?;
    Ok(tokens.pop())
}

/// Tokens, oldest first.
pub(super) async fn tokens(
    client: &Client,
    query: &TokenQuery,
) -> Result<Page<StoredToken, TokenId>, Fault> {
    let mut reader = Reader::new(client);
    let limit = page_rows(query.limit);
    let picky = query.state.is_some() || query.issuer_token.is_some();
    let chunk = if picky { CHUNK_ROWS } else { limit + 1 };
    let mut page = Page {
        rows: Vec::new(),
        next: None,
    };
    let (mut last, mut scanned) = (query.after, 0);
    'chunks: loop {
        let (select, order) = statement(query, last);
        let found = rows(select, client, order, chunk).await?;
        let is_end = found.len() < chunk;
        for token in reader.read(&found).await? {
            if page.rows.len() == limit || scanned == PAGE_SCAN_MAX {
                page.next = last;
                break 'chunks;
            }
            scanned += 1;
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
        if is_end {
            break;
        }
    }
    reader.complete(&mut page.rows).await?;
    Ok(page)
}

/// A statement that walks an index in the order of token ids where a filter has one, so that a
/// page costs what it holds and not what matches; the other filters are tested row by row.
fn statement(query: &TokenQuery, after: Option<TokenId>) -> (Query, &'static str) {
    let issuer = query.issuer.map(|id| Value::Number(id.0.into()));
    let (key, text) = query.label.clone().unzip();
    let (key, text) = (key.map(Value::Text), text.flatten().map(Value::Text));
    let (walked, by_issuer, by_label) = match (query.subject, &issuer, &text) {
        (None, Some(_), _) => ("latchkey.token_issuers w JOIN", true, false),
        (None, None, Some(_)) => ("latchkey.token_labels w JOIN", false, true),
        _ => ("", false, false),
    };
    let (joined, id) = match walked {
        "" => ("", "t.id"),
        _ => (" ON t.id = w.token", "w.token"),
    };
    let mut select = Query::select(format!(
        "-- tokens
        SELECT {RECORD_COLUMNS}, {LIST_COLUMNS} FROM {walked} latchkey.tokens t{joined} {NAMES} {METHOD}"
    ));
    let subject = query.subject.map(|id| Value::Number(id.0.into()));
    select
        .filter_some("t.subject = ?", subject)
        .filter_some("t.parent = ?", query.parent.map(Value::id));
    let answers = "SELECT FROM latchkey.token_issuers WHERE principal = ? AND token = t.id";
    let condition = match by_issuer {
        true => "w.principal = ?",
        false => &format!("EXISTS ({answers})"),
    };
    select.filter_some(condition, issuer);
    let labelled = "EXISTS (SELECT FROM latchkey.token_labels WHERE token = t.id AND key = ?";
    match (key, text) {
        (Some(key), Some(text)) if by_label => {
            select.filter("w.key = ? AND w.value = ?", [key, text]);
        }
        (Some(key), Some(text)) => {
            select.filter(&format!("{labelled} AND value = ?)"), [key, text]);
        }
        (key, _) => {
            select.filter_some(&format!("{labelled})"), key);
        }
    }
    if let Some(resource) = &query.resource_under {
        let condition = "t.resource = ? OR (t.resource >= ? AND t.resource < ?)";
        select.filter(condition, under(resource).map(Value::Text));
    }
    let kind = query.kind.map(|kind| Value::Number((kind as u8).into()));
    select
        .filter_some("t.kind = ?", kind)
        .filter_some(&format!("{id} > ?"), after.map(Value::id));
    (select, id)
}

/// Reads rows of one transaction.
struct Reader<'c> {
    client: &'c Client,
    records: TokenRows,
    /// The revision below which a target is refused; 0 refuses nothing.
    cut_offs: HashMap<CutOffTarget, RevisionNumber>,
}

impl<'c> Reader<'c> {
    fn new(client: &'c Client) -> Self {
        Self {
            client,
            records: TokenRows::default(),
            cut_offs: HashMap::new(),
        }
    }

    /// Everything but what [`Reader::complete`] adds.
    async fn read(&mut self, rows: &[Row]) -> Result<Vec<StoredToken>, Fault> {
        let read = rows.iter().map(|row| self.read_row(row));
        let mut tokens: Vec<StoredToken> = read.collect::<Result<_, _>>()?;
        self.look_up_cut_offs(&tokens).await?;
        for token in &mut tokens {
            token.cut_off |= self.is_cut_off(&token.record);
        }
        Ok(tokens)
    }

    fn read_row(&mut self, row: &Row) -> Result<StoredToken, Fault> {
        const AT: usize = RECORD_COLUMN_COUNT;
        let record = self.records.read(row)?;
        let subject_name = match &record.subject {
            Subject::Resource(resource) => resource.to_string(),
            Subject::Principal(_) => value(row, AT)?,
        };
        let is_gone = value::<Option<i64>>(row, AT + 1)?.is_some();
        let lacks_method = lacks_method(&record, optional_number(row, AT + 8)?);
        Ok(StoredToken {
            record,
            subject_name,
            issuer_name: value(row, AT + 2)?,
            name: value(row, AT + 3)?,
            description: value(row, AT + 4)?,
            labels: BTreeMap::new(),
            last4: value(row, AT + 5)?,
            changed_at: number(row, AT + 6)?,
            cut_off: is_gone || lacks_method,
            revoke_reason: value(row, AT + 7)?,
            last_used: None,
        })
    }

    async fn look_up_cut_offs(&mut self, tokens: &[StoredToken]) -> Result<(), Fault> {
        let (mut kinds, mut texts) = (Vec::new(), Vec::new());
        for (target, _) in tokens.iter().flat_map(|token| cut_offs_of(&token.record)) {
            let (kind, text) = cut_off_columns(&target);
            if let Entry::Vacant(asked) = self.cut_offs.entry(target) {
                // Until it is found.
                asked.insert(0);
                kinds.push(kind);
                texts.push(text);
            }
        }
        if kinds.is_empty() {
            return Ok(());
        }
        let sql = "-- cut_offs
            SELECT c.kind, c.target, c.revision FROM latchkey.cut_offs c
            JOIN unnest($1, $2) asked (kind, target)
              ON asked.kind = c.kind AND asked.target = c.target";
        let bound: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&kinds, Type::TEXT_ARRAY), (&texts, Type::TEXT_ARRAY)];
        for row in self.client.query_typed(sql, &bound).await? {
            self.cut_offs
                .insert(cut_off_target(&row)?, number(&row, 2)?);
        }
        Ok(())
    }

    /// Whether a cut-off refuses the token itself; its ancestors are not asked.
    fn is_cut_off(&self, record: &TokenRecord) -> bool {
        let below = |target: &CutOffTarget| self.cut_offs.get(target).copied().unwrap_or(0);
        let mut targets = cut_offs_of(record).into_iter();
        targets.any(|(target, since)| since < below(&target))
    }

    /// Adds labels, last uses, and the names of issuers that are resource tokens.
    async fn complete(&self, tokens: &mut [StoredToken]) -> Result<(), Fault> {
        let mut labels: HashMap<TokenId, BTreeMap<String, String>> = HashMap::new();
        let ids = || tokens.iter().map(|token| token.record.id);
        let sql = "-- token_labels
            SELECT token, key, value FROM latchkey.token_labels WHERE token = ANY ($1)";
        // Together they take the time of one.
        let read = tokio::try_join!(self.by_ids(sql, ids()), self.by_ids(LAST_USED, ids()));
        let (labelled, used) = read?;
        for row in labelled {
            let of_token = labels.entry(token_id(&row, 0)?).or_default();
            of_token.insert(value(&row, 1)?, value(&row, 2)?);
        }
        let used = used.iter().map(last_used);
        let used: HashMap<TokenId, LastUsed> = used.collect::<Result<_, _>>()?;
        let issuing = tokens.iter().filter_map(issuing_token);
        let sql = "-- issuing_resources
            SELECT id, resource FROM latchkey.tokens WHERE id = ANY ($1) AND resource IS NOT NULL";
        let mut resources: HashMap<TokenId, String> = HashMap::new();
        for row in self.by_ids(sql, issuing).await? {
            resources.insert(token_id(&row, 0)?, value(&row, 1)?);
        }
        for token in tokens {
            token.labels = labels.remove(&token.record.id).unwrap_or_default();
            token.last_used = used.get(&token.record.id).copied();
            if let Some(issuing) = issuing_token(token) {
                token.issuer_name = resources.get(&issuing).cloned();
            }
        }
        Ok(())
    }

    async fn by_ids(
        &self,
        sql: &str,
        ids: impl Iterator<Item = TokenId>,
    ) -> Result<Vec<Row>, Fault> {
        let ids: Vec<Uuid> = ids.map(|id| Uuid::from_bytes(id.to_bytes())).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self
            .client
            .query_typed(sql, &[(&ids, Type::UUID_ARRAY)])
            .await?)
    }
}

/// The token that issued another, where no principal did.
fn issuing_token(token: &StoredToken) -> Option<TokenId> {
    if token.issuer_name.is_some() {
        return None;
    }
    let issuer = token.record.issuers.first()?;
    issuer.tokens.first().copied()
}
