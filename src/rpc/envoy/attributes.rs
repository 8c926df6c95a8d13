//! What Envoy tells of a request, read in place.
//!
//! ```text
//! CheckRequest ─► attributes ─┬─► source ─► address, principal, certificate
//!                             ├─► request ─► http ─► id, method, path, host, headers or header_map
//!                             └─► context_extensions
//! ```
//!
//! Used by `service`. Envoy's question is ten times as long as ours, and prost takes longer to
//! decode it than the decision takes; so what is not needed is skipped. Headers are shown to the
//! reader as they pass. What should come once and comes twice is refused: there is no second
//! opinion on it. Numbers are those of proto/envoy, which tests compare with Envoy's own.

use super::super::fields::{Fields, NoMessage};

/// The first byte of a message whose first field holds bytes.
const NAME: u8 = 1 << 3 | 2;
/// The same of a list whose headers are in its first field.
const HEADER: u8 = 1 << 3 | 2;

/// Stands for an extension that cannot be read: one of ours, by a name that none has.
const UNREADABLE: &str = "latchkey.";

/// One header as it came; a name comes as often as the client sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header<'a> {
    /// Its name, in lower case.
    pub(super) name: &'a [u8],
    /// Its value; in the form `headers` several ones of a name are joined by commas.
    pub(super) value: &'a [u8],
}

/// The last hop before Envoy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer<'a> {
    /// Its address as text.
    pub(super) address: &'a [u8],
    /// Who it is by its certificate.
    pub(super) principal: &'a [u8],
    /// The certificate, as URL-encoded PEM.
    pub(super) certificate: &'a [u8],
}

/// What is read of a question. Texts are bytes: they are looked at only when they are needed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes<'a> {
    pub(super) source: Peer<'a>,
    pub(super) id: &'a [u8],
    pub(super) method: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) host: &'a [u8],
    all: &'a [u8],
    http: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads a CheckRequest and shows every header of the request to `seen`.
    ///
    /// # Errors
    /// [`NoMessage`] for what is none.
    #[inline]
    pub(super) fn read(
        message: &'a [u8],
        seen: &mut impl FnMut(Header<'a>),
    ) -> Result<Self, NoMessage> {
        let [all] = once(message, [1])?;
        let [source, request] = once(all.unwrap_or_default(), [1, 4])?;
        let [http] = once(request.unwrap_or_default(), [2])?;
        let mut read = Self {
            source: read_peer(source.unwrap_or_default())?,
            all: all.unwrap_or_default(),
            http: http.unwrap_or_default(),
            ..Self::default()
        };
        let (mut fields, mut found) = (Fields::of(read.http), 0_u32);
        while let Some((number, bytes)) = fields.next()? {
            let text = match number {
                1 => &mut read.id,
                2 => &mut read.method,
                4 => &mut read.path,
                5 => &mut read.host,
                3 => {
                    seen(read_entry(bytes)?);
                    continue;
                }
                13 => {
                    read_list(bytes, seen)?;
                    continue;
                }
                _ => continue,
            };
            if found & (1 << number) != 0 {
                return Err(NoMessage);
            }
            found |= 1 << number;
            *text = bytes;
        }
        Ok(read)
    }

    /// Shows every header once more; what cannot be read ends them.
    pub(super) fn headers(&self, seen: &mut impl FnMut(Header<'a>)) {
        let mut fields = Fields::of(self.http);
        while let Ok(Some((number, bytes))) = fields.next() {
            match number {
                3 => read_entry(bytes).into_iter().for_each(&mut *seen),
                // It was read before.
                13 => _ = read_list(bytes, seen),
                _ => {}
            }
        }
    }

    /// What the operator wrote at the route, by names; what cannot be read has an empty value.
    pub(super) fn extensions(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut fields = Fields::of(self.all);
        std::iter::from_fn(move || {
            loop {
                match fields.next() {
                    Ok(Some((10, entry))) => {
                        // Not to be overlooked: the others alone might ask for less.
                        let Ok(entry) = read_entry(entry) else {
                            return Some((UNREADABLE, ""));
                        };
                        // Names that are no text are none of ours.
                        let Ok(name) = std::str::from_utf8(entry.name) else {
                            continue;
                        };
                        let value = std::str::from_utf8(entry.value).unwrap_or_default();
                        return Some((name, value));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return None,
                }
            }
        })
    }
}

/// The fields of these numbers, each of which may come once.
#[inline]
fn once<const N: usize>(
    message: &[u8],
    numbers: [u32; N],
) -> Result<[Option<&[u8]>; N], NoMessage> {
    let (mut fields, mut found) = (Fields::of(message), [None; N]);
    while let Some((number, bytes)) = fields.next()? {
        if let Some(at) = numbers.iter().position(|wanted| *wanted == number)
            && found[at].replace(bytes).is_some()
        {
            return Err(NoMessage);
        }
    }
    Ok(found)
}

fn read_peer(message: &[u8]) -> Result<Peer<'_>, NoMessage> {
    let [address, principal, certificate] = once(message, [1, 4, 5])?;
    let [socket] = once(address.unwrap_or_default(), [1])?;
    let [address] = once(socket.unwrap_or_default(), [2])?;
    Ok(Peer {
        address: address.unwrap_or_default(),
        principal: principal.unwrap_or_default(),
        certificate: certificate.unwrap_or_default(),
    })
}

/// A message of a name (field 1) and one other short field, as nearly all headers are sent; none
/// for any other shape.
#[inline]
fn usual(message: &[u8], field: u8) -> Option<Header<'_>> {
    let [NAME, length @ ..0x80, rest @ ..] = message else {
        return None;
    };
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (key, length, value) = match rest {
        [key, length @ ..0x80, value @ ..] => (*key, usize::from(*length), value),
        [key, low, high @ 1..0x80, value @ ..] => {
            let length = usize::from(*low & 0x7f) | usize::from(*high) << 7;
            (*key, length, value)
        }
        _ => return None,
    };
    (key == field << 3 | 2 && length == value.len()).then_some(Header { name, value })
}

/// The first header of a list, and what is behind it; none if it is not of the usual shape.
#[inline]
fn first_usual(list: &[u8]) -> Option<(Header<'_>, &[u8])> {
    let (length, rest) = match list {
        [HEADER, length @ ..0x80, rest @ ..] => (usize::from(*length), rest),
        [HEADER, low, high @ 1..0x80, rest @ ..] => {
            let length = usize::from(*low & 0x7f) | usize::from(*high) << 7;
            (length, rest)
        }
        _ => return None,
    };
    let (header, rest) = rest.split_at_checked(length)?;
    Some((usual(header, 3)?, rest))
}

/// An entry of a map of texts.
#[inline]
fn read_entry(message: &[u8]) -> Result<Header<'_>, NoMessage> {
    if let Some(header) = usual(message, 2) {
        return Ok(header);
    }
    let [name, value] = once(message, [1, 2])?;
    Ok(Header {
        name: name.unwrap_or_default(),
        value: value.unwrap_or_default(),
    })
}

/// A HeaderMap: the values are bytes, and texts where a sender has no bytes.
#[inline]
fn read_list<'a>(message: &'a [u8], seen: &mut impl FnMut(Header<'a>)) -> Result<(), NoMessage> {
    let mut rest = message;
    while let Some((header, after)) = first_usual(rest) {
        seen(header);
        rest = after;
    }
    let mut fields = Fields::of(rest);
    while let Some((number, header)) = fields.next()? {
        if number == 1 {
            let [name, text, raw] = once(header, [1, 2, 3])?;
            seen(Header {
                name: name.unwrap_or_default(),
                value: raw.or(text).unwrap_or_default(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::proto::envoy::config::core::v3 as core;
    use crate::proto::envoy::service::auth::v3 as auth;
    use auth::attribute_context as context;

    type Told = (Vec<[Vec<u8>; 2]>, Vec<[String; 2]>, Vec<Vec<u8>>);

    fn told(message: &[u8]) -> Result<Told, NoMessage> {
        let mut headers = Vec::new();
        let mut seen = |header: Header<'_>| {
            headers.push([header.name.to_vec(), header.value.to_vec()]);
        };
        let read = Attributes::read(message, &mut seen)?;
        let mut again = Vec::new();
        read.headers(&mut |header| again.push([header.name.to_vec(), header.value.to_vec()]));
        assert_eq!(headers, again);
        let extensions = read.extensions();
        let extensions = extensions.map(|(name, value)| [name.to_owned(), value.to_owned()]);
        let Peer {
            address,
            principal,
            certificate,
        } = read.source;
        let texts = [
            address,
            principal,
            certificate,
            read.id,
            read.method,
            read.path,
            read.host,
        ];
        Ok((
            headers,
            extensions.collect(),
            texts.map(<[u8]>::to_vec).to_vec(),
        ))
    }

    /// The same by prost.
    fn expected(request: &auth::CheckRequest) -> Told {
        let attributes = request.attributes.clone().unwrap_or_default();
        let http = attributes.request.unwrap_or_default().http;
        let http = http.unwrap_or_default();
        let entries = http.headers.iter();
        let entries = entries.map(|(name, value)| [name.clone().into(), value.clone().into()]);
        let listed = http.header_map.into_iter().flat_map(|list| list.headers);
        let listed = listed.map(|header| {
            let value = match header.raw_value.is_empty() {
                true => header.value.into(),
                false => header.raw_value,
            };
            [header.key.into(), value]
        });
        let extensions = attributes.context_extensions.into_iter();
        let extensions = extensions.map(|(name, value)| [name, value]).collect();
        let source = attributes.source.unwrap_or_default();
        let address = source.address.and_then(|address| address.address);
        let address = address.map_or_else(String::new, |address| match address {
            core::address::Address::SocketAddress(socket) => socket.address,
        });
        let texts = [
            address,
            source.principal,
            source.certificate,
            http.id,
            http.method,
            http.path,
            http.host,
        ];
        (
            entries.chain(listed).collect(),
            extensions,
            texts.map(Vec::from).to_vec(),
        )
    }

    fn sorted((mut headers, mut extensions, texts): Told) -> Told {
        headers.sort();
        extensions.sort();
        (headers, extensions, texts)
    }

    fn peer() -> impl Strategy<Value = context::Peer> {
        let text = || "[a-z/:%.]{0,200}";
        (proptest::option::of(text()), text(), text()).prop_map(
            |(address, principal, certificate)| context::Peer {
                address: address.map(|address| core::Address {
                    address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                        address,
                        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(80)),
                    })),
                }),
                principal,
                certificate,
            },
        )
    }

    fn map() -> impl Strategy<Value = HashMap<String, String>> {
        proptest::collection::hash_map("[a-z-]{0,20}", "[ -~é]{0,300}", 0..5)
    }

    fn list() -> impl Strategy<Value = core::HeaderMap> {
        let raw = proptest::collection::vec(any::<u8>(), 0..20);
        let header = ("[a-z-]{0,9}", "[a-z]{0,9}", raw).prop_map(|(key, value, raw_value)| {
            core::HeaderValue {
                key,
                value,
                raw_value,
            }
        });
        proptest::collection::vec(header, 0..5).prop_map(|headers| core::HeaderMap { headers })
    }

    fn request() -> impl Strategy<Value = auth::CheckRequest> {
        let http = (
            map(),
            proptest::option::of(list()),
            "[A-Z]{0,9}",
            "[ -~]{0,99}",
        );
        let http = http.prop_map(|(headers, header_map, method, path)| context::HttpRequest {
            id: path.chars().rev().collect(),
            method,
            headers,
            path,
            host: "h".to_owned(),
            protocol: "HTTP/2".to_owned(),
            header_map,
        });
        (peer(), peer(), http, map()).prop_map(|(source, destination, http, extensions)| {
            auth::CheckRequest {
                attributes: Some(auth::AttributeContext {
                    source: Some(source),
                    destination: Some(destination),
                    request: Some(context::Request { http: Some(http) }),
                    context_extensions: extensions,
                }),
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_read_in_place_is_what_prost_reads(request in request()) {
            let message = request.encode_to_vec();
            // prost leaves out empty raw values and keys alike.
            prop_assert_eq!(told(&message).map(sorted), Ok(sorted(expected(&request))));
        }

        #[test]
        fn garbage_is_read_as_prost_reads_it_or_refused(
            request in request(),
            places in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..4),
        ) {
            let mut message = request.encode_to_vec();
            for (place, byte) in places {
                let at = usize::from(place) % message.len().max(1);
                if let Some(old) = message.get_mut(at) {
                    *old = byte;
                }
            }
            // What prost refuses may be read: texts that are none, and broken fields that are
            // skipped here. What is read by both must be the same, unless a field came twice,
            // which prost merges and we refuse.
            if let (Ok(told), Ok(by_prost)) = (told(&message), auth::CheckRequest::decode(&*message)) {
                let by_prost = expected(&by_prost);
                prop_assert_eq!(told.2, by_prost.2);
                // A map keeps one value of a name, the last; here they are all seen.
                let mut headers = told.0;
                headers.reverse();
                for header in by_prost.0 {
                    prop_assert!(headers.contains(&header), "{:?}", header);
                }
            }
        }
    }

    #[test]
    fn what_should_come_once_and_comes_twice_is_refused() {
        let of = |path: &str| auth::CheckRequest {
            attributes: Some(auth::AttributeContext {
                request: Some(context::Request {
                    http: Some(context::HttpRequest {
                        path: path.to_owned(),
                        ..Default::default()
                    }),
                }),
                ..Default::default()
            }),
        };
        let one = of("/public").encode_to_vec();
        assert!(told(&one).is_ok());
        let twice = [one.clone(), of("/secret").encode_to_vec()].concat();
        // prost merges the two, and the last path wins.
        assert!(expected(&auth::CheckRequest::decode(&*twice).unwrap()).2[5] == b"/secret");
        assert_eq!(told(&twice), Err(NoMessage));
    }

    #[test]
    fn an_empty_question_has_nothing() {
        let nothing = vec![Vec::new(); 7];
        assert_eq!(told(b""), Ok((vec![], vec![], nothing)));
    }
}
