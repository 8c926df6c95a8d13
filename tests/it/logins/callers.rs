//! Where whoever comes through a proxy comes from, and what a Check tells of a narrowed token.
//!
//! Through the public doors; each on a server of its own.

use latchkey::proto::v1;
use tonic::Code;

use super::house::{ACCOUNT, House, by_secret};
use super::{counted, with_universal_auth};
use crate::program::{Server, fresh};
use crate::wire::bearer;

fn all() -> Option<v1::ScopesInput> {
    let extent = v1::scopes_input::Extent::All(v1::AllScopes {});
    Some(v1::ScopesInput {
        extent: Some(extent),
    })
}

/// A client secret for logins from this machine's whole network.
async fn limited(house: &mut House) -> String {
    let wanted = v1::CreateClientSecretRequest {
        networks: vec!["127.0.0.0/8".to_owned()],
        ..House::wanted()
    };
    house.secret(wanted).await.client_secret
}

#[tokio::test]
async fn the_address_of_a_proxy_of_many_clients_is_not_theirs_embedded() {
    let dir = fresh();
    let proxies = ["--set", "login.proxies=127.0.0.1"];
    let server = Server::start_with(dir.path(), &proxies).expect("serves");
    let mut house = House::furnished(&server).await;
    let settings = v1::LoginSettings {
        networks: vec!["127.0.0.0/8".to_owned()],
        ..v1::LoginSettings::default()
    };
    let kind = v1::LoginMethodKind::UniversalAuth;
    house.set_method(kind, v1::LoginSettings::default()).await;
    let (free, secret) = (House::wanted(), limited(&mut house).await);
    let free = house.secret(free).await.client_secret;
    let mut elsewhere = counted::from(&server, 9).await;
    let refused = house.try_login(&secret).await.expect_err("by a proxy");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    house.login(&free).await;
    elsewhere
        .login(by_secret(ACCOUNT, &secret))
        .await
        .expect("by itself");

    // What was given elsewhere is renewed and exchanged there.
    house.set_method(kind, settings).await;
    let token = elsewhere
        .login(by_secret(ACCOUNT, &secret))
        .await
        .expect("by itself");
    let token = token.into_inner().token.expect("a token").access_token;
    let renew = || bearer(&token, v1::RenewAccessTokenRequest::default());
    let exchange = || {
        let asked = v1::ExchangeTokenRequest {
            scopes: all(),
            ..v1::ExchangeTokenRequest::default()
        };
        bearer(&token, asked)
    };
    let refused = [
        house.logins.renew_access_token(renew()).await.err(),
        house.logins.exchange_token(exchange()).await.err(),
    ];
    for refused in refused {
        let refused = refused.expect("by a proxy");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    elsewhere
        .exchange_token(exchange())
        .await
        .expect("handed on");
}

#[tokio::test]
async fn a_check_tells_that_its_credential_narrows_a_token_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let scopes = vec!["deploy:run@acme/web/**".to_owned()];
    let only = v1::scopes_input::Extent::Only(v1::ScopeList { scopes });
    let wanted = v1::CreateClientSecretRequest {
        scopes: Some(v1::ScopesInput { extent: Some(only) }),
        ..House::wanted()
    };
    let narrow = house.secret(wanted).await.client_secret;
    for (secret, all) in [(&secret, true), (&narrow, false)] {
        let token = house.login(secret).await.access_token;
        let needs = [("deploy:run", "acme/web/prod")];
        let told = house.check(&token, &needs).await;
        assert_eq!(told.reason(), v1::Reason::Allowed);
        let expected = v1::ScopesSummary {
            all,
            permission_count: 0,
            narrowed: !all,
        };
        assert_eq!(told.scopes, Some(expected));
    }
}
