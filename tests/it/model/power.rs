//! The property behind the boundary: nobody ends up with more than its author held.
//!
//! Judged on the real State before and after each entry of the log, by brute force over the
//! universe, and without the oracle's decisions: what an entry lets a principal or a token do
//! that it could not do before, the calling token could do before. For tokens also what they may
//! ever come to do: their scopes and ceilings stay within what the caller held.

use latchkey::domain::change::{Change, Subject, TokenRecord};
use latchkey::domain::clock::Now;
use latchkey::domain::entry::LogEntry;
use latchkey::domain::principal::{GrantId, PrincipalId, PrincipalKind};
use latchkey::domain::scopes::Scopes;
use latchkey::domain::token::{KindSet, TokenId};
use latchkey::state::State;
use latchkey::state::check::Context;
use latchkey::state::explain::{Target, explain};

use super::algebra::{Perm, beyond, extent, perms};

/// More grants and principals than a run makes.
const IDS_MAX: u32 = 2_000;

/// Judges the entry that made `after` of `before`.
pub(crate) fn judge(before: &State, after: &State, logged: &LogEntry) -> Result<(), String> {
    let entry = &logged.entry;
    let Some(author) = entry.actor.token else {
        return Ok(());
    };
    let held = extent(&power(before, author));
    let told = |what: &str, more: Vec<String>| match more.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{} of {}: {what} gains what its author did not hold: {more:?}",
            entry.kind.name(),
            entry.target
        )),
    };
    match &entry.change {
        Change::PutToken { record, .. } => {
            let former = before.token(record.id);
            let now = Now::at(entry.instant_ms);
            let (was, is) = (works(before, record.id, now), works(after, record.id, now));
            let gains = beyond(&is, &was);
            let more = beyond(&is, &held);
            told(
                "the token",
                gains.into_iter().filter(|one| more.contains(one)).collect(),
            )?;
            let cut = |record: &TokenRecord| (record.scopes.clone(), record.ceiling.clone());
            let changed = former.as_ref().map(cut) != Some(cut(record));
            if changed && record.parent.is_none() {
                told(
                    "the token's bound",
                    lasting(before, author, record, former.as_ref()),
                )?;
            }
        }
        _ => {
            for id in principals(after) {
                let (was, is) = (live(before, id), live(after, id));
                let gains = beyond(&is, &was);
                let more = beyond(&is, &held);
                let kept = gains.into_iter().filter(|one| more.contains(one)).collect();
                told(&format!("principal {}", id.0), kept)?;
            }
        }
    }
    Ok(())
}

/// What the scopes and ceilings of a token may ever permit beyond what its author held. Of its
/// own subject the author's live permissions do not count: the token follows them as well.
fn lasting(
    before: &State,
    author: TokenId,
    record: &TokenRecord,
    former: Option<&TokenRecord>,
) -> Vec<String> {
    let author_is = before.token(author).map(|token| token.subject);
    let own = match (&record.subject, author_is) {
        (Subject::Principal(subject), Some(Subject::Principal(me))) => {
            *subject == me || before.is_member(*subject, me)
        }
        _ => false,
    };
    let bound = if own {
        cuts(before, author)
    } else {
        power(before, author)
    };
    let mut allowed = extent(&bound);
    // What it had before was judged when it got it.
    let was = former.map_or_else(|| extent(&[Vec::new()]), |former| extent(&own_cuts(former)));
    allowed
        .iter_mut()
        .zip(was)
        .for_each(|(cell, was)| *cell |= was);
    beyond(&extent(&own_cuts(record)), &allowed)
}

/// What a token permits now, whatever the context: nothing unless it is alive.
fn works(state: &State, id: TokenId, now: Now) -> Vec<bool> {
    let nothing = extent(&[Vec::new()]);
    let Some(record) = state.token(id) else {
        return nothing;
    };
    let networks: Vec<String> = record.networks.iter().collect();
    let first = networks
        .first()
        .and_then(|network| network.split('/').next());
    let context = Context {
        client_ip: first.and_then(|address| address.parse().ok()),
        audience: record.audience.as_ref().map(|one| one.as_str()),
        workload: record.workload.as_ref().map(|one| one.as_str()),
    };
    let told = explain(state, Target::Id(id), &[], context, KindSet::ALL, now);
    if told.reason == latchkey::domain::reason::Reason::Allowed {
        extent(&power(state, id))
    } else {
        nothing
    }
}

fn own_cuts(record: &TokenRecord) -> Vec<Vec<Perm>> {
    let scopes = match &record.scopes {
        Scopes::All => None,
        Scopes::Only(set) => Some(perms(set)),
    };
    scopes
        .into_iter()
        .chain(record.ceiling.as_ref().map(perms))
        .collect()
}

fn cuts(state: &State, id: TokenId) -> Vec<Vec<Perm>> {
    let mut next = state.token(id);
    let mut all = Vec::new();
    while let Some(record) = next {
        all.extend(own_cuts(&record));
        next = record.parent.and_then(|parent| state.token(parent));
    }
    all
}

fn power(state: &State, id: TokenId) -> Vec<Vec<Perm>> {
    let mut layers = cuts(state, id);
    if let Some(Subject::Principal(id)) = state.token(id).map(|record| record.subject) {
        layers.push(permissions(state, id));
    }
    layers
}

/// What a principal's tokens may do at most: nothing while it is paused.
fn live(state: &State, id: PrincipalId) -> Vec<bool> {
    let paused = state.principal(id).is_none_or(|one| one.disabled);
    extent(&[if paused {
        Vec::new()
    } else {
        permissions(state, id)
    }])
}

fn permissions(state: &State, id: PrincipalId) -> Vec<Perm> {
    let holds = |holder: PrincipalId| {
        holder == id
            || (state.is_member(holder, id)
                && state.principal(holder).is_some_and(|team| !team.disabled))
    };
    let mut all = Vec::new();
    let mut empty = 0;
    for number in 1..IDS_MAX {
        let Some(grant) = state.grant(GrantId(number)) else {
            empty += 1;
            if empty > 200 {
                break;
            }
            continue;
        };
        empty = 0;
        if let Some(role) = state.role(&grant.role).filter(|_| holds(grant.principal)) {
            let on = grant.resource.as_str();
            all.extend(
                role.actions
                    .iter()
                    .map(|action| Perm::new(action.as_str(), on)),
            );
        }
    }
    all
}

fn principals(state: &State) -> Vec<PrincipalId> {
    let named = super::generate::PRINCIPALS.iter();
    let named = named.filter_map(|text| state.principal_named(&super::commands::name(text)));
    debug_assert!(
        PrincipalKind::ALL.len() == 3,
        "users, teams and services are all listed"
    );
    named.map(|one| one.id).collect()
}
