//! Records of the directory as they are printed: principals, members, roles and grants.
//!
//! The three kinds of principals have the same fields and are one [`PrincipalView`]. The views are
//! also what `apply` compares a file with. Absent: anything secret.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::proto::v1;

use super::{Page, instant, labels};

/// What lists show, one line each.
pub(crate) trait Listed: Serialize {
    /// The names of the columns.
    const HEADER: &'static [&'static str];

    /// One line of a list.
    fn row(&self) -> Vec<String>;
}

/// What is shown by itself, too.
pub(crate) trait Record: Listed {
    /// Everything, name by name.
    fn fields(&self, page: &mut Page);
}

/// A user, a team or a service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PrincipalView {
    /// Its full name, as `user:alice`.
    pub name: String,
    /// Where it is managed.
    pub home: String,
    /// Its name for people.
    pub display_name: String,
    /// What it is.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is paused.
    pub disabled: bool,
    /// When it was created.
    pub created_at: Option<String>,
    /// Number of the revision of its last change.
    pub changed_at_revision: u64,
}

macro_rules! principal_view {
    ($message:ty) => {
        impl From<$message> for PrincipalView {
            fn from(record: $message) -> Self {
                Self {
                    name: record.name,
                    home: record.home,
                    display_name: record.display_name,
                    description: record.description,
                    labels: record.labels.into_iter().collect(),
                    disabled: record.disabled,
                    created_at: instant(record.created_at.as_ref()),
                    changed_at_revision: record.changed_at_revision,
                }
            }
        }
    };
}

principal_view!(v1::User);
principal_view!(v1::Team);
principal_view!(v1::ServiceAccount);

impl Listed for PrincipalView {
    const HEADER: &'static [&'static str] = &["NAME", "HOME", "STATE", "DISPLAY NAME", "CREATED"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.home.clone(),
            self.state().to_owned(),
            self.display_name.clone(),
            self.created_at.clone().unwrap_or_default(),
        ]
    }
}

impl Record for PrincipalView {
    fn fields(&self, page: &mut Page) {
        page.fields(&[
            ("name", self.name.clone()),
            ("home", self.home.clone()),
            ("state", self.state().to_owned()),
            ("display name", self.display_name.clone()),
            ("description", self.description.clone()),
            ("labels", labels(&self.labels)),
            ("created", self.created_at.clone().unwrap_or_default()),
            ("changed at revision", self.changed_at_revision.to_string()),
        ]);
    }
}

impl PrincipalView {
    fn state(&self) -> &'static str {
        if self.disabled { "disabled" } else { "active" }
    }
}

/// A member of a team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MemberView {
    /// The member's full name.
    pub member: String,
    added_at: Option<String>,
    added_by: String,
    added_revision: u64,
}

impl From<v1::TeamMember> for MemberView {
    fn from(member: v1::TeamMember) -> Self {
        Self {
            added_at: instant(member.added_at.as_ref()),
            member: member.member,
            added_by: member.added_by,
            added_revision: member.added_revision,
        }
    }
}

impl Listed for MemberView {
    const HEADER: &'static [&'static str] = &["MEMBER", "ADDED", "BY"];

    fn row(&self) -> Vec<String> {
        vec![
            self.member.clone(),
            self.added_at.clone().unwrap_or_default(),
            self.added_by.clone(),
        ]
    }
}

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RoleView {
    /// Its name.
    pub name: String,
    /// Where it is managed.
    pub home: String,
    /// Its action patterns.
    pub actions: Vec<String>,
    /// What it is for.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: Option<String>,
    /// Number of the revision of its last change.
    pub changed_at_revision: u64,
}

impl From<v1::Role> for RoleView {
    fn from(role: v1::Role) -> Self {
        Self {
            labels: role.labels.into_iter().collect(),
            created_at: instant(role.created_at.as_ref()),
            changed_at_revision: role.changed_at_revision,
            name: role.name,
            home: role.home,
            actions: role.actions,
            description: role.description,
        }
    }
}

impl Listed for RoleView {
    const HEADER: &'static [&'static str] = &["NAME", "HOME", "ACTIONS", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.home.clone(),
            self.actions.join(","),
            self.description.clone(),
        ]
    }
}

impl Record for RoleView {
    fn fields(&self, page: &mut Page) {
        page.fields(&[
            ("name", self.name.clone()),
            ("home", self.home.clone()),
            ("actions", self.actions.join(", ")),
            ("description", self.description.clone()),
            ("labels", labels(&self.labels)),
            ("created", self.created_at.clone().unwrap_or_default()),
            ("changed at revision", self.changed_at_revision.to_string()),
        ]);
    }
}

/// A role given to a principal on a resource pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct GrantView {
    /// Its id.
    pub grant_id: String,
    /// The principal's full name.
    pub principal: String,
    /// The role's name.
    pub role: String,
    /// The resource pattern.
    pub resource: String,
    /// When it was created.
    pub(crate) created_at: Option<String>,
    /// Number of the revision that created it.
    pub(crate) created_revision: u64,
}

impl From<v1::Grant> for GrantView {
    fn from(grant: v1::Grant) -> Self {
        Self {
            created_at: instant(grant.created_at.as_ref()),
            created_revision: grant.created_revision,
            grant_id: grant.grant_id,
            principal: grant.principal,
            role: grant.role,
            resource: grant.resource,
        }
    }
}

impl Listed for GrantView {
    const HEADER: &'static [&'static str] =
        &["GRANT ID", "PRINCIPAL", "ROLE", "RESOURCE", "CREATED"];

    fn row(&self) -> Vec<String> {
        vec![
            self.grant_id.clone(),
            self.principal.clone(),
            self.role.clone(),
            self.resource.clone(),
            self.created_at.clone().unwrap_or_default(),
        ]
    }
}

impl Record for GrantView {
    fn fields(&self, page: &mut Page) {
        page.fields(&[
            ("grant id", self.grant_id.clone()),
            ("principal", self.principal.clone()),
            ("role", self.role.clone()),
            ("resource", self.resource.clone()),
            ("created", self.created_at.clone().unwrap_or_default()),
            ("created at revision", self.created_revision.to_string()),
        ]);
    }
}
