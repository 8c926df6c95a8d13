//! Requests about tokens as the authority takes them.
//!
//! Used by the token service. Each function reads one message whole, so that what is wrong is
//! told before anything is asked of the authority. Absent on purpose: every rule that needs
//! State; those are decided where the change is.

use crate::authority::list::{TokenQuery, TokenState};
use crate::authority::tokens::{IssueAsked, TokenFilter};
use crate::authority::{CutOffRequest, IssueToken, RevokeTarget, UpdateToken};
use crate::domain::change::Display;
use crate::domain::principal::PrincipalId;
use crate::domain::refusal::Refusal;
use crate::domain::token::{Digest, TokenId, TokenKind};
use crate::proto::v1;

use super::convert::{self, DESCRIPTION_CHARS_MAX, optional};
use super::page::Asked;
use super::scopes;

const UPDATE_PATHS: &str = "scopes, expires_at, not_before, max_expires_at, period, uses_left, \
                            networks, audience, workload, name, description, labels";

/// Reads a token that is asked for; its id and digest are filled in by the authority.
pub(super) fn issue(request: &v1::IssueTokenRequest) -> Result<IssueAsked, Refusal> {
    let kind = convert::kind("kind", request.kind)?;
    let description = convert::text("description", &request.description, DESCRIPTION_CHARS_MAX)?;
    let token = IssueToken {
        id: TokenId::from_u128(0),
        digest: Digest::from_bytes([0; 32]),
        kind: kind.unwrap_or(TokenKind::User),
        subject: optional("subject", &request.subject, convert::principal)?,
        resource: optional("resource", &request.resource, convert::resource)?,
        scopes: scopes::asked(request.scopes.as_ref())?,
        ttl_s: convert::seconds("ttl", request.ttl.as_ref())?,
        not_before_ms: convert::instant("not_before", request.not_before.as_ref())?,
        max_lifetime_s: convert::seconds("max_lifetime", request.max_lifetime.as_ref())?,
        period_s: convert::seconds("period", request.period.as_ref())?,
        uses: uses("uses", request.uses)?,
        limits: scopes::limits(&request.networks, &request.audience, &request.workload)?,
        derive: request.derive,
        display: Display {
            name: Some(convert::name("name", &request.name)?),
            description: Some(description),
            labels: Some(convert::labels(&request.labels)?),
            last4: None,
        },
    };
    Ok(IssueAsked { kind, token })
}

fn uses(field: &'static str, uses: Option<u32>) -> Result<Option<u32>, Refusal> {
    match uses {
        Some(0) => Err(Refusal::invalid(field, "is at least 1")),
        uses => Ok(uses),
    }
}

/// Reads the changes that a mask names; a field that is named but unset is cleared.
pub(super) fn update(
    request: &v1::UpdateTokenRequest,
    id: TokenId,
) -> Result<UpdateToken, Refusal> {
    let paths = convert::mask(request.update_mask.as_ref())?;
    let unset = v1::TokenUpdate::default();
    let new = request.update.as_ref().unwrap_or(&unset);
    let mut asked = UpdateToken {
        id,
        scopes: None,
        expires_ms: None,
        not_before_ms: None,
        expires_max_ms: None,
        period_s: None,
        uses_left: None,
        networks: None,
        audience: None,
        workload: None,
        display: Display::default(),
    };
    for path in paths {
        named(&mut asked, path, new)?;
    }
    Ok(asked)
}

fn named(asked: &mut UpdateToken, path: &str, new: &v1::TokenUpdate) -> Result<(), Refusal> {
    let instant = convert::instant;
    match path {
        "scopes" => asked.scopes = Some(scopes::asked(new.scopes.as_ref())?),
        "expires_at" => asked.expires_ms = Some(instant("expires_at", new.expires_at.as_ref())?),
        "not_before" => asked.not_before_ms = Some(instant("not_before", new.not_before.as_ref())?),
        "max_expires_at" => {
            asked.expires_max_ms = Some(instant("max_expires_at", new.max_expires_at.as_ref())?);
        }
        "period" => asked.period_s = Some(convert::seconds("period", new.period.as_ref())?),
        "uses_left" => asked.uses_left = Some(uses("uses_left", new.uses_left)?),
        "networks" => asked.networks = Some(scopes::networks("networks", &new.networks)?),
        "audience" => asked.audience = Some(scopes::audience(&new.audience)?),
        "workload" => asked.workload = Some(scopes::workload(&new.workload)?),
        "name" => asked.display.name = Some(convert::name("name", &new.name)?),
        "description" => {
            let text = convert::text("description", &new.description, DESCRIPTION_CHARS_MAX)?;
            asked.display.description = Some(text);
        }
        "labels" => asked.display.labels = Some(convert::labels(&new.labels)?),
        _ => return Err(convert::unknown_path(UPDATE_PATHS)),
    }
    Ok(())
}

/// Reads which token to revoke. A secret that we cannot have made is as unknown as any other.
pub(super) fn revoke_target(
    request: &v1::RevokeTokenRequest,
    presented: impl FnOnce(&str) -> Result<RevokeTarget, Refusal>,
) -> Result<RevokeTarget, Refusal> {
    match &request.target {
        None => Ok(RevokeTarget::Itself),
        Some(v1::revoke_token_request::Target::TokenId(id)) => {
            convert::token_id("token_id", id).map(RevokeTarget::Id)
        }
        Some(v1::revoke_token_request::Target::Secret(text)) => presented(text),
        Some(v1::revoke_token_request::Target::AccessTokenId(id)) => {
            convert::token_id("access_token_id", id).map(RevokeTarget::Session)
        }
    }
}

/// Reads whose tokens to cut off.
pub(super) fn cut_off(request: &v1::RevokeAllRequest) -> Result<CutOffRequest, Refusal> {
    use v1::revoke_all_request::Target;
    let principal = convert::principal;
    match &request.target {
        None => Err(Refusal::invalid("target", "is required")),
        Some(Target::Subject(name)) => principal("subject", name).map(CutOffRequest::Subject),
        Some(Target::IssuedByPrincipal(name)) => issuer("issued_by_principal", name),
        Some(Target::IssuedByToken(id)) => {
            convert::token_id("issued_by_token", id).map(CutOffRequest::IssuedByToken)
        }
        Some(Target::IssuedByCredential(id)) => {
            convert::token_id("issued_by_credential", id).map(CutOffRequest::IssuedByCredential)
        }
        Some(Target::SessionsOf(name)) => {
            principal("sessions_of", name).map(CutOffRequest::Sessions)
        }
        Some(Target::ResourceUnder(path)) => {
            convert::resource("resource_under", path).map(CutOffRequest::ResourceUnder)
        }
    }
}

/// Reads a principal whose issued tokens are meant, by its name or its number.
fn issuer(field: &'static str, text: &str) -> Result<CutOffRequest, Refusal> {
    if !PrincipalId::is_meant(text) {
        return convert::principal(field, text).map(CutOffRequest::IssuedByPrincipal);
    }
    let id = PrincipalId::parse(text);
    id.map(CutOffRequest::IssuedByNumber)
        .ok_or_else(|| Refusal::invalid(field, "is a name, or a number such as principal:17"))
}

/// Reads the filters and the page of a list.
pub(super) fn filter(
    request: &v1::ListTokensRequest,
    page: &Asked<TokenId>,
) -> Result<TokenFilter, Refusal> {
    Ok(TokenFilter {
        subject: optional("subject", &request.subject, convert::principal)?,
        issuer: optional("issuer", &request.issuer, convert::principal)?,
        query: TokenQuery {
            issuer_token: optional(
                "issuer_token_id",
                &request.issuer_token_id,
                convert::token_id,
            )?,
            parent: optional(
                "parent_token_id",
                &request.parent_token_id,
                convert::token_id,
            )?,
            resource_under: optional("resource_under", &request.resource_under, convert::resource)?,
            kind: convert::kind("kind", request.kind)?,
            state: stored_state(request.state)?,
            label: convert::label_filter(&request.label)?,
            after: page.after,
            limit: page.limit,
            ..TokenQuery::default()
        },
    })
}

// A disabled subject and spent uses are not in a token's own life: such tokens are looked for
// among the active ones.
fn stored_state(number: i32) -> Result<Option<TokenState>, Refusal> {
    let state = v1::TokenState::try_from(number)
        .map_err(|_| Refusal::invalid("state", "is not a state that is known here"))?;
    Ok(match state {
        v1::TokenState::Unspecified => None,
        v1::TokenState::Active
        | v1::TokenState::SubjectDisabled
        | v1::TokenState::UsesExhausted => Some(TokenState::Active),
        v1::TokenState::NotYetValid => Some(TokenState::NotYetValid),
        v1::TokenState::Expired => Some(TokenState::Expired),
        v1::TokenState::Revoked => Some(TokenState::Revoked),
    })
}

/// Whether a row that the store found has the state that was asked for.
pub(super) fn has_state(asked: i32, token: &v1::Token) -> bool {
    let live = [
        v1::TokenState::Active,
        v1::TokenState::SubjectDisabled,
        v1::TokenState::UsesExhausted,
    ];
    !live.into_iter().any(|state| asked == i32::from(state)) || token.state == asked
}

#[cfg(test)]
mod tests {
    use prost_types::{Duration, FieldMask};

    use super::*;

    fn asked(change: impl FnOnce(&mut v1::IssueTokenRequest)) -> Result<IssueAsked, Refusal> {
        let mut request = v1::IssueTokenRequest {
            kind: v1::TokenKind::User.into(),
            name: "laptop".to_owned(),
            scopes: Some(v1::ScopesInput {
                extent: Some(v1::scopes_input::Extent::All(v1::AllScopes {})),
            }),
            ..v1::IssueTokenRequest::default()
        };
        change(&mut request);
        issue(&request)
    }

    fn updated(paths: &[&str], update: v1::TokenUpdate) -> Result<UpdateToken, Refusal> {
        let request = v1::UpdateTokenRequest {
            update: Some(update),
            update_mask: Some(FieldMask {
                paths: paths.iter().map(ToString::to_string).collect(),
            }),
            ..v1::UpdateTokenRequest::default()
        };
        super::update(&request, TokenId::from_u128(1))
    }

    fn field<T>(result: Result<T, Refusal>) -> Option<&'static str> {
        match result {
            Err(Refusal::Invalid { field, .. }) => Some(field),
            _ => None,
        }
    }

    #[test]
    fn a_request_that_does_not_parse_names_its_field() {
        let check = |change: fn(&mut v1::IssueTokenRequest), expected: Option<&str>| {
            assert_eq!(field(asked(change)), expected);
        };
        check(|_| {}, None);
        check(|r| r.kind = 9, Some("kind"));
        check(|r| r.name.clear(), Some("name"));
        check(|r| r.name = "x".repeat(129), Some("name"));
        check(|r| r.description = "x".repeat(1_025), Some("description"));
        check(|r| r.subject = "alice".to_owned(), Some("subject"));
        check(|r| r.resource = "/acme".to_owned(), Some("resource"));
        check(|r| r.scopes = None, Some("scopes"));
        check(|r| r.ttl = Some(Duration::default()), Some("ttl"));
        check(
            |r| {
                r.period = Some(Duration {
                    seconds: -1,
                    nanos: 0,
                })
            },
            Some("period"),
        );
        check(
            |r| {
                r.max_lifetime = Some(Duration {
                    seconds: 1,
                    nanos: 1,
                })
            },
            Some("max_lifetime"),
        );
        check(
            |r| r.not_before = Some(prost_types::Timestamp::default()),
            Some("not_before"),
        );
        check(|r| r.uses = Some(0), Some("uses"));
        check(|r| r.networks = vec!["x".to_owned()], Some("networks"));
        check(
            |r| drop(r.labels.insert("A".to_owned(), String::new())),
            Some("labels"),
        );
    }

    #[test]
    fn a_derived_token_may_leave_its_kind_to_its_parent() {
        let derived = asked(|request| {
            request.kind = 0;
            request.derive = true;
        });
        assert_eq!(derived.map(|asked| asked.kind), Ok(None));
    }

    #[test]
    fn masks_name_whole_known_fields() {
        let check = |paths: &[&str], expected: Option<&str>| {
            let new = v1::TokenUpdate {
                name: "n".to_owned(),
                ..v1::TokenUpdate::default()
            };
            assert_eq!(field(updated(paths, new)), expected, "{paths:?}");
        };
        check(&[], Some("update_mask"));
        check(&["nothing"], Some("update_mask"));
        check(&["scopes.only"], Some("update_mask"));
        check(&["update.name"], Some("update_mask"));
        check(&["*"], Some("update_mask"));
        check(&["name", "nothing"], Some("update_mask"));
        check(&["name", "name"], None);
        check(&["scopes"], Some("scopes"));
    }

    #[test]
    fn what_is_named_but_unset_is_cleared_and_what_is_not_named_stays() {
        let paths = [
            "expires_at",
            "not_before",
            "max_expires_at",
            "period",
            "uses_left",
            "networks",
            "audience",
            "workload",
            "description",
            "labels",
        ];
        let cleared = updated(&paths, v1::TokenUpdate::default()).expect("valid");
        assert_eq!(
            (cleared.expires_ms, cleared.not_before_ms),
            (Some(None), Some(None))
        );
        assert_eq!(
            (cleared.expires_max_ms, cleared.period_s),
            (Some(None), Some(None))
        );
        assert_eq!(
            (cleared.uses_left, cleared.audience),
            (Some(None), Some(None))
        );
        assert_eq!(cleared.workload, Some(None));
        assert!(cleared.networks.is_some_and(|networks| networks.is_empty()));
        assert_eq!(cleared.display.description.as_deref(), Some(""));
        assert!(
            cleared
                .display
                .labels
                .is_some_and(|labels| labels.is_empty())
        );
        assert_eq!((cleared.scopes, cleared.display.name), (None, None));
        let unset = v1::TokenUpdate::default();
        assert_eq!(field(updated(&["name"], unset)), Some("name"));
    }

    #[test]
    fn what_to_revoke_is_the_caller_or_what_is_named() {
        use v1::revoke_token_request::Target;
        let target = |target| {
            let request = v1::RevokeTokenRequest {
                target,
                ..v1::RevokeTokenRequest::default()
            };
            revoke_target(&request, |_| Err(Refusal::NotFound("token")))
        };
        let presented = target(Some(Target::Secret("any".to_owned())));
        assert_eq!(presented.err(), Some(Refusal::NotFound("token")));
        assert!(matches!(target(None), Ok(RevokeTarget::Itself)));
        assert_eq!(
            field(target(Some(Target::TokenId("x".to_owned())))),
            Some("token_id")
        );
    }

    #[test]
    fn a_cut_off_names_what_it_is_about() {
        use v1::revoke_all_request::Target;
        let of = |target| {
            let request = v1::RevokeAllRequest {
                target,
                ..v1::RevokeAllRequest::default()
            };
            cut_off(&request).err()
        };
        let credential = of(Some(Target::IssuedByCredential("c".to_owned())));
        assert!(matches!(
            credential,
            Some(Refusal::Invalid {
                field: "issued_by_credential",
                ..
            })
        ));
        assert!(matches!(
            of(None),
            Some(Refusal::Invalid {
                field: "target",
                ..
            })
        ));
        assert_eq!(of(Some(Target::ResourceUnder("acme/web".to_owned()))), None);
    }
}
