//! Where telemetry is sent: a collector that speaks OTLP over gRPC, and who we are to it.
//!
//! Used by the tasks that send spans and metrics. The connection is made when something is sent,
//! and again when it is lost; a collector that is away keeps nobody waiting but those tasks, each
//! of whose sendings has a deadline. Absent on purpose: repeating what failed, which is counted and
//! given up: a collector that is back is not to be met by all that piled up.

use std::error::Error as _;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use thiserror::Error;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use super::access::masked;

const SERVICE: &str = "latchkey";
/// A collector that has not answered is asked whether it is there, and is left if it does not say
/// so, each after such a part of the time for a sending: one whose machine is gone says nothing, and
/// the kernel waits for it for a quarter of an hour.
const PINGS: u32 = 4;
/// Characters of what is said of a sending that failed.
const WHY_CHARS_MAX: usize = 512;

/// Why a sending failed that was not answered.
pub(super) const LATE: &str = "no answer in time";

/// How to reach a collector.
#[derive(Clone, Debug)]
pub struct Collector {
    /// `http://` or `https://`, host and port.
    pub endpoint: String,
    /// Metadata of every call, names with values.
    pub headers: Vec<(String, String)>,
    /// The authorities that its certificate may be signed by, as PEM; for `https://`.
    pub authorities: Option<Vec<u8>>,
    /// How long a sending may take.
    pub timeout: Duration,
}

/// Who we are.
#[derive(Clone, Debug)]
pub struct Service {
    /// What people call this server.
    pub instance: String,
    /// What it is part of; empty if that is not said.
    pub namespace: String,
}

/// Why nothing can be sent; nothing of a header's value is in it.
#[derive(Debug, Error)]
pub enum OtlpError {
    /// The address is none.
    #[error("telemetry.otlp.endpoint: {0:?} is no http:// or https:// address")]
    Endpoint(String),
    /// Nobody is believed.
    #[error(
        "telemetry.otlp.endpoint: https:// needs telemetry.otlp.ca_file, the authorities to believe"
    )]
    NoAuthorities,
    /// The authorities cannot be used.
    #[error("telemetry.otlp.ca_file: {0}")]
    Authorities(tonic::transport::Error),
    /// A header is none.
    #[error("telemetry.otlp.headers: number {0} is not NAME=VALUE of visible characters")]
    Header(usize),
}

/// A way to a collector. Clones use one connection.
#[derive(Clone)]
pub struct Line {
    channel: Channel,
    headers: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
    timeout: Duration,
    service: Service,
}

impl Line {
    /// Makes ready to send; nothing is connected yet.
    ///
    /// # Errors
    /// [`OtlpError`] for what cannot be used.
    pub fn open(collector: &Collector, service: Service) -> Result<Self, OtlpError> {
        let told = || OtlpError::Endpoint(collector.endpoint.clone());
        let mut endpoint = Endpoint::from_shared(collector.endpoint.clone()).map_err(|_| told())?;
        match endpoint.uri().scheme_str() {
            Some("http") => {}
            Some("https") => {
                let authorities = collector.authorities.as_ref();
                let authorities = authorities.ok_or(OtlpError::NoAuthorities)?;
                let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
                endpoint = endpoint.tls_config(tls).map_err(OtlpError::Authorities)?;
            }
            _ => return Err(told()),
        }
        let headers = collector.headers.iter().enumerate().map(|(at, header)| {
            let (name, value) = header;
            let read = name.parse().ok().zip(value.parse().ok());
            let (name, mut value): (AsciiMetadataKey, AsciiMetadataValue) =
                read.ok_or(OtlpError::Header(at + 1))?;
            value.set_sensitive(true);
            Ok((name, value))
        });
        Ok(Self {
            headers: headers.collect::<Result<_, OtlpError>>()?,
            channel: endpoint
                .connect_timeout(collector.timeout)
                .timeout(collector.timeout)
                .http2_keep_alive_interval(collector.timeout / PINGS)
                .keep_alive_timeout(collector.timeout / PINGS)
                // Collectors are known to end connections that ping while they have nothing to do.
                .keep_alive_while_idle(false)
                .connect_lazy(),
            timeout: collector.timeout,
            service,
        })
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A call with what the collector asks for.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.headers {
            request.metadata_mut().insert(name.clone(), value.clone());
        }
        request
    }

    /// Who sends.
    pub(super) fn resource(&self) -> Resource {
        let Service {
            instance,
            namespace,
        } = &self.service;
        let mut attributes = vec![
            text("service.name", SERVICE),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", instance),
        ];
        if !namespace.is_empty() {
            attributes.push(text("service.namespace", namespace));
        }
        Resource {
            attributes,
            ..Resource::default()
        }
    }
}

/// Why a sending failed: the code, and of a failure on this side its causes. What the collector
/// itself says of it may be anything.
pub(super) fn why(failed: &Status) -> String {
    let mut told = format!("{:?}", failed.code());
    let mut cause = failed.source();
    while let Some(error) = cause {
        told.extend([": ", &error.to_string()]);
        cause = error.source();
    }
    masked(&told, WHY_CHARS_MAX)
}

/// What made it.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: SERVICE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// An attribute that is a text.
pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(super) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(endpoint: &str, header: (&str, &str), refused: Option<&str>) {
        let collector = Collector {
            endpoint: endpoint.to_owned(),
            headers: vec![(header.0.to_owned(), header.1.to_owned())],
            authorities: None,
            timeout: Duration::from_secs(1),
        };
        let service = Service {
            instance: "a".to_owned(),
            namespace: String::new(),
        };
        let said = Line::open(&collector, service)
            .err()
            .map(|error| error.to_string());
        match refused {
            None => assert_eq!(said, None),
            Some(part) => assert!(
                said.as_ref().is_some_and(|said| said.contains(part)),
                "{said:?}"
            ),
        }
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_refused_without_telling_a_value() {
        let fine = ("authorization", "Bearer x");
        check("http://collector:4317", fine, None);
        check("collector:4317", fine, Some("telemetry.otlp.endpoint"));
        check("", fine, Some("telemetry.otlp.endpoint"));
        check("ftp://collector", fine, Some("telemetry.otlp.endpoint"));
        check(
            "https://collector:4317",
            fine,
            Some("telemetry.otlp.ca_file"),
        );
        check("http://collector:4317", ("a b", "hidden"), Some("number 1"));
        check("http://collector:4317", ("a", "hid\nden"), Some("number 1"));
    }
}
