//! The first administrator, and another one for whoever lost the first.
//!
//! Both come from local access to the store and stand in the log as such: actor `local`. What is
//! there already is used, so a bootstrap that was interrupted can be run again; of several at once
//! one gets the token. Whoever sets up a cluster may bring the token instead, from a Secret.

use crate::domain::change::Display;
use crate::domain::permission::{ActionPattern, ResourcePattern};
use crate::domain::principal::{PrincipalKind, PrincipalName, RoleName};
use crate::domain::refusal::Refusal;
use crate::domain::token::{Digest, Secret, TokenId, TokenKind};
use crate::state::decide::{Caller, Command, Envelope, Outcome};
use crate::state::home;

use super::{Authority, IssueToken, LimitsAsked, RequestId, ScopesAsked};

const ADMIN: &str = "admin";
/// Role, user, grant and token: a log of as many entries has had its first administrator.
const BOOTSTRAP_ENTRIES: u64 = 4;
/// The token of the first administrator is one request, whoever makes it.
const FIRST_TOKEN: RequestId<'static> = RequestId {
    method: "bootstrap",
    id: "first-token",
    content: b"",
};

impl Authority {
    /// Makes the first administrator and its token; with `recover`, another token, and another
    /// administrator if the first is gone or disabled. None if there is one and `recover` is not
    /// set: then old tokens stay as they are.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be written.
    pub async fn bootstrap(&self, recover: bool) -> Result<Option<Secret>, Refusal> {
        let secret = Secret::generate(TokenKind::User, &*self.entropy);
        let made = self.make_administrator(recover, &secret).await?;
        Ok(made.then_some(secret))
    }

    /// Makes the first administrator with a token that the caller brings; whether it did, for a
    /// store that had one before stays as it is.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a token of another kind than a user's,
    /// [`Refusal::Unavailable`] when the store cannot be written.
    pub async fn bootstrap_with(&self, secret: &Secret) -> Result<bool, Refusal> {
        if secret.kind() != TokenKind::User {
            return Err(Refusal::invalid("secret", "not a user's token (lku_…)"));
        }
        self.make_administrator(false, secret).await
    }

    /// Whether the store has had its first administrator.
    #[must_use]
    pub fn has_had_administrator(&self) -> bool {
        self.head().revision >= BOOTSTRAP_ENTRIES
    }

    async fn make_administrator(&self, recover: bool, secret: &Secret) -> Result<bool, Refusal> {
        if !recover && self.has_had_administrator() {
            return Ok(false);
        }
        let reason = if recover {
            "recovery by local access to the store"
        } else {
            "first administrator, by local access to the store"
        };
        let role = RoleName::parse(ADMIN).ok_or_else(|| Refusal::invalid("role", ADMIN))?;
        let everything = ActionPattern::parse("*").map_err(|e| Refusal::invalid("actions", e))?;
        let admin = self.administrator()?;
        let display = |description: &str| Display {
            name: Some("Administrator".to_owned()),
            description: Some(description.to_owned()),
            ..Display::default()
        };
        let commands = [
            Command::CreateRole {
                name: role.clone(),
                home: home::installation(),
                actions: vec![everything.clone()],
                display: display("Everything, everywhere."),
            },
            // A recovery is worth nothing with a role that somebody has emptied.
            Command::UpdateRole {
                name: role.clone(),
                actions: Some(vec![everything]),
                display: Display::default(),
            },
            Command::CreatePrincipal {
                name: admin.clone(),
                home: home::installation(),
                display: display("Made by local access to the store."),
            },
            Command::CreateGrant {
                principal: admin.clone(),
                role,
                resource: ResourcePattern::everything(),
            },
        ];
        for command in commands {
            match self.local(command, reason, None).await {
                Ok(_) | Err(Refusal::AlreadyExists(_)) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let token = self.with_secret(admin_token(admin), TokenKind::User, secret);
        let issue = Command::IssueToken(Box::new(token));
        let once = (!recover).then_some(FIRST_TOKEN);
        match self.local(issue, reason, once).await? {
            // Another server has been quicker.
            Outcome::Repeated(_) => Ok(false),
            _ => Ok(true),
        }
    }

    // `admin`, or the first of `admin-2`, `admin-3`, … that is free or enabled: a disabled one can
    // be given no token, and enabling it is not for this to decide.
    fn administrator(&self) -> Result<PrincipalName, Refusal> {
        let state = self.replica.state_full();
        (1..u32::MAX)
            .filter_map(|number| {
                let suffix = if number == 1 {
                    String::new()
                } else {
                    format!("-{number}")
                };
                PrincipalName::new(PrincipalKind::User, &format!("{ADMIN}{suffix}"))
            })
            .find(|name| {
                let known = state.principal_named(name);
                known.is_none_or(|record| !record.disabled)
            })
            .ok_or(Refusal::AlreadyExists("user"))
    }

    async fn local(
        &self,
        command: Command,
        reason: &str,
        once: Option<RequestId<'_>>,
    ) -> Result<Outcome, Refusal> {
        let envelope = Envelope {
            request: self.request_of(&Caller::Local, once, &command)?,
            caller: Caller::Local,
            reason: reason.to_owned(),
            command,
        };
        let done = self.replica.submit(envelope).await?;
        Ok(done.decided.outcome)
    }
}

fn admin_token(admin: PrincipalName) -> IssueToken {
    IssueToken {
        id: TokenId::from_u128(0),
        digest: Digest::from_bytes([0; 32]),
        kind: TokenKind::User,
        subject: Some(admin),
        resource: None,
        scopes: ScopesAsked::All,
        ttl_s: None,
        not_before_ms: None,
        max_lifetime_s: None,
        period_s: None,
        uses: None,
        limits: LimitsAsked::default(),
        derive: false,
        display: Display {
            name: Some("first token of the administrator".to_owned()),
            ..Display::default()
        },
    }
}
