//! An authorisation server that answers what a test tells it to, right or wrong.
//!
//! It keeps what it was asked, whole.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Request, Response};
use latchkey::proto::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tonic::Code;

use super::upstream::whole;

/// The server; it ends with its handle.
pub(crate) struct Fixed {
    pub(crate) port: u16,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

struct Shared {
    answer: Result<CheckResponse, Code>,
    asked: Vec<CheckRequest>,
}

impl Fixed {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Mutex::new(Shared {
            answer: Err(Code::Unknown),
            asked: Vec::new(),
        }));
        let theirs = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&theirs)));
            }
        });
        Self { port, shared, task }
    }

    /// What it answers from now on.
    pub(crate) fn answer(&self, answer: Result<CheckResponse, Code>) {
        lock(&self.shared).answer = answer;
    }

    /// What it was asked last.
    pub(crate) fn asked(&self) -> CheckRequest {
        lock(&self.shared).asked.last().expect("asked").clone()
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: TcpStream, shared: Arc<Mutex<Shared>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let mut answers = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        answers.spawn(answer(request, respond, Arc::clone(&shared)));
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    shared: Arc<Mutex<Shared>>,
) -> Result<(), h2::Error> {
    let framed = whole(request.into_body()).await?;
    // One message: whether it is compressed, its length, itself.
    let request = CheckRequest::decode(&framed[5..]).expect("a request");
    let answer = {
        let mut shared = lock(&shared);
        shared.asked.push(request);
        shared.answer.clone()
    };
    let head = Response::builder().header("content-type", "application/grpc");
    let mut body = respond.send_response(head.body(()).expect("a head"), false)?;
    let code = match &answer {
        Ok(answer) => {
            let message = answer.encode_to_vec();
            let length = u32::try_from(message.len()).expect("short");
            let framed = [&[0][..], &length.to_be_bytes(), &message].concat();
            body.send_data(framed.into(), false)?;
            Code::Ok
        }
        Err(code) => *code,
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code as i32));
    body.send_trailers(trailers)
}
