//! `latchkey token list`, `show` and `whoami`: what is known of tokens, never their secrets.
//!
//! A list follows the server's pages up to `--limit` and says when there is more.

use clap::Args;
use serde::Serialize;

use crate::cli::connect::CallerArgs;
use crate::cli::failure::CliError;
use crate::cli::output::token::{TokenView, permission};
use crate::cli::output::{Output, notice, revision};
use crate::cli::parse::{self, AnyKind, State};
use crate::proto::v1;

/// The most that one call asks for.
const PAGE_SIZE_MAX: u32 = 1_000;

/// Which tokens; all that are given must fit.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Tokens that speak for this principal, as user:alice.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    subject: String,
    /// Tokens that this principal issued.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    issuer: String,
    /// Tokens that were issued with this token.
    #[arg(long, value_name = "TOKEN_ID", value_parser = parse::token_id)]
    issuer_token_id: Option<String>,
    /// Tokens that are derived from this token, directly.
    #[arg(long, value_name = "TOKEN_ID", value_parser = parse::token_id)]
    parent_token_id: Option<String>,
    /// Resource tokens for this resource or one below it.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "",
        hide_default_value = true
    )]
    resource_under: String,
    /// Tokens of this kind.
    #[arg(long, value_enum)]
    kind: Option<AnyKind>,
    /// Tokens in this state.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Tokens that have this label, whatever its value or with this one.
    #[arg(
        long,
        value_name = "KEY[=VALUE]",
        default_value = "",
        hide_default_value = true
    )]
    label: String,
    /// The most to list.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    caller: CallerArgs,
}

#[derive(Serialize)]
struct TokenList {
    tokens: Vec<TokenView>,
    /// Whether there are more than `--limit`.
    more: bool,
    revision: String,
}

pub(super) async fn list(args: ListArgs, output: Output) -> Result<(), CliError> {
    let mut client = args.caller.session().await?.tokens();
    let limit = args.limit as usize;
    let mut request = v1::ListTokensRequest {
        subject: args.subject,
        issuer: args.issuer,
        issuer_token_id: args.issuer_token_id.unwrap_or_default(),
        parent_token_id: args.parent_token_id.unwrap_or_default(),
        resource_under: args.resource_under,
        kind: args.kind.map_or(0, |kind| kind.wire() as i32),
        state: args.state.map_or(0, |state| state.wire() as i32),
        label: args.label,
        page_size: args.limit.clamp(1, PAGE_SIZE_MAX),
        page_token: String::new(),
    };
    let mut tokens = Vec::new();
    let list = loop {
        let answer = client.list_tokens(request.clone()).await?.into_inner();
        tokens.extend(answer.tokens.into_iter().map(TokenView::from));
        let end = answer.next_page_token.is_empty();
        if end || tokens.len() >= limit {
            let more = !end || tokens.len() > limit;
            tokens.truncate(limit);
            let revision = revision(answer.revision.as_ref());
            break TokenList {
                tokens,
                more,
                revision,
            };
        }
        request.page_token = answer.next_page_token;
    };
    output.show(&list, |page| {
        page.table(&TokenView::HEADER, list.tokens.iter().map(TokenView::row));
    })?;
    if list.more {
        notice("there are more; raise --limit to see them");
    }
    Ok(())
}

/// Which token.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Id of the token; left out, the calling token.
    #[arg(value_name = "TOKEN_ID", value_parser = parse::token_id)]
    token_id: Option<String>,
    #[command(flatten)]
    caller: CallerArgs,
}

pub(super) async fn show(args: ShowArgs, output: Output) -> Result<(), CliError> {
    let mut tokens = args.caller.session().await?.tokens();
    let request = v1::GetTokenRequest {
        token_id: args.token_id.unwrap_or_default(),
    };
    let answer = tokens.get_token(request).await?.into_inner();
    let view = TokenView::from(answer.token.unwrap_or_default());
    output.show(&view, |page| view.fields(page))
}

/// Who asks.
#[derive(Args, Debug)]
pub(crate) struct WhoamiArgs {
    #[command(flatten)]
    caller: CallerArgs,
}

/// Who the calling token is.
#[derive(Serialize)]
pub(crate) struct Identity {
    #[serde(flatten)]
    token: TokenView,
    permissions: Vec<String>,
    truncated: bool,
    revision: String,
}

impl From<v1::WhoAmIResponse> for Identity {
    fn from(answer: v1::WhoAmIResponse) -> Self {
        Self {
            token: TokenView::from(answer.token.unwrap_or_default()),
            permissions: answer.permissions.iter().map(permission).collect(),
            truncated: answer.truncated,
            revision: revision(answer.revision.as_ref()),
        }
    }
}

pub(super) async fn whoami(args: WhoamiArgs, output: Output) -> Result<(), CliError> {
    let mut tokens = args.caller.session().await?.tokens();
    let answer = tokens.who_am_i(v1::WhoAmIRequest {}).await?;
    let identity = Identity::from(answer.into_inner());
    output.show(&identity, |page| {
        identity.token.fields(page);
        page.line("may now:");
        for permission in &identity.permissions {
            page.line(format!("  {permission}"));
        }
        if identity.permissions.is_empty() {
            page.line("  nothing");
        }
        if identity.truncated {
            page.line("  and more");
        }
    })
}
