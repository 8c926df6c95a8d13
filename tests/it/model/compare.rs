//! Comparing the real thing with the oracle: replies, records, Checks.
//!
//! Used by both drivers of the model test. Everything answers a text that says what differs.
//! Powers are compared by what they permit in the universe, not by how they are written.

use latchkey::domain::change::{Subject as RealSubject, TokenRecord};
use latchkey::domain::clock::Now;
use latchkey::domain::entropy::SeededEntropy;
use latchkey::domain::login::LoginMethod;
use latchkey::domain::permission::{Need, Permission};
use latchkey::domain::principal::{GrantId, PrincipalId};
use latchkey::domain::refusal::Refusal;
use latchkey::domain::scopes::Scopes;
use latchkey::domain::token::{KindSet, TokenId};
use latchkey::state::State;
use latchkey::state::check::{CheckRequest, Context, check};
use latchkey::state::decide::Outcome;
use latchkey::state::explain::{Target, explain};

use super::algebra::{Perm, canonical, extent, perms};
use super::commands::{name, role};
use super::generate::{Known, PRINCIPALS, ROLES};
use super::oracle::verbs::{No, Reply};
use super::oracle::{Asked, Oracle, Subject, Token, addresses_in};

/// What was replied, in the oracle's words; none for a store that failed.
pub(crate) fn reply_of(real: &Result<Outcome, Refusal>) -> Option<Reply> {
    let texts = |list: &[Permission]| canonical(&list.iter().map(Perm::of).collect::<Vec<_>>());
    Some(match real {
        Ok(Outcome::Change { kind, .. }) => Reply::Change(kind.name()),
        Ok(Outcome::Already) => Reply::Already,
        Ok(Outcome::Repeated(revision)) => Reply::Repeated(*revision),
        Ok(Outcome::Denied(reason)) => Reply::Denied(*reason),
        Err(refusal) => Reply::Refused(match refusal {
            Refusal::Invalid { .. } => No::Invalid,
            Refusal::Unauthenticated => No::Unauthenticated,
            Refusal::NotPermitted(list) => No::NotPermitted(texts(list)),
            Refusal::Boundary(list) => No::Boundary(texts(list)),
            Refusal::NotAMember => No::NotAMember,
            Refusal::NotFound(_) => No::NotFound,
            Refusal::AlreadyExists(_) => No::AlreadyExists,
            Refusal::Conflict(_) => No::Conflict,
            Refusal::Precondition(_) => No::Precondition,
            Refusal::Limit(_) => No::Limit,
            Refusal::RequestIdReused => No::RequestIdReused,
            Refusal::LoginRefused(reason) => No::LoginRefused(*reason),
            Refusal::PeerNotAllowed
            | Refusal::RateLimited { .. }
            | Refusal::Unavailable(_)
            | Refusal::OutcomeUnknown
            | Refusal::NotReached(_)
            | Refusal::Trimmed { .. }
            | Refusal::OtherHistory(_) => return None,
        }),
    })
}

pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    real: T,
    oracle: T,
) -> Result<(), String> {
    if real == oracle {
        Ok(())
    } else {
        Err(format!("{what}: State has {real:?}, the oracle {oracle:?}"))
    }
}

/// Compares every record of the State.
pub(crate) fn compare(state: &State, oracle: &Oracle, known: &[Known]) -> Result<(), String> {
    same("revision", state.head().revision, oracle.revision)?;
    same("instant", state.instant_ms(), oracle.instant)?;
    same("number of tokens", state.token_count(), oracle.tokens.len())?;
    for one in known {
        compare_token(state, oracle, one.id)?;
        let owner = oracle.by_key(one.key).map(|(token, _)| token.id);
        same("owner of a secret", state.token_by_key(one.key), owner)?;
    }
    same(
        "number of principals",
        state.principal_count(),
        oracle.principals.len(),
    )?;
    for text in PRINCIPALS {
        let real = state.principal_named(&name(text));
        let real = real.map(|one| (one.id.0, one.home.to_string(), one.disabled));
        let ours = oracle
            .named(text)
            .map(|one| (one.id, one.home.clone(), one.disabled));
        same(text, real, ours)?;
    }
    for team in &oracle.principals {
        for member in &oracle.principals {
            let real = state.is_member(PrincipalId(team.id), PrincipalId(member.id));
            let what = format!("{} in {}", member.name, team.name);
            same(&what, real, oracle.is_member(team.id, member.id))?;
        }
    }
    for text in ROLES {
        let of = |actions: Vec<String>| -> Vec<Vec<Perm>> {
            vec![
                actions
                    .iter()
                    .map(|action| Perm::new(action, "**"))
                    .collect(),
            ]
        };
        let real = state
            .role(&role(text))
            .map(|one| extent(&of(one.actions.iter().map(ToString::to_string).collect())));
        same(
            text,
            real,
            oracle
                .role(text)
                .map(|one| extent(&of(one.actions.clone()))),
        )?;
    }
    for id in 1..=oracle.grant_last + 1 {
        let real = state.grant(GrantId(id));
        let real = real.map(|one| {
            (
                one.principal.0,
                one.role.to_string(),
                one.resource.to_string(),
            )
        });
        let ours = oracle.grants.iter().find(|grant| grant.id == id);
        let ours = ours.map(|one| (one.principal, one.role.clone(), one.resource.clone()));
        same(&format!("grant {id}"), real, ours)?;
    }
    compare_logins(state, oracle)
}

/// How accounts log in, who is locked out, and the keys that seal.
fn compare_logins(state: &State, oracle: &Oracle) -> Result<(), String> {
    same("format", state.format(), oracle.format.max(1))?;
    for one in &oracle.principals {
        for method in LoginMethod::ALL {
            let real = state.method(PrincipalId(one.id), method);
            let mut methods = oracle.methods.iter();
            let ours = methods.find(|ours| ours.account == one.id && ours.method == method);
            let what = format!("{method} of {}", one.name);
            let real = real.map(|one| (one.made_at, &one.settings));
            same(&what, real, ours.map(|ours| (ours.made_at, &ours.settings)))?;
        }
        let real = state.locks_of(PrincipalId(one.id));
        let mut real: Vec<_> = real
            .map(|(from, until)| (from.to_string(), until))
            .collect();
        let ours = oracle.locks.iter().filter(|lock| lock.account == one.id);
        let mut ours: Vec<_> = ours
            .map(|lock| (lock.network.clone(), lock.until))
            .collect();
        real.sort();
        ours.sort();
        same(&format!("locks of {}", one.name), real, ours)?;
    }
    let real = state.seal_keys();
    let real: Vec<_> = real
        .map(|key| (key.id.0, key.phase.name(), key.since_ms))
        .collect();
    let ours = oracle.keys.iter();
    let mut ours: Vec<_> = ours.map(|key| (key.id, key.phase, key.since)).collect();
    ours.sort_unstable();
    same("seal keys", real, ours)
}

fn compare_token(state: &State, oracle: &Oracle, id: TokenId) -> Result<(), String> {
    let (real, ours) = match (state.token(id), oracle.token(id)) {
        (None, None) => return Ok(()),
        (Some(real), Some(ours)) => (real, ours),
        (real, ours) => {
            return same(
                &format!("token {id} is kept"),
                real.is_some(),
                ours.is_some(),
            );
        }
    };
    let what = |field: &str| format!("{field} of token {id}");
    let subject = match &real.subject {
        RealSubject::Principal(id) => Subject::Principal(id.0),
        RealSubject::Resource(resource) => Subject::Resource(resource.to_string()),
    };
    same(&what("subject"), &subject, &ours.subject)?;
    same(&what("kind"), real.kind, ours.kind)?;
    same(&what("parent"), real.parent, ours.parent)?;
    same(&what("made_at"), real.made_at, ours.made_at)?;
    same(&what("rotation"), real.rotation, ours.rotation)?;
    same(&what("expires"), real.expires_ms, ours.expires)?;
    same(&what("expires_max"), real.expires_max_ms, ours.expires_max)?;
    same(&what("not_before"), real.not_before_ms, ours.not_before)?;
    same(
        &what("ttl and period"),
        (real.ttl_s, real.period_s),
        (ours.ttl_s, ours.period_s),
    )?;
    same(
        &what("uses"),
        real.uses.map(|uses| uses.left),
        ours.uses_left,
    )?;
    same(
        &what("revoked"),
        real.revoked.map(|one| (one.revision, one.at_ms)),
        ours.revoked,
    )?;
    same(
        &what("grace"),
        real.grace.map(|one| (one.key, one.until_ms)),
        ours.grace,
    )?;
    same(
        &what("networks"),
        addresses_in(&real.networks),
        ours.addresses,
    )?;
    let audience = real.audience.as_ref().map(|one| one.as_str().to_owned());
    same(&what("audience"), &audience, &ours.audience)?;
    let workload = real.workload.as_ref().map(|one| one.as_str().to_owned());
    same(&what("workload"), &workload, &ours.workload)?;
    let issuers: Vec<_> = real
        .issuers
        .iter()
        .map(|one| (one.principal.map(|id| id.0), one.tokens.clone()))
        .collect();
    let our_issuers: Vec<_> = ours
        .issuers
        .iter()
        .map(|one| (one.principal, one.tokens.clone()))
        .collect();
    same(&what("issuers"), issuers, our_issuers)?;
    compare_power(&real, ours).map_err(|error| format!("{}: {error}", what("power")))
}

fn compare_power(real: &TokenRecord, ours: &Token) -> Result<(), String> {
    let scopes = match &real.scopes {
        Scopes::All => Vec::new(),
        Scopes::Only(set) => vec![perms(set)],
    };
    same("has scopes", scopes.is_empty(), ours.scopes.is_empty())?;
    let ceiling: Vec<_> = real.ceiling.iter().map(perms).collect();
    same("has a ceiling", ceiling.is_empty(), ours.ceiling.is_empty())?;
    if extent(&scopes) != extent(&ours.scopes) {
        return Err(format!(
            "State's scopes are {scopes:?}, the oracle's {:?}",
            ours.scopes
        ));
    }
    if extent(&ceiling) != extent(&ours.ceiling) {
        return Err(format!(
            "State's ceiling is {ceiling:?}, the oracle's {:?}",
            ours.ceiling
        ));
    }
    Ok(())
}

/// Compares one Check.
pub(crate) fn compare_check(
    state: &State,
    oracle: &Oracle,
    known: &[Known],
    asked: &Asked,
    now: u64,
) -> Result<(), String> {
    let secret = known
        .iter()
        .find(|one| one.key == asked.key)
        .ok_or("no such secret")?;
    let needs: Vec<Need<'_>> = asked
        .needs
        .iter()
        .map(|(action, on)| Need::parse(action, on).expect("needs of the test's"))
        .collect();
    let request = CheckRequest {
        token: &secret.text,
        needs: &needs,
        context: Context {
            client_ip: asked.address,
            audience: asked.audience.as_deref(),
            workload: asked.workload.as_deref(),
        },
        kinds: KindSet::from_kinds(asked.kinds.iter().copied()),
    };
    let real = check(state, &request, Now::at(now));
    let what = format!("check of token {} for {asked:?} at {now}", secret.id);
    same(&what, real.reason, oracle.check(asked, now))?;
    let target = Target::Token(&secret.text);
    let told = explain(
        state,
        target,
        &needs,
        request.context,
        request.kinds,
        Now::at(now),
    );
    same(&what, told.reason, real.reason)?;
    same(&what, real.revision, state.head().revision())
}

/// A batch id that is nobody's, and other bytes that do not matter.
pub(crate) fn entropy(seed: u64) -> SeededEntropy {
    SeededEntropy::new(seed ^ 0xBA7C)
}
