//! The audit trail: the log by the page and as it grows, its verification, and Explain.
//!
//! The log holds everybody's changes without a gap, so reading it needs `audit:read` on `**`.
//! Clients get a body's hash, never a body: bodies hold digests.

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::domain::chain::{Head, Revision, RevisionNumber};
use crate::domain::clock::Now;
use crate::domain::entry::LogEntry;
use crate::domain::permission::{Need, ResourcePattern};
use crate::domain::refusal::Refusal;
use crate::domain::seal::claims::Sealed;
use crate::domain::seal::ring::{Room, Unopened};
use crate::domain::seal::text::is_sealed;
use crate::domain::token::{Digest, KindSet, TokenId};
use crate::replica::unavailable;
use crate::state::State;
use crate::state::check::Context;
use crate::state::explain::{Target, explain};
use crate::store::StoreError;

use super::{Authority, Credentials, Reader};

pub use crate::state::check::Step;
pub use crate::state::explain::{ExplainedStep, Explanation, Layer, Missing};

/// Entries that are read from the store at a time.
pub const READ_ENTRIES: usize = 500;

/// Which token to explain.
#[derive(Clone, Copy)]
pub enum ExplainTarget<'a> {
    /// The token with this id.
    Id(TokenId),
    /// This presented text.
    Token(&'a str),
}

/// What to explain.
#[derive(Clone, Copy)]
pub struct ExplainAsked<'a> {
    /// Which token.
    pub target: ExplainTarget<'a>,
    /// What it should be permitted.
    pub needs: &'a [Need<'a>],
    /// What is known of the request.
    pub context: Context<'a>,
    /// The kinds that are accepted.
    pub kinds: KindSet,
    /// The revision to look at; none is the newest.
    pub at: Option<RevisionAsked>,
}

/// A revision as a client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionAsked {
    /// Its number.
    pub number: RevisionNumber,
    /// The chain at it; without one, histories are not compared.
    pub chain: Option<[u8; 8]>,
}

/// Where a verification of the chain stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Everything up to this head follows.
    Intact(Head),
    /// The first revision that does not follow, and why.
    Broken(RevisionNumber, String),
}

impl Authority {
    /// Requires that the caller may read the whole log.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] with what is missing.
    pub fn may_audit(&self, credentials: Credentials<'_>) -> Result<(), Refusal> {
        let reader = self.reader(credentials)?;
        reader.require("audit:read", ResourcePattern::everything())
    }

    /// Entries after a revision; the caller was judged by [`Authority::may_audit`].
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, Refusal> {
        self.replica
            .changes_after(revision, limit.min(READ_ENTRIES))
            .await
    }

    /// The head that a client's revision names, if it is of this history.
    ///
    /// # Errors
    /// [`Refusal::Trimmed`] before the cut,
    /// [`Refusal::OtherHistory`] when the chain at that revision is another.
    pub async fn head_at(&self, asked: RevisionAsked) -> Result<Head, Refusal> {
        let found = self.replica.head_at(asked.number).await?;
        let same = |head: &Head| {
            asked
                .chain
                .is_none_or(|chain| chain == head.revision().chain)
        };
        found.filter(same).ok_or(Refusal::OtherHistory(Revision {
            number: asked.number,
            chain: asked.chain.unwrap_or_default(),
        }))
    }

    /// Where the log begins: the last revision that was trimmed, or before the first.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub async fn cut(&self) -> Result<Head, Refusal> {
        let cut = self.replica.store().cut().await;
        cut.map_err(|error| unavailable(&error))
    }

    /// Told whenever the published revision moves.
    #[must_use]
    pub fn revisions(&self) -> watch::Receiver<RevisionNumber> {
        self.replica.revisions()
    }

    /// Verifies a run of entries behind a head, as an outsider would: by bodies' hashes only.
    #[must_use]
    pub fn verify(after: Head, entries: &[LogEntry]) -> Verified {
        let mut head = after;
        for logged in entries {
            let hash: [u8; 32] = Sha256::digest(&logged.body).into();
            let next = head.after_hash(&hash);
            if logged.entry.revision != next.revision {
                let what = format!(
                    "a hole: revision {} follows {}",
                    logged.entry.revision, head.revision
                );
                return Verified::Broken(next.revision, what);
            }
            if logged.head != next {
                return Verified::Broken(next.revision, "the chain hash is another".to_owned());
            }
            head = next;
        }
        Verified::Intact(head)
    }

    /// Reads and verifies what follows a head: the last head that follows, and the outcome. A
    /// log that ends here, or that the store itself finds damaged, is broken and not an error.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub async fn verify_after(
        &self,
        head: Head,
        limit: usize,
    ) -> Result<(Head, Verified), Refusal> {
        let limit = limit.min(READ_ENTRIES);
        let entries = match self
            .replica
            .store()
            .changes_after(head.revision, limit)
            .await
        {
            Ok(entries) => entries,
            Err(StoreError::Damaged { revision, what }) => {
                return Ok((head, Verified::Broken(revision, what)));
            }
            Err(error) => return Err(unavailable(&error)),
        };
        let outcome = match Self::verify(head, &entries) {
            Verified::Intact(_) if entries.is_empty() => {
                Verified::Broken(head.revision + 1, "the log ends before it".to_owned())
            }
            outcome => outcome,
        };
        let good = match &outcome {
            Verified::Intact(last) => *last,
            Verified::Broken(at, _) => {
                let before = entries.iter().map(|entry| entry.head);
                before
                    .take_while(|one| one.revision < *at)
                    .last()
                    .unwrap_or(head)
            }
        };
        Ok((good, outcome))
    }

    /// Tells how a Check would be decided, now or at an older revision.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for a token that the caller may not explain.
    pub async fn explain(
        &self,
        credentials: Credentials<'_>,
        asked: ExplainAsked<'_>,
    ) -> Result<Explanation, Refusal> {
        let reader = self.reader(credentials)?;
        let mut room = Room::default();
        let id = match asked.target {
            ExplainTarget::Id(id) => Some(id),
            ExplainTarget::Token(text) if is_sealed(text) => {
                // It is managed where the account is, or the token, that it was born from.
                let sealed = self.opened(&reader.state, text, &mut room).ok();
                sealed.map(|sealed| sealed.origin)
            }
            ExplainTarget::Token(text) => reader.state.token_by_key(Digest::of(text).key()),
        };
        // Before a replay, which costs as much as the log is long.
        reader.may_explain(id)?;
        let older = match asked.at {
            Some(at) => Some(self.state_at(at).await?),
            None => None,
        };
        let (state, now) = match &older {
            Some(state) => (state, Now::at(state.instant_ms())),
            None => (&*reader.state, self.replica.clock().now()),
        };
        let target = match asked.target {
            ExplainTarget::Id(id) => Target::Id(id),
            ExplainTarget::Token(text) if is_sealed(text) => {
                Target::Sealed(self.opened(state, text, &mut room))
            }
            ExplainTarget::Token(text) => Target::Token(text),
        };
        Ok(explain(
            state,
            target,
            asked.needs,
            asked.context,
            asked.kinds,
            now,
        ))
    }

    fn opened<'r>(
        &self,
        state: &State,
        text: &str,
        room: &'r mut Room,
    ) -> Result<Sealed<'r>, Unopened> {
        let claims = self.open(state, text, room)?;
        Sealed::read(claims).ok_or(Unopened::Unknown)
    }

    /// State at an older revision, replayed from the log.
    async fn state_at(&self, at: RevisionAsked) -> Result<State, Refusal> {
        // One at a time: each is a second State in memory.
        let Ok(_replay) = self.replays.try_acquire() else {
            let what = "another revision is being replayed; try again";
            return Err(Refusal::Unavailable(what.to_owned()));
        };
        let head = self.head_at(at).await?;
        let mut state = State::default();
        while state.head().revision < head.revision {
            let left = (head.revision - state.head().revision).min(READ_ENTRIES as u64);
            let entries = self
                .replica
                .changes_after(state.head().revision, left as usize)
                .await?;
            if entries.is_empty() {
                return Err(Refusal::OtherHistory(head.revision()));
            }
            for entry in &entries {
                if let Err(error) = state.apply(entry) {
                    tracing::error!(%error, "the log does not replay");
                    return Err(Refusal::Unavailable("the log does not replay".to_owned()));
                }
            }
            // A long replay shares its thread with Checks.
            tokio::task::yield_now().await;
        }
        Ok(state)
    }
}

impl Reader {
    /// A token that is not known, or no longer, may be asked about by those who may explain all.
    fn may_explain(&self, id: Option<TokenId>) -> Result<(), Refusal> {
        let record = id.and_then(|id| self.state.token(id));
        let on = record.map_or_else(ResourcePattern::everything, |record| {
            ResourcePattern::exactly(&self.state.home_of(&record))
        });
        self.require("tokens:explain", on)
            .map_err(|_| Refusal::NotFound("token"))
    }
}
