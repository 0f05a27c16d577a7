//! Our verifiers as rustls calls them: who the peer is, and whether it is wanted, is decided inside of the handshake.

#[cfg(feature = "tokio")]
use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

#[cfg(feature = "tokio")]
use super::pinned_root::Trust;
use super::{BareKey, PeerError, PeerSet};
use crate::{clock::Timestamp, identity::Identity, spiffe::SpiffeId, x509::PresentedChain};

/// Takes callers of a set and, if so told, others.
#[derive(Debug)]
pub(super) struct CallerVerifier {
    pub(super) identity: Identity,
    pub(super) callers: PeerSet,
    pub(super) admitted: Admitted,
}

/// Who is let in beside the callers of the set. By default nobody.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Admitted {
    /// Keys without an identity.
    pub(super) bare_keys: bool,
    /// Clients without a certificate.
    pub(super) anonymous: bool,
}

/// Takes servers of a set.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) identity: Identity,
    pub(super) expected: PeerSet,
    /// Nothing is presented, so nothing has to be there.
    pub(super) anonymous: bool,
}

/// Takes the servers that a client without an identity of its own trusts.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(super) struct TrustVerifier {
    pub(super) trust: Arc<Trust>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl CallerVerifier {
    fn provider(&self) -> &CryptoProvider {
        self.identity.provider()
    }

    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        if self.admitted.bare_keys
            && let Some(key) = BareKey::of_presented(leaf, rest)
        {
            return Ok(key.map(drop)?);
        }
        check(&self.identity, &self.callers, leaf, rest, now)
    }
}

impl ServerVerifier {
    fn provider(&self) -> &CryptoProvider {
        self.identity.provider()
    }
}

#[cfg(feature = "tokio")]
impl TrustVerifier {
    fn provider(&self) -> &CryptoProvider {
        &self.provider
    }
}

fn check(
    identity: &Identity,
    wanted: &PeerSet,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), PeerError> {
    let peer = identity.verify(&PresentedChain::new(leaf, intermediates), Timestamp::from(now))?;
    expect(peer.id(), wanted)
}

pub(super) fn expect(id: &SpiffeId, wanted: &PeerSet) -> Result<(), PeerError> {
    if wanted.contains(id) {
        Ok(())
    } else {
        Err(PeerError::NotExpected { id: id.clone(), expected: wanted.to_string() })
    }
}

/// The signature in the handshake, by which the peer proves that it holds the leaf's key: as the provider checks it.
macro_rules! tls13_signatures {
    () => {
        /// TLS 1.2 is not offered; if it were agreed on by a fault, no signature is good in it.
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is not used here".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, leaf, signed, &self.provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for CallerVerifier {
    /// It is always asked for. What is presented is verified in any case: a certificate that is no good never counts as none.
    fn client_auth_mandatory(&self) -> bool {
        !self.admitted.anonymous
    }

    /// None: naming our roots would tell strangers whom we trust, and clients have one SVID anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, intermediates, now).map_err(PeerError::into_rustls)?;
        Ok(ClientCertVerified::assertion())
    }

    tls13_signatures!();
}

impl ServerCertVerifier for ServerVerifier {
    /// The server's name is where we dialled and proves nothing; the SPIFFE ID decides.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.anonymous && self.identity.certified().is_none() {
            return Err(PeerError::NoOwnSvid.into_rustls());
        }
        check(&self.identity, &self.expected, leaf, intermediates, now).map_err(PeerError::into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_signatures!();
}

#[cfg(feature = "tokio")]
impl ServerCertVerifier for TrustVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust.verify(leaf, intermediates, now.into()).map_err(PeerError::into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_signatures!();
}
