//! The authority: the verbs of Latchkey. Check reads State; everything that changes is queued.
//!
//! Used by `rpc` (and, for the first administrator, by `cli`). It knows who may read what, makes
//! ids and secrets, and turns an outcome into what the caller is told. It knows no gRPC, and a
//! Check passes neither the writer nor the store.

pub mod audit;
mod bootstrap;
mod callers;
pub mod canary;
pub mod check;
pub mod cluster;
pub mod credentials;
pub mod directory;
pub mod keys;
mod lockout;
pub mod login;
pub mod outcome;
pub mod tokens;

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::domain::chain::{Head, Revision};
use crate::domain::change::{Change, Subject};
use crate::domain::clock::{Now, UnixMs};
use crate::domain::entropy::Entropy;
use crate::domain::entry::{EntryKind, LogEntry, Request};
use crate::domain::limits::Networks;
use crate::domain::peer::Proven;
use crate::domain::permission::{Permission, Resource, ResourcePattern};
use crate::domain::principal::{PrincipalId, PrincipalName};
use crate::domain::refusal::Refusal;
use crate::domain::token::TokenId;
use crate::replica::{Durable, Replica};
use crate::state::decide::{CallAbout, Caller, Envelope, Outcome, authenticate};
use crate::state::{Power, Relation, State};

pub use crate::replica::{Counters, Operation};
pub use crate::state::check::Context;
pub use crate::state::decide::{
    About, Command, CreateCredential, CredentialForm, CutOffRequest, IssueToken, LimitsAsked,
    RevokeTarget, ScopesAsked, SetMethod, UpdateToken,
};
pub use crate::store::list;

/// Most characters of a reason.
pub const REASON_CHARS_MAX: usize = 256;
/// Most characters of a request id.
pub const REQUEST_ID_CHARS_MAX: usize = 64;
/// Rows of a page where none are asked for.
pub const PAGE_DEFAULT: usize = 100;
/// Most rows of a page.
pub const PAGE_MAX: usize = 1_000;

/// For whom an assertion is made, where nothing else is set.
pub const AUDIENCE_DEFAULT: &str = "latchkey";

/// So many callers that nobody may know wait for a reading of the log at once, which they share;
/// more are told to try again.
const STRANGERS_MAX: usize = 64;

/// What of the authority can be set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long after it was asked an allow may be acted on, at the most.
    pub valid_for_ms: u64,
    /// How long a change waits, at the most, until every server enforces it.
    pub confirm_time_max: Duration,
}

/// The authority. Clones are handles to the same one.
#[derive(Clone)]
pub struct Authority {
    replica: Replica,
    entropy: Arc<dyn Entropy>,
    settings: Settings,
    // Replays of an older State that may run at once: one.
    replays: Arc<Semaphore>,
    // Callers that this server does not know and looks for in the log at once.
    strangers: Arc<Semaphore>,
    failures: lockout::Failures,
    // The seal key that every server was seen to know, by its id and 1 more; 0 is none yet.
    known_key: Arc<AtomicU64>,
    // For whom assertions are made that log in here.
    audiences: Arc<[String]>,
    // Where many clients come from, of whom none is locked out.
    proxies: Networks,
}

/// Who calls, as the transport tells it.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The bearer token that came with the call.
    pub token: Option<&'a str>,
    /// Where the call came from.
    pub client_ip: Option<IpAddr>,
    /// Who the peer has proven to be by its certificate.
    pub peer: Option<&'a Arc<Proven>>,
    /// Whether it may ask Checks without a token: everybody on an open server.
    pub asks_freely: bool,
}

/// What comes with every write.
#[derive(Clone, Copy, Default)]
pub struct Call<'a> {
    /// Who calls.
    pub credentials: Credentials<'a>,
    /// Why; may be empty where none is required.
    pub reason: &'a str,
    /// The method, a client's request id and the bytes of the request, for repeats.
    pub request: Option<RequestId<'a>>,
    /// Whether every server must have it before the caller goes on, also if it only adds.
    pub waits: bool,
    /// Is told the id of the calling token, if it is one: for logs, whatever becomes of the call.
    pub calling: Option<&'a OnceLock<TokenId>>,
}

/// A client's request id with what it is scoped to.
#[derive(Clone, Copy)]
pub struct RequestId<'a> {
    /// The method that was called.
    pub method: &'static str,
    /// The client's id: 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub id: &'a str,
    /// The content of the request: the same id with another content is refused.
    pub content: &'a [u8],
}

/// A write that was carried out, or found things as they should be, or was answered before.
#[derive(Debug)]
pub struct Written {
    /// What it is about.
    pub about: About,
    /// The change that was made, by this call or by the one that it repeats.
    pub change: Option<Change>,
    /// The revision of the change, or the head at which it was already so.
    pub revision: Revision,
    /// The instant of the change in Unix milliseconds.
    pub instant_ms: u64,
    /// Whether the same request was answered before.
    pub repeated: bool,
    // What is to be enforced before this is answered: see `Authority::enforced`.
    awaited: Option<Durable>,
}

/// A caller that may read: who it is and what it holds.
pub(crate) struct Reader {
    state: Arc<State>,
    caller: Caller,
    token: TokenId,
    principal: Option<PrincipalId>,
    now: Now,
}

impl Authority {
    /// The authority over a replica.
    #[must_use]
    pub fn new(replica: Replica, entropy: Arc<dyn Entropy>, settings: Settings) -> Self {
        Self {
            replica,
            entropy,
            settings,
            replays: Arc::new(Semaphore::new(1)),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            failures: lockout::Failures::default(),
            known_key: Arc::default(),
            audiences: Arc::new([AUDIENCE_DEFAULT.to_owned()]),
            proxies: Networks::default(),
        }
    }

    /// Takes assertions that are made for these audiences.
    #[must_use]
    pub fn with_audiences(self, audiences: Vec<String>) -> Self {
        Self {
            audiences: audiences.into(),
            ..self
        }
    }

    /// Locks nobody out who comes from these networks.
    #[must_use]
    pub fn with_proxies(self, proxies: Networks) -> Self {
        Self { proxies, ..self }
    }

    /// What the replica has counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        self.replica.counters()
    }

    /// The newest revision and the chain hash at it, as published.
    #[must_use]
    pub fn head(&self) -> Head {
        self.replica.state().head()
    }

    /// How many tokens there are and how many bytes they take, and how many principals.
    #[must_use]
    pub fn sizes(&self) -> (usize, [usize; 3], usize) {
        let state = self.replica.state_full();
        (
            state.token_count(),
            state.token_bytes(),
            state.principal_count(),
        )
    }

    /// Whether this server may answer a Check.
    #[must_use]
    pub fn may_answer(&self) -> bool {
        self.replica.may_answer()
    }

    /// Whether this server knows what was revoked, and so whom it may tell what.
    #[must_use]
    pub fn is_vouched_for(&self) -> bool {
        self.replica.is_vouched_for()
    }

    /// Refuses where it cannot be known what was revoked.
    fn require_vouched_for(&self) -> Result<(), Refusal> {
        if self.is_vouched_for() {
            return Ok(());
        }
        let what = "this server cannot know now what was revoked; ask again or ask another";
        Err(Refusal::Unavailable(what.to_owned()))
    }

    /// Whether the store answered when it was last asked.
    #[must_use]
    pub fn store_answers(&self) -> bool {
        self.replica.store_answers()
    }

    /// How long this server may still answer without the store; none where it has the store to
    /// itself.
    #[must_use]
    pub fn lease_left_ms(&self) -> Option<u64> {
        self.replica.lease_left_ms()
    }

    pub(crate) fn reader(&self, credentials: Credentials<'_>) -> Result<Reader, Refusal> {
        self.reader_about(credentials, CallAbout::Anything)
    }

    fn reader_about(
        &self,
        credentials: Credentials<'_>,
        about: CallAbout,
    ) -> Result<Reader, Refusal> {
        // Checks may be served stale where the operator says so; who may read what never is.
        self.require_vouched_for()?;
        let state = self.replica.state_full();
        let caller = self.caller_on(&state, credentials)?;
        let now = self.replica.clock().now();
        let (_, token) = authenticate(&state, &caller, now, about)?;
        let token = token.ok_or(Refusal::Unauthenticated)?;
        self.note_used(&state, &caller, now.latest);
        let principal = match state.subject_of(&caller) {
            Some(Subject::Principal(id)) => Some(id),
            _ => None,
        };
        Ok(Reader {
            state,
            caller,
            token,
            principal,
            now,
        })
    }

    fn note_used(&self, state: &State, caller: &Caller, now_ms: UnixMs) {
        if let Some(id) = callers::used(state, caller) {
            self.replica.note_used(id, now_ms, caller.client_ip());
        }
    }

    /// Queues a command of a caller and waits until it is durable; [`Authority::enforced`] comes
    /// next.
    ///
    /// # Errors
    /// The command's [`Refusal`].
    pub async fn write(&self, call: Call<'_>, command: Command) -> Result<Written, Refusal> {
        let caller = self.recognised(&call).await?;
        if call.reason.chars().count() > REASON_CHARS_MAX {
            return Err(Refusal::invalid("reason", "is at most 256 characters"));
        }
        let envelope = Envelope {
            request: self.request_of(&caller, call.request, &command)?,
            reason: call.reason.to_owned(),
            caller: caller.clone(),
            command,
        };
        let written = self.submit(envelope, call.waits).await;
        // Whoever is refused for another reason has shown a good token.
        let unknown = matches!(
            written,
            Err(Refusal::Unauthenticated | Refusal::Unavailable(_) | Refusal::OutcomeUnknown)
        );
        if !unknown {
            let now_ms = self.replica.clock().now().latest;
            self.note_used(&self.replica.state(), &caller, now_ms);
        }
        written
    }

    /// Who makes a call, told to whoever writes it down.
    pub(super) async fn recognised(&self, call: &Call<'_>) -> Result<Caller, Refusal> {
        let caller = self.caller(call.credentials)?;
        self.look_for(&caller).await?;
        let calling = self.replica.state().calling(&caller);
        if let (Some(told), Some(id)) = (call.calling, calling) {
            // Told once; a call that writes twice has one caller.
            let _ = told.set(id);
        }
        Ok(caller)
    }

    /// Finds a caller that is not known here: another server may have made its token, and this one
    /// may be behind.
    async fn look_for(&self, caller: &Caller) -> Result<(), Refusal> {
        let is_known = |state: &State| state.calling(caller).is_some();
        if self.comes_to_know(is_known).await? {
            Ok(())
        } else {
            Err(Refusal::Unauthenticated)
        }
    }

    /// Whether something is known here, if need be after coming to the head of the log. A reading
    /// of it does: a stranger is no reason to write anything, nor to wait for those who write.
    async fn comes_to_know(&self, is_known: impl Fn(&State) -> bool) -> Result<bool, Refusal> {
        let is_known = || is_known(&self.replica.state());
        if is_known() || self.replica.is_alone() {
            return Ok(is_known());
        }
        let Ok(_one) = self.strangers.try_acquire() else {
            let what = "too many callers are not known here; try again";
            return Err(Refusal::Unavailable(what.to_owned()));
        };
        self.replica.look().await?;
        Ok(is_known())
    }

    /// A durable comparison with the head of the log, and nothing else.
    fn confirm(caller: Caller) -> Envelope {
        Envelope {
            caller,
            reason: String::new(),
            request: None,
            command: Command::Confirm,
        }
    }

    async fn submit(&self, envelope: Envelope, waits: bool) -> Result<Written, Refusal> {
        let (kind, request) = (envelope.command.kind(), envelope.request);
        let done = self.replica.submit(envelope).await?;
        let durable = done.durable();
        let change = match done.decided.outcome {
            Outcome::Change { change, .. } => Some(change),
            Outcome::Already | Outcome::Denied(_) => None,
            Outcome::Repeated(first) => {
                let durable = Durable {
                    revision: first,
                    ..durable
                };
                return self.first_answer(durable, request, waits).await;
            }
        };
        // What was so already may be so for no other server yet.
        let waits = waits || kind.is_some_and(EntryKind::may_deny);
        Ok(Written {
            about: done.decided.subject,
            change,
            revision: done.revision,
            instant_ms: done.instant_ms,
            repeated: false,
            awaited: waits.then_some(durable),
        })
    }

    // The log is what the first answer was made from. Without it nobody knows the outcome, though
    // there was one.
    async fn first_answer(
        &self,
        first: Durable,
        request: Option<Request>,
        waits: bool,
    ) -> Result<Written, Refusal> {
        let entries = self.replica.changes_after(first.revision - 1, 1).await;
        let mut entries = entries.map_err(|_| Refusal::OutcomeUnknown)?.into_iter();
        // After a failover that lost it, something else may have its number.
        let is_first = |one: &LogEntry| one.entry.request == request;
        let Some(LogEntry { entry, head, .. }) = entries.next().filter(is_first) else {
            return Err(Refusal::OutcomeUnknown);
        };
        Ok(Written {
            about: about(&entry.change),
            change: Some(entry.change),
            revision: head.revision(),
            instant_ms: entry.instant_ms,
            repeated: true,
            awaited: (waits || entry.kind.may_deny()).then_some(first),
        })
    }

    /// A caller's request id: scoped to its principal, and about the token that it means.
    fn request_of(
        &self,
        caller: &Caller,
        request: Option<RequestId<'_>>,
        command: &Command,
    ) -> Result<Option<Request>, Refusal> {
        if matches!(caller, Caller::Local | Caller::System) {
            return Self::request("local", request, None);
        }
        let state = self.replica.state();
        let who = callers::scope(&state, caller)?;
        let meant = state.calling(caller).and_then(|id| meant(command, id));
        Self::request(&who, request, meant)
    }

    fn request(
        who: &str,
        request: Option<RequestId<'_>>,
        meant: Option<TokenId>,
    ) -> Result<Option<Request>, Refusal> {
        let Some(request) = request.filter(|request| !request.id.is_empty()) else {
            return Ok(None);
        };
        let valid = request.id.len() <= REQUEST_ID_CHARS_MAX
            && request
                .id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !valid {
            return Err(Refusal::invalid(
                "request_id",
                "is 1 to 64 characters of [A-Za-z0-9._-]",
            ));
        }
        let scope = format!("{who}\n{}\n{}", request.method, request.id);
        let mut content = request.content.to_vec();
        content.extend(meant.iter().flat_map(|id| id.as_u128().to_be_bytes()));
        Ok(Some(Request {
            key: half_hash(scope.as_bytes()),
            fingerprint: half_hash(&content),
        }))
    }
}

/// The token that a request leaves out and the calling one fills in: the same words from another
/// token of the same principal are another request.
fn meant(command: &Command, calling: TokenId) -> Option<TokenId> {
    match command {
        Command::IssueToken(issue) => issue.derive.then_some(calling),
        Command::UpdateToken(update) => Some(update.id),
        Command::RenewToken { id, .. } | Command::RotateToken { id, .. } => id.or(Some(calling)),
        Command::RevokeToken { target, .. } => {
            matches!(target, RevokeTarget::Itself).then_some(calling)
        }
        _ => None,
    }
}

fn half_hash(bytes: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256::digest(bytes)[..16]);
    half
}

fn about(change: &Change) -> About {
    match change {
        Change::PutToken { record, .. } => About::Token(record.id),
        Change::RevokeToken { id, .. } | Change::UseToken { id, .. } => About::Token(*id),
        Change::PutPrincipal { record, .. } => About::Principal(record.id),
        Change::AddMember { team, member } | Change::RemoveMember { team, member, .. } => {
            About::Member(*team, *member)
        }
        Change::PutRole { record, .. } => About::Role(record.name.clone()),
        Change::PutGrant(record) => About::Grant(record.id),
        Change::PutMethod(record) => About::Method(record.principal, record.method),
        Change::Login { token, .. } => {
            let token = token.as_ref();
            token.map_or(About::Nothing, |new| About::Token(new.record.id))
        }
        Change::CutOff(_)
        | Change::DeletePrincipal(_)
        | Change::DeleteRole(_)
        | Change::DeleteGrant(_)
        | Change::Forget { .. }
        | Change::RaiseFormat(_)
        | Change::RevokeSession { .. }
        | Change::DeleteMethod { .. }
        | Change::Lock { .. }
        | Change::Unlock { .. }
        | Change::PutSealKeys(_) => About::Nothing,
    }
}

impl Reader {
    /// What the caller holds, on the State that it was judged on.
    pub(crate) fn power(&self) -> Power<'_> {
        let power = self.state.power_of(&self.caller);
        power.expect("the token was found good on this very State")
    }

    pub(crate) fn permits(&self, action: &str, at: &Resource) -> bool {
        let permission = Permission::known(action, ResourcePattern::exactly(at));
        self.power().holds(&permission)
    }

    /// Whether a subject is the caller or a team that it is in.
    pub(crate) fn is_own(&self, subject: &Subject) -> bool {
        self.state.relation(subject, self.principal) != Relation::None
    }

    /// Requires an action on everything that a pattern matches.
    pub(crate) fn require(&self, action: &str, on: ResourcePattern) -> Result<(), Refusal> {
        let permission = Permission::known(action, on);
        if self.power().holds(&permission) {
            Ok(())
        } else {
            Err(Refusal::NotPermitted(vec![permission]))
        }
    }

    /// Requires an action at or under a resource, or everywhere if none is named.
    pub(crate) fn require_under(
        &self,
        action: &str,
        under: Option<&Resource>,
    ) -> Result<(), Refusal> {
        let on = under.map_or_else(ResourcePattern::everything, ResourcePattern::under);
        self.require(action, on)
    }

    /// The principal with this name, if it exists.
    pub(crate) fn named(&self, name: &PrincipalName) -> Result<PrincipalId, Refusal> {
        let record = self.state.principal_named(name);
        record
            .map(|record| record.id)
            .ok_or(Refusal::NotFound(name.kind().name()))
    }

    /// The revision that the reader sees.
    pub(crate) fn revision(&self) -> Revision {
        self.state.head().revision()
    }
}

/// The number of rows to read for a page.
#[must_use]
pub fn page_rows(asked: u32) -> usize {
    match asked as usize {
        0 => PAGE_DEFAULT,
        rows => rows.min(PAGE_MAX),
    }
}
