//! The end of tokens: one by one, or everything that was made until now.
//!
//! A bearer may always revoke itself; revoking twice is not an error. A cut-off is a revision:
//! what was made below it is refused, what is made after it works at once, so neither clocks
//! nor enumeration come into it.

use std::sync::Arc;

use crate::domain::change::{Change, CutOffTarget};
use crate::domain::entry::EntryKind;
use crate::domain::permission::ResourcePattern;
use crate::domain::principal::{PrincipalId, PrincipalKind, PrincipalName};
use crate::domain::refusal::Refusal;
use crate::domain::seal::REVOKED_KEPT_MS;
use crate::domain::seal::claims::Sealed;
use crate::domain::token::{Digest, TokenId};

use super::{About, CutOffRequest, Judged, Outcome, no_reason, read_action};

/// Which token to revoke.
#[derive(Clone, Debug)]
pub enum RevokeTarget {
    /// The calling one.
    Itself,
    /// The one with this id.
    Id(TokenId),
    /// The one whose secret has this digest; presenting it is permission enough.
    Secret(Digest),
    /// The sealed one with these claims, whose seal was found whole; the same.
    Sealed(Arc<[u8]>),
    /// The sealed one with this id, or any of its session: nothing else is known of it.
    Session(TokenId),
}

impl Judged<'_> {
    pub(super) fn revoke_token(
        &self,
        target: &RevokeTarget,
        compromised: bool,
        reason: &str,
    ) -> Result<(Outcome, About), Refusal> {
        let own = self.bearer().and_then(|own| own.sealed.as_ref());
        let own = own.map(|own| own.id);
        let id = match target {
            RevokeTarget::Itself => own,
            RevokeTarget::Id(id) => Some(*id),
            RevokeTarget::Secret(digest) => Some(self.presented(digest)?),
            RevokeTarget::Sealed(claims) => {
                let sealed = Sealed::read(claims).ok_or(Refusal::NotFound("token"))?;
                if reason.is_empty() && own != Some(sealed.id) {
                    return Err(no_reason());
                }
                return self.revoke_sealed(sealed, compromised);
            }
            // A record of logins tells both kinds of access tokens by their ids.
            RevokeTarget::Session(id) if self.finds(*id) => Some(*id),
            // Whether it is stored shall not be told to who may not know of it.
            RevokeTarget::Session(id) => {
                self.require_on("tokens:revoke", ResourcePattern::everything())?;
                if reason.is_empty() {
                    return Err(no_reason());
                }
                self.require_possible(*id)?;
                let until_ms = self.moment.now.latest + REVOKED_KEPT_MS;
                return self.revoke_session(*id, None, until_ms, compromised);
            }
        };
        if let Some(caller) = self.bearer()
            && let Some(sealed) = &caller.sealed
            && id == Some(sealed.id)
        {
            return self.revoke_sealed(*sealed, compromised);
        }
        let record = self.known_token(id)?;
        let itself = self.is_itself(record.id);
        if !itself && !matches!(target, RevokeTarget::Secret(_)) {
            self.require_token("tokens:revoke", &record)?;
        }
        if reason.is_empty() && !itself {
            return Err(no_reason());
        }
        let issued = CutOffTarget::IssuedByToken(record.id);
        // An earlier cut-off does not reach what was issued between it and the revocation.
        let done = record
            .revoked
            .is_some_and(|revoked| !compromised || self.state.cut_off(&issued) >= revoked.revision);
        if done {
            return Ok((Outcome::Already, About::Token(record.id)));
        }
        let change = Change::RevokeToken {
            id: record.id,
            compromised,
        };
        let kind = EntryKind::TokenRevoke;
        Ok(Self::change(
            kind,
            record.id,
            change,
            About::Token(record.id),
        ))
    }

    /// The token that a presented secret belongs to; a former one counts until its grace ends.
    fn presented(&self, digest: &Digest) -> Result<TokenId, Refusal> {
        let now = self.moment.now.latest;
        let found = self.state.tokens.find(digest.key());
        found
            .filter(|found| found.grace_until_ms.is_none_or(|until| until > now))
            .map(|found| found.hot.id())
            .ok_or(Refusal::NotFound("token"))
    }

    pub(super) fn revoke_all(&self, request: &CutOffRequest) -> Result<(Outcome, About), Refusal> {
        let (target, text) = match request {
            CutOffRequest::Subject(name) => {
                let id = self.cut_off_principal(name, false)?;
                (CutOffTarget::Subject(id), name.to_string())
            }
            CutOffRequest::IssuedByPrincipal(name) => {
                let id = self.cut_off_principal(name, true)?;
                (CutOffTarget::IssuedByPrincipal(id), name.to_string())
            }
            CutOffRequest::IssuedByNumber(id) => {
                self.require_on("tokens:revoke", ResourcePattern::everything())?;
                // Gone or not, but there must have been one.
                if id.0 == 0 || id.0 > self.state.directory.principal_last() {
                    return Err(Refusal::NotFound("principal"));
                }
                (CutOffTarget::IssuedByPrincipal(*id), id.to_string())
            }
            CutOffRequest::IssuedByToken(id) => {
                self.may_cut_off_issued_by(*id)?;
                (CutOffTarget::IssuedByToken(*id), id.to_string())
            }
            CutOffRequest::IssuedByCredential(id) => {
                self.may_cut_off_given_by(*id)?;
                (CutOffTarget::IssuedByToken(*id), id.to_string())
            }
            CutOffRequest::Sessions(name) => {
                let id = self.cut_off_principal(name, false)?;
                (CutOffTarget::Sessions(id), name.to_string())
            }
            CutOffRequest::ResourceUnder(resource) => {
                self.require_on("tokens:revoke", ResourcePattern::under(resource))?;
                (
                    CutOffTarget::ResourceUnder(resource.clone()),
                    resource.to_string(),
                )
            }
        };
        let kind = match target {
            CutOffTarget::Sessions(_) => EntryKind::SessionRevokeAll,
            _ => EntryKind::TokenRevokeAll,
        };
        Ok(Self::change(
            kind,
            text,
            Change::CutOff(target),
            About::Nothing,
        ))
    }

    /// For its own tokens a bearer may, and for a credential whoever may revoke it: revoking it as
    /// compromised ends all that it gave, and what that has issued wherever it lies, and the
    /// credential as well. For others, also forgotten ones, it takes the right everywhere, since
    /// what they issued may lie anywhere.
    fn may_cut_off_issued_by(&self, id: TokenId) -> Result<(), Refusal> {
        let may = self.state.token(id).is_some_and(|record| {
            let home = self.home_of(&record);
            let own = (self.is_itself(id) || self.is_own(&record))
                && self.require_in_scopes("tokens:revoke", &home).is_ok();
            own || record.kind.is_credential()
                && self.require_token("tokens:revoke", &record).is_ok()
        });
        if may {
            return Ok(());
        }
        self.require_on("tokens:revoke", ResourcePattern::everything())
    }

    fn may_cut_off_given_by(&self, id: TokenId) -> Result<(), Refusal> {
        self.may_cut_off_issued_by(id)?;
        let record = self.state.token(id);
        let credential = record.filter(|record| record.kind.is_credential());
        credential.map(drop).ok_or(Refusal::NotFound("credential"))
    }

    /// Whether there is a token that the caller is or may know of.
    fn finds(&self, id: TokenId) -> bool {
        self.state.token(id).is_some_and(|record| {
            let judged = self.require_token("tokens:revoke", &record);
            self.is_itself(id) || !matches!(judged, Err(Refusal::NotFound(_)))
        })
    }

    fn cut_off_principal(
        &self,
        name: &PrincipalName,
        issued: bool,
    ) -> Result<PrincipalId, Refusal> {
        let not_found = Refusal::NotFound(name.kind().name());
        let Some(principal) = self.state.directory.named(name) else {
            return Err(not_found);
        };
        let id = principal.record.id;
        // A user for itself; a service account and a team do not manage themselves.
        let itself = self.principal_id() == Some(id) && name.kind() == PrincipalKind::User;
        if itself
            && self
                .require_in_scopes("tokens:revoke", &principal.record.home)
                .is_ok()
        {
            return Ok(id);
        }
        let judged = if issued {
            // What it issued may lie anywhere.
            self.require_on("tokens:revoke", ResourcePattern::everything())
        } else {
            self.require("tokens:revoke", &principal.record.home)
        };
        match judged {
            Err(_) if !self.may(read_action(name.kind()), &principal.record.home) => Err(not_found),
            judged => judged.map(|()| id),
        }
    }
}
