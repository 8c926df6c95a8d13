//! What goes wrong in a run, as the seed has it, and its end.
//!
//! Servers stand still, crash and stop; their calls are slow or cut off, all of them or those of
//! one connection; the database is away, or another server of it goes on. Wake-ups that get lost
//! are the [`super::world`]'s own affair.

use std::sync::atomic::Ordering;

use crate::replica::Replica;

use super::run::{Run, SERVERS, is_synchronous};
use super::world::Line;

impl Run {
    /// One step's worth of bad luck.
    pub(super) fn fault(&mut self, now_ms: u64) {
        if self
            .fail_over_at_ms
            .take_if(|at_ms| *at_ms <= now_ms)
            .is_some()
        {
            self.world.lock().fail_over_to_standby();
            self.failed_over(now_ms);
        }
        let (index, until_ms, what) = {
            let choices = &mut self.world.lock().choices;
            if !choices.one_in(50) {
                return;
            }
            let index = choices.below(SERVERS as u64) as usize;
            let until_ms = now_ms + choices.between(20, 700);
            (index, until_ms, choices.below(17))
        };
        match what {
            0..3 => self.pause(index, now_ms, until_ms, what == 2),
            3 => self.wear_down(index, now_ms, until_ms),
            4..8 => self.cut(index, now_ms, until_ms),
            8..11 => {
                let mut world = self.world.lock();
                world.count("slow store");
                world.links[index].slow_until_ms = until_ms;
            }
            11 => {
                self.world.lock().count("crashed");
                self.servers[index].crash(until_ms);
            }
            12 => {
                let server = &mut self.servers[index];
                if server.is_settled() && server.stop() {
                    self.world.lock().count("stopped cleanly");
                }
            }
            13 => self.set_wall_clock(index),
            14 => {
                let mut world = self.world.lock();
                world.count("outage");
                world.outage_until_ms = now_ms + world.choices.between(20, 300);
            }
            15 => self.fail_over(now_ms),
            _ => self.send_standby_away(now_ms, until_ms),
        }
    }

    fn pause(&mut self, index: usize, now_ms: u64, until_ms: u64, suspended: bool) {
        let what = if suspended { "suspended" } else { "paused" };
        self.world.lock().count(what);
        self.servers[index].pause(now_ms, until_ms, suspended);
    }

    // Its calls take long, it stands still in the middle of one, and then it is cut off.
    fn wear_down(&mut self, index: usize, now_ms: u64, until_ms: u64) {
        let mut world = self.world.lock();
        world.count("slow, paused and cut off");
        let from_ms = now_ms + world.choices.between(5, 80);
        let until_ms = until_ms.max(from_ms + 20);
        let link = &mut world.links[index];
        link.slow_until_ms = from_ms;
        link.cut_line = None;
        link.cut_from_ms = from_ms;
        link.cut_until_ms = until_ms + 200;
        self.servers[index].pause(from_ms, until_ms, false);
    }

    fn cut(&mut self, index: usize, now_ms: u64, until_ms: u64) {
        let lines = [
            None,
            None,
            Some(Line::Feed),
            Some(Line::Heartbeat),
            Some(Line::Pool),
        ];
        let mut world = self.world.lock();
        let line = world.choices.pick(&lines);
        world.count(match line {
            None => "partitioned",
            Some(_) => "one connection cut",
        });
        let link = &mut world.links[index];
        link.cut_line = line;
        link.cut_from_ms = now_ms;
        link.cut_until_ms = until_ms;
    }

    fn set_wall_clock(&mut self, index: usize) {
        let mut world = self.world.lock();
        world.count("wall clock set");
        let by_ms = world.choices.pick(&[100, 3_600_000, 31_536_000_000]);
        let ahead = world.choices.one_in(2);
        let by_ms = if ahead { by_ms } else { -by_ms };
        let jumped_ms = &self.servers[index].clock.jumped_ms;
        jumped_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    fn fail_over(&mut self, now_ms: u64) {
        let mut world = self.world.lock();
        if world.choices.one_in(2) {
            world.outage_until_ms = now_ms + world.choices.between(5, 150);
        }
        if is_synchronous(self.seed) {
            world.count("failed over");
            world.fail_over_to_standby();
        } else {
            world.count("failed over, with a tail lost");
            let lost = world.choices.between(1, 3) as usize;
            world.fail_over(lost);
        }
        drop(world);
        self.failed_over(now_ms);
    }

    // Who has what was lost may be the last to hear of it.
    fn failed_over(&mut self, now_ms: u64) {
        let mut world = self.world.lock();
        self.oracle.failed_over(&world, now_ms);
        for (index, server) in self.servers.iter().enumerate() {
            let head = server.replica.as_ref().map(|one| one.state().head());
            let lost = head.is_some_and(|head| {
                head.revision > 0 && world.database.chain_at(head.revision) != Some(head.chain)
            });
            let replica = server.replica.as_ref();
            if let Some(member) = replica.and_then(|one| one.shared.membership()) {
                let answers = replica.is_some_and(Replica::may_answer);
                match world.database.lease_of(member) {
                    None => self.oracle.forgotten(index, member),
                    Some(0) if answers => self.oracle.forgotten(index, member),
                    Some(_) => {}
                }
            }
            if lost {
                world.count("left in a lost future");
                world.links[index].slow_until_ms = now_ms + world.choices.between(50, 400);
            }
        }
    }

    // Now and then it comes back only as the new primary.
    fn send_standby_away(&mut self, now_ms: u64, until_ms: u64) {
        if is_synchronous(self.seed) {
            let mut world = self.world.lock();
            world.count("standby away");
            world.standby_away_until_ms = until_ms;
            if world.choices.one_in(2) {
                self.fail_over_at_ms = Some(now_ms + world.choices.between(1, until_ms - now_ms));
            }
        }
    }

    /// From now on nothing goes wrong any more, and what went wrong is mended.
    pub(super) fn heal(&mut self) {
        let now_ms = self.world.now_ms();
        let mut world = self.world.lock();
        world.calm = true;
        world.outage_until_ms = 0;
        world.standby_away_until_ms = 0;
        self.fail_over_at_ms = None;
        for (link, server) in world.links.iter_mut().zip(&mut self.servers) {
            link.cut_until_ms = 0;
            link.slow_until_ms = 0;
            server.end_halt(now_ms);
        }
    }
}
