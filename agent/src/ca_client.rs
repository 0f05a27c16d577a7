//! The agent's side of the node API: one connection to a CA at a time, over mutual TLS as this node, to exactly
//! `spiffe://TD/bonafide/ca`. Everything that needs the CA asks here and gets a typed answer within a bound.
//!
//! The connection itself is kept by `connection`'s driver; a request that meets the moment between two connections waits
//! for the next one, so that a renewal of the node's SVID or the end of a credential is noticed by nobody.

pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod tls;

use std::{sync::Arc, time::Duration};

use bonafide_ca_api::{
    Refusal,
    generated::node::{
        AgentInfo, CollectMintsRequest, DelegateRequest, IssueJwtRequest, IssueX509Request, LookAtIssuerRequest,
        RenewRequest, RenewResponse, X509Item, node_api_client::NodeApiClient, x509_result,
    },
};
use bonafide_verifier::clock::Timestamp;
use tokio::{sync::watch, time::timeout};
use tonic::transport::Channel;

use self::connection::Live;

/// Asks a CA on behalf of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CaClient {
    live: watch::Receiver<Option<Arc<Live>>>,
    limits: Arc<Limits>,
}

/// What the CA client waits for at most.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// From a name or address to the end of the TLS handshake, for each address of the CA; then the next is tried.
    pub connect: Duration,
    /// For a connection, when there is none at the moment of a request; then the request fails as unreachable.
    pub wait_for_connection: Duration,
    /// For the answer to a batch of certificates, connection included.
    pub issue_x509: Duration,
    /// For a JWT-SVID, connection included. Shorter than the 1.5 s in which a cached one must be handed out (T-37).
    pub issue_jwt: Duration,
    /// For a join, recovery or renewal.
    pub identity: Duration,
    /// For a delegation: the CA answers when the nodes that are connected can verify by it, at the latest after a minute.
    pub delegate: Duration,
    /// For the records of minted tokens.
    pub collect: Duration,
    /// For the CA to ask an issuer of users for its keys; a request waits for it.
    pub look_at_issuer: Duration,
    /// An HTTP/2 ping after this long without traffic; the peer is dead when its answer takes `ping_timeout`.
    pub ping_every: Duration,
    /// See `ping_every`; both together stay below the 30 s of F-11.
    pub ping_timeout: Duration,
    /// The longest pause between two attempts to connect. Below 30 s, so that all is well 30 s after a fault's end.
    pub longest_pause: Duration,
    /// The largest message taken from a CA: a whole state of 100,000 services.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            wait_for_connection: Duration::from_secs(2),
            issue_x509: Duration::from_secs(15),
            issue_jwt: Duration::from_millis(1200),
            identity: Duration::from_secs(10),
            delegate: Duration::from_secs(90),
            collect: Duration::from_secs(15),
            look_at_issuer: Duration::from_secs(5),
            ping_every: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(10),
            longest_pause: Duration::from_secs(15),
            message_bytes: 64 << 20,
        }
    }
}

/// A public key to be certified for a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct X509Request {
    /// The service, by the id that sync gave it.
    pub service_id: String,
    /// SubjectPublicKeyInfo DER, P-256.
    pub public_key: Vec<u8>,
}

/// What the CA made of one [`X509Request`]. Not verified: that is the receiver's part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedX509 {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// Why the CA did not certify one key of a batch.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message} ({reason})")]
pub struct ItemRefusal {
    /// The reason's code.
    pub reason: String,
    /// One line for the operator.
    pub message: String,
    /// When asking again may help.
    pub retry_after: Option<Duration>,
}

/// A JWT-SVID as issued. Not verified: that is the receiver's part.
#[derive(Clone)]
pub struct IssuedJwt {
    /// JWS compact serialization; a bearer credential.
    pub token: String,
    /// When it ends.
    pub not_after: Timestamp,
}

impl std::fmt::Debug for IssuedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedJwt").field("token", &"..").field("not_after", &self.not_after).finish()
    }
}

/// Why a request got no answer of use.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The CA said no.
    #[error("the CA refused: {0}")]
    Refused(Refusal),
    /// No connection within the bound.
    #[error("no connection to a CA within {waited:?}")]
    NotConnected {
        /// The bound.
        waited: Duration,
    },
    /// A connection, and no answer within the bound.
    #[error("no answer from the CA at `{address}` within {waited:?}")]
    NoAnswer {
        /// Which CA.
        address: String,
        /// The bound.
        waited: Duration,
    },
    /// The connection broke, or what answered is not our CA's API.
    #[error("the connection to the CA at `{address}` failed: {reason}")]
    Broken {
        /// Which CA.
        address: String,
        /// What the transport said.
        reason: String,
    },
    /// An answer that does not follow the contract.
    #[error("the CA at `{address}` sent an answer that cannot be used: {reason}")]
    Unusable {
        /// Which CA.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl CaError {
    /// The reason's code, for logs and the wire.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.code,
            Self::NotConnected { .. } | Self::NoAnswer { .. } | Self::Broken { .. } => "ca-unreachable",
            Self::Unusable { .. } => "ca-answer-unusable",
        }
    }

    /// When asking again may help, if the CA said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::NotConnected { .. } | Self::NoAnswer { .. } | Self::Broken { .. } | Self::Unusable { .. } => None,
        }
    }

    /// Did the CA not answer at all? Then it said neither yes nor no.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::NotConnected { .. } | Self::NoAnswer { .. } | Self::Broken { .. })
    }
}

/// The connection to a CA, as others may know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connection {
    /// The CA's address.
    pub address: String,
    /// Since when.
    pub since: Timestamp,
}

impl CaClient {
    pub(crate) fn new(live: watch::Receiver<Option<Arc<Live>>>, limits: Arc<Limits>) -> Self {
        Self { live, limits }
    }

    /// The connection of this moment.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        self.live.borrow().as_ref().map(|live| live.connection())
    }

    /// Completes when a connection comes up that was not there at the call.
    pub fn reconnected(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut live = self.live.clone();
        let before = live.borrow_and_update().clone();
        async move {
            let newer = |next: &Option<Arc<Live>>| match (next, &before) {
                (Some(next), Some(before)) => !Arc::ptr_eq(next, before),
                (Some(_), None) => true,
                (None, _) => false,
            };
            if live.wait_for(newer).await.is_err() {
                // The driver has ended: nothing comes up any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Has keys certified for services, each decided by itself, in the order asked. May be dropped at any time; asking again
    /// with the same keys is harmless.
    ///
    /// # Errors
    /// When there was no answer, or a refusal of the whole.
    pub async fn issue_x509(
        &self,
        mut requests: Vec<X509Request>,
    ) -> Result<Vec<Result<IssuedX509, ItemRefusal>>, CaError> {
        let mut results = Vec::with_capacity(requests.len());
        while requests.len() > BATCH {
            let rest = requests.split_off(BATCH);
            results.extend(self.issue_x509_batch(std::mem::replace(&mut requests, rest)).await?);
        }
        results.extend(self.issue_x509_batch(requests).await?);
        Ok(results)
    }

    async fn issue_x509_batch(
        &self,
        requests: Vec<X509Request>,
    ) -> Result<Vec<Result<IssuedX509, ItemRefusal>>, CaError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let asked = requests.len();
        let items = requests
            .into_iter()
            .map(|request| X509Item { service_id: request.service_id, public_key: request.public_key })
            .collect();
        let message = IssueX509Request { items };
        let bound = self.limits.issue_x509;
        let (address, answer) = self
            .ask(bound, |mut api| {
                let message = message.clone();
                async move { api.issue_x509(message).await }
            })
            .await?;
        let unusable = |reason: String| CaError::Unusable { address: address.clone(), reason };
        if answer.results.len() != asked {
            return Err(unusable(format!("{} results for {asked} items", answer.results.len())));
        }
        let issuers = answer.issuer_chain;
        answer
            .results
            .into_iter()
            .map(|result| match result.result {
                Some(x509_result::Result::Leaf(leaf)) => {
                    let mut chain = Vec::with_capacity(1 + issuers.len());
                    chain.push(leaf);
                    chain.extend(issuers.iter().cloned());
                    Ok(Ok(IssuedX509 { chain }))
                }
                Some(x509_result::Result::Refusal(refusal)) => Ok(Err(ItemRefusal {
                    reason: refusal.reason,
                    message: refusal.message,
                    retry_after: (refusal.retry_after_ms > 0)
                        .then(|| Duration::from_millis(u64::from(refusal.retry_after_ms))),
                })),
                None => Err(unusable("a result that is neither a certificate nor a refusal".into())),
            })
            .collect()
    }

    /// Has a JWT-SVID made for a service. May be dropped at any time.
    ///
    /// # Errors
    /// When there was no answer within the bound, or a refusal.
    pub async fn issue_jwt(&self, service_id: &str, audience: &[String]) -> Result<IssuedJwt, CaError> {
        let message = IssueJwtRequest { service_id: service_id.to_owned(), audience: audience.to_vec() };
        let bound = self.limits.issue_jwt;
        let (_, answer) = self
            .ask(bound, |mut api| {
                let message = message.clone();
                async move { api.issue_jwt(message).await }
            })
            .await?;
        Ok(IssuedJwt { token: answer.token, not_after: Timestamp::from_unix_millis(answer.not_after_ms) })
    }

    /// Has this node's next key certified. May be dropped at any time; asking again with the same key is harmless.
    pub(crate) async fn renew(&self, request: RenewRequest) -> Result<RenewResponse, CaError> {
        let bound = self.limits.identity;
        let (_, answer) = self
            .ask(bound, |mut api| {
                let request = request.clone();
                async move { api.renew(request).await }
            })
            .await?;
        Ok(answer)
    }

    /// Has the CA delegate transaction tokens to a key. May be dropped at any time; asked again with the same key, the CA refuses.
    pub(crate) async fn delegate(&self, public_key: &[u8]) -> Result<String, CaError> {
        let message = DelegateRequest { public_key: public_key.to_vec() };
        let bound = self.limits.delegate;
        let (_, answer) = self
            .ask(bound, |mut api| {
                let message = message.clone();
                async move { api.delegate(message).await }
            })
            .await?;
        Ok(answer.delegation)
    }

    /// Has the CA look at an issuer's keys; whether it did. May be dropped at any time.
    pub(crate) async fn look_at_issuer(&self, name: &str) -> Result<bool, CaError> {
        let message = LookAtIssuerRequest { issuer: name.to_owned() };
        let bound = self.limits.look_at_issuer;
        let (_, answer) = self
            .ask(bound, |mut api| {
                let message = message.clone();
                async move { api.look_at_issuer(message).await }
            })
            .await?;
        Ok(answer.looked)
    }

    /// Brings records of minted tokens to the CA, and gives the sequence up to which it has all. May be dropped at any time; the same ones
    /// again change nothing.
    pub(crate) async fn collect_mints(&self, message: CollectMintsRequest) -> Result<u64, CaError> {
        let bound = self.limits.collect;
        let (_, answer) = self
            .ask(bound, |mut api| {
                let message = message.clone();
                async move { api.collect_mints(message).await }
            })
            .await?;
        Ok(answer.collected)
    }

    /// One request over the connection of the moment, or the next one. A connection that breaks under the request is not
    /// the request's fault: it is asked once more over a newer connection. Everything asked here may be asked twice.
    async fn ask<T, F>(
        &self,
        bound: Duration,
        call: impl Fn(NodeApiClient<Channel>) -> F,
    ) -> Result<(String, T), CaError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let mut live = self.live.clone();
        let mut asked: Option<Arc<Live>> = None;
        let attempt = async {
            loop {
                let wait = live.wait_for(|next| match (next, &asked) {
                    (None, _) => false,
                    (Some(next), Some(before)) => !Arc::ptr_eq(next, before),
                    (Some(_), None) => true,
                });
                let now = match timeout(self.limits.wait_for_connection, wait).await {
                    Ok(Ok(next)) => next.clone(),
                    Ok(Err(_)) | Err(_) => None,
                };
                let Some(now) = now else {
                    return Err(match &asked {
                        Some(before) => CaError::Broken {
                            address: before.address().to_owned(),
                            reason: "it ended, and no new one came up in time".into(),
                        },
                        None => CaError::NotConnected { waited: self.limits.wait_for_connection },
                    });
                };
                match call(now.api()).await {
                    Ok(answer) => return Ok((now.address().to_owned(), answer.into_inner())),
                    Err(status) => {
                        let error = classify(now.address(), &status);
                        let again = matches!(error, CaError::Broken { .. }) && asked.is_none();
                        if !again {
                            return Err(error);
                        }
                        asked = Some(now);
                    }
                }
            }
        };
        match timeout(bound, attempt).await {
            Ok(answer) => answer,
            Err(_) => Err(match self.live.borrow().as_ref() {
                Some(live) => CaError::NoAnswer { address: live.address().to_owned(), waited: bound },
                None => CaError::NotConnected { waited: bound },
            }),
        }
    }
}

/// What this agent says of itself in a message.
pub(crate) fn agent_info(now: Timestamp) -> AgentInfo {
    AgentInfo { version: env!("CARGO_PKG_VERSION").to_owned(), now_ms: now.unix_millis() }
}

/// What a gRPC status means for the agent.
pub(crate) fn classify(address: &str, status: &tonic::Status) -> CaError {
    if let Some(refusal) = Refusal::from_status(status) {
        return CaError::Refused(refusal);
    }
    let mut reason = printable(status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let text = printable(&cause.to_string());
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = cause.source();
    }
    CaError::Broken { address: address.to_owned(), reason }
}

/// Bounded and without control characters: it goes into a log (T-31).
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(500)
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

/// What the CA takes in one request.
const BATCH: usize = 256;
