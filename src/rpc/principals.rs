//! Users, teams and service accounts: one code path for the three kinds.
//!
//! gRPC wants messages of their own for each method, but those of the three kinds have the same
//! layout on the wire, field by field; a test holds that. So a request of any kind is read as
//! the user's (or, for lists, as the team's, which has one field more), and the answer is written
//! back the same way. Used by the directory service.

use prost::Message;
use tonic::Request;

use crate::authority::list::{Page, PrincipalQuery, StoredPrincipal};
use crate::authority::{About, Authority, Command, Credentials};
use crate::domain::change::Display;
use crate::domain::principal::{PrincipalKind, PrincipalName};
use crate::domain::refusal::Refusal;
use crate::proto::v1;

use super::auth;
use super::convert::{self, DESCRIPTION_CHARS_MAX, NAME_CHARS_MAX, optional, revision, timestamp};
use super::incoming::{Write, WriteCall};
use super::page::{Asked, Paged};

const UPDATE_PATHS: &str = "display_name, description, labels";

/// Reads a message as another of the same layout.
pub(super) fn same<A: Message, B: Message + Default>(message: &A) -> B {
    B::decode(message.encode_to_vec().as_slice()).expect("a test holds that the layouts are equal")
}

/// Makes a principal.
pub(super) async fn create<I: Write, O: Message + Default>(
    authority: &Authority,
    kind: PrincipalKind,
    request: &Request<I>,
) -> Result<O, Refusal> {
    let asked: v1::CreateUserRequest = same(request.get_ref());
    let name = convert::principal_of(kind, "name", &asked.name)?;
    let display_name = convert::text("display_name", &asked.display_name, NAME_CHARS_MAX)?;
    let description = convert::text("description", &asked.description, DESCRIPTION_CHARS_MAX)?;
    let command = Command::CreatePrincipal {
        name: name.clone(),
        home: convert::resource("home", &asked.home)?,
        display: Display {
            name: Some(display_name),
            description: Some(description),
            labels: Some(convert::labels(&asked.labels)?),
            last4: None,
        },
    };
    change(authority, request, &name, command).await
}

/// One principal.
pub(super) async fn one<I: Message, O: Message + Default>(
    authority: &Authority,
    kind: PrincipalKind,
    request: &Request<I>,
) -> Result<O, Refusal> {
    let asked: v1::GetUserRequest = same(request.get_ref());
    let name = convert::principal_of(kind, "name", &asked.name)?;
    let head = authority.head();
    let stored = authority
        .principal(auth::credentials(request)?, &name)
        .await?;
    Ok(same(&v1::GetUserResponse {
        user: Some(shown(stored)),
        revision: Some(revision(head.revision())),
    }))
}

/// A page of principals of one kind.
pub(super) async fn list<I: Paged, O: Message + Default>(
    authority: &Authority,
    kind: PrincipalKind,
    request: &Request<I>,
) -> Result<O, Refusal> {
    let page = Asked::<String>::of(request.get_ref())?;
    let asked: v1::ListTeamsRequest = same(request.get_ref());
    let credentials = auth::credentials(request)?;
    let home_under = optional("home_under", &asked.home_under, convert::resource)?;
    let head = authority.head();
    let found = match optional("member", &asked.member, convert::principal)? {
        Some(_) if home_under.is_some() => {
            return Err(Refusal::invalid("member", "has no home_under beside it"));
        }
        Some(member) => teams_of(authority, credentials, &member, &page).await?,
        None => {
            let query = PrincipalQuery {
                kind,
                name: None,
                home_under,
                after: page.after.clone(),
                limit: page.limit,
            };
            authority.principals(credentials, query).await?
        }
    };
    Ok(same(&v1::ListUsersResponse {
        next_page_token: page.token(found.next.as_ref()),
        users: found.rows.into_iter().map(shown).collect(),
        revision: Some(revision(head.revision())),
    }))
}

// A team that the caller may not read is left out.
async fn teams_of(
    authority: &Authority,
    credentials: Credentials<'_>,
    member: &PrincipalName,
    page: &Asked<String>,
) -> Result<Page<StoredPrincipal, String>, Refusal> {
    let after = page.after.clone();
    let found = authority
        .teams_of(credentials, member, after, page.limit)
        .await?;
    let mut rows = Vec::with_capacity(found.rows.len());
    for membership in found.rows {
        match authority.principal(credentials, &membership.team).await {
            Ok(team) => rows.push(team),
            Err(Refusal::NotFound(_)) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    let next = found.next;
    Ok(Page { rows, next })
}

/// Changes the texts of a principal.
pub(super) async fn update<I: Write, O: Message + Default>(
    authority: &Authority,
    kind: PrincipalKind,
    request: &Request<I>,
) -> Result<O, Refusal> {
    let asked: v1::UpdateUserRequest = same(request.get_ref());
    let new = asked.user.unwrap_or_default();
    let name = convert::principal_of(kind, "name", &new.name)?;
    let display = masked(convert::mask(asked.update_mask.as_ref())?, &new)?;
    let command = Command::UpdatePrincipal {
        name: name.clone(),
        display,
    };
    change(authority, request, &name, command).await
}

fn masked(paths: &[String], new: &v1::User) -> Result<Display, Refusal> {
    let mut display = Display::default();
    for path in paths {
        match path.as_str() {
            "display_name" => {
                let text = convert::text("display_name", &new.display_name, NAME_CHARS_MAX)?;
                display.name = Some(text);
            }
            "description" => {
                let text = convert::text("description", &new.description, DESCRIPTION_CHARS_MAX)?;
                display.description = Some(text);
            }
            "labels" => display.labels = Some(convert::labels(&new.labels)?),
            _ => return Err(convert::unknown_path(UPDATE_PATHS)),
        }
    }
    Ok(display)
}

/// Removes a principal.
pub(super) async fn delete<I: Write, O: Message + Default>(
    authority: &Authority,
    kind: PrincipalKind,
    request: &Request<I>,
) -> Result<O, Refusal> {
    let asked: v1::DeleteUserRequest = same(request.get_ref());
    let incoming = WriteCall::of(request)?;
    let name = convert::principal_of(kind, "name", &asked.name)?;
    let written = authority
        .write(incoming.call(), Command::DeletePrincipal(name))
        .await?;
    Ok(same(&v1::DeleteUserResponse {
        enforcement: incoming.enforced(authority, &written).await?,
        revision: Some(revision(written.revision)),
    }))
}

/// Pauses a principal, or ends the pause.
pub(super) async fn set_disabled<I: Write, O: Message + Default>(
    authority: &Authority,
    kind: PrincipalKind,
    request: &Request<I>,
    disabled: bool,
) -> Result<O, Refusal> {
    let asked: v1::DisableUserRequest = same(request.get_ref());
    let name = convert::principal_of(kind, "name", &asked.name)?;
    let command = Command::SetDisabled {
        name: name.clone(),
        disabled,
    };
    change(authority, request, &name, command).await
}

/// Carries out a command about a principal that stays, and answers how it is then.
async fn change<I: Write, O: Message + Default>(
    authority: &Authority,
    request: &Request<I>,
    name: &PrincipalName,
    command: Command,
) -> Result<O, Refusal> {
    let incoming = WriteCall::of(request)?;
    let written = authority.write(incoming.call(), command).await?;
    // It may be gone again, or the name be another's; the change was made all the same.
    let stored = async { authority.stored_principal(name).await.ok() };
    let (enforcement, stored) = incoming.settle(authority, &written, stored).await?;
    let still = stored.filter(|stored| written.about == About::Principal(stored.record.id));
    Ok(same(&v1::UpdateUserResponse {
        enforcement,
        revision: Some(revision(written.revision)),
        user: still.map(shown),
    }))
}

fn shown(stored: StoredPrincipal) -> v1::User {
    v1::User {
        name: stored.record.name.to_string(),
        home: stored.record.home.to_string(),
        display_name: stored.display_name,
        description: stored.description,
        labels: stored.labels,
        disabled: stored.record.disabled,
        created_at: Some(timestamp(stored.created_ms)),
        changed_at_revision: stored.changed_at,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

    use super::*;
    use crate::proto::DESCRIPTOR;

    /// Every message of the package by its full name.
    fn messages() -> BTreeMap<String, DescriptorProto> {
        let set = FileDescriptorSet::decode(DESCRIPTOR).expect("build.rs encoded it");
        let files = set
            .file
            .into_iter()
            .filter(|file| file.package() == "latchkey.v1");
        files
            .flat_map(|file| file.message_type)
            .map(|message| (format!(".latchkey.v1.{}", message.name()), message))
            .collect()
    }

    /// What is on the wire: numbers, types and, for messages of the kinds, their layouts.
    fn layout(all: &BTreeMap<String, DescriptorProto>, name: &str) -> Vec<String> {
        let message = all.get(&format!(".latchkey.v1.{name}")).expect(name);
        let one = |field: &FieldDescriptorProto| {
            let kinds = ["User", "Team", "ServiceAccount"];
            let inner = field.type_name().rsplit('.').next().unwrap_or_default();
            let inner = match kinds.contains(&inner) {
                true => layout(all, inner).join(" "),
                false => inner.to_owned(),
            };
            format!(
                "{} {:?} {:?} {inner}",
                field.number(),
                field.label(),
                field.r#type()
            )
        };
        let mut fields: Vec<String> = message.field.iter().map(one).collect();
        fields.sort();
        fields
    }

    #[test]
    fn the_three_kinds_have_messages_of_one_layout() {
        let all = messages();
        for verb in ["Create", "Get", "Update", "Delete", "Disable", "Enable"] {
            for side in ["Request", "Response"] {
                let user = layout(&all, &format!("{verb}User{side}"));
                for kind in ["Team", "ServiceAccount"] {
                    let name = format!("{verb}{kind}{side}");
                    assert_eq!(layout(&all, &name), user, "{name}");
                }
            }
        }
        let lists = |name: &str| layout(&all, &format!("List{name}Request"));
        assert_eq!(lists("Users"), lists("ServiceAccounts"));
        // A list of teams has one filter more, which the others leave unset.
        let teams = lists("Teams");
        assert_eq!(teams[..3], lists("Users"));
        assert_eq!(teams.len(), 4);
        let page = |name: &str| layout(&all, &format!("List{name}Response"));
        assert_eq!(page("Users"), page("Teams"));
        assert_eq!(page("Users"), page("ServiceAccounts"));
    }

    #[test]
    fn changed_answers_of_all_verbs_have_one_layout() {
        let all = messages();
        for name in [
            "CreateUserResponse",
            "DisableUserResponse",
            "EnableUserResponse",
        ] {
            assert_eq!(
                layout(&all, name),
                layout(&all, "UpdateUserResponse"),
                "{name}"
            );
        }
        let disable = layout(&all, "DisableUserRequest");
        assert_eq!(disable, layout(&all, "DeleteUserRequest"));
        // What only adds can ask to be waited for; read as the others it is left out.
        let mut enable = layout(&all, "EnableUserRequest");
        enable.retain(|field| !field.starts_with("13 "));
        assert_eq!(disable, enable);
    }

    #[test]
    fn a_team_read_as_a_user_keeps_every_field() {
        let team = v1::Team {
            name: "team:platform".to_owned(),
            home: "acme".to_owned(),
            display_name: "Platform".to_owned(),
            description: "d".to_owned(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            disabled: true,
            created_at: Some(timestamp(5_000)),
            changed_at_revision: 7,
        };
        let user: v1::User = same(&team);
        assert_eq!(
            (user.name.as_str(), user.changed_at_revision),
            ("team:platform", 7)
        );
        assert_eq!(same::<_, v1::Team>(&user), team);
    }

    #[test]
    fn a_mask_names_whole_known_fields() {
        let new = v1::User {
            display_name: "Alice".to_owned(),
            ..v1::User::default()
        };
        let check = |paths: &[&str], expected: Option<Display>| {
            let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
            assert_eq!(masked(&paths, &new).ok(), expected, "{paths:?}");
        };
        let named = Display {
            name: Some("Alice".to_owned()),
            ..Display::default()
        };
        let cleared = Display {
            description: Some(String::new()),
            labels: Some(BTreeMap::new()),
            ..named.clone()
        };
        check(&["display_name"], Some(named));
        check(&["display_name", "description", "labels"], Some(cleared));
        check(&["home"], None);
        check(&["disabled"], None);
        check(&["user.display_name"], None);
        check(&["labels.a"], None);
    }
}
