//! Pages: how many rows, and opaque page tokens that are good for one list and one filter only.
//!
//! A page token is the hex text of eight bytes of checksum and the key of the last row. The
//! checksum covers the key, the method and the filters, so that a token that was altered, or is
//! used with other filters, is refused instead of giving a page that makes no sense. It guards
//! against mistakes and is no secret: every page is judged by itself.

use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::authority::page_rows;
use crate::domain::refusal::Refusal;
use crate::domain::token::TokenId;
use crate::proto::v1;

const SEAL_BYTES: usize = 8;
// Longer than that of any key: names and ids.
const PAGE_TOKEN_CHARS_MAX: usize = 2 * (SEAL_BYTES + 256);

/// A request for a page.
pub(super) trait Paged: Message + Clone {
    /// The list that a page token is good for.
    const METHOD: &'static str;

    /// How many rows are asked for.
    fn page_size(&self) -> u32;

    /// The page token; empty for the first page.
    fn page_token(&self) -> &str;

    /// The request without size and token: the filters.
    fn filter(&self) -> Vec<u8>;
}

/// What a list is ordered by, as page tokens hold it.
pub(super) trait Key: Sized {
    /// The bytes of the key.
    fn to_bytes(&self) -> Vec<u8>;

    /// The key from its bytes.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// A page that is asked for.
pub(super) struct Asked<K> {
    /// Rows after this key.
    pub(super) after: Option<K>,
    /// At most so many.
    pub(super) limit: usize,
    // The hash of method and filters.
    list: Sha256,
}

impl<K: Key> Asked<K> {
    /// Reads the page that a request asks for.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a page token that was not given for this list and filter.
    pub(super) fn of<T: Paged>(request: &T) -> Result<Self, Refusal> {
        let list = Sha256::new()
            .chain_update(T::METHOD)
            .chain_update(Sha256::digest(request.filter()));
        let token = request.page_token();
        let after = if token.is_empty() {
            None
        } else {
            let key = opened(&list, token).and_then(|key| K::from_bytes(&key));
            Some(key.ok_or_else(|| {
                Refusal::invalid(
                    "page_token",
                    "is not one that was given for this list and filter",
                )
            })?)
        };
        Ok(Self {
            after,
            limit: page_rows(request.page_size()),
            list,
        })
    }

    /// The token of the page after this key; empty at the end.
    pub(super) fn token(&self, next: Option<&K>) -> String {
        let Some(key) = next.map(Key::to_bytes) else {
            return String::new();
        };
        let bytes = seal(&self.list, &key).into_iter().chain(key);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

fn seal(list: &Sha256, key: &[u8]) -> [u8; SEAL_BYTES] {
    let hash = list.clone().chain_update(key).finalize();
    let mut seal = [0; SEAL_BYTES];
    seal.copy_from_slice(&hash[..SEAL_BYTES]);
    seal
}

fn opened(list: &Sha256, token: &str) -> Option<Vec<u8>> {
    if token.len() > PAGE_TOKEN_CHARS_MAX || !token.len().is_multiple_of(2) {
        return None;
    }
    let hex = |pair: &[u8]| {
        let lower = |c: &u8| c.is_ascii_digit() || (b'a'..=b'f').contains(c);
        let text = std::str::from_utf8(pair).ok()?;
        pair.iter()
            .all(lower)
            .then(|| u8::from_str_radix(text, 16).ok())?
    };
    let bytes: Vec<u8> = token.as_bytes().chunks(2).map(hex).collect::<Option<_>>()?;
    let (sealed, key) = bytes.split_at_checked(SEAL_BYTES)?;
    (seal(list, key) == sealed).then(|| key.to_vec())
}

impl Key for String {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_utf8(bytes.to_vec()).ok()
    }
}

impl Key for u32 {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().map(Self::from_be_bytes).ok()
    }
}

impl Key for u64 {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().map(Self::from_be_bytes).ok()
    }
}

impl Key for TokenId {
    fn to_bytes(&self) -> Vec<u8> {
        (*self).to_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().map(Self::from_bytes).ok()
    }
}

/// Implements [`Paged`] for messages that have the two fields.
macro_rules! paged {
    ($($request:ident)*) => {$(
        impl Paged for v1::$request {
            const METHOD: &'static str = stringify!($request);

            fn page_size(&self) -> u32 {
                self.page_size
            }

            fn page_token(&self) -> &str {
                &self.page_token
            }

            fn filter(&self) -> Vec<u8> {
                let (page_size, page_token) = (0, String::new());
                Self { page_size, page_token, ..self.clone() }.encode_to_vec()
            }
        }
    )*};
}

paged! {
    ListTokensRequest ListUsersRequest ListTeamsRequest ListServiceAccountsRequest
    ListTeamMembersRequest ListRolesRequest ListGrantsRequest ListChangesRequest
    ListLoginsRequest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(home_under: &str, page_token: &str) -> v1::ListUsersRequest {
        v1::ListUsersRequest {
            home_under: home_under.to_owned(),
            page_size: 7,
            page_token: page_token.to_owned(),
        }
    }

    fn given(home_under: &str, key: &str) -> String {
        let asked = Asked::of(&users(home_under, "")).expect("a first page");
        asked.token(Some(&key.to_owned()))
    }

    #[test]
    fn a_page_token_gives_back_its_key_for_any_page_size() {
        let mut request = users("acme", &given("acme", "alice"));
        request.page_size = 20;
        let asked = Asked::<String>::of(&request).expect("valid");
        assert_eq!((asked.after.as_deref(), asked.limit), (Some("alice"), 20));
        assert_eq!(asked.token(None), "");
    }

    #[test]
    fn altered_page_tokens_and_other_filters_are_refused() {
        let good = given("acme", "alice");
        let check = |request: v1::ListUsersRequest| {
            let refused = Asked::<String>::of(&request).is_err();
            assert!(refused, "{}", request.page_token);
        };
        check(users("acme/web", &good));
        check(users("acme", &good[2..]));
        check(users("acme", &good[..good.len() - 2]));
        check(users("acme", &format!("{good}61")));
        check(users("acme", &good.to_uppercase()));
        for text in [
            "x",
            "zz",
            "00",
            "é",
            "+1+1+1+1+1+1+1+1+1",
            &"0".repeat(10_000),
        ] {
            check(users("acme", text));
        }
        for position in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[position] = if bytes[position] == b'0' { b'1' } else { b'0' };
            check(users("acme", &String::from_utf8(bytes).expect("ascii")));
        }
    }

    #[test]
    fn a_page_token_of_another_list_is_refused() {
        let request = v1::ListRolesRequest {
            home_under: "acme".to_owned(),
            page_size: 7,
            page_token: given("acme", "alice"),
        };
        assert!(Asked::<String>::of(&request).is_err());
    }

    #[test]
    fn keys_read_back() {
        fn check<K: Key + PartialEq + std::fmt::Debug>(key: K) {
            assert_eq!(K::from_bytes(&key.to_bytes()), Some(key));
        }
        check(7_u32);
        check(u64::MAX);
        check(TokenId::from_u128(1 << 100));
        check("alice".to_owned());
        assert_eq!(u32::from_bytes(&[1]), None);
        assert_eq!(String::from_bytes(&[0xff]), None);
    }
}
