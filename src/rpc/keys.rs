//! The key service: which seal keys there are, and how one follows another.
//!
//! Used by the server. What a key is never comes here: only its id does.

use tonic::Request;

use crate::authority::keys::KeySeen;
use crate::authority::{Authority, Command};
use crate::domain::change::KeyPhase;
use crate::domain::refusal::Refusal;
use crate::domain::seal::key::KeyId;
use crate::proto::v1;
use crate::proto::v1::key_service_server::KeyService;

use super::auth;
use super::convert::{optional, revision, timestamp};
use super::incoming::{Answer, WriteCall, answer};

/// The key service over an authority.
pub(super) struct KeyRpc {
    authority: Authority,
}

#[tonic::async_trait]
impl KeyService for KeyRpc {
    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Answer<v1::ListKeysResponse> {
        answer(self.list(&request).await)
    }

    async fn rotate_key(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Answer<v1::RotateKeyResponse> {
        answer(self.rotate(&request).await)
    }

    async fn retire_key(
        &self,
        request: Request<v1::RetireKeyRequest>,
    ) -> Answer<v1::RetireKeyResponse> {
        answer(self.retire(&request).await)
    }

    async fn revoke_key(
        &self,
        request: Request<v1::RevokeKeyRequest>,
    ) -> Answer<v1::RevokeKeyResponse> {
        answer(self.revoke(&request).await)
    }
}

impl KeyRpc {
    /// The service over an authority.
    pub(super) fn new(authority: Authority) -> Self {
        Self { authority }
    }

    async fn list(
        &self,
        request: &Request<v1::ListKeysRequest>,
    ) -> Result<v1::ListKeysResponse, Refusal> {
        let keys = self
            .authority
            .seal_keys(auth::credentials(request)?)
            .await?;
        Ok(v1::ListKeysResponse {
            keys: keys.into_iter().map(shown).collect(),
        })
    }

    async fn rotate(
        &self,
        request: &Request<v1::RotateKeyRequest>,
    ) -> Result<v1::RotateKeyResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let named = optional("key_id", &request.get_ref().key_id, key_id)?;
        let (key, written) = self.authority.rotate_key(incoming.call(), named).await?;
        Ok(v1::RotateKeyResponse {
            enforcement: incoming.enforced(&self.authority, &written).await?,
            revision: Some(revision(written.revision)),
            key_id: key.to_string(),
        })
    }

    async fn retire(
        &self,
        request: &Request<v1::RetireKeyRequest>,
    ) -> Result<v1::RetireKeyResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let command = Command::RetireKey(key_id("key_id", &request.get_ref().key_id)?);
        let written = self.authority.write(incoming.call(), command).await?;
        Ok(v1::RetireKeyResponse {
            enforcement: incoming.enforced(&self.authority, &written).await?,
            revision: Some(revision(written.revision)),
        })
    }

    async fn revoke(
        &self,
        request: &Request<v1::RevokeKeyRequest>,
    ) -> Result<v1::RevokeKeyResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let command = Command::RevokeKey(key_id("key_id", &request.get_ref().key_id)?);
        let written = self.authority.write(incoming.call(), command).await?;
        Ok(v1::RevokeKeyResponse {
            enforcement: incoming.enforced(&self.authority, &written).await?,
            revision: Some(revision(written.revision)),
        })
    }
}

fn key_id(field: &'static str, text: &str) -> Result<KeyId, Refusal> {
    text.parse().map_err(|error| Refusal::invalid(field, error))
}

fn shown(seen: KeySeen) -> v1::SealKey {
    let phase = match seen.record.map(|record| record.phase) {
        None => v1::KeyPhase::Unspecified,
        Some(KeyPhase::Minting) => v1::KeyPhase::Minting,
        Some(KeyPhase::Verifying) => v1::KeyPhase::Verifying,
        Some(KeyPhase::Retired) => v1::KeyPhase::Retired,
        Some(KeyPhase::Revoked) => v1::KeyPhase::Revoked,
    };
    v1::SealKey {
        key_id: seen.id.to_string(),
        phase: phase.into(),
        since: seen.record.map(|record| timestamp(record.since_ms)),
        loaded_by: seen.loaded_by,
        missing_on: seen.missing_on,
    }
}
