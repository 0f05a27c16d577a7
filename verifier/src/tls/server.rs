//! Server configurations.

use std::sync::Arc;

use rustls::{ServerConfig, server::NoServerSessionStorage, version::TLS13};

use super::{
    PeerSet, TlsConfigError,
    credentials::CurrentSvid,
    verifier::{Admitted, CallerVerifier},
};
use crate::{clock::TlsTime, identity::Identity};

/// A configuration for server loops that are not ours: it presents the current SVID and takes callers of the set.
///
/// It protects the handshake and no more: a connection may go on after the credentials it was made with have ended. With an
/// [`Acceptor`](super::Acceptor) or [`serve`](crate::serve) it does not. Who the caller is, [`Identity::peer`] says.
///
/// # Errors
/// When rustls refuses the configuration.
pub fn server_config_handshake_only(identity: &Identity, callers: PeerSet) -> Result<ServerConfig, TlsConfigError> {
    server_config(identity, callers, Admitted::default())
}

pub(super) fn server_config(
    identity: &Identity,
    callers: PeerSet,
    admitted: Admitted,
) -> Result<ServerConfig, TlsConfigError> {
    let time = Arc::new(TlsTime::new(Arc::clone(identity.clock())));
    let verifier = CallerVerifier { identity: identity.clone(), callers, admitted };
    let mut config = ServerConfig::builder_with_details(Arc::clone(identity.provider()), time)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsConfigError)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(CurrentSvid(identity.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(config)
}
