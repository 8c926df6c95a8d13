//! What State holds about logins: sessions that are refused, locks, and the keys that seal.
//!
//! Few records, each in a small persistent map. Methods of accounts lie with their principals,
//! where a Check reads them. Written by `apply`, read by `judge`, `decide` and whoever seals.

use crate::domain::chain::RevisionNumber;
use crate::domain::change::{CutOffTarget, KeyPhase, SealKeyRecord, Subject, TokenRecord};
use crate::domain::clock::UnixMs;
use crate::domain::login::{ClientNetwork, LoginMethod, MethodRecord};
use crate::domain::principal::PrincipalId;
use crate::domain::seal::key::KeyId;
use crate::domain::token::TokenId;

use super::State;
use super::digest::RecordHash;

/// Records about logins. A clone is a snapshot.
#[derive(Clone, Default)]
pub(super) struct Logins {
    pub(super) seal_keys: imbl::OrdMap<KeyId, SealKeyRecord>,
    revoked: imbl::HashMap<TokenId, UnixMs>,
    locks: imbl::OrdMap<(PrincipalId, ClientNetwork), UnixMs>,
    // What is forgotten one day, by its end: to forget looks at nothing else.
    ends: imbl::OrdSet<(UnixMs, Ending)>,
}

/// What ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Session(TokenId),
    Lock(PrincipalId, ClientNetwork),
}

impl State {
    /// A seal key, if it was ever used here.
    #[must_use]
    #[inline]
    pub fn seal_key(&self, id: KeyId) -> Option<&SealKeyRecord> {
        self.logins.seal_keys.get(&id)
    }

    /// All seal keys that were ever used here.
    pub fn seal_keys(&self) -> impl Iterator<Item = &SealKeyRecord> {
        self.logins.seal_keys.values()
    }

    /// The key that new tokens are sealed by.
    #[must_use]
    pub fn minting_key(&self) -> Option<&SealKeyRecord> {
        self.seal_keys().find(|key| key.phase == KeyPhase::Minting)
    }

    /// A login method of an account.
    #[must_use]
    pub fn method(&self, principal: PrincipalId, method: LoginMethod) -> Option<&MethodRecord> {
        self.directory.principal(principal)?.method(method)
    }

    /// Whether a token is a credential of a method that is not set, or was set after it was made:
    /// then it logs nobody in, for good.
    #[must_use]
    pub fn lacks_method(&self, record: &TokenRecord) -> bool {
        let Some(method) = LoginMethod::of(record.kind) else {
            return false;
        };
        let set = match record.subject {
            Subject::Principal(account) => self.method(account, method),
            Subject::Resource(_) => None,
        };
        set.is_none_or(|set| set.made_at > record.made_at)
    }

    /// Until when logins of an account by a method are refused from a network. A lock stands only
    /// while the method's settings lock anybody out.
    #[must_use]
    pub fn locked_until(
        &self,
        principal: PrincipalId,
        method: LoginMethod,
        network: ClientNetwork,
    ) -> Option<UnixMs> {
        self.method(principal, method)?.settings.lockout?;
        self.logins.locks.get(&(principal, network)).copied()
    }

    /// Locks of an account, with when they end: those that stand, and some that have ended.
    pub fn locks_of(
        &self,
        principal: PrincipalId,
    ) -> impl Iterator<Item = (ClientNetwork, UnixMs)> + '_ {
        let from = (principal, ClientNetwork::of(None));
        let locks = self.logins.locks.range(from..);
        locks
            .take_while(move |((of, _), _)| *of == principal)
            .map(|((_, network), until_ms)| (*network, *until_ms))
    }

    /// Whether a session was revoked.
    #[inline]
    pub(super) fn is_revoked(&self, session: TokenId) -> bool {
        !self.logins.revoked.is_empty() && self.logins.revoked.contains_key(&session)
    }

    pub(super) fn put_method(&mut self, record: &MethodRecord) {
        if let Some(former) = self.method(record.principal, record.method) {
            self.digest.subtract(RecordHash::method(former));
        }
        self.digest.add(RecordHash::method(record));
        self.directory.put_method(record);
    }

    pub(super) fn delete_method(&mut self, principal: PrincipalId, method: LoginMethod) {
        if let Some(former) = self.method(principal, method) {
            self.digest.subtract(RecordHash::method(former));
            self.directory.remove_method(principal, method);
        }
    }

    pub(super) fn put_seal_key(&mut self, record: &SealKeyRecord) {
        if let Some(former) = self.logins.seal_keys.insert(record.id, *record) {
            self.digest.subtract(RecordHash::seal_key(&former));
        }
        self.digest.add(RecordHash::seal_key(record));
    }

    pub(super) fn put_lock(
        &mut self,
        principal: PrincipalId,
        network: ClientNetwork,
        until_ms: UnixMs,
    ) {
        self.remove_lock(principal, network);
        self.logins.locks.insert((principal, network), until_ms);
        let end = (until_ms, Ending::Lock(principal, network));
        self.logins.ends.insert(end);
        self.digest
            .add(RecordHash::lock(principal, network, until_ms));
    }

    /// Locks a network out of an account. Those of the account that have ended go, so that there
    /// are never many more than stand.
    pub(super) fn lock_out(
        &mut self,
        principal: PrincipalId,
        network: ClientNetwork,
        until_ms: UnixMs,
        instant_ms: UnixMs,
    ) {
        let locks = self.locks_of(principal);
        let ended: Vec<_> = locks.filter(|(_, until)| *until <= instant_ms).collect();
        for (network, _) in ended {
            self.remove_lock(principal, network);
        }
        self.put_lock(principal, network, until_ms);
    }

    pub(super) fn unlock(&mut self, principal: PrincipalId, networks: &[ClientNetwork]) {
        for network in networks {
            self.remove_lock(principal, *network);
        }
    }

    pub(super) fn put_revoked_session(&mut self, session: TokenId, until_ms: UnixMs) {
        self.remove_session(session);
        self.logins.revoked.insert(session, until_ms);
        self.logins
            .ends
            .insert((until_ms, Ending::Session(session)));
        self.digest
            .add(RecordHash::revoked_session(session, until_ms));
    }

    pub(super) fn revoke_session(
        &mut self,
        session: TokenId,
        until_ms: UnixMs,
        compromised: bool,
        revision: RevisionNumber,
    ) {
        self.put_revoked_session(session, until_ms);
        if compromised {
            self.put_cut_off(CutOffTarget::IssuedByToken(session), revision);
        }
    }

    /// An account that goes takes its methods and locks with it.
    pub(super) fn delete_logins_of(&mut self, principal: PrincipalId) {
        for method in LoginMethod::ALL {
            self.delete_method(principal, method);
        }
        let locks: Vec<_> = self.locks_of(principal).collect();
        for (network, _) in locks {
            self.remove_lock(principal, network);
        }
    }

    /// Forgets sessions and locks that ended before an instant.
    pub(super) fn forget_logins(&mut self, before_ms: UnixMs) {
        while let Some((until_ms, ending)) = self.logins.ends.get_min().copied()
            && until_ms < before_ms
        {
            match ending {
                Ending::Session(session) => self.remove_session(session),
                Ending::Lock(principal, network) => self.remove_lock(principal, network),
            }
        }
    }

    fn remove_session(&mut self, session: TokenId) {
        if let Some(until_ms) = self.logins.revoked.remove(&session) {
            let end = (until_ms, Ending::Session(session));
            self.logins.ends.remove(&end);
            self.digest
                .subtract(RecordHash::revoked_session(session, until_ms));
        }
    }

    fn remove_lock(&mut self, principal: PrincipalId, network: ClientNetwork) {
        if let Some(until_ms) = self.logins.locks.remove(&(principal, network)) {
            let end = (until_ms, Ending::Lock(principal, network));
            self.logins.ends.remove(&end);
            self.digest
                .subtract(RecordHash::lock(principal, network, until_ms));
        }
    }

    /// Whether there is a session or a lock that ended before an instant.
    pub(super) fn has_ended_logins(&self, before_ms: UnixMs) -> bool {
        let first = self.logins.ends.get_min();
        first.is_some_and(|(until_ms, _)| *until_ms < before_ms)
    }
}
