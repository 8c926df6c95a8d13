//! `latchkey check` and `explain`: may this token do this, and why.
//!
//! The token in question comes from `--token-file` (or, with a warning, from `--token`); who asks
//! is told by LATCHKEY_TOKEN or `--caller-token-file`. Exit codes: 0 allowed, 1 denied, 3 stale or
//! unavailable.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use crate::proto::v1;
use crate::proto::v1::explain_request::Target;

use super::connect::{ServerArgs, Session, TokenText, calling_token, read_token};
use super::failure::{CliError, Exit};
use super::output::change::Explanation;
use super::output::token::Decision;
use super::output::{Output, notice};
use super::parse::{self, AnyKind};

/// What is asked.
#[derive(Args, Debug)]
pub(crate) struct Question {
    /// The action that is needed, for example secrets:read; may be repeated.
    #[arg(long = "action", value_name = "ACTION", requires = "resource")]
    actions: Vec<String>,
    /// The resource that it is needed on.
    #[arg(long, value_name = "PATH", requires = "actions")]
    resource: Option<String>,
    /// A need as ACTION@RESOURCE; may be repeated, and all must be covered.
    #[arg(long = "need", value_name = "NEED", value_parser = parse::need)]
    needs: Vec<v1::Need>,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS")]
    client_ip: Option<String>,
    /// The audience that the token was presented for.
    #[arg(long)]
    audience: Option<String>,
    /// The workload that presented it.
    #[arg(long)]
    workload: Option<String>,
    /// A kind of token that is accepted; may be repeated; none given accepts every kind.
    #[arg(long = "accept", value_enum, value_name = "KIND")]
    accepted: Vec<AnyKind>,
}

impl Question {
    fn needs(&self) -> Result<Vec<v1::Need>, CliError> {
        let resource = self.resource.as_deref().unwrap_or_default();
        let given = self
            .actions
            .iter()
            .map(|action| parse::exact_need(action, resource).map_err(CliError::usage));
        given.chain(self.needs.iter().cloned().map(Ok)).collect()
    }

    fn context(&self) -> v1::Context {
        v1::Context {
            client_ip: self.client_ip.clone(),
            workload: self.workload.clone(),
            audience: self.audience.clone(),
        }
    }

    fn accepted(&self) -> Vec<i32> {
        self.accepted
            .iter()
            .map(|kind| kind.wire() as i32)
            .collect()
    }
}

/// Who asks, and where.
#[derive(Args, Debug)]
pub(crate) struct AskerArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// File with the token of who asks [default: the environment variable LATCHKEY_TOKEN].
    #[arg(long, value_name = "FILE")]
    caller_token_file: Option<PathBuf>,
}

/// A check.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("checked").required(true))]
pub(crate) struct CheckArgs {
    /// File with the token to check, `-` for standard input.
    #[arg(long, value_name = "FILE", group = "checked")]
    token_file: Option<PathBuf>,
    /// The token to check; other users of this machine may see it, so a file is better.
    #[arg(long, value_name = "TOKEN", group = "checked")]
    token: Option<String>,
    #[command(flatten)]
    question: Question,
    /// Decide at this revision or a later one, as a write printed it.
    #[arg(long, value_name = "REVISION", value_parser = parse::revision)]
    at_least: Option<v1::Revision>,
    /// Counts one use however often it is sent.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
    #[command(flatten)]
    asker: AskerArgs,
}

/// An explanation.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("explained").required(true))]
pub(crate) struct ExplainArgs {
    /// Id of the token to explain.
    #[arg(value_name = "TOKEN_ID", value_parser = parse::token_id, group = "explained")]
    token_id: Option<String>,
    /// File with the token to explain, `-` for standard input.
    #[arg(long, value_name = "FILE", group = "explained")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    question: Question,
    /// Explain on the state at this past revision.
    #[arg(long, value_name = "REVISION", value_parser = parse::revision)]
    at_revision: Option<v1::Revision>,
    #[command(flatten)]
    asker: AskerArgs,
}

/// Asks whether the token may do what is needed.
///
/// # Errors
/// Exit 1 when it is denied, 3 when the server is stale or cannot be reached.
pub(crate) async fn check(args: CheckArgs, output: Output) -> Result<(), CliError> {
    let token = checked_token(args.token_file.as_deref(), args.token)?;
    let request = v1::CheckRequest {
        token: token.to_string(),
        needs: args.question.needs()?,
        context: Some(args.question.context()),
        accepted_kinds: args.question.accepted(),
        at_least: args.at_least,
        request_id: args.request_id,
    };
    let mut checks = args.asker.session().await?.checks();
    let answer = checks.check(request).await?.into_inner();
    let stale = answer.reason == v1::Reason::Stale as i32;
    let decision = Decision::from(answer);
    output.show(&decision, |page| decision.page(page))?;
    ended(decision.allowed, stale)
}

/// A denial is an answer, which was printed; a stale server has given none.
fn ended(allowed: bool, stale: bool) -> Result<(), CliError> {
    match (allowed, stale) {
        (true, _) => Ok(()),
        (false, true) => {
            let why = "the server is stale: nothing was decided, ask again";
            Err(CliError::unavailable(why).because("STALE"))
        }
        (false, false) => Err(CliError::told(Exit::Refused)),
    }
}

/// Asks how a check would be decided, step by step.
///
/// # Errors
/// Exit 1 when it would be denied, and what the server refuses.
pub(crate) async fn explain(args: ExplainArgs, output: Output) -> Result<(), CliError> {
    let target = match (args.token_id, args.token_file) {
        (Some(token_id), _) => Some(Target::TokenId(token_id)),
        (None, Some(file)) => Some(Target::Token(read_token(&file)?.to_string())),
        (None, None) => None,
    };
    let request = v1::ExplainRequest {
        target,
        needs: args.question.needs()?,
        context: Some(args.question.context()),
        accepted_kinds: args.question.accepted(),
        at_revision: args.at_revision,
    };
    let mut audit = args.asker.session().await?.audit();
    let answer = audit.explain(request).await?.into_inner();
    let explanation = Explanation::from(answer);
    output.show(&explanation, |page| explanation.page(page))?;
    if explanation.allowed {
        Ok(())
    } else {
        Err(CliError::told(Exit::Refused))
    }
}

impl AskerArgs {
    async fn session(&self) -> Result<Session, CliError> {
        let caller = calling_token(self.caller_token_file.as_deref())?;
        Session::open(&self.server, caller).await
    }
}

fn checked_token(file: Option<&Path>, text: Option<String>) -> Result<TokenText, CliError> {
    if let Some(file) = file {
        return read_token(file);
    }
    notice("warning: a token on the command line can be seen by others; use --token-file");
    Ok(TokenText::new(text.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_answer_is_an_error_and_a_denial_is_none() {
        assert_eq!(ended(true, false), Ok(()));
        let denied = ended(false, false).expect_err("denied");
        assert_eq!((denied.exit(), denied.json()), (Exit::Refused, None));
        let stale = ended(false, true).expect_err("stale");
        assert_eq!(stale.exit(), Exit::Unavailable);
        let said = stale.json().expect("a line");
        assert!(said.starts_with(r#"{"error":{"reason":"STALE","#), "{said}");
    }
}
