//! How fast one peer may call, and how fast its logins may fail.
//!
//! ```text
//! call ─► calls, or revocations             spent before a place is taken; too fast is RATE_LIMITED
//! login ─► failed logins of peer and name   looked at before, charged by an answer UNAUTHENTICATED
//! ```
//!
//! Used by `front`, and by `login`, which knows the names; a Check is never counted. Calls that take
//! rights away have a measure of their own, so that a flood of others through the same proxy keeps
//! none out, and so has each name that logs in from there. Who spreads guesses over names fails too
//! fast under all of them: then only names log in from there that have not failed so lately. A
//! measure is the generic cell rate algorithm (ITU-T I.371): one instant for each that was fast
//! lately, in a bounded table. Whoever finds no room there shares one with all others who do not.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::Instant;
use tonic::Request;

use crate::config::Limits;
use crate::domain::limits::Networks;
use crate::domain::refusal::Refusal;

use super::metrics::Metrics;
use super::seats::network_of;

/// Peers, and names of each, that are told apart; each costs some 60 bytes.
const PEERS_MAX: usize = 65_536;
/// How often a full table is looked through for who has been slow since.
const SWEPT_EVERY: Duration = Duration::from_secs(1);
/// What stands for all that find no room.
const OTHERS: Who = Who {
    network: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    name: 0,
};

/// Calls of a second come at once, failed logins of ten: people mistype in bursts, machines do not.
const CALLS_BURST: Duration = Duration::from_secs(1);
const FAILURES_BURST: Duration = Duration::from_secs(10);

/// How often a peer may fail under all names together, in times of one name, in each second.
const NAMES: u32 = 10;
/// Beyond that a name that has failed waits so long: failures that are further apart than half of it
/// lock nobody out.
const SPREAD: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Management calls.
    Calls,
    /// Calls that take rights away.
    Revocations,
    /// Logins, renewals and exchanges that are refused.
    FailedLogins,
}

impl Limit {
    pub(super) const ALL: [Self; 3] = [Self::Calls, Self::Revocations, Self::FailedLogins];

    /// The word used in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Revocations => "revocations",
            Self::FailedLogins => "failed_logins",
        }
    }

    fn refusal(self, again: Duration) -> Refusal {
        let what = match self {
            Self::Calls | Self::Revocations => "calls",
            Self::FailedLogins => "failed logins",
        };
        Refusal::RateLimited { what, again }
    }
}

/// Who is measured: a peer, and what it goes by there, as a hash; 0 is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Who {
    network: IpAddr,
    name: u64,
}

impl From<IpAddr> for Who {
    fn from(peer: IpAddr) -> Self {
        let network = network_of(peer);
        Self { network, name: 0 }
    }
}

/// The measures of a port.
pub(super) struct Rates {
    // Where one address is many clients: nobody there is held to the failures of others.
    proxies: Networks,
    names: RandomState,
    measures: [Measure; Limit::ALL.len()],
    // Failed logins of a peer under all names, and the names that have failed beyond that: in a
    // table of their own, so that who fills it shares it with nobody but the like.
    all_names: Measure,
    beyond: Measure,
    metrics: Metrics,
}

impl Rates {
    pub(super) fn new(metrics: Metrics, limits: &Limits, proxies: Networks) -> Self {
        let calls = || Measure::new(limits.calls_per_second, CALLS_BURST);
        let failures = Measure::new(limits.failed_logins_per_second, FAILURES_BURST);
        let of_all = limits.failed_logins_per_second.saturating_mul(NAMES);
        Self {
            all_names: Measure::new(of_all, CALLS_BURST),
            beyond: Measure::once_in(SPREAD),
            proxies,
            names: RandomState::default(),
            measures: [calls(), calls(), failures],
            metrics,
        }
    }

    /// Counts a call of a peer, or refuses it. Who has no address is of this process.
    pub(super) fn spend(&self, limit: Limit, peer: Option<IpAddr>) -> Result<(), Refusal> {
        let waits = |peer| self.measures[limit as usize].spend(peer, Instant::now());
        self.judged(limit, peer.and_then(waits))
    }

    /// Refuses a login under a name under which too many have failed from there, before its
    /// credential is looked at. Another's failures are nobody's but its own.
    fn may_log_in(&self, peer: Option<IpAddr>, name: &str, now: Instant) -> Result<(), Refusal> {
        let wait = self.failing(peer, name).and_then(|(who, of)| {
            let of_name = of.look(who, now);
            of_name.or_else(|| self.look_beyond(who, now))
        });
        self.judged(Limit::FailedLogins, wait)
    }

    /// How long a name waits that has failed beyond what its peer may fail, while it still does.
    fn look_beyond(&self, who: Who, now: Instant) -> Option<Duration> {
        self.all_names.look(who.network, now)?;
        self.beyond.look(who, now)
    }

    /// Counts a failed login.
    fn login_failed(&self, peer: Option<IpAddr>, name: &str, now: Instant) {
        if let Some((who, of)) = self.failing(peer, name) {
            of.charge(who, now);
            if self.all_names.spend(who.network, now).is_some() {
                // One that has failed there already goes on waiting.
                let _ = self.beyond.spend(who, now);
            }
        }
    }

    fn failing(&self, peer: Option<IpAddr>, name: &str) -> Option<(Who, &Measure)> {
        let behind_proxy = !self.proxies.is_empty() && self.proxies.allow(peer);
        let peer = peer.filter(|_| !behind_proxy)?;
        let who = Who {
            name: self.names.hash_one(name),
            ..peer.into()
        };
        Some((who, &self.measures[Limit::FailedLogins as usize]))
    }

    fn judged(&self, limit: Limit, wait: Option<Duration>) -> Result<(), Refusal> {
        match wait {
            None => Ok(()),
            Some(again) => {
                self.metrics.rate_limited(limit);
                Err(limit.refusal(again))
            }
        }
    }
}

/// The failed logins of whoever calls. It comes with each login as an extension.
#[derive(Clone)]
pub(super) struct Attempts {
    rates: Arc<Rates>,
    peer: Option<IpAddr>,
}

impl Attempts {
    pub(super) fn new(rates: &Arc<Rates>, peer: Option<IpAddr>) -> Self {
        let rates = Arc::clone(rates);
        Self { rates, peer }
    }

    /// Logs in under a name, unless too many of that name have failed from there.
    ///
    /// # Errors
    /// Rate limited, or those of the login.
    pub(super) async fn log_in<T, R>(
        request: &Request<T>,
        name: &str,
        login: impl Future<Output = Result<R, Refusal>>,
    ) -> Result<R, Refusal> {
        let Some(Self { rates, peer }) = request.extensions().get() else {
            return login.await;
        };
        rates.may_log_in(*peer, name, Instant::now())?;
        let outcome = login.await;
        if let Err(Refusal::Unauthenticated | Refusal::LoginRefused(_)) = outcome {
            rates.login_failed(*peer, name, Instant::now());
        }
        outcome
    }
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempts")
    }
}

/// One rate, for each by itself.
struct Measure {
    // Between two calls, when they come evenly.
    interval: Duration,
    burst: Duration,
    table: Mutex<Table>,
}

/// When each would be up to date if its calls had come evenly (the theoretical arrival time).
struct Table {
    due: HashMap<Who, Instant>,
    swept: Option<Instant>,
}

impl Measure {
    fn new(per_second: u32, burst: Duration) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            burst,
            table: Mutex::new(Table {
                due: HashMap::new(),
                swept: None,
            }),
        }
    }

    /// One in so long.
    fn once_in(interval: Duration) -> Self {
        Self {
            interval,
            ..Self::new(1, interval)
        }
    }

    /// Counts one, unless it is too early: then how long it is.
    fn spend(&self, who: impl Into<Who>, now: Instant) -> Option<Duration> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let who = table.place(who.into(), now);
        let wait = self.wait(table.due_of(who, now), now);
        if wait.is_none() {
            table.count(who, now, self.interval);
        }
        wait
    }

    /// Counts one that has happened: what was many at once is waited for afterwards.
    fn charge(&self, who: impl Into<Who>, now: Instant) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let who = table.place(who.into(), now);
        table.count(who, now, self.interval);
    }

    /// How long it is too early for one, without counting it.
    fn look(&self, who: impl Into<Who>, now: Instant) -> Option<Duration> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let who = table.place(who.into(), now);
        self.wait(table.due_of(who, now), now)
    }

    fn wait(&self, due: Instant, now: Instant) -> Option<Duration> {
        let wait = (due + self.interval).saturating_duration_since(now + self.burst);
        (!wait.is_zero()).then_some(wait)
    }
}

impl Table {
    fn due_of(&self, who: Who, now: Instant) -> Instant {
        self.due.get(&who).copied().unwrap_or(now).max(now)
    }

    fn count(&mut self, who: Who, now: Instant, interval: Duration) {
        let due = self.due_of(who, now) + interval;
        self.due.insert(who, due);
    }

    /// Where one is counted: by itself, if it is or there is room.
    fn place(&mut self, who: Who, now: Instant) -> Who {
        if self.due.len() < PEERS_MAX || self.due.contains_key(&who) {
            return who;
        }
        // A flood of addresses must not make each call look through all of them.
        if self.swept.is_none_or(|at| now >= at + SWEPT_EVERY) {
            self.swept = Some(now);
            self.due.retain(|_, due| *due > now);
        }
        if self.due.len() < PEERS_MAX {
            who
        } else {
            OTHERS
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn peer(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test]
    async fn a_burst_passes_and_then_one_at_a_time() {
        let measure = Measure::new(10, ms(1_000));
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(measure.spend(PEER, start), None);
        }
        assert_eq!(measure.spend(PEER, start), Some(ms(100)));
        // To be refused costs nothing.
        assert_eq!(measure.spend(PEER, start + ms(99)), Some(ms(1)));
        assert_eq!(measure.spend(PEER, start + ms(100)), None);
        assert_eq!(measure.spend(PEER, start + ms(100)), Some(ms(100)));
        // Who was slow has a burst again, and not more than one.
        let later = start + Duration::from_secs(60);
        for _ in 0..10 {
            assert_eq!(measure.spend(PEER, later), None);
        }
        assert!(measure.spend(PEER, later).is_some());
    }

    #[tokio::test]
    async fn no_peer_spends_anothers() {
        let measure = Measure::new(1, ms(1_000));
        let now = Instant::now();
        assert_eq!(measure.spend(PEER, now), None);
        assert!(measure.spend(PEER, now).is_some());
        assert_eq!(measure.spend(peer(1), now), None);
        // One site is one peer, however many addresses it has.
        let of_site = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(measure.spend(of_site("2001:db8::1"), now), None);
        assert!(measure.spend(of_site("2001:db8::ffff:2"), now).is_some());
        assert_eq!(measure.spend(of_site("2001:db8:0:1::1"), now), None);
    }

    #[tokio::test]
    async fn looking_counts_nothing() {
        let measure = Measure::new(1, ms(2_000));
        let now = Instant::now();
        for _ in 0..5 {
            assert_eq!(measure.look(PEER, now), None);
        }
        assert_eq!(measure.spend(PEER, now), None);
        assert_eq!(measure.look(PEER, now), None);
        assert_eq!(measure.spend(PEER, now), None);
        assert_eq!(measure.look(PEER, now), Some(ms(1_000)));
    }

    #[tokio::test]
    async fn a_flood_of_addresses_is_bounded_and_keeps_out_only_newcomers() {
        let measure = Measure::new(1, ms(1_000));
        let start = Instant::now();
        assert_eq!(measure.spend(PEER, start), None);
        for number in 0..2 * PEERS_MAX as u32 {
            measure.spend(peer(number), start);
        }
        let entries = || measure.table.lock().expect("no panic").due.len();
        assert!(entries() <= PEERS_MAX + 1);
        // Known ones are told apart still; the rest share one measure.
        let soon = start + ms(500);
        assert_eq!(measure.look(PEER, soon), Some(ms(500)));
        assert!(measure.spend(peer(u32::MAX), soon).is_some());
        // All were slow since: there is room.
        let later = start + Duration::from_secs(2);
        assert_eq!(measure.spend(peer(u32::MAX), later), None);
        assert_eq!(entries(), 1);
    }

    #[test]
    fn revocations_are_measured_by_themselves() {
        let limits = Limits {
            calls_per_second: 1,
            ..Limits::default()
        };
        let rates = Rates::new(Metrics::default(), &limits, Networks::default());
        let peer = Some(PEER);
        rates.spend(Limit::Calls, peer).expect("the first");
        let refused = rates.spend(Limit::Calls, peer).expect_err("too fast");
        assert!(matches!(
            refused,
            Refusal::RateLimited { what: "calls", .. }
        ));
        // A revocation passes all the same, and whoever is of this process.
        rates.spend(Limit::Revocations, peer).expect("the first");
        rates.spend(Limit::Calls, None).expect("no peer");
    }

    #[tokio::test]
    async fn what_happened_at_once_is_waited_for_afterwards() {
        let measure = Measure::new(10, ms(1_000));
        let now = Instant::now();
        // All looked at before any was counted.
        for _ in 0..30 {
            measure.charge(PEER, now);
        }
        assert_eq!(measure.look(PEER, now), Some(ms(2_100)));
        assert_eq!(measure.look(PEER, now + ms(2_100)), None);
    }

    #[test]
    fn failing_logins_keep_their_name_out_of_their_address_but_no_proxy() {
        let limits = Limits {
            failed_logins_per_second: 1,
            ..Limits::default()
        };
        let proxies = Networks::parse(&["198.51.100.0/24"]).expect("a network");
        let rates = Rates::new(Metrics::default(), &limits, proxies);
        let proxy = Some(IpAddr::from([198, 51, 100, 3]));
        let now = Instant::now();
        // One for each second of the burst.
        for _ in 0..10 {
            for peer in [Some(PEER), proxy, None] {
                rates.may_log_in(peer, "ci", now).expect("not too many yet");
                rates.login_failed(peer, "ci", now);
            }
        }
        let refused = rates
            .may_log_in(Some(PEER), "ci", now)
            .expect_err("too many");
        assert!(refused.to_string().contains("failed logins"), "{refused}");
        for (peer, name) in [
            (proxy, "ci"),
            (None, "ci"),
            (Some(peer(1)), "ci"),
            (Some(PEER), "web"),
        ] {
            let may = rates.may_log_in(peer, name, now);
            may.expect("nobody's failures but its own");
        }
    }

    #[test]
    fn guesses_that_are_spread_over_names_are_few_and_keep_no_others_out() {
        let limits = Limits {
            failed_logins_per_second: 1,
            ..Limits::default()
        };
        let rates = Rates::new(Metrics::default(), &limits, Networks::default());
        let (begun, mut looked_at) = (Instant::now(), 0);
        // A thousand a second for twenty seconds, under a hundred names.
        for number in 0..20_000_u32 {
            let (now, name) = (begun + ms(number.into()), format!("name-{}", number % 100));
            if rates.may_log_in(Some(PEER), &name, now).is_ok() {
                looked_at += 1;
                rates.login_failed(Some(PEER), &name, now);
            }
        }
        // Ten at once and ten a second, and each name once beyond that.
        assert!((300..=310).contains(&looked_at), "{looked_at}");
        let now = begun + ms(20_000);
        for (peer, name) in [(PEER, "another"), (peer(1), "name-1")] {
            let may = rates.may_log_in(Some(peer), name, now);
            may.expect("it has not failed there");
        }
        // Long after, none waits.
        let later = now + SPREAD;
        let may = rates.may_log_in(Some(PEER), "name-1", later);
        may.expect("all is forgotten");
    }
}
