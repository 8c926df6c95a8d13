//! The way of log lines: a bounded queue, and a thread that writes them.
//!
//! Used by `cli` for servers. Whoever reads standard error may be slow, or have stopped: nobody
//! waits for that. What finds no room is dropped and counted; what is queued at the end is written
//! for as long as a moment, and then given up.

use std::io::Write;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that wait to be written.
const QUEUE_MAX: usize = 8_192;

/// Lines that found no room. Clones count the same.
#[derive(Clone, Debug)]
pub struct LostLines(ErrorCounter);

impl LostLines {
    /// How many there were so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        // As wide at the most.
        self.0.dropped_lines() as u64
    }
}

/// Writes what is queued when it is dropped, for a second or so at the most.
#[derive(Debug)]
#[must_use]
pub struct LinesEnd(#[expect(dead_code, reason = "its end is what it is for")] WorkerGuard);

/// What log lines are given to, so that `writer` is waited for by a thread of its own alone.
pub fn queued(writer: impl Write + Send + 'static) -> (NonBlocking, LostLines, LinesEnd) {
    queued_at_most(QUEUE_MAX, writer)
}

fn queued_at_most(
    lines_max: usize,
    writer: impl Write + Send + 'static,
) -> (NonBlocking, LostLines, LinesEnd) {
    let (queue, end) = NonBlockingBuilder::default()
        .buffered_lines_limit(lines_max)
        .lossy(true)
        .thread_name("latchkey-log")
        .finish(writer);
    let lost = LostLines(queue.error_counter());
    (queue, lost, LinesEnd(end))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use super::*;

    /// Tells what it writes, once it is let.
    struct Reader {
        lets: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.lets.recv();
            let _ = self.written.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_slow_reader_leaves_no_room_for_is_counted_and_the_rest_is_written() {
        let (let_it, lets) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let (mut queue, lost, end) = queued_at_most(2, Reader { lets, written });
        let mut given = 0;
        while lost.count() == 0 {
            queue.write_all(b"line\n").unwrap();
            given += 1;
        }
        // One at the reader, two in the queue.
        assert!(given <= 4, "{given}");
        drop(let_it);
        drop(end);
        let written: Vec<_> = lines.try_iter().flatten().collect();
        assert_eq!(written, b"line\n".repeat(given - 1));
    }
}
