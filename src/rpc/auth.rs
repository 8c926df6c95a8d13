//! Who calls: the bearer token of the metadata, the address of the peer, and the deadline.
//!
//! Used by every service. A call has no token or exactly one; anything that could be read in two
//! ways is refused (RFC 6750, section 2.1). The address is the TCP peer's, never a header's.
//! Absent on purpose: judging the token; that is the authority's.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tonic::Request;
use tonic::codegen::http::{Extensions, HeaderMap};
use zeroize::Zeroizing;

use crate::authority::{Authority, Credentials};
use crate::domain::peer::{Group, Proven};
use crate::domain::refusal::Refusal;
use crate::domain::token::TokenId;
use crate::tls::Shown;

const SCHEME: &str = "bearer ";

/// The peer of a connection; every request on it carries one as an extension.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Its address, an IPv4 one also where it arrived as an IPv6 one.
    pub(super) address: IpAddr,
    // Filled before the first request; none on a connection of plain text.
    shown: Option<Shown>,
}

impl Peer {
    pub(super) fn new(address: IpAddr, shown: Option<Shown>) -> Self {
        Self { address, shown }
    }

    /// Who it has proven to be.
    #[inline]
    pub(super) fn proven(&self) -> Option<&Arc<Proven>> {
        self.shown.as_ref()?.get()?.peer.as_ref()
    }

    /// Whether it may call this; who has not shown anything where something is asked may not.
    #[inline]
    pub(super) fn may(&self, group: Group) -> bool {
        match &self.shown {
            None => true,
            Some(shown) => shown.get().is_some_and(|seen| seen.allowed.may(group)),
        }
    }
}

/// Whether the peer of a call may make it.
///
/// # Errors
/// [`Refusal::PeerNotAllowed`] if the access lists leave it out.
#[inline]
pub(super) fn admit(extensions: &Extensions, group: Group) -> Result<(), Refusal> {
    match extensions.get::<Peer>() {
        Some(peer) if !peer.may(group) => Err(Refusal::PeerNotAllowed),
        _ => Ok(()),
    }
}

/// Who calls, as it is kept for the life of a stream.
pub(super) struct Kept {
    token: Option<Zeroizing<String>>,
    client_ip: Option<IpAddr>,
    peer: Option<Arc<Proven>>,
    asks_freely: bool,
}

impl Kept {
    pub(super) fn of(credentials: Credentials<'_>) -> Self {
        let token = credentials.token.map(str::to_owned);
        Self {
            token: token.map(Zeroizing::new),
            client_ip: credentials.client_ip,
            peer: credentials.peer.cloned(),
            asks_freely: credentials.asks_freely,
        }
    }

    /// Requires that the caller may still read the log.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] or [`Refusal::NotPermitted`] once it may not.
    pub(super) fn may_audit(&self, authority: &Authority) -> Result<(), Refusal> {
        authority.may_audit(self.credentials())
    }

    /// The same as they came.
    pub(super) fn credentials(&self) -> Credentials<'_> {
        Credentials {
            token: self.token.as_ref().map(|token| token.as_str()),
            client_ip: self.client_ip,
            peer: self.peer.as_ref(),
            asks_freely: self.asks_freely,
        }
    }
}

/// Who calls, for the log: empty when the call comes in, filled by whoever recognises the token, or
/// does not let it log in. It comes with every managed request as an extension.
#[derive(Clone, Debug, Default)]
pub(super) struct Calling(Arc<Caller>);

#[derive(Debug, Default)]
struct Caller {
    token: OnceLock<TokenId>,
    login: OnceLock<RefusedLogin>,
}

/// A login that was refused.
#[derive(Clone, Debug)]
pub(super) struct RefusedLogin {
    /// Who it says that it is.
    pub(super) client_id: String,
    /// Why it was, which its caller may not learn.
    pub(super) outcome: &'static str,
}

impl Calling {
    /// That of the call which took this request.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .unwrap_or_default()
    }

    /// Where the id is to be put.
    pub(super) fn cell(&self) -> &OnceLock<TokenId> {
        &self.0.token
    }

    /// Takes note of a login that is refused.
    pub(super) fn refused(&self, login: RefusedLogin) {
        // There is one login in a call.
        let _ = self.0.login.set(login);
    }

    /// The login that was refused, if it was.
    pub(super) fn login(&self) -> Option<&RefusedLogin> {
        self.0.login.get()
    }

    /// The calling token, if it was recognised.
    pub(super) fn token(&self) -> Option<TokenId> {
        self.0.token.get().copied()
    }

    /// Its id; empty if no token was recognised.
    pub(super) fn text(&self) -> String {
        self.token().map(|id| id.to_string()).unwrap_or_default()
    }
}

/// Who calls, as the transport tells it.
///
/// # Errors
/// [`Refusal::Unauthenticated`] for more than one token or another scheme.
pub(super) fn credentials<T>(request: &Request<T>) -> Result<Credentials<'_>, Refusal> {
    credentials_in(request.metadata().as_ref(), request.extensions())
}

/// Who calls, by the parts of the request.
///
/// # Errors
/// As [`credentials`].
pub(super) fn credentials_in<'a>(
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
) -> Result<Credentials<'a>, Refusal> {
    let peer = extensions.get::<Peer>();
    Ok(Credentials {
        token: bearer(headers)?,
        client_ip: peer.map(|peer| peer.address),
        peer: peer.and_then(Peer::proven),
        asks_freely: false,
    })
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all("authorization").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::Unauthenticated);
    }
    let text = value.to_str().map_err(|_| Refusal::Unauthenticated)?;
    let (scheme, token) = text
        .split_at_checked(SCHEME.len())
        .ok_or(Refusal::Unauthenticated)?;
    // A proxy joins two headers with a comma; whitespace would leave the token's end open.
    let ambiguous = token.contains(|c: char| c == ',' || c.is_ascii_whitespace());
    if token.is_empty() || ambiguous || !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(Refusal::Unauthenticated);
    }
    Ok(Some(token))
}

/// How long a call may take: what the caller grants, never more than `most`.
///
/// A little less than granted, so that the answer says what became of the call; tonic itself
/// ends it as cancelled when the time is up. A header that does not parse grants `most`.
pub(super) fn budget(headers: &HeaderMap, most: Duration) -> Duration {
    let granted = headers
        .get("grpc-timeout")
        .and_then(|value| parse_timeout(value.to_str().ok()?));
    granted.map_or(most, |granted| {
        let reserve = (granted / 10).min(Duration::from_millis(20));
        (granted - reserve).min(most)
    })
}

/// gRPC over HTTP/2: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::HeaderValue;

    use super::*;

    fn check(values: &[&'static str], expected: Result<Option<&str>, Refusal>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("authorization", HeaderValue::from_static(value));
        }
        assert_eq!(bearer(&headers), expected, "{values:?}");
    }

    #[test]
    fn a_call_has_no_token_or_exactly_one() {
        let refused = || Err(Refusal::Unauthenticated);
        check(&[], Ok(None));
        check(&["Bearer lku_a"], Ok(Some("lku_a")));
        check(&["bearer lku_a"], Ok(Some("lku_a")));
        check(&["BEARER lku_a"], Ok(Some("lku_a")));
        check(&["Bearer lku_a", "Bearer lku_b"], refused());
        check(&["Bearer lku_a", "Bearer lku_a"], refused());
        check(&["Bearer lku_a,Bearer lku_b"], refused());
        check(&["Bearer lku_a, lku_b"], refused());
        check(&["Bearer lku_a lku_b"], refused());
        check(&["Bearer  lku_a"], refused());
        check(&["Bearer lku_a "], refused());
        check(&["Bearer "], refused());
        check(&["Bearer"], refused());
        check(&[""], refused());
        check(&["Basic dXNlcjpwYXNz"], refused());
        check(&["lku_a"], refused());
    }

    #[test]
    fn the_address_is_the_connections() {
        let mut request = Request::new(());
        request
            .metadata_mut()
            .insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
        assert_eq!(credentials(&request).unwrap().client_ip, None);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        request.extensions_mut().insert(Peer::new(address, None));
        assert_eq!(credentials(&request).unwrap().client_ip, Some(address));
    }

    #[test]
    fn a_deadline_is_the_callers_up_to_the_servers() {
        let most = Duration::from_secs(10);
        let given = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            budget(&headers, most)
        };
        assert_eq!(budget(&HeaderMap::new(), most), most);
        assert_eq!(given("99999999H"), most);
        assert_eq!(given("1S"), Duration::from_millis(980));
        assert_eq!(given("100m"), Duration::from_millis(90));
        assert_eq!(given("0n"), Duration::ZERO);
        for broken in ["", "S", "1", "1X", "-1S", "123456789S", "1.5S", "1é"] {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_bytes(broken.as_bytes());
            headers.insert("grpc-timeout", value.unwrap());
            assert_eq!(budget(&headers, most), most, "{broken}");
        }
    }
}
