//! `latchkey user`, `team` and `service`: one set of verbs for the three kinds of principals.
//!
//! A name may be given with or without its kind (`alice`, `user:alice`). Teams have members too.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::failure::CliError;
use crate::cli::output::Output;
use crate::cli::output::made::Made;
use crate::cli::output::record::PrincipalView;
use crate::cli::output::token::TokenView;
use crate::cli::parse;
use crate::domain::principal::PrincipalKind;

use super::calls::Texts;
use super::login_method::{self, LoginMethodCommand};
use super::{
    GetArgs, ListArgs, NamedArgs, PageArgs, WriteArgs, directory, done, listed, shown, written,
};

/// The verbs that every kind has.
#[derive(Debug, Subcommand)]
pub(crate) enum PrincipalCommand {
    /// Create one, which holds nothing yet.
    Create(CreateArgs),
    /// Show one.
    Get(GetArgs),
    /// List them, ordered by name.
    List(ListArgs),
    /// Change the display name, the description or the labels.
    Update(UpdateArgs),
    /// Delete one for good: its tokens are revoked, its grants and memberships removed.
    Delete(NamedArgs),
    /// Pause one: its tokens are denied until it is enabled.
    Disable(NamedArgs),
    /// End the pause.
    Enable(NamedArgs),
}

/// The verbs of teams.
#[derive(Debug, Subcommand)]
pub(crate) enum TeamCommand {
    /// The verbs that every kind has.
    #[command(flatten)]
    Principal(PrincipalCommand),
    /// List the members of a team.
    Members(MembersArgs),
    /// Add a user or a service account to a team.
    AddMember(MemberArgs),
    /// Remove a member, which loses the team's rights at once.
    RemoveMember(RemoveMemberArgs),
}

/// The verbs of service accounts.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// The verbs that every kind has.
    #[command(flatten)]
    Principal(PrincipalCommand),
    /// Say how a service account logs in.
    #[command(subcommand)]
    LoginMethod(LoginMethodCommand),
}

/// What to create.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Its name.
    name: String,
    /// The resource path at which it is managed.
    #[arg(long, value_name = "PATH")]
    home: String,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// Texts of a principal.
#[derive(Args, Debug)]
pub(crate) struct TextArgs {
    /// Its name for people.
    #[arg(long)]
    display_name: Option<String>,
    #[command(flatten)]
    notes: NoteArgs,
}

/// Texts of any record.
#[derive(Args, Debug)]
pub(crate) struct NoteArgs {
    /// What it is.
    #[arg(long)]
    description: Option<String>,
    /// A free label; may be repeated; an update replaces all.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// Remove all labels.
    #[arg(long, conflicts_with = "labels")]
    no_labels: bool,
}

impl From<TextArgs> for Texts {
    fn from(args: TextArgs) -> Self {
        Self {
            display_name: args.display_name,
            ..Self::from(args.notes)
        }
    }
}

impl From<NoteArgs> for Texts {
    fn from(args: NoteArgs) -> Self {
        let given = args.no_labels || !args.labels.is_empty();
        Self {
            display_name: None,
            description: args.description,
            labels: given.then(|| args.labels.into_iter().collect()),
        }
    }
}

/// What to change.
#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    /// Its name.
    name: String,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// The members of which team.
#[derive(Args, Debug)]
pub(crate) struct MembersArgs {
    /// The team's name.
    name: String,
    #[command(flatten)]
    page: PageArgs,
}

/// Which member of which team.
#[derive(Args, Debug)]
pub(crate) struct MemberArgs {
    /// The team's name.
    name: String,
    /// The member, as user:alice or service:ci-runner.
    member: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// Which member to remove.
#[derive(Args, Debug)]
pub(crate) struct RemoveMemberArgs {
    #[command(flatten)]
    member: MemberArgs,
    /// Revoke also the team tokens that the member issued.
    #[arg(long)]
    revoke_tokens: bool,
}

/// Runs one verb on principals of `kind`.
///
/// # Errors
/// What the server refuses, and what cannot be reached or printed.
pub(crate) async fn run(
    kind: PrincipalKind,
    command: PrincipalCommand,
    output: Output,
) -> Result<(), CliError> {
    match command {
        PrincipalCommand::Create(args) => create(kind, args, output).await,
        PrincipalCommand::Get(args) => {
            let name = parse::principal_of(kind, &args.name);
            let mut directory = directory(&args.caller).await?;
            shown(&directory.principal(kind, name).await?, output)
        }
        PrincipalCommand::List(args) => {
            let mut directory = args.page.directory().await?;
            let found = directory
                .principals(kind, &args.home_under, args.page.limit)
                .await?;
            listed(plural(kind), found, output)
        }
        PrincipalCommand::Update(args) => update(kind, args, output).await,
        PrincipalCommand::Delete(args) => {
            let mut directory = args.write.directory().await?;
            let name = parse::principal_of(kind, &args.name);
            let made = directory.delete(kind, name, args.write.why()).await?;
            done("deleted", &made, output)
        }
        PrincipalCommand::Disable(args) => pause(kind, args, true, output).await,
        PrincipalCommand::Enable(args) => pause(kind, args, false, output).await,
    }
}

/// Runs one verb on teams.
///
/// # Errors
/// What the server refuses, and what cannot be reached or printed.
pub(crate) async fn run_team(command: TeamCommand, output: Output) -> Result<(), CliError> {
    match command {
        TeamCommand::Principal(command) => run(PrincipalKind::Team, command, output).await,
        TeamCommand::Members(args) => {
            let mut directory = args.page.directory().await?;
            let found = directory
                .members(&team(&args.name), args.page.limit)
                .await?;
            listed("members", found, output)
        }
        TeamCommand::AddMember(args) => {
            let mut directory = args.write.directory().await?;
            let why = args.write.why();
            let made = directory
                .add_member(team(&args.name), args.member, why)
                .await?;
            done("a member", &made, output)
        }
        TeamCommand::RemoveMember(args) => remove_member(args, output).await,
    }
}

/// Runs one verb on service accounts.
///
/// # Errors
/// What the server refuses, and what cannot be reached or printed.
pub(crate) async fn run_service(command: ServiceCommand, output: Output) -> Result<(), CliError> {
    match command {
        ServiceCommand::Principal(command) => run(PrincipalKind::Service, command, output).await,
        ServiceCommand::LoginMethod(command) => login_method::run(command, output).await,
    }
}

fn team(name: &str) -> String {
    parse::principal_of(PrincipalKind::Team, name)
}

fn plural(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::User => "users",
        PrincipalKind::Team => "teams",
        PrincipalKind::Service => "service_accounts",
    }
}

async fn create(kind: PrincipalKind, args: CreateArgs, output: Output) -> Result<(), CliError> {
    let mut directory = args.write.directory().await?;
    let texts = Texts::from(args.texts);
    let record = PrincipalView {
        name: parse::principal_of(kind, &args.name),
        home: args.home,
        display_name: texts.display_name.unwrap_or_default(),
        description: texts.description.unwrap_or_default(),
        labels: texts.labels.unwrap_or_default(),
        ..PrincipalView::default()
    };
    let created = directory.create(kind, record, args.write.why()).await?;
    written("created", created, output)
}

async fn update(kind: PrincipalKind, args: UpdateArgs, output: Output) -> Result<(), CliError> {
    let texts = Texts::from(args.texts);
    if texts.mask().is_empty() {
        return Err(CliError::usage("nothing to change was given"));
    }
    let mut directory = args.write.directory().await?;
    let name = parse::principal_of(kind, &args.name);
    let why = args.write.why();
    let updated = directory.update(kind, name, texts, why).await?;
    written("updated", updated, output)
}

async fn pause(
    kind: PrincipalKind,
    args: NamedArgs,
    paused: bool,
    output: Output,
) -> Result<(), CliError> {
    let mut directory = args.write.directory().await?;
    let name = parse::principal_of(kind, &args.name);
    let why = args.write.why();
    let done = directory.pause(kind, name, paused, why).await?;
    let what = if paused { "disabled" } else { "enabled" };
    written(what, done, output)
}

#[derive(Serialize)]
struct RemovedMember {
    #[serde(flatten)]
    made: Made,
    /// The team tokens that the member issued.
    tokens: Vec<TokenView>,
    more: bool,
    revoked: bool,
}

async fn remove_member(args: RemoveMemberArgs, output: Output) -> Result<(), CliError> {
    let RemoveMemberArgs {
        member,
        revoke_tokens,
    } = args;
    let mut directory = member.write.directory().await?;
    let why = member.write.why();
    let (tokens, more, made) = directory
        .remove_member(team(&member.name), member.member, revoke_tokens, why)
        .await?;
    let view = RemovedMember {
        made,
        tokens,
        more,
        revoked: revoke_tokens,
    };
    output.show(&view, |page| {
        view.made.page("removed", page);
        if view.tokens.is_empty() {
            return;
        }
        page.line(if view.revoked {
            "team tokens that the member issued, now revoked:"
        } else {
            "team tokens that the member issued, which go on working:"
        });
        page.table(&TokenView::HEADER, view.tokens.iter().map(TokenView::row));
        if view.more {
            page.line("and more; list them with `token list --issuer`");
        }
    })
}
