//! Public keys that log in: Ed25519 (RFC 8032) and ECDSA over P-256 (FIPS 186-5).
//!
//! A key is read from PEM as its owner has it, or from the bytes of a record. Two algorithms, each
//! with one form of its key and its signatures, leave nothing to choose for who signs. That a point
//! lies on its curve is found out by the first signature, which is then wrong; keys under which
//! anybody can sign are refused. Deliberately absent: private keys, certificates, RSA.

use std::fmt;

use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::pem;
use super::principal::PrincipalName;
use super::token::Digest;

/// Bytes of a signature, of either algorithm.
pub const SIGNATURE_BYTES: usize = 64;
const ED25519_BYTES: usize = 32;
const P256_BYTES: usize = 65;
/// What an uncompressed point begins with (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

const LABEL: &str = "PUBLIC KEY";
/// `SubjectPublicKeyInfo` up to the key itself, which has only one encoding (RFC 8410, section 4).
const ED25519_INFO: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// The same of P-256 as a named curve (RFC 5480, section 2).
const P256_INFO: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The Ed25519 points of small order, their sign aside: under them one signature is good for many
/// messages, whoever wrote it. The rest of such encodings are not canonical.
const SMALL_ORDER: [[u8; ED25519_BYTES]; 5] = [
    [0; ED25519_BYTES],
    // 1
    [
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    // The field's size less 1.
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
];

/// How a key signs; never chosen by who presents a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// Ed25519.
    Ed25519 = 1,
    /// ECDSA over P-256 with SHA-256, signatures as two numbers of 32 bytes.
    P256 = 2,
}

impl Algorithm {
    /// The word used in the API, the CLI and the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::P256 => "p256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text is no public key that is taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Whoever gave it has shown it: the pair is no longer theirs alone.
    #[error("this is a private key: keep it, and give the public one (`BEGIN PUBLIC KEY`)")]
    Private,
    /// It holds a key, but says more.
    #[error("this is a certificate: give its public key (`BEGIN PUBLIC KEY`)")]
    Certificate,
    /// It is of no other form.
    #[error("wants one PEM block, `-----BEGIN PUBLIC KEY-----`")]
    NoPem,
    /// Of another algorithm, curve or encoding.
    #[error("wants an Ed25519 key, or a P-256 key as an uncompressed point on the named curve")]
    Algorithm,
    /// It has a form in which nobody's key is.
    #[error("this key is weak: anybody can sign with it")]
    Weak,
}

/// A public key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey(Form);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    Ed25519([u8; ED25519_BYTES]),
    P256([u8; P256_BYTES]),
}

impl PublicKey {
    /// Reads PEM with one `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`KeyError`], which says what was given instead.
    pub fn parse_pem(text: &str) -> Result<Self, KeyError> {
        // What cannot be read may be a private key all the same.
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::Private);
        }
        if text.contains("BEGIN CERTIFICATE-----") {
            return Err(KeyError::Certificate);
        }
        let pem = pem::read(text).ok_or(KeyError::NoPem)?;
        if pem.label != LABEL {
            return Err(KeyError::NoPem);
        }
        let (ed25519, p256) = (
            pem.content.strip_prefix(&ED25519_INFO),
            pem.content.strip_prefix(&P256_INFO),
        );
        match (ed25519, p256) {
            (Some(bytes), _) if bytes.len() == ED25519_BYTES => Self::parse(bytes),
            (_, Some(bytes)) if bytes.len() == P256_BYTES => Self::parse(bytes),
            _ => Err(KeyError::Algorithm),
        }
    }

    /// The key from its bytes: 32 of Ed25519, or 65 of an uncompressed point on P-256.
    ///
    /// # Errors
    /// [`KeyError::Algorithm`] or [`KeyError::Weak`].
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        if let Ok(bytes) = <[u8; ED25519_BYTES]>::try_from(bytes) {
            if is_weak(bytes) {
                return Err(KeyError::Weak);
            }
            return Ok(Self(Form::Ed25519(bytes)));
        }
        match <[u8; P256_BYTES]>::try_from(bytes) {
            Ok(bytes) if bytes[0] == UNCOMPRESSED => Ok(Self(Form::P256(bytes))),
            _ => Err(KeyError::Algorithm),
        }
    }

    /// How it signs.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Form::Ed25519(_) => Algorithm::Ed25519,
            Form::P256(_) => Algorithm::P256,
        }
    }

    /// The bytes that [`PublicKey::parse`] reads.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Ed25519(bytes) => bytes,
            Form::P256(bytes) => bytes,
        }
    }

    /// The PEM that [`PublicKey::parse_pem`] reads.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let info: &[u8] = match self.0 {
            Form::Ed25519(_) => &ED25519_INFO,
            Form::P256(_) => &P256_INFO,
        };
        pem::write(LABEL, &[info, self.as_bytes()].concat()).to_string()
    }

    /// What stands for it in the index and among the keys that were ever used, as the digest of a
    /// secret does. The account's name is in it: a public key is no secret, and nobody shall find
    /// out where else it is registered, or take another account's place with it.
    #[must_use]
    pub fn digest(&self, account: &PrincipalName) -> Digest {
        let hash = Sha256::new()
            .chain_update(b"latchkey public key\n")
            .chain_update([self.algorithm() as u8])
            .chain_update(self.as_bytes())
            .chain_update(account.to_string())
            .finalize();
        Digest::from_bytes(hash.into())
    }

    /// Whether its owner signed exactly this message.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match self.0 {
            Form::Ed25519(_) => &ED25519,
            Form::P256(_) => &ECDSA_P256_SHA256_FIXED,
        };
        let key = UnparsedPublicKey::new(algorithm, self.as_bytes());
        key.verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.algorithm())
    }
}

/// Of small order, or an encoding that no software writes.
fn is_weak(mut key: [u8; ED25519_BYTES]) -> bool {
    key[ED25519_BYTES - 1] &= 0x7f;
    let (first, rest) = (key[0], &key[1..ED25519_BYTES - 1]);
    let at_end = key[ED25519_BYTES - 1] == 0x7f && rest.iter().all(|byte| *byte == 0xff);
    (at_end && first >= 0xed) || SMALL_ORDER.contains(&key)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    /// RFC 8037, appendix A.2.
    const ED25519_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    /// RFC 7515, appendix A.3.1.
    const P256_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const P256_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn decoded(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).expect("base64url")
    }

    fn ed25519() -> PublicKey {
        PublicKey::parse(&decoded(ED25519_X)).expect("a key")
    }

    fn p256() -> PublicKey {
        let point = [vec![UNCOMPRESSED], decoded(P256_X), decoded(P256_Y)].concat();
        PublicKey::parse(&point).expect("a key")
    }

    fn signature(text: &str) -> [u8; SIGNATURE_BYTES] {
        decoded(text).try_into().expect("64 bytes")
    }

    /// A block of the label whose content is these bytes.
    fn block(label: &str, content: &[u8]) -> String {
        let base64 = STANDARD.encode(content);
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    }

    #[test]
    fn the_signatures_of_the_standards_verify() {
        // RFC 8037, appendix A.4, and RFC 7515, appendix A.3.1.
        let check = |key: &PublicKey, signed: &str, by: &str| {
            let by = signature(by);
            assert!(key.verifies(signed.as_bytes(), &by), "{key:?}");
            assert!(!key.verifies(&signed.as_bytes()[1..], &by), "{key:?}");
            for at in 0..SIGNATURE_BYTES {
                let mut other = by;
                other[at] ^= 1;
                assert!(!key.verifies(signed.as_bytes(), &other), "{key:?} {at}");
            }
        };
        check(
            &ed25519(),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        );
        check(
            &p256(),
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
             cGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        );
    }

    #[test]
    fn a_signature_of_zeros_is_none() {
        for key in [ed25519(), p256()] {
            assert!(!key.verifies(b"", &[0; SIGNATURE_BYTES]), "{key:?}");
            let mut one = [0; SIGNATURE_BYTES];
            one[31] = 1;
            assert!(!key.verifies(b"", &one), "{key:?}: s is zero");
            let mut one = [0; SIGNATURE_BYTES];
            one[63] = 1;
            assert!(!key.verifies(b"", &one), "{key:?}: r is zero");
        }
    }

    /// As `openssl genpkey` and `openssl pkey -pubout` write them.
    #[test]
    fn pem_reads_and_writes_as_other_software_does() {
        let check = |key: &PublicKey, pem: &str| {
            assert_eq!(key.to_pem(), pem);
            assert_eq!(PublicKey::parse_pem(pem).as_ref(), Ok(key));
            let windows = pem.replace('\n', "\r\n");
            assert_eq!(PublicKey::parse_pem(&windows).as_ref(), Ok(key));
        };
        check(
            &ed25519(),
            "-----BEGIN PUBLIC KEY-----\n\
             MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
             -----END PUBLIC KEY-----\n",
        );
        check(
            &p256(),
            "-----BEGIN PUBLIC KEY-----\n\
             MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n\
             6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n\
             -----END PUBLIC KEY-----\n",
        );
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_a_word() {
        let check = |text: &str, expected: KeyError| {
            assert_eq!(PublicKey::parse_pem(text), Err(expected), "{text}");
        };
        let good = ed25519().to_pem();
        for label in ["PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
            check(&block(label, b"any"), KeyError::Private);
            check(&block(label, b"any")[1..], KeyError::Private);
            check(
                &format!("{good}{}", block(label, b"any")),
                KeyError::Private,
            );
        }
        check(&block("CERTIFICATE", b"any"), KeyError::Certificate);
        check("", KeyError::NoPem);
        check(ED25519_X, KeyError::NoPem);
        check(&good.replace("PUBLIC", "RSA PUBLIC"), KeyError::NoPem);
        check(&format!("{good}{good}"), KeyError::NoPem);
        check(&"-".repeat(1 << 20), KeyError::NoPem);
        let info = |prefix: &[u8], key: &[u8]| block(LABEL, &[prefix, key].concat());
        check(&info(&[], &[]), KeyError::Algorithm);
        check(&info(&ED25519_INFO, &[9; 31]), KeyError::Algorithm);
        check(&info(&ED25519_INFO, &[9; 33]), KeyError::Algorithm);
        check(&info(&ED25519_INFO, p256().as_bytes()), KeyError::Algorithm);
        check(&info(&P256_INFO, ed25519().as_bytes()), KeyError::Algorithm);
        check(&info(&P256_INFO, &[4; 64]), KeyError::Algorithm);
        check(&info(&P256_INFO, &[3; 65]), KeyError::Algorithm);
        // X25519, which is for secrets and signs nothing.
        let mut x25519 = ED25519_INFO;
        x25519[8] = 0x6e;
        check(&info(&x25519, ed25519().as_bytes()), KeyError::Algorithm);
        let mut p521 = P256_INFO;
        p521[20] ^= 1;
        check(&info(&p521, p256().as_bytes()), KeyError::Algorithm);
        check(&info(&ED25519_INFO, &[0; 32]), KeyError::Weak);
    }

    /// That the points are what they are said to be is shown by signing without a key: R is the
    /// point of order 1 and s is 0, which is right whenever the hash is a multiple of the order.
    #[test]
    fn keys_under_which_anybody_can_sign_are_refused() {
        let mut signature = [0; SIGNATURE_BYTES];
        signature[0] = 1;
        for point in SMALL_ORDER {
            let unchecked = PublicKey(Form::Ed25519(point));
            let forged = (0..=255_u8).any(|message| unchecked.verifies(&[message], &signature));
            assert!(forged, "{point:?}");
            for sign in [0, 0x80] {
                let mut point = point;
                point[31] |= sign;
                assert_eq!(PublicKey::parse(&point), Err(KeyError::Weak));
            }
        }
        for first in 0xed..=0xff {
            let mut point = [0xff; ED25519_BYTES];
            point[0] = first;
            assert_eq!(PublicKey::parse(&point), Err(KeyError::Weak));
        }
        let honest = (0..=255_u8).any(|message| ed25519().verifies(&[message], &signature));
        assert!(!honest);
    }

    #[test]
    fn the_digest_tells_keys_apart_and_is_that_of_no_secret() {
        let hash = Sha256::digest(
            [
                &b"latchkey public key\n\x01"[..],
                &decoded(ED25519_X),
                b"service:ci",
            ]
            .concat(),
        );
        let [ci, cd] =
            ["service:ci", "service:cd"].map(|name| PrincipalName::parse(name).expect("a name"));
        assert_eq!(ed25519().digest(&ci).as_bytes()[..], hash[..]);
        assert_ne!(ed25519().digest(&ci), p256().digest(&ci));
        assert_ne!(ed25519().digest(&ci), ed25519().digest(&cd));
    }

    #[test]
    fn debug_names_the_algorithm() {
        assert_eq!(
            format!("{:?} {:?}", ed25519(), p256()),
            "PublicKey(ed25519) PublicKey(p256)"
        );
    }
}
