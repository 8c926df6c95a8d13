//! What a request needs: the one thing that a service tells the layer about itself.
//!
//! Used by the layer. A service implements `Policy`, or gives a closure from the head of a
//! request to its `Needs`. Promise: needs that do not parse refuse the request; nothing is
//! repaired or left out. Absent on purpose: a way to let a request pass unchecked. Routes
//! that need no token stay outside the layer.

use http::request::Parts;

use crate::domain::permission::Need;
use crate::proto::v1;

/// The most needs that one Check may have.
const NEEDS_MAX: usize = 32;

/// What a token must cover for one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Needs(Option<Vec<v1::Need>>);

impl Needs {
    /// Any valid token will do.
    #[must_use]
    pub fn valid_token() -> Self {
        Self(Some(Vec::new()))
    }

    /// An exact action on an exact resource. Text that does not parse as such, as a path with
    /// `..` or `*` in it, refuses the request.
    #[must_use]
    pub fn of(action: &str, resource: &str) -> Self {
        Self::valid_token().and(action, resource)
    }

    /// Adds one more, to be covered too. Over 32 refuse the request.
    #[must_use]
    pub fn and(self, action: &str, resource: &str) -> Self {
        let Some(mut needs) = self.0 else {
            return Self::refuse();
        };
        if needs.len() == NEEDS_MAX || Need::parse(action, resource).is_err() {
            return Self::refuse();
        }
        needs.push(v1::Need {
            action: action.to_owned(),
            resource: resource.to_owned(),
        });
        Self(Some(needs))
    }

    /// No token will do: for requests that map to nothing. They are answered as not permitted
    /// without asking.
    #[must_use]
    pub fn refuse() -> Self {
        Self(None)
    }

    pub(in crate::client) fn into_list(self) -> Option<Vec<v1::Need>> {
        self.0
    }
}

/// Maps the requests of one service to needs.
pub trait Policy: Send + Sync + 'static {
    /// What a token must cover for this request. The head is as the server hands it to the
    /// layer: raw, not percent-decoded, and in a nested router without the outer path.
    fn needs(&self, request: &Parts) -> Needs;

    /// What is known of who presents the token. Say only what a trusted proxy or the
    /// transport vouches for; a token with a limit whose input is missing is denied.
    fn context(&self, request: &Parts) -> v1::Context {
        let _ = request;
        v1::Context::default()
    }
}

impl<F> Policy for F
where
    F: Fn(&Parts) -> Needs + Send + Sync + 'static,
{
    fn needs(&self, request: &Parts) -> Needs {
        self(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_that_do_not_parse_refuse_the_request() {
        let count = |needs: Needs| needs.into_list().map(|list| list.len());
        assert_eq!(count(Needs::valid_token()), Some(0));
        assert_eq!(
            count(Needs::of("a:read", "x/y").and("a:write", "x")),
            Some(2)
        );
        for resource in ["", "/x", "x/", "x//y", "x/../y", "x/*", "x%2fy"] {
            assert_eq!(count(Needs::of("a:read", resource)), None, "{resource}");
        }
        assert_eq!(count(Needs::of("a:*", "x")), None);
        assert_eq!(count(Needs::refuse().and("a:read", "x")), None);
        let many = |count| (0..count).fold(Needs::valid_token(), |it, _| it.and("a", "x"));
        assert_eq!(count(many(32)), Some(32));
        assert_eq!(count(many(33)), None);
    }
}
