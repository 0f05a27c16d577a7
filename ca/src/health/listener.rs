//! Where health and metrics are served: always a Unix socket in the data directory, TCP when asked.

use std::io;

use bonafide_verifier::serve::{Incoming, Origin, PrepareError, Prepared, ServeOptions};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::local_socket::LocalSocket;

/// Connections to the Unix socket. Its mode says who may come.
#[derive(Debug)]
pub(crate) struct LocalIncoming(pub(crate) LocalSocket);

impl Incoming for LocalIncoming {
    type Raw = UnixStream;
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.0.accept().await
    }

    async fn prepare(&self, raw: UnixStream) -> Result<Prepared<UnixStream>, PrepareError> {
        Ok(Prepared::new(raw))
    }
}

/// Connections over TCP, from anybody who reaches the address.
#[derive(Debug)]
pub(crate) struct TcpIncoming(pub(crate) TcpListener);

impl Incoming for TcpIncoming {
    type Raw = TcpStream;
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        self.0.accept().await.map(|(stream, _)| stream)
    }

    fn origin(&self, raw: &TcpStream) -> Option<Origin> {
        raw.peer_addr().ok().map(|address| Origin::of(address.ip()))
    }

    async fn prepare(&self, raw: TcpStream) -> Result<Prepared<TcpStream>, PrepareError> {
        Ok(Prepared::new(raw))
    }
}

/// A few scrapers and probes; the rest waits or is dropped.
pub(crate) fn options() -> ServeOptions {
    let mut options = ServeOptions::default();
    options.connections = 256;
    options.connections_per_origin = Some(64);
    options.grace = std::time::Duration::from_secs(1);
    options
}
