//! A drill: how soon a revocation holds on every server, asked by Checks as any service asks.
//!
//! ```text
//!  every server allows ─► revoke ─► confirmed ─► every server denies, and is asked some more
//! ```
//!
//! Used by the canary of a server and by `latchkey drill`, which issue and revoke in their own
//! ways. Each server is asked by a task of its own, one question after the other. An allow to a
//! question that was *sent* after the revocation was confirmed breaks the promise, whatever comes
//! after it. Every task ends at the drill's deadline; no error names a secret.

use std::error::Error as _;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use zeroize::Zeroizing;

use crate::proto::v1;
use crate::proto::v1::check_service_client::CheckServiceClient;
use crate::tls::{Dialing, trouble};

/// Between two questions to a server.
const PAUSE: Duration = Duration::from_millis(2);
/// After a question that was not answered.
const TROUBLE_PAUSE: Duration = Duration::from_millis(50);
/// Until a server must have let us in, and then have answered.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// Denials in a row, to questions sent after the confirmation, that end it for a server.
const DENIALS_AFTER: u32 = 5;
/// Allows to such questions that end it for a server, so that an alarm is not kept waiting.
const VIOLATIONS_MAX: u64 = 100;

/// A server to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What people call it.
    pub name: String,
    /// Its address, as HOST:PORT or as a URL.
    pub address: String,
    /// Whether it is there: one that was last heard longer ago than its lease is asked as well, for
    /// it must not allow, and is no trouble if it does not answer.
    pub is_live: bool,
}

/// What every server is asked. Without a `Debug`: it holds secrets.
#[derive(Clone)]
pub struct Question {
    /// The token of whoever asks.
    pub caller: Zeroizing<String>,
    /// The token that is asked about.
    pub token: Zeroizing<String>,
    /// What it may do.
    pub action: String,
    /// Where.
    pub resource: String,
}

/// What one server did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub target: Target,
    /// From the moment the revocation was sent until the first denial had come.
    pub denied_after: Option<Duration>,
    /// How many questions it has answered.
    pub checks: u64,
    /// Allows to questions that were sent after the confirmation, up to 100.
    pub violations: u64,
    /// Why it is not known that it denies; none if it is.
    pub trouble: Option<String>,
}

impl Seen {
    /// Whether it denies or is gone, and never allowed what it must not.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.violations == 0 && (self.trouble.is_none() || !self.target.is_live)
    }
}

/// Where the drill stands. Written by whoever drives it, read before each question is sent.
#[derive(Clone, Copy, Default)]
struct Stage {
    revoked_at: Option<Instant>,
    /// From when on no server may allow it.
    enforced_at: Option<Instant>,
}

/// Servers that are being asked; they are left alone when this is dropped.
pub struct Drill {
    stage: watch::Sender<Stage>,
    works: mpsc::Receiver<()>,
    asking: JoinSet<Seen>,
    // Those that are live.
    servers: usize,
    until: Instant,
}

impl Drill {
    /// Begins to ask; it ends after `most`, whatever comes.
    #[must_use]
    pub fn begin(targets: Vec<Target>, question: &Question, dial: &Dial, most: Duration) -> Self {
        let until = Instant::now() + most;
        let (stage, followed) = watch::channel(Stage::default());
        let (worked, works) = mpsc::channel(targets.len().max(1));
        let servers = targets.iter().filter(|target| target.is_live).count();
        let mut asking = JoinSet::new();
        for target in targets {
            let asker = Asker::new(&target.address, question, dial);
            let (question, worked) = (question.clone(), worked.clone());
            let stage = followed.clone();
            asking.spawn(ask_until(target, asker, question, stage, worked, until));
        }
        Self {
            stage,
            works,
            asking,
            servers,
            until,
        }
    }

    /// Waits, at the most so long, until every live server has allowed it; how many have.
    pub async fn works(&mut self, most: Duration) -> usize {
        let until = self.until.min(Instant::now() + most);
        let mut count = 0;
        while count < self.servers {
            match timeout_at(until, self.works.recv()).await {
                Ok(Some(())) => count += 1,
                Ok(None) | Err(_) => break,
            }
        }
        count
    }

    /// The revocation is about to be sent.
    pub fn revoking(&self) {
        let now = Instant::now();
        self.stage.send_modify(|stage| stage.revoked_at = Some(now));
    }

    /// The revocation was answered: it holds everywhere after so long from now.
    pub fn enforced(&self, after: Duration) {
        let at = Instant::now() + after;
        self.stage.send_modify(|stage| stage.enforced_at = Some(at));
    }

    /// Waits until every server denies, or the time is over; what each did, by name.
    pub async fn end(mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        while let Some(ended) = self.asking.join_next().await {
            all.extend(ended.ok());
        }
        all.sort_by(|a, b| a.target.name.cmp(&b.target.name));
        all
    }
}

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Allowed,
    Revoked,
    /// Another denial: it has not heard of the token yet, or answers nobody for now.
    Other(&'static str),
}

async fn ask_until(
    target: Target,
    asker: Result<Asker, &'static str>,
    question: Question,
    stage: watch::Receiver<Stage>,
    worked: mpsc::Sender<()>,
    until: Instant,
) -> Seen {
    let mut seen = Seen {
        target,
        denied_after: None,
        checks: 0,
        violations: 0,
        trouble: Some("it was not asked".to_owned()),
    };
    let mut asker = match asker {
        Ok(asker) => asker,
        Err(what) => {
            seen.trouble = Some(what.to_owned());
            return seen;
        }
    };
    let (mut has_worked, mut denials_after) = (false, 0);
    while Instant::now() < until {
        // Read before the question is sent: what holds then must be answered.
        let Stage {
            revoked_at,
            enforced_at,
        } = *stage.borrow();
        let is_enforced = enforced_at.is_some_and(|at| at <= Instant::now());
        let answer = asker.ask(&question, until).await;
        seen.checks += u64::from(answer.is_ok());
        let mut pause = PAUSE;
        match answer {
            Ok(Answer::Allowed) if is_enforced => {
                seen.violations += 1;
                denials_after = 0;
                seen.trouble = Some("it allows what was revoked".to_owned());
                if seen.violations >= VIOLATIONS_MAX {
                    return seen;
                }
            }
            Ok(Answer::Allowed) => {
                if !has_worked && seen.target.is_live {
                    // Nobody need be waiting for it.
                    let _ = worked.try_send(());
                }
                has_worked = true;
                seen.trouble = Some("it has not denied it yet".to_owned());
            }
            Ok(Answer::Revoked) => {
                if let Some(at) = revoked_at {
                    seen.denied_after.get_or_insert_with(|| at.elapsed());
                }
                denials_after += u32::from(is_enforced);
                if denials_after >= DENIALS_AFTER {
                    seen.trouble = (!has_worked).then(|| "the token never worked there".to_owned());
                    return seen;
                }
            }
            Ok(Answer::Other(what)) => seen.trouble = Some(what.to_owned()),
            Err(what) => {
                seen.trouble = Some(what);
                pause = TROUBLE_PAUSE;
            }
        }
        if is_enforced && !seen.target.is_live && seen.violations == 0 {
            denials_after += 1;
            if denials_after >= DENIALS_AFTER {
                return seen;
            }
        }
        sleep(pause).await;
    }
    seen
}

/// How servers are reached that speak TLS; unset, they are not.
#[derive(Clone, Default)]
pub struct Dial(Option<ClientTlsConfig>);

impl Dial {
    /// With these certificates.
    #[must_use]
    pub fn with(tls: Option<ClientTlsConfig>) -> Self {
        Self(tls)
    }

    /// With a server's own, where it has any and knows whom to believe.
    #[must_use]
    pub(super) fn of(dialing: &Dialing) -> Self {
        let tls = dialing.authorities.as_ref().map(|authorities| {
            let identity = Identity::from_pem(&*dialing.cert, &*dialing.key);
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&**authorities));
            let tls = tls.identity(identity);
            match &dialing.name {
                Some(name) => tls.domain_name(name),
                None => tls,
            }
        });
        Self(tls)
    }
}

/// A way to one server.
struct Asker {
    client: CheckServiceClient<Channel>,
    caller: MetadataValue<Ascii>,
}

impl Asker {
    fn new(address: &str, question: &Question, dial: &Dial) -> Result<Self, &'static str> {
        let url = match address.contains("://") {
            true => address.to_owned(),
            false => format!("http://{address}"),
        };
        let is_secured = url.starts_with("https://");
        let mut endpoint = Endpoint::from_shared(url).map_err(|_| "its address is none")?;
        if is_secured {
            let tls = dial.0.clone();
            let tls = tls.ok_or("it speaks TLS, and no authorities are set to believe it by")?;
            let set = endpoint.tls_config(tls);
            endpoint = set.map_err(|_| "its address is no name for TLS")?;
        }
        let bearer = Zeroizing::new(format!("Bearer {}", *question.caller));
        let caller = MetadataValue::try_from(bearer.as_str());
        let mut caller = caller.map_err(|_| "the calling token cannot be sent")?;
        caller.set_sensitive(true);
        let channel = endpoint.connect_timeout(ANSWER_TIME_MAX).connect_lazy();
        Ok(Self {
            client: CheckServiceClient::new(channel),
            caller,
        })
    }

    async fn ask(&mut self, question: &Question, until: Instant) -> Result<Answer, String> {
        let mut request = Request::new(v1::CheckRequest {
            token: question.token.as_str().to_owned(),
            needs: vec![v1::Need {
                action: question.action.clone(),
                resource: question.resource.clone(),
            }],
            ..v1::CheckRequest::default()
        });
        let metadata = request.metadata_mut();
        metadata.insert("authorization", self.caller.clone());
        request.set_timeout(ANSWER_TIME_MAX);
        let until = until.min(Instant::now() + ANSWER_TIME_MAX);
        match timeout_at(until, self.client.check(request)).await {
            Err(_) => Err("it does not answer".to_owned()),
            Ok(Ok(answer)) => Ok(read(&answer.into_inner())),
            // Also while the caller's token has not arrived there yet.
            Ok(Err(status)) => Err(match status.source().and_then(trouble) {
                Some(what) => format!("it cannot be asked: {what}"),
                None => format!("it cannot be asked: {:?}", status.code()),
            }),
        }
    }
}

fn read(answer: &v1::CheckResponse) -> Answer {
    match (answer.allowed, answer.reason()) {
        (true, _) => Answer::Allowed,
        (false, v1::Reason::Revoked) => Answer::Revoked,
        (false, v1::Reason::Stale) => Answer::Other("it is stale"),
        (false, v1::Reason::Expired) => Answer::Other("the token has expired"),
        (false, _) => Answer::Other("it denies for another reason"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_revocation_is_a_denial_of_the_drill() {
        let check = |allowed, reason: v1::Reason, expected| {
            let answer = v1::CheckResponse {
                allowed,
                reason: reason.into(),
                ..v1::CheckResponse::default()
            };
            assert_eq!(read(&answer), expected, "{reason:?}");
        };
        check(true, v1::Reason::Allowed, Answer::Allowed);
        check(false, v1::Reason::Revoked, Answer::Revoked);
        check(false, v1::Reason::Stale, Answer::Other("it is stale"));
        check(
            false,
            v1::Reason::Expired,
            Answer::Other("the token has expired"),
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_not_there_is_trouble_and_no_violation() {
        let question = Question {
            caller: Zeroizing::new("x".to_owned()),
            token: Zeroizing::new("y".to_owned()),
            action: "a:b".to_owned(),
            resource: "r".to_owned(),
        };
        let target = |address: &str| Target {
            name: address.to_owned(),
            address: address.to_owned(),
            is_live: address != "127.0.0.1:2",
        };
        let addresses = ["127.0.0.1:1", "127.0.0.1:2", "no address at all"];
        let targets = addresses.map(target).to_vec();
        let mut drill = Drill::begin(targets, &question, &Dial::default(), Duration::from_secs(5));
        assert_eq!(drill.works(Duration::from_secs(1)).await, 0);
        drill.revoking();
        drill.enforced(Duration::ZERO);
        for seen in drill.end().await {
            assert_eq!(seen.is_good(), !seen.target.is_live, "{seen:?}");
            assert_eq!((seen.violations, seen.checks), (0, 0), "{seen:?}");
        }
    }
}
