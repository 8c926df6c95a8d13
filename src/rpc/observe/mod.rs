//! What is told of single questions beside the counts: access lines and spans.
//!
//! ```text
//! arrival ─► is anything wanted? ─► decided ─► facts, if so ─► told
//!            a branch otherwise
//! ```
//!
//! Used by CheckService and by Envoy's service, and by `front` for the spans of calls; `cli` says
//! what is told. A question of which nothing is told pays a branch when it comes and one when it is
//! decided, and with traces on a look at its headers. Facts are gathered while the decision is at
//! hand, told when the answer is made. Each question of a stream has a span of its own in its
//! caller's: the stream itself, which may go on for ever, has none.

mod call;
mod facts;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;
use tonic::codegen::http::request::Parts;
use tonic::codegen::http::{Extensions, HeaderMap};

use crate::authority::canary::CANARY_RESOURCE;
use crate::config::Ratio;
use crate::domain::reason::Reason;
use crate::telemetry::access::{Access, Denied, Line};
use crate::telemetry::context::Parent;
use crate::telemetry::lines::LostLines;
use crate::telemetry::metrics::Sendings;
use crate::telemetry::per_second::PerSecond;
use crate::telemetry::spans::{SpanCounts, Spans};

use super::errors::OK;
use super::metrics::Way;

pub(super) use call::{Called, DeniedCall, parent_in};
use call::{TRACEPARENT, state_in};
pub(super) use facts::{Facts, Who};

const MILLION: u64 = 1_000_000;

/// What is told of single questions. Clones are handles to the same one; one by default tells
/// nothing.
#[derive(Clone, Default)]
pub struct Observer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    // Whether a question may be wanted before it is known how it is decided.
    samples: bool,
    access: Option<Access>,
    ratio: Ratio,
    spans: Option<Spans>,
    traces: Ratio,
    // Of those that callers ask for; without it there is no bound.
    asked: Option<PerSecond>,
    left_out: AtomicU64,
    sendings: Option<Sendings>,
    lost: Option<LostLines>,
    // Makes each choice another; which is not to be foreseen by clients.
    seed: u64,
    number: AtomicU64,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// A question on its way, from when it came.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) came: Instant,
    // What is told of it however it is decided.
    wanted: Option<Box<Wanted>>,
}

/// What is told of a question.
#[derive(Clone, Debug, Default)]
struct Wanted {
    line: bool,
    span: Option<Joined>,
}

/// The trace that a question is part of.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    trace: [u8; 16],
    parent: Option<[u8; 8]>,
    state: String,
}

/// Which questions of a stream are part of a trace.
pub(super) enum Streamed {
    /// All of them: of the one that its caller records.
    Of(Joined),
    /// So many of them, each of one of its own.
    Alone,
}

/// A question that is being answered: how it came and when, and where to read of who asks.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) way: Way,
    pub(super) arrival: &'a Arrival,
    // The gRPC status of an answer that is a decision.
    pub(super) code: &'static str,
    from: From<'a>,
}

// Looked at only where something is told.
#[derive(Clone, Copy)]
enum From<'a> {
    Call(&'a HeaderMap, &'a Extensions),
    About(&'a [u8], Option<&'a [u8]>, &'a Parts),
    Known(&'a Who),
}

impl<'a> Asking<'a> {
    /// By the parts of a call.
    #[inline]
    pub(super) fn of(
        way: Way,
        arrival: &'a Arrival,
        headers: &'a HeaderMap,
        extensions: &'a Extensions,
    ) -> Self {
        let from = From::Call(headers, extensions);
        Self {
            way,
            arrival,
            code: OK,
            from,
        }
    }

    /// By a call whose message is read.
    pub(super) fn by<T>(way: Way, arrival: &'a Arrival, request: &'a Request<T>) -> Self {
        let (headers, extensions) = (request.metadata().as_ref(), request.extensions());
        Self::of(way, arrival, headers, extensions)
    }

    /// By Envoy, about the request with this id, of this trace.
    #[inline]
    pub(super) fn about(
        arrival: &'a Arrival,
        request_id: &'a [u8],
        trace: Option<&'a [u8]>,
        parts: &'a Parts,
    ) -> Self {
        Self {
            way: Way::Envoy,
            arrival,
            code: OK,
            from: From::About(request_id, trace, parts),
        }
    }

    /// By somebody who is known from before.
    pub(super) fn known(way: Way, arrival: &'a Arrival, who: &'a Who) -> Self {
        let from = From::Known(who);
        Self {
            way,
            arrival,
            code: OK,
            from,
        }
    }

    /// The same, but where the decision is told as an error.
    #[inline]
    pub(super) fn failing_if(self, fails: bool, code: &'static str) -> Self {
        let code = if fails { code } else { self.code };
        Self { code, ..self }
    }

    fn who(&self) -> Who {
        match self.from {
            From::Call(headers, extensions) => Who::of(headers, extensions),
            From::About(id, trace, parts) => Who::called(
                id,
                parent_in(&parts.headers).or_else(|| Parent::read(trace?)),
                &parts.extensions,
            ),
            From::Known(who) => who.clone(),
        }
    }
}

impl Arrival {
    fn join(&mut self, joined: Option<Joined>) {
        if joined.is_some() {
            self.wanted.get_or_insert_default().span = joined;
        }
    }
}

impl Joined {
    /// Within a span of the caller's.
    fn of(parent: Parent, headers: &HeaderMap) -> Self {
        Self {
            trace: parent.trace,
            parent: Some(parent.span),
            state: state_in(headers),
        }
    }
}

/// How a question ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) way: Way,
    pub(super) allowed: bool,
    pub(super) reason: &'static str,
    // The gRPC status.
    pub(super) code: &'static str,
}

impl Observer {
    /// Writes lines of so many questions, and of denials.
    #[must_use]
    pub fn new(access: Access, ratio: Ratio, seed: u64) -> Self {
        Self(Arc::new(Inner {
            samples: ratio > Ratio::NONE,
            access: Some(access),
            ratio,
            seed,
            ..Inner::default()
        }))
    }

    /// Makes spans, too: of calls whose callers sample, so many in a second, and of a part of those
    /// whose callers say nothing.
    #[must_use]
    pub fn with_spans(self, spans: Spans, asked_per_second: u32, traces: Ratio) -> Self {
        // Nobody has another handle yet: it was just made.
        let inner = Arc::try_unwrap(self.0).unwrap_or_default();
        Self(Arc::new(Inner {
            spans: Some(spans),
            traces,
            asked: Some(PerSecond::new(asked_per_second)),
            ..inner
        }))
    }

    /// Shows how many log lines were lost.
    #[must_use]
    pub fn with_lost_lines(self, lost: LostLines) -> Self {
        let inner = Arc::try_unwrap(self.0).unwrap_or_default();
        Self(Arc::new(Inner {
            lost: Some(lost),
            ..inner
        }))
    }

    /// Shows what became of metrics that were sent.
    #[must_use]
    pub fn with_sendings(self, sendings: Sendings) -> Self {
        let inner = Arc::try_unwrap(self.0).unwrap_or_default();
        Self(Arc::new(Inner {
            sendings: Some(sendings),
            ..inner
        }))
    }

    /// A question that comes now.
    #[inline]
    pub(super) fn arrival(&self) -> Arrival {
        Arrival {
            came: Instant::now(),
            wanted: match self.0.samples {
                true => self.wanted(),
                false => None,
            },
        }
    }

    #[cold]
    fn wanted(&self) -> Option<Box<Wanted>> {
        let line = self.samples(self.0.ratio);
        let span = None;
        line.then(|| Box::new(Wanted { line, span }))
    }

    /// Whether there are spans at all.
    #[inline]
    pub(super) fn traces(&self) -> bool {
        self.0.spans.is_some()
    }

    /// Makes a question part of the trace that its caller says it is of, if that is recorded, or of
    /// one of its own if it is one of so many. Where the headers say nothing, `other` may.
    #[inline]
    pub(super) fn join<'a>(
        &self,
        arrival: &mut Arrival,
        headers: &'a HeaderMap,
        other: impl FnOnce() -> Option<&'a [u8]>,
    ) {
        let said = headers.get(TRACEPARENT).map(|said| said.as_bytes());
        let said = said.or_else(other);
        if self.0.traces > Ratio::NONE || said.is_some_and(Parent::may_be_sampled) {
            self.join_trace(arrival, said.and_then(Parent::read), headers);
        }
    }

    #[cold]
    fn join_trace(&self, arrival: &mut Arrival, parent: Option<Parent>, headers: &HeaderMap) {
        let joined = match parent {
            Some(parent) => self
                .traces_asked(parent, arrival.came)
                .then(|| Joined::of(parent, headers)),
            None => self.alone(),
        };
        arrival.join(joined);
    }

    /// Whether a call at this instant has a span because its caller samples; counted.
    fn traces_asked(&self, parent: Parent, at: Instant) -> bool {
        parent.sampled && self.admits(at)
    }

    fn admits(&self, at: Instant) -> bool {
        let admitted = self.0.asked.as_ref().is_none_or(|asked| asked.admit(at));
        if !admitted {
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// A trace of its own, for so many.
    fn alone(&self) -> Option<Joined> {
        self.samples(self.0.traces).then(|| Joined {
            trace: self.new_trace(),
            parent: None,
            state: String::new(),
        })
    }

    /// Which questions of a stream that begins with these headers are part of a trace; none if none
    /// is.
    pub(super) fn streamed(&self, headers: &HeaderMap) -> Option<Streamed> {
        if !self.traces() {
            return None;
        }
        match parent_in(headers) {
            Some(parent) => {
                let joined = parent.sampled.then(|| Joined::of(parent, headers));
                joined.map(Streamed::Of)
            }
            None => (self.0.traces > Ratio::NONE).then_some(Streamed::Alone),
        }
    }

    /// A question of a stream that comes now.
    #[inline]
    pub(super) fn arrival_in(&self, streamed: Option<&Streamed>) -> Arrival {
        let mut arrival = self.arrival();
        if let Some(streamed) = streamed {
            self.join_stream(&mut arrival, streamed);
        }
        arrival
    }

    #[cold]
    fn join_stream(&self, arrival: &mut Arrival, streamed: &Streamed) {
        arrival.join(match streamed {
            Streamed::Of(joined) => self.admits(arrival.came).then(|| joined.clone()),
            Streamed::Alone => self.alone(),
        });
    }

    fn new_trace(&self) -> [u8; 16] {
        let halves = [self.unlike_before(), self.unlike_before()];
        // None is all zeros.
        (u128::from(halves[0]) << 64 | u128::from(halves[1].max(1))).to_be_bytes()
    }

    fn samples(&self, ratio: Ratio) -> bool {
        ratio > Ratio::NONE && self.unlike_before() % MILLION < u64::from(ratio.of_a_million())
    }

    /// A number that is another each time (SplitMix64).
    fn unlike_before(&self) -> u64 {
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        let mut mixed = self.0.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Whether facts are wanted of a question that is decided for this reason.
    #[inline]
    pub(super) fn wants(&self, arrival: &Arrival, reason: Reason) -> bool {
        arrival.wanted.is_some() || (reason != Reason::Allowed && self.wants_denial(arrival))
    }

    #[cold]
    pub(super) fn wants_denial(&self, arrival: &Arrival) -> bool {
        let access = self.0.access.as_ref();
        arrival.wanted.is_some() || access.is_some_and(|access| access.has_room(arrival.came))
    }

    /// A denial of which no facts were wanted.
    #[cold]
    pub(super) fn pass_over(&self) {
        if let Some(access) = &self.0.access {
            access.leave_out();
        }
    }

    /// Tells of a question whose facts were wanted.
    #[cold]
    pub(super) fn tell(&self, asking: &Asking<'_>, ended: Ended, facts: Facts) {
        let arrival = asking.arrival;
        let took = arrival.came.elapsed();
        let sampled = arrival.wanted.as_ref().is_some_and(|wanted| wanted.line);
        let who = asking.who();
        // A batch is one call: it has a span when all of it is decided.
        if asking.way != Way::Batch {
            self.span(arrival, &ended, &facts, &who, took);
        }
        // The canary's own denials are meant, and would take the lines of others.
        let denied = !ended.allowed && facts.subject.as_deref() != Some(CANARY_RESOURCE);
        if let Some(access) = &self.0.access
            && (sampled || (denied && access.admit(Denied::Question, arrival.came)))
        {
            access.write(self.line(ended, facts, who, took));
        }
    }

    /// Tells of a batch of so many, if that is known, that was answered, or refused.
    pub(super) fn tell_batch(&self, asking: &Asking<'_>, ended: Ended, checks: Option<usize>) {
        let arrival = asking.arrival;
        if arrival.wanted.is_some() {
            let facts = Facts {
                checks,
                ..Facts::default()
            };
            self.span(
                arrival,
                &ended,
                &facts,
                &asking.who(),
                arrival.came.elapsed(),
            );
        }
    }

    fn span(&self, arrival: &Arrival, ended: &Ended, facts: &Facts, who: &Who, took: Duration) {
        let wanted = arrival.wanted.as_ref();
        if let Some(spans) = &self.0.spans
            && let Some(joined) = wanted.and_then(|wanted| wanted.span.as_ref())
        {
            let id = self.unlike_before().max(1).to_be_bytes();
            spans.ended(call::span(id, joined, ended, facts, who, took));
        }
    }

    fn line(&self, ended: Ended, facts: Facts, who: Who, took: Duration) -> Line {
        let line = Line {
            method: ended.way.name().into(),
            allowed: ended.allowed,
            reason: ended.reason.into(),
            kind: facts.kind,
            token: facts.token,
            subject: facts.subject,
            needs: facts.needs,
            http: facts.http,
            client: facts.client,
            ..Line::default()
        };
        self.asked_by(line, who, took)
    }

    /// The line with who asked, and how long it took.
    fn asked_by(&self, line: Line, who: Who, took: Duration) -> Line {
        let request_id = match who.request_id {
            id if id.is_empty() => format!("{:016x}", self.unlike_before()),
            id => id,
        };
        Line {
            peer: who.peer,
            request_id,
            trace_id: who.trace.map(|trace| trace.trace_id()),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            ..line
        }
    }

    /// Calls whose callers sample and that have no span because there were too many a second.
    pub(super) fn traces_left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// What became of spans; none where there are none.
    pub(super) fn span_counts(&self) -> Option<SpanCounts> {
        self.0.spans.as_ref().map(Spans::counts)
    }

    /// What became of metrics that were sent; none where they are not.
    pub(super) fn sendings(&self) -> Option<&Sendings> {
        self.0.sendings.as_ref()
    }

    /// Denials without a line because there were too many, and lines that were dropped; none where
    /// no lines are written.
    pub(super) fn lost_access_lines(&self) -> Option<[u64; 2]> {
        let access = self.0.access.as_ref()?;
        Some([access.left_out(), access.dropped()])
    }

    /// Log lines of all kinds that whoever reads the log was too slow for; none where nobody waits.
    pub(super) fn lost_lines(&self) -> Option<u64> {
        self.0.lost.as_ref().map(LostLines::count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_sampled_as_the_ratio_says() {
        let check = |text: &str, expected: std::ops::RangeInclusive<usize>| {
            let config: crate::config::Config =
                toml::from_str(&format!("telemetry.access.ratio = {text}")).unwrap();
            let ratio = config.telemetry.access.ratio;
            let observer = Observer(Arc::new(Inner {
                seed: 7,
                ..Inner::default()
            }));
            let sampled = (0..10_000).filter(|_| observer.samples(ratio)).count();
            assert!(expected.contains(&sampled), "{text}: {sampled}");
        };
        check("0", 0..=0);
        check("1", 10_000..=10_000);
        check("0.5", 4_800..=5_200);
        check("0.01", 60..=140);
    }
}
