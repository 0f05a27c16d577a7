//! The server's side of a connection.

use std::{io, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;

use super::{
    BareKey, Peer, PeerError, PeerSet, SecuredStream, TlsConfigError,
    lifetime::{Before, Bounds},
    server::server_config,
    verifier::Admitted,
};
use crate::identity::Identity;

/// Makes secured streams out of accepted connections. Cheap to clone.
///
/// For HTTP give it to [`TlsIncoming`](crate::serve::TlsIncoming). For anything else a connection's own task does this:
///
/// ```no_run
/// use bonafide_verifier::tls::{AcceptError, Acceptor};
/// use tokio::{io::AsyncWriteExt, net::TcpStream};
///
/// async fn connection(acceptor: Acceptor, socket: TcpStream) -> Result<(), AcceptError> {
///     let mut stream = acceptor.accept(socket).await?;
///     println!("{:?} until {}", stream.peer().id(), stream.ends_at());
///     // Half a minute before its end, or when a credential is withdrawn: time to say goodbye. Then it is cut.
///     let closing = stream.closing();
///     tokio::select! {
///         reason = closing => drop(stream.write_all(format!("bye: {reason}").as_bytes()).await),
///         // The conversation goes here.
///         () = std::future::pending() => {}
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Acceptor {
    identity: Identity,
    config: Arc<ServerConfig>,
    options: AcceptorOptions,
}

/// Settings of an [`Acceptor`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AcceptorOptions {
    /// Application protocols, the preferred first. A client that offers others is refused, one that offers none is not.
    /// Default: none.
    pub alpn: Vec<Vec<u8>>,
    /// Within this the client's hello must have come. Default 5 s.
    pub hello_deadline: Duration,
    /// Within this the whole handshake must be done. Default 10 s.
    pub handshake_deadline: Duration,
    /// Also admits peers that have no identity at all, only a key of their own ([`Peer::Key`]): anyone who can make a P-256
    /// key. Whoever serves on such a listener must look at the kind of peer before anything else. It is there for the CA's node
    /// API, where nodes join. Default: no.
    pub dangerously_admit_bare_keys: bool,
    /// Also admits clients that present no certificate at all ([`Peer::Anonymous`]): anyone who can connect. One that presents a
    /// certificate is judged as ever. It is there for callers that prove themselves in each request, by a key or a token: every
    /// request then has to pass [authenticators](crate::authenticate) and a policy before anything else. Default: no.
    pub dangerously_admit_anonymous: bool,
}

impl Default for AcceptorOptions {
    fn default() -> Self {
        Self {
            alpn: Vec::new(),
            hello_deadline: Duration::from_secs(5),
            handshake_deadline: Duration::from_secs(10),
            dangerously_admit_bare_keys: false,
            dangerously_admit_anonymous: false,
        }
    }
}

/// Why a connection was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The client said nothing, or not all of its hello.
    #[error("the client's hello did not come within {waited:?}")]
    NoHello {
        /// The deadline.
        waited: Duration,
    },
    /// The client did not go on with the handshake.
    #[error("the handshake was not done within {waited:?}")]
    Stalled {
        /// The deadline.
        waited: Duration,
    },
    /// The client is not one we talk to.
    #[error(transparent)]
    Peer(PeerError),
    /// We have no valid SVID to present.
    #[error("there is no valid SVID to present")]
    NoOwnSvid,
    /// The TLS handshake failed otherwise, or the connection broke.
    #[error("the handshake failed: {0}")]
    Handshake(#[source] io::Error),
}

impl AcceptError {
    /// A stable word for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoHello { .. } => "no-hello",
            Self::Stalled { .. } => "handshake-stalled",
            Self::Peer(error) => error.code(),
            Self::NoOwnSvid => "no-own-svid",
            Self::Handshake(_) => "handshake-failed",
        }
    }
}

impl Acceptor {
    /// Presents the identity's current SVID and takes callers of the set.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn new(identity: &Identity, callers: PeerSet, options: AcceptorOptions) -> Result<Self, TlsConfigError> {
        let admitted =
            Admitted { bare_keys: options.dangerously_admit_bare_keys, anonymous: options.dangerously_admit_anonymous };
        let mut config = server_config(identity, callers, admitted)?;
        config.alpn_protocols.clone_from(&options.alpn);
        Ok(Self { identity: identity.clone(), config: Arc::new(config), options })
    }

    /// The same for HTTP: agrees on HTTP/2 or HTTP/1.1.
    #[cfg(feature = "serve")]
    pub(crate) fn for_http(&self) -> Self {
        let mut config = (*self.config).clone();
        config.alpn_protocols = super::HTTP_ALPN.iter().map(|name| name.to_vec()).collect();
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// Does the handshake and says who the client is. May be dropped at any time, which closes the connection.
    ///
    /// Call it in a task of its own: a client may take all of the deadline (`T-20`).
    ///
    /// # Errors
    /// When the client is not wanted, or did not do its part in time.
    pub async fn accept<T>(&self, io: T) -> Result<SecuredStream<T>, AcceptError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let before = Before::handshake(&self.identity);
        let (hello_deadline, waited) = (self.options.hello_deadline, self.options.handshake_deadline);
        // Boxed: a handshake needs several KiB that shall not stay with the connection's task.
        let handshake = Box::pin(async {
            let hello = timeout(hello_deadline, LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io));
            let hello = hello.await.map_err(|_| AcceptError::NoHello { waited: hello_deadline })?;
            hello
                .map_err(AcceptError::Handshake)?
                .into_stream(Arc::clone(&self.config))
                .await
                .map_err(|error| self.refusal(error))
        });
        let tls = timeout(waited, handshake).await.map_err(|_| AcceptError::Stalled { waited })??;
        let peer = self.peer(tls.get_ref().1).map_err(AcceptError::Peer)?;
        let bounds = Bounds::of_identity(&self.identity, before, &peer);
        Ok(SecuredStream::new(tls.into(), peer, bounds))
    }

    fn peer(&self, connection: &rustls::CommonState) -> Result<Peer, PeerError> {
        if self.options.dangerously_admit_anonymous && connection.peer_certificates().is_none_or(<[_]>::is_empty) {
            return Ok(Peer::Anonymous);
        }
        if self.options.dangerously_admit_bare_keys
            && let Some((leaf, rest)) = connection.peer_certificates().and_then(<[_]>::split_first)
            && let Some(key) = BareKey::of_presented(leaf, rest)
        {
            return Ok(Peer::Key(key?));
        }
        self.identity.peer(connection).map(Peer::Svid)
    }

    fn refusal(&self, error: io::Error) -> AcceptError {
        match PeerError::of_handshake(&error) {
            Some(peer) => AcceptError::Peer(peer),
            None if self.identity.certified().is_none() => AcceptError::NoOwnSvid,
            None => AcceptError::Handshake(error),
        }
    }
}
