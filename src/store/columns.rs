//! How records stand in the columns of a table, and what a listed row says of itself.
//!
//! Texts are compact and stay readable: permissions are `ACTION@RESOURCE`, joined by a blank,
//! which neither grammar contains. Issuers are packed, because start-up reads one for every
//! token. Shared by every store that has tables, so that they hold the same facts in the same
//! form; nothing here knows SQL, and what is read goes through the parsers of the domain again.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use crate::domain::chain::RevisionNumber;
use crate::domain::change::{CutOffTarget, EXPIRES_MS_MAX, Issuer, Subject, TokenRecord};
use crate::domain::clock::UnixMs;
use crate::domain::limits::Networks;
use crate::domain::login::{LockoutPolicy, LoginMethod, LoginSettings};
use crate::domain::permission::{Permission, Resource};
use crate::domain::principal::PrincipalId;
use crate::domain::scopes::PermissionSet;
use crate::domain::token::{TokenId, TokenKind};

use super::list::TokenState;

/// Texts of permissions kept parsed while reading many rows; beyond it they start anew.
const SETS_CACHED: usize = 65_536;
/// Most rows of one page.
const PAGE_ROWS_MAX: usize = 1_000;

/// The permissions of a set, joined by blanks.
pub(super) fn set_text(set: &PermissionSet) -> String {
    let texts: Vec<String> = set.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

fn parse_set(text: &str) -> Option<PermissionSet> {
    if text.is_empty() {
        return Some(PermissionSet::default());
    }
    let permissions = text.split(' ').map(|one| {
        // A resource may contain `@`, an action never.
        let (action, resource) = one.split_once('@')?;
        Permission::parse(action, resource).ok()
    });
    PermissionSet::new(permissions.collect::<Option<Vec<_>>>()?).ok()
}

/// An expiry as it stands in a column; none where no index could hold it.
pub(super) fn expiry(at: Option<UnixMs>) -> Option<Option<UnixMs>> {
    (at.unwrap_or(0) <= EXPIRES_MS_MAX).then_some(at)
}

/// Reads sets of permissions, parsing equal texts once: most tokens share a few.
#[derive(Default)]
pub(super) struct Sets {
    parsed: HashMap<Box<str>, PermissionSet, RandomState>,
}

impl Sets {
    /// The set that a text says; `None` outside the grammar.
    pub(super) fn read(&mut self, text: &str) -> Option<PermissionSet> {
        if let Some(set) = self.parsed.get(text) {
            return Some(set.clone());
        }
        let set = parse_set(text)?;
        if self.parsed.len() >= SETS_CACHED {
            self.parsed.clear();
        }
        self.parsed.insert(text.into(), set.clone());
        Some(set)
    }
}

/// The networks as CIDR, joined by blanks; `None` when there are none.
pub(super) fn networks_text(networks: &Networks) -> Option<String> {
    (!networks.is_empty()).then(|| networks.iter().collect::<Vec<_>>().join(" "))
}

/// The networks that a text says, or none without one; `None` outside the grammar.
pub(super) fn parse_networks(text: Option<&str>) -> Option<Networks> {
    let Some(text) = text else {
        return Some(Networks::default());
    };
    Networks::parse(&text.split(' ').collect::<Vec<_>>())
}

/// The columns of a login method beside its principal, its number and since when it is set.
#[derive(Default)]
pub(super) struct MethodColumns<T> {
    pub(super) ttl_s: u32,
    pub(super) max_ttl_s: Option<u32>,
    pub(super) period_s: Option<u32>,
    pub(super) uses: Option<u32>,
    pub(super) networks: Option<T>,
    pub(super) login_networks: Option<T>,
    /// Threshold, duration and reset: all three, or none.
    pub(super) lockout: [Option<u32>; 3],
}

/// The settings of a method as columns.
pub(super) fn method_columns(settings: &LoginSettings) -> MethodColumns<String> {
    let lockout = |field: fn(&LockoutPolicy) -> u32| settings.lockout.as_ref().map(field);
    MethodColumns {
        ttl_s: settings.ttl_s,
        max_ttl_s: settings.max_ttl_s,
        period_s: settings.period_s,
        uses: settings.uses,
        networks: networks_text(&settings.networks),
        login_networks: networks_text(&settings.login_networks),
        lockout: [
            lockout(|one| one.threshold),
            lockout(|one| one.duration_s),
            lockout(|one| one.reset_s),
        ],
    }
}

/// The settings that stand in columns; `None` outside the grammar.
pub(super) fn parse_method(columns: &MethodColumns<&str>) -> Option<LoginSettings> {
    Some(LoginSettings {
        ttl_s: columns.ttl_s,
        max_ttl_s: columns.max_ttl_s,
        period_s: columns.period_s,
        uses: columns.uses,
        networks: parse_networks(columns.networks)?,
        login_networks: parse_networks(columns.login_networks)?,
        lockout: match columns.lockout {
            [Some(threshold), Some(duration_s), Some(reset_s)] => Some(LockoutPolicy {
                threshold,
                duration_s,
                reset_s,
            }),
            [None, None, None] => None,
            _ => return None,
        },
    })
}

/// The subject of a row that has either a principal or a resource.
pub(super) fn parse_subject(principal: Option<u32>, path: Option<&str>) -> Option<Subject> {
    match (principal, path) {
        (Some(id), None) => Some(Subject::Principal(PrincipalId(id))),
        (None, Some(path)) => Resource::parse(path).ok().map(Subject::Resource),
        _ => None,
    }
}

/// Each issuer: 1 and its principal, or 0 and zero, in 5 bytes; since, in 8; how many tokens, in
/// 1; the tokens, 16 bytes each. `None` when an issuer has more ancestors than that counts.
pub(super) fn pack_issuers(issuers: &[Issuer]) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    for issuer in issuers {
        let count = u8::try_from(issuer.tokens.len()).ok()?;
        packed.push(u8::from(issuer.principal.is_some()));
        packed.extend(issuer.principal.map_or(0, |id| id.0).to_be_bytes());
        packed.extend(issuer.since.to_be_bytes());
        packed.push(count);
        packed.extend(issuer.tokens.iter().flat_map(|token| token.to_bytes()));
    }
    Some(packed)
}

/// The issuers that were packed; `None` for anything else.
pub(super) fn unpack_issuers(mut packed: &[u8]) -> Option<Vec<Issuer>> {
    let mut issuers = Vec::new();
    while let Some(([known], rest)) = packed.split_first_chunk::<1>() {
        let (principal, rest) = rest.split_first_chunk::<4>()?;
        let (since, rest) = rest.split_first_chunk::<8>()?;
        let ([count], rest) = rest.split_first_chunk::<1>()?;
        let (tokens, rest) = rest.split_at_checked(usize::from(*count) * 16)?;
        let (tokens, _) = tokens.as_chunks::<16>();
        issuers.push(Issuer {
            principal: (*known == 1).then_some(PrincipalId(u32::from_be_bytes(*principal))),
            tokens: tokens.iter().copied().map(TokenId::from_bytes).collect(),
            since: u64::from_be_bytes(*since),
        });
        packed = rest;
    }
    Some(issuers)
}

/// The earlier of expiry and revocation: what a *forget* compares with its instant.
pub(super) fn ended_ms(record: &TokenRecord) -> Option<UnixMs> {
    let revoked_ms = record.revoked.map(|revoked| revoked.at_ms);
    record.expires_ms.into_iter().chain(revoked_ms).min()
}

/// How the table of cut-offs names a target: its kind, and the target's text.
pub(super) fn cut_off_columns(target: &CutOffTarget) -> (&'static str, String) {
    match target {
        CutOffTarget::Subject(id) => ("subject", id.0.to_string()),
        CutOffTarget::IssuedByPrincipal(id) => ("issued_by_principal", id.0.to_string()),
        CutOffTarget::IssuedByToken(id) => ("issued_by_token", id.to_string()),
        CutOffTarget::IssuedForTeam(team, member) => {
            ("issued_for_team", format!("{}/{}", team.0, member.0))
        }
        CutOffTarget::ResourceUnder(resource) => ("resource_under", resource.to_string()),
        CutOffTarget::Sessions(id) => ("sessions", id.0.to_string()),
    }
}

/// The target that was named so; `None` for anything else.
pub(super) fn parse_cut_off(kind: &str, text: &str) -> Option<CutOffTarget> {
    let principal = |text: &str| text.parse().ok().map(PrincipalId);
    Some(match kind {
        "subject" => CutOffTarget::Subject(principal(text)?),
        "issued_by_principal" => CutOffTarget::IssuedByPrincipal(principal(text)?),
        "issued_by_token" => CutOffTarget::IssuedByToken(TokenId::parse(text)?),
        "issued_for_team" => {
            let (team, member) = text.split_once('/')?;
            CutOffTarget::IssuedForTeam(principal(team)?, principal(member)?)
        }
        "sessions" => CutOffTarget::Sessions(principal(text)?),
        "resource_under" => CutOffTarget::ResourceUnder(Resource::parse(text).ok()?),
        _ => return None,
    })
}

/// Every cut-off that would refuse the token itself if it stood above the revision beside it; its
/// ancestors are not asked.
pub(super) fn cut_offs_of(record: &TokenRecord) -> Vec<(CutOffTarget, RevisionNumber)> {
    let made_at = record.made_at;
    let mut targets = match &record.subject {
        Subject::Principal(id) if record.kind == TokenKind::Access => vec![
            (CutOffTarget::Subject(*id), made_at),
            (CutOffTarget::Sessions(*id), made_at),
        ],
        Subject::Principal(id) => vec![(CutOffTarget::Subject(*id), made_at)],
        Subject::Resource(resource) => {
            let paths = resource.self_and_ancestors();
            let under = |path| (CutOffTarget::ResourceUnder(path), made_at);
            paths.map(under).collect()
        }
    };
    for issuer in &record.issuers {
        let since = match issuer.since {
            0 => made_at,
            since => since,
        };
        if let Some(id) = issuer.principal {
            targets.push((CutOffTarget::IssuedByPrincipal(id), since));
            if let Subject::Principal(team) = record.subject {
                targets.push((CutOffTarget::IssuedForTeam(team, id), since));
            }
        }
        let tokens = issuer.tokens.iter().copied();
        targets.extend(tokens.map(|token| (CutOffTarget::IssuedByToken(token), since)));
    }
    targets
}

/// Whether a token is a credential of a method that is not set, or was set after it was made.
pub(super) fn lacks_method(record: &TokenRecord, method_made_at: Option<RevisionNumber>) -> bool {
    let is_credential = LoginMethod::of(record.kind).is_some();
    is_credential && method_made_at.is_none_or(|made_at| made_at > record.made_at)
}

/// Whether a token was issued with this one or one derived from it.
pub(super) fn is_issued_by(record: &TokenRecord, id: TokenId) -> bool {
    let mut issuers = record.issuers.iter();
    issuers.any(|issuer| issuer.tokens.contains(&id))
}

/// The state of a token at an instant.
pub(super) fn state_of(record: &TokenRecord, cut_off: bool, now_ms: UnixMs) -> TokenState {
    if record.revoked.is_some() || cut_off {
        TokenState::Revoked
    } else if record.expires_ms.is_some_and(|at| at <= now_ms) {
        TokenState::Expired
    } else if record.not_before_ms.is_some_and(|at| at > now_ms) {
        TokenState::NotYetValid
    } else {
        TokenState::Active
    }
}

/// A resource, and the bounds of what is below it: `/` is followed by `0`. A prefix test by
/// `LIKE` would take `_` for any character, and would not use the index.
pub(super) fn under(resource: &Resource) -> [String; 3] {
    let path = resource.as_str();
    [path.to_owned(), format!("{path}/"), format!("{path}0")]
}

/// How many rows a page has when so many are asked for.
pub(super) fn page_rows(limit: usize) -> usize {
    limit.clamp(1, PAGE_ROWS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_read_back_and_torn_ones_are_refused() {
        let issuers = vec![
            Issuer {
                principal: Some(PrincipalId(7)),
                tokens: vec![TokenId::from_u128(1), TokenId::from_u128(u128::MAX)],
                since: 0,
            },
            Issuer {
                principal: None,
                tokens: Vec::new(),
                since: u64::MAX,
            },
        ];
        let packed = pack_issuers(&issuers).expect("few");
        assert_eq!(unpack_issuers(&packed), Some(issuers));
        assert_eq!(unpack_issuers(&[]), Some(Vec::new()));
        for cut in [1, 13, 14, 30, packed.len() - 1] {
            assert_eq!(unpack_issuers(&packed[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn sets_read_back_and_other_texts_are_refused() {
        let set = parse_set("a:x@acme/*/b@c b:*@**").expect("valid");
        assert_eq!(parse_set(&set_text(&set)), Some(set));
        assert_eq!(parse_set(""), Some(PermissionSet::default()));
        for text in [" ", "a:x", "a:x@r ", "a:x@r  b:x@r", "A@r"] {
            assert_eq!(parse_set(text), None, "{text:?}");
        }
    }

    #[test]
    fn methods_read_back_and_half_a_lockout_is_refused() {
        let networks = |texts: &[&str]| Networks::parse(texts).expect("networks");
        let full = LoginSettings {
            max_ttl_s: Some(2),
            period_s: Some(3),
            uses: Some(4),
            networks: networks(&["10.0.0.0/8", "2001:db8::/32"]),
            login_networks: networks(&["192.0.2.1"]),
            ..LoginSettings::default()
        };
        let bare = LoginSettings {
            lockout: None,
            ..LoginSettings::default()
        };
        for settings in [full, bare] {
            let stored = method_columns(&settings);
            let mut columns = MethodColumns {
                ttl_s: stored.ttl_s,
                max_ttl_s: stored.max_ttl_s,
                period_s: stored.period_s,
                uses: stored.uses,
                networks: stored.networks.as_deref(),
                login_networks: stored.login_networks.as_deref(),
                lockout: stored.lockout,
            };
            assert_eq!(parse_method(&columns), Some(settings));
            columns.lockout[1] = columns.lockout[1].xor(Some(1));
            assert_eq!(parse_method(&columns), None);
        }
    }

    #[test]
    fn cut_offs_read_back() {
        let resource = Resource::parse("acme/web").expect("a path");
        for target in [
            CutOffTarget::Subject(PrincipalId(1)),
            CutOffTarget::IssuedByPrincipal(PrincipalId(u32::MAX)),
            CutOffTarget::IssuedByToken(TokenId::from_u128(3)),
            CutOffTarget::IssuedForTeam(PrincipalId(4), PrincipalId(5)),
            CutOffTarget::ResourceUnder(resource),
            CutOffTarget::Sessions(PrincipalId(6)),
        ] {
            let (kind, text) = cut_off_columns(&target);
            assert_eq!(parse_cut_off(kind, &text), Some(target));
        }
        assert_eq!(parse_cut_off("issued_for_team", "4"), None);
        assert_eq!(parse_cut_off("another", "4"), None);
    }
}
