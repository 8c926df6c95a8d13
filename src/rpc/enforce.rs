//! Waiting until a write is enforced everywhere, without a place that a Check may need.
//!
//! ```text
//! place of the call ─► written ─► place among those that wait for servers ─► answer
//! ```
//!
//! Used by every method that writes, through `incoming`. A server that is gone keeps every
//! revocation waiting for a lease; so those that wait have places of their own, as many as there
//! are for all other calls, and whoever finds none answers how far it has come after a moment.
//! The wait ends before the caller's deadline, so that the answer still arrives.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::Request;

use crate::authority::cluster::Enforced;
use crate::authority::{Authority, Written};
use crate::domain::refusal::Refusal;
use crate::proto::v1;
use crate::proto::v1::enforcement::State;

use super::convert::milliseconds;
use super::metrics::Metrics;
use super::places::{Place, Places};

/// How long a call without a place among those that wait does so: one reading of the members.
const MOMENT: Duration = Duration::from_millis(100);
/// How long the answer takes to the caller, at the most, where it has so much time.
const RESERVE_MAX: Duration = Duration::from_millis(250);
/// And otherwise this part of its time.
const RESERVE_PART: u32 = 10;

/// What a call has until its answer: a place and a deadline. It comes with every managed request
/// as an extension; clones are of the same call.
#[derive(Clone)]
pub(super) struct Patience(Arc<Inner>);

struct Inner {
    // Given back with the last handle. Locked for an exchange, never across an await.
    place: Mutex<Option<Place>>,
    aside: Arc<Places>,
    peer: Option<IpAddr>,
    until: Instant,
    metrics: Metrics,
    // How the wait ended, if there was one.
    outcome: OnceLock<&'static str>,
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Patience")
    }
}

impl Patience {
    /// Of a call that holds a place and must be answered within `granted`; `aside` has the
    /// places of those that wait for servers.
    pub(super) fn new(
        place: Place,
        aside: Arc<Places>,
        peer: Option<IpAddr>,
        granted: Duration,
        metrics: Metrics,
    ) -> Self {
        let reserve = (granted / RESERVE_PART).min(RESERVE_MAX);
        Self(Arc::new(Inner {
            place: Mutex::new(Some(place)),
            aside,
            peer,
            until: Instant::now() + (granted - reserve),
            metrics,
            outcome: OnceLock::new(),
        }))
    }

    /// That of the call which took this request; every request that comes through the port has one.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] for one that did not: nothing bounds its wait.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Refusal> {
        let found = request.extensions().get::<Self>().cloned();
        found.ok_or_else(|| Refusal::Unavailable("the call has no deadline".to_owned()))
    }

    /// How far the write is enforced, in a word for the log; empty if that was not waited for.
    pub(super) fn outcome(&self) -> &'static str {
        self.0.outcome.get().copied().unwrap_or_default()
    }

    /// Gives up the place of the call for one among those that wait; until when it may do so.
    pub(super) fn step_aside(&self) -> Instant {
        let moment = self.0.until.min(Instant::now() + MOMENT);
        let Some(aside) = self.0.aside.try_take(self.0.peer) else {
            return moment;
        };
        let place = self.0.place.lock();
        *place.unwrap_or_else(PoisonError::into_inner) = Some(aside);
        self.0.until
    }

    /// What is read while the answer is still of use; none if it is not there by then.
    pub(super) async fn in_time<T>(&self, reading: impl Future<Output = Option<T>>) -> Option<T> {
        timeout_at(self.0.until, reading).await.ok().flatten()
    }

    /// Waits until a write is enforced as far as it must be before it is answered.
    ///
    /// # Errors
    /// [`Refusal::OutcomeUnknown`] when the write may be lost.
    pub(super) async fn enforced(
        &self,
        authority: &Authority,
        written: &Written,
    ) -> Result<Option<Enforced>, Refusal> {
        let until = match Authority::is_awaited(written) {
            true => self.step_aside(),
            false => self.0.until,
        };
        let begun = Instant::now();
        let most = until.saturating_duration_since(begun);
        let enforced = authority.enforced(written, most).await;
        let outcome = match &enforced {
            Ok(None) => return enforced,
            Ok(Some(enforced)) => word(enforced),
            Err(_) => "lost",
        };
        self.0.metrics.waited(outcome, begun.elapsed());
        // A call writes once.
        let _ = self.0.outcome.set(outcome);
        enforced
    }
}

fn word(enforced: &Enforced) -> &'static str {
    match enforced {
        Enforced::Confirmed { .. } => "confirmed",
        Enforced::Committed { .. } => "committed",
        Enforced::Lost => "lost",
    }
}

/// How far a write is enforced, as answers tell it.
pub(super) fn enforcement(enforced: &Enforced) -> v1::Enforcement {
    match enforced {
        Enforced::Confirmed { replicas } => v1::Enforcement {
            state: State::Confirmed.into(),
            replicas: replicas.clone(),
            ..v1::Enforcement::default()
        },
        Enforced::Committed {
            everywhere_after_ms,
            replicas,
            missing,
        } => v1::Enforcement {
            state: State::Committed.into(),
            replicas: replicas.clone(),
            everywhere_after: everywhere_after_ms.map(milliseconds),
            missing: missing.clone(),
        },
        // Refused before it could be told.
        Enforced::Lost => v1::Enforcement::default(),
    }
}
