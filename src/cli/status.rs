//! `latchkey status` and `health`: is the server there, how far is it, and who am I to it.
//!
//! `health` asks the standard gRPC health service and nothing else, so that it serves as a probe:
//! exit 0 when serving and 3 when not. `status` is for people.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::proto::v1;

use super::cluster::ReplicasView;
use super::connect::{ServerArgs, Session, calling_token};
use super::failure::CliError;
use super::output::{Output, revision};

/// The services whose health is told; empty is the server as a whole.
const SERVICES: [&str; 7] = [
    "",
    "latchkey.v1.CheckService",
    "latchkey.v1.LoginService",
    "latchkey.v1.TokenService",
    "latchkey.v1.DirectoryService",
    "latchkey.v1.AuditService",
    "latchkey.v1.ClusterService",
];

/// Which server, and as whom.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// File with a calling token, `-` for standard input [default: the environment variable LATCHKEY_TOKEN].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Which service of which server.
#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The service, for example latchkey.v1.CheckService; left out, the server as a whole.
    #[arg(long, default_value = "", hide_default_value = true)]
    service: String,
}

#[derive(Serialize)]
struct ServiceHealth {
    service: String,
    status: &'static str,
}

#[derive(Serialize)]
struct Status {
    addr: String,
    health: Vec<ServiceHealth>,
    /// The newest revision that the server answered with; none if it does not tell us.
    head: Option<String>,
    caller: Option<Caller>,
    /// None if the caller may not see them.
    #[serde(flatten)]
    replicas: Option<ReplicasView>,
}

#[derive(Serialize)]
struct Caller {
    token_id: String,
    speaks_for: String,
}

/// Shows the health of each service, the head, who the calling token is, and the replicas.
///
/// # Errors
/// Exit 3 when something does not serve, 1 when the calling token is refused.
pub(crate) async fn status(args: StatusArgs, output: Output) -> Result<(), CliError> {
    let token = calling_token(args.token_file.as_deref())?;
    let session = Session::open(&args.server, token).await?;
    let mut health = Vec::new();
    for service in SERVICES {
        health.push(ServiceHealth {
            service: service.to_owned(),
            status: serving(&session, service).await?,
        });
    }
    // Whoever may not check still has a use for the rest.
    let request = v1::CheckRequest::default();
    let head = match session.checks().check(request).await {
        Ok(answer) => answer.into_inner().revision,
        Err(_) => None,
    };
    let identity = if session.has_token() {
        Some(session.tokens().who_am_i(v1::WhoAmIRequest {}).await)
    } else {
        None
    };
    let (identity, refused) = match identity.transpose() {
        Ok(identity) => (identity.map(tonic::Response::into_inner), None),
        Err(status) => (None, Some(CliError::from(status))),
    };
    let known = identity
        .as_ref()
        .and_then(|identity| identity.revision.clone());
    let head = known.or(head).map(|head| revision(Some(&head)));
    let caller = identity.and_then(|identity| {
        let token = identity.token?;
        let speaks_for = if token.subject.is_empty() {
            token.resource
        } else {
            token.subject
        };
        Some(Caller {
            token_id: token.token_id,
            speaks_for,
        })
    });
    let replicas = if session.has_token() {
        ReplicasView::of(&session).await?
    } else {
        None
    };
    let status = Status {
        addr: args.server.addr,
        health,
        head,
        caller,
        replicas,
    };
    show(&status, output)?;
    if status.health.iter().any(|one| one.status != "serving") {
        return Err(not_serving());
    }
    refused.map_or(Ok(()), Err)
}

fn show(status: &Status, output: Output) -> Result<(), CliError> {
    output.show(status, |page| {
        let caller = |caller: &Caller| format!("{} ({})", caller.speaks_for, caller.token_id);
        page.fields(&[
            ("server", status.addr.clone()),
            ("head", status.head.clone().unwrap_or_default()),
            (
                "caller",
                status.caller.as_ref().map(caller).unwrap_or_default(),
            ),
        ]);
        let row = |one: &ServiceHealth| {
            let name = if one.service.is_empty() {
                "(the server)"
            } else {
                &one.service
            };
            vec![name.to_owned(), one.status.to_owned()]
        };
        page.table(&["SERVICE", "HEALTH"], status.health.iter().map(row));
        if let Some(replicas) = &status.replicas {
            replicas.page(page);
        }
    })
}

/// Asks the health service about one service.
///
/// # Errors
/// Exit 3 when it does not serve or cannot be reached.
pub(crate) async fn health(args: HealthArgs, output: Output) -> Result<(), CliError> {
    let session = Session::open(&args.server, None).await?;
    let health = ServiceHealth {
        status: serving(&session, &args.service).await?,
        service: args.service,
    };
    output.show(&health, |page| page.line(health.status))?;
    if health.status == "serving" {
        Ok(())
    } else {
        Err(not_serving())
    }
}

fn not_serving() -> CliError {
    CliError::unavailable("not everything that was asked about serves").because("NOT_SERVING")
}

async fn serving(session: &Session, service: &str) -> Result<&'static str, CliError> {
    let mut client = HealthClient::new(session.wire());
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    match client.check(request).await {
        Ok(answer) => Ok(match answer.into_inner().status() {
            ServingStatus::Serving => "serving",
            ServingStatus::NotServing => "not serving",
            ServingStatus::Unknown | ServingStatus::ServiceUnknown => "unknown",
        }),
        Err(status) if status.code() == Code::NotFound => Ok("unknown"),
        Err(status) => Err(CliError::from(status)),
    }
}
