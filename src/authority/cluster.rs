//! The servers on one store: how far a change is enforced, waiting for a revision, who there is.
//!
//! Used by `rpc` after every write: a change that can turn an allow into a denial is answered
//! once no server answers without it any more, or with how long that takes at the most.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::domain::chain::{Revision, RevisionNumber};
use crate::domain::permission::ResourcePattern;
use crate::domain::refusal::Refusal;
use crate::replica::Durable;
use crate::store::cluster::{Incarnation, Roster};

use super::audit::RevisionAsked;
use super::{Authority, Credentials, Written};

pub use crate::replica::Enforced;

/// The servers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// All of them, in order of their names.
    pub replicas: Vec<ReplicaSeen>,
    /// The newest revision of the log.
    pub head: Revision,
    /// The longest lease that any may hold; none where a server has the store to itself.
    pub lease_ms: Option<u64>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSeen {
    /// What people call it.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// The newest revision that it is known to answer by.
    pub applied: RevisionNumber,
    /// How many revisions the log has beyond it.
    pub lag: u64,
    /// The newest format of entries that it reads.
    pub format_max: u32,
    /// Whether it is this one.
    pub is_this_server: bool,
    /// How it holds its lease; none where it has the store to itself.
    pub membership: Option<Membership>,
}

/// How a server shares the store with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// This run of it.
    pub incarnation: [u8; 16],
    /// How long its lease holds from a renewal on.
    pub lease_ms: u64,
    /// How long ago it last renewed or reported.
    pub heard_ago_ms: u64,
    /// When it joined, in Unix milliseconds.
    pub joined_ms: u64,
}

impl Authority {
    /// How long a change waits to be enforced, at the most.
    #[must_use]
    pub fn confirm_time_max(&self) -> Duration {
        self.settings.confirm_time_max
    }

    /// Whether a write has to be enforced before it is answered.
    #[must_use]
    pub fn is_awaited(written: &Written) -> bool {
        written.awaited.is_some()
    }

    /// Waits, at the most so long, until a write is enforced by every server; none if it need
    /// not be.
    ///
    /// # Errors
    /// [`Refusal::OutcomeUnknown`] when the log is another than the one that it was written to.
    pub async fn enforced(
        &self,
        written: &Written,
        most: Duration,
    ) -> Result<Option<Enforced>, Refusal> {
        let Some(durable) = written.awaited else {
            return Ok(None);
        };
        let most = most.min(self.settings.confirm_time_max);
        match self.replica.enforce(&durable, most).await {
            Enforced::Lost => Err(Refusal::OutcomeUnknown),
            enforced => Ok(Some(enforced)),
        }
    }

    /// Waits until the published State has reached a revision that somebody was told of, and
    /// compares the chain if one is given; the caller sets the deadline.
    ///
    /// # Errors
    /// [`Refusal::OtherHistory`] when it is not of this log, [`Refusal::NotReached`] when this has
    /// no such revision.
    pub async fn reach(&self, asked: RevisionAsked) -> Result<(), Refusal> {
        self.replica.reach_known(asked.number, asked.chain).await
    }

    /// Waits until every server answers by a revision that is in the log or comes into it.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] without a good token, [`Refusal::NotReached`] when the log
    /// does not have it in time, [`Refusal::OtherHistory`] when it is of another.
    pub async fn wait_for(
        &self,
        credentials: Credentials<'_>,
        asked: RevisionAsked,
        until: Instant,
    ) -> Result<Enforced, Refusal> {
        // Strangers are not let wait.
        self.reader(credentials)?;
        let until = until.min(Instant::now() + self.settings.confirm_time_max);
        let wanted = Revision {
            number: asked.number,
            chain: asked.chain.unwrap_or_default(),
        };
        let reach = async || {
            let reached = self.replica.reach(asked.number, asked.chain);
            let reached = timeout_at(until, reached).await;
            reached.unwrap_or(Err(Refusal::NotReached(wanted)))
        };
        reach().await?;
        // That it is seen proves nothing durable; something acknowledged behind it does.
        let durable = match self.replica.acknowledged(asked.number) {
            Some(durable) => durable,
            None => {
                let confirm = Self::confirm(self.caller(credentials)?);
                let done = self.replica.submit(confirm).await?;
                Durable {
                    revision: asked.number,
                    ..done.durable()
                }
            }
        };
        // The log may have become another meanwhile.
        reach().await?;
        let most = until.saturating_duration_since(Instant::now());
        match self.replica.enforce(&durable, most).await {
            Enforced::Lost => Err(Refusal::OtherHistory(wanted)),
            enforced => Ok(enforced),
        }
    }

    /// The servers as the store knows them now.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] without `cluster:read` on everything,
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub async fn replicas(&self, credentials: Credentials<'_>) -> Result<Replicas, Refusal> {
        let reader = self.reader(credentials)?;
        reader.require("cluster:read", ResourcePattern::everything())?;
        self.replicas_now().await
    }

    pub(super) async fn replicas_now(&self) -> Result<Replicas, Refusal> {
        let published = self.head().revision();
        Ok(match self.replica.members().await? {
            Some((roster, own)) => shared(&roster, own, published.number),
            None => self.alone(published),
        })
    }

    fn alone(&self, head: Revision) -> Replicas {
        let identity = self.replica.identity();
        Replicas {
            replicas: vec![ReplicaSeen {
                name: identity.name.clone(),
                address: identity.address.clone(),
                applied: head.number,
                lag: 0,
                format_max: identity.format_max,
                is_this_server: true,
                membership: None,
            }],
            head,
            lease_ms: None,
        }
    }
}

fn shared(roster: &Roster, own: Incarnation, published: RevisionNumber) -> Replicas {
    let head = roster.head.revision();
    let members = roster.members.iter().map(|member| {
        let is_this_server = member.incarnation == own;
        // This server knows more of itself than it has told.
        let applied = match is_this_server {
            true => published.max(member.applied),
            false => member.applied,
        };
        ReplicaSeen {
            name: member.name.clone(),
            address: member.address.clone(),
            applied,
            lag: head.number.saturating_sub(applied),
            format_max: member.format_max,
            is_this_server,
            membership: Some(Membership {
                incarnation: member.incarnation.0,
                lease_ms: member.lease_ms,
                heard_ago_ms: roster.database_ms.saturating_sub(member.reported_ms),
                joined_ms: member.joined_ms,
            }),
        }
    });
    let mut replicas: Vec<ReplicaSeen> = members.collect();
    replicas.sort_by(|a, b| a.name.cmp(&b.name));
    let longest = roster.members.iter().map(|member| member.lease_ms);
    Replicas {
        replicas,
        head,
        lease_ms: longest.chain([roster.lease_ms]).max(),
    }
}
