//! The token service: the life of tokens.
//!
//! Each method reads its request (`token_request`), calls the authority and shows the token as
//! the change left it (`token_answer`). Promise: a change that was made is never answered with
//! an error because reading the token back failed, for a secret would be lost with it.

use tonic::Request;

use crate::authority::Authority;
use crate::authority::list::StoredToken;
use crate::authority::tokens::Issued;
use crate::authority::{About, Command, RevokeTarget, Written};
use crate::domain::change::Change;
use crate::domain::refusal::Refusal;
use crate::domain::seal::claims::Sealed;
use crate::domain::token::TokenId;
use crate::proto::v1;
use crate::proto::v1::token_service_server::TokenService;

use super::convert::{self, optional, revision};
use super::incoming::{Answer, WriteCall, answer};
use super::page::Asked;
use super::{auth, scopes, token_answer, token_request};

/// Most permissions that WhoAmI lists.
const PERMISSIONS_LISTED_MAX: usize = 1_024;

/// The token service over an authority.
pub(super) struct TokenRpc {
    authority: Authority,
}

#[tonic::async_trait]
impl TokenService for TokenRpc {
    async fn issue_token(
        &self,
        request: Request<v1::IssueTokenRequest>,
    ) -> Answer<v1::IssueTokenResponse> {
        answer(self.issue(&request).await)
    }

    async fn get_token(
        &self,
        request: Request<v1::GetTokenRequest>,
    ) -> Answer<v1::GetTokenResponse> {
        answer(self.one(&request).await)
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Answer<v1::ListTokensResponse> {
        answer(self.list(&request).await)
    }

    async fn update_token(
        &self,
        request: Request<v1::UpdateTokenRequest>,
    ) -> Answer<v1::UpdateTokenResponse> {
        answer(self.update(&request).await)
    }

    async fn renew_token(
        &self,
        request: Request<v1::RenewTokenRequest>,
    ) -> Answer<v1::RenewTokenResponse> {
        answer(self.renew(&request).await)
    }

    async fn rotate_token(
        &self,
        request: Request<v1::RotateTokenRequest>,
    ) -> Answer<v1::RotateTokenResponse> {
        answer(self.rotate(&request).await)
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Answer<v1::RevokeTokenResponse> {
        answer(self.revoke(&request).await)
    }

    async fn revoke_all(
        &self,
        request: Request<v1::RevokeAllRequest>,
    ) -> Answer<v1::RevokeAllResponse> {
        answer(self.cut_off(&request).await)
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Answer<v1::WhoAmIResponse> {
        answer(self.caller(&request).await)
    }
}

impl TokenRpc {
    /// The service over an authority.
    pub(super) fn new(authority: Authority) -> Self {
        Self { authority }
    }

    async fn issue(
        &self,
        request: &Request<v1::IssueTokenRequest>,
    ) -> Result<v1::IssueTokenResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let asked = token_request::issue(request.get_ref())?;
        let Issued { secret, written } = self.authority.issue(incoming.call(), asked).await?;
        let after = self.after(&written);
        let (enforcement, token) = incoming.settle(&self.authority, &written, after).await?;
        Ok(v1::IssueTokenResponse {
            enforcement,
            revision: Some(revision(written.revision)),
            token,
            secret_withheld: secret.is_none(),
            secret: secret.map_or_else(String::new, |secret| secret.reveal().to_owned()),
        })
    }

    async fn one(
        &self,
        request: &Request<v1::GetTokenRequest>,
    ) -> Result<v1::GetTokenResponse, Refusal> {
        let credentials = auth::credentials(request)?;
        let id = optional("token_id", &request.get_ref().token_id, convert::token_id)?;
        let head = self.authority.head();
        let sealed = self.authority.sealed_caller(credentials)?;
        let is_asked = |sealed: &StoredToken| id.is_none_or(|id| id == sealed.record.id);
        if let Some(sealed) = sealed.filter(is_asked) {
            return Ok(v1::GetTokenResponse {
                token: Some(token_answer::whole(&self.authority, &sealed)),
                revision: Some(revision(head.revision())),
            });
        }
        let id = match id {
            Some(id) => id,
            None => self.authority.calling_token(credentials)?,
        };
        let stored = self.authority.token(credentials, id).await?;
        Ok(v1::GetTokenResponse {
            token: Some(token_answer::whole(&self.authority, &stored)),
            revision: Some(revision(head.revision())),
        })
    }

    async fn list(
        &self,
        request: &Request<v1::ListTokensRequest>,
    ) -> Result<v1::ListTokensResponse, Refusal> {
        let asked = Asked::<TokenId>::of(request.get_ref())?;
        let filter = token_request::filter(request.get_ref(), &asked)?;
        let head = self.authority.head();
        let credentials = auth::credentials(request)?;
        let page = self.authority.tokens(credentials, filter).await?;
        let shown = page
            .rows
            .iter()
            .map(|row| token_answer::whole(&self.authority, row));
        let state = request.get_ref().state;
        Ok(v1::ListTokensResponse {
            tokens: shown
                .filter(|token| token_request::has_state(state, token))
                .collect(),
            next_page_token: asked.token(page.next.as_ref()),
            revision: Some(revision(head.revision())),
        })
    }

    async fn update(
        &self,
        request: &Request<v1::UpdateTokenRequest>,
    ) -> Result<v1::UpdateTokenResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let id = match optional("token_id", &request.get_ref().token_id, convert::token_id)? {
            Some(id) => id,
            None => self.authority.writing_token(incoming.credentials).await?,
        };
        let update = token_request::update(request.get_ref(), id)?;
        let command = Command::UpdateToken(Box::new(update));
        let written = self.authority.write(incoming.call(), command).await?;
        let after = self.after(&written);
        let (enforcement, token) = incoming.settle(&self.authority, &written, after).await?;
        Ok(v1::UpdateTokenResponse {
            enforcement,
            revision: Some(revision(written.revision)),
            token,
        })
    }

    async fn renew(
        &self,
        request: &Request<v1::RenewTokenRequest>,
    ) -> Result<v1::RenewTokenResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let message = request.get_ref();
        let ttl_s = convert::seconds("ttl", message.ttl.as_ref())?;
        let id = optional("token_id", &message.token_id, convert::token_id)?;
        let command = Command::RenewToken { id, ttl_s };
        let written = self.authority.write(incoming.call(), command).await?;
        let stored = self.stored(&written);
        let (enforcement, stored) = incoming.settle(&self.authority, &written, stored).await?;
        let clipped = stored.as_ref().is_some_and(|stored| {
            let record = &stored.record;
            let wanted_s = ttl_s.or(record.period_s).or(record.ttl_s).unwrap_or(0);
            let wanted_ms = written.instant_ms + u64::from(wanted_s) * 1_000;
            record.expires_ms.is_some_and(|at| at < wanted_ms)
        });
        let shown = stored.map(|stored| token_answer::whole(&self.authority, &stored));
        Ok(v1::RenewTokenResponse {
            enforcement,
            revision: Some(revision(written.revision)),
            token: shown,
            clipped,
        })
    }

    async fn rotate(
        &self,
        request: &Request<v1::RotateTokenRequest>,
    ) -> Result<v1::RotateTokenResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let message = request.get_ref();
        let id = optional("token_id", &message.token_id, convert::token_id)?;
        let grace_s = convert::whole_seconds("grace", message.grace.as_ref())?.unwrap_or(0);
        let expected = message.expected_rotation;
        let rotated = self
            .authority
            .rotate(incoming.call(), id, grace_s, expected);
        let Issued { secret, written } = rotated.await?;
        let after = self.after(&written);
        let (enforcement, token) = incoming.settle(&self.authority, &written, after).await?;
        Ok(v1::RotateTokenResponse {
            enforcement,
            revision: Some(revision(written.revision)),
            token,
            secret_withheld: secret.is_none(),
            secret: secret.map_or_else(String::new, |secret| secret.reveal().to_owned()),
        })
    }

    async fn revoke(
        &self,
        request: &Request<v1::RevokeTokenRequest>,
    ) -> Result<v1::RevokeTokenResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let credentials = incoming.credentials;
        // Asked before: a token that revoked itself is not told who it was afterwards.
        let calling = self.authority.calling_token(credentials).ok();
        let target = token_request::revoke_target(request.get_ref(), |text| {
            self.authority.revoke_target(text)
        })?;
        let asked = sealed_target(&target, calling);
        let command = Command::RevokeToken {
            target,
            compromised: request.get_ref().compromised,
        };
        let written = self.authority.write(incoming.call(), command).await?;
        let stored = self.stored(&written);
        let (enforcement, stored) = incoming.settle(&self.authority, &written, stored).await?;
        let shown = stored.map(|stored| {
            let readable = calling == Some(stored.record.id)
                || self.authority.may_read_token(credentials, &stored);
            if readable {
                token_answer::whole(&self.authority, &stored)
            } else {
                token_answer::brief(&self.authority, &stored)
            }
        });
        let already_revoked = revoked_before(&written, shown.as_ref());
        let sealed = asked.filter(|_| written.about == About::Nothing);
        Ok(v1::RevokeTokenResponse {
            enforcement,
            revision: Some(revision(written.revision)),
            already_revoked,
            token: shown.or_else(|| sealed.map(token_answer::sealed)),
        })
    }

    async fn cut_off(
        &self,
        request: &Request<v1::RevokeAllRequest>,
    ) -> Result<v1::RevokeAllResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let command = Command::RevokeAll(token_request::cut_off(request.get_ref())?);
        let written = self.authority.write(incoming.call(), command).await?;
        Ok(v1::RevokeAllResponse {
            enforcement: incoming.enforced(&self.authority, &written).await?,
            revision: Some(revision(written.revision)),
        })
    }

    async fn caller(
        &self,
        request: &Request<v1::WhoAmIRequest>,
    ) -> Result<v1::WhoAmIResponse, Refusal> {
        let credentials = auth::credentials(request)?;
        let caller = self
            .authority
            .who_am_i(credentials, PERMISSIONS_LISTED_MAX)
            .await?;
        let token = token_answer::whole(&self.authority, &caller.token);
        Ok(v1::WhoAmIResponse {
            subject: token.subject.clone(),
            token: Some(token),
            permissions: caller.permissions.iter().map(scopes::permission).collect(),
            truncated: caller.truncated,
            revision: Some(revision(caller.revision)),
        })
    }

    /// The token that a write was about, as far as it can be read back.
    async fn after(&self, written: &Written) -> Option<v1::Token> {
        let stored = self.stored(written).await;
        stored.map(|stored| token_answer::whole(&self.authority, &stored))
    }

    async fn stored(&self, written: &Written) -> Option<StoredToken> {
        self.authority.written_token(written).await.ok().flatten()
    }
}

/// The id that is revoked if it is a sealed token's, of which no row tells.
fn sealed_target(target: &RevokeTarget, calling: Option<TokenId>) -> Option<TokenId> {
    match target {
        RevokeTarget::Itself => calling,
        RevokeTarget::Id(id) | RevokeTarget::Session(id) => Some(*id),
        RevokeTarget::Sealed(claims) => Sealed::read(claims).map(|sealed| sealed.id),
        RevokeTarget::Secret(_) => None,
    }
}

// A second revocation makes a change when it reports a compromise for the first time.
fn revoked_before(written: &Written, token: Option<&v1::Token>) -> bool {
    match &written.change {
        Some(Change::RevokeSession { .. }) => false,
        Some(Change::RevokeToken { .. }) => {
            let revocation = token.and_then(|token| token.revocation.as_ref());
            revocation.is_some_and(|revocation| {
                (1..written.revision.number).contains(&revocation.revision)
            })
        }
        _ => true,
    }
}
