//! A collector of the test's own: it takes spans and metrics by OTLP over gRPC, and keeps them.
//!
//! The services are those that the protocol's own definitions generate; plain text or TLS. It can be
//! frozen: then it reads what comes and answers nothing. What was received is kept as bytes, too, to be searched.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as trace;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::tls::kit::Pair;

/// How long what must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Attributes by name.
pub(crate) type Attributes = BTreeMap<String, String>;

/// A span as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) kind: i32,
    pub(crate) nanos: u64,
    pub(crate) attributes: Attributes,
}

#[derive(Default)]
struct Kept {
    spans: Vec<Span>,
    // Of the last sending.
    metrics: Vec<Metric>,
    resources: Vec<Attributes>,
    metadata: Vec<MetadataMap>,
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
struct Receiver {
    kept: Arc<Mutex<Kept>>,
    frozen: Arc<AtomicBool>,
}

/// The collector; it ends with its handle.
pub(crate) struct Collector {
    receiver: Receiver,
    scheme: &'static str,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::serve("http", Server::builder()).await
    }

    /// One that speaks TLS and shows this certificate.
    pub(crate) async fn secured(shown: &Pair) -> Self {
        let shown = Identity::from_pem(&shown.cert, &shown.key);
        let tls = ServerTlsConfig::new().identity(shown);
        let server = Server::builder().tls_config(tls).expect("a pair");
        Self::serve("https", server).await
    }

    async fn serve(scheme: &'static str, mut server: Server) -> Self {
        let receiver = Receiver::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = server
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async { server.await.expect("it serves") });
        Self {
            receiver,
            scheme,
            address,
            task,
        }
    }

    /// From now on it answers nothing.
    pub(crate) fn freeze(&self) {
        self.receiver.frozen.store(true, Ordering::SeqCst);
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The setting that names it.
    pub(crate) fn setting(&self) -> String {
        format!("telemetry.otlp.endpoint={}", self.endpoint())
    }

    /// Comes back once so many spans were received; the others are still on their way.
    pub(crate) async fn received(&self, spans: usize) {
        let began = Instant::now();
        while self.spans().len() < spans {
            let found = self.spans();
            assert!(began.elapsed() < PATIENCE, "{spans} wanted: {found:#?}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.kept(|kept| kept.spans.clone())
    }

    /// What was sent last, once that is so.
    pub(crate) async fn metrics_once(&self, is_so: impl Fn(&[Metric]) -> bool) -> Vec<Metric> {
        let began = Instant::now();
        loop {
            let sent = self.kept(|kept| kept.metrics.clone());
            if is_so(&sent) {
                return sent;
            }
            assert!(began.elapsed() < PATIENCE, "{sent:#?}");
            tokio::task::yield_now().await;
        }
    }

    /// The one span of a trace that has this name.
    #[track_caller]
    pub(crate) fn span(&self, trace: &str, name: &str) -> Span {
        let spans = self.spans();
        let mut found = spans
            .iter()
            .filter(|one| one.trace == trace && one.name == name);
        let span = found.next().unwrap_or_else(|| panic!("{name}: {spans:#?}"));
        assert!(found.next().is_none(), "{name} twice: {spans:#?}");
        span.clone()
    }

    pub(crate) fn resources(&self) -> Vec<Attributes> {
        self.kept(|kept| kept.resources.clone())
    }

    /// How many calls came.
    pub(crate) fn calls(&self) -> usize {
        self.kept(|kept| kept.metadata.len())
    }

    /// A value of the metadata of every call.
    pub(crate) fn metadata(&self, name: &str) -> Vec<Option<String>> {
        let value = |map: &MetadataMap| Some(map.get(name)?.to_str().ok()?.to_owned());
        self.kept(|kept| kept.metadata.iter().map(value).collect())
    }

    /// Whether a text is anywhere in what was received.
    pub(crate) fn holds(&self, text: &str) -> bool {
        let found = |kept: &Kept| {
            kept.bytes
                .windows(text.len())
                .any(|it| it == text.as_bytes())
        };
        self.kept(|kept| found(kept))
    }

    fn kept<T>(&self, read: impl FnOnce(&Kept) -> T) -> T {
        read(&self.receiver.kept.lock().expect("kept"))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// Keeps what all messages have; comes back once it is to be answered.
    async fn take<T: prost::Message>(&self, request: Request<T>) -> T {
        let (metadata, _, message) = request.into_parts();
        {
            let mut kept = self.kept.lock().expect("kept");
            kept.bytes.extend(message.encode_to_vec());
            kept.metadata.push(metadata);
        }
        if self.frozen.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        message
    }

    fn note(&self, resource: Option<Resource>) {
        let attributes = attributes(&resource.expect("a resource").attributes);
        self.kept.lock().expect("kept").resources.push(attributes);
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for one in self.take(request).await.resource_spans {
            self.note(one.resource);
            for scope in one.scope_spans {
                assert_eq!(scope.scope.expect("a scope").name, "latchkey");
                let spans = scope.spans.iter().map(read);
                self.kept.lock().expect("kept").spans.extend(spans);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for one in self.take(request).await.resource_metrics {
            self.note(one.resource);
            let scopes = one.scope_metrics.into_iter();
            let metrics = scopes.flat_map(|scope| scope.metrics).collect();
            self.kept.lock().expect("kept").metrics = metrics;
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn read(span: &trace::Span) -> Span {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let nanos = span
        .end_time_unix_nano
        .checked_sub(span.start_time_unix_nano);
    Span {
        name: span.name.clone(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        state: span.trace_state.clone(),
        kind: span.kind,
        nanos: nanos.expect("it ends after it has begun"),
        attributes: attributes(&span.attributes),
    }
}

pub(crate) fn attributes(all: &[KeyValue]) -> Attributes {
    let text = |value: &KeyValue| match value.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(truth) => Some(truth.to_string()),
        other => panic!("{other:?}"),
    };
    let read = |one: &KeyValue| (one.key.clone(), text(one).expect("a value"));
    all.iter().map(read).collect()
}
