//! A change as it is printed: its revision, and how far it is enforced.
//!
//! Used by every command that writes, and by `wait`. A change that is durable but not enforced
//! everywhere yet is told as such and is no failure; who needs more waits for its revision.

use serde::Serialize;

use crate::proto::v1;
use crate::proto::v1::enforcement::State;

use super::{Page, duration, revision};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Made {
    /// Its revision.
    pub revision: String,
    /// How far it is enforced; none where that was not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<EnforcementView>,
}

/// How far a change is enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EnforcementView {
    state: &'static str,
    replicas: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    everywhere_after_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Vec<String>>,
}

impl Made {
    /// From the parts of an answer.
    #[must_use]
    pub(crate) fn new(at: Option<&v1::Revision>, enforcement: Option<v1::Enforcement>) -> Self {
        Self {
            revision: revision(at),
            enforcement: enforcement.map(EnforcementView::from),
        }
    }

    /// A sentence about the change, and one about how far it is enforced.
    pub(crate) fn page(&self, what: &str, page: &mut Page) {
        page.line(format!("{what} at revision {}", self.revision));
        if let Some(enforcement) = &self.enforcement {
            page.line(enforcement.text());
        }
    }
}

impl From<v1::Enforcement> for EnforcementView {
    fn from(told: v1::Enforcement) -> Self {
        let state = told.state();
        let committed = state == State::Committed;
        Self {
            state: match state {
                State::Confirmed => "confirmed",
                State::Committed => "committed",
                State::Unspecified => "unknown",
            },
            everywhere_after_ms: duration(told.everywhere_after.as_ref()).map(|it| it.as_millis()),
            missing: committed.then_some(told.missing),
            replicas: told.replicas,
        }
    }
}

impl EnforcementView {
    /// Whether every replica enforces it.
    #[must_use]
    pub(crate) fn is_confirmed(&self) -> bool {
        self.state == "confirmed"
    }

    /// For people.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let state = self.state;
        let Some(missing) = &self.missing else {
            return match &*self.replicas {
                [] => format!("{state}: every lease without it has ended"),
                [one] => format!("{state} by 1 replica: {one}"),
                all => format!("{state} by {} replicas: {}", all.len(), all.join(", ")),
            };
        };
        let missing = match &**missing {
            [] => "not known".to_owned(),
            names => names.join(", "),
        };
        let Some(after_ms) = self.everywhere_after_ms else {
            return format!(
                "{state}; nobody knows when it is enforced everywhere; missing: {missing}"
            );
        };
        // In tenths of a second, and never less than it is.
        let tenths = after_ms.div_ceil(100);
        format!(
            "{state}; enforced everywhere after {}.{} s; missing: {missing}",
            tenths / 10,
            tenths % 10
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(state: State, replicas: &[&str], after_ms: i32, missing: &[&str], expected: &str) {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let view = EnforcementView::from(v1::Enforcement {
            state: state.into(),
            replicas: names(replicas),
            everywhere_after: (state == State::Committed).then_some(prost_types::Duration {
                seconds: i64::from(after_ms / 1_000),
                nanos: after_ms % 1_000 * 1_000_000,
            }),
            missing: names(missing),
        });
        assert_eq!(view.text(), expected);
    }

    #[test]
    fn how_far_a_change_is_enforced_is_one_sentence() {
        let (confirmed, committed) = (State::Confirmed, State::Committed);
        let names = ["a", "b", "c"];
        check(
            confirmed,
            &names,
            0,
            &[],
            "confirmed by 3 replicas: a, b, c",
        );
        check(confirmed, &["a"], 0, &[], "confirmed by 1 replica: a");
        let nobody = "confirmed: every lease without it has ended";
        check(confirmed, &[], 0, &[], nobody);
        let one = "committed; enforced everywhere after 5.2 s; missing: b";
        check(committed, &["a"], 5_101, &["b"], one);
        check(committed, &["a"], 5_200, &["b"], one);
        let nothing = "committed; enforced everywhere after 315.0 s; missing: not known";
        check(committed, &[], 315_000, &[], nothing);
        let stale = EnforcementView::from(v1::Enforcement {
            state: committed.into(),
            missing: vec!["c".to_owned()],
            ..v1::Enforcement::default()
        });
        let unbounded = "committed; nobody knows when it is enforced everywhere; missing: c";
        assert_eq!(stale.text(), unbounded);
    }

    #[test]
    fn a_document_has_what_the_state_has() {
        let json = |told: v1::Enforcement| {
            let made = Made::new(None, Some(told));
            serde_json::to_string(&made).expect("JSON")
        };
        let confirmed = v1::Enforcement {
            state: State::Confirmed.into(),
            replicas: vec!["a".to_owned()],
            ..v1::Enforcement::default()
        };
        assert_eq!(
            json(confirmed),
            r#"{"revision":"","enforcement":{"state":"confirmed","replicas":["a"]}}"#
        );
        let committed = v1::Enforcement {
            state: State::Committed.into(),
            everywhere_after: Some(prost_types::Duration::default()),
            ..v1::Enforcement::default()
        };
        let enforcement =
            r#"{"state":"committed","replicas":[],"everywhere_after_ms":0,"missing":[]}"#;
        let expected = format!(r#"{{"revision":"","enforcement":{enforcement}}}"#);
        assert_eq!(json(committed), expected);
    }
}
