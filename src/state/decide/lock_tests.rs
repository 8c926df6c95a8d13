//! Locks over State alone: whom they refuse, how many there are, and how they end.
//!
//! In the world of `login_tests`, where `service:ci` deploys in `acme/web`. Each is of the server's
//! own making; what guesses are is the authority's.

use super::super::login::LoginRefused;
use super::login_tests::*;
use super::tests::*;
use super::*;
use crate::domain::login::{ClientNetwork, LoginCause, LoginMethod, LoginSettings};

#[test]
fn a_lock_is_of_one_account_and_network_and_ends_by_itself() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let account = logins.world.state.principal_named(&name("service:ci"));
    let account = account.expect("there").id;
    let network = ClientNetwork::of("10.0.0.1".parse().ok());
    let lock = || Command::LockLogins {
        account,
        method: LoginMethod::UniversalAuth,
        network,
    };
    let refused = logins.as_admin(lock());
    assert!(
        matches!(refused, Err(Refusal::NotPermitted(_))),
        "the server's own"
    );
    logins
        .world
        .run(Caller::System, lock(), "")
        .expect("locked");
    assert_eq!(logins.login(&secret).err(), Some(LoginRefused::Locked));
    let mut elsewhere = Logins::asked(&secret);
    elsewhere.client_ip = "10.0.0.2".parse().ok();
    assert!(
        logins.granted(&elsewhere).is_ok(),
        "nobody else is locked out"
    );
    let again = logins.world.run(Caller::System, lock(), "");
    assert!(
        matches!(again, Ok(Outcome::Already)),
        "it is not made longer"
    );
    logins.world.now_ms += 300_000;
    assert!(logins.login(&secret).is_ok());
    logins.world.now_ms += 1;
    logins
        .world
        .run(
            Caller::System,
            Command::Forget {
                before_ms: logins.world.now_ms,
                slice: 0,
            },
            "",
        )
        .expect("forgotten");
    assert_eq!(logins.world.state.locks_of(account).count(), 0);
}

#[test]
fn a_lock_takes_those_that_have_ended_with_it() {
    let mut logins = Logins::new();
    let account = logins.world.state.principal_named(&name("service:ci"));
    let account = account.expect("there").id;
    let mut lock = |number: u8| {
        let command = Command::LockLogins {
            account,
            method: LoginMethod::UniversalAuth,
            network: ClientNetwork::of(Some([10, 0, 0, number].into())),
        };
        let locked = logins.world.run(Caller::System, command, "");
        assert!(matches!(locked, Ok(Outcome::Change { .. })));
        logins.world.now_ms += 100_000;
        logins.world.state.locks_of(account).count()
    };
    // They last for 300 s.
    let standing: Vec<usize> = (0..6).map(&mut lock).collect();
    assert_eq!(standing, [1, 2, 3, 3, 3, 3]);
}

#[test]
fn locks_are_ended_at_once_by_who_may_set_the_method() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let account = logins.world.state.principal_named(&name("service:ci"));
    let account = account.expect("there").id;
    let network = |number: u8| ClientNetwork::of(Some([10, 0, 0, number].into()));
    let lock = |logins: &mut Logins, number: u8| {
        let command = Command::LockLogins {
            account,
            method: LoginMethod::UniversalAuth,
            network: network(number),
        };
        let locked = logins.world.run(Caller::System, command, "");
        locked.expect("locked");
    };
    let unlock = |network| Command::UnlockLogins {
        account: name("service:ci"),
        network,
    };
    for number in 1..4 {
        lock(&mut logins, number);
    }
    let ended = |outcome: Result<Outcome, Refusal>| match outcome {
        Ok(Outcome::Change {
            change: Change::Unlock { networks, .. },
            kind: EntryKind::LoginUnlock,
            ..
        }) => networks,
        Ok(Outcome::Already) => Vec::new(),
        other => panic!("{other:?}"),
    };
    assert_eq!(logins.login(&secret).err(), Some(LoginRefused::Locked));
    let one = logins.as_admin(unlock(Some(network(1))));
    assert_eq!(ended(one), [network(1)]);
    assert!(logins.login(&secret).is_ok());
    let again = logins.as_admin(unlock(Some(network(1))));
    assert_eq!(ended(again), []);
    // One that has ended is not ended again.
    logins.world.now_ms += 300_000;
    lock(&mut logins, 7);
    let all = logins.as_admin(unlock(None));
    assert_eq!(ended(all), [network(7)]);
    assert_eq!(logins.world.state.locks_of(account).count(), 0);
    let none = logins.as_admin(unlock(None));
    assert_eq!(ended(none), []);
}

#[test]
fn a_lock_stands_only_while_the_settings_lock_out() {
    let mut logins = Logins::new();
    let secret = logins.create(|_| {});
    let account = logins.world.state.principal_named(&name("service:ci"));
    let lock = Command::LockLogins {
        account: account.expect("there").id,
        method: LoginMethod::UniversalAuth,
        network: ClientNetwork::of("10.0.0.1".parse().ok()),
    };
    let locked = logins.world.run(Caller::System, lock, "");
    locked.expect("locked");
    let never = LoginSettings {
        lockout: None,
        ..LoginSettings::default()
    };
    logins.set(never).expect("set");
    assert!(logins.login(&secret).is_ok());
    logins.set(LoginSettings::default()).expect("set");
    assert_eq!(logins.login(&secret).err(), Some(LoginRefused::Locked));
    let remove = Command::RemoveMethod {
        account: name("service:ci"),
        method: LoginMethod::UniversalAuth,
    };
    logins.as_admin(remove).expect("removed");
    assert_eq!(
        logins.login(&secret).err(),
        Some(LoginRefused::Ended(LoginCause::NoMethod))
    );
}

#[test]
fn so_many_networks_of_an_account_are_locked_out_and_no_more() {
    const MOST: usize = 64;
    let mut logins = Logins::new();
    let account = logins.world.state.principal_named(&name("service:ci"));
    let account = account.expect("there").id;
    let lock = |logins: &mut Logins, number: usize| {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + number as u32);
        let command = Command::LockLogins {
            account,
            method: LoginMethod::UniversalAuth,
            network: ClientNetwork::of(Some(address.into())),
        };
        let outcome = logins.world.run(Caller::System, command, "");
        matches!(outcome, Ok(Outcome::Change { .. }))
    };
    for number in 0..MOST + 6 {
        assert_eq!(lock(&mut logins, number), number < MOST, "{number}");
    }
    logins.world.now_ms += 300_000;
    assert!(lock(&mut logins, MOST), "those have ended");
}
