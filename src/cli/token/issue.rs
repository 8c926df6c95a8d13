//! `latchkey token issue`: what a new token speaks for, is narrowed to and is limited by.
//!
//! Without `--scope` a token of a principal is not narrowed; a resource token must have one, since
//! its scopes are its whole power. Whether the caller may issue it is the server's decision.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use crate::cli::connect::CallerArgs;
use crate::cli::failure::CliError;
use crate::cli::output::Output;
use crate::cli::output::made::Made;
use crate::cli::output::token::Created;
use crate::cli::parse::{self, Kind, wire_duration, wire_instant};
use crate::proto::v1;
use crate::proto::v1::scopes_input::Extent;

use super::RequestId;

/// What to issue.
#[derive(Args, Debug)]
pub(crate) struct IssueArgs {
    /// What it speaks for; may be left out with --derive.
    #[arg(long, value_enum, required_unless_present = "derive")]
    kind: Option<Kind>,
    /// The principal that it speaks for; left out with --kind user it is the caller.
    #[arg(long, value_name = "NAME", conflicts_with = "resource")]
    subject: Option<String>,
    /// The resource that a resource token speaks for.
    #[arg(long, value_name = "PATH", required_if_eq("kind", "resource"))]
    resource: Option<String>,
    /// Narrow it to ACTION[,ACTION...]@RESOURCE or role:NAME@RESOURCE; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = parse::scope, required_if_eq("kind", "resource"))]
    scopes: Vec<String>,
    /// How long it lives, for example 1h or 30d.
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    ttl: Option<Duration>,
    /// Its name, for people.
    #[arg(long)]
    name: String,
    /// Why; kept in the audit trail.
    #[arg(long)]
    reason: String,
    /// Derive it from the calling token, which then bounds it.
    #[arg(long)]
    derive: bool,
    /// The instant from which it works.
    #[arg(long, value_name = "INSTANT", value_parser = parse::instant)]
    not_before: Option<Timestamp>,
    /// No renewal goes beyond this long after the issue.
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime, conflicts_with = "period")]
    max_lifetime: Option<Duration>,
    /// Make it periodic: each renewal moves the expiry this far.
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    period: Option<Duration>,
    /// How many checks may be allowed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
    /// Client network, as CIDR, that it may be used from; may be repeated.
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// The audience that it may be used for.
    #[arg(long, default_value = "", hide_default_value = true)]
    audience: String,
    /// The workload that must present it: a SPIFFE ID or x5t#S256:THUMBPRINT.
    #[arg(long, default_value = "", hide_default_value = true)]
    workload: String,
    /// A free label; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// What it is for.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Print the secret alone on standard output, for a file.
    #[arg(long)]
    secret_only: bool,
    /// Wait until it works on every replica.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

impl IssueArgs {
    fn request(self) -> v1::IssueTokenRequest {
        let principal = self.kind.and_then(Kind::principal);
        let subject = match (self.subject, principal) {
            (Some(subject), Some(kind)) => parse::principal_of(kind, &subject),
            (subject, _) => subject.unwrap_or_default(),
        };
        v1::IssueTokenRequest {
            wait_for_replicas: self.wait,
            kind: self.kind.map_or(0, |kind| kind.wire() as i32),
            subject,
            resource: self.resource.unwrap_or_default(),
            scopes: Some(scopes(self.scopes)),
            ttl: self.ttl.map(wire_duration),
            not_before: self.not_before.map(wire_instant),
            max_lifetime: self.max_lifetime.map(wire_duration),
            period: self.period.map(wire_duration),
            uses: self.uses,
            networks: self.networks,
            audience: self.audience,
            workload: self.workload,
            derive: self.derive,
            reason: self.reason,
            request_id: self.request.request_id,
            name: self.name,
            description: self.description,
            labels: self.labels.into_iter().collect(),
        }
    }
}

/// Scopes as given; none is not narrowed.
pub(super) fn scopes(scopes: Vec<String>) -> v1::ScopesInput {
    let extent = if scopes.is_empty() {
        Extent::All(v1::AllScopes {})
    } else {
        Extent::Only(v1::ScopeList { scopes })
    };
    v1::ScopesInput {
        extent: Some(extent),
    }
}

pub(super) async fn issue(args: IssueArgs, output: Output) -> Result<(), CliError> {
    let mut tokens = args.caller.session().await?.tokens();
    let secret_only = args.secret_only;
    let answer = tokens.issue_token(args.request()).await?.into_inner();
    let created = Created::new(
        answer.token,
        answer.secret,
        answer.secret_withheld,
        Made::new(answer.revision.as_ref(), answer.enforcement),
    );
    created.show(secret_only, output)
}
