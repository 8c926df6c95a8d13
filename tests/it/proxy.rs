//! A TCP proxy of the tests' own: what a network does to a connection, at the moment a test says.
//!
//! Each direction passes bytes, holds them, holds the last byte of what it has read, passes them
//! late, drips them one by one, or is closed while the other stays open. A cut is a reset of both
//! sides of every connection that is open. New connections are made whatever the directions do:
//! what holds them is then a server that accepts and says nothing.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::sleep;

/// What one direction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Pass,
    /// Reads, and hands nothing on.
    Hold,
    /// Hands on all but the last byte of what it reads.
    HoldLast,
    /// Hands on so much later.
    Late(Duration),
    /// Hands on a byte at a time, each so much later than the one before.
    Drip(Duration),
    /// Tells that nothing more will come, and drops what does; such a connection stays so.
    Close,
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
        Self::leading(async move { Some(server) }).await
    }

    /// In front of what is not there yet: who connects waits until it is told where that is.
    pub(crate) async fn ahead() -> (Self, oneshot::Sender<SocketAddr>) {
        let (tell, told) = oneshot::channel();
        (Self::leading(async { told.await.ok() }).await, tell)
    }

    async fn leading(server: impl Future<Output = Option<SocketAddr>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (to_server, up) = watch::channel(Flow::Pass);
        let (to_client, down) = watch::channel(Flow::Pass);
        let (cuts, cut) = watch::channel(0);
        let task = tokio::spawn(async move {
            // Ends the connections when it ends.
            let mut connections = JoinSet::new();
            let Some(server) = server.await else { return };
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { return };
                        let flows = (up.clone(), down.clone());
                        connections.spawn(join(client, server, flows, cut.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
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

    /// In front of what listens on a port of this machine.
    pub(crate) async fn of(port: u16) -> Self {
        Self::start(SocketAddr::from(([127, 0, 0, 1], port))).await
    }

    /// What happens from now on to bytes for the server.
    pub(crate) fn to_server(&self, flow: Flow) {
        self.to_server.send_replace(flow);
    }

    /// What happens from now on to bytes for the client.
    pub(crate) fn to_client(&self, flow: Flow) {
        self.to_client.send_replace(flow);
    }

    /// What happens from now on to bytes either way.
    pub(crate) fn both_ways(&self, flow: Flow) {
        self.to_server(flow);
        self.to_client(flow);
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
    (up, down): (watch::Receiver<Flow>, watch::Receiver<Flow>),
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
        // What was held when it was cut is lost, also if it might pass a moment later.
        biased;
        _ = cut.changed() => {}
        () = pass(from_client, to_server, up) => {}
        () = pass(from_server, to_client, down) => {}
    }
}

/// Moves bytes one way until that way ends.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flow: watch::Receiver<Flow>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = tokio::select! {
            read = from.read(&mut bytes) => match read {
                Ok(count) if count > 0 => count,
                _ => return,
            },
            Ok(_) = flow.wait_for(|flow| *flow == Flow::Close) => 0,
        };
        let now = *flow.borrow_and_update();
        let written = match now {
            Flow::Pass => to.write_all(&bytes[..count]).await,
            Flow::Hold => held(&mut to, &bytes[..count], &mut flow).await,
            Flow::HoldLast => {
                let (most, last) = bytes[..count].split_at(count.saturating_sub(1));
                match to.write_all(most).await {
                    Ok(()) => held(&mut to, last, &mut flow).await,
                    failed => failed,
                }
            }
            Flow::Late(time) => {
                sleep(time).await;
                to.write_all(&bytes[..count]).await
            }
            Flow::Drip(time) => drip(&mut to, &bytes[..count], time, &mut flow).await,
            Flow::Close => {
                let _ = to.shutdown().await;
                while from.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// Hands bytes on once they pass again, if they ever do.
async fn held(
    to: &mut OwnedWriteHalf,
    bytes: &[u8],
    flow: &mut watch::Receiver<Flow>,
) -> std::io::Result<()> {
    let passes = |flow: &Flow| !matches!(flow, Flow::Hold | Flow::HoldLast);
    if flow.wait_for(passes).await.is_err() {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    }
    if *flow.borrow() == Flow::Close {
        return Ok(());
    }
    to.write_all(bytes).await
}

async fn drip(
    to: &mut OwnedWriteHalf,
    bytes: &[u8],
    time: Duration,
    flow: &mut watch::Receiver<Flow>,
) -> std::io::Result<()> {
    for (index, byte) in bytes.iter().enumerate() {
        if !matches!(*flow.borrow(), Flow::Drip(_)) {
            return to.write_all(&bytes[index..]).await;
        }
        to.write_all(std::slice::from_ref(byte)).await?;
        // Whoever reads at the other end has its turn, also where no time is set.
        if time.is_zero() {
            yield_now().await;
        } else {
            sleep(time).await;
        }
    }
    Ok(())
}
