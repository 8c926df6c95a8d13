//! What users of several replicas are promised: what is confirmed is enforced everywhere, and
//! what was asked to work everywhere does.
//!
//! By the API of whole servers in this process. A replica is cut off by holding up its way to
//! the database, and nothing here is judged by how long it took.

use std::time::Duration;

use latchkey::proto::v1;
use tonic::{Code, Request};
use v1::enforcement::State;

use crate::crash::issue;
use crate::fleet::{
    LONG, NEED, Node, Options, far, fleet, issued, reason, revoke, revoked, why, within,
};
use crate::leaks::metrics;
use crate::postgres::{Database, bouncer};
use crate::wire::{bearer, check};

const SHORT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_holds_on_every_replica_postgres() {
    let ([a, b, c], admin) = fleet([LONG; 3].map(Options::lease)).await;
    for _ in 0..10 {
        let secret = issued(&a, &admin).await;
        for node in [&a, &b, &c] {
            assert_eq!(reason(node, &secret).await, v1::Reason::Allowed);
        }
        let answer = revoked(&b, &admin, &secret, LONG).await;
        let enforcement = answer.enforcement.expect("always");
        assert_eq!(
            far(&enforcement),
            (State::Confirmed, vec!["a", "b", "c"], vec![])
        );
        for node in [&a, &b, &c] {
            assert_eq!(reason(node, &secret).await, v1::Reason::Revoked);
        }
    }
    let told = metrics(&b.admin);
    let waited = "latchkey_barrier_seconds_count{outcome=\"confirmed\"} 10";
    assert!(told.contains(waited), "{told}");
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_cut_off_is_missing_until_its_lease_has_ended_postgres() {
    let ([a, b], admin) = fleet([
        Options::lease(Duration::from_secs(8)),
        Options::lease(SHORT),
    ])
    .await;
    let secret = issued(&a, &admin).await;
    b.partition();
    let time = SHORT;
    let answer = revoked(&a, &admin, &secret, time).await;
    let enforcement = answer.enforcement.expect("always");
    assert_eq!(far(&enforcement), (State::Committed, vec!["a"], vec!["b"]));

    let left = enforcement.everywhere_after.expect("with COMMITTED");
    // The longest lease, the slack of 5 in a hundred, less what it waited; never nothing.
    assert!(
        left.seconds < 9 && (left.seconds, left.nanos) > (0, 0),
        "{left:?}"
    );
    // Sent again, it is waited for again; so it is by its revision alone.
    let again = revoked(&a, &admin, &secret, time).await;
    assert!(again.already_revoked);
    assert_eq!(again.enforcement.expect("always").state(), State::Committed);
    let wait = v1::WaitForRevisionRequest {
        revision: answer.revision,
    };
    let waited = a
        .cluster()
        .await
        .wait_for_revision(bearer(&admin, wait))
        .await;
    let waited = waited
        .expect("waited")
        .into_inner()
        .enforcement
        .expect("always");
    assert_eq!(far(&waited), (State::Confirmed, vec!["a"], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_wait_keep_nobody_from_a_place_postgres() {
    // One place for each peer, and one for each peer's writes that wait.
    let mut narrow = Options::lease(LONG);
    narrow.limits.requests_waiting_max = 8;
    let ([a, b], admin) = fleet([narrow, Options::lease(LONG)]).await;
    let (first, second) = (issued(&a, &admin).await, issued(&a, &admin).await);
    b.partition();
    let mut tokens = a.tokens().await;
    let waiting = {
        let (mut tokens, admin, first) = (tokens.clone(), admin.clone(), first.clone());
        tokio::spawn(async move { tokens.revoke_token(bearer(&admin, revoke(&first))).await })
    };
    // Whose body does not come with its headers needs a place, too.
    let mut checks = a.checks().await;
    loop {
        match checks.check(check(&first, &NEED)).await {
            Ok(answer) if answer.get_ref().reason() == v1::Reason::Revoked => break,
            Ok(_) => {}
            Err(status) => assert_eq!(why(&status), "UNAVAILABLE", "{status:?}"),
        }
    }
    // Written, it waits for b. The place of the call is anybody's again, once it stepped aside.
    let me = loop {
        match tokens.who_am_i(bearer(&admin, v1::WhoAmIRequest {})).await {
            Ok(me) => break me.into_inner(),
            Err(status) => assert_eq!(why(&status), "UNAVAILABLE", "{status:?}"),
        }
    };
    assert_eq!(me.subject, "user:admin");
    // A second one finds no place to wait, and says how far it has come.
    let told = committed(&a, &admin, &second).await;
    assert_eq!(far(&told), (State::Committed, vec!["a"], vec!["b"]));
    assert!(!waiting.is_finished(), "the first still waits");
    b.heal();
    let answer = waiting
        .await
        .expect("no panic")
        .expect("revoked")
        .into_inner();
    let enforcement = answer.enforcement.expect("always");
    assert_eq!(
        far(&enforcement),
        (State::Confirmed, vec!["a", "b"], vec![])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_waited_for_by_who_is_known_postgres() {
    let ([a, b], admin) = fleet([Options::lease(LONG), Options::lease(LONG)]).await;
    let everywhere = v1::IssueTokenRequest {
        wait_for_replicas: true,
        ..issue(1)
    };
    let made = a
        .tokens()
        .await
        .issue_token(bearer(&admin, everywhere))
        .await;
    let made = made.expect("issued").into_inner();
    let revision = made.revision.clone().expect("a revision");
    let mut cluster = b.cluster().await;
    let wait = |revision: &v1::Revision| v1::WaitForRevisionRequest {
        revision: Some(revision.clone()),
    };
    let waited = cluster
        .wait_for_revision(bearer(&made.secret, wait(&revision)))
        .await;
    let enforcement = waited
        .expect("waited")
        .into_inner()
        .enforcement
        .expect("always");
    assert_eq!(
        far(&enforcement),
        (State::Confirmed, vec!["a", "b"], vec![])
    );
    let no_chain = v1::Revision {
        chain: Vec::new(),
        ..revision.clone()
    };
    let waited = cluster
        .wait_for_revision(bearer(&admin, wait(&no_chain)))
        .await;
    assert_eq!(
        waited
            .expect("waited")
            .into_inner()
            .enforcement
            .expect("always")
            .state(),
        State::Confirmed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_none_is_not_waited_for_postgres() {
    let ([a], admin) = fleet([Options::lease(LONG)]).await;
    let made = a.tokens().await.issue_token(bearer(&admin, issue(1))).await;
    let made = made.expect("issued").into_inner();
    let revision = made.revision.expect("a revision");
    let mut cluster = a.cluster().await;
    let wait = |revision: &v1::Revision| v1::WaitForRevisionRequest {
        revision: Some(revision.clone()),
    };
    // The answer comes a quarter of a second before that, also on a busy machine.
    let time = SHORT;
    let future = v1::Revision {
        number: revision.number + 1_000,
        chain: Vec::new(),
    };
    let other = v1::Revision {
        chain: vec![9; 8],
        ..revision.clone()
    };
    for (request, code, reason) in [
        (
            bearer("lku_stranger", wait(&revision)),
            Code::Unauthenticated,
            "UNAUTHENTICATED",
        ),
        (
            Request::new(wait(&revision)),
            Code::Unauthenticated,
            "UNAUTHENTICATED",
        ),
        (
            within(time, bearer(&admin, wait(&future))),
            Code::DeadlineExceeded,
            "NOT_REACHED",
        ),
        (
            bearer(&admin, wait(&other)),
            Code::Aborted,
            "HISTORY_DIVERGED",
        ),
        (
            bearer(&admin, v1::WaitForRevisionRequest::default()),
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        ),
    ] {
        let refused = cluster.wait_for_revision(request).await.expect_err(reason);
        assert_eq!((refused.code(), &*why(&refused)), (code, reason));
    }
}
#[tokio::test(flavor = "multi_thread")]
async fn a_demanded_revision_is_read_at_once_where_no_wake_up_comes_postgres() {
    let mut deaf = Options::lease(LONG);
    // Neither polled nor renewed within the test.
    deaf.lease.poll = LONG;
    let ([a], admin) = fleet([Options::lease(LONG)]).await;
    // PgBouncer in transaction mode swallows wake-ups.
    let pooled = Database {
        name: a.database.clone(),
        url: bouncer::url(&a.database),
    };
    let secret = issued(&a, &admin).await;
    let b = Node::start(&pooled, "b", deaf).await;
    let mut checks = b.checks().await;
    for n in 0..20 {
        let request = within(LONG, bearer(&admin, issue(n)));
        let made = a
            .tokens()
            .await
            .issue_token(request)
            .await
            .expect("issued")
            .into_inner();
        let asked = v1::CheckRequest {
            at_least: made.revision.clone(),
            ..check(&secret, &NEED)
        };
        let answer = checks.check(within(LONG, Request::new(asked))).await;
        let answer = answer.expect("answered").into_inner();
        let (wanted, reached) = (
            made.revision.expect("a revision"),
            answer.revision.expect("one"),
        );
        assert!(reached.number >= wanted.number);
        let other = v1::CheckRequest {
            at_least: Some(v1::Revision {
                chain: vec![9; 8],
                ..wanted
            }),
            ..check(&secret, &NEED)
        };
        let refused = checks.check(other).await.expect_err("of another history");
        assert_eq!(
            (refused.code(), &*why(&refused)),
            (Code::Aborted, "HISTORY_DIVERGED")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_listed_to_who_may_see_them_postgres() {
    let ([a, b], admin) = fleet([Options::lease(LONG), Options::lease(LONG)]).await;
    let secret = issued(&a, &admin).await;
    let mut cluster = b.cluster().await;
    let list = |token: &str| bearer(token, v1::ListReplicasRequest {});
    let refused = cluster
        .list_replicas(list(&secret))
        .await
        .expect_err("no right");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("cluster:read@**"),
        "{}",
        refused.message()
    );
    let seen = cluster
        .list_replicas(list(&admin))
        .await
        .expect("listed")
        .into_inner();
    let lease = Some(prost_types::Duration {
        seconds: 300,
        nanos: 0,
    });
    assert_eq!(seen.lease, lease);
    let head = seen.head.expect("a head");
    let names: Vec<&str> = seen.replicas.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    for one in &seen.replicas {
        assert_eq!(one.lease, lease);
        let expected = if one.name == "a" { &a } else { &b };
        assert_eq!(one.address, expected.address);
        assert!(one.incarnation.len() == 32 && one.heard_ago.is_some() && one.joined_at.is_some());
        assert_eq!(one.applied_revision + one.lag_revisions, head.number);
        assert_eq!(one.is_this_server, one.name == "b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_deadline_the_servers_own_time_ends_the_wait_postgres() {
    let mut hasty = Options::lease(LONG);
    hasty.confirm_time_max = Duration::from_millis(200);
    let ([a, b], admin) = fleet([hasty, Options::lease(LONG)]).await;
    let secret = issued(&b, &admin).await;
    b.partition();
    let told = committed(&a, &admin, &secret).await;
    assert_eq!(far(&told), (State::Committed, vec!["a"], vec!["b"]));
}

/// How far a revocation is that is confirmed at no time; without a deadline of its caller's.
async fn committed(node: &Node, admin: &str, secret: &str) -> v1::Enforcement {
    let mut tokens = node.tokens().await;
    loop {
        let answer = tokens.revoke_token(bearer(admin, revoke(secret))).await;
        let enforcement = answer.expect("revoked").into_inner().enforcement;
        let enforcement = enforcement.expect("always");
        assert_eq!(enforcement.state(), State::Committed);
        // On a busy machine the members may not have been read in so short a time.
        if !enforcement.replicas.is_empty() {
            return enforcement;
        }
    }
}
