//! The client: typed calls to a Latchkey server, and a tower layer that checks requests.
//!
//! Used by services that check what comes in, and by programs that issue and revoke. Promise:
//! an allow is handed to the caller only while it may be acted on, which is what "no allow
//! after a confirmed revocation" rests on at the caller's end. `valid_for` counts from before
//! the request was sent, on a clock that runs in suspend; every call has a deadline. Whatever
//! is not a fresh allow is a denial or an error, never an allow.
//!
//! Absent on purpose: a cache of allows (it would outlive a revocation) and retries (the caller
//! knows its own deadline).

mod bearer;
mod calls;
mod check;
mod enforced;
mod layer;
mod login;
mod policy;
mod refusal;
mod secured;

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod fake_tests;
#[cfg(test)]
mod layer_tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tonic::Request;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Error};

pub use self::calls::{CallError, Calling, CallingToken, MalformedToken};
pub use self::check::{CheckError, CheckQuery, Denial, Identity, Verdict};
pub use self::enforced::Enforced;
pub use self::layer::{CheckLayer, Checked};
pub use self::login::{LoggedIn, Login, LoginError};
pub use self::policy::{Needs, Policy};
pub use self::secured::Tls;
pub use crate::proto::v1;

use self::calls::within;
use self::check::{Timing, judge, undecided};
use crate::domain::clock::{Clock, SystemClock};
use v1::audit_service_client::AuditServiceClient;
use v1::check_service_client::CheckServiceClient;
use v1::cluster_service_client::ClusterServiceClient;
use v1::credential_service_client::CredentialServiceClient;
use v1::directory_service_client::DirectoryServiceClient;
use v1::login_service_client::LoginServiceClient;
use v1::token_service_client::TokenServiceClient;

/// How long a Check may take unless the client or the query says otherwise: what Envoy gives
/// its authorisation call.
pub const CHECK_DEADLINE: Duration = Duration::from_millis(200);

/// How long every other unary call may take unless the client says otherwise.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
// A half-open connection is found within the sum of the two, also while it is idle.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The channel of the raw clients: it adds the calling token and the deadline to each request.
pub type CallingChannel = InterceptedService<Channel, Calling>;

/// A client of one Latchkey server, or of what its channel balances over. Cheap to clone; all
/// clones share the connection, and the own writes if they are remembered.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    token: Arc<ArcSwapOption<CallingToken>>,
    clock: Arc<dyn Clock>,
    check_deadline: Duration,
    call_deadline: Duration,
    // Written after every write, read before every Check, by all clones; never held across an
    // await. `None` when own writes are not remembered.
    own_writes: Option<Arc<Mutex<Option<v1::Revision>>>>,
}

impl Client {
    /// Connects to a server, for example `http://127.0.0.1:7421`.
    ///
    /// # Errors
    /// The transport's, when the address does not parse or cannot be reached within 5 s.
    pub async fn connect(endpoint: impl Into<String>) -> Result<Self, Error> {
        Ok(Self::from_channel(
            configured(endpoint.into())?.connect().await?,
        ))
    }

    /// Connects at the first call, and again whenever the connection was lost: for services
    /// that must start before Latchkey does. Until then every Check is an error.
    ///
    /// # Errors
    /// The transport's, when the address does not parse.
    pub fn connect_lazy(endpoint: impl Into<String>) -> Result<Self, Error> {
        Ok(Self::from_channel(
            configured(endpoint.into())?.connect_lazy(),
        ))
    }

    /// Connects over TLS, for example to `https://latchkey.example:7421`.
    ///
    /// # Errors
    /// As [`Client::connect`], and for certificates that cannot be used.
    pub async fn connect_secured(endpoint: impl Into<String>, tls: Tls) -> Result<Self, Error> {
        let endpoint = configured(endpoint.into())?.tls_config(tls.0)?;
        Ok(Self::from_channel(endpoint.connect().await?))
    }

    /// As [`Client::connect_lazy`], over TLS.
    ///
    /// # Errors
    /// The transport's, when the address does not parse or the certificates cannot be used.
    pub fn connect_secured_lazy(endpoint: impl Into<String>, tls: Tls) -> Result<Self, Error> {
        let endpoint = configured(endpoint.into())?.tls_config(tls.0)?;
        Ok(Self::from_channel(endpoint.connect_lazy()))
    }

    /// A client over a channel that the caller built, with several addresses or its own TLS.
    #[must_use]
    pub fn from_channel(channel: Channel) -> Self {
        Self {
            channel,
            token: Arc::default(),
            clock: Arc::new(SystemClock::start()),
            check_deadline: CHECK_DEADLINE,
            call_deadline: CALL_DEADLINE,
            own_writes: None,
        }
    }

    /// Presents this token as the caller's own, in every call.
    #[must_use]
    pub fn with_token(mut self, token: CallingToken) -> Self {
        self.token = Arc::new(ArcSwapOption::from_pointee(token));
        self
    }

    /// Judges freshness by this clock instead of the machine's. Its boot time must run in
    /// suspend.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Gives each Check this long instead of [`CHECK_DEADLINE`].
    #[must_use]
    pub fn with_check_deadline(mut self, deadline: Duration) -> Self {
        self.check_deadline = deadline;
        self
    }

    /// Gives every other unary call this long instead of [`CALL_DEADLINE`].
    #[must_use]
    pub fn with_call_deadline(mut self, deadline: Duration) -> Self {
        self.call_deadline = deadline;
        self
    }

    /// Remembers the newest revision of this client's own writes and demands it of every
    /// Check, so that a Check never answers as if they had not happened.
    #[must_use]
    pub fn with_own_writes_read(mut self) -> Self {
        self.own_writes = Some(Arc::default());
        self
    }

    /// Asks whether a token may do what it is presented for.
    ///
    /// # Errors
    /// Nothing was decided and the request must not pass; see [`CheckError`].
    pub async fn check(&self, query: CheckQuery) -> Result<Verdict, CheckError> {
        let (question, deadline) = query.into_parts();
        let deadline = deadline.unwrap_or(self.check_deadline);
        let mut request = Request::new(self.demand_own_writes(question));
        request.set_timeout(deadline);
        let mut service = self.raw_check();
        // Read before the request can leave, and before a lost connection is made anew: an
        // answer is never taken for younger than it is.
        let sent_ms = self.clock.boot_ms();
        let answer = tokio::time::timeout(deadline, service.check(request)).await;
        let timing = Timing {
            sent_ms,
            received_ms: self.clock.boot_ms(),
            deadline,
        };
        match answer {
            Err(_) => Err(CheckError::DeadlineExceeded),
            Ok(Err(status)) => Err(undecided(status)),
            Ok(Ok(answer)) => judge(answer.into_inner(), timing),
        }
    }

    /// Issues a token. The answer has its secret, for the only time. With `wait_for_replicas`
    /// it works on every replica once [`Enforced::of`] the answer is confirmed.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn issue(
        &self,
        request: v1::IssueTokenRequest,
    ) -> Result<v1::IssueTokenResponse, CallError> {
        let mut service = self.raw_tokens();
        let answer = within(self.call_deadline, service.issue_token(request)).await?;
        self.observe(answer.revision.as_ref());
        Ok(answer)
    }

    /// Revokes a token and all that is derived from it, for good. Waits until every replica
    /// enforces it, or shortly before the deadline: see [`Enforced::of`] the answer.
    ///
    /// # Errors
    /// See [`CallError`]. Revoking twice is no error.
    pub async fn revoke(
        &self,
        request: v1::RevokeTokenRequest,
    ) -> Result<v1::RevokeTokenResponse, CallError> {
        let mut service = self.raw_tokens();
        let answer = within(self.call_deadline, service.revoke_token(request)).await?;
        self.observe(answer.revision.as_ref());
        Ok(answer)
    }

    /// Asks who the calling token is and what it may do.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn whoami(&self) -> Result<v1::WhoAmIResponse, CallError> {
        let mut service = self.raw_tokens();
        let request = v1::WhoAmIRequest {};
        within(self.call_deadline, service.who_am_i(request)).await
    }

    /// Waits until every replica answers by a revision, within the client's deadline for calls.
    ///
    /// # Errors
    /// See [`CallError`]; refused with `NOT_REACHED` or `HISTORY_DIVERGED` for a revision that
    /// the log does not hold.
    pub async fn wait_for_revision(&self, revision: v1::Revision) -> Result<Enforced, CallError> {
        let mut service = self.raw_cluster();
        let request = v1::WaitForRevisionRequest {
            revision: Some(revision),
        };
        let answer = within(self.call_deadline, service.wait_for_revision(request)).await?;
        Ok(Enforced::of(answer.enforcement.as_ref()))
    }

    /// Takes a revision for one of the own writes: for writes made with a raw client.
    pub fn observe(&self, revision: Option<&v1::Revision>) {
        let (Some(own_writes), Some(revision)) = (&self.own_writes, revision) else {
            return;
        };
        let mut newest = own_writes.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = newer(newest.take(), Some(revision.clone()));
    }

    /// Forgets the own writes: the way out of [`CheckError::HistoryDiverged`] once the caller
    /// knows that its writes were lost to a restored backup.
    pub fn forget_own_writes(&self) {
        if let Some(own_writes) = &self.own_writes {
            *own_writes.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// The generated client of `TokenService`. A request without a timeout of its own gets
    /// the client's.
    #[must_use]
    pub fn raw_tokens(&self) -> TokenServiceClient<CallingChannel> {
        TokenServiceClient::new(self.calling(Some(self.call_deadline)))
    }

    /// The generated client of `LoginService`. A request without a timeout of its own gets the
    /// client's.
    #[must_use]
    pub fn raw_logins(&self) -> LoginServiceClient<CallingChannel> {
        LoginServiceClient::new(self.calling(Some(self.call_deadline)))
    }

    /// The generated client of `CredentialService`. A request without a timeout of its own gets
    /// the client's.
    #[must_use]
    pub fn raw_credentials(&self) -> CredentialServiceClient<CallingChannel> {
        CredentialServiceClient::new(self.calling(Some(self.call_deadline)))
    }

    /// The generated client of `DirectoryService`. A request without a timeout of its own
    /// gets the client's.
    #[must_use]
    pub fn raw_directory(&self) -> DirectoryServiceClient<CallingChannel> {
        DirectoryServiceClient::new(self.calling(Some(self.call_deadline)))
    }

    /// The generated client of `ClusterService`. A request without a timeout of its own gets
    /// the client's.
    #[must_use]
    pub fn raw_cluster(&self) -> ClusterServiceClient<CallingChannel> {
        ClusterServiceClient::new(self.calling(Some(self.call_deadline)))
    }

    /// The generated client of `AuditService`, whose streams have no natural end: it sets no
    /// deadline, so that each request must set its own.
    #[must_use]
    pub fn raw_audit(&self) -> AuditServiceClient<CallingChannel> {
        AuditServiceClient::new(self.calling(None))
    }

    /// The generated client of `CheckService`, for batches and streams. It sets no deadline
    /// and keeps no watch over `valid_for`: who lets a request pass on its answers must.
    #[must_use]
    pub fn raw_check(&self) -> CheckServiceClient<CallingChannel> {
        CheckServiceClient::new(self.calling(None))
    }

    pub(in crate::client) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn calling(&self, deadline: Option<Duration>) -> CallingChannel {
        let calling = Calling::new(Arc::clone(&self.token), deadline);
        InterceptedService::new(self.channel.clone(), calling)
    }

    fn demand_own_writes(&self, mut question: v1::CheckRequest) -> v1::CheckRequest {
        if let Some(own_writes) = &self.own_writes {
            let own = own_writes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            question.at_least = newer(own, question.at_least);
        }
        question
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("token", &self.token.load())
            .field("check_deadline", &self.check_deadline)
            .field("call_deadline", &self.call_deadline)
            .finish_non_exhaustive()
    }
}

/// The later of two demands. Of the same number the second: after a restore, the history that
/// was seen last is the one that lives.
fn newer(first: Option<v1::Revision>, second: Option<v1::Revision>) -> Option<v1::Revision> {
    let number = |revision: &Option<v1::Revision>| revision.as_ref().map(|it| it.number);
    if number(&second) >= number(&first) {
        second
    } else {
        first
    }
}

fn configured(endpoint: String) -> Result<Endpoint, Error> {
    Ok(Endpoint::from_shared(endpoint)?
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}
