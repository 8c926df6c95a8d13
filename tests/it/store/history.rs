//! A long random history in which every change fits: what a replica that decides rightly sends.
//!
//! Keeps its own model of what the changes make, in plain maps, so that a store is held against
//! something that shares no line with it. Repeatable by seed.

use std::collections::{BTreeMap, BTreeSet};

use latchkey::domain::change::{
    Change, CutOffTarget, Display, Grace, GrantRecord, Issuer, NewToken, PrincipalRecord, Revoked,
    RoleRecord, Row, Subject, TokenRecord,
};
use latchkey::domain::limits::{Networks, Uses};
use latchkey::domain::principal::{GrantId, PrincipalId};
use latchkey::domain::scopes::Scopes;
use latchkey::domain::token::{TokenId, TokenKind};

use super::history_logins::{Drawn, Logins};
use super::scribe::{
    Scribe, client_secret, digest, grant, principal, registered, resource, resource_token, role,
    set, token_id, user_token,
};

/// The model, and the stream that drives it.
pub(crate) struct History {
    random: u64,
    principal_max: u32,
    grant_max: u32,
    token_max: u128,
    principals: BTreeMap<u32, PrincipalRecord>,
    members: BTreeSet<(u32, u32)>,
    roles: BTreeMap<String, RoleRecord>,
    grants: BTreeMap<u32, GrantRecord>,
    cut_offs: BTreeMap<CutOffTarget, u64>,
    tokens: BTreeMap<TokenId, TokenRecord>,
    logins: Logins,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: seed,
            principal_max: 0,
            grant_max: 0,
            token_max: 0,
            principals: BTreeMap::new(),
            members: BTreeSet::new(),
            roles: BTreeMap::new(),
            grants: BTreeMap::new(),
            cut_offs: BTreeMap::new(),
            tokens: BTreeMap::new(),
            logins: Logins::default(),
        }
    }

    /// SplitMix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn one_of<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        let count = u64::try_from(items.len()).expect("few");
        let index = if count == 0 { 0 } else { self.below(count) };
        items.get(usize::try_from(index).expect("few")).cloned()
    }

    /// One to eight changes behind the scribe's head.
    pub(crate) fn batch(&mut self, scribe: &Scribe) -> Vec<Change> {
        let count = 1 + self.below(8);
        (0..count)
            .map(|index| {
                let revision = scribe.next() + index;
                // The scribe gives each entry the next millisecond.
                let instant_ms = scribe.instant_ms + 1 + index;
                loop {
                    if let Some(change) = self.change(revision, instant_ms) {
                        self.apply(&change, revision, instant_ms);
                        return change;
                    }
                }
            })
            .collect()
    }

    fn change(&mut self, revision: u64, instant_ms: u64) -> Option<Change> {
        match self.below(32) {
            0..=2 => Some(self.put_principal(revision)),
            3 => Some(Change::DeletePrincipal(self.a_principal(None)?)),
            4 | 5 => {
                let (team, member) = (
                    self.a_principal(Some("team:"))?,
                    self.a_principal(Some("user:"))?,
                );
                let fresh = !self.members.contains(&(team.0, member.0));
                fresh.then_some(Change::AddMember { team, member })
            }
            6 => {
                let members: Vec<_> = self.members.iter().copied().collect();
                let (team, member) = self.one_of(&members)?;
                Some(Change::RemoveMember {
                    team: PrincipalId(team),
                    member: PrincipalId(member),
                    cut_off_tokens: self.below(2) == 0,
                })
            }
            7 => Some(self.put_role()),
            8 => {
                let names: Vec<_> = self.roles.values().map(|one| one.name.clone()).collect();
                let name = self.one_of(&names)?;
                let granted = self.grants.values().any(|one| one.role == name);
                (!granted).then_some(Change::DeleteRole(name))
            }
            9 => {
                let id = self.a_principal(None)?;
                let roles: Vec<_> = self.roles.keys().cloned().collect();
                let role = self.one_of(&roles)?;
                Some(Change::PutGrant(grant(
                    self.grant_max + 1,
                    id.0,
                    &role,
                    "acme/*/x/**",
                )))
            }
            10 => {
                let ids: Vec<_> = self.grants.keys().copied().collect();
                Some(Change::DeleteGrant(GrantId(self.one_of(&ids)?)))
            }
            11..=15 => self.issue(revision, instant_ms),
            16 | 17 => self.edit(instant_ms),
            18 => Some(Change::RevokeToken {
                id: self.a_token()?.id,
                compromised: self.below(2) == 0,
            }),
            19 => {
                let record = self.a_token()?;
                record.uses.map(|uses| Change::UseToken {
                    id: record.id,
                    left: uses.left.saturating_sub(1),
                })
            }
            20 => Some(Change::CutOff(self.cut_off()?)),
            21..=26 => self.of_logins(revision, instant_ms),
            27 => self.login(revision, instant_ms),
            _ => Some(Change::Forget {
                before_ms: instant_ms - self.below(30),
                slice: self.below(3) as u8,
            }),
        }
    }

    fn of_logins(&mut self, revision: u64, instant_ms: u64) -> Option<Change> {
        let drawn = Drawn {
            bits: self.below(1 << 40),
            principal: self.a_principal(Some("service:"))?,
            revision,
            instant_ms,
        };
        self.logins.change(&drawn)
    }

    fn put_role(&mut self) -> Change {
        let name = format!("role{}", self.below(6));
        let record = role(&name, "acme", &["a:*", "b:x"][..self.below(3) as usize]);
        Change::PutRole {
            record,
            display: self.display(),
        }
    }

    fn put_principal(&mut self, revision: u64) -> Change {
        let old = self.a_principal(None).filter(|_| self.below(3) == 0);
        let record = match old {
            Some(id) => PrincipalRecord {
                disabled: self.below(2) == 0,
                ..self.principals[&id.0].clone()
            },
            None => {
                let id = self.principal_max + 1;
                let kind = ["user", "team", "service"][self.below(3) as usize];
                PrincipalRecord {
                    made_at: revision,
                    ..principal(id, &format!("{kind}:p{id}"))
                }
            }
        };
        Change::PutPrincipal {
            record,
            display: self.display(),
        }
    }

    fn a_principal(&mut self, prefix: Option<&str>) -> Option<PrincipalId> {
        let fits = |one: &&PrincipalRecord| {
            prefix.is_none_or(|prefix| one.name.to_string().starts_with(prefix))
        };
        let ids: Vec<_> = self
            .principals
            .values()
            .filter(fits)
            .map(|one| one.id)
            .collect();
        self.one_of(&ids)
    }

    fn a_token(&mut self) -> Option<TokenRecord> {
        let all: Vec<_> = self.tokens.values().cloned().collect();
        self.one_of(&all)
    }

    fn display(&mut self) -> Display {
        let number = self.below(1_000);
        let labels = [(format!("k{}", number % 3), number.to_string())].into();
        Display {
            name: number.is_multiple_of(2).then(|| format!("name {number}")),
            description: number.is_multiple_of(3).then(|| format!("about {number}")),
            labels: number.is_multiple_of(5).then_some(labels),
            last4: None,
        }
    }

    fn issue(&mut self, revision: u64, instant_ms: u64) -> Option<Change> {
        let number = self.token_max + 1;
        let slice = self.below(3) as u8;
        let mut record = match self.below(5) {
            0 => resource_token(number, &format!("acme/r{}", self.below(4)), revision),
            1 => client_secret(number, self.a_principal(Some("service:"))?.0, revision),
            2 => registered(number, self.a_principal(Some("service:"))?.0, revision),
            _ => user_token(number, self.a_principal(Some("user:"))?.0, revision),
        };
        record.key = digest(slice, number).key();
        record.expires_ms = (self.below(2) == 0).then(|| instant_ms + self.below(60));
        record.uses = (self.below(3) == 0).then_some(Uses { limit: 9, left: 9 });
        record.issuers = vec![Issuer {
            principal: self.a_principal(None),
            tokens: self.a_token().map(|one| one.id).into_iter().collect(),
            since: 0,
        }];
        if self.below(3) == 0 {
            record.networks = Networks::parse(&["10.0.0.0/8"]).expect("a network");
            record.scopes = Scopes::Only(set(&["a:x@acme/**", "b:*@acme/web"]));
        }
        let mut display = self.display();
        display.last4 = Some("last".to_owned());
        let digest = Some(digest(slice, number));
        Some(Change::PutToken {
            record: Box::new(record),
            digest,
            display,
        })
    }

    /// A use of a credential, a stored access token, or both.
    fn login(&mut self, revision: u64, instant_ms: u64) -> Option<Change> {
        let spent = self.a_token().and_then(|record| {
            let left = record.uses?.left.saturating_sub(1);
            Some((record.id, left))
        });
        let Some(Change::PutToken {
            mut record,
            digest: Some(digest),
            display,
        }) = self.issue(revision, instant_ms)
        else {
            return None;
        };
        // Nothing logs a resource in.
        (record.public_key, record.kind) = match record.subject {
            Subject::Principal(_) => (None, TokenKind::Access),
            Subject::Resource(_) => return None,
        };
        let record = *record;
        let token = Box::new(NewToken {
            record,
            digest,
            display,
        });
        let token = (spent.is_none() || self.below(2) == 0).then_some(token);
        Some(Change::Login { spent, token })
    }

    /// An update, or a rotation into another slice, which no token has whose subject is gone.
    fn edit(&mut self, instant_ms: u64) -> Option<Change> {
        let mut record = self.a_token()?;
        let mut fresh = None;
        if self.below(2) == 0 && !self.lost_its_subject(&record) {
            let slice = self.below(3) as u8;
            let number = (u128::from(record.rotation) + 1) << 64 | record.id.as_u128();
            fresh = Some(digest(slice, number));
            record.grace = Some(Grace {
                key: record.key,
                until_ms: instant_ms + 5,
            });
            record.key = digest(slice, number).key();
            record.rotation += 1;
        } else {
            record.ttl_s = Some(60);
            record.expires_ms = record.expires_ms.map(|at| at + 20);
            record.issuers.push(Issuer {
                principal: self.a_principal(None),
                tokens: Vec::new(),
                since: 1,
            });
            record.issuers.truncate(3);
        }
        let display = self.display();
        Some(Change::PutToken {
            record: Box::new(record),
            digest: fresh,
            display,
        })
    }

    fn cut_off(&mut self) -> Option<CutOffTarget> {
        Some(match self.below(5) {
            4 => CutOffTarget::Sessions(self.a_principal(None)?),
            0 => CutOffTarget::Subject(self.a_principal(None)?),
            1 => CutOffTarget::IssuedByPrincipal(self.a_principal(None)?),
            2 => CutOffTarget::IssuedByToken(token_id(u128::from(self.below(50)))),
            _ => CutOffTarget::ResourceUnder(resource(&format!("acme/r{}", self.below(4)))),
        })
    }

    fn put_token(&mut self, record: &TokenRecord) {
        self.token_max = self.token_max.max(record.id.as_u128());
        self.tokens.insert(record.id, record.clone());
    }

    fn use_token(&mut self, id: TokenId, left: u32) {
        let record = self.tokens.get_mut(&id).expect("it was chosen");
        record.uses.as_mut().expect("it has a budget").left = left;
    }

    fn apply(&mut self, change: &Change, revision: u64, instant_ms: u64) {
        self.logins.apply(change, instant_ms);
        match change {
            Change::PutToken { record, .. } => self.put_token(record),
            Change::Login { spent, token } => {
                if let Some((id, left)) = spent {
                    self.use_token(*id, *left);
                }
                if let Some(new) = token {
                    self.put_token(&new.record);
                }
            }
            Change::RevokeSession {
                session,
                compromised: true,
                ..
            } => self.put_cut_off(CutOffTarget::IssuedByToken(*session), revision),
            Change::RevokeToken { id, compromised } => {
                let record = self.tokens.get_mut(id).expect("it was chosen");
                record.revoked.get_or_insert(Revoked {
                    revision,
                    at_ms: instant_ms,
                });
                if *compromised {
                    self.put_cut_off(CutOffTarget::IssuedByToken(*id), revision);
                }
            }
            Change::CutOff(target) => self.put_cut_off(target.clone(), revision),
            Change::UseToken { id, left } => self.use_token(*id, *left),
            Change::PutPrincipal { record, .. } => {
                self.principal_max = self.principal_max.max(record.id.0);
                self.principals.insert(record.id.0, record.clone());
            }
            Change::DeletePrincipal(id) => {
                self.principals.remove(&id.0);
                self.members
                    .retain(|(team, member)| *team != id.0 && *member != id.0);
                self.grants.retain(|_, grant| grant.principal != *id);
            }
            Change::AddMember { team, member } => {
                self.members.insert((team.0, member.0));
            }
            Change::RemoveMember {
                team,
                member,
                cut_off_tokens,
            } => {
                self.members.remove(&(team.0, member.0));
                if *cut_off_tokens {
                    self.put_cut_off(CutOffTarget::IssuedForTeam(*team, *member), revision);
                }
            }
            Change::PutRole { record, .. } => {
                self.roles.insert(record.name.to_string(), record.clone());
            }
            Change::DeleteRole(name) => {
                self.roles.remove(name.as_str());
            }
            Change::PutGrant(record) => {
                self.grant_max = record.id.0;
                self.grants.insert(record.id.0, record.clone());
            }
            Change::DeleteGrant(id) => {
                self.grants.remove(&id.0);
            }
            Change::Forget { before_ms, slice } => self.forget(*before_ms, *slice),
            // The rest is about logins alone.
            _ => {}
        }
    }

    fn put_cut_off(&mut self, target: CutOffTarget, revision: u64) {
        self.cut_offs.insert(target, revision);
    }

    fn lost_its_subject(&self, record: &TokenRecord) -> bool {
        match &record.subject {
            Subject::Principal(id) => !self.principals.contains_key(&id.0),
            Subject::Resource(_) => false,
        }
    }

    fn forget(&mut self, before_ms: u64, slice: u8) {
        let principals = &self.principals;
        self.tokens.retain(|_, record| {
            let gone = match &record.subject {
                Subject::Principal(id) => !principals.contains_key(&id.0),
                Subject::Resource(_) => false,
            };
            let ended = record.expires_ms.is_some_and(|at| at < before_ms)
                || record
                    .revoked
                    .is_some_and(|revoked| revoked.at_ms < before_ms)
                || gone;
            let ended = ended && !(record.revoked.is_some() && record.public_key.is_some());
            !(ended && record.key.to_be_bytes()[0] == slice)
        });
    }

    /// The rows of a snapshot, as sorted texts.
    pub(crate) fn rows(&self) -> Vec<String> {
        let (principal, grant) = (self.principal_max, self.grant_max);
        let mut rows = vec![Row::Counters { principal, grant }];
        rows.extend(self.principals.values().cloned().map(Row::Principal));
        rows.extend(self.members.iter().map(|(team, member)| Row::Member {
            team: PrincipalId(*team),
            member: PrincipalId(*member),
        }));
        rows.extend(self.roles.values().cloned().map(Row::Role));
        rows.extend(self.grants.values().cloned().map(Row::Grant));
        let cut_offs = self.cut_offs.iter();
        rows.extend(cut_offs.map(|(target, revision)| Row::CutOff(target.clone(), *revision)));
        rows.extend(self.logins.rows());
        rows.extend(
            self.tokens
                .values()
                .cloned()
                .map(|one| Row::Token(Box::new(one))),
        );
        let mut texts: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
        texts.sort_unstable();
        texts
    }
}
