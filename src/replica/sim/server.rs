//! One server of the simulation: a machine with its clocks, and the real replica that runs on it.
//!
//! Each has a runtime of its own whose time is virtual and moves only when the simulation steps
//! it. So a server that is paused stands still between any two of its steps, timers and all; on
//! going on all its timers are late at once, or, after a suspend, none of them, for they sit on a
//! clock that stopped. A crash drops the runtime with everything in it. What clients ask of it
//! (see [`super::clients`]) runs there, too.

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{advance, sleep};

use crate::domain::clock::{Clock, Now};
use crate::domain::entropy::SeededEntropy;
use crate::replica::mutation::Mutation;
use crate::replica::{Identity, LeaseSettings, LoadError, Replica, Settings, WriterTask};

use super::choices::Choices;
use super::link::Linked;
use super::world::{BEGUN_MS, World};

/// How much faster or slower than another a boot clock may run.
const SLACK_THOUSANDTHS: u64 = 50;

/// A machine's clocks.
pub(super) struct MachineClock {
    world: Arc<World>,
    // Boot time that passes in 1,000 milliseconds.
    rate: u64,
    booted_ms: u64,
    /// How far the wall clock was set.
    pub(super) jumped_ms: AtomicI64,
}

impl MachineClock {
    fn steady_ms(&self) -> u64 {
        self.world.now_ms() * self.rate / 1_000
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Now {
        let steady = BEGUN_MS + self.steady_ms();
        let wall = BEGUN_MS + self.world.now_ms();
        let wall = wall.saturating_add_signed(self.jumped_ms.load(Ordering::Relaxed));
        Now {
            earliest: wall.min(steady),
            latest: wall.max(steady),
        }
    }

    fn boot_ms(&self) -> u64 {
        self.booted_ms + self.steady_ms()
    }

    fn wall_ahead_ms(&self) -> i64 {
        let wall = self.world.now_ms() as i64 + self.jumped_ms.load(Ordering::Relaxed);
        wall - self.steady_ms() as i64
    }
}

/// Why a server does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Halt {
    /// Its processes stand still, its clocks do not.
    Paused,
    /// As paused, and the clock of its timers stands still as well.
    Suspended,
    /// It is not there.
    Down,
}

/// What a server is made with.
#[derive(Clone)]
pub(super) struct Make {
    pub(super) world: Arc<World>,
    pub(super) seed: u64,
    pub(super) index: usize,
    /// The lengths of its leases; another one at every start.
    pub(super) leases_ms: &'static [u64],
    pub(super) rate: u64,
    pub(super) mutation: Option<Mutation>,
}

type Slot<T> = Arc<Mutex<Option<T>>>;

/// The server.
pub(super) struct Server {
    make: Make,
    pub(super) clock: Arc<MachineClock>,
    runtime: Option<Runtime>,
    starting: Slot<Result<(Replica, WriterTask), LoadError>>,
    pub(super) replica: Option<Replica>,
    task: Option<WriterTask>,
    stopped: Slot<()>,
    halt: Option<(Halt, u64)>,
    // A halt to come: from when, until when.
    planned: Option<(u64, Halt, u64)>,
    late_ms: u64,
    starts: u64,
    lease_ms: u64,
}

fn taken<T>(slot: &Slot<T>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Server {
    pub(super) fn new(make: Make) -> Self {
        let clock = MachineClock {
            world: Arc::clone(&make.world),
            rate: make.rate,
            // Boot times of machines have nothing to do with each other.
            booted_ms: 1_000 + make.seed % 7_777 * (make.index as u64 + 1),
            jumped_ms: AtomicI64::new(0),
        };
        let mut server = Self {
            make,
            clock: Arc::new(clock),
            runtime: None,
            starting: Slot::default(),
            replica: None,
            task: None,
            stopped: Slot::default(),
            halt: None,
            planned: None,
            late_ms: 0,
            starts: 0,
            lease_ms: 0,
        };
        server.start();
        server
    }

    fn settings(&self) -> Settings {
        Settings {
            forget_after_ms: 2_000,
            forget_every_ms: 50,
            lease: LeaseSettings {
                length_ms: self.lease_ms,
                slack_thousandths: SLACK_THOUSANDTHS,
                poll: Duration::from_millis(self.lease_ms / 8),
                serve_stale: false,
            },
            identity: Identity {
                name: format!("server-{}", self.make.index),
                address: String::new(),
                format_max: 1,
            },
            mutation: self.make.mutation,
            ..Settings::default()
        }
    }

    // Not one of the world's choices: those are of what goes wrong.
    fn length_of_leases(&self) -> u64 {
        let start = self.make.seed ^ ((self.make.index as u64) << 32) ^ (self.starts << 40);
        Choices::new(start).pick(self.make.leases_ms)
    }

    /// Starts a new process.
    fn start(&mut self) {
        self.starts += 1;
        self.lease_ms = self.length_of_leases();
        self.halt = None;
        self.late_ms = 0;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let store = Arc::new(Linked {
            world: Arc::clone(&self.make.world),
            server: self.make.index,
            deadline_ms: self.lease_ms / 5,
            sequence: self.make.mutation == Some(Mutation::SequenceLog),
        });
        let run = self.make.seed ^ ((self.make.index as u64 + 1) << 32) ^ (self.starts << 40);
        let entropy = Arc::new(SeededEntropy::new(run));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let (settings, started) = (self.settings(), Slot::default());
        self.starting = Arc::clone(&started);
        runtime.spawn(async move {
            let result = Replica::start(store, clock, entropy, settings).await;
            *started.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        self.runtime = Some(runtime);
    }

    /// Ends the process without a word, until then.
    pub(super) fn crash(&mut self, until_ms: u64) {
        self.replica = None;
        self.task = None;
        self.starting = Slot::default();
        self.stopped = Slot::default();
        self.runtime = None;
        self.planned = None;
        self.halt = Some((Halt::Down, until_ms));
    }

    /// Stands still from then until then.
    pub(super) fn pause(&mut self, from_ms: u64, until_ms: u64, suspended: bool) {
        let halt = if suspended {
            Halt::Suspended
        } else {
            Halt::Paused
        };
        self.planned = Some((from_ms, halt, until_ms));
    }

    /// Begins a clean stop; whether there was something to stop.
    pub(super) fn stop(&mut self) -> bool {
        let (Some(task), Some(runtime)) = (self.task.take(), &self.runtime) else {
            return false;
        };
        let stopped = Arc::clone(&self.stopped);
        runtime.spawn(async move {
            task.stop().await;
            *stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(());
        });
        true
    }

    /// How often this process has loaded State anew.
    pub(super) fn loaded_anew(&self) -> u64 {
        let counters = self.replica.as_ref().map(Replica::counters);
        counters.map_or(0, |counters| counters.divergences.load(Ordering::Relaxed))
    }

    /// Whether it runs now.
    pub(super) fn is_up(&self) -> bool {
        self.halt.is_none() && self.replica.is_some()
    }

    /// Whether it is neither starting, stopping nor halted.
    pub(super) fn is_settled(&self) -> bool {
        self.is_up() && self.task.is_some()
    }

    /// Runs what a client asks of it.
    pub(super) fn spawn(&self, asked: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(asked);
        }
    }

    /// Halts begin and end; a process that was paused finds the time gone when it goes on.
    pub(super) fn turn(&mut self, now_ms: u64) {
        if let Some((_, halt, until_ms)) = self.planned.take_if(|(from_ms, ..)| now_ms >= *from_ms)
        {
            self.halt.get_or_insert((halt, until_ms));
        }
        if self.halt.is_some_and(|(_, until_ms)| now_ms >= until_ms)
            && let Some((halt, _)) = self.halt.take()
            && halt == Halt::Down
        {
            self.start();
        }
    }

    /// Whatever it waits for ends by then.
    pub(super) fn end_halt(&mut self, until_ms: u64) {
        self.planned = None;
        if let Some((_, until)) = &mut self.halt {
            *until = until_ms.min(*until);
        }
    }

    /// One millisecond of its life.
    pub(super) fn step(&mut self) {
        match (self.halt, &self.runtime) {
            (Some((Halt::Paused, _)), _) => self.late_ms += 1,
            (None, Some(runtime)) => {
                let late = Duration::from_millis(std::mem::take(&mut self.late_ms));
                runtime.block_on(async {
                    if !late.is_zero() {
                        advance(late).await;
                    }
                    // Ends when everything else waits.
                    sleep(Duration::from_millis(1)).await;
                });
            }
            _ => return,
        }
        match taken(&self.starting) {
            Some(Ok((replica, task))) => self.started(replica, task),
            Some(Err(_)) => self.crash(self.make.world.now_ms() + 50),
            None => {}
        }
        if taken(&self.stopped).is_some() {
            self.crash(self.make.world.now_ms() + 100);
        }
    }

    fn started(&mut self, replica: Replica, task: WriterTask) {
        if self.make.mutation == Some(Mutation::CachedClock) {
            let (shared, clock) = (Arc::clone(&replica.shared), Arc::clone(&self.clock));
            self.spawn(async move {
                loop {
                    let now_ms = clock.boot_ms();
                    shared.cached_boot_ms.store(now_ms, Ordering::Relaxed);
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        self.replica = Some(replica);
        self.task = Some(task);
    }
}
