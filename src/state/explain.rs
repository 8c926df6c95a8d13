//! Explain: the same decision as a Check, told step by step, for operators.
//!
//! Runs the one evaluator with an observer that goes on after a failure, so that an operator
//! sees all that is wrong and not only what is wrong first. A use is never counted.

use crate::domain::chain::Revision;
use crate::domain::clock::Now;
use crate::domain::permission::{Need, Permission};
use crate::domain::reason::Reason;
use crate::domain::token::{Digest, KindSet, TokenId, TokenKind, recognise};

use super::State;
use super::check::{CheckRequest, Context, Lineage};
use super::judge::{Observer, Step, judge};
use super::scopeset::ScopeSet;
use super::tokens::Found;

/// What to explain.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The token with this id, in its newest secret.
    Id(TokenId),
    /// This presented text.
    Token(&'a str),
}

/// One step and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedStep {
    /// The step.
    pub step: Step,
    /// The reason for which it failed; none if it passed.
    pub failed: Option<Reason>,
    /// What was seen, for people; never a secret.
    pub detail: String,
}

/// A need that is not covered, and by which layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The need.
    pub need: Permission,
    /// The layers that do not cover it.
    pub layers: Vec<Layer>,
}

/// One layer of a token's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The live permissions of the subject.
    Subject,
    /// The token's own scopes.
    Scopes,
    /// The token's own ceiling.
    Ceiling,
    /// The scopes or the ceiling of this ancestor.
    Ancestor(TokenId),
}

/// The whole decision.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The reason of the first step that failed.
    pub reason: Reason,
    /// Every step in order; the last is the one that could not be passed.
    pub steps: Vec<ExplainedStep>,
    /// What is not covered.
    pub missing: Vec<Missing>,
    /// The token, once it was found: id, kind and subject.
    pub token: Option<(TokenId, TokenKind, String)>,
    /// The revision that was asked.
    pub revision: Revision,
}

struct Recorder(Vec<ExplainedStep>);

impl Observer for Recorder {
    fn step(
        &mut self,
        step: Step,
        failed: Option<Reason>,
        detail: impl FnOnce() -> String,
    ) -> bool {
        self.0.push(ExplainedStep {
            step,
            failed,
            detail: detail(),
        });
        true
    }
}

/// Tells how a Check would be decided.
#[must_use]
pub fn explain(
    state: &State,
    target: Target<'_>,
    needs: &[Need<'_>],
    context: Context<'_>,
    kinds: KindSet,
    now: Now,
) -> Explanation {
    let mut recorder = Recorder(Vec::new());
    let mut explanation = Explanation {
        reason: Reason::Unknown,
        steps: Vec::new(),
        missing: Vec::new(),
        token: None,
        revision: state.head().revision(),
    };
    match find(state, target, &mut recorder) {
        Err(reason) => explanation.reason = reason,
        Ok(found) => {
            let lineage = Lineage::of(state, found.hot);
            let request = CheckRequest {
                token: "",
                needs,
                context,
                kinds,
            };
            let now = now.not_before(state.instant_ms());
            explanation.reason = judge(state, &found, &lineage, &request, now, &mut recorder);
            explanation.missing = missing(state, &lineage, needs);
            let record = state.tokens.record(found.hot);
            let subject = state.subject_text(&record);
            explanation.token = Some((record.id, record.kind, subject));
        }
    }
    explanation.steps = recorder.0;
    explanation
}

fn find<'s>(
    state: &'s State,
    target: Target<'_>,
    recorder: &mut Recorder,
) -> Result<Found<'s>, Reason> {
    let text = match target {
        Target::Id(id) => {
            let hot = state.tokens.by_id(id);
            let failed = hot.is_none().then_some(Reason::Unknown);
            recorder.step(Step::Find, failed, || format!("token {id}"));
            return hot
                .map(|hot| Found {
                    hot,
                    grace_until_ms: None,
                })
                .ok_or(Reason::Unknown);
        }
        Target::Token(text) => text,
    };
    let failed = match (text.is_empty(), recognise(text)) {
        (true, _) => Some(Reason::NoToken),
        (false, None) => Some(Reason::Malformed),
        (false, Some(_)) => None,
    };
    recorder.step(Step::Parse, failed, || {
        recognise(text).map_or_else(
            || "not the form, or a wrong checksum".to_owned(),
            |kind| format!("a well-formed {kind} token"),
        )
    });
    if let Some(reason) = failed {
        return Err(reason);
    }
    let found = state.tokens.find(Digest::of(text).key());
    let failed = found.is_none().then_some(Reason::Unknown);
    recorder.step(Step::Find, failed, || match &found {
        None => "no token has this secret".to_owned(),
        Some(found) if found.grace_until_ms.is_some() => {
            format!(
                "token {}, by its secret before the last rotation",
                found.hot.id()
            )
        }
        Some(found) => format!("token {}", found.hot.id()),
    });
    found.ok_or(Reason::Unknown)
}

fn missing(state: &State, lineage: &Lineage<'_>, needs: &[Need<'_>]) -> Vec<Missing> {
    let tokens = &state.tokens;
    let mut missing = Vec::new();
    for need in needs {
        let mut layers = Vec::new();
        for (depth, link) in lineage.iter().enumerate() {
            let refuses = |set: Option<&ScopeSet>| set.is_some_and(|set| !set.permits(need));
            let (scopes, ceiling) = (
                refuses(tokens.scopes(link.hot)),
                refuses(tokens.ceiling(link.hot)),
            );
            if depth > 0 && (scopes || ceiling) {
                layers.push(Layer::Ancestor(link.hot.id()));
            } else if depth == 0 {
                layers.extend(scopes.then_some(Layer::Scopes));
                layers.extend(ceiling.then_some(Layer::Ceiling));
            }
        }
        let principal = lineage
            .iter()
            .next()
            .and_then(|link| link.hot.principal())
            .and_then(|id| state.directory.principal(id));
        if principal.is_some_and(|one| !state.directory.permits(one, need)) {
            layers.insert(0, Layer::Subject);
        }
        if !layers.is_empty() {
            missing.push(Missing {
                need: need.to_permission(),
                layers,
            });
        }
    }
    missing
}
