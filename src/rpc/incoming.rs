//! What every call has in common: who calls, why, under which request id; and its answer.
//!
//! Used by the services of tokens, directory and audit, so that each of their methods is: read
//! the request, call the authority, convert the answer. Every request that writes is in the list
//! at the end. Absent on purpose: what a request means, and gRPC codes (`errors`).

use prost::Message;
use tonic::{Request, Response, Status};

use crate::authority::{Call, Credentials, RequestId};
use crate::domain::refusal::Refusal;
use crate::proto::v1;

use super::auth::Calling;
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
}

/// A write as the authority takes it, with the encoded request that a repeat must equal.
pub(super) struct WriteCall<'a> {
    /// Who calls.
    pub(super) credentials: Credentials<'a>,
    reason: &'a str,
    method: &'static str,
    id: &'a str,
    content: Vec<u8>,
    calling: Calling,
}

impl<'a> WriteCall<'a> {
    /// What came with a request.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] for metadata that is no bearer token.
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
            calling: Calling::of(request),
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
            calling: Some(self.calling.cell()),
        }
    }
}

/// Implements [`Write`] for messages that have the two fields.
macro_rules! writes {
    ($($request:ident)*) => {$(
        impl Write for v1::$request {
            const METHOD: &'static str = stringify!($request);

            fn reason(&self) -> &str {
                &self.reason
            }

            fn request_id(&self) -> &str {
                &self.request_id
            }
        }
    )*};
}

writes! {
    IssueTokenRequest UpdateTokenRequest RenewTokenRequest RotateTokenRequest
    RevokeTokenRequest RevokeAllRequest
    CreateUserRequest UpdateUserRequest DeleteUserRequest DisableUserRequest EnableUserRequest
    CreateTeamRequest UpdateTeamRequest DeleteTeamRequest DisableTeamRequest EnableTeamRequest
    CreateServiceAccountRequest UpdateServiceAccountRequest DeleteServiceAccountRequest
    DisableServiceAccountRequest EnableServiceAccountRequest
    AddTeamMemberRequest RemoveTeamMemberRequest
    CreateRoleRequest UpdateRoleRequest DeleteRoleRequest
    CreateGrantRequest DeleteGrantRequest
}
