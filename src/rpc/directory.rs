//! The directory service: users, teams and members, service accounts, roles and grants.
//!
//! The trait that gRPC generates has a method for each message; what they do stands in
//! `principals` (once for the three kinds), `members` and `roles`. Used by the server.

use tonic::Request;

use crate::authority::Authority;
use crate::domain::principal::PrincipalKind;
use crate::proto::v1;
use crate::proto::v1::directory_service_server::DirectoryService;

use super::incoming::{Answer, answer};
use super::{members, principals, roles};

const USER: PrincipalKind = PrincipalKind::User;
const TEAM: PrincipalKind = PrincipalKind::Team;
const SERVICE: PrincipalKind = PrincipalKind::Service;

/// The directory service over an authority.
pub(super) struct DirectoryRpc {
    authority: Authority,
}

impl DirectoryRpc {
    /// The service over an authority.
    pub(super) fn new(authority: Authority) -> Self {
        Self { authority }
    }
}

#[tonic::async_trait]
impl DirectoryService for DirectoryRpc {
    async fn create_user(
        &self,
        request: Request<v1::CreateUserRequest>,
    ) -> Answer<v1::CreateUserResponse> {
        answer(principals::create(&self.authority, USER, &request).await)
    }

    async fn get_user(&self, request: Request<v1::GetUserRequest>) -> Answer<v1::GetUserResponse> {
        answer(principals::one(&self.authority, USER, &request).await)
    }

    async fn list_users(
        &self,
        request: Request<v1::ListUsersRequest>,
    ) -> Answer<v1::ListUsersResponse> {
        answer(principals::list(&self.authority, USER, &request).await)
    }

    async fn update_user(
        &self,
        request: Request<v1::UpdateUserRequest>,
    ) -> Answer<v1::UpdateUserResponse> {
        answer(principals::update(&self.authority, USER, &request).await)
    }

    async fn delete_user(
        &self,
        request: Request<v1::DeleteUserRequest>,
    ) -> Answer<v1::DeleteUserResponse> {
        answer(principals::delete(&self.authority, USER, &request).await)
    }

    async fn disable_user(
        &self,
        request: Request<v1::DisableUserRequest>,
    ) -> Answer<v1::DisableUserResponse> {
        answer(principals::set_disabled(&self.authority, USER, &request, true).await)
    }

    async fn enable_user(
        &self,
        request: Request<v1::EnableUserRequest>,
    ) -> Answer<v1::EnableUserResponse> {
        answer(principals::set_disabled(&self.authority, USER, &request, false).await)
    }

    async fn create_team(
        &self,
        request: Request<v1::CreateTeamRequest>,
    ) -> Answer<v1::CreateTeamResponse> {
        answer(principals::create(&self.authority, TEAM, &request).await)
    }

    async fn get_team(&self, request: Request<v1::GetTeamRequest>) -> Answer<v1::GetTeamResponse> {
        answer(principals::one(&self.authority, TEAM, &request).await)
    }

    async fn list_teams(
        &self,
        request: Request<v1::ListTeamsRequest>,
    ) -> Answer<v1::ListTeamsResponse> {
        answer(principals::list(&self.authority, TEAM, &request).await)
    }

    async fn update_team(
        &self,
        request: Request<v1::UpdateTeamRequest>,
    ) -> Answer<v1::UpdateTeamResponse> {
        answer(principals::update(&self.authority, TEAM, &request).await)
    }

    async fn delete_team(
        &self,
        request: Request<v1::DeleteTeamRequest>,
    ) -> Answer<v1::DeleteTeamResponse> {
        answer(principals::delete(&self.authority, TEAM, &request).await)
    }

    async fn disable_team(
        &self,
        request: Request<v1::DisableTeamRequest>,
    ) -> Answer<v1::DisableTeamResponse> {
        answer(principals::set_disabled(&self.authority, TEAM, &request, true).await)
    }

    async fn enable_team(
        &self,
        request: Request<v1::EnableTeamRequest>,
    ) -> Answer<v1::EnableTeamResponse> {
        answer(principals::set_disabled(&self.authority, TEAM, &request, false).await)
    }

    async fn create_service_account(
        &self,
        request: Request<v1::CreateServiceAccountRequest>,
    ) -> Answer<v1::CreateServiceAccountResponse> {
        answer(principals::create(&self.authority, SERVICE, &request).await)
    }

    async fn get_service_account(
        &self,
        request: Request<v1::GetServiceAccountRequest>,
    ) -> Answer<v1::GetServiceAccountResponse> {
        answer(principals::one(&self.authority, SERVICE, &request).await)
    }

    async fn list_service_accounts(
        &self,
        request: Request<v1::ListServiceAccountsRequest>,
    ) -> Answer<v1::ListServiceAccountsResponse> {
        answer(principals::list(&self.authority, SERVICE, &request).await)
    }

    async fn update_service_account(
        &self,
        request: Request<v1::UpdateServiceAccountRequest>,
    ) -> Answer<v1::UpdateServiceAccountResponse> {
        answer(principals::update(&self.authority, SERVICE, &request).await)
    }

    async fn delete_service_account(
        &self,
        request: Request<v1::DeleteServiceAccountRequest>,
    ) -> Answer<v1::DeleteServiceAccountResponse> {
        answer(principals::delete(&self.authority, SERVICE, &request).await)
    }

    async fn disable_service_account(
        &self,
        request: Request<v1::DisableServiceAccountRequest>,
    ) -> Answer<v1::DisableServiceAccountResponse> {
        answer(principals::set_disabled(&self.authority, SERVICE, &request, true).await)
    }

    async fn enable_service_account(
        &self,
        request: Request<v1::EnableServiceAccountRequest>,
    ) -> Answer<v1::EnableServiceAccountResponse> {
        answer(principals::set_disabled(&self.authority, SERVICE, &request, false).await)
    }

    async fn add_team_member(
        &self,
        request: Request<v1::AddTeamMemberRequest>,
    ) -> Answer<v1::AddTeamMemberResponse> {
        answer(members::add(&self.authority, &request).await)
    }

    async fn remove_team_member(
        &self,
        request: Request<v1::RemoveTeamMemberRequest>,
    ) -> Answer<v1::RemoveTeamMemberResponse> {
        answer(members::remove(&self.authority, &request).await)
    }

    async fn list_team_members(
        &self,
        request: Request<v1::ListTeamMembersRequest>,
    ) -> Answer<v1::ListTeamMembersResponse> {
        answer(members::list(&self.authority, &request).await)
    }

    async fn create_role(
        &self,
        request: Request<v1::CreateRoleRequest>,
    ) -> Answer<v1::CreateRoleResponse> {
        answer(roles::create_role(&self.authority, &request).await)
    }

    async fn get_role(&self, request: Request<v1::GetRoleRequest>) -> Answer<v1::GetRoleResponse> {
        answer(roles::role(&self.authority, &request).await)
    }

    async fn list_roles(
        &self,
        request: Request<v1::ListRolesRequest>,
    ) -> Answer<v1::ListRolesResponse> {
        answer(roles::roles(&self.authority, &request).await)
    }

    async fn update_role(
        &self,
        request: Request<v1::UpdateRoleRequest>,
    ) -> Answer<v1::UpdateRoleResponse> {
        answer(roles::update_role(&self.authority, &request).await)
    }

    async fn delete_role(
        &self,
        request: Request<v1::DeleteRoleRequest>,
    ) -> Answer<v1::DeleteRoleResponse> {
        answer(roles::delete_role(&self.authority, &request).await)
    }

    async fn create_grant(
        &self,
        request: Request<v1::CreateGrantRequest>,
    ) -> Answer<v1::CreateGrantResponse> {
        answer(roles::create_grant(&self.authority, &request).await)
    }

    async fn get_grant(
        &self,
        request: Request<v1::GetGrantRequest>,
    ) -> Answer<v1::GetGrantResponse> {
        answer(roles::grant(&self.authority, &request).await)
    }

    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Answer<v1::ListGrantsResponse> {
        answer(roles::grants(&self.authority, &request).await)
    }

    async fn delete_grant(
        &self,
        request: Request<v1::DeleteGrantRequest>,
    ) -> Answer<v1::DeleteGrantResponse> {
        answer(roles::delete_grant(&self.authority, &request).await)
    }
}
