//! The part of a random history that is about logins: methods, seal keys, sessions and locks.
//!
//! Like the rest of the history a model of its own, in plain maps: what each change makes is
//! written here once more, and held against every store.

use std::collections::BTreeMap;

use latchkey::domain::change::{Change, KeyPhase, Row, SealKeyRecord};
use latchkey::domain::limits::Networks;
use latchkey::domain::login::{
    ClientNetwork, LockoutPolicy, LoginMethod, LoginSettings, MethodRecord,
};
use latchkey::domain::principal::PrincipalId;
use latchkey::domain::seal::key::KeyId;
use latchkey::domain::token::TokenId;

use super::scribe::token_id;

/// What the changes of logins have made.
#[derive(Default)]
pub(super) struct Logins {
    methods: BTreeMap<(PrincipalId, LoginMethod), MethodRecord>,
    seal_keys: BTreeMap<u32, SealKeyRecord>,
    sessions: BTreeMap<TokenId, u64>,
    locks: BTreeMap<(PrincipalId, ClientNetwork), u64>,
}

/// What a change is drawn from: some random bits, and somebody who is there.
pub(super) struct Drawn {
    pub(super) bits: u64,
    pub(super) principal: PrincipalId,
    pub(super) revision: u64,
    pub(super) instant_ms: u64,
}

impl Logins {
    /// A change that fits.
    pub(super) fn change(&self, drawn: &Drawn) -> Option<Change> {
        let Drawn {
            bits,
            principal,
            instant_ms,
            ..
        } = *drawn;
        let small = bits >> 8;
        let method = LoginMethod::ALL[(small & 1) as usize];
        Some(match bits % 9 {
            0..=2 => Change::PutMethod(Box::new(self.method(drawn, method))),
            3 => {
                self.methods.get(&(principal, method))?;
                Change::DeleteMethod { principal, method }
            }
            4 => Change::RevokeSession {
                session: token_id(u128::from(small % 20)),
                account: (small & 64 == 0).then_some(principal),
                until_ms: instant_ms + small % 50,
                compromised: small & 32 == 0,
            },
            5 | 6 => Change::Lock {
                principal,
                network: network(small),
                until_ms: instant_ms + small % 50,
            },
            7 => {
                let of = |key: &&(PrincipalId, ClientNetwork)| key.0 == principal;
                let networks = self.locks.keys().filter(of).map(|(_, network)| *network);
                let networks: Vec<_> = networks.skip((small & 1) as usize).collect();
                (!networks.is_empty()).then_some(Change::Unlock {
                    principal,
                    networks,
                })?
            }
            _ => {
                let keys = (0..1 + small % 3).map(|index| seal_key(small + index, instant_ms));
                Change::PutSealKeys(keys.collect())
            }
        })
    }

    fn method(&self, drawn: &Drawn, method: LoginMethod) -> MethodRecord {
        let small = drawn.bits >> 8;
        let number = u32::try_from(small % 1_000).expect("small");
        let some = |bit: u64, value: u32| (small & bit == 0).then_some(value);
        let networks = |bit: u64, texts: &[&str]| {
            let texts = if small & bit == 0 { texts } else { &[] };
            Networks::parse(texts).expect("networks")
        };
        let former = self.methods.get(&(drawn.principal, method));
        MethodRecord {
            principal: drawn.principal,
            method,
            made_at: former.map_or(drawn.revision, |former| former.made_at),
            settings: LoginSettings {
                ttl_s: 1 + number,
                max_ttl_s: some(2, 2_000 + number),
                period_s: some(4, 60),
                uses: some(8, 1 + number),
                networks: networks(16, &["10.0.0.0/8", "2001:db8::/32"]),
                login_networks: networks(32, &["192.0.2.7"]),
                lockout: some(64, number).map(|threshold| LockoutPolicy {
                    threshold,
                    ..LockoutPolicy::default()
                }),
            },
        }
    }

    pub(super) fn apply(&mut self, change: &Change, instant_ms: u64) {
        match change {
            Change::PutMethod(record) => {
                let key = (record.principal, record.method);
                self.methods.insert(key, (**record).clone());
            }
            Change::DeleteMethod { principal, method } => {
                self.methods.remove(&(*principal, *method));
            }
            Change::RevokeSession {
                session, until_ms, ..
            } => {
                self.sessions.insert(*session, *until_ms);
            }
            Change::Lock {
                principal,
                network,
                until_ms,
            } => {
                let is_over = |of: &PrincipalId, until: u64| of == principal && until <= instant_ms;
                self.locks.retain(|(of, _), until| !is_over(of, *until));
                self.locks.insert((*principal, *network), *until_ms);
            }
            Change::Unlock {
                principal,
                networks,
            } => {
                for network in networks {
                    self.locks.remove(&(*principal, *network));
                }
            }
            Change::PutSealKeys(keys) => {
                self.seal_keys
                    .extend(keys.iter().map(|key| (key.id.0, *key)));
            }
            Change::DeletePrincipal(id) => {
                self.methods.retain(|(of, _), _| of != id);
                self.locks.retain(|(of, _), _| of != id);
            }
            Change::Forget { before_ms, .. } => {
                self.sessions.retain(|_, until_ms| *until_ms >= *before_ms);
                self.locks.retain(|_, until_ms| *until_ms >= *before_ms);
            }
            _ => {}
        }
    }

    /// The rows of a snapshot.
    pub(super) fn rows(&self) -> Vec<Row> {
        let methods = self.methods.values().cloned();
        let mut rows: Vec<Row> = methods.map(|one| Row::Method(Box::new(one))).collect();
        rows.extend(self.seal_keys.values().copied().map(Row::SealKey));
        rows.extend(
            self.sessions
                .iter()
                .map(|(session, until_ms)| Row::RevokedSession {
                    session: *session,
                    until_ms: *until_ms,
                }),
        );
        rows.extend(
            self.locks
                .iter()
                .map(|((principal, network), until_ms)| Row::Lock {
                    principal: *principal,
                    network: *network,
                    until_ms: *until_ms,
                }),
        );
        rows
    }
}

fn network(bits: u64) -> ClientNetwork {
    let texts = [
        None,
        Some("192.0.2.7"),
        Some("192.0.2.8"),
        Some("2001:db8::1"),
    ];
    let text = texts[(bits % 4) as usize];
    ClientNetwork::of(text.map(|text| text.parse().expect("an address")))
}

fn seal_key(bits: u64, instant_ms: u64) -> SealKeyRecord {
    SealKeyRecord {
        id: KeyId(u32::MAX - (bits % 5) as u32),
        salt: [bits.to_le_bytes()[0]; 16],
        phase: KeyPhase::ALL[(bits / 5 % 4) as usize],
        since_ms: instant_ms,
    }
}
