//! Who calls: a presented token as the caller that State judges, stored or sealed.
//!
//! The one place where texts of tokens become callers. A sealed text is opened by the keys that
//! this server has loaded and the salts that State holds; what could not be opened is nobody, and
//! what this server cannot know is said so, for another one may.

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::change::{SealKeyRecord, Subject};
use crate::domain::refusal::Refusal;
use crate::domain::seal::claims::Sealed;
use crate::domain::seal::key::KeyId;
use crate::domain::seal::ring::{Room, Unopened};
use crate::domain::seal::text::is_sealed;
use crate::domain::token::{Digest, TokenId, recognise};
use crate::state::State;
use crate::state::decide::Caller;

use super::{Authority, Credentials};

impl Authority {
    /// Who presents these credentials.
    pub(super) fn caller(&self, credentials: Credentials<'_>) -> Result<Caller, Refusal> {
        self.caller_on(&self.replica.state(), credentials)
    }

    /// The same, by the seal keys of this State.
    pub(super) fn caller_on(
        &self,
        state: &State,
        credentials: Credentials<'_>,
    ) -> Result<Caller, Refusal> {
        let token = credentials.token.ok_or(Refusal::Unauthenticated)?;
        let client_ip = self.client_ip(credentials);
        let peer = credentials.peer.cloned();
        if is_sealed(token) {
            let claims = self.claims(state, token)?;
            return Ok(Caller::Sealed {
                claims,
                client_ip,
                peer,
            });
        }
        recognise(token).ok_or(Refusal::Unauthenticated)?;
        Ok(Caller::Bearer {
            key: Digest::of(token).key(),
            client_ip,
            peer,
        })
    }

    /// Where a call comes from; not known of one that comes through a proxy of many clients, whose
    /// own address says nothing of them.
    pub(super) fn client_ip(&self, credentials: Credentials<'_>) -> Option<IpAddr> {
        let is_proxy = |address| !self.proxies.is_empty() && self.proxies.allow(Some(address));
        credentials.client_ip.filter(|address| !is_proxy(*address))
    }

    /// The claims of a sealed token, to be kept.
    pub(super) fn claims(&self, state: &State, token: &str) -> Result<Arc<[u8]>, Refusal> {
        match self.open(state, token, &mut Room::default()) {
            Ok(claims) => Ok(claims.into()),
            Err(unopened @ Unopened::NotLoaded(key)) if is_in_use(state, unopened) => {
                Err(not_loaded(key))
            }
            Err(_) => Err(Refusal::Unauthenticated),
        }
    }

    /// Opens a sealed token.
    #[inline]
    pub(super) fn open<'r>(
        &self,
        state: &State,
        token: &str,
        room: &'r mut Room,
    ) -> Result<&'r [u8], Unopened> {
        let seals = self.replica.seals().load();
        seals.open(token, room, |id| state.seal_key(id).map(|key| key.salt))
    }
}

/// Refuses what takes a key that another server may have loaded.
pub(super) fn not_loaded(key: KeyId) -> Refusal {
    Refusal::Unavailable(format!(
        "this server has not loaded seal key {key}; ask another"
    ))
}

/// Whether a token that could not be opened may be good all the same, to a server that has loaded
/// its key.
pub(super) fn is_in_use(state: &State, unopened: Unopened) -> bool {
    let Unopened::NotLoaded(id) = unopened else {
        return false;
    };
    state.seal_key(id).is_some_and(SealKeyRecord::is_in_use)
}

/// The stored token whose use a use of this one is: its origin, if it is sealed.
pub(super) fn used(state: &State, caller: &Caller) -> Option<TokenId> {
    match caller {
        Caller::Local | Caller::System => None,
        Caller::Bearer { key, .. } => state.token_by_key(*key),
        Caller::Sealed { claims, .. } => Sealed::read(claims).map(|sealed| sealed.origin),
    }
}

/// What a caller's request ids are scoped to: its principal, or the token itself.
pub(super) fn scope(state: &State, caller: &Caller) -> Result<String, Refusal> {
    let id = state.calling(caller).ok_or(Refusal::Unauthenticated)?;
    match state.subject_of(caller) {
        Some(Subject::Principal(principal)) => Ok(format!("principal {}", principal.0)),
        _ => Ok(format!("token {id}")),
    }
}
