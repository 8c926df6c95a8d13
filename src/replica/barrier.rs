//! The barrier: waiting until a revision holds everywhere.
//!
//! It holds once every member has reported it, or once every lease that could have been taken
//! without it has ended: the longest lease among the members read after the commit, and never
//! less than the cluster's own, plus the slack, on this server's clock since the commit was
//! acknowledged. A member that is silent is waited for, never presumed dead. The first way is
//! quick, the second is the one that the promise stands on; of a member that answers without its
//! lease it says nothing. Nobody waits for a member that has only joined: its lease begins with a
//! later write, which knows the revision. Reports are believed once our own State has come to the
//! head that was read with them: a failover may have lost the change since.
//!
//! One reading of the members serves all barriers that began before it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::Instrument as _;

use crate::domain::chain::RevisionNumber;
use crate::domain::clock::Clock;
use crate::domain::refusal::Refusal;
use crate::domain::traced::{TARGET, below};
use crate::store::StoreError;
use crate::store::cluster::{Cluster, Incarnation, Member, Roster};

use super::mutation::mutated;
use super::{Durable, Identity, LEASE_MS_MAX, LeaseSettings, Replica, Shared, unavailable};

const POLL_FIRST: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(50);

/// How far a change is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// By every member: no Check that any of them receives from now on is answered without it.
    Confirmed {
        /// The members that had applied it, in order of their names; the leases of all others
        /// have ended.
        replicas: Vec<String>,
    },
    /// Durable, and not yet enforced everywhere.
    Committed {
        /// In how many milliseconds it is; none where a member that has not reported it may answer
        /// without its lease.
        everywhere_after_ms: Option<u64>,
        /// The members that have applied it, in order of their names.
        replicas: Vec<String>,
        /// The members that have not reported it, in order of their names; none if they could
        /// not be read.
        missing: Vec<String>,
    },
    /// The log is another than the one that it was written to: it may be lost.
    Lost,
}

impl Replica {
    /// Waits, at the most so long, until a revision holds on every server.
    pub async fn enforce(&self, durable: &Durable, most: Duration) -> Enforced {
        let membership = self.shared.membership();
        let (Some(cluster), Some(incarnation)) = (self.shared.store.cluster(), membership) else {
            // There is nobody else, and what is acknowledged is published here.
            return Enforced::Confirmed {
                replicas: vec![self.identity.name.clone()],
            };
        };
        let barrier = Barrier {
            shared: &self.shared,
            cluster,
            lease: self.lease,
            incarnation,
            durable: *durable,
        };
        let span = below(|| tracing::info_span!(target: TARGET, "barrier"));
        barrier.wait(most).instrument(span).await
    }

    /// All members as the store has them now, and which of them this server is; none where it
    /// shares the store with nobody.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub async fn members(&self) -> Result<Option<(Roster, Incarnation)>, Refusal> {
        let membership = self.shared.membership();
        let (Some(cluster), Some(incarnation)) = (self.shared.store.cluster(), membership) else {
            return Ok(None);
        };
        let roster = cluster
            .roster()
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(Some((roster, incarnation)))
    }

    /// Who this server is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// The newest reading of the members, and when it was begun.
#[derive(Debug, Default)]
pub(super) struct Readings(Mutex<Option<(u64, Arc<Roster>)>>);

impl Readings {
    /// The members as they were at `since_ms` of boot time or later.
    async fn since(
        &self,
        cluster: &dyn Cluster,
        clock: &dyn Clock,
        since_ms: u64,
    ) -> Result<Arc<Roster>, StoreError> {
        // Whoever waits here is served by the reading of whoever is before it.
        let mut newest = self.0.lock().await;
        if let Some((begun_ms, roster)) = &*newest
            && *begun_ms > since_ms
        {
            return Ok(Arc::clone(roster));
        }
        let begun_ms = clock.boot_ms();
        let roster = Arc::new(cluster.roster().await?);
        *newest = Some((begun_ms, Arc::clone(&roster)));
        Ok(roster)
    }
}

/// One wait.
pub(super) struct Barrier<'a> {
    pub(super) shared: &'a Shared,
    pub(super) cluster: &'a dyn Cluster,
    pub(super) lease: LeaseSettings,
    pub(super) incarnation: Incarnation,
    pub(super) durable: Durable,
}

impl Barrier<'_> {
    /// Waits at the most so long.
    pub(super) async fn wait(&self, most: Duration) -> Enforced {
        let mut known = None;
        let confirmed = timeout(most, self.confirmed(&mut known)).await;
        match confirmed {
            Ok(enforced) => enforced,
            Err(_) if self.is_lost(known.as_deref()) => Enforced::Lost,
            Err(_) => self.committed(known),
        }
    }

    // A failover that lost data: what others report is of another history.
    fn is_lost(&self, roster: Option<&Roster>) -> bool {
        let other = |roster: &Roster| {
            let head = roster.head.revision();
            let ours = self.shared.chain(head.number);
            head.number < self.durable.revision || ours.is_some_and(|chain| chain != head.chain)
        };
        self.durable.loaded != self.shared.loaded.load(Ordering::Relaxed)
            || roster.is_some_and(other)
    }

    async fn confirmed(&self, known: &mut Option<Arc<Roster>>) -> Enforced {
        let clock = &*self.shared.clock;
        let mut pause = POLL_FIRST;
        let mut since_ms = self.durable.committed_ms;
        let mut reported = false;
        loop {
            if !reported {
                let readings = &self.shared.readings;
                let roster = readings.since(self.cluster, clock, since_ms).await;
                match roster {
                    Ok(roster) => {
                        self.shared.seen(&roster);
                        *known = Some(roster);
                    }
                    Err(error) => tracing::debug!(%error, "the members cannot be read"),
                }
            }
            since_ms = clock.boot_ms();
            // Without any reading since the commit the longest lease is not known; one is enough:
            // whoever has joined after it has the revision.
            let mut left_ms = u64::MAX;
            let mut confirmed = None;
            if let Some(roster) = known {
                let ended_ms = self.ended_ms(roster).unwrap_or(u64::MAX);
                left_ms = ended_ms.saturating_sub(since_ms);
                reported = self.missing(roster).is_empty();
                let head = roster.head.revision();
                let is_here = self.shared.chain(head.number) == Some(head.chain);
                if left_ms == 0 || (reported && is_here) {
                    let replicas = self.replicas(roster);
                    confirmed = Some(Enforced::Confirmed { replicas });
                }
                // So far beyond it that nobody remembers which history it was of.
                reported &= is_here || self.published() < head.number;
            }
            // After all that was read: State may have been loaded anew meanwhile.
            if self.is_lost(known.as_deref()) {
                return Enforced::Lost;
            }
            if let Some(confirmed) = confirmed {
                return confirmed;
            }
            sleep(pause.min(Duration::from_millis(left_ms))).await;
            pause = if reported {
                POLL_FIRST
            } else {
                (pause * 2).min(POLL_MAX)
            };
        }
    }

    fn published(&self) -> RevisionNumber {
        self.shared.published.load().head().revision
    }

    // When the last lease has ended that could have been taken without the revision; none where
    // that does not keep a member from answering.
    fn ended_ms(&self, roster: &Roster) -> Option<u64> {
        let without = |member: &Member| member.serves_stale && self.is_missing(member);
        if roster.members.iter().any(without) {
            return None;
        }
        let members = roster.members.iter().map(|member| member.lease_ms);
        let mut longest_ms = members.chain([roster.lease_ms]).max().unwrap_or_default();
        if mutated!(self.shared, OwnLeaseOnly) {
            longest_ms = self.lease.length_ms;
        }
        Some(self.durable.committed_ms + self.lease.with_slack(longest_ms))
    }

    fn is_missing(&self, member: &Member) -> bool {
        member.lease_ms > 0 && !self.has_applied(member)
    }

    fn has_applied(&self, member: &Member) -> bool {
        if member.incarnation == self.incarnation {
            return self.published() >= self.durable.revision;
        }
        if mutated!(self.shared, SilentPresumedDead)
            && self.shared.clock.boot_ms() >= self.durable.committed_ms + self.lease.length_ms / 4
        {
            return true;
        }
        member.applied >= self.durable.revision
    }

    fn replicas(&self, roster: &Roster) -> Vec<String> {
        Self::names(roster, |member| self.has_applied(member))
    }

    fn missing(&self, roster: &Roster) -> Vec<String> {
        Self::names(roster, |member| self.is_missing(member))
    }

    fn names(roster: &Roster, wanted: impl Fn(&Member) -> bool) -> Vec<String> {
        let wanted = roster.members.iter().filter(|member| wanted(member));
        let mut names: Vec<String> = wanted.map(|member| member.name.clone()).collect();
        names.sort_unstable();
        names
    }

    fn committed(&self, known: Option<Arc<Roster>>) -> Enforced {
        let now_ms = self.shared.clock.boot_ms();
        let (ended_ms, replicas, missing) = match &known {
            Some(roster) => (
                self.ended_ms(roster),
                self.replicas(roster),
                self.missing(roster),
            ),
            // Somebody may have joined with any lease that there can be.
            None => {
                let most_ms = self.lease.with_slack(LEASE_MS_MAX);
                let leases = !self.shared.may_serve_stale.load(Ordering::Relaxed);
                let ended_ms = leases.then_some(self.durable.committed_ms + most_ms);
                (ended_ms, Vec::new(), Vec::new())
            }
        };
        let mut everywhere_after_ms = ended_ms.map(|ended_ms| ended_ms.saturating_sub(now_ms));
        if mutated!(self.shared, CommittedTooSoon) {
            everywhere_after_ms = everywhere_after_ms.map(|after_ms| after_ms / 2);
        }
        Enforced::Committed {
            everywhere_after_ms,
            replicas,
            missing,
        }
    }
}
