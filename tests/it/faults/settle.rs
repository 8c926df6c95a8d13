//! After the faults: all replicas stand at one revision, and hold what was promised.
//!
//! Nothing is broken any more, so each must serve; the log that each reads is verified whole, and
//! of the newest tokens each is asked once more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use latchkey::proto::v1;

use super::history::{History, now_ns};
use super::traffic::{Case, Line, ask_at, issue_at};
use super::world::{NAMES, World};

/// Until a replica must serve again when nothing is broken any more.
const PATIENCE: Duration = Duration::from_secs(60);
const NEVER: u64 = u64::MAX;

/// Holds the replicas against each other, the log and the promises.
pub(super) async fn settle(world: &World, history: &History, cases: &[Arc<Case>]) {
    let began = Instant::now();
    let head = loop {
        if let Some(head) = issue_at(world, 0).await {
            break head;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{}\nno write is confirmed",
            history.keep()
        );
        tokio::task::yield_now().await;
    };
    let found = |what: String| history.violation(now_ns(), now_ns(), what);
    for (replica, name) in NAMES.iter().enumerate() {
        let channel = Line::to(world, replica, None).channel;
        let answer = ask_at(&channel, &world.admin, Some(head.clone())).await;
        match answer {
            Ok(answer) if answer.allowed && answer.revision.as_ref() == Some(&head) => {}
            other => found(format!("{name} is not at {head:?}: {other:?}")),
        }
        let verified = world.replicas[replica].command(&world.admin, "audit verify");
        if verified.code != 0 {
            found(format!(
                "{name} verifies the log: {}{}",
                verified.stdout, verified.stderr
            ));
        }
        for case in cases {
            let answer = ask_at(&channel, &case.secret, None).await;
            let Ok(answer) = answer else {
                found(format!("{name} does not answer: {answer:?}"));
                break;
            };
            let promised_gone = case.gone_ns.load(Ordering::SeqCst) != NEVER;
            let never_revoked = case.revoking_ns.load(Ordering::SeqCst) == NEVER;
            let wrong = match answer.reason() {
                v1::Reason::Allowed => promised_gone,
                v1::Reason::Revoked => never_revoked,
                _ => true,
            };
            if wrong {
                let (number, reason) = (case.number, answer.reason());
                found(format!(
                    "{name} answers {reason:?} on token {number} in the end"
                ));
            }
        }
    }
}
