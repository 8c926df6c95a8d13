//! What a route asks of its requests, be it of the table or come with the request.
//!
//! Both are read by the same rules, and filled from a request in the same way. Used by `table`
//! and `extensions`.

use std::borrow::Cow;

use crate::domain::grammar::GrammarError;
use crate::domain::limits::Audience;
use crate::domain::permission::Need;

use super::path::Path;
use super::template::{PathTemplate, ResourceTemplate, is_filled};
use super::withheld::Withheld;
use super::{Headers, Needed, OnStale, Unanswerable};

/// What a route asks, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand<'t> {
    pub(super) need: Option<(&'t str, ResourceTemplate<'t>)>,
    pub(super) audience: Option<&'t str>,
    pub(super) on_stale: OnStale,
    pub(super) optional: bool,
}

impl<'t> Demand<'t> {
    /// What a request that `template` matches needs.
    ///
    /// # Errors
    /// [`Unanswerable::Value`] when the request has not what the resource is made of.
    pub(super) fn needed(
        self,
        template: Option<PathTemplate<'_>>,
        path: &Path<'_>,
        headers: &impl Headers,
    ) -> Result<Needed<'t>, Unanswerable> {
        let need = match self.need {
            Some((action, resource)) => {
                let resource = resource.resource(template, path, headers)?;
                Some((Cow::Borrowed(action), resource))
            }
            None => None,
        };
        Ok(Needed {
            need,
            audience: self.audience,
            on_stale: self.on_stale,
            optional: self.optional,
        })
    }
}

/// Which half of a need is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Action,
    Resource,
}

impl Half {
    /// The key that it stands under.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Resource => "resource",
        }
    }
}

/// Reads an action and the template of its resource.
///
/// # Errors
/// What to write instead, and of which half.
pub(super) fn need<'t>(
    action: &'t str,
    resource: &'t str,
    path: Option<PathTemplate<'_>>,
    withheld: &Withheld,
) -> Result<(&'t str, ResourceTemplate<'t>), (Half, String)> {
    let is_template = is_filled(resource);
    let concrete = if is_template { "resource" } else { resource };
    match Need::parse(action, concrete) {
        Err(error @ GrammarError::Action) => return Err((Half::Action, error.to_string())),
        Err(error) => return Err((Half::Resource, error.to_string())),
        Ok(_) if !is_template => return Ok((action, ResourceTemplate::known(resource))),
        Ok(_) => {}
    }
    let resource = ResourceTemplate::parse(resource, path, withheld);
    Ok((action, resource.map_err(|why| (Half::Resource, why))?))
}

/// Reads an audience.
///
/// # Errors
/// What to write instead.
pub(super) fn audience(text: &str) -> Result<&str, String> {
    if Audience::is_valid(text) {
        Ok(text)
    } else {
        Err("an audience is 1 to 256 printable ASCII characters without blanks".to_owned())
    }
}

/// Reads what becomes of requests while the answer cannot be known.
///
/// # Errors
/// What to write instead.
pub(super) fn on_stale(text: &str) -> Result<OnStale, String> {
    match text {
        "deny" => Ok(OnStale::Deny),
        "error" => Ok(OnStale::Error),
        _ => Err("write 'deny', or 'error' to leave it to Envoy's failure_mode_allow".to_owned()),
    }
}
