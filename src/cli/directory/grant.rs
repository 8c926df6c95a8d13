//! `latchkey grant`: a role given to a principal on a resource pattern.
//!
//! A grant is never changed, only created and deleted.

use clap::{Args, Subcommand};

use crate::cli::connect::CallerArgs;
use crate::cli::failure::CliError;
use crate::cli::output::Output;
use crate::cli::output::made::Made;
use crate::cli::output::record::GrantView;
use crate::proto::v1;

use super::calls::{Directory, PAGE_SIZE_MAX, Why, pages};
use super::{PageArgs, WriteArgs, directory, done, listed, shown, written};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum GrantCommand {
    /// Give a role to a principal on a resource pattern.
    Create(CreateArgs),
    /// Show a grant.
    Get(GetArgs),
    /// List grants, the oldest first.
    List(ListArgs),
    /// Take a grant away, at once.
    Delete(DeleteArgs),
}

/// What to create.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// The principal, as user:alice, team:platform or service:ci-runner.
    #[arg(long, value_name = "NAME")]
    principal: String,
    /// The role's name.
    #[arg(long, value_name = "NAME")]
    role: String,
    /// The resource pattern, for example acme/web/**.
    #[arg(long, value_name = "PATTERN")]
    resource: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// Which grant.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// Its id.
    grant_id: String,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Which grants; all that are given must fit.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Grants to this principal itself.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    principal: String,
    /// Grants of this role.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    role: String,
    /// Grants whose pattern lies wholly at or below this path.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "",
        hide_default_value = true
    )]
    resource_under: String,
    #[command(flatten)]
    page: PageArgs,
}

/// Which grant, to be deleted.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Its id.
    grant_id: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs one verb.
///
/// # Errors
/// What the server refuses, and what cannot be reached or printed.
pub(crate) async fn run(command: GrantCommand, output: Output) -> Result<(), CliError> {
    match command {
        GrantCommand::Create(args) => {
            let mut directory = args.write.directory().await?;
            let why = args.write.why();
            let created = directory
                .create_grant(args.principal, args.role, args.resource, why)
                .await?;
            written("granted", created, output)
        }
        GrantCommand::Get(args) => {
            let grant = directory(&args.caller).await?.grant(args.grant_id).await?;
            shown(&grant, output)
        }
        GrantCommand::List(args) => {
            let filter = v1::ListGrantsRequest {
                principal: args.principal,
                role: args.role,
                resource_under: args.resource_under,
                ..v1::ListGrantsRequest::default()
            };
            let mut directory = args.page.directory().await?;
            let found = directory.grants(filter, args.page.limit).await?;
            listed("grants", found, output)
        }
        GrantCommand::Delete(args) => {
            let mut directory = args.write.directory().await?;
            let why = args.write.why();
            let made = directory.delete_grant(args.grant_id, why).await?;
            done("deleted", &made, output)
        }
    }
}

impl Directory {
    /// Creates a grant; answers it and the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn create_grant(
        &mut self,
        principal: String,
        role: String,
        resource: String,
        why: Why,
    ) -> Result<(GrantView, Made), CliError> {
        let request = v1::CreateGrantRequest {
            wait_for_replicas: why.wait,
            principal,
            role,
            resource,
            reason: why.reason,
            request_id: why.request_id,
        };
        let answer = self.client.create_grant(request).await?.into_inner();
        let made = Made::new(answer.revision.as_ref(), answer.enforcement);
        Ok((answer.grant.unwrap_or_default().into(), made))
    }

    /// One grant.
    ///
    /// # Errors
    /// What the server refuses, also that there is none.
    pub(crate) async fn grant(&mut self, grant_id: String) -> Result<GrantView, CliError> {
        let request = v1::GetGrantRequest { grant_id };
        let answer = self.client.get_grant(request).await?.into_inner();
        Ok(answer.grant.unwrap_or_default().into())
    }

    /// Grants that fit `filter`, whose paging is set here.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn grants(
        &mut self,
        filter: v1::ListGrantsRequest,
        limit: usize,
    ) -> Result<(Vec<GrantView>, bool), CliError> {
        Ok(pages!(limit, |page_size, page_token| {
            let request = v1::ListGrantsRequest {
                page_size,
                page_token,
                ..filter.clone()
            };
            let answer = self.client.list_grants(request).await?.into_inner();
            let grants = answer.grants.into_iter().map(GrantView::from);
            (grants.collect::<Vec<_>>(), answer.next_page_token)
        }))
    }

    /// Deletes a grant; answers the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn delete_grant(
        &mut self,
        grant_id: String,
        why: Why,
    ) -> Result<Made, CliError> {
        let request = v1::DeleteGrantRequest {
            grant_id,
            reason: why.reason,
            request_id: why.request_id,
        };
        let answer = self.client.delete_grant(request).await?.into_inner();
        Ok(Made::new(answer.revision.as_ref(), answer.enforcement))
    }
}
