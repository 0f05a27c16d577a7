//! Who is at the other end.

use super::{BareKey, BareKeyError};
use crate::{
    spiffe::{BundleError, SpiffeId},
    x509::{VerifiedPeer, VerifyError},
};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A workload with a valid X.509-SVID.
    Svid(VerifiedPeer),
    /// Nobody in particular: whoever holds this key. Only where
    /// [`AcceptorOptions::dangerously_admit_bare_keys`](super::AcceptorOptions::dangerously_admit_bare_keys) is set.
    Key(BareKey),
    /// A client that presented no certificate and has proved nothing. Only where
    /// [`AcceptorOptions::dangerously_admit_anonymous`](super::AcceptorOptions::dangerously_admit_anonymous) is set.
    Anonymous,
}

impl Peer {
    /// The peer's SPIFFE ID, if it proved one.
    #[must_use]
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Svid(peer) => Some(peer.id()),
            Self::Key(_) | Self::Anonymous => None,
        }
    }
}

/// Why the other end is not one we talk to.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No certificate was presented.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// What was presented does not verify.
    #[error(transparent)]
    Refused(VerifyError),
    /// A valid SVID of someone else than we want.
    #[error("the peer is `{id}`, expected is {expected}")]
    NotExpected {
        /// Who it is.
        id: SpiffeId,
        /// Whom we want, as written in settings.
        expected: String,
    },
    /// We have no valid SVID ourselves.
    #[error("there is no valid SVID to present; nothing is asked of a server that would not know who asks")]
    NoOwnSvid,
    /// A certificate without an identity, whose key is of no use.
    #[error(transparent)]
    BareKey(#[from] BareKeyError),
    /// The chain does not end in the pinned root.
    #[error("the server's chain does not end in the root {expected}; something else answers there")]
    NotPinned {
        /// SHA-256 of the root, in hexadecimal.
        expected: String,
    },
    /// The pinned root is no root that can be used.
    #[error("the server's chain ends in the right root, but it cannot be used: {0}")]
    BadRoot(BundleError),
}

impl PeerError {
    /// A stable word for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Refused(error) => error.code(),
            Self::NotExpected { .. } => "peer-not-expected",
            Self::NoOwnSvid => "no-own-svid",
            Self::BareKey(_) => "bare-key-unusable",
            Self::NotPinned { .. } => "root-not-pinned",
            Self::BadRoot(error) => error.code(),
        }
    }

    /// As rustls carries it through a failed handshake.
    pub(crate) fn into_rustls(self) -> rustls::Error {
        let other = rustls::OtherError(std::sync::Arc::new(self));
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))
    }

    /// Takes it out of what a failed handshake gave.
    #[cfg(feature = "tokio")]
    pub(crate) fn of_handshake(error: &std::io::Error) -> Option<Self> {
        match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                other.0.downcast_ref::<Self>().cloned()
            }
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            _ => None,
        }
    }
}
