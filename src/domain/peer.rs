//! Who a peer is by the certificate that it has shown, and which peers may call what.
//!
//! Made by `tls` once a handshake has proven it, read by `rpc`, `authority` and `state`, none of
//! which sees a certificate. Names of the subject say nothing here: only what an authority has put
//! into the alternative names counts, and the certificate itself. Absent on purpose: patterns
//! beyond everything below a path, which is how SPIFFE IDs are grouped.

use super::limits::Workload;

/// Most entries of a list.
pub const PEERS_MAX: usize = 64;
const DNS_BYTES_MAX: usize = 253;
/// What an entry ends with that stands for everything below it.
const BELOW: &str = "/*";

/// What a peer has proven by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    spiffe: Option<Workload>,
    dns: Vec<String>,
    thumbprint: Workload,
}

impl Proven {
    /// By its one URI if that is a SPIFFE ID, its DNS names and its thumbprint; none if the last
    /// is none.
    #[must_use]
    pub fn new(uri: Option<&str>, dns: Vec<String>, thumbprint: &str) -> Option<Self> {
        let mut dns = dns;
        for name in &mut dns {
            name.make_ascii_lowercase();
        }
        Some(Self {
            spiffe: uri.and_then(Workload::parse),
            dns,
            thumbprint: Workload::parse(thumbprint)?,
        })
    }

    /// Whether it is this workload.
    #[must_use]
    pub fn is(&self, workload: &str) -> bool {
        let spiffe = self.spiffe.as_ref().map(Workload::as_str);
        spiffe == Some(workload) || self.thumbprint.as_str() == workload
    }

    /// Its name as a workload: the one that a token is bound to if it is that, else its own.
    #[must_use]
    pub fn named(&self, bound: Option<&str>) -> &str {
        let thumbprint = &self.thumbprint;
        match &self.spiffe {
            Some(spiffe) if bound != Some(thumbprint.as_str()) => spiffe.as_str(),
            _ => thumbprint.as_str(),
        }
    }
}

/// A list of peers: SPIFFE IDs, everything below one, DNS names or thumbprints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// A SPIFFE ID or a thumbprint.
    Workload(Workload),
    /// What every SPIFFE ID below begins with, its slash included.
    Below(String),
    Dns(String),
}

impl Peers {
    /// Reads entries with commas between them; none if one is none of the forms, or they are too
    /// many.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let entries = text.split(',').map(str::trim);
        let entries = entries.filter(|entry| !entry.is_empty());
        let entries: Vec<Entry> = entries.map(Entry::parse).collect::<Option<_>>()?;
        (entries.len() <= PEERS_MAX).then_some(Self(entries))
    }

    /// Whether nobody is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a peer is on it.
    #[must_use]
    pub fn name(&self, peer: &Proven) -> bool {
        self.0.iter().any(|entry| entry.names(peer))
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if let Some(id) = text.strip_suffix(BELOW) {
            let is_spiffe = id.starts_with("spiffe://") && Workload::parse(id).is_some();
            return is_spiffe.then(|| Self::Below(format!("{id}/")));
        }
        if let Some(workload) = Workload::parse(text) {
            return Some(Self::Workload(workload));
        }
        is_dns(text).then(|| Self::Dns(text.to_ascii_lowercase()))
    }

    fn names(&self, peer: &Proven) -> bool {
        match self {
            Self::Workload(workload) => peer.is(workload.as_str()),
            Self::Below(head) => {
                let spiffe = peer.spiffe.as_ref().map(Workload::as_str);
                spiffe.is_some_and(|id| id.starts_with(head))
            }
            Self::Dns(name) => peer.dns.contains(name),
        }
    }
}

/// Whether a text is a DNS name: labels of letters, digits and inner hyphens. A wildcard names
/// nobody.
#[must_use]
pub fn is_dns(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= DNS_BYTES_MAX && text.split('.').all(label)
}

/// What is called, as far as a peer may be kept from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Checks, Envoy's included.
    Check,
    /// Logins, renewals and exchanges.
    Login,
    /// Everything else but health and reflection.
    Manage,
}

impl Group {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Check, Self::Login, Self::Manage];

    /// Its name in settings and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Login => "login",
            Self::Manage => "manage",
        }
    }
}

/// Which peers may call what; an empty list keeps nobody out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    lists: [Peers; Group::ALL.len()],
}

impl Access {
    /// By a list of each group, in the order of [`Group::ALL`].
    #[must_use]
    pub fn new(lists: [Peers; Group::ALL.len()]) -> Self {
        Self { lists }
    }

    /// Whether anybody is kept from a group.
    #[must_use]
    pub fn limits(&self, group: Group) -> bool {
        !self.lists[group as usize].is_empty()
    }

    /// What a peer may call; none is one that has proven nothing.
    #[must_use]
    pub fn of(&self, peer: Option<&Proven>) -> Allowed {
        let may = |list: &Peers| list.is_empty() || peer.is_some_and(|peer| list.name(peer));
        let bit = |group: &Group| u8::from(may(&self.lists[*group as usize])) << *group as u8;
        Allowed(Group::ALL.iter().map(bit).sum())
    }
}

/// The groups that one peer may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed(u8);

impl Allowed {
    /// Whether a group is among them.
    #[inline]
    #[must_use]
    pub fn may(self, group: Group) -> bool {
        self.0 & (1 << group as u8) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THUMBPRINT: &str = "x5t#S256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn peer(uri: Option<&str>, dns: &[&str]) -> Proven {
        let dns = dns.iter().map(|&name| name.to_owned()).collect();
        Proven::new(uri, dns, THUMBPRINT).expect("a thumbprint")
    }

    #[test]
    fn an_entry_names_who_it_says_and_nobody_else() {
        let web = peer(Some("spiffe://acme/ns/a/web"), &["Web.acme.test"]);
        let check = |list: &str, expected: bool| {
            let list = Peers::parse(list).expect("a list");
            assert_eq!(list.name(&web), expected, "{list:?}");
        };
        check("", false);
        check("spiffe://acme/ns/a/web", true);
        check("spiffe://acme/ns/a/we", false);
        check("spiffe://acme/ns/a/*", true);
        check("spiffe://acme/*", true);
        check("spiffe://acme/ns/a/web/*", false);
        check("spiffe://acm/*", false);
        check("web.acme.test", true);
        check("WEB.ACME.TEST", true);
        check("acme.test", false);
        check(THUMBPRINT, true);
        check("spiffe://other/a, web.acme.test", true);
        // A URI that is no SPIFFE ID names nobody, and neither does none.
        for uri in [None, Some("https://acme/ns/a/web")] {
            let list = Peers::parse("spiffe://acme/*").expect("a list");
            assert!(!list.name(&peer(uri, &["acme"])), "{uri:?}");
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for text in [
            "*",
            "spiffe://acme*",
            "spiffe://acme/a*",
            "spiffe:///*",
            "https://acme/*",
            "*.acme.test",
            "x5t#S256:abc",
            "a b",
            "-a",
            "a..b",
            "CN=web",
        ] {
            assert_eq!(Peers::parse(text), None, "{text}");
        }
        let many = vec!["a"; PEERS_MAX + 1].join(",");
        assert_eq!(Peers::parse(&many), None);
    }

    #[test]
    fn an_empty_list_keeps_nobody_out_and_a_list_whoever_is_not_on_it() {
        let list = |text| Peers::parse(text).expect("a list");
        let access = Access::new([list("spiffe://acme/envoy"), list(""), list("admin.test")]);
        let check = |peer: Option<&Proven>, expected: [bool; 3]| {
            let allowed = access.of(peer);
            assert_eq!(Group::ALL.map(|group| allowed.may(group)), expected);
        };
        check(None, [false, true, false]);
        check(
            Some(&peer(Some("spiffe://acme/envoy"), &[])),
            [true, true, false],
        );
        check(Some(&peer(None, &["admin.test"])), [false, true, true]);
        check(Some(&peer(None, &[])), [false, true, false]);
        assert_eq!(
            Access::default().of(None),
            Access::default().of(Some(&peer(None, &[])))
        );
        assert!(access.limits(Group::Check) && !access.limits(Group::Login));
    }

    #[test]
    fn a_peer_is_named_as_a_token_is_bound() {
        let id = "spiffe://acme/web";
        let web = peer(Some(id), &[]);
        assert_eq!(web.named(None), id);
        assert_eq!(web.named(Some(id)), id);
        assert_eq!(web.named(Some("spiffe://acme/other")), id);
        assert_eq!(web.named(Some(THUMBPRINT)), THUMBPRINT);
        assert_eq!(peer(None, &[]).named(None), THUMBPRINT);
        assert!(web.is(id) && web.is(THUMBPRINT) && !web.is("spiffe://acme"));
    }
}
