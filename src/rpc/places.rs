//! Places for what waits: bounded in all and by peer, each with a time to be given up at.
//!
//! ```text
//! a call that may write ─► Place                      before it is looked at
//! a write that waits for other servers ─► Place       among places of their own (`enforce`)
//! a Check that must wait, half a message ─► Held      a place and its deadline
//! a stream that lasts ─► Place                        among places of their own (`unsent`)
//! ```
//!
//! Used by `front` for calls and by `half` for the messages of streams: what a client can make us
//! keep is the places times the size of a message. A place is given back when dropped. Absent on
//! purpose: a queue for places; who gets none is told so at once and asks elsewhere.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::metrics::Metrics;
use super::seats::network_of;

/// One peer may have this part of all places.
const PEER_SHARE: usize = 8;

/// The places of a server.
pub(super) struct Places {
    metrics: Metrics,
    // One permit for each that waits.
    free: Arc<Semaphore>,
    // How many each peer has: one alone must not keep the others from revoking. The lock is held
    // for a few instructions, never across an await.
    by_peer: Mutex<HashMap<IpAddr, usize>>,
    of_peer_max: usize,
    time_max: Duration,
}

impl Places {
    pub(super) fn new(metrics: Metrics, total_max: usize, time_max: Duration) -> Self {
        Self {
            metrics,
            free: Arc::new(Semaphore::new(total_max)),
            by_peer: Mutex::default(),
            of_peer_max: total_max.div_ceil(PEER_SHARE),
            time_max,
        }
    }

    /// How long anything may wait.
    pub(super) fn time_max(&self) -> Duration {
        self.time_max
    }

    /// A place for somebody at this address; none, and counted as shed, if there are no more.
    pub(super) fn take(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Place> {
        let place = self.try_take(peer);
        if place.is_none() {
            self.metrics.shed();
        }
        place
    }

    /// The same with a deadline that runs from now.
    pub(super) fn hold(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Held> {
        let place = self.take(peer)?;
        Some(Held {
            _place: place,
            deadline: Box::pin(sleep(self.time_max)),
        })
    }

    /// The same, uncounted: for who has another way.
    pub(super) fn try_take(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Place> {
        let share = match peer {
            Some(peer) => Some(Share::take(self, network_of(peer))?),
            None => None,
        };
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(Place {
            _permit: permit,
            _share: share,
        })
    }
}

/// A place among those who wait.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _share: Option<Share>,
}

/// A place, and when it has to be given up.
pub(super) struct Held {
    _place: Place,
    deadline: Pin<Box<Sleep>>,
}

impl Held {
    /// Ready once the time is up.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.as_mut().poll(cx)
    }
}

/// A peer's part of the places; given back when dropped.
struct Share {
    places: Arc<Places>,
    peer: IpAddr,
}

impl Share {
    fn take(places: &Arc<Places>, peer: IpAddr) -> Option<Self> {
        // Counters hold after any panic between two of their steps; there is none.
        let mut by_peer = places
            .by_peer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = by_peer.entry(peer).or_default();
        if *taken >= places.of_peer_max {
            return None;
        }
        *taken += 1;
        drop(by_peer);
        Some(Self {
            places: Arc::clone(places),
            peer,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let by_peer = self.places.by_peer.lock();
        let mut by_peer = by_peer.unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = by_peer.get_mut(&self.peer) {
            *taken -= 1;
            if *taken == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(total_max: usize) -> Arc<Places> {
        let time_max = Duration::from_secs(600);
        Arc::new(Places::new(Metrics::default(), total_max, time_max))
    }

    fn take(places: &Arc<Places>, peer: &str) -> Option<Place> {
        places.take(Some(peer.parse().unwrap()))
    }

    #[test]
    fn places_are_counted_in_all_and_by_peer_and_given_back() {
        let places = places(9);
        let first = [take(&places, "192.0.2.1"), take(&places, "192.0.2.1")];
        assert!(first.iter().all(Option::is_some));
        assert!(take(&places, "192.0.2.1").is_none());
        let others: Vec<_> = (0..7).map(|_| places.take(None)).collect();
        assert!(others.iter().all(Option::is_some));
        assert!(take(&places, "192.0.2.2").is_none());
        drop((first, others));
        assert!(places.by_peer.lock().unwrap().is_empty());
        assert!(take(&places, "192.0.2.2").is_some());
    }

    #[test]
    fn an_ipv6_peer_is_its_whole_network() {
        let places = places(8);
        let _held = take(&places, "2001:db8::1").unwrap();
        assert!(take(&places, "2001:db8::ffff:1").is_none());
        assert!(take(&places, "2001:db8:0:1::1").is_some());
    }
}
