//! Lists of principals, members, roles and grants: every filter, every order, every page.
//!
//! A page is compared by the names or numbers in it and by where the next one begins.

use latchkey::domain::change::{Change, Display, PrincipalRecord};
use latchkey::domain::principal::{PrincipalId, PrincipalKind, RoleName};
use latchkey::store::Store;
use latchkey::store::list::{GrantQuery, MemberQuery, PrincipalQuery, RoleQuery, StoredPrincipal};

use crate::store::scribe::{
    START_MS, Scribe, grant, labels, principal, put_principal, put_role, resource, role,
};

fn users() -> PrincipalQuery {
    PrincipalQuery {
        kind: PrincipalKind::User,
        name: None,
        home_under: None,
        after: None,
        limit: 10,
    }
}

fn dave() -> PrincipalRecord {
    PrincipalRecord {
        home: resource("acme/web"),
        disabled: true,
        ..principal(4, "user:dave")
    }
}

/// Three users, of whom Dave is described; a team; and a user who is gone.
async fn put_people(scribe: &mut Scribe, store: &dyn Store) {
    let display = Display {
        name: Some("Dave".to_owned()),
        description: Some("on call".to_owned()),
        labels: Some(labels(&[("a", "\"b\"\n")])),
        last4: None,
    };
    let changes = [
        put_principal(1, "user:carol"),
        put_principal(2, "user:alice"),
        put_principal(3, "team:bees"),
        Change::PutPrincipal {
            record: dave(),
            display,
        },
        put_principal(5, "user:gone"),
        Change::DeletePrincipal(PrincipalId(5)),
    ];
    scribe.append(store, changes).await;
}

pub(crate) async fn principals_are_filtered_and_paged(store: &dyn Store) {
    put_people(&mut Scribe::new(), store).await;
    let check = async |edit: fn(&mut PrincipalQuery), expected: &str, next: Option<&str>| {
        let mut query = users();
        edit(&mut query);
        let page = store.principals(query).await.expect("a page");
        let names: Vec<_> = page.rows.iter().map(|one| one.record.name.name()).collect();
        assert_eq!((&*names.join(" "), page.next.as_deref()), (expected, next));
    };
    check(|_| {}, "alice carol dave", None).await;
    check(|query| query.kind = PrincipalKind::Team, "bees", None).await;
    check(|query| query.kind = PrincipalKind::Service, "", None).await;
    check(|query| query.limit = 2, "alice carol", Some("carol")).await;
    check(|query| query.after = Some("carol".into()), "dave", None).await;
    check(|query| query.name = Some("carol".into()), "carol", None).await;
    check(|query| query.name = Some("gone".into()), "", None).await;
    check(|query| query.name = Some("' OR 1 --".into()), "", None).await;
    let under: fn(&mut PrincipalQuery) = |query| query.home_under = Some(resource("acme/web"));
    check(under, "dave", None).await;
}

async fn find_dave(store: &dyn Store) -> StoredPrincipal {
    let query = PrincipalQuery {
        name: Some("dave".to_owned()),
        ..users()
    };
    let page = store.principals(query).await.expect("a page");
    page.rows.into_iter().next().expect("there")
}

pub(crate) async fn a_principal_is_shown_with_its_texts(store: &dyn Store) {
    let mut scribe = Scribe::new();
    put_people(&mut scribe, store).await;
    let found = find_dave(store).await;
    assert_eq!(found.record, dave());
    assert_eq!(
        (&*found.display_name, &*found.description),
        ("Dave", "on call")
    );
    assert_eq!(found.labels, labels(&[("a", "\"b\"\n")]));
    assert_eq!((found.created_ms, found.changed_at), (START_MS + 4, 4));

    // Enabling changes what it names and nothing else.
    let enabled = PrincipalRecord {
        disabled: false,
        ..dave()
    };
    let change = Change::PutPrincipal {
        record: enabled.clone(),
        display: Display::default(),
    };
    scribe.append(store, [change]).await;
    let found = find_dave(store).await;
    assert_eq!(found.record, enabled);
    assert_eq!((&*found.display_name, found.labels.len()), ("Dave", 1));
    assert_eq!((found.created_ms, found.changed_at), (START_MS + 4, 7));
}

pub(crate) async fn members_are_listed_from_both_sides(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let add = |team, member| Change::AddMember {
        team: PrincipalId(team),
        member: PrincipalId(member),
    };
    let changes = [
        put_principal(1, "user:carol"),
        put_principal(2, "user:alice"),
        put_principal(3, "service:zed"),
        put_principal(4, "team:web"),
        put_principal(5, "team:db"),
        add(4, 1),
        add(4, 2),
        add(4, 3),
        add(5, 1),
    ];
    scribe.append(store, changes).await;
    let check = async |edit: fn(&mut MemberQuery), expected: &str, next: Option<&str>| {
        let mut query = MemberQuery {
            limit: 10,
            ..MemberQuery::default()
        };
        edit(&mut query);
        let of_team = query.team.is_some();
        let page = store.members(query).await.expect("a page");
        let listed = page.rows.iter().map(|one| match of_team {
            true => one.member.to_string(),
            false => one.team.to_string(),
        });
        let names: Vec<_> = listed.collect();
        assert_eq!((&*names.join(" "), page.next.as_deref()), (expected, next));
    };
    let web: fn(&mut MemberQuery) = |query| query.team = Some(PrincipalId(4));
    check(web, "service:zed user:alice user:carol", None).await;
    let two: fn(&mut MemberQuery) = |query| {
        query.team = Some(PrincipalId(4));
        query.limit = 2;
    };
    check(two, "service:zed user:alice", Some("user:alice")).await;
    let rest: fn(&mut MemberQuery) = |query| {
        query.team = Some(PrincipalId(4));
        query.after = Some("user:alice".to_owned());
    };
    check(rest, "user:carol", None).await;
    check(
        |query| query.team = Some(PrincipalId(5)),
        "user:carol",
        None,
    )
    .await;
    let carol: fn(&mut MemberQuery) = |query| query.member = Some(PrincipalId(1));
    check(carol, "team:db team:web", None).await;
    let one: fn(&mut MemberQuery) = |query| {
        query.member = Some(PrincipalId(1));
        query.limit = 1;
    };
    check(one, "team:db", Some("team:db")).await;
    check(|query| query.member = Some(PrincipalId(9)), "", None).await;
}

pub(crate) async fn roles_are_filtered_and_paged(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let record = role("probe", "acme/web", &["a:x", "b:*"]);
    let display = Display {
        description: Some("reads".to_owned()),
        ..Display::default()
    };
    let changes = [
        put_role("beta", "acme", &[]),
        put_role("alpha", "acme/website", &["*"]),
        Change::PutRole {
            record: record.clone(),
            display,
        },
    ];
    scribe.append(store, changes).await;
    let check = async |edit: fn(&mut RoleQuery), expected: &str, next: Option<&str>| {
        let mut query = RoleQuery {
            limit: 10,
            ..RoleQuery::default()
        };
        edit(&mut query);
        let page = store.roles(query).await.expect("a page");
        let names: Vec<_> = page
            .rows
            .iter()
            .map(|one| one.record.name.as_str())
            .collect();
        assert_eq!((&*names.join(" "), page.next.as_deref()), (expected, next));
        page.rows.into_iter().next_back()
    };
    check(|_| {}, "alpha beta probe", None).await;
    check(|query| query.limit = 2, "alpha beta", Some("beta")).await;
    check(|query| query.after = Some("beta".into()), "probe", None).await;
    check(|query| query.name = RoleName::parse("beta"), "beta", None).await;
    let under: fn(&mut RoleQuery) = |query| query.home_under = Some(resource("acme/web"));
    let probe = check(under, "probe", None).await.expect("one");
    assert_eq!((probe.record, &*probe.description), (record, "reads"));
    assert_eq!((probe.created_ms, probe.changed_at), (START_MS + 3, 3));
}

pub(crate) async fn grants_are_filtered_and_paged(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let changes = [
        put_principal(1, "user:alice"),
        put_principal(2, "team:web"),
        put_role("agent", "acme", &["a:*"]),
        put_role("probe", "acme", &["a:x"]),
        Change::PutGrant(grant(1, 1, "agent", "acme/**")),
        Change::PutGrant(grant(2, 2, "agent", "acme/web/*/x")),
        Change::PutGrant(grant(3, 2, "probe", "acmeology")),
        Change::PutGrant(grant(4, 1, "probe", "**")),
    ];
    scribe.append(store, changes).await;
    let check = async |edit: fn(&mut GrantQuery), expected: &[u32], next: Option<u32>| {
        let mut query = GrantQuery {
            limit: 10,
            ..GrantQuery::default()
        };
        edit(&mut query);
        let page = store.grants(query).await.expect("a page");
        let ids: Vec<_> = page.rows.iter().map(|one| one.record.id.0).collect();
        assert_eq!((&*ids, page.next), (expected, next));
        page.rows.into_iter().next_back()
    };
    check(|_| {}, &[1, 2, 3, 4], None).await;
    check(|query| query.limit = 3, &[1, 2, 3], Some(3)).await;
    check(|query| query.after = Some(3), &[4], None).await;
    check(|query| query.id = Some(9), &[], None).await;
    check(
        |query| query.principal = Some(PrincipalId(2)),
        &[2, 3],
        None,
    )
    .await;
    check(|query| query.role = RoleName::parse("probe"), &[3, 4], None).await;
    let under: fn(&mut GrantQuery) = |query| query.resource_under = Some(resource("acme"));
    check(under, &[1, 2], None).await;
    let found = check(|query| query.id = Some(2), &[2], None)
        .await
        .expect("one");
    assert_eq!(found.record, grant(2, 2, "agent", "acme/web/*/x"));
    assert_eq!(found.principal_name.to_string(), "team:web");
    assert_eq!(found.created_ms, START_MS + 6);
}
