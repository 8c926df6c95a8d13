//! What stands behind Envoy: a service that answers with what it received.
//!
//! HTTP/1.1 by hand, so that nothing is tidied up before it is told, and HTTP/2 on the same port.
//! A gRPC request is answered with its own message; a WebSocket gets its own bytes back.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Request, Response};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::client::text;

/// A request as it arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Seen {
    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.iter();
        let found = headers.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).collect()
    }
}

/// The service; it ends with its handle.
pub(crate) struct Upstream {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&record)));
            }
        });
        Self { port, seen, task }
    }

    /// Every request so far, in the order of their arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Record = Arc<Mutex<Vec<Seen>>>;

fn note(record: &Record, seen: &Seen) {
    let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
    record.push(seen.clone());
}

async fn serve(stream: TcpStream, record: Record) {
    let mut first = [0; 3];
    while let Ok(count) = stream.peek(&mut first).await
        && count > 0
    {
        if count == first.len() {
            return match &first {
                b"PRI" => serve_http2(stream, &record).await,
                _ => serve_http1(stream, &record).await.unwrap_or_default(),
            };
        }
    }
}

async fn serve_http1(mut stream: TcpStream, record: &Record) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = text(&head);
    let mut lines = head.split("\r\n");
    let (method, rest) = lines
        .next()
        .and_then(|line| line.split_once(' '))
        .expect("a request");
    let (target, _) = rest.rsplit_once(' ').expect("a request");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let seen = Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    };
    note(record, &seen);
    if seen.all("upgrade") == ["websocket"] {
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        stream.write_all(switch.as_bytes()).await?;
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await?;
        return Ok(());
    }
    let length = seen
        .all("content-length")
        .first()
        .and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let body = serde_json::to_string(&seen).expect("JSON");
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await
}

async fn serve_http2(stream: TcpStream, record: &Record) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let mut answers = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        answers.spawn(answer_http2(request, respond, Arc::clone(record)));
    }
}

/// The whole body of a request.
pub(crate) async fn whole(mut received: h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(bytes) = received.data().await {
        let bytes = bytes?;
        received.flow_control().release_capacity(bytes.len())?;
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

async fn answer_http2(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    record: Record,
) -> Result<(), h2::Error> {
    let (request, received) = request.into_parts();
    let headers = request.headers.iter();
    let seen = Seen {
        method: request.method.to_string(),
        target: request
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        headers: headers
            .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
            .collect(),
    };
    note(&record, &seen);
    let message = whole(received).await?;
    let grpc = seen
        .all("content-type")
        .iter()
        .any(|found| found.starts_with("application/grpc"));
    let kind = if grpc {
        "application/grpc"
    } else {
        "application/json"
    };
    let head = Response::builder()
        .header("content-type", kind)
        .body(())
        .expect("a head");
    let mut body = respond.send_response(head, false)?;
    if !grpc {
        let json = serde_json::to_vec(&seen).expect("JSON");
        return body.send_data(json.into(), true);
    }
    body.send_data(message.into(), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    body.send_trailers(trailers)
}
