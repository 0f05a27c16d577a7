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

/// An endpoint that hangs is noticed within this, and its time to answer. A local socket tells by itself when the other end is
/// gone; and a server on grpc-go, as SPIRE's agent is, ends a connection that asks for a sign of life more often than every 5
/// minutes, or without a call.
const PING_INTERVAL: Duration = Duration::from_secs(6 * 60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects when it is first used, and again whenever the connection is gone.
pub(super) fn channel(endpoint: &Endpoint, options: &WorkloadApiOptions) -> Channel {
    // The authority decides nothing; it only has to be there.
    tonic::transport::Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false)
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::{
        super::{WorkloadApi, with_header},
        *,
    };
    use crate::generated::workload::X509svidRequest;

    /// It asked every 20 s; SPIRE's agent ended the stream with ENHANCE_YOUR_CALM each time, and it was opened anew at once.
    #[tokio::test(start_paused = true)]
    async fn wapi_03_an_idle_stream_is_not_pinged_more_often_than_grpc_go_allows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let api = WorkloadApi::at(Endpoint::Unix(path));
        let stream = tokio::spawn(async move { api.client().fetch_x509svid(with_header(X509svidRequest {})).await });
        let (mut server, _) = listener.accept().await.unwrap();
        server.read_exact(&mut [0; 24]).await.unwrap();
        server.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        // Reads frames until there is a PING that is no answer.
        let pinged = timeout(Duration::from_secs(300), async {
            let mut header = [0; 9];
            while server.read_exact(&mut header).await.is_ok() {
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
                let mut payload = vec![0; usize::try_from(length).unwrap()];
                server.read_exact(&mut payload).await.unwrap();
                if header[3] == 6 && header[4] & 1 == 0 {
                    return;
                }
            }
        });
        assert!(pinged.await.is_err(), "a PING, or the end of the connection, within 5 minutes");
        assert!(!stream.is_finished());
    }
}
