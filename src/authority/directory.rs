//! Reading the directory: principals, members, roles and grants, one or by the page.
//!
//! Judged at the home of what is read, on the State that the caller was judged on; the rows come
//! from the store. What a caller may not read does not exist for it.

use crate::domain::change::Subject;
use crate::domain::permission::{Permission, Resource, ResourcePattern};
use crate::domain::principal::{GrantId, PrincipalId, PrincipalName, RoleName};
use crate::domain::refusal::Refusal;
use crate::replica::unavailable;
use crate::state::decide::read_action;
use crate::store::list::{
    GrantQuery, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};

use super::{Authority, Credentials, PAGE_MAX, Reader};

impl Authority {
    /// One principal.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] also when the caller may not read it.
    pub async fn principal(
        &self,
        credentials: Credentials<'_>,
        name: &PrincipalName,
    ) -> Result<StoredPrincipal, Refusal> {
        let reader = self.reader(credentials)?;
        reader.may_see(name)?;
        self.stored_principal(name).await
    }

    /// A principal that the caller has just written.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when it is gone again.
    pub async fn stored_principal(&self, name: &PrincipalName) -> Result<StoredPrincipal, Refusal> {
        let query = PrincipalQuery {
            kind: name.kind(),
            name: Some(name.name().to_owned()),
            home_under: None,
            after: None,
            limit: 1,
        };
        let page = self.replica.store().principals(query).await;
        let rows = page.map_err(|error| unavailable(&error))?.rows;
        rows.into_iter()
            .next()
            .ok_or(Refusal::NotFound(name.kind().name()))
    }

    /// A page of principals of one kind.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] with what is missing.
    pub async fn principals(
        &self,
        credentials: Credentials<'_>,
        query: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, Refusal> {
        let reader = self.reader(credentials)?;
        reader.require_under(read_action(query.kind), query.home_under.as_ref())?;
        let page = self.replica.store().principals(query).await;
        page.map_err(|error| unavailable(&error))
    }

    /// The members of a team.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] also when the caller may not read the team.
    pub async fn members(
        &self,
        credentials: Credentials<'_>,
        team: &PrincipalName,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page<StoredMember, String>, Refusal> {
        let reader = self.reader(credentials)?;
        let id = reader.may_see(team)?;
        let query = MemberQuery {
            team: Some(id),
            member: None,
            after,
            limit,
        };
        let page = self.replica.store().members(query).await;
        page.map_err(|error| unavailable(&error))
    }

    /// The teams of a member.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] also when the caller may not read the member.
    pub async fn teams_of(
        &self,
        credentials: Credentials<'_>,
        member: &PrincipalName,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page<StoredMember, String>, Refusal> {
        let reader = self.reader(credentials)?;
        let id = reader.may_see(member)?;
        let query = MemberQuery {
            team: None,
            member: Some(id),
            after,
            limit,
        };
        let page = self.replica.store().members(query).await;
        page.map_err(|error| unavailable(&error))
    }

    /// The team tokens that a member issued, for whoever has just removed it; and whether there
    /// are more than a page of them.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub async fn team_tokens_of(
        &self,
        team: PrincipalId,
        member: PrincipalId,
    ) -> Result<(Vec<StoredToken>, bool), Refusal> {
        let query = TokenQuery {
            subject: Some(team),
            issuer: Some(member),
            now_ms: self.now_ms(),
            limit: PAGE_MAX,
            ..TokenQuery::default()
        };
        let page = self.replica.store().tokens(query).await;
        let page = page.map_err(|error| unavailable(&error))?;
        Ok((page.rows, page.next.is_some()))
    }

    /// One role.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] also when the caller may not read it.
    pub async fn role(
        &self,
        credentials: Credentials<'_>,
        name: &RoleName,
    ) -> Result<StoredRole, Refusal> {
        let reader = self.reader(credentials)?;
        let role = reader.state.role(name).ok_or(Refusal::NotFound("role"))?;
        if !reader.permits("roles:read", &role.home) {
            return Err(Refusal::NotFound("role"));
        }
        self.stored_role(name).await
    }

    /// A role that the caller has just written.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when it is gone again.
    pub async fn stored_role(&self, name: &RoleName) -> Result<StoredRole, Refusal> {
        let query = RoleQuery {
            name: Some(name.clone()),
            limit: 1,
            ..RoleQuery::default()
        };
        let page = self.replica.store().roles(query).await;
        let rows = page.map_err(|error| unavailable(&error))?.rows;
        rows.into_iter().next().ok_or(Refusal::NotFound("role"))
    }

    /// A page of roles.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] with what is missing.
    pub async fn roles(
        &self,
        credentials: Credentials<'_>,
        query: RoleQuery,
    ) -> Result<Page<StoredRole, String>, Refusal> {
        let reader = self.reader(credentials)?;
        reader.require_under("roles:read", query.home_under.as_ref())?;
        let page = self.replica.store().roles(query).await;
        page.map_err(|error| unavailable(&error))
    }

    /// One grant.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] also when the caller may not read it.
    pub async fn grant(
        &self,
        credentials: Credentials<'_>,
        id: GrantId,
    ) -> Result<StoredGrant, Refusal> {
        let reader = self.reader(credentials)?;
        let grant = reader.state.grant(id).ok_or(Refusal::NotFound("grant"))?;
        let own = reader.principal == Some(grant.principal);
        let readable = Permission::known("grants:read", grant.resource.clone());
        if !own && !reader.power().holds(&readable) {
            return Err(Refusal::NotFound("grant"));
        }
        self.stored_grant(id).await
    }

    /// A grant that the caller has just given.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when it is gone again.
    pub async fn stored_grant(&self, id: GrantId) -> Result<StoredGrant, Refusal> {
        let query = GrantQuery {
            id: Some(id.0),
            limit: 1,
            ..GrantQuery::default()
        };
        let page = self.replica.store().grants(query).await;
        let rows = page.map_err(|error| unavailable(&error))?.rows;
        rows.into_iter().next().ok_or(Refusal::NotFound("grant"))
    }

    /// A page of grants, of one principal by name if one is given.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] with what is missing.
    pub async fn grants(
        &self,
        credentials: Credentials<'_>,
        principal: Option<&PrincipalName>,
        query: GrantQuery,
    ) -> Result<Page<StoredGrant, u32>, Refusal> {
        let reader = self.reader(credentials)?;
        let mut query = query;
        match principal {
            Some(name) => {
                let id = reader.may_see(name)?;
                if reader.principal != Some(id) {
                    let home = reader.home(id)?;
                    reader.require("grants:read", ResourcePattern::exactly(&home))?;
                }
                query.principal = Some(id);
            }
            None => reader.require_under("grants:read", query.resource_under.as_ref())?,
        }
        let page = self.replica.store().grants(query).await;
        page.map_err(|error| unavailable(&error))
    }

    /// The name that a principal has now.
    #[must_use]
    pub fn name_of(&self, id: PrincipalId) -> Option<PrincipalName> {
        let state = self.replica.state();
        state.principal(id).map(|record| record.name.clone())
    }
}

impl Reader {
    fn home(&self, id: PrincipalId) -> Result<Resource, Refusal> {
        let record = self.state.principal(id);
        record
            .map(|record| record.home.clone())
            .ok_or(Refusal::NotFound("principal"))
    }

    /// The principal with this name, if the caller may read it: oneself, one's teams, or what
    /// the power permits at its home.
    pub(super) fn may_see(&self, name: &PrincipalName) -> Result<PrincipalId, Refusal> {
        let id = self.named(name)?;
        let own = self.is_own(&Subject::Principal(id));
        if own || self.permits(read_action(name.kind()), &self.home(id)?) {
            Ok(id)
        } else {
            Err(Refusal::NotFound(name.kind().name()))
        }
    }
}
