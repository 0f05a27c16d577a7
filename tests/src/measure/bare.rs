//! What ours is measured against: rustls with its own verifiers, tonic with nothing around it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bonafide_verifier::x509::X509Svid;
use bytes::Bytes;
use http::{Request, Response, Uri, uri::PathAndQuery};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::{
    Status, Streaming,
    body::Body,
    client::Grpc as Client,
    server::{Grpc as Server, StreamingService, UnaryService},
    transport::{Channel, server::Connected},
};
use tonic_prost::ProstCodec;

use super::fleet::DNS_NAME;

/// The suites and groups that our configurations use, in their order.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    Arc::new(provider)
}

fn roots(root: &[u8]) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root)).expect("the root");
    Arc::new(roots)
}

fn key(svid: &X509Svid) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(svid.expose_secret().to_vec().into())
}

/// A server that asks for a certificate, all of it rustls', without tickets.
pub fn server_config(svid: &X509Svid, root: &[u8]) -> Arc<ServerConfig> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(root), provider()).build().expect("rustls' client verifier");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(svid.chain().to_vec(), key(svid))
        .expect("a chain and its key");
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A client with a certificate, all of it rustls', without resumption.
pub fn client_config(svid: &X509Svid, root: &[u8]) -> Arc<ClientConfig> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(root), provider()).build().expect("rustls' server verifier");
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(svid.chain().to_vec(), key(svid))
        .expect("a chain and its key");
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A gRPC service with one unary and one streaming method, both of which only send back what they get.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(request.into_inner())))
    }
}

impl StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let echoed: Self::ResponseStream = Box::pin(request.into_inner());
        std::future::ready(Ok(tonic::Response::new(echoed)))
    }
}

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "bare.Echo";
}

impl tower_service::Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let stream = request.uri().path().ends_with("/Stream");
        Box::pin(async move {
            let mut server = Server::new(ProstCodec::<Bytes, Bytes>::default());
            Ok(if stream { server.streaming(Echo, request).await } else { server.unary(Echo, request).await })
        })
    }
}

/// One echoed message over a new channel.
pub async fn echo(channel: Channel, message: Bytes) -> Bytes {
    let mut client = Client::new(channel);
    client.ready().await.expect("a channel");
    let codec = ProstCodec::<Bytes, Bytes>::default();
    let path = PathAndQuery::from_static("/bare.Echo/Unary");
    client.unary(tonic::Request::new(message), path, codec).await.expect("an answer").into_inner()
}

/// A stream both ways; the first message has come back.
pub async fn stream(
    channel: Channel,
    outgoing: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Streaming<Bytes>, Status> {
    let mut client = Client::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Bytes, Bytes>::default();
    let path = PathAndQuery::from_static("/bare.Echo/Stream");
    let mut answers = client.streaming(tonic::Request::new(outgoing), path, codec).await?.into_inner();
    answers.next().await.ok_or_else(|| Status::unavailable("the stream ended"))??;
    Ok(answers)
}

/// Serves [`Echo`] on a Unix socket. Never ends.
pub async fn serve_unix(listener: UnixListener) {
    let server = tonic::transport::Server::builder().add_service(Echo);
    server.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("the bare server serves");
}

/// Serves [`Echo`] over mTLS. Never ends.
pub async fn serve_tls(listener: TcpListener, config: Arc<ServerConfig>) {
    let (ready, incoming) = tokio::sync::mpsc::channel(64);
    let accepting = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (acceptor, ready) = (TlsAcceptor::from(config.clone()), ready.clone());
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                let stream = acceptor.accept(stream).await?;
                let _ = ready.send(Ok::<_, io::Error>(Secured(stream))).await;
                Ok::<_, io::Error>(())
            });
        }
    };
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(20)))
        .add_service(Echo)
        .serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(incoming));
    tokio::select! {
        () = accepting => {}
        ended = server => ended.expect("the bare server serves"),
    }
}

/// A channel over mTLS, with tonic's and rustls' own means.
pub async fn tls_channel(address: &str, config: Arc<ClientConfig>) -> Channel {
    let address = address.to_owned();
    let connector = tower::service_fn({
        let address = address.clone();
        move |_: Uri| {
            let (address, connector) = (address.clone(), TlsConnector::from(config.clone()));
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::try_from(DNS_NAME).expect("a name");
                Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(connector.connect(name, stream).await?))
            }
        }
    });
    super::fleet::endpoint(&address).connect_with_connector(connector).await.expect("the bare server answers")
}

/// A TLS stream that tonic's server takes.
struct Secured(TlsStream<TcpStream>);

impl Connected for Secured {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
