//! The client's side of a connection.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    KeyCredential, Peer, PeerError, PeerSet, SecuredStream, ServerTrust, TlsConfigError,
    client::{anonymous_client_config, client_config_handshake_only, key_client_config},
    lifetime::{Before, Bounds},
    pinned_root::Trust,
};
use crate::{clock::Clock, identity::Identity, x509::VerifiedPeer};

/// Settings of a [`Connector`] or [`KeyConnector`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectorOptions {
    /// Application protocols of raw streams, the preferred first; HTTP clients always offer HTTP/2 and HTTP/1.1. Default: none.
    pub alpn: Vec<Vec<u8>>,
    /// Within this the host's name must be resolved. Default 5 s.
    pub resolve_deadline: Duration,
    /// Within this one address must answer; then the next is tried. Default 5 s.
    pub connect_deadline: Duration,
    /// Within this the handshake must be done. Default 10 s.
    pub handshake_deadline: Duration,
}

impl Default for ConnectorOptions {
    fn default() -> Self {
        Self {
            alpn: Vec::new(),
            resolve_deadline: Duration::from_secs(5),
            connect_deadline: Duration::from_secs(5),
            handshake_deadline: Duration::from_secs(10),
        }
    }
}

/// Makes secured streams to servers of a set. Cheap to clone.
///
/// With the feature `connect` it is also a `Service<Uri>`, for hyper-util's client and for
/// `tonic::transport::Endpoint::connect_with_connector`; it always speaks TLS, whatever the URI's scheme.
///
#[cfg_attr(feature = "workload-api", doc = "```no_run")]
#[cfg_attr(not(feature = "workload-api"), doc = "```ignore")]
/// use bonafide_verifier::{identity::Identity, tls::{Connector, ConnectorOptions, PeerSet}};
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
///
/// # async fn example(identity: Identity) -> Result<(), Box<dyn std::error::Error>> {
/// let photos = PeerSet::parse(["spiffe://example.org/photo"])?;
/// let connector = Connector::new(&identity, photos, ConnectorOptions::default())?;
///
/// // hyper
/// let client = Client::builder(TokioExecutor::new()).build(connector.clone());
/// let request = http::Request::get("https://photo.internal:8443/1").body(http_body_util::Empty::<&[u8]>::new())?;
/// let response = client.request(request).await?;
///
/// // tonic: the scheme `http`, since the connector is what speaks TLS
/// let endpoint = tonic::transport::Endpoint::from_static("http://photo.internal:8443");
/// let channel = endpoint.connect_with_connector(connector.clone()).await?;
///
/// // anything else
/// let stream = connector.connect("photo.internal:8443").await?;
/// println!("{:?} until {}", stream.peer().id(), stream.ends_at());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Connector {
    client: Arc<Client>,
    identity: Identity,
    expected: PeerSet,
}

/// Makes secured streams with a key that has no identity yet: how a node joins, and how it comes back after its SVID has
/// expired. Cheap to clone; otherwise like [`Connector`].
#[derive(Clone, Debug)]
pub struct KeyConnector(Arc<Client>);

struct Client {
    who: Who,
    raw: Arc<ClientConfig>,
    #[cfg(feature = "connect")]
    http: Arc<ClientConfig>,
    options: ConnectorOptions,
}

enum Who {
    Identity(Identity),
    Anonymous(Identity),
    Key { trust: Arc<Trust>, clock: Arc<dyn Clock> },
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Not `host:port`.
    #[error("`{address}` is no `host:port`")]
    Address {
        /// The text.
        address: String,
    },
    /// The host's name is not known, or was not looked up in time.
    #[error("cannot resolve `{host}`: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No address of the host answered.
    #[error("no answer from `{address}`: {source}")]
    Connect {
        /// The address that was tried last.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The server did not go on with the handshake.
    #[error("`{host}` did not finish the handshake within {waited:?}")]
    Stalled {
        /// Whom we dialled.
        host: String,
        /// The deadline.
        waited: Duration,
    },
    /// The server is not one we talk to.
    #[error("refused `{host}`: {source}")]
    Peer {
        /// Whom we dialled.
        host: String,
        /// Why.
        source: PeerError,
    },
    /// The TLS handshake failed otherwise, or the connection broke.
    #[error("the handshake with `{host}` failed: {source}")]
    Handshake {
        /// Whom we dialled.
        host: String,
        /// Why.
        source: io::Error,
    },
}

impl ConnectError {
    /// A stable word for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Address { .. } => "address-invalid",
            Self::Resolve { .. } => "host-unknown",
            Self::Connect { .. } => "no-answer",
            Self::Stalled { .. } => "handshake-stalled",
            Self::Peer { source, .. } => source.code(),
            Self::Handshake { .. } => "handshake-failed",
        }
    }

    /// Whether the server answered and is not one we talk to; trying again helps only when something there changes.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Peer { .. })
    }
}

impl Connector {
    /// Presents the identity's current SVID and expects a server of the set.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn new(identity: &Identity, expected: PeerSet, options: ConnectorOptions) -> Result<Self, TlsConfigError> {
        let config = client_config_handshake_only(identity, expected.clone())?;
        let client = Arc::new(Client::new(Who::Identity(identity.clone()), config, options));
        Ok(Self { client, identity: identity.clone(), expected })
    }

    /// Presents nothing and expects a server of the set, which it verifies with the identity's bundles: for callers that prove
    /// themselves in each request, by a key or a token. The identity needs no SVID.
    ///
    /// The server must admit [anonymous](super::AcceptorOptions::dangerously_admit_anonymous) clients.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn anonymous(
        identity: &Identity,
        expected: PeerSet,
        options: ConnectorOptions,
    ) -> Result<Self, TlsConfigError> {
        let config = anonymous_client_config(identity, expected.clone())?;
        let client = Arc::new(Client::new(Who::Anonymous(identity.clone()), config, options));
        Ok(Self { client, identity: identity.clone(), expected })
    }

    /// Connects to `host:port` and says who answered. May be dropped at any time, which closes the connection.
    ///
    /// # Errors
    /// When nobody answers, or not a server of the set.
    pub async fn connect(&self, address: &str) -> Result<SecuredStream<TcpStream>, ConnectError> {
        self.client.connect(address, &self.client.raw).await
    }

    /// Does the handshake over a stream that is connected already; `host` is what it is connected to, for the
    /// server-name indication alone.
    ///
    /// # Errors
    /// When the other end is not a server of the set.
    pub async fn connect_over<T>(&self, io: T, host: &str) -> Result<SecuredStream<T>, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        self.client.handshake(io, host, &self.client.raw).await
    }

    #[cfg(feature = "connect")]
    pub(super) async fn connect_http(self, address: &str) -> Result<SecuredStream<TcpStream>, ConnectError> {
        self.client.connect(address, &self.client.http).await
    }

    /// Whose SVID it presents, unless it presents none, and with whose bundles it verifies.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whom it takes as a server.
    #[must_use]
    pub fn expected(&self) -> &PeerSet {
        &self.expected
    }
}

impl KeyConnector {
    /// Presents the key and trusts as told.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn new(
        key: KeyCredential,
        trust: ServerTrust,
        clock: Arc<dyn Clock>,
        options: ConnectorOptions,
    ) -> Result<Self, TlsConfigError> {
        let trust = Arc::new(Trust::new(trust));
        let config = key_client_config(Arc::clone(&trust), key, &clock)?;
        Ok(Self(Arc::new(Client::new(Who::Key { trust, clock }, config, options))))
    }

    /// The certificate of the pinned root, once a server has shown it in a handshake that was good.
    #[must_use]
    pub fn root_der(&self) -> Option<Arc<[u8]>> {
        match &self.0.who {
            Who::Identity(_) | Who::Anonymous(_) => None,
            Who::Key { trust, .. } => trust.root_der(),
        }
    }

    /// As [`Connector::connect`].
    ///
    /// # Errors
    /// When nobody answers, or not the expected server.
    pub async fn connect(&self, address: &str) -> Result<SecuredStream<TcpStream>, ConnectError> {
        self.0.connect(address, &self.0.raw).await
    }

    /// As [`Connector::connect_over`].
    ///
    /// # Errors
    /// When the other end is not the expected server.
    pub async fn connect_over<T>(&self, io: T, host: &str) -> Result<SecuredStream<T>, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.handshake(io, host, &self.0.raw).await
    }

    #[cfg(feature = "connect")]
    pub(super) async fn connect_http(self, address: &str) -> Result<SecuredStream<TcpStream>, ConnectError> {
        self.0.connect(address, &self.0.http).await
    }
}

impl Client {
    fn new(who: Who, mut config: ClientConfig, options: ConnectorOptions) -> Self {
        #[cfg(feature = "connect")]
        let http = {
            let mut config = config.clone();
            config.alpn_protocols = super::HTTP_ALPN.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        config.alpn_protocols.clone_from(&options.alpn);
        Self {
            who,
            raw: Arc::new(config),
            #[cfg(feature = "connect")]
            http,
            options,
        }
    }

    async fn connect(
        &self,
        address: &str,
        config: &Arc<ClientConfig>,
    ) -> Result<SecuredStream<TcpStream>, ConnectError> {
        let host = host_of(address).ok_or_else(|| ConnectError::Address { address: address.to_owned() })?;
        let io = self.dial(address, host).await?;
        self.handshake(io, host, config).await
    }

    async fn dial(&self, address: &str, host: &str) -> Result<TcpStream, ConnectError> {
        let resolve = |source| ConnectError::Resolve { host: host.to_owned(), source };
        let found = timeout(self.options.resolve_deadline, tokio::net::lookup_host(address))
            .await
            .map_err(|_| resolve(io::ErrorKind::TimedOut.into()))?
            .map_err(resolve)?;
        let mut failure = resolve(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
        for address in found {
            match self.dial_one(address).await {
                Ok(stream) => return Ok(stream),
                Err(source) => failure = ConnectError::Connect { address: address.to_string(), source },
            }
        }
        Err(failure)
    }

    async fn dial_one(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = timeout(self.options.connect_deadline, TcpStream::connect(address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn handshake<T>(
        &self,
        io: T,
        host: &str,
        config: &Arc<ClientConfig>,
    ) -> Result<SecuredStream<T>, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let before = match &self.who {
            Who::Identity(identity) => Some(Before::handshake(identity)),
            Who::Anonymous(_) | Who::Key { .. } => None,
        };
        let peer_error = |source| ConnectError::Peer { host: host.to_owned(), source };
        let waited = self.options.handshake_deadline;
        // Boxed: a handshake needs several KiB that shall not stay with the connection's task.
        let handshake = Box::pin(TlsConnector::from(Arc::clone(config)).connect(server_name(host), io));
        let tls = timeout(waited, handshake)
            .await
            .map_err(|_| ConnectError::Stalled { host: host.to_owned(), waited })?
            .map_err(|error| match PeerError::of_handshake(&error) {
                Some(peer) => peer_error(peer),
                None => ConnectError::Handshake { host: host.to_owned(), source: error },
            })?;
        let connection = tls.get_ref().1;
        let (peer, bounds) = match (&self.who, before) {
            (Who::Identity(identity), Some(before)) => {
                let peer = Peer::Svid(identity.peer(connection).map_err(peer_error)?);
                let bounds = Bounds::of_identity(identity, before, &peer);
                (peer, bounds)
            }
            (Who::Anonymous(identity), _) => {
                let server = identity.peer(connection).map_err(peer_error)?;
                let bounds = Bounds::of_anonymous(identity, &server);
                (Peer::Svid(server), bounds)
            }
            (Who::Key { trust, clock }, _) => {
                let server = server(trust, clock, connection).map_err(peer_error)?;
                let bounds = Bounds::of_key(clock, &server);
                (Peer::Svid(server), bounds)
            }
            (Who::Identity(_), None) => return Err(peer_error(PeerError::NoOwnSvid)),
        };
        Ok(SecuredStream::new(tls.into(), peer, bounds))
    }
}

fn server(trust: &Trust, clock: &Arc<dyn Clock>, connection: &rustls::CommonState) -> Result<VerifiedPeer, PeerError> {
    let (leaf, rest) = connection.peer_certificates().and_then(<[_]>::split_first).ok_or(PeerError::NoCertificate)?;
    trust.verify(leaf, rest, clock.now())
}

fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']')?,
        None => host,
    };
    (!host.is_empty()).then_some(host)
}

/// What is said in the hello. It decides nothing, so a host that cannot be said there is simply not said.
fn server_name(host: &str) -> ServerName<'static> {
    ServerName::try_from(host.to_owned())
        .unwrap_or_else(|_| ServerName::IpAddress(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into()))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Client");
        match &self.who {
            Who::Identity(identity) => text.field("identity", identity),
            Who::Anonymous(identity) => text.field("anonymous", identity),
            Who::Key { trust, .. } => text.field("trust", trust),
        };
        text.field("options", &self.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_addresses() {
        let cases = [
            ("localhost:8443", Some("localhost")),
            ("10.0.0.1:1", Some("10.0.0.1")),
            ("[::1]:8443", Some("::1")),
            ("[::1:8443", None),
            ("localhost", None),
            (":8443", None),
            ("localhost:70000", None),
            ("localhost:https", None),
        ];
        for (address, host) in cases {
            assert_eq!(host_of(address), host, "{address}");
        }
    }

    #[test]
    fn a_host_that_is_no_name_is_not_said() {
        assert!(matches!(server_name("ca.example.org"), ServerName::DnsName(_)));
        assert!(matches!(server_name("192.0.2.1"), ServerName::IpAddress(_)));
        assert!(matches!(server_name("not a name"), ServerName::IpAddress(_)));
    }
}
