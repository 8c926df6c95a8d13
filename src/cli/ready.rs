//! What `dev` and `serve` print when they serve: one JSON line, or how to go on.
//!
//! The first administrator's token is printed here, once, and nowhere else.

use std::net::SocketAddr;

use serde::Serialize;
use zeroize::Zeroizing;

use super::failure::CliError;
use super::output::Output;
use super::store::Place;

/// What `run` tells when it serves.
pub(crate) struct Ready {
    /// The address that was taken.
    pub listen: SocketAddr,
    /// The admin address that was taken.
    pub admin: Option<SocketAddr>,
    /// The first administrator's token, when it was made now.
    pub admin_token: Option<Zeroizing<String>>,
}

#[derive(Serialize)]
struct ReadyView<'a> {
    listen: String,
    /// Where `/metrics` is; none where it is not served.
    admin_listen: Option<String>,
    data_dir: Option<String>,
    database: Option<String>,
    admin_token: Option<&'a str>,
}

impl<'a> ReadyView<'a> {
    fn new(ready: &'a Ready, place: &Place) -> Self {
        Self {
            listen: ready.listen.to_string(),
            admin_listen: ready.admin.map(|addr| addr.to_string()),
            data_dir: place.data_dir(),
            database: place.database(),
            admin_token: ready.admin_token.as_ref().map(|token| token.as_str()),
        }
    }
}

/// One line.
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn plainly(ready: &Ready, place: &Place, output: Output) -> Result<(), CliError> {
    let view = ReadyView::new(ready, place);
    output.show(&view, |page| {
        page.line(format!("latchkey listens on {}", view.listen));
    })
}

/// All that a newcomer needs to go on.
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn with_next_steps(
    ready: &Ready,
    place: &Place,
    output: Output,
) -> Result<(), CliError> {
    let view = ReadyView::new(ready, place);
    let token = view.admin_token;
    output.show(&view, |page| {
        let listen = &view.listen;
        page.fields(&[
            ("latchkey listens on", listen.clone()),
            (place.kind(), place.to_string()),
            ("metrics", metrics(ready)),
            ("admin token", token.unwrap_or_default().to_owned()),
        ]);
        page.line("");
        match token {
            Some(token) => {
                page.line("The token is shown this once. Next, in another terminal:");
                page.line("");
                page.line(format!("  export LATCHKEY_TOKEN={token}"));
            }
            None => {
                page.line(
                    "This store had its first administrator before; no other is made by itself.",
                );
                page.line(
                    "Without a token of one: stop this and run `latchkey bootstrap --recover`.",
                );
                page.line("Next, in another terminal:");
                page.line("");
                page.line("  export LATCHKEY_TOKEN=...   # an administrator's token");
            }
        }
        if listen != "127.0.0.1:7421" {
            page.line(format!("  export LATCHKEY_ADDR=http://{listen}"));
        }
        for line in next_commands(listen) {
            page.line(line);
        }
    })
}

fn metrics(ready: &Ready) -> String {
    let admin = ready.admin.map(|admin| format!("http://{admin}/metrics"));
    admin.unwrap_or_default()
}

/// What to paste; each works as it stands, in this order.
fn next_commands(listen: &str) -> Vec<String> {
    let grpcurl = format!(
        "  grpcurl -plaintext -H \"authorization: Bearer $LATCHKEY_TOKEN\" {listen} \
         latchkey.v1.TokenService/WhoAmI"
    );
    let check =
        "  latchkey check --token-file token.txt --action secrets:read --resource acme/web/prod";
    vec![
        "  latchkey token issue --kind resource --resource acme/web \\".to_owned(),
        "      --scope 'secrets:read@acme/web/**' --ttl 1h --name first \\".to_owned(),
        "      --reason 'trying it out' --secret-only > token.txt".to_owned(),
        check.to_owned(),
        "  latchkey token revoke --secret-file token.txt --reason 'tried it out'".to_owned(),
        check.to_owned(),
        grpcurl,
    ]
}
