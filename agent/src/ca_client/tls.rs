//! The TLS side of talking to the CA: as this node once it has an SVID, with its bare key before that and when its SVID
//! has run out. Either way the other end must be exactly `spiffe://TD/bonafide/ca`.

use std::{error::Error, sync::Arc};

use bonafide_ca_api::ca_id;
use bonafide_verifier::{
    clock::Clock,
    identity::Identity,
    spiffe::{BundleSet, TrustDomain},
    tls::{
        ConnectError, Connector, ConnectorOptions, KeyConnector, KeyCredential, PeerError, PeerSet, PinnedRoot,
        ServerTrust, TlsConfigError,
    },
};

use crate::node_state::key::NodeKey;

/// Connects as this node, with its SVID of the moment.
pub(crate) type NodeConnector = Connector;

/// Why a connector cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectorError {
    #[error("the node key cannot be used for TLS: {0}")]
    Key(String),
    #[error(transparent)]
    Config(#[from] TlsConfigError),
}

/// Connects as this node to the CA of its trust domain.
pub(crate) fn node_connector(identity: &Identity, trust_domain: &TrustDomain) -> Result<NodeConnector, ConnectorError> {
    Ok(Connector::new(identity, PeerSet::id(ca_id(trust_domain)), options())?)
}

/// Connects with a bare key to the CA whose root an invitation names.
pub(crate) fn first_contact(
    key: &NodeKey,
    trust_domain: &TrustDomain,
    root_sha256: [u8; 32],
    clock: Arc<dyn Clock>,
) -> Result<KeyConnector, ConnectorError> {
    let expected = ca_id(trust_domain);
    let pinned = PinnedRoot { trust_domain: trust_domain.clone(), root_sha256, expected };
    key_connector(key, ServerTrust::Pinned(pinned), clock)
}

/// Connects with a bare key to the CA of known bundles.
pub(crate) fn recovery(
    key: &NodeKey,
    trust_domain: &TrustDomain,
    bundles: BundleSet,
    clock: Arc<dyn Clock>,
) -> Result<KeyConnector, ConnectorError> {
    key_connector(key, ServerTrust::Bundles { bundles, expected: ca_id(trust_domain) }, clock)
}

fn key_connector(key: &NodeKey, trust: ServerTrust, clock: Arc<dyn Clock>) -> Result<KeyConnector, ConnectorError> {
    let certificate = key.self_signed().map_err(|error| ConnectorError::Key(error.to_string()))?;
    let credential =
        KeyCredential::new(certificate, key.expose_secret()).map_err(|error| ConnectorError::Key(error.to_string()))?;
    Ok(KeyConnector::new(credential, trust, clock, options())?)
}

fn options() -> ConnectorOptions {
    ConnectorOptions::default()
}

/// Did something answer that is not our CA? The network is not to blame then.
pub(crate) fn is_not_our_ca(cause: &(dyn Error + 'static)) -> bool {
    let Some(ConnectError::Peer { source, .. }) = cause.downcast_ref::<ConnectError>() else { return false };
    match source {
        PeerError::NotExpected { .. }
        | PeerError::NotPinned { .. }
        | PeerError::BadRoot(_)
        | PeerError::NoCertificate => true,
        // A chain that is good at another time says that one of two clocks is wrong, not that something else answers.
        PeerError::Refused(refused) => !matches!(refused.code(), "expired" | "not-yet-valid"),
        _ => false,
    }
}

/// Did the CA's TLS refuse the certificate that this node presented? In TLS 1.3 that shows only after the client's
/// handshake, as an alert in place of the first answer.
pub(crate) fn certificate_was_refused(status: &tonic::Status) -> bool {
    use rustls::AlertDescription;
    let mut next: Option<&(dyn Error + 'static)> = status.source();
    while let Some(cause) = next {
        let io = cause.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        let tls = cause
            .downcast_ref::<rustls::Error>()
            .or_else(|| io.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return matches!(
                alert,
                AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::AccessDenied
            );
        }
        next = cause.source();
    }
    false
}
