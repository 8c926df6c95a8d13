//! Issuing: who may make which token, with what power, for how long.
//!
//! ```text
//! derive   ─► child of the calling token: bounded by every ancestor
//! user     ─► the user itself, or who holds tokens:issue on it (with a ceiling)
//! team     ─► a current member (a team token is not a member)
//! service  ─► who may manage it and holds what it holds (with a ceiling)
//! resource ─► who holds tokens:issue there and every scope
//! ```
//!
//! Listed scopes must be held, so they need no ceiling: the token can never do more than its
//! issuer could. A token without scopes gets what its issuer held as its ceiling. The same rule
//! judges an update that widens and a rotation by somebody else, who gets the new secret.

use crate::domain::change::{Change, Display, Issuer, Subject, TokenRecord};
use crate::domain::clock::UnixMs;
use crate::domain::entry::EntryKind;
use crate::domain::limits::Uses;
use crate::domain::permission::{Permission, Resource, ResourcePattern};
use crate::domain::principal::{PrincipalKind, PrincipalName};
use crate::domain::refusal::Refusal;
use crate::domain::scopes::{PermissionSet, ScopeEntry, Scopes, SetTooLarge};
use crate::domain::token::{Digest, TokenId, TokenKind};

use super::super::directory::Principal;
use super::super::lineage::ANCESTORS_MAX;
use super::roles::written_out;
use super::{About, Judged, LimitsAsked, Outcome, ScopesAsked, read_action};

/// A token that is asked for; id and digest were made outside, where randomness is.
#[derive(Clone, Debug)]
pub struct IssueToken {
    /// The public name of the new token.
    pub id: TokenId,
    /// The digest of the new secret.
    pub digest: Digest,
    /// The kind; a derived token has its parent's.
    pub kind: TokenKind,
    /// The principal it shall speak for; none is the caller.
    pub subject: Option<PrincipalName>,
    /// The resource it shall speak for.
    pub resource: Option<Resource>,
    /// What it shall be narrowed to.
    pub scopes: ScopesAsked,
    /// How long it shall live, in seconds.
    pub ttl_s: Option<u32>,
    /// Not valid before.
    pub not_before_ms: Option<UnixMs>,
    /// How far renewals may go, in seconds from now.
    pub max_lifetime_s: Option<u32>,
    /// Renewable for ever by this many seconds.
    pub period_s: Option<u32>,
    /// The budget of uses.
    pub uses: Option<u32>,
    /// Networks, audience, workload.
    pub limits: LimitsAsked,
    /// Whether it shall be a child of the calling token.
    pub derive: bool,
    /// What the tables keep beside it.
    pub display: Display,
}

/// When a token ends, and how far it can be renewed.
struct Life {
    expires_ms: Option<UnixMs>,
    expires_max_ms: Option<UnixMs>,
    ttl_s: Option<u32>,
}

/// By what right a token is issued.
enum Right<'s> {
    /// `tokens:issue` on the resource that it speaks for.
    OnResource,
    /// It comes with being the principal, or a member of the team.
    Own(&'s Principal),
    /// `tokens:issue` at the principal's home.
    Managed(&'s Principal),
}

impl<'s> Judged<'s> {
    pub(super) fn issue_token(&self, issue: &IssueToken) -> Result<(Outcome, About), Refusal> {
        // Rights first: a caller without any learns nothing from how the rest is refused.
        let (subject, scopes, ceiling) = if issue.derive {
            let subject = self.derived_subject(issue)?;
            let scopes = self.written_out(&issue.scopes)?;
            self.require_within_ancestors(issue, &scopes)?;
            (subject, scopes, None)
        } else {
            let subject = self.subject(issue)?;
            let right = self.right_to_issue(issue.kind, &subject)?;
            let scopes = self.written_out(&issue.scopes)?;
            let ceiling = self.hand_over(&right, &scopes)?;
            (subject, scopes, ceiling)
        };
        let life = self.life(issue)?;
        if self.state.tokens.knows_key(issue.digest.key()) || self.state.token(issue.id).is_some() {
            return Err(Refusal::AlreadyExists("token"));
        }
        let record = TokenRecord {
            id: issue.id,
            key: issue.digest.key(),
            kind: issue.kind,
            subject,
            scopes,
            ceiling,
            issuers: self.issuer(0).into_iter().collect(),
            parent: issue.derive.then_some(self.actor.token).flatten(),
            made_at: self.moment.revision,
            not_before_ms: issue.not_before_ms,
            expires_ms: life.expires_ms,
            expires_max_ms: life.expires_max_ms,
            ttl_s: life.ttl_s,
            period_s: issue.period_s,
            uses: issue.uses.map(|limit| Uses { limit, left: limit }),
            networks: issue.limits.networks.clone(),
            audience: issue.limits.audience.clone(),
            workload: issue.limits.workload.clone(),
            rotation: 0,
            grace: None,
            revoked: None,
            public_key: None,
        };
        let change = Change::PutToken {
            record: Box::new(record),
            digest: Some(issue.digest),
            display: issue.display.clone(),
        };
        let kind = EntryKind::TokenIssue;
        Ok(Self::change(kind, issue.id, change, About::Token(issue.id)))
    }

    /// Who answers for what the caller makes; none for local access.
    pub(super) fn issuer(&self, since: u64) -> Option<Issuer> {
        let lineage = self.bearer()?;
        Some(Issuer {
            principal: lineage.principal(),
            tokens: lineage.names().collect(),
            since,
        })
    }

    /// Scopes with the actions of roles written out, as they are on this State.
    pub(super) fn written_out(&self, asked: &ScopesAsked) -> Result<Scopes, Refusal> {
        let ScopesAsked::Only(entries) = asked else {
            return Ok(Scopes::All);
        };
        let mut permissions = Vec::new();
        for entry in entries {
            match entry {
                ScopeEntry::Permissions(listed) => permissions.extend(listed.iter().cloned()),
                ScopeEntry::Role(name, resource) => {
                    let role = self.role_seen(name, resource).ok_or_else(|| {
                        let what = format!(
                            "there is no role {name} that the caller may read or holds there"
                        );
                        Refusal::invalid("scopes", what)
                    })?;
                    permissions.extend(written_out(role, resource));
                }
            }
        }
        Ok(Scopes::Only(
            PermissionSet::new(permissions).map_err(too_large)?,
        ))
    }

    fn subject(&self, issue: &IssueToken) -> Result<Subject, Refusal> {
        let wanted = match issue.kind {
            TokenKind::Resource => {
                if issue.subject.is_some() {
                    return Err(Refusal::invalid(
                        "subject",
                        "a resource token speaks for a resource",
                    ));
                }
                let resource = issue.resource.clone();
                return resource.map(Subject::Resource).ok_or_else(|| {
                    Refusal::invalid("resource", "is required for a resource token")
                });
            }
            TokenKind::User => PrincipalKind::User,
            TokenKind::Team => PrincipalKind::Team,
            TokenKind::Service => PrincipalKind::Service,
            TokenKind::Access | TokenKind::ClientSecret | TokenKind::PublicKey => {
                let what = format!("a token of the kind {} is not issued so", issue.kind);
                return Err(Refusal::invalid("kind", what));
            }
        };
        if issue.resource.is_some() {
            return Err(Refusal::invalid(
                "resource",
                "only a resource token has one",
            ));
        }
        let principal = match &issue.subject {
            Some(name) => self.state.directory.named(name),
            None => self
                .principal_id()
                .and_then(|id| self.state.directory.principal(id)),
        };
        let agrees = |one: &Principal| one.record.name.kind() == wanted;
        match (principal, &issue.subject) {
            (Some(principal), _) if agrees(principal) => {
                Ok(Subject::Principal(principal.record.id))
            }
            (_, None) => Err(Refusal::invalid(
                "subject",
                "is required for this kind of token",
            )),
            (_, Some(name)) if name.kind() != wanted => {
                let what = format!("a {} token speaks for a {}", issue.kind, wanted.name());
                Err(Refusal::invalid("subject", what))
            }
            // Whether a team exists is no business of those who are not in it.
            _ if wanted == PrincipalKind::Team && !self.sees_all(wanted) => {
                Err(Refusal::NotAMember)
            }
            _ => Err(Refusal::NotFound(wanted.name())),
        }
    }

    fn sees_all(&self, kind: PrincipalKind) -> bool {
        let everywhere = ResourcePattern::everything();
        self.power
            .holds(&Permission::known(read_action(kind), everywhere))
    }

    /// Judges whether the caller may make (or widen, or get the secret of) a token with this
    /// subject and these scopes; returns the ceiling that it then has.
    pub(super) fn issue_rule(
        &self,
        kind: TokenKind,
        subject: &Subject,
        scopes: &Scopes,
    ) -> Result<Option<PermissionSet>, Refusal> {
        let right = self.right_to_issue(kind, subject)?;
        match &right {
            Right::Managed(account) if kind.is_credential() => {
                self.hand_over_account(account, scopes)
            }
            _ => self.hand_over(&right, scopes),
        }
    }

    /// By what right the caller may issue tokens of this kind for this subject.
    fn right_to_issue(&self, kind: TokenKind, subject: &Subject) -> Result<Right<'s>, Refusal> {
        let principal = match subject {
            Subject::Resource(resource) => {
                self.require("tokens:issue", resource)?;
                return Ok(Right::OnResource);
            }
            Subject::Principal(id) => self
                .state
                .directory
                .principal(*id)
                .ok_or(Refusal::NotFound("subject"))?,
        };
        let team = kind == TokenKind::Team && self.bearer().is_some();
        if team {
            self.require_membership(principal)?;
        }
        let own = kind == TokenKind::User && self.principal_id() == Some(principal.record.id);
        if team || own {
            self.require_in_scopes("tokens:issue", &principal.record.home)?;
            return Ok(Right::Own(principal));
        }
        self.require_seen("tokens:issue", principal)?;
        Ok(Right::Managed(principal))
    }

    /// Judges what a token with these scopes hands on, and returns the ceiling that it gets.
    fn hand_over(
        &self,
        right: &Right<'_>,
        scopes: &Scopes,
    ) -> Result<Option<PermissionSet>, Refusal> {
        let (principal, ceiling) = match (right, scopes) {
            (Right::OnResource, Scopes::All) => {
                return Err(Refusal::invalid(
                    "scopes",
                    "a resource token lists its scopes",
                ));
            }
            (Right::OnResource, Scopes::Only(set)) => {
                return self.hands_on(set.iter().cloned()).map(|()| None);
            }
            (Right::Own(principal), _) => (principal, self.hand_over_own(scopes)?),
            (Right::Managed(principal), Scopes::Only(set)) => {
                self.hands_on(set.iter().cloned())?;
                (principal, None)
            }
            (Right::Managed(principal), Scopes::All) => {
                if principal.record.name.kind() == PrincipalKind::Service {
                    self.hands_on(self.state.live_permissions(principal))?;
                }
                (principal, self.power.ceiling().map_err(too_large)?)
            }
        };
        if principal.record.disabled {
            return Err(Refusal::Precondition("the subject is disabled".to_owned()));
        }
        Ok(ceiling)
    }

    // A team token is not a member, and neither is a resource token.
    fn require_membership(&self, team: &Principal) -> Result<(), Refusal> {
        let member = self
            .principal_id()
            .is_some_and(|id| team.members.contains(&id));
        if member {
            Ok(())
        } else {
            Err(Refusal::NotAMember)
        }
    }

    /// For what comes with being someone: the live power is the same, only the cuts bound it.
    fn hand_over_own(&self, scopes: &Scopes) -> Result<Option<PermissionSet>, Refusal> {
        match scopes {
            Scopes::Only(set) => self.require_cut_covers(set).map(|()| None),
            Scopes::All => Ok(match self.power.cut().map_err(too_large)? {
                Scopes::All => None,
                Scopes::Only(set) => Some(set),
            }),
        }
    }

    fn require_cut_covers(&self, set: &PermissionSet) -> Result<(), Refusal> {
        let beyond = |one: &&Permission| !self.power.cut_covers(one);
        let missing: Vec<_> = set.iter().filter(beyond).cloned().collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Boundary(missing))
        }
    }

    /// A right that comes with being someone must be in the scopes of a narrowed token.
    pub(super) fn require_in_scopes(&self, action: &str, at: &Resource) -> Result<(), Refusal> {
        let permission = Permission::known(action, ResourcePattern::exactly(at));
        if self.power.cut_covers(&permission) {
            Ok(())
        } else {
            Err(Refusal::NotPermitted(vec![permission]))
        }
    }

    /// Requires `action` at a principal's home; who may not even read it finds nothing.
    pub(super) fn require_seen(&self, action: &str, principal: &Principal) -> Result<(), Refusal> {
        let home = &principal.record.home;
        let kind = principal.record.name.kind();
        match self.require(action, home) {
            Err(_) if !self.may(read_action(kind), home) => Err(Refusal::NotFound(kind.name())),
            judged => judged,
        }
    }

    fn derived_subject(&self, issue: &IssueToken) -> Result<Subject, Refusal> {
        let Some(lineage) = self.bearer() else {
            return Err(Refusal::invalid("derive", "needs a calling token"));
        };
        let Some(parent) = lineage.stored().map(|link| link.hot) else {
            let what = "an access token that is sealed is exchanged, not derived from";
            return Err(Refusal::Precondition(what.to_owned()));
        };
        if issue.subject.is_some() || issue.resource.is_some() || issue.kind != parent.kind() {
            let what = "a derived token has the subject and kind of the calling token";
            return Err(Refusal::invalid("derive", what));
        }
        let record = self.state.tokens.record(parent);
        self.require_in_scopes("tokens:issue", &self.home_of(&record))?;
        Ok(record.subject)
    }

    fn require_within_ancestors(&self, issue: &IssueToken, scopes: &Scopes) -> Result<(), Refusal> {
        let Some(lineage) = self.bearer() else {
            return Ok(());
        };
        match scopes {
            Scopes::Only(set) => self.require_cut_covers(set)?,
            Scopes::All if lineage.kind() == TokenKind::Resource => {
                return Err(Refusal::invalid(
                    "scopes",
                    "a resource token lists its scopes",
                ));
            }
            Scopes::All => {}
        }
        if lineage.ancestors() >= ANCESTORS_MAX {
            return Err(Refusal::Limit(format!(
                "a token has at most {ANCESTORS_MAX} ancestors"
            )));
        }
        let limits = &issue.limits;
        // From where a credential may log in bounds no token.
        let mut bounds = lineage.limits(self.state).map(|above| &above.networks);
        if !limits.networks.is_empty() && !bounds.all(|above| above.covers(&limits.networks)) {
            return Err(Refusal::invalid("networks", "are wider than an ancestor's"));
        }
        let tokens = &self.state.tokens;
        for ancestor in lineage.iter().filter_map(|link| tokens.limits(link.hot)) {
            if ancestor.audience.is_some()
                && limits.audience.is_some()
                && ancestor.audience != limits.audience
            {
                return Err(Refusal::invalid("audience", "is not an ancestor's"));
            }
            if ancestor.workload.is_some()
                && limits.workload.is_some()
                && ancestor.workload != limits.workload
            {
                return Err(Refusal::invalid("workload", "is not an ancestor's"));
            }
        }
        Ok(())
    }

    fn life(&self, issue: &IssueToken) -> Result<Life, Refusal> {
        let now = self.moment.now.latest;
        let longest = self.moment.lifetimes.of(issue.kind);
        for (field, asked) in [
            ("ttl", issue.ttl_s),
            ("max_lifetime", issue.max_lifetime_s),
            ("period", issue.period_s),
        ] {
            if asked == Some(0) {
                return Err(Refusal::invalid(field, "is at least one second"));
            }
            if let (Some(asked), Some(longest)) = (asked, longest)
                && asked > longest
            {
                let what = format!("a {} token lives at most {longest} s here", issue.kind);
                return Err(Refusal::invalid(field, what));
            }
        }
        if issue.uses == Some(0) {
            return Err(Refusal::invalid("uses", "is at least 1"));
        }
        if issue.period_s.is_some() && longest.is_some() {
            let what = "tokens of this kind have a longest life here";
            return Err(Refusal::invalid("period", what));
        }
        if issue.period_s.is_some() && issue.max_lifetime_s.is_some() {
            return Err(Refusal::invalid("period", "has no max_lifetime beside it"));
        }
        if let (Some(ttl), Some(max)) = (issue.ttl_s, issue.max_lifetime_s)
            && max < ttl
        {
            return Err(Refusal::invalid("max_lifetime", "is less than the ttl"));
        }
        let renewable = issue.period_s.or(issue.max_lifetime_s).is_some();
        let ttl_s = issue
            .period_s
            .or(issue.ttl_s)
            .or(issue.max_lifetime_s)
            .or(longest);
        let after = |seconds: u32| now + u64::from(seconds) * 1_000;
        let expires_max_ms = issue.max_lifetime_s.map(after);
        let mut expires_ms = ttl_s
            .map(after)
            .map(|at| expires_max_ms.map_or(at, |max| at.min(max)));
        if issue.derive
            && let Some(lineage) = self.bearer()
        {
            // Bounded by every ancestor, at issue as at every check.
            let ends_ms = lineage.ends_ms(self.state);
            expires_ms = ends_ms.into_iter().chain(expires_ms).min();
        }
        if let (Some(begins), Some(ends)) = (issue.not_before_ms, expires_ms)
            && begins >= ends
        {
            return Err(Refusal::invalid("not_before", "is not before the expiry"));
        }
        Ok(Life {
            expires_ms,
            expires_max_ms,
            ttl_s: ttl_s.filter(|_| renewable),
        })
    }
}

pub(super) fn too_large(error: SetTooLarge) -> Refusal {
    Refusal::Limit(error.to_string())
}
