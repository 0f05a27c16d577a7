//! Client configurations.

use std::sync::Arc;

use rustls::{
    ClientConfig,
    client::{ResolvesClientCert, Resumption, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    version::TLS13,
};

#[cfg(feature = "tokio")]
use super::{KeyCredential, pinned_root::Trust, verifier::TrustVerifier};
use super::{PeerSet, TlsConfigError, credentials::CurrentSvid, verifier::ServerVerifier};
use crate::{
    clock::{Clock, TlsTime},
    identity::Identity,
};

/// A configuration for clients that are not ours: it presents the current SVID and takes servers of the set, whatever name
/// or address was dialled.
///
/// It protects the handshake and no more: a connection may go on after the credentials it was made with have ended. With a
/// [`Connector`](super::Connector) it does not. Who the server is, [`Identity::peer`] says.
///
/// # Errors
/// When rustls refuses the configuration.
pub fn client_config_handshake_only(identity: &Identity, expected: PeerSet) -> Result<ClientConfig, TlsConfigError> {
    let verifier = ServerVerifier { identity: identity.clone(), expected, anonymous: false };
    let credential: Arc<dyn ResolvesClientCert> = Arc::new(CurrentSvid(identity.clone()));
    client_config(identity.provider(), identity.clock(), Arc::new(verifier), Some(credential))
}

#[cfg(feature = "tokio")]
pub(super) fn anonymous_client_config(identity: &Identity, expected: PeerSet) -> Result<ClientConfig, TlsConfigError> {
    let verifier = ServerVerifier { identity: identity.clone(), expected, anonymous: true };
    client_config(identity.provider(), identity.clock(), Arc::new(verifier), None)
}

#[cfg(feature = "tokio")]
pub(super) fn key_client_config(
    trust: Arc<Trust>,
    key: KeyCredential,
    clock: &Arc<dyn Clock>,
) -> Result<ClientConfig, TlsConfigError> {
    let provider = Arc::new(super::provider());
    let verifier = TrustVerifier { trust, provider: Arc::clone(&provider) };
    client_config(&provider, clock, Arc::new(verifier), Some(Arc::new(key)))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    clock: &Arc<dyn Clock>,
    verifier: Arc<dyn ServerCertVerifier>,
    credential: Option<Arc<dyn ResolvesClientCert>>,
) -> Result<ClientConfig, TlsConfigError> {
    let time = Arc::new(TlsTime::new(Arc::clone(clock)));
    let builder = ClientConfig::builder_with_details(Arc::clone(provider), time)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsConfigError)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credential {
        Some(credential) => builder.with_client_cert_resolver(credential),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}
