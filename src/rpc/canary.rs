//! The canary: one server of all revokes a token of its own now and then, and measures.
//!
//! ```text
//!  oldest of the servers? ─► issue ─► all allow ─► revoke ─► all deny ─► metrics, or an alarm
//! ```
//!
//! Started by `cli` where `canary.interval` is set, and ended by it. Checks ask for a calling
//! token unless the port is open, so each drill has two tokens: one that is revoked, and one that
//! may ask about it and nothing else. An operator's token would have to be kept somewhere and
//! could do more. Both are revoked when the drill ends, and end by themselves if that fails.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::authority::canary::{CANARY_RESOURCE, CanaryToken};
use crate::authority::cluster::{Enforced, ReplicaSeen, Replicas};
use crate::domain::refusal::Refusal;
use crate::domain::token::TokenId;
use crate::tls::Live;

use super::drill::{Dial, Drill, Question, Seen, Target};
use super::metrics::{CanaryRun, Metrics};

/// What the revoked token may do, and nobody else asks for.
const ACTION: &str = "canary:ping";
const ASKING_ACTION: &str = "tokens:check";
/// Until every server must have allowed the token.
const WORKS_TIME_MAX: Duration = Duration::from_secs(15);
/// Until the drill is over: well before its tokens end by themselves.
const DRILL_TIME_MAX: Duration = Duration::from_secs(90);
/// Until the tokens must be revoked when the server stops.
const CLEAN_TIME_MAX: Duration = Duration::from_secs(2);

/// How a drill ended that ended by itself.
enum Ended {
    /// Another server's turn.
    NotOurs,
    /// Every server was asked.
    Asked {
        /// From sending the revocation to its confirmation; none if that did not come.
        confirmed: Option<Duration>,
        seen: Vec<Seen>,
    },
}

/// Drills every so often until it is told to stop.
pub async fn canary(
    authority: Authority,
    metrics: Metrics,
    certificates: Option<Arc<Live>>,
    every: Duration,
    stop: CancellationToken,
) {
    metrics.canary_begins(every);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(every) => {}
        }
        let drill = Running {
            authority: &authority,
            // Those of the moment: they change while the server runs.
            dial: certificates
                .as_ref()
                .map(|live| Dial::of(&live.current().dialing()))
                .unwrap_or_default(),
            tokens: Mutex::default(),
        };
        let ended = tokio::select! {
            () = stop.cancelled() => None,
            ended = drill.run() => Some(ended),
        };
        let cleaned = timeout(CLEAN_TIME_MAX, drill.clean()).await;
        if cleaned.is_err() {
            tracing::warn!("the canary's tokens could not be revoked in time; they end soon");
        }
        match ended {
            None => return,
            Some(ended) => tell(&metrics, ended),
        }
    }
}

/// One drill, and the tokens that it has made so far.
struct Running<'a> {
    authority: &'a Authority,
    dial: Dial,
    // Written as they are made, read when they are revoked; held for no await.
    tokens: Mutex<Vec<TokenId>>,
}

impl Running<'_> {
    async fn run(&self) -> Result<Ended, Refusal> {
        let replicas = self.authority.canary_replicas().await?;
        if !is_ours(&replicas) {
            return Ok(Ended::NotOurs);
        }
        let caller = self.issue(ASKING_ACTION).await?;
        let token = self.issue(ACTION).await?;
        let question = Question {
            caller: Zeroizing::new(caller.secret.reveal().to_owned()),
            token: Zeroizing::new(token.secret.reveal().to_owned()),
            action: ACTION.to_owned(),
            resource: CANARY_RESOURCE.to_owned(),
        };
        let targets = replicas.replicas.into_iter().map(target).collect();
        let mut drill = Drill::begin(targets, &question, &self.dial, DRILL_TIME_MAX);
        drill.works(WORKS_TIME_MAX).await;
        let begun = Instant::now();
        drill.revoking();
        let enforced = self.authority.canary_revoke(token.id).await?;
        let took = begun.elapsed();
        self.tokens().retain(|id| *id != token.id);
        let confirmed = match enforced {
            Enforced::Committed {
                everywhere_after_ms,
                ..
            } => {
                // Where nobody says from when on it holds, nothing is broken.
                if let Some(after_ms) = everywhere_after_ms {
                    drill.enforced(Duration::from_millis(after_ms));
                }
                None
            }
            Enforced::Lost => return Err(Refusal::OutcomeUnknown),
            Enforced::Confirmed { .. } => {
                drill.enforced(Duration::ZERO);
                Some(took)
            }
        };
        let seen = drill.end().await;
        Ok(Ended::Asked { confirmed, seen })
    }

    async fn issue(&self, action: &str) -> Result<CanaryToken, Refusal> {
        let made = self.authority.canary_issue(action).await?;
        self.tokens().push(made.id);
        Ok(made)
    }

    /// Revokes what was made; what is revoked already stays so.
    async fn clean(&self) {
        let made = std::mem::take(&mut *self.tokens());
        for id in made {
            if let Err(refusal) = self.authority.canary_revoke(id).await {
                tracing::warn!(token_id = %id, %refusal, "a token of the canary's ends by itself");
            }
        }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Vec<TokenId>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target(seen: ReplicaSeen) -> Target {
    Target {
        is_live: is_live(&seen),
        name: seen.name,
        address: seen.address,
    }
}

/// Whether a server may still hold its lease.
fn is_live(seen: &ReplicaSeen) -> bool {
    let member = seen.membership;
    member.is_none_or(|member| member.heard_ago_ms <= member.lease_ms)
}

/// Whether this server is the one that has been there longest, of those that still hold a lease:
/// all read the same rows, so one drills, and the next when it is gone.
fn is_ours(replicas: &Replicas) -> bool {
    let live = replicas.replicas.iter().filter(|one| is_live(one));
    let age = |one: &&ReplicaSeen| {
        one.membership
            .map(|member| (member.joined_ms, member.incarnation))
    };
    live.min_by_key(age)
        .is_some_and(|oldest| oldest.is_this_server)
}

fn tell(metrics: &Metrics, ended: Result<Ended, Refusal>) {
    let (confirmed, seen) = match ended {
        Ok(Ended::NotOurs) => return,
        Ok(Ended::Asked { confirmed, seen }) => (confirmed, seen),
        Err(refusal) => {
            tracing::warn!(%refusal, "the canary could not drill");
            return metrics.canary_ran(CanaryRun::Failed);
        }
    };
    let mut run = match confirmed {
        Some(took) => {
            metrics.canary_confirmed(took);
            CanaryRun::Good
        }
        None => CanaryRun::Failed,
    };
    for one in &seen {
        let (replica, address) = (&one.target.name, &one.target.address);
        if let Some(took) = one.denied_after {
            metrics.canary_denied(replica, took);
        }
        if one.violations > 0 {
            run = CanaryRun::Violated;
            metrics.canary_violated(one.violations);
            tracing::error!(
                %replica, %address, violations = one.violations,
                "ALARM: a revocation that was confirmed does not hold: a check was allowed"
            );
        } else if let Some(trouble) = &one.trouble
            && one.target.is_live
        {
            if run == CanaryRun::Good {
                run = CanaryRun::Failed;
            }
            tracing::warn!(%replica, %address, %trouble, "the canary does not know of a replica");
        }
    }
    metrics.canary_ran(run);
    tracing::debug!(?confirmed, replicas = seen.len(), "the canary has drilled");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::cluster::Membership;
    use crate::domain::chain::Head;

    /// Servers by how long ago they were heard and when they joined; the first is this one.
    fn check(servers: &[(u64, u64)], expected: bool) {
        let replicas = servers
            .iter()
            .enumerate()
            .map(|(index, server)| ReplicaSeen {
                name: index.to_string(),
                address: String::new(),
                applied: 0,
                lag: 0,
                format_max: 1,
                is_this_server: index == 0,
                membership: Some(Membership {
                    incarnation: [u8::try_from(index).expect("few"); 16],
                    lease_ms: 5_000,
                    heard_ago_ms: server.0,
                    joined_ms: server.1,
                }),
            });
        let replicas = Replicas {
            replicas: replicas.collect(),
            head: Head::EMPTY.revision(),
            lease_ms: Some(5_000),
        };
        assert_eq!(is_ours(&replicas), expected, "{servers:?}");
    }

    #[test]
    fn the_oldest_that_lives_drills() {
        check(&[(0, 10)], true);
        check(&[(0, 10), (0, 20), (0, 30)], true);
        check(&[(0, 10), (0, 9)], false);
        check(&[(0, 10), (5_001, 9)], true);
        check(&[(0, 10), (5_000, 9)], false);
        // At the same moment: by their runs.
        check(&[(0, 10), (0, 10)], true);
        check(&[], false);
    }
}
