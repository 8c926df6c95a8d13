//! A sealed access token beside a stored one: what opening the seal costs an in-process check.
//!
//! Both are of service accounts, without limits, in the same State; a round of the one and a round
//! of the other by turns. The sealed one is opened, read, and judged by its credential, its method
//! and the live permissions of its account; the stored one is hashed, found and judged.

use std::hint::black_box;
use std::time::Instant;

use latchkey::domain::change::{KeyPhase, Row, SealKeyRecord, Subject, TokenRecord};
use latchkey::domain::clock::Now;
use latchkey::domain::entropy::{OsEntropy, SeededEntropy};
use latchkey::domain::limits::Networks;
use latchkey::domain::login::{LoginMethod, LoginSettings, MethodRecord};
use latchkey::domain::permission::Need;
use latchkey::domain::scopes::Scopes;
use latchkey::domain::seal::claims::{Claims, Sealed};
use latchkey::domain::seal::key::{KeyId, SealKey};
use latchkey::domain::seal::ring::{Ring, Room, Salt};
use latchkey::domain::token::{KindSet, TokenId, TokenKind};
use latchkey::state::check::{CheckRequest, Context, check, check_sealed};

use super::population::{Population, kind, mix, need, secret};
use super::report::{Spread, nanoseconds};

const ROUNDS: usize = 9;
const CHECKS: usize = 100_000;
const ISSUED_MS: u64 = 1_800_000_000_000;
const NOW_MS: u64 = ISSUED_MS + 60_000;
const SALT: Salt = [7; 16];

/// What is asked: a token, and what it permits.
type Question = (String, (String, String));

pub(crate) fn run(counts: &[u64]) {
    let population = Population::new();
    for &count in counts {
        let mut state = population.state(count);
        let (ring, key) = ring();
        state.load(&key_row(key));
        let services: Vec<u64> = (0..u64::MAX)
            .map(|at| mix(at ^ 0xCAFE) % count)
            .filter(|n| kind(*n) == TokenKind::Service)
            .take(CHECKS)
            .collect();
        let stored: Vec<Question> = services.iter().map(|n| (secret(*n), need(*n))).collect();
        let rows = services
            .iter()
            .flat_map(|n| credential_rows(&population, *n));
        rows.for_each(|row| state.load(&row));
        let sealed = services
            .iter()
            .map(|n| (access_token(&population, (&ring, key), *n), need(*n)));
        let sealed: Vec<Question> = sealed.collect();
        let (mut of_stored, mut of_sealed) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_stored.push(round(&stored, |question| {
                check(&state, question, Now::at(NOW_MS)).allowed()
            }));
            of_sealed.push(round(&sealed, |question| {
                let mut room = Room::default();
                let salt_of = |id| state.seal_key(id).map(|key| key.salt);
                let opened = ring.open(question.token, &mut room, salt_of);
                let claims = opened.ok().and_then(Sealed::read);
                let claims = claims.expect("it was sealed here");
                check_sealed(&state, claims, question, Now::at(NOW_MS)).allowed()
            }));
        }
        let (of_stored, of_sealed) = (Spread::of(of_stored), Spread::of(of_sealed));
        println!(
            "check beside {count} tokens: stored {of_stored} ns, sealed {of_sealed} ns \
             ({:.2} of stored; {} characters)",
            of_sealed.median / of_stored.median,
            sealed[0].0.len(),
        );
    }
}

/// The key of every run, so that a server knows what its client has sealed.
pub(crate) fn ring() -> (Ring, KeyId) {
    let key = SealKey::generate(&SeededEntropy::new(5));
    let id = key.id();
    (Ring::new([key]), id)
}

pub(crate) fn key_row(id: KeyId) -> Row {
    Row::SealKey(SealKeyRecord {
        id,
        salt: SALT,
        phase: KeyPhase::Minting,
        since_ms: 0,
    })
}

/// A client secret of the account that a service token speaks for, and the method that it logs
/// in by.
pub(crate) fn credential_rows(population: &Population, n: u64) -> Vec<Row> {
    let like = population.record(n);
    let credential = TokenRecord {
        id: origin(&like),
        key: like.key ^ 1,
        kind: TokenKind::ClientSecret,
        networks: Networks::default(),
        ..like
    };
    let method = match credential.subject {
        Subject::Principal(principal) => Some(Row::Method(Box::new(MethodRecord {
            principal,
            method: LoginMethod::UniversalAuth,
            made_at: 1,
            settings: LoginSettings::default(),
        }))),
        Subject::Resource(_) => None,
    };
    let token = Row::Token(Box::new(credential));
    method.into_iter().chain([token]).collect()
}

fn origin(like: &TokenRecord) -> TokenId {
    TokenId::from_u128(like.id.as_u128() ^ 1)
}

/// An access token that was born from it.
pub(crate) fn access_token(population: &Population, (ring, key): (&Ring, KeyId), n: u64) -> String {
    let claims = Claims {
        id: TokenId::generate(ISSUED_MS, &OsEntropy),
        origin: origin(&population.record(n)),
        ancestors: Vec::new(),
        made_at: u64::from(u32::MAX),
        issued_ms: ISSUED_MS,
        expires_ms: ISSUED_MS + 3_600_000,
        session_ms: ISSUED_MS,
        session_end_ms: None,
        scopes: Scopes::All,
        networks: Networks::default(),
        audience: None,
        workload: None,
    };
    ring.seal(&claims, key, &SALT).expect("it is short")
}

fn round(questions: &[Question], judge: impl Fn(&CheckRequest<'_>) -> bool) -> f64 {
    let begun = Instant::now();
    for (token, (action, resource)) in questions {
        let needs = [Need::parse(action, resource).expect("valid")];
        let request = CheckRequest {
            token,
            needs: &needs,
            context: Context {
                client_ip: Some([10, 1, 2, 3].into()),
                ..Context::default()
            },
            kinds: KindSet::ALL,
        };
        assert!(black_box(judge(&request)), "every question is allowed");
    }
    nanoseconds(begun.elapsed(), questions.len())
}
