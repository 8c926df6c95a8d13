//! An HTTP service that asks Latchkey about every request before it answers.
//!
//! `GET /acme/web` passes with a token that covers `secrets:read` on `acme/web`. Start Latchkey
//! with `cargo run --release -- dev`, then this with `LATCHKEY_ADDR` (the address that it
//! printed) and `LATCHKEY_TOKEN` (a token of this service that covers `tokens:check`; not
//! needed while the listener is open, as it is on loopback), then:
//!
//! ```text
//! curl -i -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/acme/web
//! ```

use std::env;
use std::error::Error;

use axum::routing::get;
use axum::{Extension, Router};
use http::request::Parts;
use latchkey::client::{CallingToken, CheckLayer, Client, Identity, Needs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("LATCHKEY_ADDR").unwrap_or("127.0.0.1:7421".into());
    // Lazy: this service may start before Latchkey, and answers 503 until it is there.
    let mut client = Client::connect_lazy(match address.contains("://") {
        true => address,
        false => format!("http://{address}"),
    })?;
    if let Ok(token) = env::var("LATCHKEY_TOKEN") {
        client = client.with_token(CallingToken::parse(&token)?);
    }
    let layer = CheckLayer::new(client, needs).credential_removed();
    let service = Router::new().route("/{*path}", get(read)).layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    axum::serve(listener, service).await?;
    Ok(())
}

/// The path is the resource. One that does not parse as such is refused.
fn needs(request: &Parts) -> Needs {
    let path = request.uri.path().trim_start_matches('/');
    Needs::of("secrets:read", path)
}

async fn read(Extension(identity): Extension<Identity>) -> String {
    format!("hello {}\n", identity.subject)
}
