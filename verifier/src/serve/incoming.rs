//! Where connections come from.

use std::{fmt, future::Future, io, net::IpAddr};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::lifetime::Lifetime;

/// A source of connections: a listener, and what makes a connection out of what it accepts.
///
/// Accepting is one cheap step in the server's loop. Everything that waits for the peer (a TLS handshake, attestation) belongs
/// into [`prepare`](Incoming::prepare), which runs in the connection's own task.
pub trait Incoming: Send + Sync + 'static {
    /// What the listener gives.
    type Raw: Send + 'static;
    /// What HTTP is spoken on.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection. An error never ends the server: it is counted and waited out. May be dropped at any time.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Raw>> + Send;

    /// Whom a connection counts for in the limits by origin; `None` counts for nobody.
    fn origin(&self, raw: &Self::Raw) -> Option<Origin> {
        let _ = raw;
        None
    }

    /// Makes a connection that can be served, or says why not.
    fn prepare(&self, raw: Self::Raw) -> impl Future<Output = Result<Prepared<Self::Io>, PrepareError>> + Send;
}

/// Whom a connection counts for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Origin {
    /// An address; of IPv6 the /64, since whoever has one address has all of them.
    Address(IpAddr),
    /// A user of this machine, by number.
    User(u32),
}

impl Origin {
    /// The origin of a connection from `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A connection that can be served.
#[derive(Debug)]
#[must_use]
pub struct Prepared<T> {
    pub(super) io: T,
    pub(super) extensions: http::Extensions,
    pub(super) lifetime: Lifetime,
    pub(super) protocol: Option<Protocol>,
    pub(super) stranger: bool,
}

impl<T> Prepared<T> {
    /// A connection without further facts, bound to nothing, whose protocol is seen from its first bytes.
    pub fn new(io: T) -> Self {
        Self {
            io,
            extensions: http::Extensions::new(),
            lifetime: Lifetime::unbounded(),
            protocol: None,
            stranger: false,
        }
    }

    /// Puts `fact` into the extensions of every request on this connection. It is cloned for each: keep it cheap.
    pub fn with<F: Clone + Send + Sync + 'static>(mut self, fact: F) -> Self {
        self.extensions.insert(fact);
        self
    }

    /// Binds the connection.
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// The protocol that was agreed on.
    pub fn protocol(mut self, protocol: Option<Protocol>) -> Self {
        self.protocol = protocol;
        self
    }

    /// The peer has proved nothing that tells it from anybody: it is served in the place of an unfinished connection, where the
    /// oldest makes room for a newer one, and takes no place from those who are known. It is no stranger any more once one of its
    /// requests has proved who it is: see [`Standing`](super::Standing).
    pub fn stranger(mut self, stranger: bool) -> Self {
        self.stranger = stranger;
        self
    }
}

/// Why a connection was not prepared.
#[derive(Debug)]
pub struct PrepareError {
    code: &'static str,
    remote: Option<String>,
    refused: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PrepareError {
    /// The peer was refused for a reason that an operator wants to see: logged as a warning. `code` is a stable word.
    pub fn refused(code: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { code, remote: None, refused: true, source: Some(source.into()) }
    }

    /// The connection came to nothing (closed, silent, not our protocol): every listener sees these all day.
    pub fn broken(code: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { code, remote: None, refused: false, source: Some(source.into()) }
    }

    /// Adds who it was, for the log.
    #[must_use]
    pub fn from_remote(mut self, remote: impl fmt::Display) -> Self {
        self.remote = Some(remote.to_string());
        self
    }

    /// The stable word.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn log(&self) {
        let error = self.source.as_ref().map(|source| source.to_string()).unwrap_or_default();
        let peer = self.remote.as_deref().unwrap_or("unknown");
        if self.refused {
            tracing::warn!(peer, reason = self.code, error, "refused connection");
        } else {
            tracing::debug!(peer, reason = self.code, error, "connection came to nothing");
        }
    }
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection not accepted ({})", self.code)
    }
}

impl std::error::Error for PrepareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_counts_by_network_and_mapped_addresses_as_ipv4() {
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::9"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.2"), origin("192.0.2.1"));
    }
}
