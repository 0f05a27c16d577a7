//! The connector as HTTP clients take it.

mod goaway;
mod http1;

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::net::TcpStream;

use self::goaway::Goodbye;
use super::{ConnectError, Connector, KeyConnector, Peer, SecuredStream};

/// A secured stream as hyper-util's client and tonic's channels take it.
///
/// At its closing moment its client is told, as if by the server, that the connection takes no more requests: those in flight
/// finish, the next one makes a new connection. HTTP/2 has GOAWAY for that; with HTTP/1.1 the stream is closed as soon as no
/// response is under way. (A response that lasts until the close, or after an upgrade, goes on to the end.)
#[derive(Debug)]
pub struct HttpStream {
    io: TokioIo<Goodbye<TcpStream>>,
    peer: Peer,
    http2: bool,
}

impl HttpStream {
    fn new(stream: SecuredStream<TcpStream>) -> Self {
        let http2 = stream.alpn() == Some(b"h2");
        let peer = stream.peer().clone();
        Self { io: TokioIo::new(Goodbye::new(stream, http2)), peer, http2 }
    }

    /// Who the server is.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connection for HttpStream {
    /// Each response carries the server's [`Peer`] in its extensions.
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.peer.clone());
        if self.http2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for HttpStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for HttpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<HttpStream, ConnectError>> + Send>>;

macro_rules! service {
    ($connector:ty) => {
        impl tower_service::Service<Uri> for $connector {
            type Response = HttpStream;
            type Error = ConnectError;
            type Future = Connecting;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, uri: Uri) -> Connecting {
                let connector = self.clone();
                Box::pin(async move {
                    let address = address_of(&uri)?;
                    Ok(HttpStream::new(connector.connect_http(&address).await?))
                })
            }
        }
    };
}

service!(Connector);
service!(KeyConnector);

/// `host:port` of a URI; without a port that of HTTPS, whatever the scheme, since TLS is what is spoken.
fn address_of(uri: &Uri) -> Result<String, ConnectError> {
    let host = uri.host().ok_or_else(|| ConnectError::Address { address: uri.to_string() })?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(443)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_uris() {
        let cases = [
            ("https://ca.example.org:8443/x", "ca.example.org:8443"),
            ("http://ca.example.org", "ca.example.org:443"),
            ("https://[::1]:8443", "[::1]:8443"),
        ];
        for (uri, address) in cases {
            assert_eq!(address_of(&uri.parse().unwrap()).unwrap(), address);
        }
        assert!(address_of(&"/path".parse().unwrap()).is_err());
    }
}
