//! The way to a server: its address, the calling token, and the deadline of every call.
//!
//! Used by every client command. The token comes from a file, from standard input or from the
//! environment, never from an argument, and is sent as `authorization: Bearer`. Absent: retries;
//! who runs the program decides whether to ask again.

use std::error::Error;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use zeroize::Zeroizing;

use crate::proto::v1::audit_service_client::AuditServiceClient;
use crate::proto::v1::check_service_client::CheckServiceClient;
use crate::proto::v1::cluster_service_client::ClusterServiceClient;
use crate::proto::v1::credential_service_client::CredentialServiceClient;
use crate::proto::v1::directory_service_client::DirectoryServiceClient;
use crate::proto::v1::key_service_client::KeyServiceClient;
use crate::proto::v1::login_service_client::LoginServiceClient;
use crate::proto::v1::token_service_client::TokenServiceClient;

use crate::tls::trouble;

use super::failure::CliError;
use super::output::notice;
use super::parse;
use super::secure::TlsArgs;

/// The longest token file that is read.
const TOKEN_FILE_BYTES_MAX: u64 = 8 * 1024;
/// The environment variable with the calling token.
const TOKEN_VARIABLE: &str = "LATCHKEY_TOKEN";

/// Which server, and how long to wait for it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// Address of the server, as a URL or as HOST:PORT; `https://` is TLS.
    #[arg(
        long,
        env = "LATCHKEY_ADDR",
        default_value = "http://127.0.0.1:7421",
        value_name = "ADDR"
    )]
    pub addr: String,
    /// How long a call may take.
    #[arg(long, default_value = "10s", value_parser = parse::duration, value_name = "DURATION")]
    pub timeout: Duration,
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Which server, and as whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct CallerArgs {
    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// File with the calling token, `-` for standard input [default: the environment variable LATCHKEY_TOKEN].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl CallerArgs {
    /// Connects with the calling token, which must be given.
    ///
    /// # Errors
    /// Usage without a token, unavailable without a server.
    pub(crate) async fn session(&self) -> Result<Session, CliError> {
        Session::open(&self.server, Some(self.token()?)).await
    }

    /// The calling token.
    ///
    /// # Errors
    /// Usage without one.
    pub(crate) fn token(&self) -> Result<TokenText, CliError> {
        calling_token(self.token_file.as_deref())?.ok_or_else(|| {
            CliError::usage("no calling token: set LATCHKEY_TOKEN or give --token-file FILE")
        })
    }
}

/// A token as text; wiped when dropped.
pub(crate) type TokenText = Zeroizing<String>;

/// The calling token from `file`, or from the environment; none when neither is given.
///
/// # Errors
/// Usage when the file cannot be read or holds no single word.
pub(crate) fn calling_token(file: Option<&Path>) -> Result<Option<TokenText>, CliError> {
    if let Some(file) = file {
        return read_token(file).map(Some);
    }
    let token = std::env::var(TOKEN_VARIABLE).unwrap_or_default();
    let token = Zeroizing::new(token);
    let token = Zeroizing::new(token.trim().to_owned());
    Ok((!token.is_empty()).then_some(token))
}

/// Reads a token from a file, or from standard input for `-`; white space around it is dropped.
///
/// # Errors
/// Usage when it cannot be read, is empty or too long.
pub(crate) fn read_token(file: &Path) -> Result<TokenText, CliError> {
    read_word(file, "token")
}

/// The same of a client secret.
///
/// # Errors
/// As [`read_token`].
pub(crate) fn read_secret(file: &Path) -> Result<TokenText, CliError> {
    read_word(file, "secret")
}

fn read_word(file: &Path, what: &str) -> Result<TokenText, CliError> {
    let shown = file.display();
    let mut text = Zeroizing::new(String::new());
    let read = if file == Path::new("-") {
        let stdin = io::stdin().lock();
        stdin
            .take(TOKEN_FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| {
            file.take(TOKEN_FILE_BYTES_MAX + 1)
                .read_to_string(&mut text)
        })
    };
    // The error of a text that is no UTF-8 does not quote it.
    read.map_err(|error| CliError::usage(format!("cannot read the {what} file {shown}: {error}")))?;
    if text.len() as u64 > TOKEN_FILE_BYTES_MAX {
        let most = format!("the {what} file {shown} has more than {TOKEN_FILE_BYTES_MAX} bytes");
        return Err(CliError::usage(most));
    }
    let token = text.trim();
    if token.is_empty() {
        return Err(CliError::usage(format!("the {what} file {shown} is empty")));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

/// Puts the calling token and the deadline into a request.
#[derive(Clone)]
pub(crate) struct Bearer {
    token: Option<MetadataValue<Ascii>>,
    deadline: Option<Duration>,
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        Ok(request)
    }
}

/// The channel below every client.
pub(crate) type Wire = InterceptedService<Channel, Bearer>;

/// A connection to one server.
pub(crate) struct Session {
    channel: Channel,
    bearer: Bearer,
}

impl Session {
    /// Connects; `token` is sent with every call.
    ///
    /// # Errors
    /// Usage for an address or a token that cannot be sent, unavailable without a server.
    pub(crate) async fn open(
        server: &ServerArgs,
        token: Option<TokenText>,
    ) -> Result<Self, CliError> {
        let url = server.tls.url_of(&server.addr)?;
        let token = token
            .as_ref()
            .map(|token| bearer_value(token))
            .transpose()?;
        let tls = server.tls.config_for(&url)?;
        if token.is_some() && tls.is_none() && !is_local(&url) {
            notice("warning: the token is sent to another machine without encryption");
        }
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|_| CliError::usage(format!("not an address: {url}")))?
            .connect_timeout(server.timeout)
            .user_agent(concat!("latchkey-cli/", env!("CARGO_PKG_VERSION")))
            .map_err(|_| CliError::usage("not a user agent"))?;
        let endpoint = match tls {
            None => endpoint,
            Some(tls) => endpoint.tls_config(tls).map_err(|error| {
                CliError::usage(format!("TLS cannot be set up: {}", bottom_of(&error)))
            })?,
        };
        let channel = tokio::time::timeout(server.timeout, endpoint.connect())
            .await
            .map_err(|_| CliError::unavailable(format!("no answer from {url} in time")))?
            .map_err(|error| {
                let cause = trouble(&error).unwrap_or_else(|| bottom_of(&error));
                CliError::unavailable(format!("cannot reach {url}: {cause}"))
            })?;
        let deadline = Some(server.timeout);
        Ok(Self {
            channel,
            bearer: Bearer { token, deadline },
        })
    }

    /// Whether calls carry a token.
    #[must_use]
    pub(crate) fn has_token(&self) -> bool {
        self.bearer.token.is_some()
    }

    /// The bare channel, for the health service.
    #[must_use]
    pub(crate) fn wire(&self) -> Wire {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    /// The token service.
    #[must_use]
    pub(crate) fn tokens(&self) -> TokenServiceClient<Wire> {
        TokenServiceClient::new(self.wire())
    }

    /// The login service.
    #[must_use]
    pub(crate) fn logins(&self) -> LoginServiceClient<Wire> {
        LoginServiceClient::new(self.wire())
    }

    /// The credential service.
    #[must_use]
    pub(crate) fn credentials(&self) -> CredentialServiceClient<Wire> {
        CredentialServiceClient::new(self.wire())
    }

    /// The key service.
    #[must_use]
    pub(crate) fn keys(&self) -> KeyServiceClient<Wire> {
        KeyServiceClient::new(self.wire())
    }

    /// The check service.
    #[must_use]
    pub(crate) fn checks(&self) -> CheckServiceClient<Wire> {
        CheckServiceClient::new(self.wire())
    }

    /// The directory.
    #[must_use]
    pub(crate) fn directory(&self) -> DirectoryServiceClient<Wire> {
        DirectoryServiceClient::new(self.wire())
    }

    /// The cluster service.
    #[must_use]
    pub(crate) fn cluster(&self) -> ClusterServiceClient<Wire> {
        ClusterServiceClient::new(self.wire())
    }

    /// The audit service.
    #[must_use]
    pub(crate) fn audit(&self) -> AuditServiceClient<Wire> {
        AuditServiceClient::new(self.wire())
    }

    /// The audit service for streams, which last as long as they last.
    #[must_use]
    pub(crate) fn audit_streams(&self) -> AuditServiceClient<Wire> {
        let bearer = Bearer {
            deadline: None,
            ..self.bearer.clone()
        };
        AuditServiceClient::new(InterceptedService::new(self.channel.clone(), bearer))
    }
}

fn bearer_value(token: &str) -> Result<MetadataValue<Ascii>, CliError> {
    let text = Zeroizing::new(format!("Bearer {token}"));
    let mut value: MetadataValue<Ascii> = text
        .parse()
        .map_err(|_| CliError::usage("the calling token holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What an error is about in the end.
fn bottom_of(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Whether the URL names this machine; when in doubt, it does not.
fn is_local(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    let loopback = |address: std::net::IpAddr| address.is_loopback();
    host == "localhost" || host.parse().is_ok_and(loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_local() {
        for url in [
            "http://127.0.0.1:7421",
            "http://[::1]:1",
            "http://localhost:9/",
        ] {
            assert!(is_local(url), "{url}");
        }
        for url in [
            "http://10.0.0.1:7421",
            "http://localhost.example:1",
            "http://a",
        ] {
            assert!(!is_local(url), "{url}");
        }
    }

    #[test]
    fn a_token_file_is_one_word_of_bounded_length() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        let check = |content: &str| {
            std::fs::write(&file, content).expect("written");
            read_token(&file).map(|token| token.to_string())
        };
        assert_eq!(check(" lku_x\n"), Ok("lku_x".to_owned()));
        assert!(check("").is_err());
        assert!(check(&"x".repeat(9_000)).is_err());
        assert!(read_token(&directory.path().join("absent")).is_err());
    }
}
