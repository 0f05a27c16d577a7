//! rustls configurations from an identity, and streams over them that end with their credentials.
//!
//! All of them are TLS 1.3 with certificates on both sides, prefer X25519MLKEM768, use our crypto provider and our clock (never
//! the process-wide ones), and know no resumption, no tickets and no early data: those skip the verifier (`T-04`). SVIDs and
//! bundles change without a new configuration.
//!
//! [`Acceptor`] and [`Connector`] give streams that know their peer and end with its credentials. For other loops there are
//! [`server_config_handshake_only`] and [`client_config_handshake_only`]: they protect the handshake and no more.

#[cfg(feature = "tokio")]
mod acceptor;
mod bare_key;
mod client;
#[cfg(feature = "tokio")]
mod connector;
mod credentials;
#[cfg(test)]
#[cfg(feature = "tokio")]
#[cfg_attr(not(all(feature = "serve", feature = "connect")), allow(dead_code, reason = "for tests of all features"))]
pub(crate) mod fixtures;
#[cfg(feature = "connect")]
mod http_stream;
#[cfg(feature = "tokio")]
mod lifetime;
mod peer;
mod peer_set;
#[cfg(feature = "tokio")]
mod pinned_root;
mod server;
#[cfg(feature = "tokio")]
mod stream;
mod verifier;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

#[cfg(feature = "tokio")]
pub use self::acceptor::{AcceptError, Acceptor, AcceptorOptions};
#[cfg(feature = "tokio")]
pub use self::connector::{ConnectError, Connector, ConnectorOptions, KeyConnector};
#[cfg(feature = "connect")]
pub use self::http_stream::HttpStream;
#[cfg(feature = "tokio")]
pub use self::pinned_root::{PinnedRoot, ServerTrust};
#[cfg(feature = "tokio")]
pub use self::stream::{CredentialEnded, SecuredStream};
pub use self::{
    bare_key::{BareKey, BareKeyError, KeyCredential, KeyCredentialError},
    client::client_config_handshake_only,
    peer::{Peer, PeerError},
    peer_set::{Members, PeerSet, PeerSetError},
    server::server_config_handshake_only,
};

/// A configuration that rustls does not take.
#[derive(Clone, Debug, thiserror::Error)]
#[error("rustls refused the configuration: {0}")]
pub struct TlsConfigError(rustls::Error);

/// What all configurations are built on: TLS 1.3 alone, the post-quantum hybrid first.
pub(crate) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    provider
}

/// HTTP/2 and HTTP/1.1, as they are agreed on.
#[cfg(any(feature = "serve", feature = "connect"))]
pub(crate) const HTTP_ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

#[cfg(test)]
#[cfg(all(feature = "serve", feature = "connect"))]
mod tests;
