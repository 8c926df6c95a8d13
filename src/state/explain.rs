//! Explain: the same decision as a Check, told step by step, for operators.
//!
//! Runs the one evaluator with an observer that goes on after a failure, so that an operator
//! sees all that is wrong and not only what is wrong first. A use is never counted.

use crate::domain::chain::Revision;
use crate::domain::change::SealKeyRecord;
use crate::domain::clock::Now;
use crate::domain::permission::{Need, Permission};
use crate::domain::reason::Reason;
use crate::domain::seal::claims::Sealed;
use crate::domain::seal::ring::Unopened;
use crate::domain::token::{Digest, KindSet, TokenId, TokenKind, recognise};

use super::State;
use super::check::{CheckRequest, Context};
use super::judge::{Observer, Step, judge};
use super::lineage::Lineage;
use super::scopeset::ScopeSet;

/// What to explain.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The token with this id, in its newest secret.
    Id(TokenId),
    /// This presented text.
    Token(&'a str),
    /// The presented text of a sealed token: its claims, if its seal was found whole.
    Sealed(Result<Sealed<'a>, Unopened>),
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
pub fn explain<'s>(
    state: &'s State,
    target: Target<'s>,
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
        Ok(lineage) => {
            let request = CheckRequest {
                token: "",
                needs,
                context,
                kinds,
            };
            let now = now.not_before(state.instant_ms());
            explanation.reason = judge(
                state,
                &lineage,
                lineage.ends_ms(state),
                &request,
                now,
                &mut recorder,
            );
            explanation.missing = missing(state, &lineage, needs);
            let subject = state.subject_text(lineage.subject(state).as_ref());
            explanation.token = lineage.id().map(|id| (id, lineage.kind(), subject));
        }
    }
    explanation.steps = recorder.0;
    explanation
}

fn find<'s>(
    state: &'s State,
    target: Target<'s>,
    recorder: &mut Recorder,
) -> Result<Lineage<'s>, Reason> {
    let text = match target {
        Target::Id(id) => {
            let hot = state.tokens.by_id(id);
            let failed = hot.is_none().then_some(Reason::Unknown);
            recorder.step(Step::Find, failed, || format!("token {id}"));
            return hot
                .map(|hot| Lineage::of(state, hot))
                .ok_or(Reason::Unknown);
        }
        Target::Sealed(opened) => return find_sealed(state, opened, recorder),
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
    let found = found.ok_or(Reason::Unknown)?;
    Ok(Lineage::found(state, &found))
}

fn find_sealed<'s>(
    state: &'s State,
    opened: Result<Sealed<'s>, Unopened>,
    recorder: &mut Recorder,
) -> Result<Lineage<'s>, Reason> {
    let malformed = matches!(opened, Err(Unopened::Malformed));
    let failed = malformed.then_some(Reason::Malformed);
    recorder.step(Step::Parse, failed, || match malformed {
        true => "not the form, or a wrong checksum".to_owned(),
        false => "a well-formed sealed access token".to_owned(),
    });
    if let Some(reason) = failed {
        return Err(reason);
    }
    let failed = match &opened {
        Ok(_) => None,
        // As the Check has it: of a key that is over nobody else knows more.
        Err(Unopened::NotLoaded(key))
            if state.seal_key(*key).is_some_and(SealKeyRecord::is_in_use) =>
        {
            Some(Reason::Stale)
        }
        Err(_) => Some(Reason::Unknown),
    };
    recorder.step(Step::Find, failed, || match &opened {
        Ok(sealed) => format!("token {}, sealed by key {}", sealed.id, sealed.key()),
        Err(Unopened::NotLoaded(key)) => format!("this server has not loaded seal key {key}"),
        Err(_) => "another's seal, or a broken one".to_owned(),
    });
    match (opened, failed) {
        (Ok(sealed), _) => Ok(Lineage::sealed(state, sealed)),
        (Err(_), failed) => Err(failed.unwrap_or(Reason::Unknown)),
    }
}

fn missing(state: &State, lineage: &Lineage<'_>, needs: &[Need<'_>]) -> Vec<Missing> {
    let tokens = &state.tokens;
    let mut missing = Vec::new();
    for need in needs {
        let mut layers = Vec::new();
        for (depth, link) in lineage.iter().enumerate() {
            let refuses = |set: Option<&ScopeSet>| set.is_some_and(|set| !set.permits(need));
            let depth = depth + usize::from(lineage.sealed.is_some());
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
        let own = lineage.sealed.as_ref().and_then(Sealed::scopes);
        if own.is_some_and(|scopes| !scopes.permits(need)) {
            layers.insert(0, Layer::Scopes);
        }
        let principal = lineage
            .principal()
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
