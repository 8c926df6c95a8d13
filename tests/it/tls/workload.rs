//! What is bound to a workload is for whoever has its certificate: logins, exchanges, renewals
//! and management by tokens.
//!
//! By the program as it is run, over connections of its own for each certificate.

use latchkey::proto::v1;
use latchkey::tls::thumbprint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::kit::{House, Pair, der};
use crate::logins::house::{House as Company, REASON, seconds};
use crate::wire::{bearer, check};

const A: &str = "spiffe://acme/a";
const B: &str = "spiffe://acme/b";

/// Everything that is asked over a connection with this certificate.
async fn company(house: &House, shown: Option<&Pair>) -> Company {
    Company::over(house.channel(shown).await, house.admin_token())
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_of_a_workload_logs_in_from_there_and_from_nowhere_else() {
    let house = House::mutual(&["tls.client_auth=request"]);
    let (a, b) = (house.client(A), house.client(B));
    let mut as_a = company(&house, Some(&a)).await;
    let mut as_b = company(&house, Some(&b)).await;
    let mut as_nobody = company(&house, None).await;
    as_nobody.furnish().await;
    let settings = v1::LoginSettings {
        ttl: seconds(600),
        max_ttl: seconds(3_600),
        ..v1::LoginSettings::default()
    };
    as_nobody
        .set_method(v1::LoginMethodKind::UniversalAuth, settings)
        .await;
    for workload in [A.to_owned(), thumbprint(&der(&a))] {
        let wanted = v1::CreateClientSecretRequest {
            workload: workload.clone(),
            ..Company::wanted()
        };
        let secret = as_nobody.secret(wanted).await;
        let shown = secret.credential.expect("a credential");
        assert_eq!(shown.workload, workload);
        let token = as_a.login(&secret.client_secret).await;
        for elsewhere in [&mut as_b, &mut as_nobody] {
            let refused = elsewhere.try_login(&secret.client_secret).await;
            let refused = refused.expect_err("not the workload");
            assert_eq!(refused.code(), Code::Unauthenticated, "{workload}");
            assert_eq!(reason(&refused), "LOGIN_REFUSED");
            assert!(refused.message().contains("workload"), "{refused:?}");
        }
        // Who showed the right secret guesses nothing: nobody is locked out.
        assert!(as_nobody.locked().await.is_empty());
        // What it was given is bound as it is: in a Check, and where it is shown itself.
        let token = token.access_token;
        assert_eq!(as_a.may_deploy(&token).await, v1::Reason::Workload);
        let question = v1::CheckRequest {
            context: Some(v1::Context {
                workload: Some(workload.clone()),
                ..v1::Context::default()
            }),
            ..check(&token, &[("deploy:run", "acme/web/prod")])
        };
        let asked = as_b.checks.check(question).await.expect("an answer");
        assert_eq!(asked.into_inner().reason(), v1::Reason::Allowed);
        let renew = || bearer(&token, v1::RenewAccessTokenRequest::default());
        let renewed = as_a.logins.renew_access_token(renew()).await;
        renewed.expect("renewed");
        let refused = as_b.logins.renew_access_token(renew()).await;
        assert_eq!(refused.expect_err("not it").code(), Code::Unauthenticated);
        // A credential that is bound to nobody logs in from anywhere.
        let free = as_nobody.secret(Company::wanted()).await;
        as_b.login(&free.client_secret).await;
        as_nobody.login(&free.client_secret).await;
    }
}

fn exchange(workload: &str) -> v1::ExchangeTokenRequest {
    v1::ExchangeTokenRequest {
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::All(v1::AllScopes {})),
        }),
        workload: workload.to_owned(),
        ..v1::ExchangeTokenRequest::default()
    }
}

async fn exchanged(
    company: &mut Company,
    token: &str,
    workload: &str,
) -> Result<v1::AccessToken, Status> {
    let asked = bearer(token, exchange(workload));
    let answer = company.logins.exchange_token(asked).await?.into_inner();
    Ok(answer.token.expect("a token"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_workload_is_exchanged_renewed_and_manages_from_there_alone() {
    let house = House::mutual(&["tls.client_auth=request"]);
    let (a, b) = (house.client(A), house.client(B));
    let mut as_a = company(&house, Some(&a)).await;
    let mut as_b = company(&house, Some(&b)).await;
    let mut as_nobody = company(&house, None).await;
    for workload in [A.to_owned(), thumbprint(&der(&a))] {
        let issue = v1::IssueTokenRequest {
            kind: v1::TokenKind::User.into(),
            scopes: exchange("").scopes,
            period: seconds(3_600),
            workload: workload.clone(),
            name: "bound".to_owned(),
            reason: REASON.to_owned(),
            ..v1::IssueTokenRequest::default()
        };
        let issued = as_nobody
            .tokens
            .issue_token(bearer(house.admin_token(), issue))
            .await;
        let bound = issued.expect("issued").into_inner().secret;
        // Its child is bound as it is, though nobody asked for that.
        let child = exchanged(&mut as_a, &bound, "").await.expect("exchanged");
        let child = child.access_token;
        for token in [&bound, &child] {
            exchanged(&mut as_a, token, "").await.expect("exchanged");
            let listed = as_a
                .tokens
                .list_tokens(bearer(token, v1::ListTokensRequest::default()));
            listed.await.expect("it manages");
            for elsewhere in [&mut as_b, &mut as_nobody] {
                let refused = exchanged(elsewhere, token, "").await.expect_err("not it");
                assert_eq!(refused.code(), Code::Unauthenticated);
                let list = bearer(token, v1::ListTokensRequest::default());
                let refused = elsewhere
                    .tokens
                    .list_tokens(list)
                    .await
                    .expect_err("not it");
                assert_eq!(refused.code(), Code::Unauthenticated);
            }
        }
        let renew = || {
            bearer(
                &bound,
                v1::RenewTokenRequest {
                    reason: REASON.to_owned(),
                    ..v1::RenewTokenRequest::default()
                },
            )
        };
        as_a.tokens.renew_token(renew()).await.expect("renewed");
        // No child is another workload's.
        let refused = exchanged(&mut as_a, &bound, B)
            .await
            .expect_err("another's");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}
