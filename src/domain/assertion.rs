//! Assertions: a statement about itself that the owner of a key signs to log in (RFC 7523).
//!
//! ```text
//! text ─► Assertion: whose it says it is ─► the key of that credential ─► Stated ─► Once: to be consumed
//! ```
//!
//! A JWT in compact form (RFC 7515) with EdDSA or ES256, as the key has it and not as the text
//! chooses. What RFC 8725 warns of is refused while it is read: `none`, keys of another kind,
//! critical extensions, members that stand twice, other kinds of JWT, encodings that are not the
//! only one of what they encode. Deliberately absent: a list of what was used, and why a login was
//! refused in the eyes of its client.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::clock::{Now, UnixMs};
use super::json::{Json, Object};
use super::key::{Algorithm, PublicKey, SIGNATURE_BYTES};
use super::token::TokenId;

/// The longest text.
pub const ASSERTION_BYTES_MAX: usize = 4 * 1024;
/// How far ahead its end may be, in seconds.
pub const LIFE_S_MAX: u64 = 600;
/// How much the clocks of who signs and who reads may differ, in seconds.
pub const SKEW_S: u64 = 30;
/// The longest `jti`.
pub const JTI_BYTES_MAX: usize = 128;
/// How much longer than it can be used it is known as used: servers' clocks differ too.
const KEPT_S: u64 = 300;
/// Audiences that one may name; all of them must be ours.
const AUDIENCES_MAX: usize = 8;
/// What the algorithms are called in the header (RFC 7518, section 3.1; RFC 8037, section 3.1;
/// RFC 9864, section 2.2).
const NAMES: [(&str, Algorithm); 3] = [
    ("EdDSA", Algorithm::Ed25519),
    ("Ed25519", Algorithm::Ed25519),
    ("ES256", Algorithm::P256),
];
/// What a JWT of this use may say that it is; another is not meant for a login.
const TYPES: [&str; 2] = ["jwt", "client-authentication+jwt"];

/// Why an assertion logs nobody in. Its form may be told to anybody, for it is the text's alone; a
/// signature that is not the key's to nobody; and the rest to whoever has signed it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Wrong {
    /// It is no assertion; the text says what is not as it must be.
    #[error("{0}")]
    Form(&'static str),
    /// It is signed by another key, or in another way than this key signs.
    #[error("the signature is not that of the key")]
    Signature,
    /// It is somebody else's.
    #[error("`iss` and `sub` are not the client")]
    Client,
    /// It is for somebody else, or for others too, who could present it here.
    #[error("`aud` is not one of ours alone")]
    Audience,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come, or it says that it was made later than now.
    #[error("it is from the future")]
    Early,
    /// It would be good for longer than is remembered that it was used.
    #[error("`exp` is too far ahead")]
    FarAhead,
}

/// What is left to do with an assertion that is good: see that it was not used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    /// What stands for it: a hash of its credential and its `jti`.
    pub id: [u8; 32],
    /// From when on no server takes it any more, whatever its clock says.
    pub until_ms: UnixMs,
}

/// An assertion as it was read; nothing of it is true yet.
#[derive(Debug)]
pub struct Assertion<'a> {
    signed: &'a str,
    signature: [u8; SIGNATURE_BYTES],
    algorithm: Algorithm,
    credential: TokenId,
    claims: Claims,
}

/// What the owner of a key has stated; true once it is checked.
#[derive(Debug)]
pub struct Stated<'a> {
    credential: TokenId,
    claims: &'a Claims,
}

#[derive(Debug)]
struct Claims {
    issuer: String,
    subject: String,
    audiences: Vec<String>,
    expires_s: u64,
    not_before_s: Option<u64>,
    issued_s: Option<u64>,
    jti: String,
}

impl<'a> Assertion<'a> {
    /// Reads a text without believing it.
    ///
    /// # Errors
    /// [`Wrong::Form`].
    pub fn parse(text: &'a str) -> Result<Self, Wrong> {
        if text.len() > ASSERTION_BYTES_MAX {
            return Err(Wrong::Form("longer than 4096 bytes"));
        }
        let parts = Wrong::Form("not three parts with dots between them");
        let (signed, signature) = text.rsplit_once('.').ok_or(parts)?;
        let (header, claims) = signed.split_once('.').ok_or(parts)?;
        // A dot more is in none of the alphabets that follow.
        let header = object(header).ok_or(Wrong::Form("the header is no JSON of one reading"))?;
        let claims = object(claims).ok_or(Wrong::Form("the claims are no JSON of one reading"))?;
        let (algorithm, credential) = read_header(&header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok();
        let signature = signature.and_then(|bytes| bytes.try_into().ok());
        Ok(Self {
            signed,
            signature: signature.ok_or(Wrong::Form("the signature is not 64 bytes"))?,
            algorithm,
            credential,
            claims: Claims::read(&claims)?,
        })
    }

    /// Whose key it says has signed it: `kid`.
    #[must_use]
    pub fn credential(&self) -> TokenId {
        self.credential
    }

    /// What it states, if the owner of `key` has signed it.
    ///
    /// # Errors
    /// [`Wrong::Signature`].
    pub fn verify(&self, key: &PublicKey) -> Result<Stated<'_>, Wrong> {
        let by_key = key.algorithm() == self.algorithm
            && key.verifies(self.signed.as_bytes(), &self.signature);
        let stated = Stated {
            credential: self.credential,
            claims: &self.claims,
        };
        by_key.then_some(stated).ok_or(Wrong::Signature)
    }
}

impl Stated<'_> {
    /// What is to be consumed, if it is the client's, for one of our audiences, and of now.
    ///
    /// # Errors
    /// [`Wrong`], but neither its form nor its signature.
    pub fn check<T: AsRef<str>>(
        &self,
        client: &str,
        audiences: &[T],
        now: Now,
    ) -> Result<Once, Wrong> {
        let claims = self.claims;
        if claims.issuer != client || claims.subject != client {
            return Err(Wrong::Client);
        }
        let is_ours = |named: &String| audiences.iter().any(|ours| ours.as_ref() == named);
        if claims.audiences.is_empty() || !claims.audiences.iter().all(is_ours) {
            return Err(Wrong::Audience);
        }
        let ended = |end_s: u64| now.latest >= ms(end_s.saturating_add(SKEW_S));
        let ahead = |instant_s: u64, by_s: u64| ms(instant_s) > now.earliest + ms(by_s);
        if ended(claims.expires_s) {
            return Err(Wrong::Expired);
        }
        if ahead(claims.expires_s, LIFE_S_MAX + SKEW_S) {
            return Err(Wrong::FarAhead);
        }
        let mut instants = claims.not_before_s.into_iter().chain(claims.issued_s);
        if instants.any(|instant_s| ahead(instant_s, SKEW_S)) {
            return Err(Wrong::Early);
        }
        let id = Sha256::new()
            .chain_update(b"latchkey assertion\n")
            .chain_update(self.credential.to_bytes())
            .chain_update(claims.jti.as_bytes())
            .finalize();
        Ok(Once {
            id: id.into(),
            until_ms: ms(claims.expires_s + SKEW_S + KEPT_S),
        })
    }
}

impl Claims {
    fn read(object: &Object) -> Result<Self, Wrong> {
        let text = |name| match object.member(name) {
            Some(Json::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let second = |name, wrong| match object.member(name) {
            Some(Json::Whole(second)) => Ok(Some(*second)),
            None => Ok(None),
            Some(_) => Err(Wrong::Form(wrong)),
        };
        let jti = text("jti").filter(|jti| (1..=JTI_BYTES_MAX).contains(&jti.len()));
        let expires_s = second("exp", "`exp` is no whole number")?;
        Ok(Self {
            issuer: text("iss").ok_or(Wrong::Form("no `iss`"))?,
            subject: text("sub").ok_or(Wrong::Form("no `sub`"))?,
            audiences: audiences(object).ok_or(Wrong::Form("`aud` is no text and no few texts"))?,
            expires_s: expires_s.ok_or(Wrong::Form("no `exp`"))?,
            not_before_s: second("nbf", "`nbf` is no whole number")?,
            issued_s: second("iat", "`iat` is no whole number")?,
            jti: jti.ok_or(Wrong::Form("`jti` is no text of 1 to 128 bytes"))?,
        })
    }
}

/// One text, or a list of them (RFC 7519, section 4.1.3).
fn audiences(object: &Object) -> Option<Vec<String>> {
    let list = match object.member("aud")? {
        Json::List(list) if (1..=AUDIENCES_MAX).contains(&list.len()) => list.as_slice(),
        one @ Json::Text(_) => std::slice::from_ref(one),
        _ => return None,
    };
    let texts = list.iter().map(|value| match value {
        Json::Text(text) => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}

fn read_header(header: &Object) -> Result<(Algorithm, TokenId), Wrong> {
    // What must be understood is not (RFC 7515, section 4.1.11).
    if header.member("crit").is_some() {
        return Err(Wrong::Form("`crit` in the header"));
    }
    match header.member("typ") {
        None => {}
        Some(Json::Text(typ)) if is_type(typ) => {}
        Some(_) => return Err(Wrong::Form("`typ` is that of another JWT")),
    }
    let algorithm = match header.member("alg") {
        Some(Json::Text(alg)) => NAMES.iter().find(|(name, _)| name == alg),
        _ => None,
    };
    let credential = match header.member("kid") {
        Some(Json::Text(kid)) => TokenId::parse(kid),
        _ => None,
    };
    let (_, algorithm) = algorithm.ok_or(Wrong::Form("`alg` is neither EdDSA nor ES256"))?;
    let credential = credential.ok_or(Wrong::Form("`kid` is no id of a credential"))?;
    Ok((*algorithm, credential))
}

/// Media types have no case, and may leave `application/` out (RFC 7515, section 4.1.9).
fn is_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    let short = typ.strip_prefix("application/").unwrap_or(&typ);
    TYPES.contains(&short)
}

fn object(part: &str) -> Option<Object> {
    Object::parse(&URL_SAFE_NO_PAD.decode(part).ok()?)
}

fn ms(seconds: u64) -> UnixMs {
    seconds.saturating_mul(1_000)
}

#[cfg(test)]
#[path = "assertion_tests.rs"]
mod tests;
