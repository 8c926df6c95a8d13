//! The faults: of replicas and their networks, and beside them of the database.
//!
//! Each side draws its kinds from a deck that is shuffled anew when it is used up, so that every
//! kind happens before any happens twice.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::history::History;
use super::world::{Slot, World};
use super::{Dice, Plan};
use crate::proxy::Flow;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A replica is stopped by SIGSTOP and goes on.
    Stop,
    /// A replica is killed by SIGKILL, and another is started.
    Kill,
    /// Neither a replica nor its database hears of the other.
    Partition,
    /// A replica does not hear its database.
    DeafOneWay,
    /// A database does not hear its replica.
    MuteOneWay,
    /// A replica's network hands on one byte after the other.
    Drip,
    /// A replica's network is slow.
    Late,
    /// A replica's connections are reset.
    Reset,
    /// A replica's connections are closed one way.
    HalfClose,
    /// The database ends some of its processes for replicas.
    Backends,
    /// The database crashes and starts again.
    Restart,
    /// All processes of the database are stopped and go on.
    Freeze,
}

impl Kind {
    pub(super) const ALL: [Self; 12] = [
        Self::Stop,
        Self::Kill,
        Self::Partition,
        Self::DeafOneWay,
        Self::MuteOneWay,
        Self::Drip,
        Self::Late,
        Self::Reset,
        Self::HalfClose,
        Self::Backends,
        Self::Restart,
        Self::Freeze,
    ];

    fn is_of_database(self) -> bool {
        matches!(self, Self::Backends | Self::Restart | Self::Freeze)
    }

    /// Between which times it lasts: up to some leases, so that it ends before, in and after one.
    fn lasts(self) -> (Duration, Duration) {
        let (least, most) = match self {
            Self::Stop | Self::Partition | Self::DeafOneWay | Self::MuteOneWay => (50, 2_500),
            Self::Drip | Self::Late => (500, 2_000),
            Self::Freeze => (50, 1_500),
            Self::HalfClose => (10, 500),
            Self::Kill | Self::Reset | Self::Backends | Self::Restart => (0, 0),
        };
        (Duration::from_millis(least), Duration::from_millis(most))
    }
}

/// Between two faults of a side: the database is left alone for some leases at a time, or nobody
/// would answer anything.
const CALM: [(Duration, Duration); 2] = [
    (Duration::from_millis(100), Duration::from_millis(1_000)),
    (Duration::from_millis(1_000), Duration::from_millis(4_000)),
];
const LATE: Duration = Duration::from_millis(20);
const DRIP: Duration = Duration::from_micros(200);

/// Makes faults until it is told to stop.
pub(super) struct Disturber {
    world: Arc<World>,
    history: Arc<History>,
    seed: u64,
    kinds: &'static [Kind],
}

/// Kinds in the order of the dice.
struct Deck {
    all: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    fn draw(&mut self, dice: &mut Dice) -> Kind {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
        }
        self.left.swap_remove(dice.below(self.left.len()))
    }
}

impl Disturber {
    pub(super) fn new(world: &Arc<World>, history: &Arc<History>, plan: &Plan) -> Self {
        Self {
            world: Arc::clone(world),
            history: Arc::clone(history),
            seed: plan.seed,
            kinds: plan.kinds,
        }
    }

    /// What has begun when it is dropped is healed by the world.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        tokio::join!(self.side(stop, false), self.side(stop, true));
    }

    async fn side(&self, stop: &CancellationToken, of_database: bool) {
        let mut dice = Dice(self.seed ^ u64::from(of_database));
        let kinds = self.kinds.iter().copied();
        let mut deck = Deck {
            all: kinds
                .filter(|kind| kind.is_of_database() == of_database)
                .collect(),
            left: Vec::new(),
        };
        if deck.all.is_empty() {
            return stop.cancelled().await;
        }
        loop {
            let (least, most) = CALM[usize::from(of_database)];
            lasts(dice.between(least, most)).await;
            let kind = deck.draw(&mut dice);
            let (least, most) = kind.lasts();
            let time = dice.between(least, most);
            let index = dice.below(self.world.replicas.len());
            let fault = self.history.begun(kind, index, time);
            self.disturb(kind, index, time, dice.percent(50)).await;
            self.history.over(kind, fault);
        }
    }

    async fn disturb(&self, kind: Kind, index: usize, time: Duration, cut: bool) {
        let slot = &self.world.replicas[index];
        match kind {
            Kind::Stop => {
                slot.signal(Signal::STOP);
                lasts(time).await;
                slot.signal(Signal::CONT);
            }
            Kind::Kill => {
                // On a thread of its own: the database side must be able to thaw what it froze.
                let starting = Arc::clone(&self.world.starting).lock_owned().await;
                let world = Arc::clone(&self.world);
                let started = tokio::task::spawn_blocking(move || {
                    world.replicas[index].kill_and_start();
                    drop(starting);
                });
                started.await.expect("started");
            }
            Kind::Partition => flows(slot, Some(Flow::Hold), Some(Flow::Hold), time, cut).await,
            Kind::DeafOneWay => flows(slot, None, Some(Flow::Hold), time, cut).await,
            Kind::MuteOneWay => flows(slot, Some(Flow::Hold), None, time, cut).await,
            Kind::Drip => {
                flows(
                    slot,
                    Some(Flow::Drip(DRIP)),
                    Some(Flow::Drip(DRIP)),
                    time,
                    false,
                )
                .await
            }
            Kind::Late => {
                flows(
                    slot,
                    Some(Flow::Late(LATE)),
                    Some(Flow::Late(LATE)),
                    time,
                    false,
                )
                .await
            }
            Kind::Reset => slot.proxy.cut(),
            Kind::HalfClose if cut => flows(slot, Some(Flow::Close), None, time, false).await,
            Kind::HalfClose => flows(slot, None, Some(Flow::Close), time, false).await,
            Kind::Backends => {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = 'latchkey' AND random() < 0.5";
                self.world.postgres.admin("postgres", sql).await;
            }
            Kind::Restart => self.world.postgres.crash_and_restart(),
            Kind::Freeze => {
                let frozen = self.world.postgres.freeze();
                lasts(time).await;
                drop(frozen);
            }
        }
    }
}

/// Changes what a network does for a time; what it held then comes late, or is lost with the
/// connections.
async fn flows(slot: &Slot, up: Option<Flow>, down: Option<Flow>, time: Duration, cut: bool) {
    if let Some(up) = up {
        slot.proxy.to_server(up);
    }
    if let Some(down) = down {
        slot.proxy.to_client(down);
    }
    lasts(time).await;
    if cut {
        slot.proxy.cut();
    }
    slot.proxy.both_ways(Flow::Pass);
}

async fn lasts(time: Duration) {
    tokio::time::sleep(time).await;
}
