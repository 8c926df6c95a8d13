//! `latchkey drill`: revokes a token of its own, and shows how soon every server denies it.
//!
//! The same as a server's canary does, from outside: with the calling token, which must be able to
//! issue at the resource and to ask Checks there. Exits with 0 when every server denied it and none
//! allowed it after the confirmation, with 1 when one did, and with 3 when that is not known.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::proto::v1;
use crate::proto::v1::enforcement::State;
use crate::proto::v1::revoke_token_request::Target as Revoked;
use crate::rpc::drill::{Dial, Drill, Question, Seen, Target};

use super::connect::{CallerArgs, Session, calling_token};
use super::failure::CliError;
use super::output::made::EnforcementView;
use super::output::meter::Meter;
use super::output::{Output, duration};
use super::parse;

/// What the token may do, and nobody else asks for.
const ACTION: &str = "drill:ping";
/// It ends by itself if the drill is cut.
const LIFE: Duration = Duration::from_secs(300);
/// The rest of the time is for the denials.
const WORKS_PART: u32 = 2;

/// Which servers, and where.
#[derive(Args, Debug)]
pub(crate) struct DrillArgs {
    /// Address of a server to ask; may be repeated [default: those that the server lists].
    #[arg(long = "replica", value_name = "ADDR")]
    replicas: Vec<String>,
    /// The resource of the token that is issued and revoked.
    #[arg(long, value_name = "RESOURCE", default_value = "latchkey/drill")]
    resource: String,
    /// How long the servers are asked at the most.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse::duration)]
    wait: Duration,
    #[command(flatten)]
    caller: CallerArgs,
}

#[derive(Serialize)]
struct DrillView {
    /// From sending the revocation to its answer.
    answered_ms: f64,
    enforcement: EnforcementView,
    replicas: Vec<SeenView>,
}

#[derive(Serialize)]
struct SeenView {
    name: String,
    address: String,
    /// From sending the revocation to the first denial.
    denied_after_ms: Option<f64>,
    checks: u64,
    /// Allows to checks that were sent after the confirmation.
    violations: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// Issues, waits, revokes and asks.
///
/// # Errors
/// What the server refuses; refused for a broken promise, unavailable for a server that cannot be
/// asked.
pub(crate) async fn drill(args: DrillArgs, output: Output) -> Result<(), CliError> {
    let caller = calling_token(args.caller.token_file.as_deref())?.ok_or_else(|| {
        CliError::usage("no calling token: set LATCHKEY_TOKEN or give --token-file FILE")
    })?;
    let session = Session::open(&args.caller.server, Some(caller.clone())).await?;
    let tls = &args.caller.server.tls;
    let dial = Dial::with(tls.config()?);
    let given = args.replicas.iter().map(|address| tls.url_of(address));
    let given = given.collect::<Result<Vec<_>, _>>()?;
    let targets = targets(&session, args.replicas.into_iter().zip(given).collect()).await?;
    let meter = Meter::start("waiting for the servers to allow");
    let token = issue(&session, &args.resource).await?;
    let question = Question {
        caller,
        token: token.clone(),
        action: ACTION.to_owned(),
        resource: args.resource,
    };
    let mut drill = Drill::begin(targets, &question, &dial, args.wait);
    drill.works(args.wait / WORKS_PART).await;
    meter.goes_on("waiting for the servers to deny");
    let begun = Instant::now();
    drill.revoking();
    let enforcement = revoke(&session, &token).await?;
    let answered = begun.elapsed();
    let after = match enforcement.state() {
        State::Confirmed => Some(Duration::ZERO),
        _ => duration(enforcement.everywhere_after.as_ref()),
    };
    if let Some(after) = after {
        drill.enforced(after);
    }
    let seen = drill.end().await;
    meter.end();
    show(answered, enforcement, seen, output)
}

/// Those that are given, by what they are called and their URLs, or those that the server lists.
async fn targets(session: &Session, given: Vec<(String, String)>) -> Result<Vec<Target>, CliError> {
    if !given.is_empty() {
        let named = |(name, address)| Target {
            name,
            address,
            is_live: true,
        };
        return Ok(given.into_iter().map(named).collect());
    }
    let request = v1::ListReplicasRequest {};
    let answer = session.cluster().list_replicas(request).await?.into_inner();
    let told = answer.replicas.into_iter().map(|replica| {
        let (lease, heard) = (
            duration(replica.lease.as_ref()),
            duration(replica.heard_ago.as_ref()),
        );
        Target {
            is_live: lease.is_none() || heard <= lease,
            name: replica.name,
            address: replica.address,
        }
    });
    Ok(told.collect())
}

async fn issue(session: &Session, resource: &str) -> Result<Zeroizing<String>, CliError> {
    let scopes = vec![format!("{ACTION}@{resource}")];
    let request = v1::IssueTokenRequest {
        kind: v1::TokenKind::Resource.into(),
        resource: resource.to_owned(),
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::Only(v1::ScopeList { scopes })),
        }),
        ttl: Some(parse::wire_duration(LIFE)),
        name: "drill".to_owned(),
        reason: "drill: how soon does a revocation hold?".to_owned(),
        wait_for_replicas: true,
        ..v1::IssueTokenRequest::default()
    };
    let issued = session.tokens().issue_token(request).await?.into_inner();
    Ok(Zeroizing::new(issued.secret))
}

async fn revoke(session: &Session, token: &str) -> Result<v1::Enforcement, CliError> {
    let request = v1::RevokeTokenRequest {
        target: Some(Revoked::Secret(token.to_owned())),
        reason: "drill: how soon does a revocation hold?".to_owned(),
        ..v1::RevokeTokenRequest::default()
    };
    let answer = session.tokens().revoke_token(request).await?.into_inner();
    Ok(answer.enforcement.unwrap_or_default())
}

fn show(
    answered: Duration,
    enforcement: v1::Enforcement,
    seen: Vec<Seen>,
    output: Output,
) -> Result<(), CliError> {
    let confirmed = enforcement.state() == State::Confirmed;
    let violations: u64 = seen.iter().map(|one| one.violations).sum();
    let known = confirmed && seen.iter().all(Seen::is_good);
    let view = DrillView {
        answered_ms: milliseconds(answered),
        enforcement: enforcement.into(),
        replicas: seen.into_iter().map(SeenView::from).collect(),
    };
    output.show(&view, |page| {
        page.line(format!(
            "The revocation was answered after {:.1} ms: {}",
            view.answered_ms,
            view.enforcement.text()
        ));
        page.table(
            &[
                "REPLICA",
                "ADDRESS",
                "DENIED AFTER",
                "CHECKS",
                "VIOLATIONS",
                "",
            ],
            view.replicas.iter().map(SeenView::row),
        );
    })?;
    if violations > 0 {
        let what = "a revocation that was confirmed does not hold: a check was allowed after it";
        Err(CliError::refused(what).because("VIOLATED"))
    } else if !known {
        Err(CliError::unavailable(
            "not every server is known to deny it",
        ))
    } else {
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

impl From<Seen> for SeenView {
    fn from(seen: Seen) -> Self {
        Self {
            name: seen.target.name,
            address: seen.target.address,
            denied_after_ms: seen.denied_after.map(milliseconds),
            checks: seen.checks,
            violations: seen.violations,
            trouble: seen.trouble,
        }
    }
}

impl SeenView {
    fn row(&self) -> Vec<String> {
        let denied = self.denied_after_ms.map(|ms| format!("{ms:.1} ms"));
        vec![
            self.name.clone(),
            self.address.clone(),
            denied.unwrap_or_default(),
            self.checks.to_string(),
            self.violations.to_string(),
            self.trouble.clone().unwrap_or_default(),
        ]
    }
}
