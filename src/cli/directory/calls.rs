//! The calls of the directory service, with views instead of messages.
//!
//! Used by the directory's verbs and by `apply`. One [`Directory`] is one connection; the kind of
//! principal chooses the call, since users, teams and service accounts have calls of their own.
//! Lists follow the server's pages up to a limit that the caller names.

use std::collections::BTreeMap;

use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::cli::connect::{Session, Wire};
use crate::cli::failure::CliError;
use crate::cli::output::made::Made;
use crate::cli::output::record::{MemberView, PrincipalView};
use crate::cli::output::token::TokenView;
use crate::domain::login::LoginMethod;
use crate::domain::principal::PrincipalKind;
use crate::proto::v1;
use crate::proto::v1::credential_service_client::CredentialServiceClient;
use crate::proto::v1::directory_service_client::DirectoryServiceClient;

/// The most that one call asks for.
pub(super) const PAGE_SIZE_MAX: usize = 1_000;

/// Why a write is made, and its request id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Why {
    /// The reason.
    pub reason: String,
    /// The request id; may be empty.
    pub request_id: String,
    /// Whether to wait for every replica, also where it only adds something.
    pub wait: bool,
}

/// The texts of a record; in an update only what is given counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    /// The name for people.
    pub display_name: Option<String>,
    /// What it is.
    pub description: Option<String>,
    /// Free labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
}

impl Texts {
    /// Names of what is given, as an update's mask.
    #[must_use]
    pub(crate) fn mask(&self) -> Vec<String> {
        let given = [
            ("display_name", self.display_name.is_some()),
            ("description", self.description.is_some()),
            ("labels", self.labels.is_some()),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        given.map(|(field, _)| field.to_owned()).collect()
    }
}

/// One connection to the directory.
pub(crate) struct Directory {
    pub(super) client: Client,
    credentials: CredentialServiceClient<Wire>,
}

pub(super) type Client = DirectoryServiceClient<Wire>;

/// The calls of one kind of principal, which differ from those of the others in names alone.
macro_rules! principal_calls {
    ($module:ident, $message:ident, $one:ident, $many:ident,
     $create:ident $create_request:ident, $get:ident $get_request:ident,
     $list:ident $list_request:ident, $update:ident $update_request:ident,
     $delete:ident $delete_request:ident, $disable:ident $disable_request:ident,
     $enable:ident $enable_request:ident) => {
        mod $module {
            use super::*;

            pub(super) async fn create(
                client: &mut Client,
                record: PrincipalView,
                why: Why,
            ) -> Result<(PrincipalView, Made), CliError> {
                let request = v1::$create_request {
                    wait_for_replicas: why.wait,
                    name: record.name,
                    home: record.home,
                    display_name: record.display_name,
                    description: record.description,
                    labels: record.labels.into_iter().collect(),
                    reason: why.reason,
                    request_id: why.request_id,
                };
                let answer = client.$create(request).await?.into_inner();
                let made = Made::new(answer.revision.as_ref(), answer.enforcement);
                Ok((answer.$one.unwrap_or_default().into(), made))
            }

            pub(super) async fn one(
                client: &mut Client,
                name: String,
            ) -> Result<PrincipalView, Status> {
                let answer = client.$get(v1::$get_request { name }).await?.into_inner();
                Ok(answer.$one.unwrap_or_default().into())
            }

            pub(super) async fn page(
                client: &mut Client,
                home_under: String,
                page_size: u32,
                page_token: String,
            ) -> Result<(Vec<PrincipalView>, String), CliError> {
                // Teams alone have one filter more.
                #[allow(clippy::needless_update)]
                let request = v1::$list_request {
                    home_under,
                    page_size,
                    page_token,
                    ..Default::default()
                };
                let answer = client.$list(request).await?.into_inner();
                let records = answer.$many.into_iter().map(PrincipalView::from);
                Ok((records.collect(), answer.next_page_token))
            }

            pub(super) async fn update(
                client: &mut Client,
                name: String,
                texts: Texts,
                why: Why,
            ) -> Result<(PrincipalView, Made), CliError> {
                let paths = texts.mask();
                let record = v1::$message {
                    name,
                    display_name: texts.display_name.unwrap_or_default(),
                    description: texts.description.unwrap_or_default(),
                    labels: texts.labels.unwrap_or_default().into_iter().collect(),
                    ..Default::default()
                };
                let request = v1::$update_request {
                    $one: Some(record),
                    update_mask: Some(FieldMask { paths }),
                    reason: why.reason,
                    request_id: why.request_id,
                };
                let answer = client.$update(request).await?.into_inner();
                let made = Made::new(answer.revision.as_ref(), answer.enforcement);
                Ok((answer.$one.unwrap_or_default().into(), made))
            }

            pub(super) async fn delete(
                client: &mut Client,
                name: String,
                why: Why,
            ) -> Result<Made, CliError> {
                let request = v1::$delete_request {
                    name,
                    reason: why.reason,
                    request_id: why.request_id,
                };
                let answer = client.$delete(request).await?.into_inner();
                Ok(Made::new(answer.revision.as_ref(), answer.enforcement))
            }

            pub(super) async fn pause(
                client: &mut Client,
                name: String,
                paused: bool,
                why: Why,
            ) -> Result<(PrincipalView, Made), CliError> {
                let Why {
                    reason,
                    request_id,
                    wait,
                } = why;
                let (record, at, enforcement) = if paused {
                    let request = v1::$disable_request {
                        name,
                        reason,
                        request_id,
                    };
                    let answer = client.$disable(request).await?.into_inner();
                    (answer.$one, answer.revision, answer.enforcement)
                } else {
                    let request = v1::$enable_request {
                        wait_for_replicas: wait,
                        name,
                        reason,
                        request_id,
                    };
                    let answer = client.$enable(request).await?.into_inner();
                    (answer.$one, answer.revision, answer.enforcement)
                };
                let made = Made::new(at.as_ref(), enforcement);
                Ok((record.unwrap_or_default().into(), made))
            }
        }
    };
}

principal_calls!(
    users, User, user, users,
    create_user CreateUserRequest, get_user GetUserRequest,
    list_users ListUsersRequest, update_user UpdateUserRequest,
    delete_user DeleteUserRequest, disable_user DisableUserRequest,
    enable_user EnableUserRequest
);

principal_calls!(
    teams, Team, team, teams,
    create_team CreateTeamRequest, get_team GetTeamRequest,
    list_teams ListTeamsRequest, update_team UpdateTeamRequest,
    delete_team DeleteTeamRequest, disable_team DisableTeamRequest,
    enable_team EnableTeamRequest
);

principal_calls!(
    services, ServiceAccount, service_account, service_accounts,
    create_service_account CreateServiceAccountRequest, get_service_account GetServiceAccountRequest,
    list_service_accounts ListServiceAccountsRequest, update_service_account UpdateServiceAccountRequest,
    delete_service_account DeleteServiceAccountRequest, disable_service_account DisableServiceAccountRequest,
    enable_service_account EnableServiceAccountRequest
);

/// Calls the function of that name in the module of the kind.
macro_rules! of_kind {
    ($kind:expr, $verb:ident($($argument:expr),*)) => {
        match $kind {
            PrincipalKind::User => users::$verb($($argument),*).await,
            PrincipalKind::Team => teams::$verb($($argument),*).await,
            PrincipalKind::Service => services::$verb($($argument),*).await,
        }
    };
}

/// Follows pages until the end or until there are more than `$limit`; says whether there are.
macro_rules! pages {
    ($limit:expr, |$size:ident, $token:ident| $page:expr) => {{
        let limit: usize = $limit;
        let mut found = Vec::new();
        let mut $token = String::new();
        loop {
            let $size = u32::try_from(limit.clamp(1, PAGE_SIZE_MAX)).unwrap_or(1);
            let (records, next) = $page;
            found.extend(records);
            if next.is_empty() || found.len() >= limit {
                let more = !next.is_empty() || found.len() > limit;
                found.truncate(limit);
                break (found, more);
            }
            $token = next;
        }
    }};
}

pub(crate) use pages;

impl Directory {
    /// The directory at the end of `session`.
    #[must_use]
    pub(crate) fn new(session: &Session) -> Self {
        Self {
            client: session.directory(),
            credentials: session.credentials(),
        }
    }

    /// Creates a principal; answers it and the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn create(
        &mut self,
        kind: PrincipalKind,
        record: PrincipalView,
        why: Why,
    ) -> Result<(PrincipalView, Made), CliError> {
        of_kind!(kind, create(&mut self.client, record, why))
    }

    /// One principal.
    ///
    /// # Errors
    /// What the server refuses, also that there is none.
    pub(crate) async fn principal(
        &mut self,
        kind: PrincipalKind,
        name: String,
    ) -> Result<PrincipalView, CliError> {
        Ok(of_kind!(kind, one(&mut self.client, name))?)
    }

    /// One principal; none when there is none that the caller may read.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn principal_if_any(
        &mut self,
        kind: PrincipalKind,
        name: String,
    ) -> Result<Option<PrincipalView>, CliError> {
        if_any(of_kind!(kind, one(&mut self.client, name)))
    }

    /// Principals whose home is at or below a path; empty is everywhere.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn principals(
        &mut self,
        kind: PrincipalKind,
        home_under: &str,
        limit: usize,
    ) -> Result<(Vec<PrincipalView>, bool), CliError> {
        Ok(pages!(limit, |size, token| {
            of_kind!(
                kind,
                page(&mut self.client, home_under.to_owned(), size, token)
            )?
        }))
    }

    /// Changes the texts that are given.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn update(
        &mut self,
        kind: PrincipalKind,
        name: String,
        texts: Texts,
        why: Why,
    ) -> Result<(PrincipalView, Made), CliError> {
        of_kind!(kind, update(&mut self.client, name, texts, why))
    }

    /// Deletes a principal; answers the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn delete(
        &mut self,
        kind: PrincipalKind,
        name: String,
        why: Why,
    ) -> Result<Made, CliError> {
        of_kind!(kind, delete(&mut self.client, name, why))
    }

    /// Disables (`paused`) or enables a principal.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn pause(
        &mut self,
        kind: PrincipalKind,
        name: String,
        paused: bool,
        why: Why,
    ) -> Result<(PrincipalView, Made), CliError> {
        of_kind!(kind, pause(&mut self.client, name, paused, why))
    }

    /// Members of a team.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn members(
        &mut self,
        team: &str,
        limit: usize,
    ) -> Result<(Vec<MemberView>, bool), CliError> {
        Ok(pages!(limit, |page_size, page_token| {
            let request = v1::ListTeamMembersRequest {
                name: team.to_owned(),
                page_size,
                page_token,
            };
            let answer = self.client.list_team_members(request).await?.into_inner();
            let members = answer.members.into_iter().map(MemberView::from);
            (members.collect::<Vec<_>>(), answer.next_page_token)
        }))
    }

    /// Adds a member to a team; answers the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn add_member(
        &mut self,
        team: String,
        member: String,
        why: Why,
    ) -> Result<Made, CliError> {
        let request = v1::AddTeamMemberRequest {
            wait_for_replicas: why.wait,
            name: team,
            member,
            reason: why.reason,
            request_id: why.request_id,
        };
        let answer = self.client.add_team_member(request).await?.into_inner();
        Ok(Made::new(answer.revision.as_ref(), answer.enforcement))
    }

    /// Removes a member; answers the team tokens that it issued, whether there are more of them,
    /// and the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn remove_member(
        &mut self,
        team: String,
        member: String,
        revoke_tokens: bool,
        why: Why,
    ) -> Result<(Vec<TokenView>, bool, Made), CliError> {
        let request = v1::RemoveTeamMemberRequest {
            name: team,
            member,
            revoke_tokens,
            reason: why.reason,
            request_id: why.request_id,
        };
        let answer = self.client.remove_team_member(request).await?.into_inner();
        let tokens = answer.tokens.into_iter().map(TokenView::from).collect();
        let made = Made::new(answer.revision.as_ref(), answer.enforcement);
        Ok((tokens, answer.truncated, made))
    }
}

impl Directory {
    /// How a service account logs in.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn login_methods(
        &mut self,
        service_account: String,
    ) -> Result<Vec<v1::LoginMethod>, CliError> {
        let request = v1::GetLoginMethodsRequest { service_account };
        let answer = self.credentials.get_login_methods(request).await?;
        Ok(answer.into_inner().methods)
    }

    /// Sets a login method with all its settings; answers the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn set_login_method(
        &mut self,
        service_account: String,
        method: LoginMethod,
        settings: v1::LoginSettings,
        why: Why,
    ) -> Result<Made, CliError> {
        let request = v1::SetLoginMethodRequest {
            service_account,
            kind: method as i32,
            settings: Some(settings),
            reason: why.reason,
            request_id: why.request_id,
        };
        let answer = self.credentials.set_login_method(request).await?;
        let answer = answer.into_inner();
        Ok(Made::new(answer.revision.as_ref(), answer.enforcement))
    }

    /// Removes a login method; answers the change.
    ///
    /// # Errors
    /// What the server refuses.
    pub(crate) async fn remove_login_method(
        &mut self,
        service_account: String,
        method: LoginMethod,
        why: Why,
    ) -> Result<Made, CliError> {
        let request = v1::RemoveLoginMethodRequest {
            service_account,
            kind: method as i32,
            reason: why.reason,
            request_id: why.request_id,
        };
        let answer = self.credentials.remove_login_method(request).await?;
        let answer = answer.into_inner();
        Ok(Made::new(answer.revision.as_ref(), answer.enforcement))
    }
}

/// None for an answer that there is no such thing.
pub(super) fn if_any<T>(answer: Result<T, Status>) -> Result<Option<T>, CliError> {
    match answer {
        Ok(record) => Ok(Some(record)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}
