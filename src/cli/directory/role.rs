//! `latchkey role`: named sets of action patterns; a preset is a role.
//!
//! An update that adds an action hands it on wherever the role is granted, and is judged so.

use clap::{Args, Subcommand};
use prost_types::FieldMask;
use tonic::Status;

use crate::cli::failure::CliError;
use crate::cli::output::Output;
use crate::cli::output::made::Made;
use crate::cli::output::record::RoleView;
use crate::proto::v1;

use super::calls::{Directory, PAGE_SIZE_MAX, Texts, Why, if_any, pages};
use super::principal::NoteArgs;
use super::{GetArgs, ListArgs, NamedArgs, WriteArgs, directory, done, listed, shown, written};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// Create a role.
    Create(CreateArgs),
    /// Show a role.
    Get(GetArgs),
    /// List roles, ordered by name.
    List(ListArgs),
    /// Change the actions or the texts of a role; its grants follow at once.
    Update(UpdateArgs),
    /// Delete a role that is granted nowhere.
    Delete(NamedArgs),
}

/// What to create.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Its name.
    name: String,
    /// The resource path at which it is managed.
    #[arg(long, value_name = "PATH")]
    home: String,
    /// An action pattern that it gives; may be repeated.
    #[arg(long = "action", value_name = "ACTION", required = true)]
    actions: Vec<String>,
    #[command(flatten)]
    texts: NoteArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// What to change.
#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    /// Its name.
    name: String,
    /// An action pattern; may be repeated, and replaces all those before.
    #[arg(long = "action", value_name = "ACTION")]
    actions: Vec<String>,
    #[command(flatten)]
    texts: NoteArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs one verb.
///
/// # Errors
/// What the server refuses, and what cannot be reached or printed.
pub(crate) async fn run(command: RoleCommand, output: Output) -> Result<(), CliError> {
    match command {
        RoleCommand::Create(args) => {
            let texts = Texts::from(args.texts);
            let role = RoleView {
                name: args.name,
                home: args.home,
                actions: args.actions,
                description: texts.description.unwrap_or_default(),
                labels: texts.labels.unwrap_or_default(),
                ..RoleView::default()
            };
            let mut directory = args.write.directory().await?;
            let created = directory.create_role(role, args.write.why()).await?;
            written("created", created, output)
        }
        RoleCommand::Get(args) => {
            let role = directory(&args.caller).await?.role(args.name).await?;
            shown(&role, output)
        }
        RoleCommand::List(args) => {
            let mut directory = args.page.directory().await?;
            let found = directory.roles(&args.home_under, args.page.limit).await?;
            listed("roles", found, output)
        }
        RoleCommand::Update(args) => {
            let texts = Texts::from(args.texts);
            let actions = (!args.actions.is_empty()).then_some(args.actions);
            if actions.is_none() && texts.mask().is_empty() {
                return Err(CliError::usage("nothing to change was given"));
            }
            let mut directory = args.write.directory().await?;
            let why = args.write.why();
            let updated = directory
                .update_role(args.name, actions, texts, why)
                .await?;
            written("updated", updated, output)
        }
        RoleCommand::Delete(args) => {
            let mut directory = args.write.directory().await?;
            let made = directory.delete_role(args.name, args.write.why()).await?;
            done("deleted", &made, output)
        }
    }
}

impl Directory {
    /// Creates a role; answers it and the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn create_role(
        &mut self,
        role: RoleView,
        why: Why,
    ) -> Result<(RoleView, Made), CliError> {
        let request = v1::CreateRoleRequest {
            wait_for_replicas: why.wait,
            name: role.name,
            home: role.home,
            actions: role.actions,
            description: role.description,
            labels: role.labels.into_iter().collect(),
            reason: why.reason,
            request_id: why.request_id,
        };
        let answer = self.client.create_role(request).await?.into_inner();
        let made = Made::new(answer.revision.as_ref(), answer.enforcement);
        Ok((answer.role.unwrap_or_default().into(), made))
    }

    /// One role.
    ///
    /// # Errors
    /// What the server refuses, also that there is none.
    pub(crate) async fn role(&mut self, name: String) -> Result<RoleView, CliError> {
        Ok(self.one_role(name).await?)
    }

    /// One role; none when there is none that the caller may read.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn role_if_any(&mut self, name: String) -> Result<Option<RoleView>, CliError> {
        if_any(self.one_role(name).await)
    }

    async fn one_role(&mut self, name: String) -> Result<RoleView, Status> {
        let answer = self.client.get_role(v1::GetRoleRequest { name }).await?;
        Ok(answer.into_inner().role.unwrap_or_default().into())
    }

    /// Roles whose home is at or below a path; empty is everywhere.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn roles(
        &mut self,
        home_under: &str,
        limit: usize,
    ) -> Result<(Vec<RoleView>, bool), CliError> {
        Ok(pages!(limit, |page_size, page_token| {
            let request = v1::ListRolesRequest {
                home_under: home_under.to_owned(),
                page_size,
                page_token,
            };
            let answer = self.client.list_roles(request).await?.into_inner();
            let roles = answer.roles.into_iter().map(RoleView::from);
            (roles.collect::<Vec<_>>(), answer.next_page_token)
        }))
    }

    /// Changes the actions and texts that are given.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn update_role(
        &mut self,
        name: String,
        actions: Option<Vec<String>>,
        texts: Texts,
        why: Why,
    ) -> Result<(RoleView, Made), CliError> {
        let mut paths = texts.mask();
        if actions.is_some() {
            paths.push("actions".to_owned());
        }
        let role = v1::Role {
            name,
            actions: actions.unwrap_or_default(),
            description: texts.description.unwrap_or_default(),
            labels: texts.labels.unwrap_or_default().into_iter().collect(),
            ..v1::Role::default()
        };
        let request = v1::UpdateRoleRequest {
            role: Some(role),
            update_mask: Some(FieldMask { paths }),
            reason: why.reason,
            request_id: why.request_id,
        };
        let answer = self.client.update_role(request).await?.into_inner();
        let made = Made::new(answer.revision.as_ref(), answer.enforcement);
        Ok((answer.role.unwrap_or_default().into(), made))
    }

    /// Deletes a role; answers the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn delete_role(&mut self, name: String, why: Why) -> Result<Made, CliError> {
        let request = v1::DeleteRoleRequest {
            name,
            reason: why.reason,
            request_id: why.request_id,
        };
        let answer = self.client.delete_role(request).await?.into_inner();
        Ok(Made::new(answer.revision.as_ref(), answer.enforcement))
    }
}
