//! Changes of the log and explanations as they are printed.
//!
//! Used by `audit` and `explain`. A [`ChangeView`] has all that a script needs to verify the chain
//! by itself: the revision, the chain and the body's hash.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::chain::Head;
use crate::domain::entry::EntryKind;
use crate::proto::v1;
use crate::store::StoreError;

use super::token::{kind, reason, word};
use super::{Page, hex, instant, revision};

/// One entry of the log.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChangeView {
    revision: String,
    chain: String,
    instant: Option<String>,
    actor: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    actor_token_id: String,
    kind: String,
    target: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    format_version: u32,
    body_hash: String,
    has_request_id: bool,
    details: BTreeMap<String, String>,
}

impl From<v1::Change> for ChangeView {
    fn from(change: v1::Change) -> Self {
        let short = change.chain.get(..8).unwrap_or(&change.chain).to_vec();
        let at = v1::Revision {
            number: change.revision,
            chain: short,
        };
        Self {
            revision: revision(Some(&at)),
            chain: hex(&change.chain),
            instant: instant(change.instant.as_ref()),
            body_hash: hex(&change.body_hash),
            details: change.details.into_iter().collect(),
            actor: change.actor,
            actor_token_id: change.actor_token_id,
            kind: change.kind,
            target: change.target,
            reason: change.reason,
            format_version: change.format_version,
            has_request_id: change.has_request_id,
        }
    }
}

impl ChangeView {
    /// The header of [`ChangeView::row`].
    pub(crate) const HEADER: [&'static str; 6] =
        ["REVISION", "INSTANT", "ACTOR", "KIND", "TARGET", "REASON"];

    /// Its target, and of lockouts who is locked out of it, or is so no more.
    fn target_text(&self) -> String {
        let fact = match EntryKind::from_name(&self.kind) {
            Some(EntryKind::LoginLock) => "network",
            Some(EntryKind::LoginUnlock) => "networks",
            _ => return self.target.clone(),
        };
        match self.details.get(fact) {
            Some(from) => format!("{} from {from}", self.target),
            None => self.target.clone(),
        }
    }

    /// One line of a list.
    #[must_use]
    pub(crate) fn row(&self) -> Vec<String> {
        vec![
            self.revision.clone(),
            self.instant.clone().unwrap_or_default(),
            self.actor.clone(),
            self.kind.clone(),
            self.target_text(),
            self.reason.clone(),
        ]
    }
}

/// How a verification of the chain ended.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verified {
    /// Whether everything fits.
    pub intact: bool,
    /// What it began after, if that is not the beginning.
    #[serde(skip_serializing_if = "String::is_empty")]
    after: String,
    verified: String,
    changes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_at: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

impl From<v1::VerifyResult> for Verified {
    fn from(result: v1::VerifyResult) -> Self {
        Self {
            intact: result.intact,
            after: revision(result.after.as_ref()),
            verified: revision(result.verified.as_ref()),
            changes: result.changes,
            broken_at: (result.broken_at != 0).then_some(result.broken_at),
            message: result.message,
        }
    }
}

impl Verified {
    /// From a store that was read without a server; damage is an answer too.
    ///
    /// # Errors
    /// When the store could not be read.
    pub(crate) fn of_store(verified: Result<(Head, Head), StoreError>) -> Result<Self, StoreError> {
        match verified {
            Ok((cut, head)) => Ok(Self {
                intact: true,
                after: match cut.revision {
                    0 => String::new(),
                    _ => cut.revision().to_string(),
                },
                verified: head.revision().to_string(),
                changes: head.revision - cut.revision,
                broken_at: None,
                message: String::new(),
            }),
            Err(StoreError::Damaged { revision, what }) => Ok(Self {
                intact: false,
                after: String::new(),
                verified: revision.saturating_sub(1).to_string(),
                changes: revision.saturating_sub(1),
                broken_at: Some(revision),
                message: what,
            }),
            Err(error) => Err(error),
        }
    }

    /// One sentence, for people.
    pub(crate) fn page(&self, page: &mut Page) {
        let (changes, verified) = (self.changes, &self.verified);
        if !self.after.is_empty() {
            page.line(format!("begins after revision {}", self.after));
        }
        if self.intact {
            page.line(format!("intact: {changes} changes, up to {verified}"));
        } else {
            let at = self.broken_at.unwrap_or_default();
            page.line(format!("broken at revision {at}: {}", self.message));
            page.line(format!("{changes} changes fit, up to {verified}"));
        }
    }
}

/// How a decision comes about.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Explanation {
    /// Whether a check would be allowed.
    pub allowed: bool,
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    token_id: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    steps: Vec<Step>,
    missing: Vec<Missing>,
    revision: String,
}

#[derive(Clone, Debug, Serialize)]
struct Step {
    reason: String,
    outcome: String,
    message: String,
}

#[derive(Clone, Debug, Serialize)]
struct Missing {
    action: String,
    resource: String,
    missing_in: Vec<String>,
}

impl From<v1::ExplainResponse> for Explanation {
    fn from(answer: v1::ExplainResponse) -> Self {
        Self {
            allowed: answer.allowed,
            reason: reason(answer.reason),
            kind: kind(answer.kind),
            steps: answer.steps.into_iter().map(Step::from).collect(),
            missing: answer.missing.into_iter().map(Missing::from).collect(),
            revision: revision(answer.revision.as_ref()),
            token_id: answer.token_id,
            subject: answer.subject,
            resource: answer.resource,
        }
    }
}

impl From<v1::ExplainStep> for Step {
    fn from(step: v1::ExplainStep) -> Self {
        let outcome = v1::ExplainOutcome::try_from(step.outcome);
        Self {
            reason: reason(step.reason),
            outcome: word(outcome.map(|o| o.as_str_name()), "EXPLAIN_OUTCOME_"),
            message: step.message,
        }
    }
}

impl From<v1::MissingNeed> for Missing {
    fn from(missing: v1::MissingNeed) -> Self {
        let need = missing.need.unwrap_or_default();
        let layer = |entry: v1::MissingIn| {
            let layer = v1::PowerLayer::try_from(entry.layer);
            let layer = word(layer.map(|l| l.as_str_name()), "POWER_LAYER_");
            if entry.ancestor_token_id.is_empty() {
                layer
            } else {
                format!("{layer} {}", entry.ancestor_token_id)
            }
        };
        Self {
            action: need.action,
            resource: need.resource,
            missing_in: missing.missing_in.into_iter().map(layer).collect(),
        }
    }
}

impl Explanation {
    /// The steps in order and what is missing, for people.
    pub(crate) fn page(&self, page: &mut Page) {
        page.line(if self.allowed {
            "allowed".to_owned()
        } else {
            format!("denied: {}", self.reason)
        });
        page.fields(&[
            ("token id", self.token_id.clone()),
            ("kind", self.kind.to_owned()),
            ("subject", self.subject.clone()),
            ("resource", self.resource.clone()),
            ("revision", self.revision.clone()),
        ]);
        let row = |step: &Step| {
            vec![
                step.outcome.clone(),
                step.reason.clone(),
                step.message.clone(),
            ]
        };
        page.table(
            &["OUTCOME", "WOULD DENY AS", "WHAT"],
            self.steps.iter().map(row),
        );
        for missing in &self.missing {
            let (action, resource) = (&missing.action, &missing.resource);
            let layers = missing.missing_in.join(", ");
            page.line(format!("missing: {action}@{resource} in {layers}"));
        }
    }
}
