//! The world between the servers and the database: time, the network, faults, the history.
//!
//! ```text
//! call ─► on its way ─► effect in the database ─► on its way back ─► reply
//!          slow, cut      perhaps after the          slow, cut        or an error at the
//!                         caller has given up                         caller's deadline
//! ```
//!
//! While the synchronous standby is away, what writes waits for it, or somebody cancels the wait:
//! then it is there for all to see, its caller is warned, and a failover can still lose it.
//!
//! One thread runs everything, so the lock is never waited for; it is there because stores are
//! shared. What happens at one millisecond happens in the order in which it was planned.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::store::StoreError;

use super::choices::Choices;
use super::database::Database;

/// When the world began, in Unix milliseconds.
pub(super) const BEGUN_MS: u64 = 1_700_000_000_000;

/// Which of a server's connections a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Line {
    /// Appends and snapshots.
    Pool,
    /// Reading the log.
    Feed,
    /// Renewals, reports and the members.
    Heartbeat,
}

/// What becomes of a call that is cut off.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// It never reaches the database.
    Before,
    /// It takes effect, and the reply is lost.
    After,
    /// It takes effect after the caller has given up.
    Late,
}

/// Takes whether the database has warned that a wait for its standby was cancelled.
pub(super) type Reply = Box<dyn FnOnce(bool) + Send>;
pub(super) type Effect = Box<dyn FnOnce(&mut Database) -> Reply + Send>;
pub(super) type Failing = Box<dyn FnOnce(StoreError) + Send>;

/// One call as it sets out.
pub(super) struct Call {
    pub(super) server: usize,
    pub(super) line: Line,
    pub(super) what: &'static str,
    pub(super) writes: bool,
    pub(super) deadline_ms: u64,
    pub(super) effect: Effect,
    pub(super) failing: Failing,
}

enum Event {
    Effect {
        server: usize,
        what: &'static str,
        // Waits for the standby if it has something to commit.
        durable: bool,
        timeline: u64,
        effect: Effect,
        // None: the reply is lost.
        back_ms: Option<u64>,
    },
    Reply(Reply, bool),
    Failure(Failing, StoreError),
    Wake(usize),
}

/// One server's way to the database.
pub(super) struct Link {
    wakes: watch::Sender<u64>,
    /// Until when its calls are slow.
    pub(super) slow_until_ms: u64,
    /// From when until when a line, or all of them, is cut.
    pub(super) cut_from_ms: u64,
    pub(super) cut_until_ms: u64,
    pub(super) cut_line: Option<Line>,
}

impl Link {
    fn is_cut(&self, now_ms: u64) -> bool {
        (self.cut_from_ms..self.cut_until_ms).contains(&now_ms)
    }
}

/// Everything but the servers.
pub(super) struct Inner {
    pub(super) choices: Choices,
    pub(super) database: Database,
    pub(super) links: Vec<Link>,
    /// Until when no call reaches the database.
    pub(super) outage_until_ms: u64,
    /// Until when no commit is heard of by the synchronous standby.
    pub(super) standby_away_until_ms: u64,
    /// What has happened, by its name.
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) calm: bool,
    /// What took effect, by server: literal cases read it.
    pub(super) effects: Vec<(usize, &'static str)>,
    events: BTreeMap<(u64, u64), Event>,
    planned: u64,
    failovers: u64,
    history: DefaultHasher,
}

/// The world.
pub(super) struct World {
    now_ms: AtomicU64,
    inner: Mutex<Inner>,
}

impl World {
    pub(super) fn new(seed: u64, servers: usize) -> Self {
        let link = |_| Link {
            wakes: watch::channel(0).0,
            slow_until_ms: 0,
            cut_from_ms: 0,
            cut_until_ms: 0,
            cut_line: None,
        };
        let inner = Inner {
            choices: Choices::new(seed),
            database: Database::new(BEGUN_MS),
            links: (0..servers).map(link).collect(),
            outage_until_ms: 0,
            standby_away_until_ms: 0,
            counts: BTreeMap::new(),
            calm: false,
            effects: Vec::new(),
            events: BTreeMap::new(),
            planned: 0,
            failovers: 0,
            history: DefaultHasher::new(),
        };
        Self {
            now_ms: AtomicU64::new(0),
            inner: Mutex::new(inner),
        }
    }

    /// Milliseconds since the world began.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One millisecond later: what is due happens.
    pub(super) fn step(&self) {
        let now_ms = self.now_ms.fetch_add(1, Ordering::Relaxed) + 1;
        let mut inner = self.lock();
        inner.database.now_ms = BEGUN_MS + now_ms;
        inner.database.commit_renewals();
        while let Some(entry) = inner.events.first_entry()
            && entry.key().0 <= now_ms
        {
            let event = entry.remove();
            inner.happen(now_ms, event);
        }
    }

    pub(super) fn send(&self, call: Call) {
        let now_ms = self.now_ms();
        self.lock().send(now_ms, call);
    }

    pub(super) fn wakes(&self, server: usize) -> watch::Receiver<u64> {
        self.lock().links[server].wakes.subscribe()
    }
}

impl Inner {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Adds to what two runs of one seed are compared by.
    pub(super) fn note(&mut self, event: impl Hash) {
        event.hash(&mut self.history);
    }

    pub(super) fn history(&self) -> u64 {
        self.history.finish()
    }

    /// Another server of the database takes over; calls on their way to the former are lost.
    pub(super) fn fail_over(&mut self, lost: usize) {
        self.failovers += 1;
        self.database.fail_over(lost);
    }

    /// The synchronous standby takes over, which is there from then on.
    pub(super) fn fail_over_to_standby(&mut self) {
        self.failovers += 1;
        self.standby_away_until_ms = 0;
        if self.database.fail_over_to_standby() {
            self.count("failed over, what nobody was told of is lost");
        }
    }

    fn plan(&mut self, at_ms: u64, event: Event) {
        self.planned += 1;
        self.events.insert((at_ms, self.planned), event);
    }

    fn send(&mut self, now_ms: u64, call: Call) {
        self.note((now_ms, call.server, call.what));
        let link = &self.links[call.server];
        let slow = now_ms < link.slow_until_ms;
        let cut_off = link.is_cut(now_ms) && link.cut_line.is_none_or(|it| it == call.line);
        let out = now_ms < self.outage_until_ms;
        let limit_ms = call.deadline_ms;
        let (mut there_ms, mut back_ms) = (self.choices.between(1, 2), self.choices.between(0, 2));
        if slow && self.choices.one_in(2) {
            there_ms = self.choices.between(1, limit_ms);
            self.count("slow before the effect");
        } else if slow {
            back_ms = self.choices.between(1, limit_ms);
            self.count("slow after the effect");
        }
        let mut back_ms = Some(back_ms);
        let mut reaches = true;
        if out {
            reaches = false;
        } else if cut_off {
            match self.choices.pick(&[Cut::Before, Cut::After, Cut::Late]) {
                Cut::Before => {
                    reaches = false;
                    self.count("cut before the effect");
                }
                Cut::After => {
                    back_ms = None;
                    self.count("cut after the effect");
                }
                Cut::Late => {
                    there_ms = limit_ms + self.choices.between(1, 2 * limit_ms);
                    back_ms = None;
                    self.count("effect after the deadline");
                }
            }
        }
        // Where nothing was sent, the caller may know it or not.
        let error = if !call.writes || (!reaches && self.choices.one_in(2)) {
            StoreError::Unavailable("no answer".to_owned())
        } else {
            StoreError::OutcomeUnknown("no answer".to_owned())
        };
        self.plan(now_ms + limit_ms, Event::Failure(call.failing, error));
        if reaches {
            let effect = Event::Effect {
                server: call.server,
                what: call.what,
                durable: call.writes && call.what != "report",
                timeline: self.failovers,
                effect: call.effect,
                back_ms,
            };
            self.plan(now_ms + there_ms, effect);
        }
    }

    fn happen(&mut self, now_ms: u64, event: Event) {
        match event {
            Event::Effect { timeline, .. } if timeline != self.failovers => {}
            Event::Effect { durable: true, .. }
                if now_ms < self.standby_away_until_ms && self.choices.one_in(2) =>
            {
                self.count("waited for the standby");
                self.plan(self.standby_away_until_ms, event);
            }
            Event::Effect {
                server,
                what,
                effect,
                back_ms,
                ..
            } => {
                self.note((now_ms, server, what, "effect"));
                self.effects.push((server, what));
                let commits = self.database.commits;
                self.database.wrote = false;
                let reply = effect(&mut self.database);
                let warned = self.database.wrote && now_ms < self.standby_away_until_ms;
                if warned {
                    self.count("wait for the standby cancelled");
                } else if self.database.wrote {
                    self.database.replicated();
                }
                // Nobody hears of a write before it is committed.
                let late_ms = match what {
                    "renew" => self.database.commits_late_ms,
                    _ => 0,
                };
                if let Some(back_ms) = back_ms.map(|back_ms| back_ms + late_ms) {
                    self.plan(now_ms + back_ms, Event::Reply(reply, warned));
                }
                if self.database.commits != commits {
                    self.wake_all(now_ms);
                }
            }
            Event::Reply(reply, warned) => reply(warned),
            Event::Failure(failing, error) => failing(error),
            Event::Wake(server) => self.links[server].wakes.send_modify(|count| *count += 1),
        }
    }

    // A wake-up comes once, twice or not at all.
    fn wake_all(&mut self, now_ms: u64) {
        for server in 0..self.links.len() {
            let cut_off = self.links[server].is_cut(now_ms);
            let once_ms = now_ms + self.choices.between(1, 3);
            let again_ms = once_ms + self.choices.between(1, 30);
            match self.choices.below(10) {
                _ if self.calm => self.plan(once_ms, Event::Wake(server)),
                0 | 1 => self.count("wake-up dropped"),
                _ if cut_off => self.count("wake-up dropped"),
                2 => {
                    self.count("wake-up twice");
                    self.plan(once_ms, Event::Wake(server));
                    self.plan(again_ms, Event::Wake(server));
                }
                _ => self.plan(once_ms, Event::Wake(server)),
            }
        }
    }
}
