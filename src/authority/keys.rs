//! Seal keys: which seal new tokens, who has loaded them, and how one follows another.
//!
//! A key seals once every server has loaded it, so that no token is made that some server cannot
//! read. The first does so when it is first wanted. What keys are is never seen here but by the
//! ring; State holds their phases, and the members say what they have loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use crate::domain::chain::RevisionNumber;
use crate::domain::change::{Change, KeyPhase, SealKeyRecord};
use crate::domain::permission::ResourcePattern;
use crate::domain::refusal::Refusal;
use crate::domain::seal::key::KeyId;
use crate::domain::seal::ring::Salt;
use crate::replica::{Durable, Enforced, LEASE_MS_MAX, unavailable};
use crate::state::State;
use crate::state::decide::{Caller, Command, Envelope};

use super::{Authority, Call, Credentials, Written};

/// Whoever answers holds a lease, which begins with all that was in the log then, and no lease is
/// as long as this: of a key that has sealed for longer everybody who answers knows. As much again
/// as the longest one, for its slack and for clocks that differ.
const KNOWN_AFTER_MS: u64 = 2 * LEASE_MS_MAX;

/// A seal key as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySeen {
    /// Its id.
    pub id: KeyId,
    /// What State knows of it; none while nothing was sealed by it.
    pub record: Option<SealKeyRecord>,
    /// The servers that have loaded it, by name.
    pub loaded_by: Vec<String>,
    /// The servers that have not.
    pub missing_on: Vec<String>,
}

/// Which keys each server has loaded, by its name.
type Loaded = Vec<(String, BTreeSet<KeyId>)>;

impl Authority {
    /// The key that new tokens are sealed by. Where there was none yet, the first that every
    /// server has loaded becomes it.
    pub(super) async fn minting_key(&self) -> Result<SealKeyRecord, Refusal> {
        let state = self.replica.state_full();
        if let Some(key) = state.minting_key() {
            return self.known_everywhere(*key, state.head().revision).await;
        }
        let loaded = self.loaded().await?;
        let state = self.replica.state_full();
        // Another login was the first meanwhile: its key is not new any more.
        if let Some(key) = state.minting_key() {
            return self.known_everywhere(*key, state.head().revision).await;
        }
        let is_new = |key: &KeyId| state.seal_key(*key).is_none();
        let first = common(&loaded).into_iter().find(is_new);
        let key = first.ok_or_else(|| no_new_key(&state, &loaded))?;
        let envelope = Envelope {
            caller: Caller::System,
            reason: "the first key".to_owned(),
            request: None,
            command: Command::MintBy {
                key,
                salt: self.salt(),
            },
        };
        self.replica.submit(envelope).await.map_err(not_known)?;
        let state = self.replica.state_full();
        let key = state.minting_key().ok_or_else(changed)?;
        self.known_everywhere(*key, state.head().revision).await
    }

    /// A key that is the minting one as of a revision, once every server knows that: one that has
    /// not heard of it would refuse what is sealed by it. Waited for once, also in vain: a server
    /// that is not heard of is behind in all else, too.
    async fn known_everywhere(
        &self,
        key: SealKeyRecord,
        at: RevisionNumber,
    ) -> Result<SealKeyRecord, Refusal> {
        let mark = u64::from(key.id.0) + 1;
        if self.replica.is_alone() || self.known_key.load(Ordering::Acquire) == mark {
            return Ok(key);
        }
        // Without the store, and without waiting for a server that does not answer. By the clocks
        // that are behind: were they wrong, it would be asked, or others would refuse for a moment.
        let now_ms = self.replica.clock().now().earliest;
        if now_ms.saturating_sub(key.since_ms) > KNOWN_AFTER_MS {
            self.known_key.store(mark, Ordering::Release);
            return Ok(key);
        }
        let durable = match self.replica.acknowledged(at) {
            Some(durable) => durable,
            None => {
                let done = self.replica.submit(Self::confirm(Caller::System)).await;
                let done = done.map_err(not_known)?;
                Durable {
                    revision: at,
                    ..done.durable()
                }
            }
        };
        match self
            .replica
            .enforce(&durable, self.confirm_time_max())
            .await
        {
            Enforced::Lost => Err(changed()),
            Enforced::Confirmed { .. } | Enforced::Committed { .. } => {
                self.known_key.store(mark, Ordering::Release);
                Ok(key)
            }
        }
    }

    /// The keys that may have sealed tokens which are good, and that this server has not loaded: it
    /// cannot know what these tokens are.
    #[must_use]
    pub fn missing_keys(&self) -> Vec<SealKeyRecord> {
        let (state, seals) = (self.replica.state(), self.replica.seals().load());
        let missing = state
            .seal_keys()
            .filter(|key| key.is_in_use() && !seals.has(key.id));
        missing.copied().collect()
    }

    /// Whether this server has loaded the key that new tokens are sealed by, if there is one.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        let missing = self.missing_keys();
        missing.iter().all(|key| key.phase != KeyPhase::Minting)
    }

    fn salt(&self) -> Salt {
        let mut salt = Salt::default();
        self.entropy.fill(&mut salt);
        salt
    }

    async fn loaded(&self) -> Result<Loaded, Refusal> {
        let own: BTreeSet<KeyId> = self.replica.seals().load().ids().into_iter().collect();
        let Some(cluster) = self.replica.store().cluster() else {
            return Ok(vec![(self.replica.name().to_owned(), own)]);
        };
        let roster = cluster
            .roster()
            .await
            .map_err(|error| unavailable(&error))?;
        let members = roster.members.into_iter();
        let mut loaded: Loaded = members
            .map(|member| (member.name, member.keys.into_iter().map(KeyId).collect()))
            .collect();
        // The store has them in the order of their random ids.
        loaded.sort();
        Ok(loaded)
    }

    /// All seal keys that were ever used here, or that some server has loaded.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] with what is missing.
    pub async fn seal_keys(&self, credentials: Credentials<'_>) -> Result<Vec<KeySeen>, Refusal> {
        let reader = self.reader(credentials)?;
        reader.require("keys:read", ResourcePattern::everything())?;
        Ok(seen(&self.replica.state(), &self.loaded().await?))
    }

    /// Seals new tokens by another key: the one that is named, or the only new one that every
    /// server has loaded.
    ///
    /// # Errors
    /// [`Refusal::Precondition`] when some server has not loaded it.
    pub async fn rotate_key(
        &self,
        call: Call<'_>,
        named: Option<KeyId>,
    ) -> Result<(KeyId, Written), Refusal> {
        self.recognised(&call).await?;
        let reader = self.reader(call.credentials)?;
        reader.require("keys:write", ResourcePattern::everything())?;
        let loaded = self.loaded().await?;
        let key = match named {
            Some(key) => key,
            None => {
                let state = self.replica.state_full();
                match only_new(&state, &loaded) {
                    Ok(key) => key,
                    // A repeat has made the new one the minting one, and gets its first answer.
                    Err(refusal) => {
                        let minting = state
                            .minting_key()
                            .map(|key| key.id)
                            .ok_or(refusal.clone())?;
                        let salt = self.salt();
                        let command = Command::MintBy { key: minting, salt };
                        let written = self.write(call, command).await?;
                        let first = minted(&written).filter(|_| written.repeated);
                        return Ok((first.ok_or(refusal)?, written));
                    }
                }
            }
        };
        let without: Vec<&str> = loaded
            .iter()
            .filter(|(_, keys)| !keys.contains(&key))
            .map(|(name, _)| name.as_str())
            .collect();
        if !without.is_empty() {
            let what = format!(
                "key {key} is not loaded by {}: add it to its keys first",
                without.join(", ")
            );
            return Err(Refusal::Precondition(what));
        }
        let salt = self.salt();
        let written = self.write(call, Command::MintBy { key, salt }).await?;
        Ok((minted(&written).unwrap_or(key), written))
    }
}

fn changed() -> Refusal {
    Refusal::Unavailable("the seal key was changed meanwhile; try again".to_owned())
}

/// Nothing was asked for whose outcome could be unknown: a login that gave nothing is made again.
fn not_known(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::OutcomeUnknown => Refusal::Unavailable(
            "it is not known whether every server knows the seal key; try again".to_owned(),
        ),
        other => other,
    }
}

/// The key that a write has made the minting one.
fn minted(written: &Written) -> Option<KeyId> {
    let Some(Change::PutSealKeys(keys)) = &written.change else {
        return None;
    };
    let minting = keys.iter().find(|key| key.phase == KeyPhase::Minting);
    minting.map(|key| key.id)
}

/// Why nothing can be sealed where no key seals and none can begin to.
fn no_new_key(state: &State, loaded: &Loaded) -> Refusal {
    let verifying = common(loaded).into_iter().find(|key| {
        let known = state.seal_key(*key);
        known.is_some_and(|known| known.phase == KeyPhase::Verifying)
    });
    Refusal::Precondition(match verifying {
        Some(key) => format!(
            "no key seals access tokens any more: rotate to one (latchkey seal-key rotate {key})"
        ),
        None => "no seal key is loaded by every server: access tokens cannot be sealed (see the \
                 settings `seal.*`)"
            .to_owned(),
    })
}

/// The keys that every server has loaded.
fn common(loaded: &Loaded) -> BTreeSet<KeyId> {
    let sets = loaded.iter().map(|(_, keys)| keys.clone());
    sets.reduce(|all, keys| &all & &keys).unwrap_or_default()
}

fn only_new(state: &State, loaded: &Loaded) -> Result<KeyId, Refusal> {
    let new: Vec<KeyId> = common(loaded)
        .into_iter()
        .filter(|key| state.seal_key(*key).is_none())
        .collect();
    match new.as_slice() {
        [one] => Ok(*one),
        [] => Err(Refusal::Precondition(
            "no new seal key is loaded by every server: add one (latchkey seal-key generate) to \
             each server's keys first"
                .to_owned(),
        )),
        _ => Err(Refusal::invalid(
            "key_id",
            "is required: several new keys are loaded (latchkey seal-key list)",
        )),
    }
}

fn seen(state: &State, loaded: &Loaded) -> Vec<KeySeen> {
    let mut keys: BTreeMap<KeyId, Option<SealKeyRecord>> =
        state.seal_keys().map(|key| (key.id, Some(*key))).collect();
    for key in loaded.iter().flat_map(|(_, keys)| keys) {
        keys.entry(*key).or_default();
    }
    let by = |key: &KeyId, has: bool| {
        let servers = loaded.iter().filter(|(_, keys)| keys.contains(key) == has);
        servers.map(|(name, _)| name.clone()).collect()
    };
    keys.into_iter()
        .map(|(id, record)| KeySeen {
            id,
            record,
            loaded_by: by(&id, true),
            // Of a key that is over nobody misses anything.
            missing_on: match record.map(|record| record.phase) {
                Some(KeyPhase::Retired | KeyPhase::Revoked) => Vec::new(),
                _ => by(&id, false),
            },
        })
        .collect()
}
