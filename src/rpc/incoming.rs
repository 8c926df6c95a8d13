//! What every call has in common: who calls, why, under which request id; and its answer.
//!
//! Used by the services of tokens, directory and audit, so that each of their methods is: read
//! the request, call the authority, convert the answer. Every request that writes is in the list
//! at the end. Absent on purpose: what a request means, and gRPC codes (`errors`).

use std::future::Future;

use prost::Message;
use tonic::{Request, Response, Status};

use crate::authority::{Authority, Call, Credentials, RequestId, Written};
use crate::domain::refusal::Refusal;
use crate::proto::v1;

use super::auth::Calling;
use super::enforce::{Patience, enforcement};
use super::{auth, errors};

/// What a method of a service returns.
pub(super) type Answer<T> = Result<Response<T>, Status>;

/// Wraps what the authority answered or refused.
pub(super) fn answer<T>(result: Result<T, Refusal>) -> Answer<T> {
    result.map(Response::new).map_err(errors::status)
}

/// A request that writes.
pub(super) trait Write: Message {
    /// The method that a request id is scoped to.
    const METHOD: &'static str;

    /// Why; empty if none was given.
    fn reason(&self) -> &str;

    /// The client's request id; empty if none was given.
    fn request_id(&self) -> &str;

    /// Whether the answer is to wait for every server, which those that may take something away
    /// do unasked.
    fn waits(&self) -> bool;
}

/// A write as the authority takes it, with the encoded request that a repeat must equal.
pub(super) struct WriteCall<'a> {
    /// Who calls.
    pub(super) credentials: Credentials<'a>,
    reason: &'a str,
    method: &'static str,
    id: &'a str,
    content: Vec<u8>,
    waits: bool,
    calling: Calling,
    patience: Patience,
}

impl<'a> WriteCall<'a> {
    /// What came with a request.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] for metadata that is no bearer token, and
    /// [`Refusal::Unavailable`] for a call that has no deadline.
    pub(super) fn of<T: Write>(request: &'a Request<T>) -> Result<Self, Refusal> {
        let message = request.get_ref();
        let id = message.request_id();
        Ok(Self {
            credentials: auth::credentials(request)?,
            reason: message.reason(),
            method: T::METHOD,
            id,
            // The id itself is in it, which makes no difference: a repeat has the same.
            content: if id.is_empty() {
                Vec::new()
            } else {
                message.encode_to_vec()
            },
            waits: message.waits(),
            calling: Calling::of(request),
            patience: Patience::of(request)?,
        })
    }

    /// The call, for as long as this is held.
    pub(super) fn call(&self) -> Call<'_> {
        Call {
            credentials: self.credentials,
            reason: self.reason,
            request: (!self.id.is_empty()).then_some(RequestId {
                method: self.method,
                id: self.id,
                content: &self.content,
            }),
            waits: self.waits,
            calling: Some(self.calling.cell()),
        }
    }

    /// Waits until a write is enforced as far as it must be before it is answered.
    ///
    /// # Errors
    /// [`Refusal::OutcomeUnknown`] when the write may be lost.
    pub(super) async fn enforced(
        &self,
        authority: &Authority,
        written: &Written,
    ) -> Result<Option<v1::Enforcement>, Refusal> {
        let enforced = self.patience.enforced(authority, written).await?;
        Ok(enforced.as_ref().map(enforcement))
    }

    /// The same, and meanwhile reads back what the write is about; what cannot be read in time
    /// is left out.
    ///
    /// # Errors
    /// As [`WriteCall::enforced`].
    pub(super) async fn settle<T>(
        &self,
        authority: &Authority,
        written: &Written,
        read_back: impl Future<Output = Option<T>>,
    ) -> Result<(Option<v1::Enforcement>, Option<T>), Refusal> {
        let read_back = self.patience.in_time(read_back);
        let (enforced, read) = tokio::join!(self.enforced(authority, written), read_back);
        Ok((enforced?, read))
    }
}

/// Implements [`Write`] for messages that have the two fields, and a third if they only add.
macro_rules! writes {
    ($waits:ident: $($request:ident)*) => {$(
        impl Write for v1::$request {
            const METHOD: &'static str = stringify!($request);

            fn reason(&self) -> &str {
                &self.reason
            }

            fn request_id(&self) -> &str {
                &self.request_id
            }

            fn waits(&self) -> bool {
                writes!(@$waits self)
            }
        }
    )*};
    (@if_asked $this:ident) => { $this.wait_for_replicas };
    (@unasked $this:ident) => { false };
    (@always $this:ident) => { true };
}

writes! {
    if_asked:
    IssueTokenRequest RenewTokenRequest
    CreateUserRequest EnableUserRequest
    CreateTeamRequest EnableTeamRequest
    CreateServiceAccountRequest EnableServiceAccountRequest
    AddTeamMemberRequest CreateRoleRequest CreateGrantRequest
    CreateClientSecretRequest RegisterPublicKeyRequest RotateKeyRequest
}

// What only adds and is wanted everywhere at once.
writes! {
    always:
    UnlockLoginsRequest
}

writes! {
    unasked:
    UpdateTokenRequest RotateTokenRequest RevokeTokenRequest RevokeAllRequest
    UpdateUserRequest DeleteUserRequest DisableUserRequest
    UpdateTeamRequest DeleteTeamRequest DisableTeamRequest
    UpdateServiceAccountRequest DeleteServiceAccountRequest DisableServiceAccountRequest
    RemoveTeamMemberRequest UpdateRoleRequest DeleteRoleRequest DeleteGrantRequest
    SetLoginMethodRequest RemoveLoginMethodRequest
    RetireKeyRequest RevokeKeyRequest
}
