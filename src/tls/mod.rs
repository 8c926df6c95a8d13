//! TLS on our own listeners: certificates that are followed, handshakes, and who the peer is.
//!
//! ```text
//! tls.* files ─► source ─► loaded: followed and swapped whole ─► door ─► stream ─► who it is
//! ```
//!
//! Used by `cli`, which opens the files, and by `rpc`, which accepts connections through a
//! [`Door`]. A connection keeps what it began with; new ones go by what is in the files. The only
//! place besides the database's that names rustls. Absent on purpose: lists of revoked
//! certificates (short lives and the access lists do that), resumption and early data: sessions
//! here last, and neither says again who the peer is.

mod identity;
mod source;
mod stream;
mod trouble;

use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;

use crate::domain::peer::{Access, Allowed, Proven};
use crate::followed;

pub use identity::{proven, thumbprint, uri_of};
pub use source::{ClientAuth, Dialing, Files, Loaded, SourceError, Version};
pub use stream::Stream;
pub use trouble::trouble;

/// The certificates in use; see [`followed::Live`].
pub type Live = followed::Live<Loaded>;
/// Who keeps them as their files say.
pub type Follower = followed::Follower<Files>;

/// Who a peer turned out to be, once its handshake is over.
#[derive(Debug)]
pub struct Seen {
    /// What it has proven; none without a certificate.
    pub peer: Option<Arc<Proven>>,
    /// What it may call.
    pub allowed: Allowed,
}

/// Where that will stand; empty while the handshake goes on.
pub type Shown = Arc<OnceLock<Seen>>;

/// Which of the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The API's.
    Api,
    /// The one for metrics and probes.
    Admin,
}

/// What connections are accepted with: TLS, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Door(Option<Secured>);

#[derive(Clone, Debug)]
struct Secured {
    live: Arc<Live>,
    port: Port,
    access: Arc<Access>,
}

impl Door {
    /// Plain text.
    #[must_use]
    pub fn plain() -> Self {
        Self::default()
    }

    /// TLS, with the certificates of the moment.
    #[must_use]
    pub fn secured(live: Arc<Live>, port: Port, access: Access) -> Self {
        let access = Arc::new(access);
        Self(Some(Secured { live, port, access }))
    }

    /// A connection that was accepted, and where it will stand who its peer is. Nothing is read
    /// or written: the handshake goes on as the stream is polled.
    #[must_use]
    pub fn accept(&self, io: TcpStream) -> (Stream, Option<Shown>) {
        let Some(secured) = &self.0 else {
            return (Stream::plain(io), None);
        };
        let shown = Shown::default();
        let config = secured.live.current().server(secured.port);
        let access = Arc::clone(&secured.access);
        let stream = Stream::secured(io, config, access, Arc::clone(&shown));
        (stream, Some(shown))
    }
}

impl Live {
    /// The certificates that the settings name, and who follows them.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn open(files: Files) -> Result<(Arc<Self>, Follower), SourceError> {
        Self::follow(files)
    }
}
