//! `latchkey token update`, `renew`, `rotate`, `revoke` and `revoke-all`.
//!
//! What an update does not name stays: the mask is made of the flags that are given. A token to be
//! revoked is named by its id, or by its secret in a file, for who found one.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::connect::{CallerArgs, Session, read_token};
use crate::cli::failure::CliError;
use crate::cli::output::Output;
use crate::cli::output::made::Made;
use crate::cli::output::token::{Created, TokenView};
use crate::cli::parse::{self, wire_duration, wire_instant};
use crate::proto::v1;
use crate::proto::v1::revoke_all_request::Target as CutOff;
use crate::proto::v1::revoke_token_request::Target;
use crate::proto::v1::scopes_input::Extent;

use super::{RequestId, exchange};

/// A token after a change.
#[derive(Serialize)]
struct Changed {
    #[serde(flatten)]
    token: TokenView,
    #[serde(flatten)]
    made: Made,
    #[serde(skip_serializing_if = "Option::is_none")]
    clipped: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    already_revoked: Option<bool>,
}

impl Changed {
    fn new(token: Option<v1::Token>, made: Made) -> Self {
        Self {
            token: TokenView::from(token.unwrap_or_default()),
            made,
            clipped: None,
            already_revoked: None,
        }
    }
}

/// A field that can be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Clearable {
    /// The expiry.
    ExpiresAt,
    /// The not-before instant.
    NotBefore,
    /// The instant that no renewal goes beyond.
    MaxExpiresAt,
    /// The period.
    Period,
    /// The limit of uses.
    UsesLeft,
    /// The networks.
    Networks,
    /// The audience.
    Audience,
    /// The workload.
    Workload,
    /// The description.
    Description,
    /// The labels.
    Labels,
}

/// The new values; what is not given stays.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("target").required(true))]
pub(crate) struct UpdateArgs {
    /// Id of the token.
    #[arg(value_name = "TOKEN_ID", value_parser = parse::token_id, group = "target")]
    token_id: Option<String>,
    /// The calling token itself.
    #[arg(long = "self", group = "target")]
    itself: bool,
    /// Narrow it to these scopes; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = parse::scope)]
    scopes: Vec<String>,
    /// Do not narrow it any more.
    #[arg(long, conflicts_with = "scopes")]
    all_scopes: bool,
    /// When it expires.
    #[arg(long, value_name = "INSTANT", value_parser = parse::instant)]
    expires_at: Option<Timestamp>,
    /// The instant from which it works.
    #[arg(long, value_name = "INSTANT", value_parser = parse::instant)]
    not_before: Option<Timestamp>,
    /// The instant that no renewal goes beyond.
    #[arg(long, value_name = "INSTANT", value_parser = parse::instant)]
    max_expires_at: Option<Timestamp>,
    /// How far each renewal moves the expiry.
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    period: Option<Duration>,
    /// The number of uses that are left from now on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses_left: Option<u32>,
    /// Client network, as CIDR; may be repeated, and replaces those before.
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// The audience.
    #[arg(long)]
    audience: Option<String>,
    /// The workload.
    #[arg(long)]
    workload: Option<String>,
    /// The name.
    #[arg(long)]
    name: Option<String>,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// A label; may be repeated, and replaces those before.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// Lift a limit or empty a text; may be repeated.
    #[arg(long = "clear", value_enum, value_name = "FIELD")]
    clear: Vec<Clearable>,
    /// Why; not required to narrow the calling token itself.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

impl UpdateArgs {
    fn mask(&self) -> Vec<String> {
        let cleared = |field| self.clear.contains(&field);
        let named = [
            ("scopes", self.all_scopes || !self.scopes.is_empty()),
            (
                "expires_at",
                self.expires_at.is_some() || cleared(Clearable::ExpiresAt),
            ),
            (
                "not_before",
                self.not_before.is_some() || cleared(Clearable::NotBefore),
            ),
            (
                "max_expires_at",
                self.max_expires_at.is_some() || cleared(Clearable::MaxExpiresAt),
            ),
            (
                "period",
                self.period.is_some() || cleared(Clearable::Period),
            ),
            (
                "uses_left",
                self.uses_left.is_some() || cleared(Clearable::UsesLeft),
            ),
            (
                "networks",
                !self.networks.is_empty() || cleared(Clearable::Networks),
            ),
            (
                "audience",
                self.audience.is_some() || cleared(Clearable::Audience),
            ),
            (
                "workload",
                self.workload.is_some() || cleared(Clearable::Workload),
            ),
            ("name", self.name.is_some()),
            (
                "description",
                self.description.is_some() || cleared(Clearable::Description),
            ),
            (
                "labels",
                !self.labels.is_empty() || cleared(Clearable::Labels),
            ),
        ];
        let named = named.into_iter().filter(|(_, given)| *given);
        named.map(|(field, _)| field.to_owned()).collect()
    }

    fn request(self) -> v1::UpdateTokenRequest {
        let paths = self.mask();
        let extent = if self.all_scopes {
            Some(Extent::All(v1::AllScopes {}))
        } else {
            let scopes = self.scopes;
            (!scopes.is_empty()).then_some(Extent::Only(v1::ScopeList { scopes }))
        };
        let update = v1::TokenUpdate {
            scopes: extent.map(|extent| v1::ScopesInput {
                extent: Some(extent),
            }),
            expires_at: self.expires_at.map(wire_instant),
            not_before: self.not_before.map(wire_instant),
            max_expires_at: self.max_expires_at.map(wire_instant),
            period: self.period.map(wire_duration),
            uses_left: self.uses_left,
            networks: self.networks,
            audience: self.audience.unwrap_or_default(),
            workload: self.workload.unwrap_or_default(),
            name: self.name.unwrap_or_default(),
            description: self.description.unwrap_or_default(),
            labels: self.labels.into_iter().collect(),
        };
        v1::UpdateTokenRequest {
            token_id: self.token_id.unwrap_or_default(),
            update: Some(update),
            update_mask: Some(prost_types::FieldMask { paths }),
            reason: self.reason,
            request_id: self.request.request_id,
        }
    }
}

pub(super) async fn update(args: UpdateArgs, output: Output) -> Result<(), CliError> {
    if args.mask().is_empty() {
        return Err(CliError::usage("nothing to change was given"));
    }
    let mut tokens = args.caller.session().await?.tokens();
    let answer = tokens.update_token(args.request()).await?.into_inner();
    let made = Made::new(answer.revision.as_ref(), answer.enforcement);
    let changed = Changed::new(answer.token, made);
    output.show(&changed, |page| {
        changed.made.page("updated", page);
        changed.token.fields(page);
    })
}

/// How far to move the expiry.
#[derive(Args, Debug)]
pub(crate) struct RenewArgs {
    /// Id of the token; left out, the calling token.
    #[arg(value_name = "TOKEN_ID", value_parser = parse::token_id)]
    token_id: Option<String>,
    /// How far from now; left out, the period or the life it was issued with.
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    ttl: Option<Duration>,
    /// Why; not required.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Wait until every replica has it.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

pub(super) async fn renew(args: RenewArgs, output: Output) -> Result<(), CliError> {
    let token = args.caller.token()?;
    let session = Session::open(&args.caller.server, Some(token.clone())).await?;
    if args.token_id.is_none() && exchange::is_sealed(&token) {
        if args.wait || !args.request.request_id.is_empty() || !args.reason.is_empty() {
            return Err(CliError::usage(
                "a sealed access token has no record: its renewal takes --ttl alone",
            ));
        }
        return exchange::renew(&session, args.ttl, output).await;
    }
    let mut tokens = session.tokens();
    let request = v1::RenewTokenRequest {
        wait_for_replicas: args.wait,
        token_id: args.token_id.unwrap_or_default(),
        ttl: args.ttl.map(wire_duration),
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = tokens.renew_token(request).await?.into_inner();
    let made = Made::new(answer.revision.as_ref(), answer.enforcement);
    let mut changed = Changed::new(answer.token, made);
    changed.clipped = Some(answer.clipped);
    output.show(&changed, |page| {
        let clipped = if answer.clipped {
            " (earlier than asked for: a maximum or an ancestor ends it)"
        } else {
            ""
        };
        page.line(format!("expires {}{clipped}", changed.token.expiry()));
        changed.made.page("renewed", page);
    })
}

/// How to change secrets.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("target").required(true))]
pub(crate) struct RotateArgs {
    /// Id of the token.
    #[arg(value_name = "TOKEN_ID", value_parser = parse::token_id, group = "target")]
    token_id: Option<String>,
    /// The calling token itself.
    #[arg(long = "self", group = "target")]
    itself: bool,
    /// How long the old secret can still be checked.
    #[arg(long, value_name = "DURATION", value_parser = parse::grace, default_value = "0")]
    grace: Duration,
    /// Refuse unless the token was rotated exactly this often.
    #[arg(long, value_name = "N")]
    expected_rotation: Option<u32>,
    /// Print the secret alone on standard output.
    #[arg(long)]
    secret_only: bool,
    /// Why; not required.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

pub(super) async fn rotate(args: RotateArgs, output: Output) -> Result<(), CliError> {
    let mut tokens = args.caller.session().await?.tokens();
    let request = v1::RotateTokenRequest {
        token_id: args.token_id.unwrap_or_default(),
        grace: Some(wire_duration(args.grace)),
        expected_rotation: args.expected_rotation,
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = tokens.rotate_token(request).await?.into_inner();
    let created = Created::new(
        answer.token,
        answer.secret,
        answer.secret_withheld,
        Made::new(answer.revision.as_ref(), answer.enforcement),
    );
    created.show(args.secret_only, output)
}

/// Which token to revoke.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("target").required(true))]
pub(crate) struct RevokeArgs {
    /// Id of the token.
    #[arg(value_name = "TOKEN_ID", value_parser = parse::token_id, group = "target")]
    token_id: Option<String>,
    /// File with the secret of the token, `-` for standard input, for who found one.
    #[arg(long, value_name = "FILE", group = "target")]
    secret_file: Option<PathBuf>,
    /// Id of a sealed access token, or any of its session: the session and what was exchanged
    /// from it.
    #[arg(long, value_name = "TOKEN_ID", value_parser = parse::token_id, group = "target")]
    access_token: Option<String>,
    /// The calling token itself.
    #[arg(long = "self", group = "target")]
    itself: bool,
    /// Somebody else may have had it: revoke also what was issued with it.
    #[arg(long)]
    compromised: bool,
    /// Why; not required to revoke the calling token itself.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

pub(super) async fn revoke(args: RevokeArgs, output: Output) -> Result<(), CliError> {
    let target = match (args.token_id, args.secret_file, args.access_token) {
        (Some(token_id), ..) => Some(Target::TokenId(token_id)),
        (None, Some(file), _) => Some(Target::Secret(read_token(&file)?.to_string())),
        (None, None, token_id) => token_id.map(Target::AccessTokenId),
    };
    let mut tokens = args.caller.session().await?.tokens();
    let request = v1::RevokeTokenRequest {
        target,
        compromised: args.compromised,
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = tokens.revoke_token(request).await?.into_inner();
    let made = Made::new(answer.revision.as_ref(), answer.enforcement);
    let mut changed = Changed::new(answer.token, made);
    changed.already_revoked = Some(answer.already_revoked);
    output.show(&changed, |page| {
        let how = if answer.already_revoked {
            "was revoked before; seen"
        } else {
            "revoked"
        };
        let what = format!("{} {how}", changed.token.token_id());
        changed.made.page(&what, page);
    })
}

/// What to revoke.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("target").required(true))]
pub(crate) struct RevokeAllArgs {
    /// Every token that speaks for this principal, as user:alice.
    #[arg(long, value_name = "NAME", group = "target")]
    subject: Option<String>,
    /// Every token that this principal issued; one that is deleted by its number, as principal:17.
    #[arg(long, value_name = "NAME", group = "target")]
    issued_by_principal: Option<String>,
    /// Every token that was issued with this token.
    #[arg(long, value_name = "TOKEN_ID", value_parser = parse::token_id, group = "target")]
    issued_by_token: Option<String>,
    /// Every resource token for this resource or one below it.
    #[arg(long, value_name = "PATH", group = "target")]
    resource_under: Option<String>,
    /// Every access token that speaks for this service account, or for this principal, as
    /// user:alice; its other tokens and its credentials stay.
    #[arg(long, value_name = "NAME", group = "target")]
    sessions_of: Option<String>,
    /// Every access token that this credential gave, and every token that was issued with one; the
    /// credential stays.
    #[arg(long, value_name = "CREDENTIAL_ID", value_parser = parse::token_id, group = "target")]
    issued_by_credential: Option<String>,
    /// Why; kept in the audit trail.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

pub(super) async fn revoke_all(args: RevokeAllArgs, output: Output) -> Result<(), CliError> {
    let sessions_of = args.sessions_of.as_deref().map(parse::principal_or_service);
    let target = args
        .subject
        .map(CutOff::Subject)
        .or(args.issued_by_principal.map(CutOff::IssuedByPrincipal))
        .or(args.issued_by_token.map(CutOff::IssuedByToken))
        .or(args.resource_under.map(CutOff::ResourceUnder))
        .or(sessions_of.map(CutOff::SessionsOf))
        .or(args.issued_by_credential.map(CutOff::IssuedByCredential));
    let mut tokens = args.caller.session().await?.tokens();
    let request = v1::RevokeAllRequest {
        target,
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = tokens.revoke_all(request).await?.into_inner();
    let made = Made::new(answer.revision.as_ref(), answer.enforcement);
    output.show(&made, |page| {
        made.page("revoked what was made before; cut off", page);
    })
}
