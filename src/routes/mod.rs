//! What a request through Envoy needs: its path made safe, then a route that says so.
//!
//! ```text
//! request ─► path (safe, or refused) ─► extensions of the route in Envoy ─┐
//!                                   └─► table ─► tree (first match) ──────┴─► Needed
//!                                         ▲
//!                                  live: the file, watched and swapped whole
//! ```
//!
//! On the way of every request of a mesh: a usual path and a resource without captures allocate
//! nothing. Used by `rpc` and `cli`. Absent: tokens, and the protobuf of Envoy.

mod demand;
mod extensions;
mod host;
mod live;
mod path;
mod table;
mod template;
mod tree;
mod withheld;

use std::borrow::Cow;

pub use extensions::Extensions;
pub use live::{Follower, Live, OpenError, RouteFile};
pub use path::{PATH_BYTES_MAX, PathRefusal};
pub use table::{Matched, NearMiss, ROUTES_MAX, TABLE_BYTES_MAX, Table, TableError};
pub use template::is_header_name;
pub use withheld::Withheld;

/// What of a request a route looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The host that was asked for, with its port if it has one.
    pub host: &'a str,
    /// The method, as it came.
    pub method: &'a str,
    /// The path as it came, undecoded and with its query.
    pub path: &'a str,
}

/// What a request has under one header name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderValue<'a> {
    /// No such header.
    Absent,
    /// One value.
    One(&'a str),
    /// More than one, or one that is no text.
    Several,
}

/// The headers of a request.
pub trait Headers {
    /// The header of a name in lower case.
    fn header(&self, name: &str) -> HeaderValue<'_>;
}

/// What becomes of a request while this server cannot know whether its token still holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnStale {
    /// It is denied, whatever Envoy does about errors.
    #[default]
    Deny,
    /// Envoy is told of an error, and does what its `failure_mode_allow` says.
    Error,
}

impl OnStale {
    /// The word for it in a route.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Error => "error",
        }
    }
}

/// What a request needs to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed<'a> {
    /// The action and the resource that the token must permit, both inside the grammar; without
    /// them any token that holds will do.
    pub need: Option<(Cow<'a, str>, Cow<'a, str>)>,
    /// The audience that is asked for: a token that is for another is denied, one that is for none
    /// passes. Without it, every token that is for an audience is denied.
    pub audience: Option<&'a str>,
    /// What becomes of it while the answer cannot be known.
    pub on_stale: OnStale,
    /// Whether it passes without a credential; one that is there is judged all the same.
    pub optional: bool,
}

/// Why it cannot be told what a request needs; it is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// Its path could be read in two ways.
    Path(PathRefusal),
    /// No route is for it.
    NoRoute,
    /// This part of the resource has no value, more than one, or none that a resource may have.
    Value(Box<str>),
    /// What Envoy was told to send for this route is wrong.
    Misconfigured(String),
}

impl From<PathRefusal> for Unanswerable {
    fn from(refusal: PathRefusal) -> Self {
        Self::Path(refusal)
    }
}
