//! `latchkey credential`: what service accounts log in with.
//!
//! A credential is a token that can do nothing but log in. Here are the verbs that other tokens do
//! not have; `token show`, `update` and `rotate` take the id of a credential too.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;

use crate::domain::key::PublicKey;
use crate::domain::principal::PrincipalKind;
use crate::proto::v1;
use crate::proto::v1::credential_service_client::CredentialServiceClient;
use crate::proto::v1::revoke_token_request::Target;

use super::connect::{CallerArgs, Wire};
use super::directory::calls::pages;
use super::failure::CliError;
use super::output::made::Made;
use super::output::token::{Created, TokenView};
use super::output::{Output, instant, notice, revision};
use super::parse::{self, narrowed, wire_duration, wire_instant};
use super::token::RequestId;

/// The longest file with a public key.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
/// The most that one call asks for.
const PAGE_SIZE_MAX: usize = 1_000;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum CredentialCommand {
    /// Make a client secret for a service account and show it, once.
    Create(Box<CreateArgs>),
    /// Register the public key of a key pair that a service account logs in with.
    RegisterKey(Box<RegisterKeyArgs>),
    /// List the credentials of a service account, or of all.
    List(ListArgs),
    /// Revoke a credential for good, and refuse what it gave.
    Revoke(RevokeArgs),
    /// List logins, renewals and exchanges that succeeded, the newest first.
    Logins(LoginsArgs),
}

/// What every credential has.
#[derive(Args, Debug)]
pub(crate) struct CommonArgs {
    /// The service account.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Narrow its logins to ACTION[,ACTION...]@RESOURCE or role:NAME@RESOURCE; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = parse::scope)]
    scopes: Vec<String>,
    /// How long it lives, for example 30d; access tokens end with it.
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    ttl: Option<Duration>,
    /// The instant from which it works.
    #[arg(long, value_name = "INSTANT", value_parser = parse::instant)]
    not_before: Option<Timestamp>,
    /// How often it may log in.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
    /// Client network, as CIDR, that it may log in from; may be repeated.
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// The workload that may log in with it, by its client certificate: a SPIFFE ID or
    /// x5t#S256:THUMBPRINT.
    #[arg(long, default_value = "", hide_default_value = true)]
    workload: String,
    /// Its name, for people.
    #[arg(long)]
    name: String,
    /// Why; kept in the audit trail.
    #[arg(long)]
    reason: String,
    /// What it is for.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// A free label; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::label)]
    labels: Vec<(String, String)>,
    /// Wait until it works on every replica.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

/// A client secret.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Print the secret alone on standard output, for a file.
    #[arg(long)]
    secret_only: bool,
}

/// A public key.
#[derive(Args, Debug)]
pub(crate) struct RegisterKeyArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// File with the public key, as `latchkey key-pair generate` prints it; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    public_key_file: PathBuf,
}

/// What a credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A client secret.
    #[value(alias = "client_secret")]
    ClientSecret,
    /// A registered public key.
    #[value(alias = "public_key")]
    PublicKey,
}

impl Kind {
    fn wire(self) -> v1::TokenKind {
        match self {
            Self::ClientSecret => v1::TokenKind::ClientSecret,
            Self::PublicKey => v1::TokenKind::PublicKey,
        }
    }
}

/// Which credentials.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Those of this service account.
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Only client secrets, or only public keys.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Only those in this state.
    #[arg(long, value_enum)]
    state: Option<parse::State>,
    /// The most to list of each kind.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Which credential to revoke.
#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// Id of the credential.
    #[arg(value_name = "CREDENTIAL_ID", value_parser = parse::token_id)]
    credential_id: String,
    /// Somebody else may have had it: revoke also what was issued with its access tokens.
    #[arg(long)]
    compromised: bool,
    /// Why; kept in the audit trail.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Which logins.
#[derive(Args, Debug)]
pub(crate) struct LoginsArgs {
    /// Those of this service account.
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Those with this credential.
    #[arg(long, value_name = "CREDENTIAL_ID", value_parser = parse::token_id)]
    credential: Option<String>,
    /// The most to list.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Runs one verb.
///
/// # Errors
/// What the server refuses, and what cannot be reached or printed.
pub(crate) async fn run(command: CredentialCommand, output: Output) -> Result<(), CliError> {
    match command {
        CredentialCommand::Create(args) => create(*args, output).await,
        CredentialCommand::RegisterKey(args) => register_key(*args, output).await,
        CredentialCommand::List(args) => list(args, output).await,
        CredentialCommand::Revoke(args) => revoke(args, output).await,
        CredentialCommand::Logins(args) => logins(args, output).await,
    }
}

fn service(name: &str) -> String {
    parse::principal_of(PrincipalKind::Service, name)
}

async fn client(caller: &CallerArgs) -> Result<CredentialServiceClient<Wire>, CliError> {
    Ok(caller.session().await?.credentials())
}

async fn create(args: CreateArgs, output: Output) -> Result<(), CliError> {
    let CreateArgs {
        common,
        secret_only,
    } = args;
    let mut credentials = client(&common.caller).await?;
    let request = v1::CreateClientSecretRequest {
        service_account: service(&common.service),
        scopes: narrowed(common.scopes),
        ttl: common.ttl.map(wire_duration),
        not_before: common.not_before.map(wire_instant),
        uses: common.uses,
        networks: common.networks,
        workload: common.workload,
        wait_for_replicas: common.wait,
        reason: common.reason,
        request_id: common.request.request_id,
        name: common.name,
        description: common.description,
        labels: common.labels.into_iter().collect(),
    };
    let answer = credentials
        .create_client_secret(request)
        .await?
        .into_inner();
    let created = Created::new(
        answer.credential,
        answer.client_secret,
        answer.secret_withheld,
        Made::new(answer.revision.as_ref(), answer.enforcement),
    );
    created.called("credential").show(secret_only, output)
}

/// A public key that was registered.
#[derive(Serialize)]
struct Registered {
    #[serde(flatten)]
    credential: TokenView,
    client_id: String,
    #[serde(flatten)]
    made: Made,
}

async fn register_key(args: RegisterKeyArgs, output: Output) -> Result<(), CliError> {
    let RegisterKeyArgs {
        common,
        public_key_file,
    } = args;
    let public_key = read_public_key(&public_key_file)?;
    let mut credentials = client(&common.caller).await?;
    let request = v1::RegisterPublicKeyRequest {
        service_account: service(&common.service),
        scopes: narrowed(common.scopes),
        ttl: common.ttl.map(wire_duration),
        not_before: common.not_before.map(wire_instant),
        uses: common.uses,
        networks: common.networks,
        workload: common.workload,
        public_key: public_key.to_pem(),
        wait_for_replicas: common.wait,
        reason: common.reason,
        request_id: common.request.request_id,
        name: common.name,
        description: common.description,
        labels: common.labels.into_iter().collect(),
    };
    let answer = credentials.register_public_key(request).await?.into_inner();
    let view = Registered {
        credential: TokenView::from(answer.credential.unwrap_or_default()),
        client_id: answer.client_id,
        made: Made::new(answer.revision.as_ref(), answer.enforcement),
    };
    output.show(&view, |page| {
        view.made.page("registered", page);
        page.fields(&[
            ("credential id", view.credential.token_id().to_owned()),
            ("client id", view.client_id.clone()),
            ("expires", view.credential.expiry().to_owned()),
        ]);
        page.line(format!(
            "To log in: latchkey login {} --key-file FILE --credential {}",
            view.client_id,
            view.credential.token_id()
        ));
    })
}

/// Read before anything is sent: a private key that was given by mistake never leaves.
fn read_public_key(file: &Path) -> Result<PublicKey, CliError> {
    let shown = file.display();
    let mut text = zeroize::Zeroizing::new(String::new());
    let read = if file == Path::new("-") {
        let stdin = io::stdin().lock();
        stdin.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file)
            .and_then(|file| file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    read.map_err(|error| CliError::usage(format!("cannot read {shown}: {error}")))?;
    PublicKey::parse_pem(&text).map_err(|error| CliError::usage(format!("{shown}: {error}")))
}

#[derive(Serialize)]
struct CredentialList {
    credentials: Vec<TokenView>,
    /// Whether there are more than `--limit`.
    more: bool,
    revision: String,
}

async fn list(args: ListArgs, output: Output) -> Result<(), CliError> {
    let mut tokens = args.caller.session().await?.tokens();
    let kinds = match args.kind {
        Some(kind) => vec![kind],
        None => vec![Kind::ClientSecret, Kind::PublicKey],
    };
    let mut list = CredentialList {
        credentials: Vec::new(),
        more: false,
        revision: String::new(),
    };
    for kind in kinds {
        let (found, more) = pages!(args.limit as usize, |page_size, page_token| {
            let request = v1::ListTokensRequest {
                subject: args.service.as_deref().map(service).unwrap_or_default(),
                kind: kind.wire().into(),
                state: args.state.map_or(0, |state| state.wire() as i32),
                page_size,
                page_token,
                ..v1::ListTokensRequest::default()
            };
            let answer = tokens.list_tokens(request).await?.into_inner();
            list.revision = revision(answer.revision.as_ref());
            (
                answer.tokens.into_iter().map(TokenView::from),
                answer.next_page_token,
            )
        });
        list.credentials.extend(found);
        list.more |= more;
    }
    output.show(&list, |page| {
        let rows = list.credentials.iter().map(TokenView::row);
        page.table(&TokenView::HEADER, rows);
    })?;
    tell_more(list.more);
    Ok(())
}

fn tell_more(more: bool) {
    if more {
        notice("there are more; raise --limit to see them");
    }
}

/// A credential that was revoked.
#[derive(Serialize)]
struct Revoked {
    #[serde(flatten)]
    credential: TokenView,
    #[serde(flatten)]
    made: Made,
    already_revoked: bool,
}

/// An id of the wrong kind ends nothing that was not meant.
fn require_credential(found: &TokenView) -> Result<(), CliError> {
    if found.is_credential() {
        return Ok(());
    }
    let (id, kind) = (found.token_id(), found.kind());
    Err(CliError::usage(format!(
        "{id} is no credential but a token of kind {kind}: `latchkey token revoke` ends it"
    )))
}

async fn revoke(args: RevokeArgs, output: Output) -> Result<(), CliError> {
    let mut tokens = args.caller.session().await?.tokens();
    let asked = v1::GetTokenRequest {
        token_id: args.credential_id.clone(),
    };
    let found = tokens.get_token(asked).await?.into_inner().token;
    require_credential(&TokenView::from(found.unwrap_or_default()))?;
    let request = v1::RevokeTokenRequest {
        target: Some(Target::TokenId(args.credential_id)),
        compromised: args.compromised,
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = tokens.revoke_token(request).await?.into_inner();
    let view = Revoked {
        credential: TokenView::from(answer.token.unwrap_or_default()),
        made: Made::new(answer.revision.as_ref(), answer.enforcement),
        already_revoked: answer.already_revoked,
    };
    output.show(&view, |page| {
        let how = match view.already_revoked {
            true => "was revoked before; seen",
            false => "and the access tokens that it gave revoked",
        };
        view.made
            .page(&format!("{} {how}", view.credential.token_id()), page);
    })
}

/// A login, a renewal or an exchange that succeeded.
#[derive(Serialize)]
struct LoginView {
    at: Option<String>,
    kind: &'static str,
    service_account: String,
    credential_id: String,
    token_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    parent_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    from: String,
    expires_at: Option<String>,
}

impl From<v1::LoginRecord> for LoginView {
    fn from(login: v1::LoginRecord) -> Self {
        Self {
            at: instant(login.at.as_ref()),
            kind: match login.kind() {
                v1::LoginKind::Unspecified | v1::LoginKind::Login => "login",
                v1::LoginKind::Renewal => "renewal",
                v1::LoginKind::Exchange => "exchange",
            },
            service_account: login.service_account,
            credential_id: login.credential_id,
            token_id: login.token_id,
            parent_id: login.parent_id,
            from: login.from,
            expires_at: instant(login.expires_at.as_ref()),
        }
    }
}

impl LoginView {
    const HEADER: [&'static str; 7] = [
        "AT",
        "KIND",
        "SPEAKS FOR",
        "CREDENTIAL",
        "TOKEN ID",
        "PARENT",
        "FROM",
    ];

    fn row(&self) -> Vec<String> {
        vec![
            self.at.clone().unwrap_or_default(),
            self.kind.to_owned(),
            self.service_account.clone(),
            self.credential_id.clone(),
            self.token_id.clone(),
            self.parent_id.clone(),
            self.from.clone(),
        ]
    }
}

#[derive(Serialize)]
struct LoginList {
    logins: Vec<LoginView>,
    /// Whether there are more than `--limit`.
    more: bool,
}

async fn logins(args: LoginsArgs, output: Output) -> Result<(), CliError> {
    let mut credentials = client(&args.caller).await?;
    let (logins, more) = pages!(args.limit as usize, |page_size, page_token| {
        let request = v1::ListLoginsRequest {
            service_account: args.service.as_deref().map(service).unwrap_or_default(),
            credential_id: args.credential.clone().unwrap_or_default(),
            page_size,
            page_token,
        };
        let answer = credentials.list_logins(request).await?.into_inner();
        (
            answer.logins.into_iter().map(LoginView::from),
            answer.next_page_token,
        )
    });
    let list = LoginList { logins, more };
    output.show(&list, |page| {
        page.table(&LoginView::HEADER, list.logins.iter().map(LoginView::row));
    })?;
    tell_more(list.more);
    Ok(())
}
