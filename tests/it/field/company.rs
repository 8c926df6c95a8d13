//! What scenes say in few words: who there is, what they hold, what is asked and answered.
//!
//! All by the API. What must work is a panic if it does not; what a scene is about is returned.

use latchkey::proto::v1;
use prost_types::{Duration, FieldMask};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use v1::audit_service_client::AuditServiceClient;
use v1::check_service_client::CheckServiceClient;
use v1::directory_service_client::DirectoryServiceClient;
use v1::revoke_token_request::Target;
use v1::token_service_client::TokenServiceClient;

use super::door::Door;
use crate::wire::{bearer, check};

/// Why everything is done here.
pub(super) const REASON: &str = "scene";

/// A token that was issued.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) id: String,
    pub(super) secret: String,
}

pub(super) fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

/// Scopes by their texts.
pub(super) fn only(scopes: &[&str]) -> v1::ScopesInput {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let list = v1::ScopeList { scopes };
    v1::ScopesInput {
        extent: Some(v1::scopes_input::Extent::Only(list)),
    }
}

fn all() -> v1::ScopesInput {
    v1::ScopesInput {
        extent: Some(v1::scopes_input::Extent::All(v1::AllScopes {})),
    }
}

/// A token that speaks for a principal, by its text.
pub(super) fn token_of(principal: &str) -> v1::IssueTokenRequest {
    let kind = match principal.split_once(':').map(|(kind, _)| kind) {
        Some("user") => v1::TokenKind::User,
        Some("team") => v1::TokenKind::Team,
        _ => v1::TokenKind::Service,
    };
    v1::IssueTokenRequest {
        kind: kind as i32,
        subject: principal.to_owned(),
        scopes: Some(all()),
        name: "scene".to_owned(),
        reason: REASON.to_owned(),
        ..v1::IssueTokenRequest::default()
    }
}

/// A token of a container, a project or an environment.
pub(super) fn resource_token(resource: &str, scopes: &[&str]) -> v1::IssueTokenRequest {
    v1::IssueTokenRequest {
        kind: v1::TokenKind::Resource as i32,
        subject: String::new(),
        resource: resource.to_owned(),
        scopes: Some(only(scopes)),
        ..token_of("user:")
    }
}

/// The reason that a refusal names.
pub(super) fn why(status: &Status) -> String {
    crate::fleet::why(status)
}

/// The permissions that a refusal lists as missing.
pub(super) fn missing(status: &Status) -> Vec<String> {
    let failure = status.get_details_precondition_failure();
    let violations = failure.map(|failure| failure.violations);
    let subjects = violations.into_iter().flatten().map(|one| one.subject);
    subjects.collect()
}

/// Asserts a refusal, by its code and its reason.
#[track_caller]
pub(super) fn refused<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    reason: &str,
) -> Status {
    let status = answer.expect_err("refused");
    assert_eq!(
        (status.code(), why(&status).as_str()),
        (code, reason),
        "{status:?}"
    );
    status
}

impl Door {
    pub(super) fn tokens(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel.clone())
    }

    pub(super) fn directory(&self) -> DirectoryServiceClient<Channel> {
        DirectoryServiceClient::new(self.channel.clone())
    }

    pub(super) fn checks(&self) -> CheckServiceClient<Channel> {
        CheckServiceClient::new(self.channel.clone())
    }

    pub(super) fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone())
    }

    /// Makes a principal at a home.
    pub(super) async fn principal(&self, name: &str, home: &str) {
        let (name, home, reason) = (name.to_owned(), home.to_owned(), REASON.to_owned());
        let mut directory = self.directory();
        match name.split_once(':').map(|(kind, _)| kind) {
            Some("user") => {
                let request = v1::CreateUserRequest {
                    name,
                    home,
                    reason,
                    ..Default::default()
                };
                let made = directory.create_user(bearer(&self.admin, request)).await;
                made.map(drop)
            }
            Some("team") => {
                let request = v1::CreateTeamRequest {
                    name,
                    home,
                    reason,
                    ..Default::default()
                };
                let made = directory.create_team(bearer(&self.admin, request)).await;
                made.map(drop)
            }
            _ => {
                let request = v1::CreateServiceAccountRequest {
                    name,
                    home,
                    reason,
                    ..Default::default()
                };
                let made = directory
                    .create_service_account(bearer(&self.admin, request))
                    .await;
                made.map(drop)
            }
        }
        .expect("made");
    }

    /// Makes a role.
    pub(super) async fn role(&self, name: &str, home: &str, actions: &[&str]) {
        let request = v1::CreateRoleRequest {
            name: name.to_owned(),
            home: home.to_owned(),
            actions: actions.iter().map(|one| (*one).to_owned()).collect(),
            reason: REASON.to_owned(),
            ..v1::CreateRoleRequest::default()
        };
        let made = self
            .directory()
            .create_role(bearer(&self.admin, request))
            .await;
        made.expect("made");
    }

    /// Gives a role; the grant's id.
    pub(super) async fn grant(&self, principal: &str, role: &str, resource: &str) -> String {
        let made = self
            .granted_by(&self.admin, principal, role, resource)
            .await;
        made.expect("granted")
    }

    pub(super) async fn granted_by(
        &self,
        who: &str,
        principal: &str,
        role: &str,
        resource: &str,
    ) -> Result<String, Status> {
        let request = v1::CreateGrantRequest {
            principal: principal.to_owned(),
            role: role.to_owned(),
            resource: resource.to_owned(),
            reason: REASON.to_owned(),
            ..v1::CreateGrantRequest::default()
        };
        let made = self.directory().create_grant(bearer(who, request)).await?;
        Ok(made.into_inner().grant.expect("shown").grant_id)
    }

    /// Takes a grant away.
    pub(super) async fn take_back(&self, grant_id: String) {
        let request = v1::DeleteGrantRequest {
            grant_id,
            reason: REASON.to_owned(),
            ..v1::DeleteGrantRequest::default()
        };
        let done = self
            .directory()
            .delete_grant(bearer(&self.admin, request))
            .await;
        done.expect("taken back");
    }

    /// Puts somebody into a team.
    pub(super) async fn join(&self, team: &str, member: &str) {
        let request = v1::AddTeamMemberRequest {
            name: team.to_owned(),
            member: member.to_owned(),
            reason: REASON.to_owned(),
            ..v1::AddTeamMemberRequest::default()
        };
        let done = self
            .directory()
            .add_team_member(bearer(&self.admin, request))
            .await;
        done.expect("joined");
    }

    /// Takes somebody out of a team; the tokens of the team that they issued.
    pub(super) async fn leave(&self, team: &str, member: &str, revoke: bool) -> Vec<v1::Token> {
        let request = v1::RemoveTeamMemberRequest {
            name: team.to_owned(),
            member: member.to_owned(),
            revoke_tokens: revoke,
            reason: REASON.to_owned(),
            ..v1::RemoveTeamMemberRequest::default()
        };
        let done = self
            .directory()
            .remove_team_member(bearer(&self.admin, request))
            .await;
        done.expect("left").into_inner().tokens
    }

    /// Issues a token.
    pub(super) async fn issued_by(
        &self,
        who: &str,
        asked: v1::IssueTokenRequest,
    ) -> Result<Issued, Status> {
        let answer = self
            .tokens()
            .issue_token(bearer(who, asked))
            .await?
            .into_inner();
        Ok(Issued {
            id: answer.token.expect("shown").token_id,
            secret: answer.secret,
        })
    }

    /// The same by the administrator.
    pub(super) async fn issue(&self, asked: v1::IssueTokenRequest) -> Issued {
        self.issued_by(&self.admin, asked).await.expect("issued")
    }

    /// A token of a principal's own, as a console would have given it.
    pub(super) async fn login(&self, principal: &str) -> String {
        self.issue(token_of(principal)).await.secret
    }

    /// Asks whether a token may do something.
    pub(super) async fn check(&self, secret: &str, needs: &[(&str, &str)]) -> v1::CheckResponse {
        self.asked(check(secret, needs)).await
    }

    pub(super) async fn asked(&self, question: v1::CheckRequest) -> v1::CheckResponse {
        let answer = self.checks().check(question).await;
        answer.expect("answered").into_inner()
    }

    pub(super) async fn allows(&self, secret: &str, action: &str, resource: &str) -> bool {
        let answer = self.check(secret, &[(action, resource)]).await;
        let expected = [v1::Reason::Allowed, v1::Reason::NotPermitted];
        assert!(expected.contains(&answer.reason()), "{answer:?}");
        answer.allowed
    }

    /// Why a token is good or not.
    pub(super) async fn state(&self, secret: &str) -> v1::Reason {
        let answer = self.check(secret, &[]).await;
        assert_eq!(answer.allowed, answer.reason() == v1::Reason::Allowed);
        answer.reason()
    }

    pub(super) async fn shown(&self, who: &str, id: &str) -> Result<v1::Token, Status> {
        let token_id = id.to_owned();
        let request = bearer(who, v1::GetTokenRequest { token_id });
        let answer = self.tokens().get_token(request).await?;
        Ok(answer.into_inner().token.expect("shown"))
    }

    /// Lists tokens, all pages.
    pub(super) async fn listed(
        &self,
        who: &str,
        mut asked: v1::ListTokensRequest,
    ) -> Result<Vec<v1::Token>, Status> {
        let mut all = Vec::new();
        loop {
            let page = self
                .tokens()
                .list_tokens(bearer(who, asked.clone()))
                .await?;
            let page = page.into_inner();
            all.extend(page.tokens);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            asked.page_token = page.next_page_token;
        }
    }

    pub(super) async fn updated(
        &self,
        who: &str,
        id: &str,
        fields: &[&str],
        update: v1::TokenUpdate,
    ) -> Result<v1::Token, Status> {
        let request = v1::UpdateTokenRequest {
            token_id: id.to_owned(),
            update: Some(update),
            update_mask: Some(FieldMask {
                paths: fields.iter().map(|field| (*field).to_owned()).collect(),
            }),
            reason: REASON.to_owned(),
            ..v1::UpdateTokenRequest::default()
        };
        let answer = self.tokens().update_token(bearer(who, request)).await?;
        Ok(answer.into_inner().token.expect("shown"))
    }

    /// Revokes a token by its id.
    pub(super) async fn revoked_by(
        &self,
        who: &str,
        id: &str,
    ) -> Result<v1::RevokeTokenResponse, Status> {
        let request = v1::RevokeTokenRequest {
            target: Some(Target::TokenId(id.to_owned())),
            reason: REASON.to_owned(),
            ..v1::RevokeTokenRequest::default()
        };
        let answer = self.tokens().revoke_token(bearer(who, request)).await?;
        Ok(answer.into_inner())
    }

    /// The same by the administrator.
    pub(super) async fn revoke(&self, id: &str) -> v1::RevokeTokenResponse {
        self.revoked_by(&self.admin, id).await.expect("revoked")
    }

    /// Pauses a service account.
    pub(super) async fn pause(&self, name: &str) {
        let request = v1::DisableServiceAccountRequest {
            name: name.to_owned(),
            reason: REASON.to_owned(),
            ..v1::DisableServiceAccountRequest::default()
        };
        let mut directory = self.directory();
        let request = bearer(&self.admin, request);
        let paused = directory.disable_service_account(request).await;
        paused.expect("paused");
    }

    pub(super) async fn renewed_by(
        &self,
        who: &str,
        asked: v1::RenewTokenRequest,
    ) -> Result<v1::RenewTokenResponse, Status> {
        let answer = self.tokens().renew_token(bearer(who, asked)).await?;
        Ok(answer.into_inner())
    }

    pub(super) async fn who_am_i(&self, who: &str) -> Result<v1::WhoAmIResponse, Status> {
        let answer = self
            .tokens()
            .who_am_i(bearer(who, v1::WhoAmIRequest {}))
            .await?;
        Ok(answer.into_inner())
    }

    /// The kinds of all changes, oldest first, with their reasons and who made them.
    pub(super) async fn log(&self) -> Vec<v1::Change> {
        let request = bearer(&self.admin, v1::ListChangesRequest::default());
        let answer = self.audit().list_changes(request).await;
        answer.expect("listed").into_inner().changes
    }
}
