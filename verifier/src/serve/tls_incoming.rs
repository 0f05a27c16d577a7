//! Mutual TLS over TCP.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsStream;

use super::{Incoming, Origin, PrepareError, Prepared, Protocol};
use crate::{
    clock::Timestamp,
    tls::{AcceptError, Acceptor, Peer},
};

/// Connections of a TCP listener, each with its peer verified before a byte of HTTP is read.
///
/// Every request carries the [`Peer`] and the [`ConnectionInfo`] in its extensions. Where the acceptor admits
/// [anonymous](crate::tls::AcceptorOptions::dangerously_admit_anonymous) clients, their requests carry no [`Peer`].
#[derive(Debug)]
pub struct TlsIncoming {
    listener: TcpListener,
    acceptor: Acceptor,
}

/// What is known of a request's connection beside its peer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Where it came from.
    pub remote: SocketAddr,
    /// Where it arrived.
    pub local: SocketAddr,
    /// When it ends at the latest.
    pub ends_at: Timestamp,
}

impl TlsIncoming {
    /// Accepts on `listener`; the acceptor's application protocols are replaced by HTTP's.
    #[must_use]
    pub fn new(listener: TcpListener, acceptor: &Acceptor) -> Self {
        Self { listener, acceptor: acceptor.for_http() }
    }
}

impl Incoming for TlsIncoming {
    type Raw = (TcpStream, SocketAddr);
    type Io = Box<TlsStream<TcpStream>>;

    async fn accept(&self) -> io::Result<Self::Raw> {
        self.listener.accept().await
    }

    fn origin(&self, (_, remote): &Self::Raw) -> Option<Origin> {
        Some(Origin::of(remote.ip()))
    }

    async fn prepare(&self, (stream, remote): Self::Raw) -> Result<Prepared<Self::Io>, PrepareError> {
        let broken = |error: io::Error| PrepareError::broken("connection-broken", error).from_remote(remote);
        stream.set_nodelay(true).map_err(broken)?;
        let local = stream.local_addr().map_err(broken)?;
        let secured = self.acceptor.accept(stream).await.map_err(|error| refusal(error).from_remote(remote))?;
        let info = ConnectionInfo { remote, local, ends_at: secured.ends_at() };
        let protocol = match secured.alpn() {
            Some(b"h2") => Some(Protocol::Http2),
            Some(_) => Some(Protocol::Http1),
            None => None,
        };
        match secured.into_parts() {
            Some((io, peer, lifetime)) => {
                let prepared = Prepared::new(io).with(info).lifetime(lifetime).protocol(protocol);
                Ok(match peer {
                    Peer::Svid(_) => prepared.with(peer),
                    // Anybody can make a key.
                    Peer::Key(_) => prepared.with(peer).stranger(true),
                    // Nothing in the extensions that could be taken for a proof of anything.
                    Peer::Anonymous => prepared.stranger(true),
                })
            }
            None => Err(broken(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

fn refusal(error: AcceptError) -> PrepareError {
    let code = error.code();
    match error {
        AcceptError::Peer(_) | AcceptError::NoOwnSvid => PrepareError::refused(code, error),
        AcceptError::NoHello { .. } | AcceptError::Stalled { .. } | AcceptError::Handshake(_) => {
            PrepareError::broken(code, error)
        }
    }
}
