//! A client that sends the bytes it is told to, as no library would.
//!
//! HTTP/1.1, one request a connection, over TCP or TLS; every answer is waited for with a limit.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::upstream::Seen;

/// Until an answer must be there on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: String,
    target: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    from: Ipv4Addr,
}

/// A GET of a target, which may be any bytes.
pub(crate) fn get(target: impl AsRef<[u8]>) -> Ask {
    ask("GET", target)
}

pub(crate) fn ask(method: &str, target: impl AsRef<[u8]>) -> Ask {
    Ask {
        method: method.to_owned(),
        target: target.as_ref().to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        from: Ipv4Addr::LOCALHOST,
    }
}

impl Ask {
    /// One more header, also if there is one of that name.
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let header = (name.as_bytes().to_owned(), value.as_ref().to_owned());
        self.headers.push(header);
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_owned();
        let length = body.len().to_string();
        self.header("content-length", length)
    }

    /// The address of this machine that it comes from.
    pub(crate) fn from(mut self, address: [u8; 4]) -> Self {
        self.from = address.into();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let named = |name: &str| {
            let mut names = self.headers.iter().map(|(name, _)| name);
            names.any(|found| found.eq_ignore_ascii_case(name.as_bytes()))
        };
        let mut bytes = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        for (name, value) in [("host", "api.example.com"), ("connection", "close")] {
            if !named(name) {
                bytes.extend(format!("{name}: {value}\r\n").bytes());
            }
        }
        for (name, value) in &self.headers {
            bytes.extend([name, &b": "[..], value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }

    /// Sends it to a port of this machine; its answer.
    pub(crate) async fn send(&self, port: u16) -> Answer {
        self.send_over(self.connect(port).await).await
    }

    /// The same over a connection that is there.
    pub(crate) async fn send_over(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Answer {
        let mut answer = self.head_over(&mut stream).await;
        answer.read_body(&mut stream).await;
        answer
    }

    /// Sends it, and keeps the connection on which the head of the answer came.
    pub(crate) async fn open(&self, port: u16) -> (Answer, TcpStream) {
        let mut stream = self.connect(port).await;
        let answer = self.head_over(&mut stream).await;
        (answer, stream)
    }

    pub(crate) async fn connect(&self, port: u16) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::from((self.from, 0)))
            .expect("an address of this machine");
        let connected = socket.connect(SocketAddr::from(([127, 0, 0, 1], port)));
        connected.await.expect("connected")
    }

    async fn head_over(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Answer {
        // Whoever refuses a request may do so before it has read all of it.
        let _ = stream.write_all(&self.bytes()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, stream.read_u8()).await.expect("in time");
            head.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", text(&head))));
        }
        Answer::parse(&text(&head))
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.and_then(|status| status.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        Self {
            status: status.expect("a status line"),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: String::new(),
        }
    }

    /// Reads as much as was announced, else to the end of the connection.
    async fn read_body(&mut self, stream: &mut (impl AsyncRead + Unpin)) {
        let length = self.header("content-length");
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
        let read = async {
            match length {
                Some(_) => stream.read_exact(&mut body).await,
                None => stream.read_to_end(&mut body).await,
            }
        };
        let read = timeout(PATIENCE, read).await.expect("in time");
        read.unwrap_or_else(|error| panic!("{error} after {self:?}"));
        if self.header("transfer-encoding") == Some("chunked") {
            body = unchunked(&body);
        }
        self.body = text(&body);
    }

    /// The value of a header that is there once, or not at all.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(found, _)| found == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice: {:?}", self.headers);
        value
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What the upstream got, which answered it.
    #[track_caller]
    pub(crate) fn seen(&self) -> Seen {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = bytes
            .windows(2)
            .position(|two| two == b"\r\n")
            .expect("a length");
        let length = std::str::from_utf8(&bytes[..line]).expect("text");
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            return body;
        }
        let begin = line + 2;
        body.extend(&bytes[begin..begin + length]);
        bytes = &bytes[begin + length + 2..];
    }
}

/// Asks again and again until it is so, which must be while there is patience.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let from = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        while !is_so().await {
            assert!(began.elapsed() < PATIENCE, "not {what}, at {from}");
            tokio::task::yield_now().await;
        }
    }
}

/// Every byte as the character of its number, so that no two different ones look alike.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
