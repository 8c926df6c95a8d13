//! A Check never sees two revisions: readers beside a writer that revokes and then gives.
//!
//! The writer revokes a token and only then lets its subject do more; a reader that sees the new
//! right with the old token alive allows what no revision allowed. Every variant that ends a
//! token is tried with every one that gives. Bounded by rounds, not by time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use latchkey::domain::clock::{ManualClock, Now};
use latchkey::domain::entropy::SeededEntropy;
use latchkey::domain::permission::Need;
use latchkey::domain::reason::Reason;
use latchkey::domain::token::{KindSet, Secret, TokenId, TokenKind};
use latchkey::replica::{Replica, Settings};
use latchkey::state::check::{CheckRequest, Context, check};
use latchkey::state::decide::{
    About, Caller, Command, CutOffRequest, Outcome, RevokeTarget, ScopesAsked,
};

use super::commands::{
    create_grant, create_principal, create_role, envelope, name, plain_issue, plain_update,
};
use super::memory_store::MemoryStore;
use super::{T0, rounds};

const ROUNDS: u64 = 60;
const READERS: usize = 3;

/// What the readers check, by the round: the secret of the token that is ended.
struct Watched {
    secrets: Vec<String>,
    round: AtomicU64,
    done: AtomicBool,
}

async fn run(replica: &Replica, command: Command) -> About {
    let done = replica
        .submit(envelope(Caller::Local, command))
        .await
        .expect("local may all");
    assert!(matches!(done.decided.outcome, Outcome::Change { .. }));
    done.decided.subject
}

/// Ends the token, in one of the ways there are.
fn ending(round: u64, id: TokenId) -> Command {
    match round % 5 {
        0 => Command::RevokeToken {
            target: RevokeTarget::Id(id),
            compromised: false,
        },
        1 => Command::RevokeAll(CutOffRequest::Subject(name("user:u1"))),
        2 => {
            let mut update = plain_update(id);
            update.scopes = Some(ScopesAsked::Only(Vec::new()));
            Command::UpdateToken(Box::new(update))
        }
        3 => Command::SetDisabled {
            name: name("user:u1"),
            disabled: true,
        },
        _ => {
            let mut update = plain_update(id);
            update.expires_ms = Some(Some(T0 - 1));
            Command::UpdateToken(Box::new(update))
        }
    }
}

fn read(replica: &Replica, watched: &Watched) -> u64 {
    let needs = [Need::parse("s:write", "a/x").expect("a need")];
    let mut checks = 0;
    while !watched.done.load(Ordering::Acquire) {
        let round = watched.round.load(Ordering::Acquire) as usize;
        let request = CheckRequest {
            token: &watched.secrets[round],
            needs: &needs,
            context: Context::default(),
            kinds: KindSet::ALL,
        };
        let state = replica.state();
        let decision = check(&state, &request, Now::at(T0));
        assert_ne!(
            decision.reason,
            Reason::Allowed,
            "round {round} at {}",
            decision.revision
        );
        assert_eq!(decision.revision, state.head().revision());
        checks += 1;
    }
    checks
}

#[tokio::test]
async fn a_check_never_sees_the_new_right_with_the_old_token() {
    let (clock, seed) = (
        Arc::new(ManualClock::at(T0)),
        Arc::new(SeededEntropy::new(1)),
    );
    let store = Arc::new(MemoryStore::default());
    let settings = Settings {
        forget_every_ms: 3_600_000,
        ..Settings::default()
    };
    let (replica, task) = Replica::start(store, clock, seed, settings)
        .await
        .expect("an empty store");
    let rounds = ROUNDS * rounds();
    let entropy = SeededEntropy::new(2);
    let secrets: Vec<Secret> = (0..rounds)
        .map(|_| Secret::generate(TokenKind::User, &entropy))
        .collect();
    run(&replica, create_principal("user:u1", "a")).await;
    run(&replica, create_principal("team:t1", "a")).await;
    run(&replica, create_role("writer", "a", &["s:write"])).await;
    run(&replica, create_role("later", "a", &["s:read"])).await;
    run(&replica, create_grant("team:t1", "writer", "a/**")).await;
    let watched = Arc::new(Watched {
        secrets: secrets
            .iter()
            .map(|secret| secret.reveal().to_owned())
            .collect(),
        round: AtomicU64::new(0),
        done: AtomicBool::new(false),
    });
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (replica, watched) = (replica.clone(), Arc::clone(&watched));
            std::thread::spawn(move || read(&replica, &watched))
        })
        .collect();
    for round in 0..rounds {
        watched.round.store(round, Ordering::Release);
        one_round(&replica, round, &secrets[round as usize], &entropy).await;
    }
    watched.done.store(true, Ordering::Release);
    for reader in readers {
        reader.join().expect("no reader saw two revisions");
    }
    task.stop().await;
}

/// Issue, end, give, take back.
async fn one_round(replica: &Replica, round: u64, secret: &Secret, entropy: &SeededEntropy) {
    let id = TokenId::generate(T0, entropy);
    let mut issue = plain_issue(id, secret.digest(), TokenKind::User);
    issue.subject = Some(name("user:u1"));
    run(replica, Command::IssueToken(Box::new(issue))).await;
    run(replica, ending(round, id)).await;
    let (team, member) = (name("team:t1"), name("user:u1"));
    if round.is_multiple_of(2) {
        let grant = run(replica, create_grant("user:u1", "writer", "a/x")).await;
        let About::Grant(grant) = grant else {
            panic!("a grant is about itself")
        };
        run(replica, Command::DeleteGrant(grant)).await;
    } else {
        run(
            replica,
            Command::AddMember {
                team: team.clone(),
                member: member.clone(),
            },
        )
        .await;
        run(
            replica,
            Command::RemoveMember {
                team,
                member,
                cut_off_tokens: false,
            },
        )
        .await;
    }
    if round % 5 == 3 {
        let enabled = Command::SetDisabled {
            name: name("user:u1"),
            disabled: false,
        };
        run(replica, enabled).await;
    }
}
