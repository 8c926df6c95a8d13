//! The canary's verbs: tokens of the server's own, issued and revoked to see how soon that holds.
//!
//! Used by the canary of `rpc`. The caller is the server itself, so no operator's token is needed
//! and the log says `system`. What it makes is bound to the canary's own resource, may do nothing
//! there that anybody else asks for, and ends by itself soon if the server dies in between.

use std::time::Duration;

use crate::domain::change::Display;
use crate::domain::permission::{Permission, Resource};
use crate::domain::refusal::Refusal;
use crate::domain::scopes::ScopeEntry;
use crate::domain::token::{Digest, Secret, TokenId, TokenKind};
use crate::state::decide::{Caller, Command, Envelope, RevokeTarget};

use super::cluster::{Enforced, Replicas};
use super::{About, Authority, IssueToken, LimitsAsked, ScopesAsked, Written};

/// What the canary's tokens are of.
pub const CANARY_RESOURCE: &str = "latchkey/canary";
/// How long they live at the most.
pub const CANARY_LIFE: Duration = Duration::from_secs(180);

const REASON: &str = "canary: how soon does a revocation hold?";

/// A token of the canary's. Its `Debug` is that of its parts, which withhold the secret.
#[derive(Debug)]
pub struct CanaryToken {
    /// Its public name.
    pub id: TokenId,
    /// Its secret; it leaves this server in Checks of it only.
    pub secret: Secret,
    /// How far it is known to every server.
    pub enforced: Enforced,
}

impl Authority {
    /// Issues a token for one action on the canary's resource, and waits until it works on every
    /// server.
    ///
    /// # Errors
    /// The command's [`Refusal`].
    pub async fn canary_issue(&self, action: &str) -> Result<CanaryToken, Refusal> {
        let permission = Permission::parse(action, CANARY_RESOURCE)
            .map_err(|error| Refusal::invalid("action", error))?;
        let resource = Resource::parse(CANARY_RESOURCE)
            .map_err(|error| Refusal::invalid("resource", error))?;
        let secret = Secret::generate(TokenKind::Resource, &*self.entropy);
        let token = IssueToken {
            id: TokenId::from_u128(0),
            digest: Digest::from_bytes([0; 32]),
            kind: TokenKind::Resource,
            subject: None,
            resource: Some(resource),
            scopes: ScopesAsked::Only(vec![ScopeEntry::Permissions(vec![permission])]),
            ttl_s: Some(u32::try_from(CANARY_LIFE.as_secs()).unwrap_or(u32::MAX)),
            not_before_ms: None,
            max_lifetime_s: None,
            period_s: None,
            uses: None,
            limits: LimitsAsked::default(),
            derive: false,
            display: Display {
                name: Some("canary".to_owned()),
                ..Display::default()
            },
        };
        let token = self.with_secret(token, TokenKind::Resource, &secret);
        let written = self.of_canary(Command::IssueToken(Box::new(token))).await?;
        let About::Token(id) = written.about else {
            return Err(Refusal::Unavailable("no token was made".to_owned()));
        };
        let enforced = self.enforced_by_all(&written).await?;
        Ok(CanaryToken {
            id,
            secret,
            enforced,
        })
    }

    /// Revokes a token of the canary's, and waits until that holds on every server.
    ///
    /// # Errors
    /// The command's [`Refusal`]; [`Refusal::OutcomeUnknown`] when it may be lost.
    pub async fn canary_revoke(&self, id: TokenId) -> Result<Enforced, Refusal> {
        let command = Command::RevokeToken {
            target: RevokeTarget::Id(id),
            compromised: false,
        };
        let written = self.of_canary(command).await?;
        self.enforced_by_all(&written).await
    }

    /// The servers as the store knows them now, for the server itself.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub async fn canary_replicas(&self) -> Result<Replicas, Refusal> {
        self.replicas_now().await
    }

    async fn of_canary(&self, command: Command) -> Result<Written, Refusal> {
        let envelope = Envelope {
            caller: Caller::System,
            reason: REASON.to_owned(),
            request: None,
            command,
        };
        self.submit(envelope, true).await
    }

    async fn enforced_by_all(&self, written: &Written) -> Result<Enforced, Refusal> {
        let enforced = self.enforced(written, Duration::MAX).await?;
        // Asked for, so there is an answer.
        enforced.ok_or(Refusal::OutcomeUnknown)
    }
}
