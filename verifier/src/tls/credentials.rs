//! What we present: looked up at each handshake.

use std::sync::Arc;

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::KeyCredential;
use crate::identity::Identity;

/// The current SVID. Without one that is valid now the handshake fails: a server has nothing to present, and a
/// client's verifier refuses the server.
#[derive(Debug)]
pub(super) struct CurrentSvid(pub(super) Identity);

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certified()
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.certified()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesClientCert for KeyCredential {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.certified()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
