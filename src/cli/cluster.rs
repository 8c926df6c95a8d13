//! `latchkey wait`, and the replicas as `latchkey status` shows them.
//!
//! `wait` exits with 0 once every replica answers by a revision, and with 3 when that was not
//! confirmed in time: then it says how long it takes at the most, and who is missing.

use clap::Args;
use serde::Serialize;
use tonic::Code;

use crate::proto::v1;

use super::connect::{CallerArgs, Session};
use super::failure::CliError;
use super::output::made::{EnforcementView, Made};
use super::output::{Output, Page, duration, instant, span};
use super::parse;

/// Which revision.
#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// The revision, as a write printed it.
    #[arg(value_name = "REVISION", value_parser = parse::revision)]
    revision: v1::Revision,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Waits until every replica answers by a revision.
///
/// # Errors
/// Exit 3 when that was not confirmed in time, or the log does not hold the revision.
pub(crate) async fn wait(args: WaitArgs, output: Output) -> Result<(), CliError> {
    let session = args.caller.session().await?;
    let enforcement = enforced(&session, args.revision.clone()).await?;
    let confirmed = enforcement.is_confirmed();
    let made = Made {
        revision: super::output::revision(Some(&args.revision)),
        enforcement: Some(enforcement),
    };
    output.show(&made, |page| {
        page.line(
            made.enforcement
                .as_ref()
                .map(EnforcementView::text)
                .unwrap_or_default(),
        );
    })?;
    if confirmed {
        Ok(())
    } else {
        let why = "not every replica is known to answer by this revision";
        Err(CliError::unavailable(why).because("COMMITTED"))
    }
}

/// How far a revision is enforced, waited for as long as the server does.
///
/// # Errors
/// What the server refuses.
pub(crate) async fn enforced(
    session: &Session,
    revision: v1::Revision,
) -> Result<EnforcementView, CliError> {
    let request = v1::WaitForRevisionRequest {
        revision: Some(revision),
    };
    let answer = session.cluster().wait_for_revision(request).await?;
    Ok(answer.into_inner().enforcement.unwrap_or_default().into())
}

/// The replicas at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct ReplicasView {
    replicas: Vec<ReplicaView>,
    /// The longest lease that any may hold.
    lease_ms: Option<u128>,
}

#[derive(Debug, Serialize)]
struct ReplicaView {
    name: String,
    address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    incarnation: String,
    applied_revision: u64,
    lag_revisions: u64,
    lease_ms: Option<u128>,
    heard_ago_ms: Option<u128>,
    joined_at: Option<String>,
    format_max: u32,
    is_this_server: bool,
}

impl From<v1::Replica> for ReplicaView {
    fn from(replica: v1::Replica) -> Self {
        let milliseconds = |told: Option<&prost_types::Duration>| Some(duration(told)?.as_millis());
        Self {
            lease_ms: milliseconds(replica.lease.as_ref()),
            heard_ago_ms: milliseconds(replica.heard_ago.as_ref()),
            joined_at: instant(replica.joined_at.as_ref()),
            name: replica.name,
            address: replica.address,
            incarnation: replica.incarnation,
            applied_revision: replica.applied_revision,
            lag_revisions: replica.lag_revisions,
            format_max: replica.format_max,
            is_this_server: replica.is_this_server,
        }
    }
}

impl ReplicasView {
    /// The replicas, if the caller may see them and the server can tell.
    ///
    /// # Errors
    /// What else the server refuses.
    pub(crate) async fn of(session: &Session) -> Result<Option<Self>, CliError> {
        let request = v1::ListReplicasRequest {};
        match session.cluster().list_replicas(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                Ok(Some(Self {
                    lease_ms: duration(answer.lease.as_ref()).map(|lease| lease.as_millis()),
                    replicas: answer.replicas.into_iter().map(ReplicaView::from).collect(),
                }))
            }
            Err(status) if untold(status.code()) => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// A table, for people.
    pub(crate) fn page(&self, page: &mut Page) {
        let span_of = |ms: Option<u128>| {
            let ms = ms.and_then(|ms| u64::try_from(ms).ok());
            span(ms.map(std::time::Duration::from_millis))
        };
        let row = |one: &ReplicaView| {
            vec![
                one.name.clone(),
                one.address.clone(),
                one.applied_revision.to_string(),
                one.lag_revisions.to_string(),
                span_of(one.lease_ms),
                span_of(one.heard_ago_ms),
                if one.is_this_server { "this" } else { "" }.to_owned(),
            ]
        };
        page.table(
            &[
                "REPLICA",
                "ADDRESS",
                "REVISION",
                "BEHIND",
                "LEASE",
                "HEARD AGO",
                "",
            ],
            self.replicas.iter().map(row),
        );
    }
}

// Whoever may not see the replicas, or asks one that knows no more, has a use for the rest.
fn untold(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthenticated | Code::PermissionDenied | Code::Unavailable | Code::Unimplemented
    )
}
