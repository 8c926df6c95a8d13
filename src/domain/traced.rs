//! Spans of what is done for a call: what is below one that is sampled has some, all else none.
//!
//! Used wherever something takes time on behalf of a call: the writer, the barrier, the store. The
//! call itself makes the first span, which is why everything here is a branch where nobody samples.
//! Who collects spans, and how they are sent, is `telemetry`'s.

use tracing::Span;

/// The target of every span that is sent.
pub const TARGET: &str = "latchkey::span";

/// The span that this is done within; none where there is none of ours.
#[must_use]
pub fn current() -> Span {
    let span = Span::current();
    match span.metadata().is_some_and(|it| it.target() == TARGET) {
        true => span,
        false => Span::none(),
    }
}

/// A span within the current one; none where that is none.
pub fn below(make: impl FnOnce() -> Span) -> Span {
    match current().is_none() {
        true => Span::none(),
        false => make(),
    }
}
