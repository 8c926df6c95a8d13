//! Members of teams: adding, removing, listing.
//!
//! Used by the directory service. Whoever removes a member is told which of the team's tokens it
//! had issued, since it may have kept their secrets.

use tonic::Request;

use crate::authority::list::StoredToken;
use crate::authority::{About, Authority, Command, Credentials, Written};
use crate::domain::principal::PrincipalKind;
use crate::domain::refusal::Refusal;
use crate::proto::v1;

use super::convert::{self, revision, timestamp};
use super::incoming::WriteCall;
use super::page::Asked;
use super::{auth, token_answer};

/// Adds a member.
pub(super) async fn add(
    authority: &Authority,
    request: &Request<v1::AddTeamMemberRequest>,
) -> Result<v1::AddTeamMemberResponse, Refusal> {
    let incoming = WriteCall::of(request)?;
    let asked = request.get_ref();
    let command = Command::AddMember {
        team: convert::principal_of(PrincipalKind::Team, "name", &asked.name)?,
        member: convert::principal("member", &asked.member)?,
    };
    let written = authority.write(incoming.call(), command).await?;
    Ok(v1::AddTeamMemberResponse {
        enforcement: incoming.enforced(authority, &written).await?,
        revision: Some(revision(written.revision)),
    })
}

/// Removes a member.
pub(super) async fn remove(
    authority: &Authority,
    request: &Request<v1::RemoveTeamMemberRequest>,
) -> Result<v1::RemoveTeamMemberResponse, Refusal> {
    let incoming = WriteCall::of(request)?;
    let asked = request.get_ref();
    let command = Command::RemoveMember {
        team: convert::principal_of(PrincipalKind::Team, "name", &asked.name)?,
        member: convert::principal("member", &asked.member)?,
        cut_off_tokens: asked.revoke_tokens,
    };
    let written = authority.write(incoming.call(), command).await?;
    let left = async { Some(tokens_left(authority, incoming.credentials, &written).await) };
    let (enforcement, left) = incoming.settle(authority, &written, left).await?;
    // The member is out; that its tokens cannot be listed now is not that call's failure.
    let (tokens, truncated) = left.unwrap_or((Vec::new(), true));
    Ok(v1::RemoveTeamMemberResponse {
        enforcement,
        revision: Some(revision(written.revision)),
        tokens,
        truncated,
    })
}

// Whole to who may read them or is the one who issued them; else as much as it takes to revoke.
async fn tokens_left(
    authority: &Authority,
    credentials: Credentials<'_>,
    written: &Written,
) -> (Vec<v1::Token>, bool) {
    let About::Member(team, member) = written.about else {
        return (Vec::new(), false);
    };
    let itself = authority.calling_principal(credentials) == Some(member);
    let shown = |token: &StoredToken| {
        if itself || authority.may_read_token(credentials, token) {
            token_answer::whole(authority, token)
        } else {
            token_answer::brief(authority, token)
        }
    };
    match authority.team_tokens_of(team, member).await {
        Ok((tokens, truncated)) => (tokens.iter().map(shown).collect(), truncated),
        Err(_) => (Vec::new(), true),
    }
}

/// A page of members.
pub(super) async fn list(
    authority: &Authority,
    request: &Request<v1::ListTeamMembersRequest>,
) -> Result<v1::ListTeamMembersResponse, Refusal> {
    let page = Asked::<String>::of(request.get_ref())?;
    let team = convert::principal_of(PrincipalKind::Team, "name", &request.get_ref().name)?;
    let credentials = auth::credentials(request)?;
    let head = authority.head();
    let after = page.after.clone();
    let found = authority
        .members(credentials, &team, after, page.limit)
        .await?;
    let members = found.rows.into_iter().map(|row| v1::TeamMember {
        member: row.member.to_string(),
        added_at: Some(timestamp(row.created_ms)),
        added_by: row.added_by,
        added_revision: row.made_at,
    });
    Ok(v1::ListTeamMembersResponse {
        members: members.collect(),
        next_page_token: page.token(found.next.as_ref()),
        revision: Some(revision(head.revision())),
    })
}
