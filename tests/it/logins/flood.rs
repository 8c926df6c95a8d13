//! Guesses, by the clock: when they lock out, and a good login while many wait to be counted.
//!
//! By the verbs of an authority on a database in memory, in virtual time: how long a login takes is
//! what it waits for.

use std::net::IpAddr;
use std::time::Duration;

use latchkey::authority::login::{LoginCall, Proof};
use latchkey::authority::{
    Call, Command, CreateCredential, CredentialForm, Credentials, ScopesAsked, SetMethod,
};
use latchkey::domain::change::Display;
use latchkey::domain::limits::Networks;
use latchkey::domain::login::{LockoutPolicy, LoginMethod, LoginSettings};
use latchkey::domain::permission::Resource;
use latchkey::domain::principal::PrincipalName;
use latchkey::domain::refusal::Refusal;
use latchkey::domain::scopes::Scopes;
use latchkey::domain::token::{Digest, Secret, TokenId};
use tokio::time::{Instant, timeout};

use super::house::ACCOUNT;
use crate::behind::{Node, start};
use crate::outage::line::Database;

const HERE: &str = "192.0.2.1";
const ELSEWHERE: &str = "192.0.2.2";
/// As often as one may fail, and once more.
const THRESHOLD: u32 = 3;

/// A server with an account that logs in.
struct Gate {
    node: Node,
    admin: Secret,
    secret: Secret,
}

impl Gate {
    async fn start() -> Self {
        Self::start_with(LockoutPolicy {
            threshold: THRESHOLD,
            duration_s: 3_600,
            reset_s: 3_600,
        })
        .await
    }

    async fn start_with(lockout: LockoutPolicy) -> Self {
        let node = start(&Database::new(), 1).await;
        let admin = node.authority.bootstrap(false).await.expect("written");
        let admin = admin.expect("the first");
        let call = called_by(&admin);
        for command in [
            Command::CreatePrincipal {
                name: account(),
                home: Resource::parse("acme").expect("a path"),
                display: Display::default(),
            },
            Command::SetMethod(Box::new(SetMethod {
                account: account(),
                method: LoginMethod::UniversalAuth,
                settings: LoginSettings {
                    // Such tokens are stored: no server has a seal key here.
                    uses: Some(1),
                    lockout: Some(lockout),
                    ..LoginSettings::default()
                },
            })),
        ] {
            node.authority.write(call, command).await.expect("written");
        }
        let asked = CreateCredential {
            id: TokenId::from_u128(0),
            form: CredentialForm::Secret(Digest::from_bytes([0; 32])),
            account: account(),
            scopes: ScopesAsked::All,
            ttl_s: None,
            not_before_ms: None,
            uses: None,
            networks: Networks::default(),
            workload: None,
            display: Display::default(),
        };
        let made = node.authority.create_client_secret(call, asked).await;
        let secret = made.expect("made").secret.expect("the first answer");
        Self {
            node,
            admin,
            secret,
        }
    }

    async fn login(&self, client_id: &str, secret: &str, from: &str) -> Result<(), Refusal> {
        let call = LoginCall {
            client_id,
            proof: Proof::Secret(secret),
            credentials: Credentials {
                client_ip: Some(address(from)),
                ..Credentials::default()
            },
            ttl_s: None,
            scopes: Scopes::All,
            audience: None,
        };
        self.node.authority.login(&call).await.1.map(drop)
    }

    async fn guess(&self, client_id: &str, from: &str) {
        let refused = self.login(client_id, "garbage", from).await;
        assert_eq!(refused, Err(Refusal::LoginRefused(None)));
    }

    async fn good(&self) -> Result<(), Refusal> {
        self.login(ACCOUNT, self.secret.reveal(), HERE).await
    }

    /// More than can wait, of names that nobody has.
    async fn flood(&self) {
        for number in 0..300 {
            self.guess(&format!("service:nobody-{number}"), ELSEWHERE)
                .await;
        }
    }

    fn locked(&self) -> Vec<String> {
        let credentials = called_by(&self.admin).credentials;
        let methods = self.node.authority.methods(credentials, &account());
        let locked = methods.expect("told").locked.into_iter();
        locked.map(|(network, _)| network.to_string()).collect()
    }

    /// Guesses from elsewhere until these are counted: all that were before are then, too.
    async fn until_counted(&self) {
        let locked_elsewhere = || self.locked().contains(&format!("{ELSEWHERE}/32"));
        while !locked_elsewhere() {
            self.guess(ACCOUNT, ELSEWHERE).await;
            pass(Duration::from_millis(100)).await;
        }
    }
}

/// Lets virtual time pass.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

fn account() -> PrincipalName {
    PrincipalName::parse(ACCOUNT).expect("a name")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn called_by(token: &Secret) -> Call<'_> {
    Call {
        credentials: Credentials {
            token: Some(token.reveal()),
            ..Credentials::default()
        },
        reason: "test",
        ..Call::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_login_waits_for_no_guesses_of_others_and_begins_the_count_anew() {
    const EACH: Duration = Duration::from_millis(100);
    let gate = Gate::start().await;
    gate.node.line.count_in(EACH);
    // One is counted before the flood, one waits in it.
    gate.guess(ACCOUNT, HERE).await;
    pass(2 * EACH).await;
    gate.flood().await;
    pass(2 * EACH).await;
    gate.guess(ACCOUNT, HERE).await;
    let begun = Instant::now();
    gate.good().await.expect("let in");
    let waited = begun.elapsed();
    assert!(waited <= 2 * EACH, "{waited:?}");
    for _ in 1..THRESHOLD {
        gate.guess(ACCOUNT, HERE).await;
    }
    gate.until_counted().await;
    assert_eq!(gate.locked(), [format!("{ELSEWHERE}/32")]);
    gate.good().await.expect("let in");
    gate.node.task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_good_login_waits_for_a_store_that_counts_nothing_but_shortly() {
    let gate = Gate::start().await;
    for _ in 1..THRESHOLD {
        gate.guess(ACCOUNT, HERE).await;
    }
    pass(Duration::from_millis(1)).await;
    gate.node.line.count_in(Duration::from_secs(600));
    gate.guess(ACCOUNT, ELSEWHERE).await;
    pass(Duration::from_millis(1)).await;
    let good = timeout(Duration::from_secs(5), gate.good()).await;
    good.expect("soon").expect("let in");
    // What it was to begin anew begins anew all the same, later.
    gate.node.line.count_in(Duration::ZERO);
    for _ in 1..THRESHOLD {
        gate.guess(ACCOUNT, HERE).await;
    }
    gate.until_counted().await;
    assert_eq!(gate.locked(), [format!("{ELSEWHERE}/32")]);
    gate.good().await.expect("let in");
    gate.node.task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn three_failures_lock_out_for_five_minutes_and_none_adds_up_after_half_a_minute() {
    const MOMENT: Duration = Duration::from_millis(1);
    let gate = Gate::start_with(LockoutPolicy::default()).await;
    let guesses = async |count: u32| {
        for _ in 0..count {
            gate.guess(ACCOUNT, HERE).await;
            pass(MOMENT).await;
        }
    };
    guesses(2).await;
    pass(Duration::from_secs(30)).await;
    guesses(2).await;
    assert_eq!(gate.locked(), [""; 0], "the first two are forgotten");
    pass(Duration::from_secs(29)).await;
    guesses(1).await;
    assert_eq!(gate.locked(), [format!("{HERE}/32")], "the third one");
    pass(Duration::from_secs(299)).await;
    let refused = gate.good().await;
    assert_eq!(refused, Err(Refusal::LoginRefused(None)));
    pass(Duration::from_secs(1)).await;
    gate.good().await.expect("let in again");
    gate.node.task.stop().await;
}
