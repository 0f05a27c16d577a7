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
    let verifier = ServerVerifier { identity: identity.clone(), expected };
    client_config(identity.provider(), identity.clock(), Arc::new(verifier), Arc::new(CurrentSvid(identity.clone())))
}

#[cfg(feature = "tokio")]
pub(super) fn key_client_config(
    trust: Arc<Trust>,
    key: KeyCredential,
    clock: &Arc<dyn Clock>,
) -> Result<ClientConfig, TlsConfigError> {
    let provider = Arc::new(super::provider());
    let verifier = TrustVerifier { trust, provider: Arc::clone(&provider) };
    client_config(&provider, clock, Arc::new(verifier), Arc::new(key))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    clock: &Arc<dyn Clock>,
    verifier: Arc<dyn ServerCertVerifier>,
    credential: Arc<dyn ResolvesClientCert>,
) -> Result<ClientConfig, TlsConfigError> {
    let time = Arc::new(TlsTime::new(Arc::clone(clock)));
    let mut config = ClientConfig::builder_with_details(Arc::clone(provider), time)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsConfigError)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(credential);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}
