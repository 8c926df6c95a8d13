//! Listening: a connection that does nothing but LISTEN, and tells when the log may have grown.
//!
//! A wake-up is a hint and carries nothing. One is given for every notification and every new
//! connection, which may have missed some. A server that is frozen looks like one that is silent,
//! so the connection is probed; one that does not answer in time is replaced. Behind a pooler in
//! transaction mode LISTEN succeeds and nothing ever comes: whoever waits here also polls.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::connect::{CONNECT_LIMIT, Connector};
use crate::store::StoreError;

/// How long after a lost connection the next is tried.
const PAUSE: Duration = Duration::from_millis(100);

/// The task that listens, which ends with this.
pub(super) struct Listener {
    wakes: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Begins to listen; a probe is sent so often and must be answered within that time.
    pub(super) fn start(connector: Arc<Connector>, probe_every: Duration) -> Self {
        let (sender, wakes) = watch::channel(0);
        let task = tokio::spawn(async move {
            loop {
                let lost = listen(&connector, &sender, probe_every).await;
                if let Err(error) = lost {
                    tracing::debug!(%error, "not listening for changes; polling goes on");
                }
                sleep(PAUSE).await;
            }
        });
        Self { wakes, task }
    }

    /// Moves at every wake-up.
    pub(super) fn wakes(&self) -> watch::Receiver<u64> {
        self.wakes.clone()
    }

    /// Listens no more.
    pub(super) fn close(&self) {
        self.task.abort();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Listens until the connection is lost.
async fn listen(
    connector: &Connector,
    wakes: &watch::Sender<u64>,
    probe_every: Duration,
) -> Result<(), StoreError> {
    let connection = connector
        .connect(CONNECT_LIMIT, Some(wakes.clone()))
        .await?;
    let ask = async |sql| {
        let lost = |why: &str| StoreError::Unavailable(format!("the listening connection {why}"));
        match timeout(probe_every, connection.client.batch_execute(sql)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(lost("was lost")),
            Err(_) => Err(lost("does not answer")),
        }
    };
    ask("-- listen\nLISTEN latchkey").await?;
    // What was committed before this connection listened has woken nobody.
    wakes.send_modify(|count| *count += 1);
    loop {
        sleep(probe_every).await;
        ask("-- probe\nSELECT 1").await?;
    }
}
