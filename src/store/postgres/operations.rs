//! What a batch of entries changes in the tables: the same facts as `state::apply`, gathered so
//! that the database writes many rows of one sort at a time.
//!
//! Changes are put into steps. Within a step every key (a token, a name, a grant …) stands once,
//! so its operations may run in any order; a key that comes again, and a change that touches what
//! it does not name (*forget*, a deleted principal), begins the next. A batch of issues is thus
//! one step and a handful of statements, and a batch in which everything hangs together still
//! does what its entries say, one after the other. What does not fit the tables is refused there.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::json;

use super::records::{self, stored};
use crate::domain::change::{Change, CutOffTarget, Display, TokenRecord};
use crate::domain::clock::UnixMs;
use crate::domain::entry::{Entry, LogEntry, REQUEST_KEPT_MS, REQUESTS_MAX, Request};
use crate::domain::login::LoginMethod;
use crate::domain::principal::{GrantId, PrincipalId, RoleName};
use crate::domain::seal::key::KeyId;
use crate::domain::token::{Digest, TokenId};
use crate::store::StoreError;
use crate::store::columns::cut_off_columns;

/// Rows of one sort, as the objects of a JSON array.
pub(super) struct Operation {
    /// What `latchkey.write` calls it.
    pub(super) verb: &'static str,
    rows: String,
}

impl Operation {
    fn new(verb: &'static str) -> Self {
        Self {
            verb,
            rows: String::new(),
        }
    }

    fn push(&mut self, row: &impl Serialize) -> Result<(), StoreError> {
        self.rows.push(if self.rows.is_empty() { '[' } else { ',' });
        let refused = |_| StoreError::Refused("a row is no JSON".to_owned());
        self.rows
            .push_str(&serde_json::to_string(row).map_err(refused)?);
        Ok(())
    }

    /// The rows as JSON.
    pub(super) fn json(&self) -> String {
        format!("{}]", self.rows)
    }
}

/// What an operation writes, as far as another could get in its way.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Token(TokenId),
    Principal(PrincipalId),
    Member(PrincipalId, PrincipalId),
    Role(RoleName),
    Grant(GrantId),
    Request([u8; 16]),
    Method(PrincipalId, LoginMethod),
    Locks(PrincipalId),
    Session(TokenId),
    Seal(KeyId),
}

/// The operations of a batch, in order.
#[derive(Default)]
pub(super) struct Operations {
    done: Vec<Operation>,
    step: Vec<Operation>,
    touched: HashSet<Key>,
    /// Of this step: a later one of the same target takes the former's place.
    cut_offs: BTreeMap<(&'static str, String), i64>,
    /// The highest internal ids that the batch gives.
    pub(super) principal_max: u32,
    pub(super) grant_max: u32,
}

/// The operations that `entries` ask for.
///
/// # Errors
/// [`StoreError::Refused`] for what no table holds.
pub(super) fn operations(entries: &[LogEntry]) -> Result<Operations, StoreError> {
    let mut operations = Operations::default();
    for logged in entries {
        operations.add(&logged.entry)?;
    }
    operations.end_step()?;
    Ok(operations)
}

impl Operations {
    /// In the order in which they run.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.done.iter()
    }

    fn add(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.add_change(entry)?;
        match &entry.request {
            Some(request) => self.put_request(entry, request),
            None => Ok(()),
        }
    }

    fn add_change(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let changed_at = stored(entry.revision)?;
        match &entry.change {
            Change::PutToken {
                record,
                digest,
                display,
            } => self.put_token(entry, record, digest.as_ref(), display),
            Change::RevokeToken { id, compromised } => {
                self.touch(Key::Token(*id))?;
                let row = json!({"id": records::uuid(*id).to_string(), "changed_at": changed_at,
                    "revoked_ms": stored(entry.instant_ms)?, "revoke_reason": entry.reason});
                self.push("revoke_tokens", &row)?;
                if *compromised {
                    self.put_cut_off(entry, &CutOffTarget::IssuedByToken(*id))?;
                }
                Ok(())
            }
            Change::CutOff(target) => self.put_cut_off(entry, target),
            Change::UseToken { id, left } => self.use_token(entry, *id, *left),
            Change::PutPrincipal { record, display } => {
                self.principal_max = self.principal_max.max(record.id.0);
                self.touch(Key::Principal(record.id))?;
                self.push(
                    "put_principals",
                    &records::principal(entry, record, display)?,
                )
            }
            // Takes grants and memberships with it, and frees a name.
            Change::DeletePrincipal(id) => {
                let row = json!([{"id": id.0, "changed_at": changed_at}]);
                self.alone("delete_principals", &row)
            }
            Change::PutRole { record, display } => {
                self.touch(Key::Role(record.name.clone()))?;
                self.push("put_roles", &records::role(entry, record, display)?)
            }
            Change::DeleteRole(name) => {
                self.touch(Key::Role(name.clone()))?;
                self.push("delete_roles", &json!({"name": name.as_str()}))
            }
            Change::PutGrant(record) => {
                self.grant_max = self.grant_max.max(record.id.0);
                self.touch(Key::Grant(record.id))?;
                self.push("put_grants", &records::grant(entry, record)?)
            }
            Change::DeleteGrant(id) => {
                self.touch(Key::Grant(*id))?;
                self.push("delete_grants", &json!({"id": id.0}))
            }
            Change::AddMember { .. } | Change::RemoveMember { .. } => self.change_member(entry),
            Change::Forget { before_ms, slice } => self.forget(entry, *before_ms, *slice),
            Change::RaiseFormat(level) => self.alone("raise_format", &json!([{"level": level}])),
            Change::Login { spent, token } => {
                if let Some((id, left)) = spent {
                    self.use_token(entry, *id, *left)?;
                }
                match token {
                    Some(new) => {
                        self.put_token(entry, &new.record, Some(&new.digest), &new.display)
                    }
                    None => Ok(()),
                }
            }
            Change::RevokeSession { .. }
            | Change::PutMethod(_)
            | Change::DeleteMethod { .. }
            | Change::Lock { .. }
            | Change::Unlock { .. }
            | Change::PutSealKeys(_) => self.change_logins(entry),
        }
    }

    fn change_logins(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let changed_at = stored(entry.revision)?;
        match &entry.change {
            Change::RevokeSession {
                session,
                until_ms,
                compromised,
                ..
            } => {
                self.touch(Key::Session(*session))?;
                let row = json!({"session": records::uuid(*session).to_string(),
                    "until_ms": stored(*until_ms)?, "changed_at": changed_at});
                self.push("revoke_sessions", &row)?;
                match *compromised {
                    true => self.put_cut_off(entry, &CutOffTarget::IssuedByToken(*session)),
                    false => Ok(()),
                }
            }
            Change::PutMethod(record) => {
                // Only of a principal that is there.
                self.touch(Key::Principal(record.principal))?;
                self.touch(Key::Method(record.principal, record.method))?;
                self.push("put_methods", &records::method(entry, record)?)
            }
            Change::DeleteMethod { principal, method } => {
                self.touch(Key::Method(*principal, *method))?;
                let row = json!({"principal": principal.0, "method": *method as u8});
                self.push("delete_methods", &row)
            }
            Change::Lock {
                principal,
                network,
                until_ms,
            } => {
                self.touch(Key::Principal(*principal))?;
                // Other locks of the account may go by it.
                self.touch(Key::Locks(*principal))?;
                let ended_ms = stored(entry.instant_ms)?;
                let row = json!({"principal": principal.0, "until_ms": ended_ms});
                self.push("end_locks", &row)?;
                let row = json!({"principal": principal.0, "network": network.to_string(),
                    "until_ms": stored(*until_ms)?, "changed_at": changed_at});
                self.push("put_locks", &row)
            }
            Change::Unlock {
                principal,
                networks,
            } => {
                self.touch(Key::Locks(*principal))?;
                networks.iter().try_for_each(|network| {
                    let row = json!({"principal": principal.0, "network": network.to_string()});
                    self.push("delete_locks", &row)
                })
            }
            Change::PutSealKeys(keys) => {
                for record in keys {
                    self.touch(Key::Seal(record.id))?;
                    self.push("put_seal_keys", &records::seal_key(entry, record)?)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn use_token(&mut self, entry: &Entry, id: TokenId, left: u32) -> Result<(), StoreError> {
        self.touch(Key::Token(id))?;
        let row = json!({"id": records::uuid(id).to_string(), "uses_left": left,
            "changed_at": stored(entry.revision)?});
        self.push("use_tokens", &row)
    }

    fn put_token(
        &mut self,
        entry: &Entry,
        record: &TokenRecord,
        digest: Option<&Digest>,
        display: &Display,
    ) -> Result<(), StoreError> {
        if digest.is_some_and(|digest| digest.key() != record.key) {
            let what = "a token's key is not that of its digest";
            return Err(StoreError::Refused(what.to_owned()));
        }
        self.touch(Key::Token(record.id))?;
        let row = records::token(entry, record, digest, display)?;
        self.push("put_tokens", &row)?;
        let id = records::uuid(record.id).to_string();
        // One principal may answer for a token twice, from two revisions on.
        let principals = record.issuers.iter().filter_map(|issuer| issuer.principal);
        let principals: HashSet<PrincipalId> = principals.collect();
        for principal in principals {
            self.push(
                "put_token_issuers",
                &json!({"token": id, "principal": principal.0}),
            )?;
        }
        let Some(labels) = &display.labels else {
            return Ok(());
        };
        self.push("clear_token_labels", &json!({"token": id}))?;
        for (key, value) in labels {
            let row = json!({"token": id, "key": key, "value": value});
            self.push("put_token_labels", &row)?;
        }
        Ok(())
    }

    fn put_cut_off(&mut self, entry: &Entry, target: &CutOffTarget) -> Result<(), StoreError> {
        // Revisions only grow.
        let revision = stored(entry.revision)?;
        self.cut_offs.insert(cut_off_columns(target), revision);
        Ok(())
    }

    fn change_member(&mut self, entry: &Entry) -> Result<(), StoreError> {
        match &entry.change {
            Change::AddMember { team, member } => {
                self.touch(Key::Member(*team, *member))?;
                let row = json!({"team": team.0, "member": member.0,
                    "made_at": stored(entry.revision)?, "created_ms": stored(entry.instant_ms)?,
                    "added_by": entry.actor.name});
                self.push("add_members", &row)
            }
            Change::RemoveMember {
                team,
                member,
                cut_off_tokens,
            } => {
                self.touch(Key::Member(*team, *member))?;
                let row = json!({"team": team.0, "member": member.0});
                self.push("remove_members", &row)?;
                match *cut_off_tokens {
                    true => self.put_cut_off(entry, &CutOffTarget::IssuedForTeam(*team, *member)),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Deletes what it does not name: alone between what was before it and what comes after.
    fn forget(&mut self, entry: &Entry, before_ms: UnixMs, slice: u8) -> Result<(), StoreError> {
        let kept_from_ms = entry.instant_ms.saturating_sub(REQUEST_KEPT_MS);
        let before_ms = stored(before_ms)?;
        let row = json!([{"slice": slice, "before_ms": before_ms,
            "requests_before_ms": stored(kept_from_ms)?}]);
        self.alone("forget", &row)?;
        self.alone("forget_logins", &json!([{"before_ms": before_ms}]))
    }

    fn put_request(&mut self, entry: &Entry, request: &Request) -> Result<(), StoreError> {
        // A key may come again once its time is over and before it was forgotten.
        self.touch(Key::Request(request.key))?;
        let row = json!({"revision": stored(entry.revision)?, "key": records::hex(&request.key),
            "fingerprint": records::hex(&request.fingerprint),
            "instant_ms": stored(entry.instant_ms)?});
        self.push("put_requests", &row)
    }

    /// Begins a new step if this one has the key already.
    fn touch(&mut self, key: Key) -> Result<(), StoreError> {
        if self.touched.contains(&key) {
            self.end_step()?;
        }
        self.touched.insert(key);
        Ok(())
    }

    fn push(&mut self, verb: &'static str, row: &impl Serialize) -> Result<(), StoreError> {
        let index = self.step.iter().position(|one| one.verb == verb);
        let index = index.unwrap_or_else(|| {
            self.step.push(Operation::new(verb));
            self.step.len() - 1
        });
        self.step[index].push(row)
    }

    fn alone(&mut self, verb: &'static str, rows: &serde_json::Value) -> Result<(), StoreError> {
        self.end_step()?;
        for row in rows.as_array().into_iter().flatten() {
            self.push(verb, row)?;
        }
        self.end_step()
    }

    fn end_step(&mut self) -> Result<(), StoreError> {
        for ((kind, target), revision) in std::mem::take(&mut self.cut_offs) {
            let row = json!({"kind": kind, "target": target, "revision": revision});
            self.push("put_cut_offs", &row)?;
        }
        let requests = self.step.iter().any(|one| one.verb == "put_requests");
        self.done.append(&mut self.step);
        if requests {
            let mut bound = Operation::new("bound_requests");
            bound.push(&json!({"most": REQUESTS_MAX}))?;
            self.done.push(bound);
        }
        self.touched.clear();
        Ok(())
    }
}
