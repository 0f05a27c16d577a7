//! The token service of the trust domain: an OAuth token endpoint over TLS (RFC 6749, RFC 8693, draft-ietf-oauth-transaction-tokens), with its
//! metadata (RFC 8414) and its keys.
//!
//! Who asks proves itself by its X.509-SVID or by a JWT-SVID as client assertion (RFC 7523); nothing else counts. What it may have is
//! decided by the token policy, word for word. A token leaves when its record is durable.

mod access_token;
mod client;
mod exchange;
mod form;
mod metadata;
mod mint;
mod refusal;
mod subjects;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Body,
    extract::State,
    response::Response,
    routing::{get, post},
};
use bonafide_verifier::{
    authenticate::{Authenticators, AuthenticatorsError},
    authorization::{Authorization, PolicyFiles, ReloadState},
    clock::Clock,
    identity::Identity,
    jwt::{delegation::Delegation, to_jwks},
    limits::{Counted, Limits as Counters, Quotas},
    policy::{CanonicalPath, Fact, Facts, Limit, LimitBy, LimitPer, Operation},
    record::RecordedOperation,
    serve::{ConnectionInfo, Drained, ServeOptions, TlsIncoming, serve},
    spiffe::TrustDomain,
    tls::{Acceptor, AcceptorOptions, PeerSet, TlsConfigError},
    txn_tokens::{TxnKey, TxnKeysError, TxnTokens},
};
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Limited};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub(crate) use self::form::check_form;
use self::{client::Client, form::Form, mint::Minter, refusal::TokenRefusal, subjects::Subjects};
use crate::{
    authority::Authorities,
    issuance::Issuer,
    metrics::{Metrics, TokenKind, TokenOutcome},
    registry::{Registry, TokenKeys},
    store::Store,
    user_issuers::IssuerKeeper,
};

/// How much the token endpoint takes on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub(crate) struct TokenLimits {
    /// Requests of one client that are decided in a second, with twice as many at once; more are told to come later.
    pub(crate) per_client: NonZeroU32,
    /// The longest life of a transaction token and of an access token.
    pub(crate) lifetime: Duration,
    /// The body of a request must have come within this.
    pub(crate) body_deadline: Duration,
    /// Open connections; at that many no further one is accepted.
    pub(crate) connections: usize,
}

impl Default for TokenLimits {
    fn default() -> Self {
        Self {
            per_client: NonZeroU32::MIN.saturating_add(999),
            lifetime: Duration::from_secs(300),
            body_deadline: Duration::from_secs(10),
            connections: 20_000,
        }
    }
}

/// What the token service is made of.
pub(crate) struct Parts {
    pub(crate) issuer: Issuer,
    pub(crate) authorities: Authorities,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) issuers: IssuerKeeper,
    pub(crate) identity: Identity,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    /// `https://HOST[:PORT]`.
    pub(crate) url: String,
    pub(crate) policy: PathBuf,
    pub(crate) limits: TokenLimits,
}

/// The token service of one CA process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TokenService {
    inner: Arc<Inner>,
}

struct Inner {
    trust_domain: TrustDomain,
    minter: Minter,
    registry: Registry,
    issuers: IssuerKeeper,
    identity: Identity,
    authorities: Authorities,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    url: String,
    authenticators: Authenticators,
    authorization: Authorization,
    counters: Counters,
    txn_tokens: TxnTokens,
    subjects: Subjects,
    /// The JWK Set.
    keys: ArcSwap<String>,
    policy: PathBuf,
    policy_state: std::sync::Mutex<Option<Arc<std::sync::Mutex<ReloadState>>>>,
    limits: TokenLimits,
}

/// Why there is no token service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenServiceError {
    #[error("the token endpoint cannot know its clients: {0}")]
    Authenticators(#[from] AuthenticatorsError),
    #[error("the keys of the token authorities cannot be used: {0}")]
    Keys(#[from] TxnKeysError),
}

impl TokenService {
    /// # Errors
    /// A URL or keys that cannot be used.
    pub(crate) fn new(parts: Parts) -> Result<Self, TokenServiceError> {
        let trust_domain = parts.issuer.trust_domain().clone();
        // RFC 7523 §3: the endpoint, or the service as it calls itself.
        let authenticators = Authenticators::builder(trust_domain.clone(), parts.identity.clone())
            .x509()
            .jwt_svids()
            .audience(parts.url.clone())
            .audience(format!("{}{TOKEN_PATH}", parts.url))
            .build()?;
        let counters = Counters::new(Quotas::in_memory(), parts.clock.clone());
        let authorization =
            Authorization::builder(authenticators.clone(), counters.clone(), parts.clock.clone()).build();
        let txn_tokens = TxnTokens::new(trust_domain.clone(), parts.authorities.token_keys())?;
        let keys = ArcSwap::from_pointee(to_jwks(&parts.authorities.token_keys()));
        Ok(Self {
            inner: Arc::new(Inner {
                trust_domain,
                minter: Minter { issuer: parts.issuer, authorities: parts.authorities.clone(), store: parts.store },
                registry: parts.registry,
                issuers: parts.issuers,
                identity: parts.identity,
                authorities: parts.authorities,
                clock: parts.clock,
                metrics: parts.metrics,
                url: parts.url,
                authenticators,
                authorization,
                counters,
                txn_tokens,
                subjects: Subjects::new(),
                keys,
                policy: parts.policy,
                policy_state: std::sync::Mutex::default(),
                limits: parts.limits,
            }),
        })
    }

    /// Its URL, which is the issuer of its access tokens.
    pub(crate) fn url(&self) -> &str {
        &self.inner.url
    }

    /// Keeps the policy as its file says, until `stop`.
    pub(crate) async fn run_policy(&self, stop: CancellationToken) {
        let files = PolicyFiles::new(self.inner.trust_domain.clone(), self.inner.policy.clone());
        let state = files.state();
        *self.inner.policy_state.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(state);
        files.run(self.inner.authorization.clone(), stop).await;
    }

    /// Keeps the keys by which earlier tokens are verified, and the set that everybody may read, as the authorities and the delegations have
    /// them, until `stop`.
    pub(crate) async fn run_keys(&self, stop: CancellationToken) {
        let mut changes = self.inner.registry.subscribe();
        // Verified once: a statement never changes.
        let mut delegations: BTreeMap<Arc<str>, Delegation> = BTreeMap::new();
        let mut known = None;
        loop {
            changes.borrow_and_update();
            let token_keys = self.inner.registry.load().token_keys().clone();
            if known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &token_keys)) {
                self.take_keys(&token_keys, &mut delegations);
                known = Some(token_keys);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    fn take_keys(&self, now: &TokenKeys, delegations: &mut BTreeMap<Arc<str>, Delegation>) {
        let service = self.inner.authorities.token_keys();
        delegations.retain(|key_id, _| now.delegations.contains_key(key_id));
        for (key_id, delegated) in &*now.delegations {
            if delegations.contains_key(key_id) {
                continue;
            }
            match Delegation::verify(&delegated.statement, &service, &self.inner.trust_domain) {
                Ok(delegation) => drop(delegations.insert(key_id.clone(), delegation)),
                Err(error) => warn!(key_id = %key_id, %error, "a delegation of this CA does not verify"),
            }
        }
        let agents = delegations.values().map(|delegation| &delegation.key);
        self.inner.keys.store(Arc::new(to_jwks(service.iter().chain(agents))));
        let agents = delegations.values().cloned().map(TxnKey::Agent);
        let keys = service.iter().cloned().map(TxnKey::Service).chain(agents).collect();
        if let Err(error) = self.inner.txn_tokens.replace(keys) {
            error!(%error, "the token endpoint keeps the keys that it has");
        }
    }

    /// Whether there is a policy to decide by, and it is what stands in the file.
    ///
    /// # Errors
    /// Why not, for an operator.
    pub(crate) fn policy_ready(&self) -> Result<(), String> {
        let state = self.inner.policy_state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let path = self.inner.policy.display();
        let Some(state) = state else { return Err(format!("the token policy `{path}` has not been read yet")) };
        let state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &state.problem {
            Some(problem) => Err(format!("the token policy is not what its file says: {problem}")),
            None if state.taken == 0 => Err(format!("the token policy `{path}` has not been read yet")),
            None => Ok(()),
        }
    }

    /// Answers requests until `stop`.
    ///
    /// # Errors
    /// The TLS configuration is not possible.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) -> Result<Drained, TlsConfigError> {
        let mut options = AcceptorOptions::default();
        // Programs that have no SVID in a file prove themselves by an assertion, and keys and metadata are for everybody.
        options.dangerously_admit_anonymous = true;
        let services = PeerSet::any_of(self.inner.trust_domain.clone());
        let acceptor = Acceptor::new(&self.inner.identity, services, options)?;
        let mut serving = ServeOptions::default();
        serving.connections = self.inner.limits.connections;
        Ok(serve(TlsIncoming::new(listener, &acceptor), self.routes(), serving, stop).await)
    }

    fn routes(self) -> Router {
        Router::new()
            .route(TOKEN_PATH, post(token))
            .route(metadata::PATH, get(metadata::metadata))
            .route(metadata::KEYS_PATH, get(metadata::keys))
            .with_state(self)
    }

    /// One request for a token.
    async fn answer(&self, request: Request<Body>) -> Result<Response, TokenRefusal> {
        let (head, body) = request.into_parts();
        let is_form = |value: &HeaderValue| {
            let value = value.to_str().unwrap_or_default();
            let kind = value.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        };
        let mut kinds = head.headers.get_all(header::CONTENT_TYPE).iter();
        if !kinds.next().is_some_and(is_form) || kinds.next().is_some() {
            return Err(TokenRefusal::ContentType);
        }
        let reading = Limited::new(body, form::MAX_BODY).collect();
        let body = match timeout(self.inner.limits.body_deadline, reading).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err(TokenRefusal::Body { reason: error.to_string() }),
            Err(_) => return Err(TokenRefusal::Body { reason: "it did not come in time".to_owned() }),
        };
        let form = Form::parse(&body)?;
        let grant_type = form.get("grant_type").ok_or(TokenRefusal::Missing { name: "grant_type" })?;
        let kind = match grant_type {
            "client_credentials" => TokenKind::Access,
            bonafide_ca_api::token_exchange::GRANT_TYPE => TokenKind::Transaction,
            other => return Err(TokenRefusal::GrantType { found: other.chars().take(128).collect() }),
        };
        let outcome = self.grant(kind, &head, &form).await;
        let counted = match &outcome {
            Ok(_) => TokenOutcome::Issued,
            Err(refusal) if refusal.is_ours() => TokenOutcome::Failed,
            Err(_) => TokenOutcome::Refused,
        };
        self.inner.metrics.token(kind, counted);
        outcome
    }

    async fn grant(&self, kind: TokenKind, head: &http::request::Parts, form: &Form) -> Result<Response, TokenRefusal> {
        let client = self.client(head, form)?;
        let limit = Limit {
            count: self.inner.limits.per_client,
            per: LimitPer::Second,
            burst: self.inner.limits.per_client.saturating_mul(BURST),
            by: LimitBy::Caller,
        };
        let counted = Counted { rule: "", caller: Some(client.granted().caller.id()), user: None };
        self.inner
            .counters
            .take(&counted, limit)
            .map_err(|exceeded| TokenRefusal::Limited { retry_after: exceeded.retry_after })?;
        let outcome = match kind {
            TokenKind::Access => self.access_token(&client, form).await,
            TokenKind::Transaction => self.exchange(&client, form).await,
        };
        if let Err(refusal) = &outcome {
            let (requester, reason) = (client.id(), refusal.code());
            if refusal.is_ours() {
                error!(%requester, reason, error = %refusal, "could not issue a token");
            } else {
                info!(%requester, reason, error = %refusal, "refused a token");
            }
        }
        outcome
    }

    /// Asks the token policy about one word of a scope, or about none.
    fn decide(
        &self,
        client: &Client,
        action: &'static str,
        word: Option<&str>,
        facts: &Facts,
    ) -> Result<(), TokenRefusal> {
        let resource = format!("/{}", word.unwrap_or_default());
        let denied = |code| TokenRefusal::Denied {
            operation: format!("app {action} {}", resource.chars().take(80).collect::<String>()),
            code,
            of_scope: word.is_some(),
        };
        // A word that no policy could name in one way is one that no policy allows.
        let path = CanonicalPath::parse(&resource).map_err(|_| denied("scope-not-nameable"))?;
        let operation = Operation::App { action, resource: path };
        let recorded = RecordedOperation::App { action, resource: "scope" };
        let outcome = self.inner.authorization.authorize_with(client.granted(), operation, recorded, facts);
        outcome.map_err(|refused| match refused.refusal {
            bonafide_verifier::authorization::Refusal::Limited { retry_after } => TokenRefusal::Limited { retry_after },
            bonafide_verifier::authorization::Refusal::Unavailable => TokenRefusal::NoPolicy { code: refused.reason },
            _ => denied(refused.reason),
        })
    }
}

async fn token(State(service): State<TokenService>, request: Request<Body>) -> Response {
    let remote = request.extensions().get::<ConnectionInfo>().map(|info| info.remote);
    match service.answer(request).await {
        Ok(response) => response,
        Err(refusal) => {
            let reason = refusal.code();
            if let TokenRefusal::Client { .. } = &refusal {
                // Anybody can come without a credential, and as often as they like.
                if matches!(reason, "no-credential" | "address-limit") {
                    debug!(peer = ?remote, reason, "a client of the token endpoint did not prove itself");
                } else {
                    info!(peer = ?remote, reason, error = %refusal, "a client of the token endpoint did not prove itself");
                }
            }
            refusal.into_response()
        }
    }
}

fn fact(facts: Facts, name: &str, value: impl Into<Fact>) -> Facts {
    facts.with(name, value)
}

const TOKEN_PATH: &str = "/token";
/// Of the pace, at once.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
