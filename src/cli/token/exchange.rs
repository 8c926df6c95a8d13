//! `latchkey token exchange` and the renewal of sealed access tokens.
//!
//! Both give a new token for the calling one, which lives on. The new one alone is printed, to be
//! kept where the old one was or handed on.

use std::time::Duration;

use clap::Args;

use crate::cli::connect::{CallerArgs, Session};
use crate::cli::failure::CliError;
use crate::cli::output::Output;
use crate::cli::output::access::AccessView;
use crate::cli::parse::{self, wire_duration};
use crate::domain::token::{SECRET_BYTES, TokenKind};
use crate::proto::v1;

use super::issue::scopes;

/// What to hand on.
#[derive(Args, Debug)]
pub(crate) struct ExchangeArgs {
    /// Narrow it to ACTION[,ACTION...]@RESOURCE; may be repeated; none is as far as the calling
    /// token goes.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = parse::scope)]
    scopes: Vec<String>,
    /// How long it lives, never longer than the calling token [default: 15m].
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    ttl: Option<Duration>,
    /// Client network, as CIDR, that it may be used from; may be repeated.
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// The audience that it may be used for.
    #[arg(long, default_value = "", hide_default_value = true)]
    audience: String,
    /// The workload that must present it: a SPIFFE ID or x5t#S256:THUMBPRINT.
    #[arg(long, default_value = "", hide_default_value = true)]
    workload: String,
    #[command(flatten)]
    caller: CallerArgs,
}

pub(super) async fn exchange(args: ExchangeArgs, output: Output) -> Result<(), CliError> {
    let mut logins = args.caller.session().await?.logins();
    let request = v1::ExchangeTokenRequest {
        scopes: Some(scopes(args.scopes)),
        ttl: args.ttl.map(wire_duration),
        networks: args.networks,
        audience: args.audience,
        workload: args.workload,
    };
    let answer = logins.exchange_token(request).await?.into_inner();
    AccessView::from(answer.token).show(output)
}

/// Whether a token has no record, so that a renewal is another token.
pub(super) fn is_sealed(token: &str) -> bool {
    token.starts_with(TokenKind::Access.prefix()) && token.len() > SECRET_BYTES
}

pub(super) async fn renew(
    session: &Session,
    ttl: Option<Duration>,
    output: Output,
) -> Result<(), CliError> {
    let request = v1::RenewAccessTokenRequest {
        ttl: ttl.map(wire_duration),
    };
    let answer = session.logins().renew_access_token(request).await?;
    AccessView::from(answer.into_inner().token).show(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_token_is_known_by_its_form() {
        let check = |token: &str, expected: bool| assert_eq!(is_sealed(token), expected, "{token}");
        let stored = format!("lka_{}", "a".repeat(SECRET_BYTES - 4));
        check(&stored, false);
        check(&format!("{stored}a"), true);
        check(&format!("{stored}a").replace("lka_", "lku_"), false);
        check("", false);
    }
}
