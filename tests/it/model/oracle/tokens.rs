//! The oracle's commands about tokens: issue, rotate, use. How they end is in `oracle::ends`.
//!
//! Written from the table of kinds and the paragraphs *Derived and issued*, *Life* and *Uses* of
//! DESIGN.md. Where it names no order of refusals, the API's documentation does.

use latchkey::domain::principal::PrincipalKind;
use latchkey::domain::reason::Reason;
use latchkey::domain::scopes::ScopeEntry;
use latchkey::domain::token::{Digest, TokenId, TokenKind};
use latchkey::state::decide::{Command, IssueToken, ScopesAsked, UseToken};

use super::super::algebra::{Perm, canonical};
use super::verbs::{Effect, Me, No, Outcome, Reply, actions_on, change};
use super::{Asked, Issuer, Oracle, Subject, Token, addresses_in};

const ANCESTORS_MAX: usize = 8;
const ISSUERS_MAX: usize = 4;

impl Oracle {
    pub(crate) fn use_token(
        &self,
        using: &UseToken,
        now: u64,
    ) -> Result<Option<(&'static str, Effect)>, Reply> {
        let kinds = TokenKind::ALL
            .into_iter()
            .filter(|kind| using.kinds.contains(*kind));
        let asked = Asked {
            key: using.key,
            needs: using.needs.clone(),
            address: using.client_ip,
            audience: using.audience.clone(),
            workload: using.workload.clone(),
            kinds: kinds.collect(),
        };
        let reason = self.check(&asked, now);
        if reason != Reason::Allowed {
            return Err(Reply::Denied(reason));
        }
        let (token, _) = self
            .by_key(using.key)
            .ok_or(Reply::Denied(Reason::Unknown))?;
        if token.uses_left.is_none() {
            return Ok(None);
        }
        let id = token.id;
        let effect: Effect = Box::new(move |oracle, _, _| {
            if let Some(left) = oracle
                .token_mut(id)
                .and_then(|token| token.uses_left.as_mut())
            {
                *left -= 1;
            }
        });
        Ok(Some(("token.use", effect)))
    }
}

/// Expiry, bound of renewals, and the seconds that a renewal asks for.
type Life = (Option<u64>, Option<u64>, Option<u32>);

pub(super) fn put(kind: &'static str, token: Token) -> Outcome {
    change(kind, move |oracle, _, _| {
        oracle.tokens.retain(|one| one.id != token.id);
        oracle.tokens.push(token);
    })
}

impl<'o> Me<'o> {
    pub(crate) fn token_verb(&self, command: &Command, no_reason: bool) -> Outcome {
        match command {
            Command::IssueToken(issue) => self.issue(issue),
            Command::UpdateToken(update) => self.update(update, no_reason),
            Command::RenewToken { id, ttl_s } => self.renew(*id, *ttl_s),
            Command::RotateToken {
                id,
                digest,
                grace_s,
                expected,
                ..
            } => self.rotate(*id, digest, *grace_s, *expected),
            Command::RevokeToken {
                target,
                compromised,
            } => self.revoke(target, *compromised, no_reason),
            Command::RevokeAll(request) => self.revoke_all(request),
            Command::Forget { before_ms, slice } => self.forget(*before_ms, *slice),
            other => self.login_verb(other),
        }
    }

    pub(super) fn home(&self, token: &Token) -> String {
        match &token.subject {
            Subject::Resource(resource) => resource.clone(),
            Subject::Principal(id) => {
                let subject = self.oracle.principal(*id);
                subject.map_or_else(|| "latchkey".to_owned(), |one| one.home.clone())
            }
        }
    }

    /// Its own as a user, or of a team that the caller is in.
    pub(super) fn is_own(&self, token: &Token) -> bool {
        match (&token.subject, self.principal(), token.kind) {
            (Subject::Principal(id), Some(me), TokenKind::User) => *id == me,
            (Subject::Principal(id), Some(me), TokenKind::Team) => self.oracle.is_member(*id, me),
            _ => false,
        }
    }

    pub(super) fn is_me(&self, token: &Token) -> bool {
        self.token.is_some_and(|me| me.id == token.id)
    }

    pub(super) fn known(&self, id: Option<TokenId>) -> Result<Token, No> {
        let id = id.or(self.token.map(|me| me.id)).ok_or(No::Invalid)?;
        self.oracle.token(id).cloned().ok_or(No::NotFound)
    }

    pub(super) fn require_token(&self, action: &str, token: &Token) -> Result<(), No> {
        let home = self.home(token);
        let own = self.is_own(token);
        if own && self.require_in_cuts(action, &home).is_ok() {
            return Ok(());
        }
        let readable = own || self.may("tokens:read", &home);
        self.require(action, &home)
            .map_err(|no| if readable { no } else { No::NotFound })
    }

    pub(super) fn me_as_issuer(&self, since: u64) -> Option<Issuer> {
        let me = self.token?;
        let chain = self.oracle.lineage(me).unwrap_or_default();
        let rows = chain.iter().filter(|one| one.seal.is_none());
        let sessions = me.seal.iter().flat_map(|seal| seal.sessions.clone());
        Some(Issuer {
            principal: self.principal(),
            tokens: sessions.chain(rows.map(|one| one.id)).collect(),
            since,
        })
    }

    /// Whoever widens a token or gets its secret answers for it from now on.
    pub(super) fn answer_for(&self, token: &mut Token) -> Result<(), No> {
        let Some(issuer) = self.me_as_issuer(self.oracle.revision + 1) else {
            return Ok(());
        };
        let known = |one: &Issuer| one.principal == issuer.principal && one.tokens == issuer.tokens;
        if token.issuers.iter().any(known) {
            return Ok(());
        }
        if token.issuers.len() == ISSUERS_MAX {
            return Err(No::Limit);
        }
        token.issuers.push(issuer);
        Ok(())
    }

    /// One layer of scopes, roles written out; no layer for `All`.
    pub(super) fn written_out(&self, asked: &ScopesAsked) -> Result<Vec<Vec<Perm>>, No> {
        let ScopesAsked::Only(entries) = asked else {
            return Ok(Vec::new());
        };
        let mut listed = Vec::new();
        for entry in entries {
            match entry {
                ScopeEntry::Permissions(some) => listed.extend(some.iter().map(Perm::of)),
                ScopeEntry::Role(name, on) => {
                    let role = self.seen_role(name.as_str(), on.as_str());
                    listed.extend(role.ok_or(No::Invalid)?.on(on.as_str()));
                }
            }
        }
        Ok(vec![listed])
    }

    fn issue(&self, issue: &IssueToken) -> Outcome {
        let (subject, scopes, ceiling) = if issue.derive {
            let subject = self.derivable(issue)?;
            let scopes = self.written_out(&issue.scopes)?;
            self.bounded(issue, &scopes)?;
            (subject, scopes, Vec::new())
        } else {
            let subject = self.subject(issue)?;
            let own = self.may_issue(issue.kind, &subject)?;
            let scopes = self.written_out(&issue.scopes)?;
            let ceiling = self.hand_over(own, &subject, &scopes)?;
            (subject, scopes, ceiling)
        };
        let (expires, expires_max, ttl_s) = self.life(issue)?;
        if self.oracle.by_key(issue.digest.key()).is_some() || self.oracle.token(issue.id).is_some()
        {
            return Err(No::AlreadyExists);
        }
        let token = Token {
            id: issue.id,
            key: issue.digest.key(),
            grace: None,
            kind: issue.kind,
            subject,
            scopes,
            ceiling,
            issuers: self.me_as_issuer(0).into_iter().collect(),
            parent: self.token.filter(|_| issue.derive).map(|me| me.id),
            made_at: self.oracle.revision + 1,
            not_before: issue.not_before_ms,
            expires,
            expires_max,
            ttl_s,
            period_s: issue.period_s,
            uses_left: issue.uses,
            addresses: addresses_in(&issue.limits.networks),
            networks: issue.limits.networks.iter().collect(),
            audience: issue
                .limits
                .audience
                .as_ref()
                .map(|one| one.as_str().to_owned()),
            workload: issue
                .limits
                .workload
                .as_ref()
                .map(|one| one.as_str().to_owned()),
            rotation: 0,
            revoked: None,
            seal: None,
        };
        put("token.issue", token)
    }

    fn subject(&self, issue: &IssueToken) -> Result<Subject, No> {
        let word = match issue.kind {
            TokenKind::Resource => {
                let resource = issue.resource.as_ref().filter(|_| issue.subject.is_none());
                return resource
                    .map(|on| Subject::Resource(on.to_string()))
                    .ok_or(No::Invalid);
            }
            TokenKind::User => PrincipalKind::User,
            TokenKind::Team => PrincipalKind::Team,
            TokenKind::Service => PrincipalKind::Service,
            _ => return Err(No::Invalid),
        };
        if issue.resource.is_some() {
            return Err(No::Invalid);
        }
        let Some(name) = &issue.subject else {
            let me = self.principal().and_then(|id| self.oracle.principal(id));
            let fits = me.filter(|me| me.name.starts_with(&format!("{}:", word.name())));
            return fits.map(|me| Subject::Principal(me.id)).ok_or(No::Invalid);
        };
        if name.kind() != word {
            return Err(No::Invalid);
        }
        match self.oracle.named(&name.to_string()) {
            Some(one) => Ok(Subject::Principal(one.id)),
            None if word == PrincipalKind::Team && !self.may("teams:read", "**") => {
                Err(No::NotAMember)
            }
            None => Err(No::NotFound),
        }
    }

    /// Who may make a token, and the ceiling that it gets.
    pub(super) fn issue_rule(
        &self,
        kind: TokenKind,
        subject: &Subject,
        scopes: &[Vec<Perm>],
    ) -> Result<Vec<Vec<Perm>>, No> {
        let own = self.may_issue(kind, subject)?;
        // Whoever has a credential is taken for the account, also where scopes narrow it.
        let is_credential = matches!(kind, TokenKind::ClientSecret | TokenKind::PublicKey);
        if let (Subject::Principal(id), true) = (subject, is_credential) {
            self.hands_on(&self.oracle.live(*id))?;
        }
        self.hand_over(own, subject, scopes)
    }

    /// The right to issue at all; whether it comes with being someone.
    fn may_issue(&self, kind: TokenKind, subject: &Subject) -> Result<bool, No> {
        let id = match subject {
            Subject::Resource(resource) => {
                return self.require("tokens:issue", resource).map(|()| false);
            }
            Subject::Principal(id) => *id,
        };
        let one = self.oracle.principal(id).ok_or(No::NotFound)?;
        let me = self.principal();
        let team = kind == TokenKind::Team && self.token.is_some();
        if team && !me.is_some_and(|me| self.oracle.is_member(id, me)) {
            return Err(No::NotAMember);
        }
        let own = team || (kind == TokenKind::User && me == Some(id));
        if own {
            self.require_in_cuts("tokens:issue", &one.home)?;
        } else {
            self.require_seen("tokens:issue", &actions_on(&one.name).1, &one.home)?;
        }
        Ok(own)
    }

    /// What is handed on with it, and the ceiling that it gets.
    fn hand_over(
        &self,
        own: bool,
        subject: &Subject,
        scopes: &[Vec<Perm>],
    ) -> Result<Vec<Vec<Perm>>, No> {
        let Subject::Principal(id) = subject else {
            let scopes = scopes.first().ok_or(No::Invalid)?;
            return self.hands_on(scopes).map(|()| Vec::new());
        };
        let ceiling = match scopes.first() {
            Some(scopes) if own => self.within_my_cuts(scopes).map(|()| Vec::new())?,
            Some(scopes) => self.hands_on(scopes).map(|()| Vec::new())?,
            None if own => self
                .token
                .map(|me| self.oracle.cuts_of(me))
                .unwrap_or_default(),
            None => {
                let service = self.oracle.principal(*id);
                if service.is_some_and(|one| one.name.starts_with("service:")) {
                    self.hands_on(&self.oracle.live(*id))?;
                }
                // "An issuer who holds `*` on `**` sets no ceiling."
                match self.token {
                    Some(me) if !self.may("*", "**") => self.oracle.power(me),
                    _ => Vec::new(),
                }
            }
        };
        if self.oracle.principal(*id).is_some_and(|one| one.disabled) {
            return Err(No::Precondition);
        }
        Ok(ceiling)
    }

    fn within_my_cuts(&self, scopes: &[Perm]) -> Result<(), No> {
        let missing: Vec<Perm> = scopes
            .iter()
            .filter(|one| !self.cuts_cover(one))
            .cloned()
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(No::Boundary(canonical(&missing)))
        }
    }

    fn derivable(&self, issue: &IssueToken) -> Result<Subject, No> {
        let me = self.token.ok_or(No::Invalid)?;
        // What is sealed is exchanged.
        if me.seal.is_some() {
            return Err(No::Precondition);
        }
        if issue.subject.is_some() || issue.resource.is_some() || issue.kind != me.kind {
            return Err(No::Invalid);
        }
        self.require_in_cuts("tokens:issue", &self.home(me))?;
        Ok(me.subject.clone())
    }

    /// "Bounded by every ancestor."
    fn bounded(&self, issue: &IssueToken, scopes: &[Vec<Perm>]) -> Result<(), No> {
        let me = self.token.ok_or(No::Invalid)?;
        match scopes.first() {
            Some(scopes) => self.within_my_cuts(scopes)?,
            None if me.kind == TokenKind::Resource => return Err(No::Invalid),
            None => {}
        }
        let chain = self.oracle.lineage(me).unwrap_or_default();
        if chain.len() > ANCESTORS_MAX {
            return Err(No::Limit);
        }
        let asked = addresses_in(&issue.limits.networks);
        let audience = issue.limits.audience.as_ref().map(|one| one.as_str());
        let workload = issue.limits.workload.as_ref().map(|one| one.as_str());
        let other = |given: Option<&str>, limit: &Option<String>| {
            given.is_some() && limit.is_some() && given != limit.as_deref()
        };
        for one in chain {
            let wider = asked
                .iter()
                .zip(one.addresses)
                .any(|(asked, allowed)| *asked && !allowed);
            // From where a credential may log in is another matter.
            if (!issue.limits.networks.is_empty() && wider && !one.is_credential())
                || other(audience, &one.audience)
                || other(workload, &one.workload)
            {
                return Err(No::Invalid);
            }
        }
        Ok(())
    }

    /// How long it lives, bounded by the longest life of its kind and by every ancestor.
    fn life(&self, issue: &IssueToken) -> Result<Life, No> {
        let longest = self.oracle.longest_s[issue.kind as usize - 1];
        let asked = [issue.ttl_s, issue.max_lifetime_s, issue.period_s];
        for one in asked.into_iter().flatten() {
            if one == 0 {
                return Err(No::Invalid);
            }
            if longest.is_some_and(|longest| one > longest) {
                return Err(No::Invalid);
            }
        }
        if issue.uses == Some(0) {
            return Err(No::Invalid);
        }
        if issue.period_s.is_some() && longest.is_some() {
            return Err(No::Invalid);
        }
        let below = issue
            .ttl_s
            .zip(issue.max_lifetime_s)
            .is_some_and(|(ttl, max)| max < ttl);
        if below || (issue.period_s.is_some() && issue.max_lifetime_s.is_some()) {
            return Err(No::Invalid);
        }
        let seconds = issue
            .period_s
            .or(issue.ttl_s)
            .or(issue.max_lifetime_s)
            .or(longest);
        let at = |seconds: u32| self.now + u64::from(seconds) * 1_000;
        let max = issue.max_lifetime_s.map(at);
        let mut ends: Vec<u64> = seconds.map(at).into_iter().chain(max).collect();
        if let Some(me) = self.token.filter(|_| issue.derive) {
            ends.extend(self.oracle.ends(me));
        }
        let expires = ends.into_iter().min();
        if issue
            .not_before_ms
            .zip(expires)
            .is_some_and(|(begins, ends)| begins >= ends)
        {
            return Err(No::Invalid);
        }
        let renewable = issue.period_s.or(issue.max_lifetime_s).is_some();
        Ok((expires, max, seconds.filter(|_| renewable)))
    }

    fn rotate(
        &self,
        id: Option<TokenId>,
        digest: &Digest,
        grace_s: u32,
        expected: Option<u32>,
    ) -> Outcome {
        let mut token = self.known(id)?;
        let me = self.is_me(&token);
        if me {
            self.require_in_cuts("tokens:issue", &self.home(&token))?;
        } else {
            self.require_token("tokens:issue", &token)?;
        }
        if token.kind == TokenKind::PublicKey {
            return Err(No::Precondition);
        }
        self.alive(&token)?;
        self.has_its_method(&token)?;
        if expected.is_some_and(|expected| expected != token.rotation) {
            return Err(No::Conflict);
        }
        if self.oracle.by_key(digest.key()).is_some() {
            return Err(No::AlreadyExists);
        }
        if !me {
            // Who gets the new secret must be one who could have issued it.
            let ceiling = self.issue_rule(token.kind, &token.subject, &token.scopes)?;
            token.ceiling.extend(ceiling);
            self.answer_for(&mut token)?;
        }
        let until = self.now + u64::from(grace_s) * 1_000;
        let until = token.expires.map_or(until, |at| at.min(until));
        token.grace = (grace_s > 0).then_some((token.key, until));
        token.key = digest.key();
        token.rotation += 1;
        put("token.rotate", token)
    }
}
