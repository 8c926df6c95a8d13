//! Scopes, ceilings and limits of tokens, read from requests and written into answers.
//!
//! Used by the token service, which has them in both directions. A list of scopes is bounded
//! before anything in it is compared with everything else in it.

use crate::authority::{LimitsAsked, ScopesAsked};
use crate::domain::limits::{Audience, NETWORKS_MAX, Networks, Workload};
use crate::domain::permission::Permission;
use crate::domain::refusal::Refusal;
use crate::domain::scopes::{PERMISSIONS_MAX, PermissionSet, ScopeEntry, Scopes};
use crate::proto::v1;

use super::convert::optional;

/// Reads what a token is to be narrowed to, which must be said.
pub(super) fn asked(scopes: Option<&v1::ScopesInput>) -> Result<ScopesAsked, Refusal> {
    let list = match scopes.and_then(|scopes| scopes.extent.as_ref()) {
        None => {
            return Err(Refusal::invalid(
                "scopes",
                "is required: all, or only a list",
            ));
        }
        Some(v1::scopes_input::Extent::All(_)) => return Ok(ScopesAsked::All),
        Some(v1::scopes_input::Extent::Only(list)) => &list.scopes,
    };
    // Before anything is compared with everything else.
    let listed: usize = list.iter().map(|text| text.split(',').count()).sum();
    if listed > PERMISSIONS_MAX {
        return Err(Refusal::Limit(format!(
            "scopes: at most {PERMISSIONS_MAX} permissions"
        )));
    }
    let entries: Result<_, _> = list.iter().map(|text| ScopeEntry::parse(text)).collect();
    entries
        .map(ScopesAsked::Only)
        .map_err(|error| Refusal::invalid("scopes", error))
}

/// Reads what an access token is to be narrowed to; unset is not narrowed. Roles are written out
/// where a change is decided, and an access token is none.
pub(super) fn listed(scopes: Option<&v1::ScopesInput>) -> Result<Scopes, Refusal> {
    let Some(scopes) = scopes else {
        return Ok(Scopes::All);
    };
    let ScopesAsked::Only(entries) = asked(Some(scopes))? else {
        return Ok(Scopes::All);
    };
    let mut permissions = Vec::new();
    for entry in entries {
        match entry {
            ScopeEntry::Permissions(listed) => permissions.extend(listed),
            ScopeEntry::Role(..) => {
                let what = "list permissions here, not roles";
                return Err(Refusal::invalid("scopes", what));
            }
        }
    }
    let set = PermissionSet::new(permissions);
    set.map(Scopes::Only)
        .map_err(|error| Refusal::Limit(error.to_string()))
}

/// A permission as answers carry it.
pub(super) fn permission(permission: &Permission) -> v1::Permission {
    v1::Permission {
        action: permission.action.to_string(),
        resource: permission.resource.to_string(),
    }
}

/// Scopes as answers carry them.
pub(super) fn answered(scopes: &Scopes) -> v1::Scopes {
    let extent = match scopes {
        Scopes::All => v1::scopes::Extent::All(v1::AllScopes {}),
        Scopes::Only(set) => v1::scopes::Extent::Only(permission_list(set)),
    };
    v1::Scopes {
        extent: Some(extent),
    }
}

/// A set of permissions as scopes that list it: what a ceiling is.
pub(super) fn ceiling(set: &PermissionSet) -> v1::Scopes {
    v1::Scopes {
        extent: Some(v1::scopes::Extent::Only(permission_list(set))),
    }
}

fn permission_list(set: &PermissionSet) -> v1::PermissionList {
    v1::PermissionList {
        permissions: set.iter().map(permission).collect(),
    }
}

/// Reads client networks.
pub(super) fn networks(field: &'static str, texts: &[String]) -> Result<Networks, Refusal> {
    Networks::parse(texts).ok_or_else(|| {
        let what = format!("are at most {NETWORKS_MAX} networks such as 10.0.0.0/8, or addresses");
        Refusal::invalid(field, what)
    })
}

/// Reads an audience; empty is none.
pub(super) fn audience(text: &str) -> Result<Option<Audience>, Refusal> {
    optional("audience", text, |field, text| {
        Audience::parse(text).ok_or_else(|| {
            Refusal::invalid(
                field,
                "is 1 to 256 printable ASCII characters without blanks",
            )
        })
    })
}

/// Reads a workload; empty is none.
pub(super) fn workload(text: &str) -> Result<Option<Workload>, Refusal> {
    optional("workload", text, |field, text| {
        Workload::parse(text).ok_or_else(|| {
            Refusal::invalid(
                field,
                "is a SPIFFE ID, or x5t#S256: and 43 base64url characters",
            )
        })
    })
}

/// Reads the three limits that issue and update have in common.
pub(super) fn limits(
    networks_asked: &[String],
    audience_asked: &str,
    workload_asked: &str,
) -> Result<LimitsAsked, Refusal> {
    Ok(LimitsAsked {
        networks: networks("networks", networks_asked)?,
        audience: audience(audience_asked)?,
        workload: workload(workload_asked)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(texts: &[&str]) -> v1::ScopesInput {
        let scopes = texts.iter().map(ToString::to_string).collect();
        v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::Only(v1::ScopeList { scopes })),
        }
    }

    #[test]
    fn scopes_say_all_or_list() {
        let check = |input: Option<&v1::ScopesInput>, expected: Option<usize>| {
            let found = match asked(input) {
                Ok(ScopesAsked::All) => Some(usize::MAX),
                Ok(ScopesAsked::Only(entries)) => Some(entries.len()),
                Err(_) => None,
            };
            assert_eq!(found, expected, "{input:?}");
        };
        let all = v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::All(v1::AllScopes {})),
        };
        check(None, None);
        check(Some(&v1::ScopesInput { extent: None }), None);
        check(Some(&all), Some(usize::MAX));
        check(Some(&only(&[])), Some(0));
        check(Some(&only(&["a:x,b:y@r", "role:agent@r/**"])), Some(2));
        check(Some(&only(&["a:x"])), None);
        check(Some(&only(&[""])), None);
        let many = vec!["a:x@r"; PERMISSIONS_MAX];
        check(Some(&only(&many)), Some(PERMISSIONS_MAX));
    }

    #[test]
    fn an_endless_list_is_refused_before_it_is_parsed() {
        let many = vec!["a:x,b:y@r"; PERMISSIONS_MAX / 2 + 1];
        assert!(matches!(asked(Some(&only(&many))), Err(Refusal::Limit(_))));
    }

    #[test]
    fn scopes_are_answered_as_a_oneof() {
        let set = PermissionSet::new([Permission::parse("a:x", "r/**").expect("valid")]);
        let listed = answered(&Scopes::Only(set.expect("small")));
        let Some(v1::scopes::Extent::Only(list)) = listed.extent else {
            panic!("a list")
        };
        assert_eq!(list.permissions[0].action, "a:x");
        assert_eq!(list.permissions[0].resource, "r/**");
        let nothing = answered(&Scopes::Only(PermissionSet::default()));
        assert!(matches!(nothing.extent, Some(v1::scopes::Extent::Only(_))));
        let all = answered(&Scopes::All);
        assert!(matches!(all.extent, Some(v1::scopes::Extent::All(_))));
    }

    #[test]
    fn limits_are_parsed_and_empty_is_none() {
        let check = |networks: &[&str], audience: &str, workload: &str, expected: bool| {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            let found = limits(&networks, audience, workload);
            assert_eq!(
                found.is_ok(),
                expected,
                "{networks:?} {audience:?} {workload:?}"
            );
        };
        check(&[], "", "", true);
        check(&["10.0.0.0/8", "::1"], "vault", "spiffe://acme/web", true);
        check(&["10.0.0.0/33"], "", "", false);
        check(&[], "two words", "", false);
        check(&[], "", "CN=web", false);
        let none = limits(&[], "", "").expect("valid");
        assert_eq!(none, LimitsAsked::default());
    }
}
