//! Who holds how many connections: in all, and by peer.
//!
//! Used by both listeners, each with seats of its own. A seat is given back when it is dropped. The
//! lock is held for a few instructions, never across an await, by whoever accepts and by connections
//! that end.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::metrics::Refused;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeatLimits {
    /// In all.
    pub(super) total_max: usize,
    /// Of one address; of one /64 for IPv6, which one host has whole.
    pub(super) per_peer_max: usize,
}

/// The seats of a listener.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_peer: HashMap<IpAddr, usize>,
}

impl Seats {
    /// A seat for a connection from there.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn take(
        self: &Arc<Self>,
        address: IpAddr,
        limits: SeatLimits,
    ) -> Result<Seat, Refused> {
        let peer = network_of(address);
        let mut taken = self.lock();
        if taken.total >= limits.total_max {
            return Err(Refused::Total);
        }
        let of_peer = taken.by_peer.entry(peer).or_default();
        if *of_peer >= limits.per_peer_max {
            return Err(Refused::Peer);
        }
        *of_peer += 1;
        taken.total += 1;
        Ok(Seat {
            peer,
            address,
            seats: Arc::clone(self),
        })
    }

    // Counters hold after any panic between two of their steps; there is none.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The unit that addresses are handed out in: a peer, wherever peers are counted.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
    }
}

/// A connection's seat; dropped, it is free.
#[derive(Debug)]
pub(super) struct Seat {
    peer: IpAddr,
    address: IpAddr,
    seats: Arc<Seats>,
}

impl Seat {
    /// From where the connection comes.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.total -= 1;
        if let Some(of_peer) = taken.by_peer.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                taken.by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SeatLimits = SeatLimits {
        total_max: 3,
        per_peer_max: 2,
    };

    fn take(seats: &Arc<Seats>, address: &str) -> Result<Seat, Refused> {
        seats.take(address.parse().unwrap(), LIMITS)
    }

    #[test]
    fn seats_are_counted_in_all_and_by_peer_and_given_back() {
        let seats = Arc::default();
        let first = take(&seats, "192.0.2.1").ok().unwrap();
        let second = take(&seats, "192.0.2.1").ok().unwrap();
        assert_eq!(take(&seats, "192.0.2.1").err(), Some(Refused::Peer));
        let third = take(&seats, "192.0.2.2").ok().unwrap();
        assert_eq!(take(&seats, "192.0.2.3").err(), Some(Refused::Total));
        drop((first, third));
        let again = take(&seats, "192.0.2.1").ok().unwrap();
        assert_eq!(take(&seats, "192.0.2.1").err(), Some(Refused::Peer));
        drop((second, again));
        assert_eq!(seats.lock().total, 0);
        assert!(seats.lock().by_peer.is_empty());
    }

    #[test]
    fn an_ipv6_peer_is_its_whole_network() {
        let seats = Arc::default();
        let _held = [
            take(&seats, "2001:db8::1").ok(),
            take(&seats, "2001:db8::2").ok(),
        ];
        assert_eq!(take(&seats, "2001:db8::ffff:1").err(), Some(Refused::Peer));
        assert!(take(&seats, "2001:db8:0:1::1").is_ok());
    }
}
