//! Key pairs that log in: the private half, which only its owner has, and what it signs.
//!
//! Used by the program where it stands in for a service account: making a pair, and logging in
//! with one. The server never sees this half. Written and read as PKCS#8 in PEM (RFC 5958), which
//! other software reads too.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::json;
use thiserror::Error;
use zeroize::Zeroizing;

use super::entropy::Entropy;
use super::key::{Algorithm, PublicKey};
use super::pem;
use super::token::TokenId;

const LABEL: &str = "PRIVATE KEY";
const SEED_BYTES: usize = 32;
/// An Ed25519 key up to its seed, without its public half: older software reads no other form
/// (RFC 8410, section 7).
const ED25519_INFO: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why a text is no private key that can be used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PairError {
    /// It is of no other form.
    #[error("wants one PEM block with a private key, `-----BEGIN PRIVATE KEY-----`")]
    NoPem,
    /// A password would have to be asked for.
    #[error("this key has a password: write it without one with `openssl pkey`")]
    Encrypted,
    /// An older form than PKCS#8.
    #[error("this key is not in PKCS#8 form: write it so with `openssl pkcs8 -topk8 -nocrypt`")]
    OldForm,
    /// Only half of it.
    #[error("this is a public key: the private one is wanted")]
    Public,
    /// Of another algorithm, or damaged.
    #[error("wants a private key of Ed25519 or P-256 that is whole")]
    Algorithm,
    /// The machine's failure, and nobody's mistake.
    #[error("the operating system gives no random numbers")]
    NoRandom,
}

/// A private key with its public half.
pub struct KeyPair {
    private: Private,
    public: PublicKey,
    /// PKCS#8, as it was read or made.
    content: Zeroizing<Vec<u8>>,
}

enum Private {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// What an assertion states; see [`super::assertion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The credential that the public half is.
    pub credential: TokenId,
    /// The client, such as `service:ci-runner`.
    pub client: &'a str,
    /// Who it is for.
    pub audience: &'a str,
    /// When it is signed, in Unix seconds.
    pub now_s: u64,
    /// For how many seconds it is good.
    pub life_s: u64,
    /// What no other one of this credential states.
    pub jti: &'a str,
}

impl KeyPair {
    /// A new pair.
    ///
    /// # Errors
    /// [`PairError::NoRandom`].
    pub fn generate(algorithm: Algorithm, entropy: &dyn Entropy) -> Result<Self, PairError> {
        match algorithm {
            Algorithm::Ed25519 => {
                let mut seed = Zeroizing::new([0; SEED_BYTES]);
                entropy.fill(&mut *seed);
                Self::parse(Zeroizing::new([&ED25519_INFO[..], &*seed].concat()))
            }
            // Of this algorithm the library lets nobody else choose where its numbers come from.
            Algorithm::P256 => {
                let content = EcdsaKeyPair::generate_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    &SystemRandom::new(),
                );
                let content = content.map_err(|_| PairError::NoRandom)?;
                Self::parse(Zeroizing::new(content.as_ref().to_vec()))
            }
        }
    }

    /// Reads PEM with one private key.
    ///
    /// # Errors
    /// [`PairError`], which says what was given instead.
    pub fn parse_pem(text: &str) -> Result<Self, PairError> {
        let pem = pem::read(text).ok_or(PairError::NoPem)?;
        match pem.label {
            LABEL => Self::parse(pem.content),
            "ENCRYPTED PRIVATE KEY" => Err(PairError::Encrypted),
            "PUBLIC KEY" => Err(PairError::Public),
            label if label.ends_with(LABEL) => Err(PairError::OldForm),
            _ => Err(PairError::NoPem),
        }
    }

    fn parse(content: Zeroizing<Vec<u8>>) -> Result<Self, PairError> {
        let (private, public) =
            if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&content) {
                let public = pair.public_key().as_ref().to_vec();
                (Private::Ed25519(pair), public)
            } else {
                let pair = EcdsaKeyPair::from_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    &content,
                    &SystemRandom::new(),
                );
                let pair = pair.map_err(|_| PairError::Algorithm)?;
                let public = pair.public_key().as_ref().to_vec();
                (Private::P256(pair), public)
            };
        let public = PublicKey::parse(&public).map_err(|_| PairError::Algorithm)?;
        Ok(Self {
            private,
            public,
            content,
        })
    }

    /// The half that is registered.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The PEM that [`KeyPair::parse_pem`] reads.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::write(LABEL, &self.content)
    }

    /// A signed assertion.
    ///
    /// # Errors
    /// [`PairError::NoRandom`].
    pub fn assertion(&self, statement: &Statement<'_>) -> Result<String, PairError> {
        let kid = statement.credential.to_string();
        let header = json!({ "alg": self.alg(), "typ": "JWT", "kid": kid });
        let claims = json!({
            "iss": statement.client,
            "sub": statement.client,
            "aud": statement.audience,
            "iat": statement.now_s,
            "exp": statement.now_s.saturating_add(statement.life_s),
            "jti": statement.jti,
        });
        self.compact(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// The compact form (RFC 7515, section 3.1) of two parts, whatever they say.
    pub(super) fn compact(&self, header: &[u8], claims: &[u8]) -> Result<String, PairError> {
        let encoded = |part| URL_SAFE_NO_PAD.encode(part);
        let mut text = format!("{}.{}", encoded(header), encoded(claims));
        let signature = self.sign(text.as_bytes())?;
        text.push('.');
        text.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(text)
    }

    fn alg(&self) -> &'static str {
        match self.private {
            Private::Ed25519(_) => "EdDSA",
            Private::P256(_) => "ES256",
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PairError> {
        match &self.private {
            Private::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Private::P256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message);
                Ok(signature
                    .map_err(|_| PairError::NoRandom)?
                    .as_ref()
                    .to_vec())
            }
        }
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair")
    }
}

#[cfg(test)]
mod tests {
    use super::super::entropy::SeededEntropy;
    use super::*;

    /// RFC 8032, section 7.1, test 1.
    const ED25519_SEED: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    const ED25519_PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    /// RFC 7515, appendix A.3.1.
    const P256_D: &str = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI";
    const P256_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const P256_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
    /// A key on P-256 up to its private number, as `openssl genpkey` writes it.
    const P256_INFO: &[u8] =
        b"\x30\x81\x87\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\
          \x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04\x6d\x30\x6b\x02\x01\x01\x04\x20";
    /// And between its two halves.
    const P256_BETWEEN: &[u8] = b"\xa1\x44\x03\x42\x00\x04";

    fn decoded(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).expect("base64url")
    }

    #[test]
    fn a_new_pair_reads_back_and_signs_for_its_public_half() {
        for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
            let pair = KeyPair::generate(algorithm, &SeededEntropy::new(1)).expect("a pair");
            let read = KeyPair::parse_pem(&pair.to_pem()).expect("its own form");
            assert_eq!(read.public(), pair.public());
            assert_eq!(pair.public().algorithm(), algorithm);
            let signature = read.sign(b"message").expect("signed");
            let signature = signature.try_into().expect("64 bytes");
            assert!(pair.public().verifies(b"message", &signature));
            assert_eq!(format!("{pair:?}"), "KeyPair");
        }
    }

    #[test]
    fn the_public_half_of_a_known_seed_is_the_known_one() {
        let content = [&ED25519_INFO[..], &decoded(ED25519_SEED)].concat();
        let pair = KeyPair::parse_pem(&pem::write(LABEL, &content)).expect("a pair");
        assert_eq!(pair.public().as_bytes(), decoded(ED25519_PUBLIC));
    }

    #[test]
    fn a_pair_of_other_software_is_taken() {
        let (d, x, y) = (decoded(P256_D), decoded(P256_X), decoded(P256_Y));
        let content = [P256_INFO, &d, P256_BETWEEN, &x, &y].concat();
        let text = pem::write(LABEL, &content);
        let pair = KeyPair::parse_pem(&text).expect("a pair");
        assert_eq!(pair.public().algorithm(), Algorithm::P256);
        assert_eq!(pair.public().as_bytes()[1..], [x, y].concat());
        assert_eq!(pair.to_pem(), text);
    }

    #[test]
    fn what_is_no_private_key_is_refused_with_a_word() {
        let pair = KeyPair::generate(Algorithm::Ed25519, &SeededEntropy::new(2)).expect("a pair");
        let block = |label: &str, content: &[u8]| pem::write(label, content).to_string();
        let check = |text: &str, expected: PairError| {
            assert_eq!(KeyPair::parse_pem(text).err(), Some(expected), "{text}");
        };
        check("", PairError::NoPem);
        check(&block("CERTIFICATE", b"any"), PairError::NoPem);
        check(&pair.public().to_pem(), PairError::Public);
        check(
            &block("ENCRYPTED PRIVATE KEY", b"any"),
            PairError::Encrypted,
        );
        check(&block("EC PRIVATE KEY", b"any"), PairError::OldForm);
        check(&block("RSA PRIVATE KEY", b"any"), PairError::OldForm);
        check(&block(LABEL, b""), PairError::Algorithm);
        check(&block(LABEL, &pair.content[1..]), PairError::Algorithm);
        check(&block(LABEL, &pair.content[..47]), PairError::Algorithm);
    }
}
