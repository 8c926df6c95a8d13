//! Logins of a replica that has sealed nothing since its start and has no database: by a key that
//! has sealed for long, of which all who answer have heard, and by one that is new.
//!
//! That the others have loaded it was seen when it began to seal.

use std::sync::Arc;

use arc_swap::ArcSwap;
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::seal::key::SealKey;
use latchkey::domain::seal::ring::Ring;
use latchkey::proto::v1;
use tonic::Code;

use super::fleet::{confirmed, with_settings};
use super::house::{House, REASON};
use super::past::{begin, open};
use crate::fleet::{LONG, Node, Options};
use crate::postgres::database;
use crate::proxy::Flow;
use crate::wire::bearer;

/// Longer than two of the longest leases.
const LONG_AGO_MS: u64 = 11 * 60 * 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn who_has_sealed_nothing_yet_needs_no_database_to_seal_by_an_old_key_postgres() {
    let database = database().await;
    let [old, new] = [(); 2].map(|()| SealKey::generate(&OsEntropy));
    let new_id = new.id();
    begin(&open(&database).await, &[(old.id(), LONG_AGO_MS)]).await;
    let mut options = Options::lease(LONG);
    options.seals = Arc::new(ArcSwap::from_pointee(Ring::new([old, new])));
    let a = Node::start(&database, "a", options.clone()).await;
    let admin = a.authority.bootstrap(false).await.expect("written");
    let admin = admin.expect("the first").reveal().to_owned();
    let mut house = House::of(&a.address, &admin).await;
    house.furnish().await;
    let secret = with_settings(&mut house, v1::LoginSettings::default()).await;

    // It has loaded all that there is, and then there is no database any more.
    let b = Node::start(&database, "b", options.clone()).await;
    let cut = |node: &Node| {
        node.way.both_ways(Flow::Close);
        node.way.cut();
    };
    cut(&b);
    let mut restarted = House::of(&b.address, &admin).await;
    let token = restarted.login(&secret).await;
    for house in [&mut house, &mut restarted] {
        let reason = house.may_deploy(&token.access_token).await;
        assert_eq!(reason, v1::Reason::Allowed);
    }
    b.heal();

    // Of a new one only those have heard who say so.
    let rotate = v1::RotateKeyRequest {
        key_id: new_id.to_string(),
        wait_for_replicas: true,
        reason: REASON.to_owned(),
        ..v1::RotateKeyRequest::default()
    };
    let rotated = house.keys.rotate_key(bearer(&admin, rotate)).await;
    confirmed(rotated.expect("rotated").into_inner().enforcement);
    let c = Node::start(&database, "c", options).await;
    cut(&c);
    let mut restarted = House::of(&c.address, &admin).await;
    let refused = restarted.try_login(&secret).await;
    let refused = refused.expect_err("it may be unheard of");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}
