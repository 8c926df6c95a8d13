//! A TCP proxy of the tests' own: what a network does to a connection, at the moment a test says.
//!
//! Each direction passes bytes, holds them, or holds the last byte of what it has read. A cut is a
//! reset of both sides of every connection that is open.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What one direction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Pass,
    /// Reads, and hands nothing on.
    Hold,
    /// Hands on all but the last byte of what it reads.
    HoldLast,
}

/// A proxy; its connections end with it.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    to_server: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (to_server, up) = watch::channel(Flow::Pass);
        let (to_client, down) = watch::channel(Flow::Pass);
        let (cuts, cut) = watch::channel(0);
        let task = tokio::spawn(async move {
            // Ends the connections when it ends.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(join(client, server, up.clone(), down.clone(), cut.clone()));
            }
        });
        Self {
            port,
            to_server,
            to_client,
            cuts,
            task,
        }
    }

    /// What happens from now on to bytes for the server.
    pub(crate) fn to_server(&self, flow: Flow) {
        self.to_server.send_replace(flow);
    }

    /// What happens from now on to bytes for the client.
    pub(crate) fn to_client(&self, flow: Flow) {
        self.to_client.send_replace(flow);
    }

    /// Resets every connection that is open.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn join(
    client: TcpStream,
    server: SocketAddr,
    up: watch::Receiver<Flow>,
    down: watch::Receiver<Flow>,
    mut cut: watch::Receiver<u64>,
) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    for side in [&client, &server] {
        // What is dropped is reset, and bytes wait for no others.
        side.set_zero_linger().expect("a socket");
        side.set_nodelay(true).expect("a socket");
    }
    cut.mark_unchanged();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = cut.changed() => {}
        () = pass(from_client, to_server, up) => {}
        () = pass(from_server, to_client, down) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flow: watch::Receiver<Flow>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut bytes).await {
        if count == 0 {
            return;
        }
        let now = *flow.borrow_and_update();
        let ready = match now {
            Flow::Pass => count,
            Flow::Hold => 0,
            Flow::HoldLast => count - 1,
        };
        if to.write_all(&bytes[..ready]).await.is_err() {
            return;
        }
        if ready < count {
            if flow.wait_for(|flow| *flow == Flow::Pass).await.is_err() {
                return;
            }
            if to.write_all(&bytes[ready..count]).await.is_err() {
                return;
            }
        }
    }
}
