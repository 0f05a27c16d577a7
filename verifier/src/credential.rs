//! The caller's side of a credential: what goes with a request, so that one setting moves a program from a key to a token to mutual TLS.
//!
//! ```no_run
//! use std::sync::Arc;
//! use bonafide_verifier::{clock::{Clock, SystemClock}, credential::Credential, identity::{Identity, workload_api::WorkloadApi}};
//! use bonafide_verifier::{spiffe::SpiffeId, tls::{ConnectorOptions, PeerSet}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = SpiffeId::parse("spiffe://example.org/config")?;
//! let api = WorkloadApi::from_env()?;
//! let identity = Identity::spawn(&api, Arc::new(SystemClock));
//! let credential = Credential::jwt_svid(api, config.as_str());
//! let connector = credential.connector(&identity, PeerSet::id(config), ConnectorOptions::default())?;
//! let mut request = http::Request::get("https://config.internal:8443/v1/settings/export").body(())?;
//! credential.put_on(request.headers_mut(), SystemClock.now()).await?;
//! # Ok(()) }
//! ```

#[cfg(feature = "policy-file")]
use std::time::Duration;
use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use zeroize::Zeroizing;

#[cfg(feature = "policy-file")]
use crate::key_records::{CallerKey, CallerKeyError};
use crate::{
    caller::ProofKind,
    clock::Timestamp,
    identity::{
        Identity,
        workload_api::{WorkloadApi, WorkloadApiError},
    },
    tls::{Connector, ConnectorOptions, PeerSet, TlsConfigError},
};

/// What a program proves itself by to one service. Cheap to clone; clones are the same. `Debug` shows its kind alone.
#[derive(Clone)]
pub struct Credential(Arc<Kind>);

enum Kind {
    Svid,
    JwtSvid {
        api: WorkloadApi,
        audience: String,
    },
    #[cfg(feature = "policy-file")]
    Key(CallerKey),
}

/// Why there is nothing to prove oneself by.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The agent gave no token.
    #[error(transparent)]
    WorkloadApi(#[from] WorkloadApiError),
    /// The key is of no use.
    #[cfg(feature = "policy-file")]
    #[error(transparent)]
    Key(#[from] CallerKeyError),
    /// It cannot stand in a header.
    #[error("the credential cannot stand in a header; is it a whole file that `bonafide-ca key create` wrote?")]
    NoHeader,
}

/// A token of our own has to reach its service and no more.
#[cfg(feature = "policy-file")]
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

impl Credential {
    /// The X.509-SVID of the connection: nothing else goes with a request.
    #[must_use]
    pub fn svid() -> Self {
        Self(Arc::new(Kind::Svid))
    }

    /// A JWT-SVID for the service that goes by this name, from the agent.
    #[must_use]
    pub fn jwt_svid(api: WorkloadApi, audience: impl Into<String>) -> Self {
        Self(Arc::new(Kind::JwtSvid { api, audience: audience.into() }))
    }

    /// An API key, or HS256 tokens under a shared secret, whichever the key is.
    #[cfg(feature = "policy-file")]
    #[must_use]
    pub fn key(key: CallerKey) -> Self {
        Self(Arc::new(Kind::Key(key)))
    }

    /// What the service will say that the caller was proven by.
    #[must_use]
    pub fn kind(&self) -> ProofKind {
        match &*self.0 {
            Kind::Svid => ProofKind::X509Svid,
            Kind::JwtSvid { .. } => ProofKind::JwtSvid,
            #[cfg(feature = "policy-file")]
            Kind::Key(CallerKey::ApiKey(_)) => ProofKind::ApiKey,
            #[cfg(feature = "policy-file")]
            Kind::Key(CallerKey::SharedSecret(_)) => ProofKind::SharedSecret,
        }
    }

    /// A connector to the service: it presents the identity's SVID where that is the credential, and nothing elsewhere. Either way it
    /// takes no other server than those expected, so that no key or token goes to a stranger.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn connector(
        &self,
        identity: &Identity,
        expected: PeerSet,
        options: ConnectorOptions,
    ) -> Result<Connector, TlsConfigError> {
        match &*self.0 {
            Kind::Svid => Connector::new(identity, expected, options),
            _ => Connector::anonymous(identity, expected, options),
        }
    }

    /// The value of `authorization` for a request at this time; none where the connection says who calls. May be dropped at any time.
    ///
    /// # Errors
    /// When there is nothing to prove oneself by.
    #[cfg_attr(not(feature = "policy-file"), allow(unused_variables, reason = "only keys have an end"))]
    pub async fn authorization(&self, now: Timestamp) -> Result<Option<HeaderValue>, CredentialError> {
        let text = match &*self.0 {
            Kind::Svid => return Ok(None),
            Kind::JwtSvid { api, audience } => {
                // The agent keeps it for as long as it is good, so this costs a call over its socket.
                let svid = api.fetch_jwt_svid(audience, None).await?;
                Zeroizing::new(format!("Bearer {}", svid.expose_secret()))
            }
            #[cfg(feature = "policy-file")]
            Kind::Key(key) => key.authorization(TOKEN_LIFETIME, now)?,
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| CredentialError::NoHeader)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Puts it on a request. One that has an `authorization` already loses it: a request has one caller.
    ///
    /// # Errors
    /// When there is nothing to prove oneself by; the request is then as before.
    pub async fn put_on(&self, headers: &mut HeaderMap, now: Timestamp) -> Result<(), CredentialError> {
        if let Some(value) = self.authorization(now).await? {
            headers.insert(AUTHORIZATION, value);
        }
        Ok(())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.kind())
    }
}

#[cfg(test)]
#[cfg(feature = "policy-file")]
mod tests {
    use super::*;

    /// One place for each kind: an SVID adds nothing to a request, a key is its header's value and is not printed; what stood there before is gone.
    #[tokio::test]
    async fn what_goes_with_a_request() {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let mut headers = HeaderMap::new();
        let svid = Credential::svid();
        svid.put_on(&mut headers, now).await.unwrap();
        assert!(headers.is_empty() && svid.kind() == ProofKind::X509Svid);

        let text = format!("k-1.1.{}", "A".repeat(43));
        let key = Credential::key(CallerKey::parse(&format!("{text}\n")).unwrap());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer another"));
        key.put_on(&mut headers, now).await.unwrap();
        let values: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
        assert_eq!(values, [&format!("ApiKey {text}")]);
        assert!(values[0].is_sensitive() && key.kind() == ProofKind::ApiKey);
        assert!(!format!("{key:?} {headers:?}").contains("AAAA"));
    }
}
