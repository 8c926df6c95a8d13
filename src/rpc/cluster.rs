//! The cluster service: waiting for a revision everywhere, and who answers together.
//!
//! Used by the server. Whoever waits here has stepped aside like a write that does.

use tonic::Request;

use crate::authority::Authority;
use crate::authority::cluster::ReplicaSeen;
use crate::domain::refusal::Refusal;
use crate::proto::v1;
use crate::proto::v1::cluster_service_server::ClusterService;

use super::auth;
use super::convert::{milliseconds, revision, revision_asked, timestamp};
use super::enforce::{Patience, enforcement};
use super::errors::invalid;
use super::incoming::{Answer, answer};

/// The cluster service over an authority.
pub(super) struct ClusterRpc {
    authority: Authority,
}

#[tonic::async_trait]
impl ClusterService for ClusterRpc {
    async fn wait_for_revision(
        &self,
        request: Request<v1::WaitForRevisionRequest>,
    ) -> Answer<v1::WaitForRevisionResponse> {
        answer(self.wait(&request).await)
    }

    async fn list_replicas(
        &self,
        request: Request<v1::ListReplicasRequest>,
    ) -> Answer<v1::ListReplicasResponse> {
        answer(self.list(&request).await)
    }
}

impl ClusterRpc {
    /// The service over an authority.
    pub(super) fn new(authority: Authority) -> Self {
        Self { authority }
    }

    async fn wait(
        &self,
        request: &Request<v1::WaitForRevisionRequest>,
    ) -> Result<v1::WaitForRevisionResponse, Refusal> {
        let credentials = auth::credentials(request)?;
        let asked = revision_asked("revision", request.get_ref().revision.as_ref())?;
        let asked = asked.ok_or_else(|| invalid("revision", "is required"))?;
        let until = Patience::of(request)?.step_aside();
        let enforced = self.authority.wait_for(credentials, asked, until).await?;
        Ok(v1::WaitForRevisionResponse {
            enforcement: Some(enforcement(&enforced)),
        })
    }

    async fn list(
        &self,
        request: &Request<v1::ListReplicasRequest>,
    ) -> Result<v1::ListReplicasResponse, Refusal> {
        let credentials = auth::credentials(request)?;
        let seen = self.authority.replicas(credentials).await?;
        Ok(v1::ListReplicasResponse {
            replicas: seen.replicas.into_iter().map(shown).collect(),
            head: Some(revision(seen.head)),
            lease: seen.lease_ms.map(milliseconds),
        })
    }
}

fn shown(seen: ReplicaSeen) -> v1::Replica {
    let member = seen.membership;
    let hex = |bytes: [u8; 16]| format!("{:032x}", u128::from_be_bytes(bytes));
    v1::Replica {
        name: seen.name,
        address: seen.address,
        incarnation: member.map_or_else(String::new, |member| hex(member.incarnation)),
        applied_revision: seen.applied,
        lag_revisions: seen.lag,
        lease: member.map(|member| milliseconds(member.lease_ms)),
        heard_ago: member.map(|member| milliseconds(member.heard_ago_ms)),
        joined_at: member.map(|member| timestamp(member.joined_ms)),
        format_max: seen.format_max,
        is_this_server: seen.is_this_server,
    }
}
