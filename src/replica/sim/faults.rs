//! What goes wrong in a run, as the seed has it, and its end.
//!
//! Servers stand still, crash and stop; their calls are slow or cut off, all of them or those of
//! one connection; the database is away, or another server of it goes on. Wake-ups that get lost
//! are the [`super::world`]'s own affair.

use std::sync::atomic::Ordering;

use super::run::{Run, SERVERS};
use super::world::Line;

/// A lease that a failover has lost has ended by then on any machine.
const EXCUSED_MS: u64 = 450;

impl Run {
    /// One step's worth of bad luck.
    pub(super) fn fault(&mut self, now_ms: u64) {
        let (index, until_ms, what) = {
            let choices = &mut self.world.lock().choices;
            if !choices.one_in(50) {
                return;
            }
            let index = choices.below(SERVERS as u64) as usize;
            let until_ms = now_ms + choices.between(20, 700);
            (index, until_ms, choices.below(16))
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
            _ => self.fail_over(now_ms),
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

    // Every other seed loses a tail now and then.
    fn fail_over(&mut self, now_ms: u64) {
        let mut world = self.world.lock();
        if !world.choices.one_in(3) {
            return;
        }
        world.outage_until_ms = now_ms + world.choices.between(5, 150);
        if self.seed.is_multiple_of(2) {
            world.count("failed over");
            world.fail_over(0);
            return;
        }
        world.count("failed over, with a tail lost");
        let lost = world.choices.between(1, 3) as usize;
        world.fail_over(lost);
        self.oracle.lost(&world, now_ms + EXCUSED_MS);
    }

    /// From now on nothing goes wrong any more, and what went wrong is mended.
    pub(super) fn heal(&mut self) {
        let now_ms = self.world.now_ms();
        let mut world = self.world.lock();
        world.calm = true;
        world.outage_until_ms = 0;
        for (link, server) in world.links.iter_mut().zip(&mut self.servers) {
            link.cut_until_ms = 0;
            link.slow_until_ms = 0;
            server.end_halt(now_ms);
        }
    }
}
