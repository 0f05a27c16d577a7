//! The connection to a Workload API. No TLS: the endpoint is local (WEP-06, WEP-07).

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tonic::transport::Channel;

use super::{Endpoint, WorkloadApiOptions};

/// Connects when it is first used, and again whenever the connection is gone.
pub(super) fn channel(endpoint: &Endpoint, options: &WorkloadApiOptions) -> Channel {
    // The authority decides nothing; it only has to be there.
    tonic::transport::Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(Dial { endpoint: endpoint.clone(), deadline: options.connect_deadline })
}

#[derive(Clone, Debug)]
struct Dial {
    endpoint: Endpoint,
    deadline: Duration,
}

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<Local>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { endpoint, deadline } = self.clone();
        Box::pin(async move {
            let connected = timeout(deadline, async {
                Ok(match &endpoint {
                    Endpoint::Unix(path) => Local::Unix(UnixStream::connect(path).await?),
                    Endpoint::Tcp(address) => Local::Tcp(TcpStream::connect(address).await?),
                })
            });
            let connected = connected.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            connected.map(TokioIo::new).map_err(|error: io::Error| {
                io::Error::new(error.kind(), format!("cannot connect to `{endpoint}`: {error}"))
            })
        })
    }
}

/// Either kind of stream.
#[derive(Debug)]
enum Local {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsyncRead for Local {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Local {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
