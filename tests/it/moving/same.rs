//! What every list of a store says, as texts: two stores with one history say the same.
//!
//! By every filter that a query has, page by page with small pages, so that also the keys that
//! pages go on after are compared.

use std::fmt::Debug;

use latchkey::domain::change::Row;
use latchkey::domain::permission::Resource;
use latchkey::domain::principal::{PrincipalId, PrincipalKind};
use latchkey::domain::token::TokenKind;
use latchkey::store::Store;
use latchkey::store::list::{
    GrantQuery, MemberQuery, PrincipalQuery, RoleQuery, TokenQuery, TokenState,
};
use latchkey::store::logins::LoginQuery;

use crate::model::recorded::Recorded;
use crate::store::scribe::rows;

/// Rows of a page: few, so that there are many pages.
const LIMIT: usize = 7;

/// Asserts the same lines, and names the first that differs.
#[track_caller]
pub(super) fn assert_same(one: &[String], other: &[String]) {
    let differs = one.iter().zip(other).find(|(one, other)| one != other);
    if let Some((one, other)) = differs {
        panic!("{one}\nis not\n{other}");
    }
    assert_eq!(one.len(), other.len());
}

/// Every list by every filter, page by page.
pub(super) async fn lists(store: &dyn Store, made: &Recorded) -> Vec<String> {
    let mut said = Vec::new();
    let (_, all) = rows(store).await;
    let mut principals: Vec<PrincipalId> = Vec::new();
    for row in &all {
        match row {
            Row::Principal(record) => principals.push(record.id),
            Row::Token(record) => said.push(text(&store.token(record.id).await.expect("read"))),
            _ => {}
        }
    }
    tokens(store, made, &principals, &mut said).await;
    directory(store, &principals, &mut said).await;
    said
}

async fn tokens(
    store: &dyn Store,
    made: &Recorded,
    principals: &[PrincipalId],
    said: &mut Vec<String>,
) {
    let base = TokenQuery {
        now_ms: made.now,
        limit: LIMIT,
        ..TokenQuery::default()
    };
    let mut queries = vec![base.clone()];
    let states = [
        TokenState::Active,
        TokenState::NotYetValid,
        TokenState::Expired,
        TokenState::Revoked,
    ];
    queries.extend(states.map(|state| TokenQuery {
        state: Some(state),
        ..base.clone()
    }));
    queries.extend(TokenKind::ALL.map(|kind| TokenQuery {
        kind: Some(kind),
        ..base.clone()
    }));
    for id in principals {
        queries.push(TokenQuery {
            subject: Some(*id),
            ..base.clone()
        });
        queries.push(TokenQuery {
            issuer: Some(*id),
            ..base.clone()
        });
    }
    for path in ["a", "b", "a/x"] {
        queries.push(TokenQuery {
            resource_under: Resource::parse(path).ok(),
            ..base.clone()
        });
    }
    for (key, value) in [("app", Some("web")), ("odd", None), ("nothing", None)] {
        queries.push(TokenQuery {
            label: Some((key.to_owned(), value.map(str::to_owned))),
            ..base.clone()
        });
    }
    for mut query in queries {
        loop {
            let page = store.tokens(query.clone()).await.expect("a page");
            said.push(text(&page));
            query.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
    }
}

async fn directory(store: &dyn Store, principals: &[PrincipalId], said: &mut Vec<String>) {
    for kind in [
        PrincipalKind::User,
        PrincipalKind::Team,
        PrincipalKind::Service,
    ] {
        let query = PrincipalQuery {
            kind,
            name: None,
            home_under: None,
            after: None,
            limit: LIMIT,
        };
        said.push(text(&store.principals(query).await.expect("a page")));
    }
    for id in principals {
        for (team, member) in [(Some(*id), None), (None, Some(*id))] {
            let query = MemberQuery {
                team,
                member,
                after: None,
                limit: LIMIT,
            };
            said.push(text(&store.members(query).await.expect("a page")));
        }
        let query = GrantQuery {
            principal: Some(*id),
            limit: LIMIT,
            ..GrantQuery::default()
        };
        said.push(text(&store.grants(query).await.expect("a page")));
    }
    let query = RoleQuery {
        limit: LIMIT,
        ..RoleQuery::default()
    };
    said.push(text(&store.roles(query).await.expect("a page")));
    let query = GrantQuery {
        limit: 1_000,
        ..GrantQuery::default()
    };
    said.push(text(&store.grants(query).await.expect("a page")));
    let mut query = LoginQuery {
        limit: LIMIT,
        ..LoginQuery::default()
    };
    loop {
        let page = store.logins(query.clone()).await.expect("a page");
        said.push(text(&page.rows));
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
}

fn text(value: &impl Debug) -> String {
    format!("{value:?}")
}
