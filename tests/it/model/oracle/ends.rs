//! The oracle's ends of tokens: revocations, cut-offs and what is forgotten.
//!
//! Written from *Cut-offs*, *Life* and *Sealed form* in DESIGN.md. A sealed token has no row that
//! could be marked: its session is noted instead.

use latchkey::domain::token::{TokenId, TokenKind};
use latchkey::state::decide::{CutOffRequest, RevokeTarget};

use super::verbs::{DAY_MS, Me, No, Outcome, actions_on, change};
use super::{Cut, Lock, Oracle, Subject, Token};

/// A day longer than a sealed token lives: how long the end of a session is kept.
const ENDED_MS: u64 = 31 * DAY_MS;
/// How far the clocks of two servers may part.
const SKEW_MS: u64 = 5 * 60 * 1_000;

impl Oracle {
    /// The sealed token with these claims, if it was made in this run.
    pub(crate) fn of_claims(&self, claims: &[u8]) -> Option<&Token> {
        let sealed = latchkey::domain::seal::claims::Sealed::read(claims)?;
        self.sealed(sealed.id)
    }

    /// Whether a revocation by this token means the token itself.
    pub(super) fn is_meant(&self, token: &Token, target: &RevokeTarget) -> bool {
        match target {
            RevokeTarget::Itself => true,
            RevokeTarget::Secret(digest) => token.seal.is_none() && digest.key() == token.key,
            RevokeTarget::Id(id) => *id == token.id,
            RevokeTarget::Sealed(claims) => {
                let meant = self.of_claims(claims);
                meant.is_some_and(|meant| meant.id == token.id)
            }
            RevokeTarget::Session(_) => false,
        }
    }
}

impl Me<'_> {
    pub(super) fn revoke(
        &self,
        target: &RevokeTarget,
        compromised: bool,
        no_reason: bool,
    ) -> Outcome {
        let token = match target {
            RevokeTarget::Itself => self.itself_or_known(None)?,
            RevokeTarget::Id(id) => self.itself_or_known(Some(*id))?,
            RevokeTarget::Secret(digest) => {
                let (token, grace) = self.oracle.by_key(digest.key()).ok_or(No::NotFound)?;
                if grace.is_some_and(|until| until <= self.now) {
                    return Err(No::NotFound);
                }
                token.clone()
            }
            RevokeTarget::Sealed(claims) => {
                let token = self.oracle.of_claims(claims).ok_or(No::NotFound)?;
                if no_reason && !self.is_me(token) {
                    return Err(No::Invalid);
                }
                return self.revoke_sealed(token, compromised);
            }
            RevokeTarget::Session(id) => {
                // Who may not know of a stored one is answered as for any id.
                let knows = |token: &&Token| {
                    self.is_me(token)
                        || self.require_token("tokens:revoke", token) != Err(No::NotFound)
                };
                match self.oracle.token(*id).filter(knows) {
                    Some(token) => token.clone(),
                    None => return self.revoke_session_by(*id, compromised, no_reason),
                }
            }
        };
        if token.seal.is_some() {
            return self.revoke_sealed(&token, compromised);
        }
        let me = self.is_me(&token);
        if !me && !matches!(target, RevokeTarget::Secret(_)) {
            self.require_token("tokens:revoke", &token)?;
        }
        if no_reason && !me {
            return Err(No::Invalid);
        }
        let id = token.id;
        // Compromised includes what it issued: all of it, whatever was cut off before.
        let issued_refused = self.oracle.cuts.iter().any(|(cut, revision)| {
            *cut == Cut::ByToken(id.session())
                && token.revoked.is_some_and(|(at, _)| *revision >= at)
        });
        if token.revoked.is_some() && (!compromised || issued_refused) {
            return Ok(None);
        }
        change("token.revoke", move |oracle, revision, now| {
            if let Some(token) = oracle.token_mut(id) {
                token.revoked.get_or_insert((revision, now));
            }
            if compromised {
                oracle.cuts.push((Cut::ByToken(id.session()), revision));
            }
        })
    }

    fn itself_or_known(&self, id: Option<TokenId>) -> Result<Token, No> {
        let me = self.token.filter(|me| me.seal.is_some());
        let me = me.filter(|me| id.is_none_or(|id| id == me.id));
        match me {
            Some(me) => Ok(me.clone()),
            None => self.known(id),
        }
    }

    /// A session as long as any token of it may live; another one until its own end.
    fn revoke_sealed(&self, token: &Token, compromised: bool) -> Outcome {
        if self.oracle.is_session(token) {
            return self.revoke_session(token.id, self.now + ENDED_MS, compromised);
        }
        let ends = token.expires.unwrap_or_default();
        if ends <= self.now && !compromised {
            return Ok(None);
        }
        self.revoke_session(token.id, ends.max(self.now) + SKEW_MS, compromised)
    }

    /// Of a session that is not shown nothing is known but its id.
    fn revoke_session_by(&self, id: TokenId, compromised: bool, no_reason: bool) -> Outcome {
        self.require("tokens:revoke", "**")?;
        if no_reason {
            return Err(No::Invalid);
        }
        if id.created_ms() > self.now + SKEW_MS {
            return Err(No::NotFound);
        }
        self.revoke_session(id, self.now + ENDED_MS, compromised)
    }

    fn revoke_session(&self, id: TokenId, until: u64, compromised: bool) -> Outcome {
        let session = id.session();
        let mut ended = self.oracle.ended_sessions.iter();
        let issued = Cut::ByToken(session);
        let cut_off = self.oracle.cuts.iter().any(|(cut, _)| *cut == issued);
        if ended.any(|(one, _)| *one == session) && (!compromised || cut_off) {
            return Ok(None);
        }
        change("session.revoke", move |oracle, revision, _| {
            oracle.ended_sessions.retain(|(one, _)| *one != session);
            oracle.ended_sessions.push((session, until));
            if compromised {
                oracle.cuts.push((issued, revision));
            }
        })
    }

    pub(super) fn revoke_all(&self, request: &CutOffRequest) -> Outcome {
        let cut = match request {
            CutOffRequest::Subject(name) => {
                Cut::Subject(self.cut_off_principal(&name.to_string(), false)?)
            }
            CutOffRequest::IssuedByPrincipal(name) => {
                Cut::ByPrincipal(self.cut_off_principal(&name.to_string(), true)?)
            }
            CutOffRequest::IssuedByNumber(id) => {
                self.require("tokens:revoke", "**")?;
                let was = (1..=self.oracle.principal_last).contains(&id.0);
                Cut::ByPrincipal(was.then_some(id.0).ok_or(No::NotFound)?)
            }
            CutOffRequest::IssuedByToken(id) => {
                self.cut_off_issuer(*id)?;
                Cut::ByToken(id.session())
            }
            CutOffRequest::IssuedByCredential(id) => {
                self.cut_off_issuer(*id)?;
                let credential = self.oracle.token(*id).filter(|one| one.is_credential());
                Cut::ByToken(credential.ok_or(No::NotFound)?.id.session())
            }
            CutOffRequest::Sessions(name) => {
                let account = self.cut_off_principal(&name.to_string(), false)?;
                return change("session.revoke_all", move |oracle, revision, _| {
                    oracle.cuts.push((Cut::Sessions(account), revision));
                });
            }
            CutOffRequest::ResourceUnder(path) => {
                self.require("tokens:revoke", &format!("{path}/**"))?;
                Cut::Under(path.to_string())
            }
        };
        change("token.revoke_all", |oracle, revision, _| {
            oracle.cuts.push((cut, revision))
        })
    }

    /// What it issued may lie anywhere, and outlives its being forgotten. Who may revoke a
    /// credential may end what it gave.
    fn cut_off_issuer(&self, id: TokenId) -> Result<(), No> {
        let may = self.oracle.token(id).is_some_and(|token| {
            let home = self.home(token);
            let mine = self.is_me(token) || self.is_own(token);
            mine && self.require_in_cuts("tokens:revoke", &home).is_ok()
                || token.is_credential() && self.require_token("tokens:revoke", token).is_ok()
        });
        if may {
            return Ok(());
        }
        self.require("tokens:revoke", "**")
    }

    fn cut_off_principal(&self, name: &str, issued: bool) -> Result<u32, No> {
        let one = self.oracle.named(name).ok_or(No::NotFound)?;
        // A user for itself: accounts and teams do not manage themselves.
        let itself = self.principal() == Some(one.id) && name.starts_with("user:");
        if itself && self.require_in_cuts("tokens:revoke", &one.home).is_ok() {
            return Ok(one.id);
        }
        let on = if issued { "**" } else { &one.home };
        let readable = self.may(&actions_on(name).1, &one.home);
        let judged = self.require("tokens:revoke", on);
        judged
            .map(|()| one.id)
            .map_err(|no| if readable { no } else { No::NotFound })
    }

    /// Expired or revoked before the instant, or of a subject that is gone, in one slice; and
    /// sessions and locks that ended. A public key that was revoked stays: it never comes back.
    pub(super) fn forget(&self, before: u64, slice: u8) -> Outcome {
        self.require_server()?;
        // Nothing that has yet to end.
        let before = before.min(self.now);
        let ended = |token: &&Token| {
            let gone = match token.subject {
                Subject::Principal(id) => self.oracle.principal(id).is_none(),
                Subject::Resource(_) => false,
            };
            let stays = token.kind == TokenKind::PublicKey && token.revoked.is_some();
            (token.key >> 120) as u8 == slice
                && !stays
                && (gone
                    || token.expires.is_some_and(|at| at < before)
                    || token.revoked.is_some_and(|(_, at)| at < before))
        };
        let ids: Vec<TokenId> = self
            .oracle
            .tokens
            .iter()
            .filter(ended)
            .map(|one| one.id)
            .collect();
        let now = self.now;
        let stale = move |instant: u64| instant + DAY_MS < now;
        let over = move |until: u64| until < before;
        let locks = self.oracle.locks.iter().any(|lock| over(lock.until));
        let mut sessions = self.oracle.ended_sessions.iter();
        let logins = locks || sessions.any(|(_, until)| over(*until));
        let requests = self.oracle.requests.iter().any(|one| stale(one.instant));
        if ids.is_empty() && !requests && !logins {
            return Ok(None);
        }
        change("forget", move |oracle, _, _| {
            oracle.tokens.retain(|one| !ids.contains(&one.id));
            oracle.requests.retain(|one| !stale(one.instant));
            oracle.locks.retain(|lock: &Lock| !over(lock.until));
            oracle.ended_sessions.retain(|(_, until)| !over(*until));
        })
    }
}
