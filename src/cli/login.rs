//! `latchkey login`: a credential of a service account in, an access token out.
//!
//! A client secret comes from a file, from standard input or from the environment, never from an
//! argument. With a key pair the assertion (RFC 7523) is made and signed here: the private key is
//! never sent. The token alone is printed, as `export LATCHKEY_TOKEN=$(latchkey login ...)` wants it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use zeroize::Zeroizing;

use crate::domain::clock::{Clock as _, SystemClock};
use crate::domain::entropy::OsEntropy;
use crate::domain::key_pair::{KeyPair, Statement};
use crate::domain::principal::PrincipalKind;
use crate::domain::seal::text::is_sealed;
use crate::domain::token::{TokenId, TokenKind, recognise};
use crate::proto::v1;
use crate::proto::v1::login_request::Proof;

use super::connect::{ServerArgs, Session, TokenText, read_secret};
use super::failure::CliError;
use super::output::Output;
use super::output::access::AccessView;
use super::parse::{self, narrowed, wire_duration};

/// The environment variable with a client secret.
pub(super) const SECRET_VARIABLE: &str = "LATCHKEY_CLIENT_SECRET";
/// The longest file with a private key.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
/// How long an assertion is good; it is used at once.
const ASSERTION_LIFE_S: u64 = 60;

/// Who logs in, with what, and what for.
#[derive(Args, Debug)]
pub(crate) struct LoginArgs {
    /// The service account; its name is the client id.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// File with the client secret, `-` for standard input [default: the environment variable LATCHKEY_CLIENT_SECRET].
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    secret_file: Option<PathBuf>,
    /// File with the private key of a key pair, PKCS#8 in PEM; it is not sent.
    #[arg(long, value_name = "FILE", requires = "credential")]
    key_file: Option<PathBuf>,
    /// Id of the credential that the public key is registered as.
    #[arg(long, value_name = "CREDENTIAL_ID", value_parser = parse::token_id, requires = "key_file")]
    credential: Option<String>,
    /// For whom the assertion is made: one of the server's `login.audiences`.
    #[arg(
        long,
        value_name = "AUDIENCE",
        default_value = "latchkey",
        requires = "key_file"
    )]
    server_audience: String,
    /// How long the access token lives; at most, and by default, what is set on the account.
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    ttl: Option<Duration>,
    /// Narrow it to ACTION[,ACTION...]@RESOURCE; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = parse::scope)]
    scopes: Vec<String>,
    /// The audience that the access token may be used for.
    #[arg(long, default_value = "", hide_default_value = true)]
    audience: String,
    #[command(flatten)]
    server: ServerArgs,
}

impl LoginArgs {
    fn client_id(&self) -> String {
        parse::principal_of(PrincipalKind::Service, &self.service)
    }

    fn proof(&self, client_id: &str) -> Result<Proof, CliError> {
        if let (Some(file), Some(credential)) = (&self.key_file, &self.credential) {
            let credential = TokenId::parse(credential)
                .ok_or_else(|| CliError::usage("--credential wants the id of a credential"))?;
            let clock = SystemClock::start();
            let (now_ms, jti) = (
                clock.now().latest,
                TokenId::generate(0, &OsEntropy).to_string(),
            );
            let assertion = read_pair(file)?.assertion(&Statement {
                credential,
                client: client_id,
                audience: &self.server_audience,
                now_s: now_ms / 1_000,
                life_s: ASSERTION_LIFE_S,
                jti: &jti,
            });
            return assertion
                .map(Proof::Assertion)
                .map_err(CliError::unavailable);
        }
        let secret = client_secret(self.secret_file.as_deref())?;
        require_client_secret(&secret)?;
        Ok(Proof::ClientSecret(secret.to_string()))
    }
}

/// Logs in, and prints the access token.
///
/// # Errors
/// Usage for what cannot be read, refused as the server refuses.
pub(crate) async fn login(args: LoginArgs, output: Output) -> Result<(), CliError> {
    let client_id = args.client_id();
    let proof = args.proof(&client_id)?;
    // Whoever is to have a token has none to call with.
    let mut logins = Session::open(&args.server, None).await?.logins();
    let request = v1::LoginRequest {
        client_id,
        proof: Some(proof),
        ttl: args.ttl.map(wire_duration),
        scopes: narrowed(args.scopes),
        audience: args.audience,
    };
    let answer = logins.login(request).await?.into_inner();
    AccessView::from(answer.token).show(output)
}

fn client_secret(file: Option<&Path>) -> Result<TokenText, CliError> {
    if let Some(file) = file {
        return read_secret(file);
    }
    let secret = Zeroizing::new(std::env::var(SECRET_VARIABLE).unwrap_or_default());
    let secret = Zeroizing::new(secret.trim().to_owned());
    if secret.is_empty() {
        return Err(CliError::usage(
            "no credential: give --secret-file FILE or set LATCHKEY_CLIENT_SECRET, or give \
             --key-file FILE and --credential CREDENTIAL_ID",
        ));
    }
    Ok(secret)
}

/// What can be no client secret is not sent: as a guess it would count towards a lockout.
fn require_client_secret(text: &str) -> Result<(), CliError> {
    let kind = match recognise(text) {
        Some(TokenKind::ClientSecret) => return Ok(()),
        _ if is_sealed(text) => Some(TokenKind::Access),
        other => other,
    };
    Err(CliError::usage(match kind {
        Some(kind) => format!("that is the secret of a token of kind {kind}, no client secret"),
        None => "that is no client secret: one is 53 characters and begins with lkc_; is it cut \
                 off or mistyped?"
            .to_owned(),
    }))
}

fn read_pair(file: &Path) -> Result<KeyPair, CliError> {
    let shown = file.display();
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(file)
        .and_then(|file| file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| CliError::usage(format!("cannot read {shown}: {error}")))?;
    KeyPair::parse_pem(&text).map_err(|error| CliError::usage(format!("{shown}: {error}")))
}
