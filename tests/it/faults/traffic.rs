//! Who issues, checks and revokes, and what the oracle says of each answer.
//!
//! Checks are sent at a steady rate to every replica, whether or not earlier ones were answered,
//! most of them for tokens that were revoked a moment ago; an answer counts by when its question
//! was sent, so nobody gives up on one early: what a stopped replica answers when it goes on is
//! what the rule is about.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use latchkey::proto::v1;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use v1::check_service_client::CheckServiceClient;
use v1::enforcement::State;
use v1::token_service_client::TokenServiceClient;

use super::Dice;
use super::history::{Count, History, now_ns};
use super::world::{NAMES, World};
use crate::crash::issue;
use crate::wire::{bearer, check};

const NEVER: u64 = u64::MAX;
const CHECK_EVERY: Duration = Duration::from_millis(5);
const WRITE_EVERY: Duration = Duration::from_millis(100);
const WRITERS: usize = 12;
/// Longer than any fault, so that what comes late still counts.
const CHECK_TIME_MAX: Duration = Duration::from_secs(10);
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);
/// Too short for a lease to end in: some answers are COMMITTED.
const HASTY: Duration = Duration::from_millis(400);
/// Checks of one replica that are not answered yet.
const UNANSWERED_MAX: usize = 64;
const LIVE_WANTED: usize = 48;
/// Tokens revoked last, which are checked most.
const GONE_KEPT: usize = 32;
/// Tokens made last, which are all looked at in the end.
const CASES_MAX: usize = 1_000;
/// Revocations of unknown outcome, which are sent again.
const UNSURE_MAX: usize = 100;

/// One token, and what was promised of it when.
pub(super) struct Case {
    pub(super) number: usize,
    pub(super) secret: String,
    /// From when on every replica must know it.
    pub(super) known_ns: AtomicU64,
    /// When its revocation was first sent.
    pub(super) revoking_ns: AtomicU64,
    /// From when on no replica may allow it.
    pub(super) gone_ns: AtomicU64,
}

#[derive(Default)]
struct Cases {
    live: Vec<Arc<Case>>,
    gone: VecDeque<Arc<Case>>,
    unsure: Vec<Arc<Case>>,
    all: VecDeque<Arc<Case>>,
}

struct Shared {
    world: Arc<World>,
    history: Arc<History>,
    cases: Mutex<Cases>,
    numbers: AtomicUsize,
    stop: CancellationToken,
}

/// The tasks; they end with the stop signal.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub(super) fn start(
        world: &Arc<World>,
        history: &Arc<History>,
        stop: &CancellationToken,
        seed: u64,
    ) -> Self {
        let shared = Arc::new(Shared {
            world: Arc::clone(world),
            history: Arc::clone(history),
            cases: Mutex::default(),
            numbers: AtomicUsize::new(0),
            stop: stop.clone(),
        });
        let mut tasks = Vec::new();
        for replica in 0..NAMES.len() {
            let dice = Dice(seed ^ 0xC0 ^ replica as u64);
            tasks.push(tokio::spawn(checks(Arc::clone(&shared), replica, dice)));
        }
        for writer in 0..WRITERS {
            let dice = Dice(seed ^ 0xAD00 ^ writer as u64);
            tasks.push(tokio::spawn(writes(Arc::clone(&shared), dice)));
        }
        Self { shared, tasks }
    }

    /// Waits until all of it has ended; every token there was.
    pub(super) async fn end(self) -> Vec<Arc<Case>> {
        for task in self.tasks {
            task.await.expect("traffic");
        }
        self.shared.cases().all.iter().cloned().collect()
    }
}

impl Shared {
    fn cases(&self) -> MutexGuard<'_, Cases> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token to ask about, if there is any.
    fn pick(&self, dice: &mut Dice) -> Option<Arc<Case>> {
        let cases = self.cases();
        let gone = !cases.gone.is_empty() && (cases.live.is_empty() || dice.percent(70));
        if gone {
            cases.gone.get(dice.below(cases.gone.len())).cloned()
        } else {
            cases.live.get(dice.below(cases.live.len())).cloned()
        }
    }
}

/// A connection to whatever process is in a replica's place.
pub(super) struct Line {
    address: String,
    pub(super) channel: Channel,
}

impl Line {
    pub(super) fn to(world: &World, replica: usize, former: Option<Self>) -> Self {
        let address = world.replicas[replica].address();
        match former {
            Some(line) if line.address == address => line,
            _ => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"));
                let endpoint = endpoint.expect("an address");
                let channel = endpoint.connect_timeout(HASTY).connect_lazy();
                Self { address, channel }
            }
        }
    }
}

async fn checks(shared: Arc<Shared>, replica: usize, mut dice: Dice) {
    let mut ticks = interval(CHECK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = JoinSet::new();
    let mut line = None;
    while !shared.stop.is_cancelled() {
        ticks.tick().await;
        while asked.try_join_next().is_some() {}
        if asked.len() >= UNANSWERED_MAX {
            continue;
        }
        let Some(case) = shared.pick(&mut dice) else {
            continue;
        };
        let to = Line::to(&shared.world, replica, line.take());
        let client = CheckServiceClient::new(to.channel.clone());
        line = Some(to);
        asked.spawn(ask(Arc::clone(&shared), client, replica, case));
    }
    asked.join_all().await;
}

async fn ask(
    shared: Arc<Shared>,
    mut client: CheckServiceClient<Channel>,
    replica: usize,
    case: Arc<Case>,
) {
    let resource = format!("crash/{}", case.number);
    let question = check(&case.secret, &[("a:b", &resource)]);
    let sent_ns = now_ns();
    let answer = timeout(CHECK_TIME_MAX, client.check(question)).await;
    let got_ns = now_ns();
    let history = &shared.history;
    history.count(Count::Checks);
    let answer = match answer {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(_)) | Err(_) => return history.count(Count::Unanswered),
    };
    let reason = answer.reason();
    let at = answer.revision.map_or(0, |revision| revision.number);
    let asked_ms = (got_ns - sent_ns) / 1_000_000;
    let told = || {
        format!(
            "{} answers {reason:?} at {at} on token {} after {asked_ms} ms",
            NAMES[replica], case.number
        )
    };
    history.event(told());
    let is = |instant: &AtomicU64| instant.load(Ordering::SeqCst);
    if answer.allowed {
        history.count(Count::Allowed);
        history.allowed_by(replica);
        let gone_ns = is(&case.gone_ns);
        if gone_ns <= sent_ns {
            let late_ms = (sent_ns - gone_ns) as f64 / 1e6;
            let what = format!("{}, asked {late_ms:.3} ms after it was gone", told());
            history.let_in(sent_ns, got_ns, what);
        }
    } else if reason == v1::Reason::Stale {
        history.count(Count::Stale);
    } else {
        history.count(Count::Denied);
        if is(&case.known_ns) <= sent_ns && is(&case.revoking_ns) >= got_ns {
            let what = format!("{}, which nobody revoked", told());
            history.violation(sent_ns, got_ns, what);
        }
    }
}

async fn writes(shared: Arc<Shared>, mut dice: Dice) {
    let mut ticks = interval(WRITE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lines: [Option<Line>; NAMES.len()] = Default::default();
    while !shared.stop.is_cancelled() {
        ticks.tick().await;
        let replica = dice.below(NAMES.len());
        let line = Line::to(&shared.world, replica, lines[replica].take());
        let client = TokenServiceClient::new(line.channel.clone());
        lines[replica] = Some(line);
        let taken = {
            let mut cases = shared.cases();
            let live = cases.live.len();
            if dice.percent(30) && !cases.unsure.is_empty() {
                cases.unsure.pop()
            } else {
                let revoke = live >= LIVE_WANTED || dice.percent(live * 100 / LIVE_WANTED);
                (revoke && live > 0).then(|| cases.live.swap_remove(dice.below(live)))
            }
        };
        match taken {
            Some(case) => {
                let time = if dice.percent(30) {
                    HASTY
                } else {
                    WRITE_TIME_MAX
                };
                revoke(&shared, client, replica, case, time).await;
            }
            None => issue_one(&shared, client, replica).await,
        }
    }
}

/// How far an answer says that its change is enforced, and from when on everywhere.
fn promised(enforcement: Option<&v1::Enforcement>, got_ns: u64) -> Option<(State, u64)> {
    let enforcement = enforcement?;
    let after = enforcement.everywhere_after.as_ref();
    let after_ns = after.map_or(0, |after| {
        let seconds = u64::try_from(after.seconds).expect("not negative");
        seconds * 1_000_000_000 + u64::try_from(after.nanos).expect("not negative")
    });
    match enforcement.state() {
        State::Confirmed => Some((State::Confirmed, got_ns)),
        State::Committed => Some((State::Committed, got_ns + after_ns)),
        State::Unspecified => None,
    }
}

async fn issue_one(shared: &Shared, mut client: TokenServiceClient<Channel>, replica: usize) {
    let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
    let request = v1::IssueTokenRequest {
        wait_for_replicas: true,
        ..issue(number)
    };
    let mut request = bearer(&shared.world.admin, request);
    request.set_timeout(WRITE_TIME_MAX);
    let issued = limited(client.issue_token(request)).await;
    let got_ns = now_ns();
    let Ok(issued) = issued else {
        return shared.history.count(Count::NotIssued);
    };
    let promise = promised(issued.enforcement.as_ref(), got_ns);
    let known_ns = promise.map_or(NEVER, |(_, from_ns)| from_ns);
    shared.history.count(Count::Issued);
    shared.history.event(format!(
        "{} issues token {number}: {promise:?}",
        NAMES[replica]
    ));
    let case = Arc::new(Case {
        number,
        secret: issued.secret,
        known_ns: AtomicU64::new(known_ns),
        revoking_ns: AtomicU64::new(NEVER),
        gone_ns: AtomicU64::new(NEVER),
    });
    let mut cases = shared.cases();
    if cases.all.len() == CASES_MAX {
        cases.all.pop_front();
    }
    cases.all.push_back(Arc::clone(&case));
    cases.live.push(case);
}

async fn revoke(
    shared: &Shared,
    mut client: TokenServiceClient<Channel>,
    replica: usize,
    case: Arc<Case>,
    time: Duration,
) {
    let request = v1::RevokeTokenRequest {
        target: Some(v1::revoke_token_request::Target::Secret(
            case.secret.clone(),
        )),
        reason: "leaked".to_owned(),
        ..v1::RevokeTokenRequest::default()
    };
    let mut request = bearer(&shared.world.admin, request);
    request.set_timeout(time);
    case.revoking_ns.fetch_min(now_ns(), Ordering::SeqCst);
    let revoked = limited(client.revoke_token(request)).await;
    let got_ns = now_ns();
    let promise = match &revoked {
        Ok(revoked) => promised(revoked.enforcement.as_ref(), got_ns),
        Err(_) => None,
    };
    if let Some((_, from_ns)) = promise {
        case.gone_ns.fetch_min(from_ns, Ordering::SeqCst);
    }
    shared.history.count(match promise {
        Some((State::Confirmed, _)) => Count::Confirmed,
        Some(_) => Count::Committed,
        None => Count::Unknown,
    });
    let said = match &revoked {
        Ok(_) => format!("{promise:?}"),
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    };
    shared.history.event(format!(
        "{} revokes token {}: {said}",
        NAMES[replica], case.number
    ));
    let mut cases = shared.cases();
    if promise.is_none() && cases.unsure.len() < UNSURE_MAX {
        cases.unsure.push(case);
        return;
    }
    if cases.gone.len() == GONE_KEPT {
        cases.gone.pop_front();
    }
    cases.gone.push_back(case);
}

/// The answer of a call that ends also when nobody answers.
async fn limited<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(WRITE_TIME_MAX, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("nobody answers")),
    }
}

/// A question to one replica, for what comes after the faults.
pub(super) async fn ask_at(
    channel: &Channel,
    secret: &str,
    at_least: Option<v1::Revision>,
) -> Result<v1::CheckResponse, Status> {
    let mut client = CheckServiceClient::new(channel.clone());
    let question = v1::CheckRequest {
        at_least,
        ..check(secret, &[])
    };
    let mut request = Request::new(question);
    request.set_timeout(WRITE_TIME_MAX);
    limited(client.check(request)).await
}

/// Issues one more token by one replica, and waits for all of them; its revision.
pub(super) async fn issue_at(world: &World, replica: usize) -> Option<v1::Revision> {
    let line = Line::to(world, replica, None);
    let request = v1::IssueTokenRequest {
        wait_for_replicas: true,
        ..issue(usize::from(u16::MAX))
    };
    let mut request = bearer(&world.admin, request);
    request.set_timeout(WRITE_TIME_MAX);
    let issued = limited(TokenServiceClient::new(line.channel).issue_token(request)).await;
    let issued = issued.ok()?;
    let (state, _) = promised(issued.enforcement.as_ref(), 0)?;
    issued.revision.filter(|_| state == State::Confirmed)
}
