//! The client that stays logged in, against a server of canned answers.
//!
//! The clock is the test's: a token's life passes as a number, not as time.

use std::sync::Mutex;

use tonic::service::Interceptor as _;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::super::calls::Calling;
use super::super::fake_tests::{Serving, serve};
use super::*;
use crate::domain::assertion::Assertion;
use crate::domain::clock::{Clock as _, ManualClock};
use crate::domain::key::Algorithm;
use crate::domain::token::Secret;
use v1::login_service_server::{LoginService, LoginServiceServer};

type Answered<T> = Result<Response<T>, Status>;

/// Gives `lka_1`, `lka_2`, … for an hour each, unless it is told to refuse.
#[derive(Clone, Default)]
struct Canned {
    seen: Arc<Mutex<Vec<(v1::LoginRequest, bool)>>>,
    refuses: Arc<Mutex<bool>>,
}

#[tonic::async_trait]
impl LoginService for Canned {
    async fn login(&self, request: Request<v1::LoginRequest>) -> Answered<v1::LoginResponse> {
        let carries_token = request.metadata().contains_key("authorization");
        let mut seen = self.seen.lock().expect("not poisoned");
        seen.push((request.into_inner(), carries_token));
        if *self.refuses.lock().expect("not poisoned") {
            return Err(Status::unauthenticated("the login was refused"));
        }
        let token = v1::AccessToken {
            access_token: format!("lka_{}", seen.len()),
            expires_in: Some(prost_types::Duration {
                seconds: 3_600,
                nanos: 0,
            }),
            ..Default::default()
        };
        Ok(Response::new(v1::LoginResponse { token: Some(token) }))
    }

    async fn renew_access_token(
        &self,
        _: Request<v1::RenewAccessTokenRequest>,
    ) -> Answered<v1::RenewAccessTokenResponse> {
        Err(Status::unimplemented(""))
    }

    async fn exchange_token(
        &self,
        _: Request<v1::ExchangeTokenRequest>,
    ) -> Answered<v1::ExchangeTokenResponse> {
        Err(Status::unimplemented(""))
    }
}

struct World {
    canned: Canned,
    clock: Arc<ManualClock>,
    client: Client,
    _server: Serving,
}

impl World {
    async fn start() -> Self {
        let canned = Canned::default();
        let router = Server::builder().add_service(LoginServiceServer::new(canned.clone()));
        let (address, server) = serve(router).await;
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let client = Client::connect(format!("http://{address}"))
            .await
            .expect("it listens");
        Self {
            canned,
            client: client.with_clock(clock.clone()),
            clock,
            _server: server,
        }
    }

    fn logins(&self) -> usize {
        self.canned.seen.lock().expect("not poisoned").len()
    }

    fn refuse(&self, refuses: bool) {
        *self.canned.refuses.lock().expect("not poisoned") = refuses;
    }

    /// Waits until so many logins were tried.
    async fn until(&self, logins: usize) {
        while self.logins() < logins {
            tokio::task::yield_now().await;
        }
    }
}

fn presented(client: &Client) -> Option<String> {
    let mut calling = Calling::new(Arc::clone(&client.token), None);
    let request = calling.call(Request::new(())).expect("a request");
    let value = request.metadata().get("authorization")?;
    Some(value.to_str().expect("ASCII").to_owned())
}

async fn until_presented(client: &Client, token: &str) {
    while presented(client).as_deref() != Some(token) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_login_is_presented_by_all_clones_and_carries_no_token_itself() {
    let world = World::start().await;
    let before = world
        .client
        .clone()
        .with_token(CallingToken::parse("lku_x").expect("a token"));
    let secret = Secret::generate(TokenKind::ClientSecret, &OsEntropy);
    let written = format!(" {}\n", secret.reveal());
    let login = Login::with_secret("service:ci", &written).expect("a client secret");
    let login = login.with_ttl(Duration::from_secs(600));
    assert_eq!(format!("{login:?}"), "Login(service:ci)");
    let (client, kept) = before.clone().login(login).await.expect("logged in");
    assert_eq!(presented(&client.clone()).as_deref(), Some("Bearer lka_1"));
    assert_eq!(
        presented(&before).as_deref(),
        Some("Bearer lku_x"),
        "another client"
    );
    assert!(kept.failure().is_none());
    let (request, carried) = world.canned.seen.lock().expect("not poisoned")[0].clone();
    assert!(!carried);
    assert_eq!(request.client_id, "service:ci");
    let shown = Proof::ClientSecret(secret.reveal().to_owned());
    assert_eq!(request.proof, Some(shown));
    assert_eq!(request.ttl.map(|ttl| ttl.seconds), Some(600));
}

#[test]
fn what_can_be_no_client_secret_is_never_sent_as_a_guess() {
    let secret = Secret::generate(TokenKind::ClientSecret, &OsEntropy);
    let other = Secret::generate(TokenKind::Service, &OsEntropy);
    let cut = &secret.reveal()[..52];
    for text in ["", "lkc_x", cut, other.reveal()] {
        let login = Login::with_secret("service:ci", text);
        assert_eq!(login.err(), Some(LoginError::Secret), "{text:?}");
    }
}

fn with_a_secret() -> Login {
    let secret = Secret::generate(TokenKind::ClientSecret, &OsEntropy);
    Login::with_secret("service:ci", secret.reveal()).expect("a client secret")
}

#[tokio::test]
async fn an_assertion_is_signed_anew_for_each_login() {
    let world = World::start().await;
    let pair = KeyPair::generate(Algorithm::Ed25519, &OsEntropy).expect("a pair");
    let id = TokenId::generate(0, &OsEntropy).to_string();
    let with_key = |key: &str, id: &str| Login::with_key("service:ci", key, id, "latchkey");
    assert!(with_key("nonsense", &id).is_err());
    assert_eq!(
        with_key(&pair.to_pem(), "x").err(),
        Some(LoginError::CredentialId)
    );
    let login = with_key(&pair.to_pem(), &id).expect("a key");
    let mut used = Vec::new();
    for _ in 0..2 {
        let client = world.client.clone();
        client.login(login.clone()).await.expect("logged in");
    }
    for (request, _) in world.canned.seen.lock().expect("not poisoned").iter() {
        let Some(Proof::Assertion(text)) = &request.proof else {
            panic!("no assertion");
        };
        let assertion = Assertion::parse(text).expect("an assertion");
        assert_eq!(assertion.credential().to_string(), id);
        let stated = assertion.verify(pair.public()).expect("its signature");
        let once = stated.check("service:ci", &["latchkey"], world.clock.now());
        used.push(once.expect("good").id);
    }
    assert_ne!(used[0], used[1]);
}

#[tokio::test]
async fn a_token_is_replaced_before_it_ends_and_failures_are_tried_again() {
    let world = World::start().await;
    let login = with_a_secret();
    let (client, _) = world
        .client
        .clone()
        .login(login.clone())
        .await
        .expect("logged in");
    let failure = Arc::default();
    let keeper = Keeper {
        client: client.clone(),
        login,
        failure: Arc::clone(&failure),
    };
    let due_ms = world.clock.boot_ms() + 2_400_000;
    let task = tokio::spawn(keeper.run(due_ms, Duration::from_millis(1)));
    world.clock.advance(2_400_000);
    until_presented(&client, "Bearer lka_2").await;
    world.refuse(true);
    world.clock.advance(2_400_000);
    world.until(3).await;
    while failure.load().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        presented(&client).as_deref(),
        Some("Bearer lka_2"),
        "until it ends"
    );
    world.refuse(false);
    world.clock.advance(1_000);
    until_presented(&client, "Bearer lka_4").await;
    while failure.load().is_some() {
        tokio::task::yield_now().await;
    }
    task.abort();
}

#[tokio::test]
async fn who_is_refused_at_first_has_no_client() {
    let world = World::start().await;
    world.refuse(true);
    let login = with_a_secret();
    let refused = world.client.clone().login(login).await.err();
    assert!(
        matches!(refused, Some(CallError::Unauthenticated(_))),
        "{refused:?}"
    );
}
