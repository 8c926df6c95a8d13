//! Explain: the steps of a decision, in order, as answers carry them.
//!
//! Used by the audit service. Steps that could not be tested, because an earlier one did not find
//! what they need, are shown as skipped, so that every explanation has the same shape.

use crate::authority::audit::{
    ExplainAsked, ExplainTarget, ExplainedStep, Explanation, Layer, Missing, Step,
};
use crate::domain::permission::Need;
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::token::TokenKind;
use crate::proto::v1;

use super::convert::{self, kind_number, reason_number, revision};

/// Every step in its order, with the reason that it denies for.
const STEPS: [(Step, Reason); 12] = [
    (Step::Parse, Reason::Unknown),
    (Step::Find, Reason::Unknown),
    (Step::Kind, Reason::WrongKind),
    (Step::Revocation, Reason::Revoked),
    (Step::Subject, Reason::SubjectDisabled),
    (Step::Expiry, Reason::Expired),
    (Step::NotBefore, Reason::NotYetValid),
    (Step::Network, Reason::Network),
    (Step::Audience, Reason::Audience),
    (Step::Workload, Reason::Workload),
    (Step::Permission, Reason::NotPermitted),
    (Step::Uses, Reason::UsesExhausted),
];

/// Reads what is to be explained; the needs were read before.
pub(super) fn asked<'a>(
    request: &'a v1::ExplainRequest,
    needs: &'a [Need<'a>],
) -> Result<ExplainAsked<'a>, Refusal> {
    let target = match &request.target {
        None => {
            return Err(Refusal::invalid(
                "target",
                "is required: a token id or a token",
            ));
        }
        Some(v1::explain_request::Target::TokenId(id)) => {
            ExplainTarget::Id(convert::token_id("token_id", id)?)
        }
        Some(v1::explain_request::Target::Token(token)) => ExplainTarget::Token(token),
    };
    Ok(ExplainAsked {
        target,
        needs,
        context: convert::context(request.context.as_ref())?,
        kinds: convert::kinds("accepted_kinds", &request.accepted_kinds)?,
        at: convert::revision_asked("at_revision", request.at_revision.as_ref())?,
    })
}

/// An explanation as answers carry it.
pub(super) fn answered(explanation: &Explanation) -> v1::ExplainResponse {
    let (mut token_id, mut kind) = (String::new(), 0);
    let (mut subject, mut resource) = (String::new(), String::new());
    if let Some((id, of_kind, named)) = &explanation.token {
        token_id = id.to_string();
        kind = kind_number(*of_kind);
        match of_kind {
            TokenKind::Resource => resource.clone_from(named),
            _ => subject.clone_from(named),
        }
    }
    v1::ExplainResponse {
        allowed: explanation.reason == Reason::Allowed,
        reason: reason_number(explanation.reason),
        steps: steps(&explanation.steps),
        missing: explanation.missing.iter().map(missing).collect(),
        token_id,
        kind,
        subject,
        resource,
        revision: Some(revision(explanation.revision)),
    }
}

fn steps(told: &[ExplainedStep]) -> Vec<v1::ExplainStep> {
    let position = |step: Step| STEPS.iter().position(|(one, _)| *one == step);
    let skipped_from = told
        .last()
        .and_then(|last| position(last.step))
        .map_or(0, |at| at + 1);
    let skipped = STEPS[skipped_from..]
        .iter()
        .map(|(_, reason)| v1::ExplainStep {
            reason: reason_number(*reason),
            outcome: v1::ExplainOutcome::Skipped.into(),
            message: "an earlier step did not find what this one needs".to_owned(),
        });
    told.iter().map(step).chain(skipped).collect()
}

fn step(told: &ExplainedStep) -> v1::ExplainStep {
    let denies_for = STEPS.iter().find(|(one, _)| *one == told.step);
    let reason = told.failed.or(denies_for.map(|(_, reason)| *reason));
    let outcome = match told.failed {
        Some(_) => v1::ExplainOutcome::Failed,
        None => v1::ExplainOutcome::Passed,
    };
    v1::ExplainStep {
        reason: reason.map_or(0, reason_number),
        outcome: outcome.into(),
        message: told.detail.clone(),
    }
}

fn missing(missing: &Missing) -> v1::MissingNeed {
    let layer = |layer: &Layer| {
        let (layer, ancestor) = match layer {
            Layer::Subject => (v1::PowerLayer::Subject, None),
            Layer::Scopes => (v1::PowerLayer::Scopes, None),
            Layer::Ceiling => (v1::PowerLayer::Ceiling, None),
            Layer::Ancestor(id) => (v1::PowerLayer::Ancestor, Some(id)),
        };
        v1::MissingIn {
            layer: layer.into(),
            ancestor_token_id: ancestor.map(ToString::to_string).unwrap_or_default(),
        }
    };
    v1::MissingNeed {
        need: Some(v1::Need {
            action: missing.need.action.to_string(),
            resource: missing.need.resource.to_string(),
        }),
        missing_in: missing.layers.iter().map(layer).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chain::Head;
    use crate::domain::permission::Permission;
    use crate::domain::token::TokenId;

    fn told(step: Step, failed: Option<Reason>) -> ExplainedStep {
        ExplainedStep {
            step,
            failed,
            detail: "seen".to_owned(),
        }
    }

    fn explanation(steps: Vec<ExplainedStep>, reason: Reason) -> Explanation {
        Explanation {
            reason,
            steps,
            missing: vec![Missing {
                need: Permission::parse("a:x", "r").expect("valid"),
                layers: vec![Layer::Subject, Layer::Ancestor(TokenId::from_u128(7))],
            }],
            token: Some((
                TokenId::from_u128(6),
                TokenKind::Resource,
                "acme/web".to_owned(),
            )),
            revision: Head::EMPTY.revision(),
        }
    }

    #[test]
    fn steps_after_an_unknown_token_are_skipped() {
        let steps = vec![told(Step::Parse, Some(Reason::Malformed))];
        let answer = answered(&explanation(steps, Reason::Malformed));
        assert_eq!(answer.steps.len(), STEPS.len());
        assert_eq!(answer.steps[0].outcome(), v1::ExplainOutcome::Failed);
        assert_eq!(answer.steps[0].reason(), v1::Reason::Unknown);
        let skipped = |step: &v1::ExplainStep| step.outcome() == v1::ExplainOutcome::Skipped;
        assert!(answer.steps[1..].iter().all(skipped));
        assert_eq!(
            (answer.allowed, answer.reason()),
            (false, v1::Reason::Unknown)
        );
    }

    #[test]
    fn a_whole_explanation_skips_nothing() {
        let steps = STEPS.iter().map(|(step, _)| told(*step, None)).collect();
        let answer = answered(&explanation(steps, Reason::Allowed));
        assert!(answer.allowed);
        let passed = |step: &v1::ExplainStep| step.outcome() == v1::ExplainOutcome::Passed;
        assert!(answer.steps.len() == STEPS.len() && answer.steps.iter().all(passed));
        let denies: Vec<i32> = answer.steps.iter().map(|step| step.reason).collect();
        assert!(denies.is_sorted(), "{denies:?}");
    }

    #[test]
    fn what_is_missing_names_its_layers() {
        let answer = answered(&explanation(Vec::new(), Reason::NotPermitted));
        assert_eq!(
            (answer.subject.as_str(), answer.resource.as_str()),
            ("", "acme/web")
        );
        let missing = &answer.missing[0];
        assert_eq!(
            missing.need.as_ref().map(|need| need.action.as_str()),
            Some("a:x")
        );
        assert_eq!(missing.missing_in[0].layer(), v1::PowerLayer::Subject);
        assert_eq!(missing.missing_in[1].layer(), v1::PowerLayer::Ancestor);
        assert!(!missing.missing_in[1].ancestor_token_id.is_empty());
    }

    #[test]
    fn a_target_is_required() {
        let request = v1::ExplainRequest::default();
        let refused = asked(&request, &[]).err();
        assert!(matches!(
            refused,
            Some(Refusal::Invalid {
                field: "target",
                ..
            })
        ));
    }
}
