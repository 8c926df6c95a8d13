//! How fast one address may call: what comes faster is refused, and what must get through does.
//!
//! Against a server of its own with small rates, through the public doors. The arithmetic of the
//! measure is tested beside it, with instants of its own.

use std::path::Path;

use latchkey::proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::fleet::why;
use crate::leaks::metrics;
use crate::logins::house::{House, REASON, by_secret};
use crate::program::{Server, fresh};
use crate::wire::bearer;

/// So many fail before anything is over, on however slow a machine.
const ATTEMPTS: usize = 500;

fn must_be_told_when(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(why(status), "RATE_LIMITED");
    let again = status.get_details_retry_info();
    let again = again.and_then(|again| again.retry_delay).expect("when");
    assert!(!again.is_zero());
}

/// A server where one login of a client id may fail in a second, and a secret of an account there.
async fn where_one_fails_a_second(data: &Path) -> (Server, House, String) {
    let rate = ["--set", "limits.failed_logins_per_second=1"];
    let server = Server::start_with(data, &rate).expect("serves");
    let mut house = House::furnished(&server).await;
    let settings = v1::LoginSettings::default();
    let method = v1::LoginMethodKind::UniversalAuth;
    house.set_method(method, settings).await;
    let secret = house.secret(House::wanted()).await.client_secret;
    (server, house, secret)
}

#[tokio::test]
async fn who_fails_to_log_in_too_fast_is_not_looked_at_any_more() {
    let dir = fresh();
    let (server, mut house, secret) = where_one_fails_a_second(dir.path()).await;
    let token = house.login(&secret).await.access_token;

    // Of the right form: what is not, is no guess.
    let guess = house.secret(House::wanted()).await.client_secret;
    house.revoke_found(&guess).await;
    let mut refused = None;
    for _ in 0..ATTEMPTS {
        let status = house.try_login(&guess).await.expect_err("revoked");
        if status.code() != Code::Unauthenticated {
            refused = Some(status);
            break;
        }
    }
    must_be_told_when(&refused.expect("too fast"));
    // On a slow machine its time may have come; then another guess takes it away again.
    let mut shut_out = None;
    for _ in 0..ATTEMPTS {
        if let Err(status) = house.try_login(&secret).await {
            shut_out = Some(status);
            break;
        }
        house.try_login(&guess).await.expect_err("revoked");
    }
    must_be_told_when(&shut_out.expect("from there, too"));
    // Nobody else is kept from anything.
    assert_eq!(house.may_deploy(&token).await, v1::Reason::Allowed);
    house.revoke_found(&token).await;
    assert_eq!(house.may_deploy(&token).await, v1::Reason::Revoked);
    let counted = r#"latchkey_calls_rate_limited_total{limit="failed_logins"} "#;
    let page = metrics(&server.admin_address);
    let count = page.lines().find_map(|line| line.strip_prefix(counted));
    let count: u64 = count.expect("counted").parse().expect("a number");
    assert!(count >= 2, "{page}");
}

#[tokio::test]
async fn who_guesses_keeps_no_other_behind_its_address_from_logging_in() {
    let dir = fresh();
    let (_server, mut house, secret) = where_one_fails_a_second(dir.path()).await;
    // By a name that nobody has, and by a token that is none any more.
    let guess = by_secret("service:nobody", &secret);
    let ended = house.login(&secret).await.access_token;
    house.revoke_found(&ended).await;
    let renew = || bearer(&ended, v1::RenewAccessTokenRequest::default());
    let mut refused = [None, None];
    for _ in 0..ATTEMPTS {
        let outcomes = [
            house.logins.login(guess.clone()).await.err(),
            house.logins.renew_access_token(renew()).await.err(),
        ];
        for (refused, outcome) in refused.iter_mut().zip(outcomes) {
            let status = outcome.expect("a guess");
            if status.code() != Code::Unauthenticated {
                refused.get_or_insert(status);
            }
        }
        house.login(&secret).await;
        if refused.iter().all(Option::is_some) {
            break;
        }
    }
    for status in refused {
        must_be_told_when(&status.expect("too fast"));
    }
}

#[tokio::test]
async fn a_flood_of_calls_keeps_no_revocation_out() {
    let dir = fresh();
    let rate = ["--set", "limits.calls_per_second=1"];
    let server = Server::start_with(dir.path(), &rate).expect("serves");
    let admin = server.admin.clone().expect("fresh");
    let mut house = House::of(&server.address, &admin).await;
    let mut refused = None;
    for _ in 0..ATTEMPTS {
        let who = bearer(&admin, v1::WhoAmIRequest::default());
        if let Err(status) = house.tokens.who_am_i(who).await {
            refused = Some(status);
            break;
        }
    }
    must_be_told_when(&refused.expect("too fast"));
    // A Check is no such call, and neither is the health of the server.
    let answer = house.check(&admin, &[]).await;
    assert!(answer.allowed, "{answer:?}");
    server.admin().run("health").ok();
    let revoke = v1::RevokeAllRequest {
        target: Some(v1::revoke_all_request::Target::ResourceUnder(
            "acme".to_owned(),
        )),
        reason: REASON.to_owned(),
        ..v1::RevokeAllRequest::default()
    };
    let revoked = house.tokens.revoke_all(bearer(&admin, revoke)).await;
    revoked.expect("it is no other call's turn");
}
