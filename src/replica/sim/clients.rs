//! What clients do in the simulation: make tokens and take away what they allow.
//!
//! A token is taken away in one of five ways, each of which another part of State enforces; names
//! are used again. What comes of it arrives in the inbox in the order in which it was answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::chain::Revision;
use crate::domain::change::Display;
use crate::domain::entropy::SeededEntropy;
use crate::domain::permission::{ActionPattern, Resource, ResourcePattern};
use crate::domain::principal::{GrantId, PrincipalName, RoleName};
use crate::domain::refusal::Refusal;
use crate::domain::token::{Secret, TokenId, TokenKind};
use crate::replica::{Done, Enforced, Replica};
use crate::state::decide::{
    About, Caller, Command, CutOffRequest, Envelope, IssueToken, LimitsAsked, RevokeTarget,
    ScopesAsked,
};

use super::choices::Choices;
use super::world::BEGUN_MS;

/// The need of every Check.
pub(super) const NEED: (&str, &str) = ("secrets:read", "acme/web");
/// Names that users have, one after the other.
const NAMES: u64 = 40;

/// A token, and what its user is known by.
pub(super) struct Made {
    pub(super) secret: Secret,
    id: TokenId,
    pub(super) name: PrincipalName,
    grant: GrantId,
    pub(super) revision: Revision,
}

/// What a client has heard.
pub(super) enum Answer {
    /// There is a token.
    Made(Box<Made>),
    /// A token was taken away.
    Taken {
        token: usize,
        revision: Revision,
        enforced: Enforced,
    },
    /// Nothing is promised.
    Nothing,
}

/// Where answers arrive.
#[derive(Clone, Default)]
pub(super) struct Inbox {
    answers: Arc<Mutex<Vec<Answer>>>,
    // Changes that are committed and not yet enforced.
    awaited: Arc<AtomicU64>,
}

/// Counts as awaited for as long as it is there; a crash drops it.
struct Awaited(Arc<AtomicU64>);

impl Awaited {
    fn begin(inbox: &Inbox) -> Self {
        inbox.awaited.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&inbox.awaited))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inbox {
    pub(super) fn taken(&self) -> Vec<Answer> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut answers)
    }

    /// Whether a client waits for a barrier.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    fn put(&self, answer: Answer) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push(answer);
    }
}

fn resource(text: &str) -> Resource {
    Resource::parse(text).expect("a path")
}

fn role() -> RoleName {
    RoleName::parse("reader").expect("a name")
}

async fn local(replica: &Replica, command: Command) -> Result<Done, Refusal> {
    let envelope = Envelope {
        caller: Caller::Local,
        reason: "simulated".to_owned(),
        request: None,
        command,
    };
    replica.submit(envelope).await
}

/// Makes a user with a grant and a token; not if its name is in use.
pub(super) async fn make(replica: Replica, number: u64, inbox: Inbox) {
    let answer = match made(&replica, number).await {
        Ok(made) => Answer::Made(Box::new(made)),
        Err(_) => Answer::Nothing,
    };
    inbox.put(answer);
}

async fn made(replica: &Replica, number: u64) -> Result<Made, Refusal> {
    let name = PrincipalName::parse(&format!("user:u{}", number % NAMES)).expect("a name");
    let create = Command::CreateRole {
        name: role(),
        home: resource("acme"),
        actions: vec![ActionPattern::parse("secrets:*").expect("a pattern")],
        display: Display::default(),
    };
    match local(replica, create).await {
        Ok(_) | Err(Refusal::AlreadyExists(_)) => {}
        Err(refusal) => return Err(refusal),
    }
    let create = Command::CreatePrincipal {
        name: name.clone(),
        home: resource("acme"),
        display: Display::default(),
    };
    local(replica, create).await?;
    let grant = Command::CreateGrant {
        principal: name.clone(),
        role: role(),
        resource: ResourcePattern::parse("acme/**").expect("a pattern"),
    };
    let granted = local(replica, grant).await?;
    let About::Grant(grant) = granted.decided.subject else {
        return Err(Refusal::NotFound("grant"));
    };
    let entropy = SeededEntropy::new(number ^ 0x7075_7065);
    let secret = Secret::generate(TokenKind::User, &entropy);
    let id = TokenId::generate(BEGUN_MS, &entropy);
    let issue = IssueToken {
        id,
        digest: secret.digest(),
        kind: TokenKind::User,
        subject: Some(name.clone()),
        resource: None,
        scopes: ScopesAsked::All,
        ttl_s: None,
        not_before_ms: None,
        max_lifetime_s: None,
        period_s: None,
        uses: None,
        limits: LimitsAsked::default(),
        derive: false,
        display: Display::default(),
    };
    let issued = local(replica, Command::IssueToken(Box::new(issue))).await?;
    Ok(Made {
        secret,
        id,
        name,
        grant,
        revision: issued.revision,
    })
}

/// One of the ways to take away what a token allows.
pub(super) fn taking(made: &Made, choices: &mut Choices) -> Command {
    match choices.below(5) {
        0 => Command::RevokeToken {
            target: RevokeTarget::Id(made.id),
            compromised: false,
        },
        1 => Command::SetDisabled {
            name: made.name.clone(),
            disabled: true,
        },
        2 => Command::DeletePrincipal(made.name.clone()),
        3 => Command::RevokeAll(CutOffRequest::Subject(made.name.clone())),
        _ => Command::DeleteGrant(made.grant),
    }
}

/// Takes a token away and waits at the most so long until it is enforced everywhere.
pub(super) async fn take(
    replica: Replica,
    token: usize,
    command: Command,
    most_ms: u64,
    inbox: Inbox,
) {
    let Ok(done) = local(&replica, command).await else {
        inbox.put(Answer::Nothing);
        return;
    };
    let _awaited = Awaited::begin(&inbox);
    let enforced = replica
        .enforce(&done.durable(), Duration::from_millis(most_ms))
        .await;
    inbox.put(Answer::Taken {
        token,
        revision: done.revision,
        enforced,
    });
}
