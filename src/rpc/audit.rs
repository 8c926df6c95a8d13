//! The audit service: the log by the page and as it grows, its verification, and Explain.
//!
//! Reading the log needs `audit:read` on everything. A page reads a bounded stretch of the log
//! whatever its filters are, so that a rare match takes several pages instead of one long call.
//! Used by the server; changes, watches, verification and explanations stand in files of their
//! own.

use std::ops::ControlFlow;
use std::pin::Pin;

use futures_util::stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::authority::Authority;
use crate::authority::audit::READ_ENTRIES;
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::LogEntry;
use crate::domain::refusal::Refusal;
use crate::proto::v1;
use crate::proto::v1::audit_service_server::AuditService;

use super::changes::{Filter, change};
use super::convert::{revision, revision_asked};
use super::incoming::{Answer, answer};
use super::page::Asked;
use super::question::Needs;
use super::stream::Drain;
use super::verify::verify;
use super::watch::watch;
use super::{auth, errors, explain};

/// Entries that one page looks at, whatever fits.
const SCANNED_MAX: usize = 10_000;

/// What the service streams.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The audit service over an authority.
pub(super) struct AuditRpc {
    authority: Authority,
}

#[tonic::async_trait]
impl AuditService for AuditRpc {
    type WatchChangesStream = Answers<v1::WatchChangesResponse>;
    type VerifyChainStream = Answers<v1::VerifyChainResponse>;

    async fn list_changes(
        &self,
        request: Request<v1::ListChangesRequest>,
    ) -> Answer<v1::ListChangesResponse> {
        answer(self.list(&request).await)
    }

    async fn watch_changes(
        &self,
        request: Request<v1::WatchChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        let watched = self.watched(&request).await;
        answer(watched.map(|stream| answers(&request, stream)))
    }

    async fn verify_chain(
        &self,
        request: Request<v1::VerifyChainRequest>,
    ) -> Result<Response<Self::VerifyChainStream>, Status> {
        let verified = self.verified(&request).await;
        answer(verified.map(|stream| answers(&request, stream)))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        answer(self.explained(&request).await)
    }
}

/// A stream as it is sent; it ends when the server is about to.
fn answers<R, T: Send + 'static>(
    request: &Request<R>,
    stream: impl Stream<Item = Result<T, Refusal>> + Send + 'static,
) -> Answers<T> {
    let sent = stream.map(|item| item.map_err(errors::status));
    Box::pin(Drain::of(request).ends(sent))
}

impl AuditRpc {
    /// The service over an authority.
    pub(super) fn new(authority: Authority) -> Self {
        Self { authority }
    }

    async fn list(
        &self,
        request: &Request<v1::ListChangesRequest>,
    ) -> Result<v1::ListChangesResponse, Refusal> {
        let asked = request.get_ref();
        let page = Asked::<u64>::of(asked)?;
        let filter = Filter::of(asked.filter.as_ref())?;
        self.authority.may_audit(auth::credentials(request)?)?;
        let head = self.authority.head();
        let after = self.head_after_or_cut(asked.after.as_ref()).await?;
        let mut scan = Scan {
            after: after.revision,
            newest_first: asked.newest_first,
            seen: page.after.unwrap_or(match asked.newest_first {
                true => head.revision + 1,
                false => after.revision,
            }),
        };
        let mut changes = Vec::new();
        let scanned = scan.run(&self.authority, |entry| {
            if filter.fits(entry) {
                changes.push(change(&self.authority, entry));
            }
            match changes.len() == page.limit {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        let more = scanned.await?;
        Ok(v1::ListChangesResponse {
            changes,
            next_page_token: page.token(more.then_some(&scan.seen)),
            head: Some(revision(head.revision())),
        })
    }

    /// The head that a request names, if it names one.
    async fn head_after(&self, after: Option<&v1::Revision>) -> Result<Option<Head>, Refusal> {
        match revision_asked("after", after)? {
            None => Ok(None),
            Some(asked) => self.authority.head_at(asked).await.map(Some),
        }
    }

    /// The same; where none is named, where the log begins.
    async fn head_after_or_cut(&self, after: Option<&v1::Revision>) -> Result<Head, Refusal> {
        match self.head_after(after).await? {
            Some(named) => Ok(named),
            None => self.authority.cut().await,
        }
    }

    async fn watched(
        &self,
        request: &Request<v1::WatchChangesRequest>,
    ) -> Result<impl Stream<Item = Result<v1::WatchChangesResponse, Refusal>> + use<>, Refusal>
    {
        let asked = request.get_ref();
        let filter = Filter::of(asked.filter.as_ref())?;
        let caller = auth::Kept::of(auth::credentials(request)?);
        caller.may_audit(&self.authority)?;
        let named = self.head_after(asked.after.as_ref()).await?;
        let after = named.unwrap_or_else(|| self.authority.head());
        Ok(watch(self.authority.clone(), caller, filter, after))
    }

    async fn verified(
        &self,
        request: &Request<v1::VerifyChainRequest>,
    ) -> Result<impl Stream<Item = Result<v1::VerifyChainResponse, Refusal>> + use<>, Refusal> {
        let asked = request.get_ref();
        let caller = auth::Kept::of(auth::credentials(request)?);
        caller.may_audit(&self.authority)?;
        let head = self.authority.head().revision;
        let until = match asked.until {
            0 => head,
            until if until <= head => until,
            _ => return Err(Refusal::invalid("until", "is beyond the head")),
        };
        let after = self.head_after_or_cut(asked.after.as_ref()).await?;
        Ok(verify(self.authority.clone(), caller, after, until))
    }

    async fn explained(
        &self,
        request: &Request<v1::ExplainRequest>,
    ) -> Result<v1::ExplainResponse, Refusal> {
        let needs = Needs::parse(&request.get_ref().needs)?;
        let asked = explain::asked(request.get_ref(), needs.as_slice())?;
        let credentials = auth::credentials(request)?;
        let explanation = self.authority.explain(credentials, asked).await?;
        Ok(explain::answered(&explanation))
    }
}

/// A walk through the log in either direction, a bounded stretch at a time.
struct Scan {
    // Nothing at or before it is looked at.
    after: RevisionNumber,
    newest_first: bool,
    // The last revision that was looked at, or where the walk begins.
    seen: RevisionNumber,
}

impl Scan {
    /// Shows entries until it is told to stop, has seen enough, or is at the end; whether it
    /// may go on.
    async fn run(
        &mut self,
        authority: &Authority,
        mut show: impl FnMut(&LogEntry) -> ControlFlow<()>,
    ) -> Result<bool, Refusal> {
        let mut left = SCANNED_MAX;
        while left > 0 {
            let (after, limit) = self.stretch(left.min(READ_ENTRIES));
            if limit == 0 {
                return Ok(false);
            }
            let mut entries = authority.changes_after(after, limit).await?;
            if entries.is_empty() {
                return Ok(false);
            }
            if self.newest_first {
                entries.reverse();
            }
            for entry in &entries {
                self.seen = entry.entry.revision;
                left -= 1;
                if show(entry).is_break() {
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// The next stretch of at most so many entries: what it comes after, and how long it is.
    fn stretch(&self, most: usize) -> (RevisionNumber, usize) {
        if !self.newest_first {
            return (self.seen.max(self.after), most);
        }
        let last = self.seen.saturating_sub(1);
        let begin = last.saturating_sub(most as u64).max(self.after);
        (begin, last.saturating_sub(begin) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_back_ends_where_it_was_told() {
        let check = |seen, after, most, expected| {
            let scan = Scan {
                after,
                newest_first: true,
                seen,
            };
            assert_eq!(scan.stretch(most), expected, "{seen} {after} {most}");
        };
        check(11, 0, 4, (6, 4));
        check(7, 0, 4, (2, 4));
        check(3, 0, 4, (0, 2));
        check(1, 0, 4, (0, 0));
        check(11, 8, 4, (8, 2));
        check(9, 8, 4, (8, 0));
        check(5, 8, 4, (8, 0));
        check(0, 0, 4, (0, 0));
    }

    #[test]
    fn a_walk_forward_begins_behind_what_was_seen() {
        let check = |seen, after, expected| {
            let scan = Scan {
                after,
                newest_first: false,
                seen,
            };
            assert_eq!(scan.stretch(4), expected, "{seen} {after}");
        };
        check(0, 0, (0, 4));
        check(7, 0, (7, 4));
        check(3, 5, (5, 4));
    }
}
