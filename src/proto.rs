//! The generated code of the interface definitions under `proto/`.
//!
//! `v1` is the public gRPC API, used by `rpc`, `cli` and `client`; `log` is the
//! format of log entries, used by `domain::change` alone; `envoy` is the part of Envoy's
//! API that is served, for tests and clients: the server reads and writes its bytes itself.
//! `build.rs` generates all of them.
//! Promise: no `Debug` of a public message prints a secret; the messages that carry
//! one have theirs written here, and those of the log have none.
//! Absent on purpose: conversions to and from domain types.

use std::fmt;

/// The public API, package `latchkey.v1`, with a server and a client per service.
#[allow(missing_docs, unreachable_pub, unused_qualifications)]
#[allow(clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
pub mod v1 {
    tonic::include_proto!("latchkey.v1");
}

/// The format of log entries, package `latchkey.log.v1`.
#[allow(missing_docs, unreachable_pub, unused_qualifications)]
#[allow(clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
pub(crate) mod log {
    tonic::include_proto!("latchkey.log.v1");
}

/// What is used of Envoy's API, by its packages, with a client and without a server.
#[allow(missing_docs, unreachable_pub, unused_qualifications)]
#[allow(clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
pub mod envoy {
    pub mod service {
        pub mod auth {
            pub mod v3 {
                tonic::include_proto!("envoy.service.auth.v3");
            }
        }
    }
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod r#type {
        pub mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
}

/// The descriptors of the public API and of what it imports, an encoded
/// `google.protobuf.FileDescriptorSet` with the comments, as reflection serves it.
pub const DESCRIPTOR: &[u8] = tonic::include_file_descriptor_set!("latchkey_descriptor");

/// Stands for a secret in `Debug` output: tells whether there is one, and not how
/// long it is.
struct Withheld<'a>(&'a str);

impl fmt::Debug for Withheld<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "none"
        } else {
            "withheld"
        })
    }
}

impl fmt::Debug for v1::CheckRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            token,
            needs,
            context,
            accepted_kinds,
            at_least,
            request_id,
        } = self;
        f.debug_struct("CheckRequest")
            .field("token", &Withheld(token))
            .field("needs", needs)
            .field("context", context)
            .field("accepted_kinds", accepted_kinds)
            .field("at_least", at_least)
            .field("request_id", request_id)
            .finish()
    }
}

impl fmt::Debug for v1::IssueTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            revision,
            token,
            secret,
            secret_withheld,
            enforcement,
        } = self;
        f.debug_struct("IssueTokenResponse")
            .field("revision", revision)
            .field("token", token)
            .field("secret", &Withheld(secret))
            .field("secret_withheld", secret_withheld)
            .field("enforcement", enforcement)
            .finish()
    }
}

impl fmt::Debug for v1::RotateTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            revision,
            token,
            secret,
            secret_withheld,
            enforcement,
        } = self;
        f.debug_struct("RotateTokenResponse")
            .field("revision", revision)
            .field("token", token)
            .field("secret", &Withheld(secret))
            .field("secret_withheld", secret_withheld)
            .field("enforcement", enforcement)
            .finish()
    }
}

impl fmt::Debug for v1::RevokeTokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            target,
            compromised,
            reason,
            request_id,
        } = self;
        f.debug_struct("RevokeTokenRequest")
            .field("target", target)
            .field("compromised", compromised)
            .field("reason", reason)
            .field("request_id", request_id)
            .finish()
    }
}

impl fmt::Debug for v1::revoke_token_request::Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenId(token_id) => f.debug_tuple("TokenId").field(token_id).finish(),
            Self::Secret(secret) => f.debug_tuple("Secret").field(&Withheld(secret)).finish(),
            Self::AccessTokenId(id) => f.debug_tuple("AccessTokenId").field(id).finish(),
        }
    }
}

impl fmt::Debug for v1::ExplainRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            target,
            needs,
            context,
            accepted_kinds,
            at_revision,
        } = self;
        f.debug_struct("ExplainRequest")
            .field("target", target)
            .field("needs", needs)
            .field("context", context)
            .field("accepted_kinds", accepted_kinds)
            .field("at_revision", at_revision)
            .finish()
    }
}

impl fmt::Debug for v1::explain_request::Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenId(token_id) => f.debug_tuple("TokenId").field(token_id).finish(),
            Self::Token(token) => f.debug_tuple("Token").field(&Withheld(token)).finish(),
        }
    }
}

impl fmt::Debug for v1::LoginRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client_id,
            proof,
            ttl,
            scopes,
            audience,
        } = self;
        f.debug_struct("LoginRequest")
            .field("client_id", client_id)
            .field("proof", proof)
            .field("ttl", ttl)
            .field("scopes", scopes)
            .field("audience", audience)
            .finish()
    }
}

impl fmt::Debug for v1::login_request::Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, secret) = match self {
            Self::ClientSecret(secret) => ("ClientSecret", secret),
            Self::Assertion(assertion) => ("Assertion", assertion),
        };
        f.debug_tuple(name).field(&Withheld(secret)).finish()
    }
}

impl fmt::Debug for v1::AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            access_token,
            token_type,
            token_id,
            expires_in,
            expires_at,
            renewable,
            max_expires_at,
            clipped,
            stored,
            revision,
        } = self;
        f.debug_struct("AccessToken")
            .field("access_token", &Withheld(access_token))
            .field("token_type", token_type)
            .field("token_id", token_id)
            .field("expires_in", expires_in)
            .field("expires_at", expires_at)
            .field("renewable", renewable)
            .field("max_expires_at", max_expires_at)
            .field("clipped", clipped)
            .field("stored", stored)
            .field("revision", revision)
            .finish()
    }
}

impl fmt::Debug for v1::CreateClientSecretResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            revision,
            credential,
            client_id,
            client_secret,
            secret_withheld,
            enforcement,
        } = self;
        f.debug_struct("CreateClientSecretResponse")
            .field("revision", revision)
            .field("credential", credential)
            .field("client_id", client_id)
            .field("client_secret", &Withheld(client_secret))
            .field("secret_withheld", secret_withheld)
            .field("enforcement", enforcement)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::{DESCRIPTOR, v1};

    const SECRET: &str = "lku_0123456789";

    #[test]
    fn debug_output_withholds_secrets() {
        let check = v1::CheckRequest {
            token: SECRET.into(),
            ..Default::default()
        };
        let stream = v1::StreamCheckRequest {
            id: 1,
            check: Some(check.clone()),
        };
        let batch = v1::BatchCheckRequest {
            checks: vec![check.clone()],
            at_least: None,
        };
        let issued = v1::IssueTokenResponse {
            secret: SECRET.into(),
            ..Default::default()
        };
        let rotated = v1::RotateTokenResponse {
            secret: SECRET.into(),
            ..Default::default()
        };
        let revoke = v1::RevokeTokenRequest {
            target: Some(v1::revoke_token_request::Target::Secret(SECRET.into())),
            ..Default::default()
        };
        let explain = v1::ExplainRequest {
            target: Some(v1::explain_request::Target::Token(SECRET.into())),
            ..Default::default()
        };
        let outputs = [
            format!("{check:?}"),
            format!("{stream:?}"),
            format!("{batch:?}"),
            format!("{issued:?}"),
            format!("{rotated:?}"),
            format!("{revoke:?}"),
            format!("{explain:?}"),
        ];
        for output in outputs {
            assert!(!output.contains("0123456789"), "{output}");
            assert!(output.contains("withheld"), "{output}");
        }
    }

    #[test]
    fn every_field_named_like_a_secret_is_withheld() {
        // A new message that carries a secret must be added to `build.rs`.
        const KNOWN: [&str; 5] = [
            "CheckRequest",
            "ExplainRequest",
            "IssueTokenResponse",
            "RevokeTokenRequest",
            "RotateTokenResponse",
        ];
        let mut found = Vec::new();
        for file in public_files() {
            for message in file.message_type {
                let carries = message.field.iter().any(|field| {
                    field.r#type == Some(prost_types::field_descriptor_proto::Type::String as i32)
                        && ["token", "secret"].contains(&field.name())
                });
                if carries {
                    found.push(message.name().to_owned());
                }
            }
        }
        found.sort();
        assert_eq!(found, KNOWN);
    }

    #[test]
    fn reflection_does_not_show_the_log_format() {
        let packages: Vec<String> = public_files()
            .iter()
            .map(|file| file.package().to_owned())
            .collect();
        assert!(packages.iter().any(|package| package == "latchkey.v1"));
        for package in packages {
            let public = ["latchkey.v1", "envoy.", "google."];
            assert!(
                public.iter().any(|name| package.starts_with(name)),
                "{package}"
            );
        }
    }

    fn public_files() -> Vec<prost_types::FileDescriptorProto> {
        prost_types::FileDescriptorSet::decode(DESCRIPTOR)
            .expect("build.rs encoded it")
            .file
    }
}
