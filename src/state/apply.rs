//! Apply: the one place where State changes. Deterministic; every rule is already behind it.
//!
//! Called on the writer's private clone for what was just decided, for entries that others
//! appended, and (by `load`) for the rows of a snapshot at start. Each record that comes or goes is added
//! to or taken from the State digest, so that tables, replay and replicas can be compared.

use thiserror::Error;

use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::change::{
    Change, CutOffTarget, GrantRecord, PrincipalRecord, Revoked, RoleRecord, Row, Subject,
    TokenRecord,
};
use crate::domain::clock::UnixMs;
use crate::domain::entry::{Entry, LogEntry, REQUEST_KEPT_MS, REQUESTS_MAX, Request};
use crate::domain::principal::{GrantId, PrincipalId, RoleName};
use crate::domain::token::{TokenId, TokenKind};

use super::digest::RecordHash;
use super::{Answered, State};

/// An entry does not follow from this State.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Diverged {
    /// The entry is not the next one: a hole, or another history.
    #[error("entry {found} does not follow revision {head}")]
    NotNext {
        /// The head of this State.
        head: RevisionNumber,
        /// The entry's revision.
        found: RevisionNumber,
    },
    /// The chain hash of the entry does not continue this State's.
    #[error("the chain is broken at revision {0}")]
    Chain(RevisionNumber),
    /// After the entry this State is not what its writer had.
    #[error("the state digest differs at revision {0}")]
    Digest(RevisionNumber),
}

impl State {
    /// Applies a stored entry: it must be the next, continue the chain and make the digest.
    ///
    /// # Errors
    /// [`Diverged`]; this State must then be thrown away.
    pub fn apply(&mut self, logged: &LogEntry) -> Result<(), Diverged> {
        let entry = &logged.entry;
        let next = self.head.after(&logged.body);
        if entry.revision != next.revision {
            return Err(Diverged::NotNext {
                head: self.head.revision,
                found: entry.revision,
            });
        }
        if next != logged.head {
            return Err(Diverged::Chain(entry.revision));
        }
        self.advance(entry);
        self.head = next;
        match entry.state_digest {
            Some(digest) if digest != self.digest() => Err(Diverged::Digest(entry.revision)),
            _ => Ok(()),
        }
    }

    /// Applies what was just decided on this State; the head follows with [`State::seal`].
    pub fn advance(&mut self, entry: &Entry) {
        self.instant_ms = entry.instant_ms;
        self.apply_change(entry);
        if let Some(request) = &entry.request {
            self.remember(request, entry.revision, entry.instant_ms);
            self.bound_requests();
        }
    }

    /// Sets the head of a batch that was advanced over.
    pub fn seal(&mut self, head: Head) {
        self.head = head;
    }

    /// This State if the log were raised to a newer level; none if that is no newer one.
    #[must_use]
    pub fn raised(&self, level: u32) -> Option<Self> {
        let mut raised = (level > self.format()).then(|| self.clone())?;
        raised.raise_format(level);
        Some(raised)
    }

    /// Puts one row of a snapshot; all of one goes faster by a [`super::Loader`].
    pub fn load(&mut self, row: &Row) {
        match row {
            Row::Format(level) => self.raise_format(*level),
            Row::Counters { principal, grant } => {
                self.directory.raise_counters(*principal, *grant);
            }
            Row::Principal(record) => self.put_principal(record),
            Row::Member { team, member } => self.add_member(*team, *member),
            Row::Role(record) => self.put_role(record),
            Row::Grant(record) => self.put_grant(record),
            Row::CutOff(target, revision) => self.put_cut_off(target.clone(), *revision),
            Row::Request {
                request,
                revision,
                instant_ms,
            } => self.remember(request, *revision, *instant_ms),
            Row::Method(record) => self.put_method(record),
            Row::SealKey(record) => self.put_seal_key(record),
            Row::RevokedSession { session, until_ms } => {
                self.put_revoked_session(*session, *until_ms);
            }
            Row::Lock {
                principal,
                network,
                until_ms,
            } => self.put_lock(*principal, *network, *until_ms),
            Row::Token(record) => self.put_token(record),
        }
    }

    fn apply_change(&mut self, entry: &Entry) {
        match &entry.change {
            Change::PutToken { record, .. } => self.put_token(record),
            Change::RevokeToken { id, compromised } => {
                self.revoke_token(*id, entry);
                if *compromised {
                    self.put_cut_off(CutOffTarget::IssuedByToken(*id), entry.revision);
                }
            }
            Change::CutOff(target) => self.put_cut_off(target.clone(), entry.revision),
            Change::UseToken { id, left } => self.use_token(*id, *left),
            Change::PutPrincipal { record, .. } => self.put_principal(record),
            Change::DeletePrincipal(id) => self.delete_principal(*id),
            Change::AddMember { team, member } => self.add_member(*team, *member),
            Change::RemoveMember {
                team,
                member,
                cut_off_tokens,
            } => {
                self.remove_member(*team, *member);
                if *cut_off_tokens {
                    let target = CutOffTarget::IssuedForTeam(*team, *member);
                    self.put_cut_off(target, entry.revision);
                }
            }
            Change::PutRole { record, .. } => self.put_role(record),
            Change::DeleteRole(name) => self.delete_role(name),
            Change::PutGrant(record) => self.put_grant(record),
            Change::DeleteGrant(id) => self.delete_grant(*id),
            Change::Forget { before_ms, slice } => {
                self.forget(*before_ms, *slice, entry.instant_ms)
            }
            Change::RaiseFormat(level) => self.raise_format(*level),
            Change::Login { spent, token } => {
                if let Some((id, left)) = spent {
                    self.use_token(*id, *left);
                }
                if let Some(new) = token {
                    self.put_token(&new.record);
                }
            }
            Change::RevokeSession {
                session,
                until_ms,
                compromised,
                ..
            } => self.revoke_session(*session, *until_ms, *compromised, entry.revision),
            Change::PutMethod(record) => self.put_method(record),
            Change::DeleteMethod { principal, method } => self.delete_method(*principal, *method),
            Change::Lock {
                principal,
                network,
                until_ms,
            } => self.lock_out(*principal, *network, *until_ms, entry.instant_ms),
            Change::Unlock {
                principal,
                networks,
            } => self.unlock(*principal, networks),
            Change::PutSealKeys(keys) => keys.iter().for_each(|key| self.put_seal_key(key)),
        }
    }

    fn use_token(&mut self, id: TokenId, left: u32) {
        self.change_token(id, |record| {
            if let Some(uses) = &mut record.uses {
                uses.left = left;
            }
        });
    }

    fn put_token(&mut self, record: &TokenRecord) {
        if let Some(former) = self.tokens.put(record) {
            self.digest.subtract(RecordHash::token(&former));
        }
        self.digest.add(RecordHash::token(record));
    }

    fn change_token(&mut self, id: TokenId, change: impl FnOnce(&mut TokenRecord)) {
        if let Some(mut record) = self.token(id) {
            change(&mut record);
            self.put_token(&record);
        }
    }

    fn revoke_token(&mut self, id: TokenId, entry: &Entry) {
        self.change_token(id, |record| {
            // Revoking twice keeps the first instant.
            record.revoked.get_or_insert(Revoked {
                revision: entry.revision,
                at_ms: entry.instant_ms,
            });
        });
    }

    pub(super) fn remove_token(&mut self, id: TokenId) {
        if let Some(former) = self.tokens.remove(id) {
            self.digest.subtract(RecordHash::token(&former));
        }
    }

    pub(super) fn put_cut_off(&mut self, target: CutOffTarget, revision: RevisionNumber) {
        if let CutOffTarget::IssuedByToken(id) = target {
            let newest = revision.max(self.cut_off(&target));
            self.issued_cut_offs.insert(id.session(), newest);
        }
        if let Some(former) = self.cut_offs.get(&target) {
            self.digest.subtract(RecordHash::cut_off(&target, *former));
        }
        self.digest.add(RecordHash::cut_off(&target, revision));
        if let CutOffTarget::Subject(id) = target {
            self.directory
                .change_principal(id, |principal| principal.cut_off = revision);
            self.cut_offs.insert(target, revision);
        } else if self.cut_offs.insert(target, revision).is_none() {
            self.wide_cut_offs += 1;
        }
    }

    fn put_principal(&mut self, record: &PrincipalRecord) {
        if let Some(former) = self.directory.principal(record.id) {
            self.digest.subtract(RecordHash::principal(&former.record));
        }
        self.digest.add(RecordHash::principal(record));
        self.directory.put_principal(record);
    }

    fn delete_principal(&mut self, id: PrincipalId) {
        let Some(principal) = self.directory.principal(id).cloned() else {
            return;
        };
        for grant in &principal.grants {
            self.delete_grant(*grant);
        }
        for team in &principal.teams {
            self.remove_member(*team, id);
        }
        for member in &principal.members {
            self.remove_member(id, *member);
        }
        self.delete_logins_of(id);
        self.digest
            .subtract(RecordHash::principal(&principal.record));
        self.directory.remove_principal(id);
    }

    fn add_member(&mut self, team: PrincipalId, member: PrincipalId) {
        if !self.is_member(team, member) {
            self.digest.add(RecordHash::member(team, member));
            self.directory.add_member(team, member);
        }
    }

    fn remove_member(&mut self, team: PrincipalId, member: PrincipalId) {
        if self.is_member(team, member) {
            self.digest.subtract(RecordHash::member(team, member));
            self.directory.remove_member(team, member);
        }
    }

    fn put_role(&mut self, record: &RoleRecord) {
        if let Some(former) = self.directory.role(&record.name) {
            self.digest.subtract(RecordHash::role(former));
        }
        self.digest.add(RecordHash::role(record));
        self.directory.put_role(record);
    }

    fn delete_role(&mut self, name: &RoleName) {
        if let Some(former) = self.directory.role(name) {
            self.digest.subtract(RecordHash::role(former));
            self.directory.remove_role(name);
        }
    }

    fn put_grant(&mut self, record: &GrantRecord) {
        self.digest.add(RecordHash::grant(record));
        self.directory.put_grant(record);
    }

    fn delete_grant(&mut self, id: GrantId) {
        if let Some(former) = self.directory.remove_grant(id) {
            self.digest.subtract(RecordHash::grant(&former));
        }
    }

    // A log that was never raised has the digest that it had before there were levels.
    fn raise_format(&mut self, level: u32) {
        if level > self.format() {
            if self.format > 0 {
                self.digest.subtract(RecordHash::format(self.format));
            }
            self.format = level;
            self.digest.add(RecordHash::format(level));
        }
    }

    fn remember(&mut self, request: &Request, revision: RevisionNumber, instant_ms: UnixMs) {
        let answered = Answered {
            fingerprint: request.fingerprint,
            revision,
            instant_ms,
        };
        if let Some(former) = self.requests.by_key.insert(request.key, answered) {
            self.digest
                .subtract(RecordHash::request(&request.key, &former));
            self.requests.by_age.remove(&former.revision);
        }
        self.requests.by_age.insert(revision, request.key);
        self.digest
            .add(RecordHash::request(&request.key, &answered));
    }

    fn bound_requests(&mut self) {
        while self.requests.by_age.len() > REQUESTS_MAX {
            self.drop_oldest_request();
        }
    }

    fn drop_oldest_request(&mut self) {
        let Some((revision, key)) = self.requests.by_age.get_min().copied() else {
            return;
        };
        self.requests.by_age.remove(&revision);
        if let Some(answered) = self.requests.by_key.remove(&key) {
            self.digest.subtract(RecordHash::request(&key, &answered));
        }
    }

    fn forget(&mut self, before_ms: UnixMs, slice: u8, instant_ms: UnixMs) {
        for id in self.ended(before_ms, slice) {
            self.remove_token(id);
        }
        self.forget_logins(before_ms);
        while self
            .oldest_request()
            .is_some_and(|at| at + REQUEST_KEPT_MS < instant_ms)
        {
            self.drop_oldest_request();
        }
    }

    fn oldest_request(&self) -> Option<UnixMs> {
        let (_, key) = self.requests.by_age.get_min()?;
        self.requests.by_key.get(key).map(|one| one.instant_ms)
    }

    /// The tokens of a slice that ended before an instant: expired, revoked, or their subject
    /// is gone. A public key that was revoked is none of them: who has its private key may still
    /// be about, so nobody shall register it again.
    pub(super) fn ended(&self, before_ms: UnixMs, slice: u8) -> Vec<TokenId> {
        let mut ended = Vec::new();
        self.tokens.for_slice(slice, |hot| {
            let expired = hot.expires_ms().is_some_and(|at| at < before_ms);
            let gone = hot
                .principal()
                .is_some_and(|id| self.directory.principal(id).is_none());
            let revoked = self.tokens.ext(hot).and_then(|ext| ext.revoked);
            let stays = revoked.is_some() && hot.kind() == TokenKind::PublicKey;
            let revoked = revoked.is_some_and(|revoked| revoked.at_ms < before_ms);
            if !stays && (expired || gone || revoked) {
                ended.push(hot.id());
            }
        });
        ended
    }

    /// Whether a *forget* of this slice would change anything.
    pub(super) fn has_ended(&self, before_ms: UnixMs, slice: u8, now_ms: UnixMs) -> bool {
        self.oldest_request()
            .is_some_and(|at| at + REQUEST_KEPT_MS < now_ms)
            || self.has_ended_logins(before_ms)
            || !self.ended(before_ms, slice).is_empty()
    }

    /// The state that these entries make from nothing.
    ///
    /// # Errors
    /// [`Diverged`] at the first entry that does not follow.
    pub fn replay<'e>(entries: impl IntoIterator<Item = &'e LogEntry>) -> Result<Self, Diverged> {
        let mut state = Self::default();
        for entry in entries {
            state.apply(entry)?;
        }
        Ok(state)
    }

    /// `user:alice` or the resource, as the log names it.
    pub(super) fn subject_text(&self, subject: Option<&Subject>) -> String {
        let principal = match subject {
            Some(Subject::Principal(id)) => self.principal(*id),
            Some(Subject::Resource(resource)) => return resource.to_string(),
            None => None,
        };
        principal.map_or_else(|| "deleted".to_owned(), |one| one.name.to_string())
    }
}
