//! Decide by table: the world that the tests live in.
//!
//! Who may issue what is in `issue_tests`, what becomes of tokens afterwards in `life_tests`.

use super::super::check::check;
use super::*;
use crate::domain::change::Display;
use crate::domain::entropy::SeededEntropy;
use crate::domain::entry::{Entry, LogEntry};
use crate::domain::permission::ActionPattern;
use crate::domain::principal::PrincipalName;
use crate::domain::scopes::ScopeEntry;
use crate::domain::token::Digest;
use crate::domain::token::Secret;

pub(super) const T0: UnixMs = 1_700_000_000_000;

/// A state with a clock, where commands are decided and applied one after the other.
pub(super) struct World {
    pub(super) state: State,
    pub(super) now_ms: UnixMs,
    pub(super) entropy: SeededEntropy,
    pub(super) lifetimes: Lifetimes,
    pub(super) log: Vec<LogEntry>,
}

pub(super) fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect(text)
}

pub(super) fn resource(text: &str) -> Resource {
    Resource::parse(text).expect(text)
}

pub(super) fn scopes(texts: &[&str]) -> ScopesAsked {
    let entries = texts
        .iter()
        .map(|text| ScopeEntry::parse(text).expect(text));
    ScopesAsked::Only(entries.collect())
}

impl World {
    /// Home `acme`; alice holds everything, bob manages tokens and reads secrets in `acme/web`,
    /// carol is in the platform team, which deploys; dave holds nothing.
    pub(super) fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            now_ms: T0,
            entropy: SeededEntropy::new(7),
            lifetimes: Lifetimes::default(),
            log: Vec::new(),
        };
        for one in [
            "user:alice",
            "user:bob",
            "user:carol",
            "user:dave",
            "team:platform",
            "service:ci",
        ] {
            world.local(Command::CreatePrincipal {
                name: name(one),
                home: resource("acme"),
                display: Display::default(),
            });
        }
        for (role, actions) in [
            ("admin", vec!["*"]),
            (
                "keeper",
                vec![
                    "tokens:issue",
                    "tokens:read",
                    "tokens:revoke",
                    "secrets:read",
                ],
            ),
            ("deployer", vec!["deploy:run"]),
        ] {
            world.local(Command::CreateRole {
                name: RoleName::parse(role).expect("valid"),
                home: resource("acme"),
                actions: actions
                    .iter()
                    .map(|a| ActionPattern::parse(a).expect("valid"))
                    .collect(),
                display: Display::default(),
            });
        }
        world.grant("user:alice", "admin", "**");
        world.grant("user:bob", "keeper", "acme/web/**");
        world.grant("team:platform", "deployer", "acme/**");
        world.local(Command::AddMember {
            team: name("team:platform"),
            member: name("user:carol"),
        });
        world
    }

    pub(super) fn local(&mut self, command: Command) {
        self.run(Caller::Local, command, "set up").expect("set up");
    }

    pub(super) fn grant(&mut self, principal: &str, role: &str, on: &str) {
        self.local(Command::CreateGrant {
            principal: name(principal),
            role: RoleName::parse(role).expect("valid"),
            resource: ResourcePattern::parse(on).expect("valid"),
        });
    }

    pub(super) fn run(
        &mut self,
        caller: Caller,
        command: Command,
        reason: &str,
    ) -> Result<Outcome, Refusal> {
        self.submit(Envelope {
            caller,
            reason: reason.to_owned(),
            request: None,
            command,
        })
    }

    pub(super) fn submit(&mut self, envelope: Envelope) -> Result<Outcome, Refusal> {
        let moment = Moment {
            revision: self.state.head().revision + 1,
            now: Now::at(self.now_ms),
            lifetimes: self.lifetimes,
        };
        let decided = decide(&self.state, &envelope, moment)?;
        if let Outcome::Change {
            kind,
            target,
            change,
        } = &decided.outcome
        {
            let entry = Entry {
                revision: moment.revision,
                instant_ms: self.now_ms,
                actor: decided.actor.clone(),
                kind: *kind,
                target: target.clone(),
                reason: envelope.reason.clone(),
                batch_id: [0; 16],
                request: envelope.request,
                state_digest: None,
                change: change.clone(),
            };
            let logged = LogEntry::new(entry, &self.state.head());
            self.state.apply(&logged).expect("follows");
            self.log.push(logged);
        }
        Ok(decided.outcome)
    }

    pub(super) fn as_bearer(&mut self, secret: &str, command: Command) -> Result<Outcome, Refusal> {
        self.run(bearer(secret), command, "because")
    }

    pub(super) fn asked(
        &self,
        kind: TokenKind,
        subject: Option<&str>,
        asked: ScopesAsked,
    ) -> (String, IssueToken) {
        let secret = Secret::generate(kind, &self.entropy);
        let issue = IssueToken {
            id: TokenId::generate(self.now_ms, &self.entropy),
            digest: secret.digest(),
            kind,
            subject: subject.map(name),
            resource: None,
            scopes: asked,
            ttl_s: None,
            not_before_ms: None,
            max_lifetime_s: None,
            period_s: None,
            uses: None,
            limits: LimitsAsked::default(),
            derive: false,
            display: Display::default(),
        };
        (secret.reveal().to_owned(), issue)
    }

    pub(super) fn issue(
        &mut self,
        caller: Caller,
        secret: String,
        issue: IssueToken,
    ) -> Result<String, Refusal> {
        self.run(caller, Command::IssueToken(Box::new(issue)), "because")?;
        Ok(secret)
    }

    /// A user token without scopes, made by local access.
    pub(super) fn user(&mut self, subject: &str) -> String {
        let (secret, issue) = self.asked(TokenKind::User, Some(subject), ScopesAsked::All);
        self.issue(Caller::Local, secret, issue).expect("set up")
    }

    pub(super) fn check(&self, secret: &str, action: &str, on: &str) -> Reason {
        let needs = [Need::parse(action, on).expect("need")];
        let request = CheckRequest {
            token: secret,
            needs: &needs,
            context: Context::default(),
            kinds: KindSet::ALL,
        };
        check(&self.state, &request, Now::at(self.now_ms)).reason
    }

    /// Whether more than its own scopes is said to narrow a token.
    pub(super) fn is_narrowed(&self, secret: &str) -> bool {
        let request = CheckRequest {
            token: secret,
            needs: &[],
            context: Context::default(),
            kinds: KindSet::ALL,
        };
        let decision = check(&self.state, &request, Now::at(self.now_ms));
        decision.token.expect("known").narrowed
    }

    pub(super) fn id_of(&self, secret: &str) -> TokenId {
        self.state
            .token_by_key(Digest::of(secret).key())
            .expect("known")
    }
}

pub(super) fn bearer(secret: &str) -> Caller {
    Caller::Bearer {
        key: Digest::of(secret).key(),
        client_ip: None,
        peer: None,
    }
}

pub(super) fn missing(refusal: &Refusal) -> Vec<String> {
    match refusal {
        Refusal::Boundary(list) | Refusal::NotPermitted(list) => {
            list.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The field that a refusal finds fault with.
pub(super) fn field(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Invalid { field, .. } => field,
        other => panic!("{other:?}"),
    }
}

/// An update of a token that changes nothing yet.
pub(super) fn unchanged(id: TokenId) -> UpdateToken {
    UpdateToken {
        id,
        scopes: None,
        expires_ms: None,
        not_before_ms: None,
        expires_max_ms: None,
        period_s: None,
        uses_left: None,
        networks: None,
        audience: None,
        workload: None,
        display: Display::default(),
    }
}
