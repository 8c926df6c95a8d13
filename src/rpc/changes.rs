//! Entries of the log as clients see them, and the filters on them.
//!
//! Used by the lists and watches of the audit service. An entry is shown with its body's hash
//! and the chain, so that a client can verify it, and with a few plain facts for people; never
//! with a secret, a digest or a body.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use crate::authority::Authority;
use crate::domain::change::{Change, CutOffTarget, Display, Subject, TokenRecord};
use crate::domain::entry::{EntryKind, LogEntry};
use crate::domain::login::MethodRecord;
use crate::domain::principal::PrincipalId;
use crate::domain::refusal::Refusal;
use crate::proto::v1;

use super::convert::timestamp;
use super::roles::grant_text;

/// Most kinds that a filter names; there are fewer.
const KINDS_MAX: usize = 64;
/// Most bytes of one fact: a set of scopes may be 32 KiB.
const FACT_BYTES_MAX: usize = 1_024;

/// Which changes to show; all that is set must fit.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    kinds: BTreeSet<EntryKind>,
    actor: Option<String>,
    target: Option<String>,
}

impl Filter {
    /// Reads a filter; unset is all.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a kind that is not known.
    pub(super) fn of(filter: Option<&v1::ChangeFilter>) -> Result<Self, Refusal> {
        let Some(filter) = filter else {
            return Ok(Self::default());
        };
        if filter.kinds.len() > KINDS_MAX {
            return Err(Refusal::invalid(
                "filter.kinds",
                format!("are at most {KINDS_MAX}"),
            ));
        }
        let known = |kind: &String| {
            EntryKind::from_name(kind)
                .ok_or_else(|| Refusal::invalid("filter.kinds", "holds a kind that is not known"))
        };
        let set = |text: &String| (!text.is_empty()).then(|| text.clone());
        Ok(Self {
            kinds: filter.kinds.iter().map(known).collect::<Result<_, _>>()?,
            actor: set(&filter.actor),
            target: set(&filter.target),
        })
    }

    /// Whether an entry fits.
    pub(super) fn fits(&self, logged: &LogEntry) -> bool {
        let entry = &logged.entry;
        let is = |wanted: &Option<String>, text: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == text)
        };
        (self.kinds.is_empty() || self.kinds.contains(&entry.kind))
            && is(&self.actor, &entry.actor.name)
            && is(&self.target, &entry.target)
    }
}

/// An entry as clients see it.
pub(super) fn change(authority: &Authority, logged: &LogEntry) -> v1::Change {
    let named = |id| authority.name_of(id).map(|name| name.to_string());
    shown(logged, &named)
}

fn shown(logged: &LogEntry, named: &dyn Fn(PrincipalId) -> Option<String>) -> v1::Change {
    let entry = &logged.entry;
    v1::Change {
        revision: entry.revision,
        chain: logged.head.chain.to_vec(),
        instant: Some(timestamp(entry.instant_ms)),
        actor: entry.actor.name.clone(),
        actor_token_id: entry
            .actor
            .token
            .map(|id| id.to_string())
            .unwrap_or_default(),
        kind: entry.kind.name().to_owned(),
        target: entry.target.clone(),
        reason: entry.reason.clone(),
        format_version: entry.kind.format(),
        body_hash: Sha256::digest(&logged.body).to_vec(),
        has_request_id: entry.request.is_some(),
        details: Facts::of(&entry.change, named).0,
    }
}

/// What a change says, by name.
struct Facts(BTreeMap<String, String>);

impl Facts {
    fn of(change: &Change, named: &dyn Fn(PrincipalId) -> Option<String>) -> Self {
        let name = |id: PrincipalId| named(id).unwrap_or_else(|| id.to_string());
        let mut facts = Self(BTreeMap::new());
        match change {
            Change::PutToken {
                record, display, ..
            } => facts.token(record, display, &name),
            Change::RevokeToken { compromised, .. } => facts.add("compromised", compromised),
            Change::CutOff(target) => facts.cut_off(target, &name),
            Change::UseToken { left, .. } => facts.add("uses_left", left),
            Change::PutPrincipal { record, display } => {
                facts.add("principal_id", record.id);
                facts.add("home", &record.home);
                facts.add("disabled", record.disabled);
                facts.display(display);
            }
            Change::AddMember { team, member } => {
                facts.add("team", name(*team));
                facts.add("member", name(*member));
            }
            Change::RemoveMember {
                team,
                member,
                cut_off_tokens,
            } => {
                facts.add("team", name(*team));
                facts.add("member", name(*member));
                facts.add("tokens_revoked", cut_off_tokens);
            }
            Change::PutRole { record, display } => {
                facts.add("home", &record.home);
                facts.add("actions", joined(record.actions.iter()));
                facts.display(display);
            }
            Change::PutGrant(record) => {
                facts.add("grant_id", grant_text(record.id));
                facts.add("principal", name(record.principal));
                facts.add("role", &record.role);
                facts.add("resource", &record.resource);
            }
            Change::DeleteGrant(id) => facts.add("grant_id", grant_text(*id)),
            Change::Forget { before_ms, slice } => {
                facts.add("ended_before", instant(*before_ms));
                facts.add("slice", slice);
            }
            Change::RaiseFormat(level) => facts.add("level", level),
            // What it has issued outlives it, and its name may be given again.
            Change::DeletePrincipal(id) => facts.add("principal_id", id),
            Change::Login { .. }
            | Change::RevokeSession { .. }
            | Change::PutMethod(_)
            | Change::DeleteMethod { .. }
            | Change::Lock { .. }
            | Change::Unlock { .. }
            | Change::PutSealKeys(_) => facts.login(change, &name),
            // The target of the entry says it all.
            Change::DeleteRole(_) => {}
        }
        facts
    }

    fn add(&mut self, fact: &str, text: impl ToString) {
        let mut text = text.to_string();
        if text.len() > FACT_BYTES_MAX {
            text.truncate(text.floor_char_boundary(FACT_BYTES_MAX));
            text.push('…');
        }
        self.0.insert(fact.to_owned(), text);
    }

    fn add_some(&mut self, fact: &str, text: Option<impl ToString>) {
        if let Some(text) = text {
            self.add(fact, text);
        }
    }

    fn token(
        &mut self,
        record: &TokenRecord,
        display: &Display,
        name: &dyn Fn(PrincipalId) -> String,
    ) {
        self.add("kind", record.kind);
        match &record.subject {
            Subject::Principal(id) => self.add("subject", name(*id)),
            Subject::Resource(resource) => self.add("resource", resource),
        }
        self.add("scopes", &record.scopes);
        let ceiling = record.ceiling.as_ref();
        self.add_some("ceiling", ceiling.map(|set| joined(set.iter())));
        self.add_some("parent_token_id", record.parent);
        self.add_some("not_before", record.not_before_ms.map(instant));
        self.add_some("expires_at", record.expires_ms.map(instant));
        self.add_some("max_expires_at", record.expires_max_ms.map(instant));
        self.add_some(
            "period",
            record.period_s.map(|seconds| format!("{seconds} s")),
        );
        self.add_some("uses_left", record.uses.map(|uses| uses.left));
        if !record.networks.is_empty() {
            self.add("networks", joined(record.networks.iter()));
        }
        self.add_some(
            "audience",
            record.audience.as_ref().map(|limit| limit.as_str()),
        );
        self.add_some("workload", record.workload.as_ref());
        if record.rotation > 0 {
            self.add("rotation", record.rotation);
        }
        self.add_some(
            "grace_until",
            record.grace.map(|grace| instant(grace.until_ms)),
        );
        self.display(display);
    }

    fn login(&mut self, change: &Change, name: &dyn Fn(PrincipalId) -> String) {
        match change {
            Change::Login { spent, token } => {
                if let Some((id, left)) = spent {
                    self.add("credential_id", id);
                    self.add("credential_uses_left", left);
                }
                if let Some(new) = token {
                    self.token(&new.record, &new.display, name);
                }
            }
            Change::RevokeSession {
                account,
                until_ms,
                compromised,
                ..
            } => {
                self.add_some("account", account.map(name));
                self.add("kept_until", instant(*until_ms));
                self.add("compromised", compromised);
            }
            Change::PutMethod(record) => self.method(record),
            Change::DeleteMethod { method, .. } => self.add("method", method),
            Change::Lock {
                network, until_ms, ..
            } => {
                self.add("network", network);
                self.add("until", instant(*until_ms));
            }
            Change::Unlock { networks, .. } => self.add("networks", joined(networks.iter())),
            Change::PutSealKeys(keys) => {
                for key in keys {
                    self.add(&format!("key {}", key.id), key.phase.name());
                }
            }
            _ => {}
        }
    }

    fn method(&mut self, record: &MethodRecord) {
        let settings = &record.settings;
        let seconds = |seconds: u32| format!("{seconds} s");
        self.add("method", record.method);
        self.add("ttl", seconds(settings.ttl_s));
        self.add_some("max_ttl", settings.max_ttl_s.map(seconds));
        self.add_some("period", settings.period_s.map(seconds));
        self.add_some("uses", settings.uses);
        for (fact, networks) in [
            ("networks", &settings.networks),
            ("login_networks", &settings.login_networks),
        ] {
            if !networks.is_empty() {
                self.add(fact, joined(networks.iter()));
            }
        }
        self.add_some(
            "lockout",
            settings.lockout.map(|lockout| {
                let (threshold, duration) = (lockout.threshold, lockout.duration_s);
                format!("{threshold} failures, {duration} s")
            }),
        );
    }

    fn cut_off(&mut self, target: &CutOffTarget, name: &dyn Fn(PrincipalId) -> String) {
        match target {
            CutOffTarget::Subject(id) => self.add("subject", name(*id)),
            CutOffTarget::IssuedByPrincipal(id) => self.add("issued_by_principal", name(*id)),
            CutOffTarget::IssuedByToken(id) => self.add("issued_by_token", id),
            CutOffTarget::IssuedForTeam(team, member) => {
                self.add("issued_for_team", name(*team));
                self.add("issued_by_principal", name(*member));
            }
            CutOffTarget::ResourceUnder(resource) => self.add("resource_under", resource),
            CutOffTarget::Sessions(id) => self.add("sessions_of", name(*id)),
        }
    }

    fn display(&mut self, display: &Display) {
        self.add_some("name", display.name.as_ref());
        self.add_some("description", display.description.as_ref());
        let pair = |(key, value): (&String, &String)| format!("{key}={value}");
        self.add_some(
            "labels",
            display
                .labels
                .as_ref()
                .map(|all| joined(all.iter().map(pair))),
        );
    }
}

fn joined(texts: impl Iterator<Item = impl ToString>) -> String {
    let texts: Vec<String> = texts.map(|text| text.to_string()).collect();
    texts.join(", ")
}

fn instant(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok();
    let at = at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| format!("{unix_ms} ms"), |at| at.to_string())
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
