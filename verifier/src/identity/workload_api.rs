//! The SPIFFE Workload API: how a workload gets its identity (WEP, WAPI).
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//! use bonafide_verifier::{clock::SystemClock, identity::{Identity, workload_api::WorkloadApi}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let api = WorkloadApi::from_env()?;
//! let identity = Identity::spawn(&api, Arc::new(SystemClock));
//! identity.ready(Duration::from_secs(30)).await?;
//! # Ok(()) }
//! ```

mod dial;
mod endpoint;
mod follow;
mod jwt;
mod messages;

use std::{future::Future, sync::Arc, time::Duration};

use tonic::{Request, metadata::MetadataValue, transport::Channel};

pub(crate) use self::follow::Retry;
pub use self::{
    endpoint::{Endpoint, EndpointError},
    follow::Ended,
    jwt::{FetchedJwtSvid, ValidatedJwtSvid, WorkloadApiError},
    messages::Pick,
};
use super::Identity;
use crate::{clock::Clock, generated::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient};

/// A Workload API to be asked. Cheap to clone; it connects when it is used.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    endpoint: Endpoint,
    options: WorkloadApiOptions,
}

/// Settings of a [`WorkloadApi`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkloadApiOptions {
    /// Which of several identities is meant. Default: the first, which is what the API calls the default identity (WAPI-35).
    pub pick: Pick,
    /// Also follows the JWT bundles, which verifying JWT-SVIDs needs. Default: yes.
    pub jwt_bundles: bool,
    /// The largest message taken; a stream that sends a larger one is ended, and tried again as after any error. Default 4 MiB.
    pub message_bytes: usize,
    /// Within this the endpoint must accept the connection. Default 5 s.
    pub connect_deadline: Duration,
    /// Within this a JWT-SVID must be fetched or validated. Default 10 s.
    pub call_deadline: Duration,
    /// The first wait after an error; each further one is longer, with jitter. Default 250 ms.
    pub shortest_wait: Duration,
    /// The longest. Default 30 s.
    pub longest_wait: Duration,
}

impl Default for WorkloadApiOptions {
    fn default() -> Self {
        Self {
            pick: Pick::Default,
            jwt_bundles: true,
            message_bytes: 4 * 1024 * 1024,
            connect_deadline: Duration::from_secs(5),
            call_deadline: Duration::from_secs(10),
            shortest_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(30),
        }
    }
}

impl WorkloadApi {
    /// The API at an endpoint.
    #[must_use]
    pub fn at(endpoint: Endpoint) -> Self {
        Self::with_options(endpoint, WorkloadApiOptions::default())
    }

    /// The same with settings.
    #[must_use]
    pub fn with_options(endpoint: Endpoint, options: WorkloadApiOptions) -> Self {
        Self { endpoint, options }
    }

    /// The API that the environment names in `SPIFFE_ENDPOINT_SOCKET` (WEP-08).
    ///
    /// # Errors
    /// When it is not set, or not what WEP-09..11 allow.
    pub fn from_env() -> Result<Self, EndpointError> {
        Endpoint::from_env().map(Self::at)
    }

    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A connection of its own.
    pub(crate) fn channel(&self) -> Channel {
        dial::channel(&self.endpoint, &self.options)
    }

    pub(crate) fn options(&self) -> &WorkloadApiOptions {
        &self.options
    }

    fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel()).max_decoding_message_size(self.options.message_bytes)
    }
}

impl Identity {
    /// An identity that follows a Workload API, and the future that does it for as long as it is polled. It is empty at first:
    /// wait with [`Identity::ready`].
    ///
    /// The last good state is kept over errors until it expires. A refusal by the API (`PermissionDenied`) or an identity
    /// that is no longer listed takes it away at once (WAPI-08, -09, -20). The future ends only when there is no use in
    /// asking again, and says why.
    pub fn connect(api: &WorkloadApi, clock: Arc<dyn Clock>) -> (Self, impl Future<Output = Ended> + Send + 'static) {
        let (identity, publisher) = Self::published(clock);
        (identity, follow::run(api.clone(), publisher))
    }

    /// The same, followed by a task of its own, which ends with the last clone of the identity.
    #[must_use]
    pub fn spawn(api: &WorkloadApi, clock: Arc<dyn Clock>) -> Self {
        let (identity, driver) = Self::connect(api, clock);
        identity.driven_by(async move {
            let ended = driver.await;
            tracing::error!(error = %ended, "no longer following the Workload API");
        })
    }
}

/// A request with the header that keeps out whoever was only tricked into sending one (WEP-05).
pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// The property of [`crate::fuzzing::workload_api_message`], here because the wire's types are.
pub(crate) fn understand(data: &[u8], now: crate::clock::Timestamp) {
    use prost::Message;

    use crate::generated::workload::{JwtBundlesResponse, X509svidResponse};
    if let Ok(message) = X509svidResponse::decode(data) {
        let listed: Vec<_> = message.svids.iter().map(|svid| svid.spiffe_id.clone()).collect();
        if let Ok(state) = messages::x509(message, &Pick::Default, None, now) {
            let id = state.svid.as_ref().map(|svid| svid.id().as_str());
            assert!(id.is_none_or(|id| listed.iter().any(|listed| listed == id)));
            assert!(state.bundles.iter().all(|(name, bundle)| name == bundle.trust_domain()));
        }
    }
    if let Ok(message) = JwtBundlesResponse::decode(data)
        && let Ok((bundles, _)) = messages::jwt(message)
    {
        assert!(bundles.values().all(|bundle| bundle.x509_authorities().is_empty()));
    }
}

/// A good message of the X.509 stream.
#[cfg(test)]
pub(crate) fn sample_message() -> Vec<u8> {
    use prost::Message;

    use crate::{
        generated::workload::{X509svid, X509svidResponse},
        tls::fixtures::Authority,
    };
    let authority = Authority::new("example.org");
    let svid = authority.svid("/a", 60);
    let svid = X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.chain_der_concatenated(),
        x509_svid_key: svid.expose_secret().to_vec(),
        bundle: authority.root_der(),
        hint: "h".to_owned(),
    };
    let federated_bundles = [("spiffe://example.com".to_owned(), authority.root_der())].into();
    X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles }.encode_to_vec()
}

#[cfg(test)]
#[cfg(feature = "serve")]
mod tests;
