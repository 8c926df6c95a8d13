//! Access lines: what was asked of whom, and why it was decided so, a line each.
//!
//! ```text
//! question ─► Access ─► bounded queue ─► AccessTask ─► the log, target `access`
//! ```
//!
//! Used by `rpc`, which says which questions have a line. No question waits until its line is made
//! up; what finds no room in the queue is dropped and counted. Denials have a
//! limit a second, and a line says how many were left out before it. A line holds no secret:
//! [`masked`] goes over every text that a client has chosen.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::token::{TokenId, TokenKind};

use super::per_second::PerSecond;

/// Lines that wait to be written.
const QUEUE_MAX: usize = 1_024;
/// Lines that are written at a time.
const WRITTEN_MAX: usize = 64;
/// So many characters behind its prefix make a text a token's.
const SECRET_CHARS: usize = 12;
const MASK: &str = "***";
/// How often a text may be percent-encoded and still be looked through.
const DECODED_MAX: usize = 3;

/// What a line tells.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Which method was called.
    pub method: Cow<'static, str>,
    /// Whether what was asked is allowed.
    pub allowed: bool,
    /// Why it was decided so, or why it was not decided.
    pub reason: Cow<'static, str>,
    /// The kind of the token.
    pub kind: Option<TokenKind>,
    /// Its public name.
    pub token: Option<TokenId>,
    /// Whom it speaks for.
    pub subject: Option<String>,
    /// Who wanted to log in, as it says itself.
    pub client_id: Option<String>,
    /// What became of a login that its caller is not told.
    pub outcome: Option<&'static str>,
    /// What was needed: `ACTION@RESOURCE`, with blanks between them.
    pub needs: String,
    /// Method and path of the request that a proxy asks about.
    pub http: Option<(String, String)>,
    /// The address of the client, as far as it is known.
    pub client: Option<IpAddr>,
    /// The address that the question came from.
    pub peer: Option<IpAddr>,
    /// What the caller calls the request.
    pub request_id: String,
    /// The trace that it belongs to.
    pub trace_id: Option<String>,
    /// From its arrival to the answer.
    pub took_us: u64,
    /// Denials that had no line since the one before.
    pub left_out: u64,
}

impl Line {
    fn write(&self) {
        let (http_method, path) = self
            .http
            .as_ref()
            .map(|(one, other)| (one.as_str(), other.as_str()))
            .unzip();
        let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        tracing::info!(
            target: "access",
            method = &*self.method,
            allowed = self.allowed,
            reason = &*self.reason,
            kind = self.kind.map(TokenKind::name),
            token_id = self.token.map(|id| id.to_string()),
            subject = self.subject.as_deref(),
            client_id = self.client_id.as_deref(),
            outcome = self.outcome,
            needs = filled(&self.needs),
            http_method,
            path,
            client = self.client.map(|address| address.to_string()),
            peer = self.peer.map(|address| address.to_string()),
            request_id = filled(&self.request_id),
            trace_id = self.trace_id.as_deref(),
            took_us = self.took_us,
            left_out = (self.left_out > 0).then_some(self.left_out),
            "access"
        );
    }
}

/// What is denied. Each has as many lines a second: who cannot log in hides no denial of a Check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// What a Check asks about.
    Question,
    /// A call.
    Call,
}

/// Where lines go. Clones are handles to the same queue.
#[derive(Clone, Debug)]
pub struct Access(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lines: mpsc::Sender<Line>,
    denials: [PerSecond; 2],
    // Since the last line.
    left_out: AtomicU64,
    left_out_ever: AtomicU64,
    dropped: AtomicU64,
}

/// Writes the lines.
#[derive(Debug)]
pub struct AccessTask {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl AccessTask {
    /// Writes what is queued, and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        // It ends by itself; a panic in it was told of.
        let _ = self.task.await;
    }
}

impl Access {
    /// Begins to write lines, of denials so many a second; ended by its task.
    #[must_use]
    pub fn start(denials_per_second: u32) -> (Self, AccessTask) {
        let (lines, queue) = mpsc::channel(QUEUE_MAX);
        let stop = CancellationToken::new();
        let task = tokio::spawn(write(queue, stop.clone()));
        (
            Self::into_queue(lines, denials_per_second),
            AccessTask { task, stop },
        )
    }

    fn into_queue(lines: mpsc::Sender<Line>, denials_per_second: u32) -> Self {
        Self(Arc::new(Shared {
            lines,
            denials: [(); 2].map(|()| PerSecond::new(denials_per_second)),
            left_out: AtomicU64::new(0),
            left_out_ever: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Whether denials have lines at all.
    #[must_use]
    pub fn tells_denials(&self) -> bool {
        self.0.denials.iter().any(|denials| denials.most() > 0)
    }

    /// Whether a denial of a question at this instant may have a line; it is not counted yet.
    #[must_use]
    pub fn has_room(&self, at: Instant) -> bool {
        self.0.denials[Denied::Question as usize].has_room(at)
    }

    /// Counts a denial: whether it has a line.
    #[must_use]
    pub fn admit(&self, denied: Denied, at: Instant) -> bool {
        let admitted = self.0.denials[denied as usize].admit(at);
        if !admitted {
            self.leave_out();
        }
        admitted
    }

    /// Counts a denial that has no line.
    pub fn leave_out(&self) {
        if self.tells_denials() {
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
            self.0.left_out_ever.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues a line, with how many were left out before it.
    pub fn write(&self, mut line: Line) {
        let Ok(place) = self.0.lines.try_reserve() else {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        line.left_out = self.0.left_out.swap(0, Ordering::Relaxed);
        place.send(line);
    }

    /// Denials that had no line because there were too many a second.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.0.left_out_ever.load(Ordering::Relaxed)
    }

    /// Lines that were dropped because there were more than could be made up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

async fn write(mut queue: mpsc::Receiver<Line>, stop: CancellationToken) {
    let mut lines = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.is_closed() => {
                // What is queued is still written.
                queue.close();
                continue;
            }
            read = queue.recv_many(&mut lines, WRITTEN_MAX) => {
                if read == 0 {
                    return;
                }
            }
        }
        lines.drain(..).for_each(|line| line.write());
    }
}

/// A text that a client has chosen, as far as it may be told: so many characters, and a token's
/// text in it masked, also where some of it is percent-encoded (RFC 3986, section 2.1), perhaps more
/// than once: what is masked there is told decoded.
#[must_use]
pub fn masked(text: &str, chars_max: usize) -> String {
    let told: String = text.chars().take(chars_max).collect();
    let mut decoded = told.clone();
    for _ in 0..DECODED_MAX {
        let once = percent_decoded(&decoded);
        if once == decoded {
            break;
        }
        decoded = once;
        let hidden = without_tokens(decoded.clone());
        if hidden != decoded {
            return hidden;
        }
    }
    without_tokens(told)
}

/// A text in which each `%` with two digits is the byte that it stands for.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let encoded = match behind {
            [high, low, ..] if *first == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match encoded {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The value of a digit of either case.
fn digit(byte: u8) -> Option<u8> {
    let value = char::from(byte).to_digit(16)?;
    u8::try_from(value).ok()
}

fn without_tokens(mut told: String) -> String {
    for prefix in TokenKind::ALL.map(TokenKind::prefix) {
        let mut from = 0;
        while !prefix.is_empty()
            && let Some(found) = told[from..].find(prefix)
        {
            let begins = from + found + prefix.len();
            let rest = &told[begins..];
            let ends = rest
                .find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(rest.len());
            from = begins;
            // What was cut off may have been the rest of one.
            if ends >= SECRET_CHARS || begins + ends == told.len() {
                told.replace_range(begins..begins + ends, MASK);
                from += MASK.len();
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn denials_have_so_many_lines_a_second_and_the_next_says_how_many_had_none() {
        let (lines, mut queue) = mpsc::channel(8);
        let access = Access::into_queue(lines, 2);
        let mut at = Instant::now();
        let told = |access: &Access, at| {
            if access.admit(Denied::Question, at) {
                access.write(Line::default());
            }
        };
        for _ in 0..5 {
            told(&access, at);
        }
        assert!(!access.has_room(at));
        at += Duration::from_secs(3);
        assert!(access.has_room(at));
        told(&access, at);
        told(&access, at);
        told(&access, at);
        // Those of calls are counted by themselves.
        assert!(access.admit(Denied::Call, at));
        let mut left_out = Vec::new();
        while let Ok(line) = queue.try_recv() {
            left_out.push(line.left_out);
        }
        assert_eq!(left_out, [0, 0, 3, 0]);
        assert_eq!((access.left_out(), access.dropped()), (4, 0));
    }

    #[tokio::test]
    async fn who_reads_the_log_too_slowly_loses_lines_and_nobody_waits() {
        let (lines, _queue) = mpsc::channel(1);
        let access = Access::into_queue(lines, 1);
        for _ in 0..3 {
            access.write(Line::default());
        }
        assert_eq!(access.dropped(), 2);
    }

    #[tokio::test]
    async fn what_is_queued_is_written_before_the_end() {
        let (access, task) = Access::start(1);
        access.write(Line::default());
        task.stop().await;
        assert_eq!(access.0.lines.capacity(), QUEUE_MAX);
        access.write(Line::default());
        assert_eq!(access.dropped(), 1);
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(masked(text, 40), expected, "{text}");
    }

    #[test]
    fn a_tokens_text_is_masked_wherever_it_stands() {
        check("", "");
        check("/v1/secrets", "/v1/secrets");
        check("/v1/lku_0123456789ab/x", "/v1/lku_***/x");
        check("lks_0123456789ablku_0123456789ab", "lks_***_***");
        check("lkt_0123456789ab,lkt_0123456789ab", "lkt_***,lkt_***");
        check("lku_short/x", "lku_short/x");
        check("/a/lku%5F0123456789ab/x", "/a/lku_***/x");
        check("/a/%6cku_0123456789a%62/x", "/a/lku_***/x");
        check("/lku%255f0123456789ab/x", "/lku_***/x");
        check("/lku%5F0123456789ab0123456789012345678", "/lku_***");
        check("/a%2Fb/%zz/%", "/a%2Fb/%zz/%");
        // One as it is, and another's prefix that is no token's.
        check("lku_0123456789ab/lks%5Fx", "lku_***/lks_***");
        // The rest of it was cut off.
        check(
            "/0123456789012345678901234567890/lka_01234567890123456789",
            "/0123456789012345678901234567890/lka_***",
        );
        check(
            "ü/0123456789012345678901234567890123456789",
            "ü/01234567890123456789012345678901234567",
        );
    }
}
