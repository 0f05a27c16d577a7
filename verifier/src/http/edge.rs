//! The edge of a trust domain: where requests come from outside, from users and for them.
//!
//! [`EdgeLayer`] goes around an authorized service ([`Protected::at_edge`](super::Protected::at_edge), [`AuthorizationLayer::at_edge`]). It takes off what only
//! the inside may say ([`strip`]), and exchanges the user's own token for a transaction token, once for each request, so that the services behind know
//! for whom they are called. The token goes along with calls as [`propagate`](super::propagate) has it, and its transaction is in the record of this service, too.
//!
//! - Exchanged is before the handler runs and after the policy has been asked: for a request that would not be allowed anyway nobody is asked. It is not left to
//!   the first call onward, since then the decision and its record would know no transaction; a service that calls nobody names no [`Exchanger`], and
//!   nothing is exchanged. Without one, what a handler calls for such a user fails ([`NoContext`](super::propagate::NoContext)), so that nobody is lost.
//! - With it go facts of the transaction that no service behind can change: what it is about ([`Edge::details_of`], `tctx`), and where the request came from
//!   ([`Edge::context_of`], `rctx`). Behind, they are [`OnBehalfOf::tctx`] and [`OnBehalfOf::rctx`]; the services need not look at them.
//! - What comes back is believed no more than any token: it must verify, be of the same user and for this service, and say no more than was asked for.
//! - A transaction token that comes from outside is refused, however good it is (403), and so is one beside a user's own token (400). Both are in
//!   [`Authorization::authorize`](crate::authorization::Authorization::authorize), for every server that looks at transaction tokens.
//!
//! | what fails | HTTP | gRPC | reason in the record |
//! | --- | --- | --- | --- |
//! | the user's token is refused here | 401 | 16 | `user-token-…` |
//! | the user's token is refused by the token service | 401 | 16 | `exchange-subject` |
//! | the service may not have it, or no word of its scope is the user's | 403 | 7 | `exchange-refused`, `exchange-scope` |
//! | more exchanges for one user than [`Edge::per_user`] says | 429 | 8 | `exchange-limit` |
//! | the token service does not answer in time, or cannot | 503 | 14 | `exchange-unavailable` |
//! | what it answers is no good | 503 | 14 | `exchange-answer` |
//! | what the edge itself says of the request is no good | 500 | 13 | `exchange-facts` |
//!
//! ```no_run
//! # use bonafide_verifier::{authorization::Authorization, http::{Routes, edge::{AtEdge, Edge, EdgeError, Exchanger}, Protected}, policy::Method};
//! # fn of(authorization: Authorization, agent: impl Exchanger) -> Result<AtEdge<Protected>, EdgeError> {
//! async fn photo() -> &'static str {
//!     "seen"
//! }
//! let service = Routes::new(authorization).route(Method::Get, "/photos/{id}", photo).into_service();
//! service.at_edge(Edge::new().exchange(agent, "photo.read photo.write"))
//! # }
//! ```

pub mod strip;
#[cfg(test)]
#[cfg(all(feature = "axum", feature = "policy-file"))]
mod tests;

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Method, Request, Uri};
use pin_project_lite::pin_project;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use self::strip::Strip;
use super::{AuthorizationLayer, Shared, request};
use crate::{
    authenticate::{ProofKindOfToken, SessionUser, bearer_token},
    authorization::{Exchanged, Refusal},
    jwt::{
        txn_token::{FactsError, read_facts},
        user_token::UserTokenKind,
    },
    on_behalf_of::OnBehalfOf,
    policy::{Limit, LimitBy, LimitPer},
    spiffe::SpiffeId,
    tls::Peer,
    txn_tokens::LookUp,
    user::PresentedUser,
};

/// Exchanges a user's token for a transaction token: the token service of the trust domain, most often by the agent on the own node.
pub trait Exchanger: fmt::Debug + Send + Sync + 'static {
    /// Asks for one token. It is dropped when the request is, or when it takes longer than the edge waits.
    fn exchange<'e>(&'e self, wanted: &'e Wanted) -> Exchanging<'e>;
}

/// An exchange under way: the transaction token in its compact form.
pub type Exchanging<'e> = Pin<Box<dyn Future<Output = Result<Zeroizing<String>, NotExchanged>> + Send + 'e>>;

/// What an edge asks for.
#[non_exhaustive]
pub struct Wanted {
    /// The user's own token: a secret.
    pub subject_token: Zeroizing<String>,
    /// What kind it is.
    pub kind: UserTokenKind,
    /// What for: words with one blank between two, all of them the user's own as far as their token says.
    pub scope: String,
    /// Facts of the transaction that stay as they are: `tctx`.
    pub details: Map<String, Value>,
    /// Where the request came from: `rctx`.
    pub context: Map<String, Value>,
    /// The service that asks, where the authorization knows its own name.
    pub service: Option<SpiffeId>,
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("kind", &self.kind).field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// Why there is no transaction token. `reason` is for the operator's log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotExchanged {
    /// The user's token is not taken: 401.
    #[error("the token service does not take the user's token: {reason}")]
    Subject {
        /// Why.
        reason: String,
    },
    /// This service may not have what it asks for: 403.
    #[error("the token service refuses: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Not now: 503.
    #[error("the token service cannot be asked: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl NotExchanged {
    fn refusal(&self) -> (Refusal, &'static str) {
        match self {
            Self::Subject { .. } => (Refusal::Unauthenticated, "exchange-subject"),
            Self::Refused { .. } => (Refusal::Denied, "exchange-refused"),
            Self::Unavailable { .. } => (Refusal::Unavailable, "exchange-unavailable"),
        }
    }
}

/// Every reason that a failed exchange leaves in a record.
pub const EXCHANGE_REASONS: &[&str] = &[
    "exchange-subject",
    "exchange-refused",
    "exchange-scope",
    "exchange-limit",
    "exchange-unavailable",
    "exchange-answer",
    "exchange-facts",
];

/// What an edge does.
#[derive(Clone, Default)]
#[must_use = "it does nothing until it is put around a service"]
pub struct Edge {
    exchanger: Option<Arc<dyn Exchanger>>,
    scope: String,
    scope_of: Option<Arc<ScopeOf>>,
    details_of: Option<Arc<FactsOf>>,
    context_of: Option<Arc<FactsOf>>,
    strip: Strip,
    waits: Option<Duration>,
    per_user: Option<(NonZeroU32, NonZeroU32)>,
}

/// The scope for a request, where it is another one than the edge's.
type ScopeOf = dyn Fn(&Method, &Uri) -> Option<String> + Send + Sync;

/// Facts for a request's token.
type FactsOf = dyn Fn(&EdgeRequest<'_>) -> Map<String, Value> + Send + Sync;

/// A request whose user's token is about to be exchanged, for who says what stands in the transaction token.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct EdgeRequest<'r> {
    /// Its method.
    pub method: &'r Method,
    /// Where it goes.
    pub uri: &'r Uri,
    /// Its headers, without those that only the inside may send. What they say is the sender's word.
    pub headers: &'r HeaderMap,
    /// Whose token it is.
    pub user: &'r PresentedUser,
    /// Where the connection comes from, if nobody has proved to be a service or a proxy on it, and the server loop tells ([`serve`](crate::serve::serve())).
    pub address: Option<IpAddr>,
}

/// Without headers, which hold the user's token, and without the query.
impl fmt::Debug for EdgeRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeRequest")
            .field("method", self.method)
            .field("path", &self.uri.path())
            .finish_non_exhaustive()
    }
}

impl EdgeRequest<'_> {
    /// What `rctx` says where nobody says another thing: `req_ip`, the user's address, as far as it is known.
    #[must_use]
    pub fn default_context(&self) -> Map<String, Value> {
        self.address.map(|address| ("req_ip".to_owned(), address.to_string().into())).into_iter().collect()
    }
}

/// An edge that cannot work.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// Nothing could verify what comes back, or carry it on.
    #[error(
        "the edge exchanges users' tokens, but its authorization does not look at transaction tokens; add `users` to its builder"
    )]
    NoTxnTokens,
    /// A transaction token says what it is for.
    #[error("`{scope}` is no scope to ask for: words of printable ASCII, one blank between two")]
    Scope {
        /// What was given.
        scope: String,
    },
    /// A name that no header has.
    #[error("`{}` is no name of a header in lower case", .name.escape_debug())]
    Header {
        /// What was given, cut to 64 characters.
        name: String,
    },
}

impl Edge {
    /// How long an exchange may take.
    pub const WAITS: Duration = Duration::from_secs(5);
    /// How many exchanges a second for one user, and how many at once.
    pub const PER_USER: (NonZeroU32, NonZeroU32) = match (NonZeroU32::new(100), NonZeroU32::new(200)) {
        (Some(per_second), Some(burst)) => (per_second, burst),
        _ => (NonZeroU32::MIN, NonZeroU32::MIN),
    };

    /// Takes off what only the inside may say, and exchanges nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Exchanges users' own tokens, each request's once, for transaction tokens with this scope: the words out of it that the user's token allows, where that
    /// says.
    pub fn exchange(mut self, exchanger: impl Exchanger, scope: impl Into<String>) -> Self {
        self.exchanger = Some(Arc::new(exchanger));
        self.scope = scope.into();
        self
    }

    /// Asks for another scope where this says so: the less a token says, the less can be done with it behind. None: the edge's.
    pub fn scope_of(mut self, scope: impl Fn(&Method, &Uri) -> Option<String> + Send + Sync + 'static) -> Self {
        self.scope_of = Some(Arc::new(scope));
        self
    }

    /// What the transaction is about, as a JSON object: `tctx`. It stays as it is all the way; who replaces the token can only add to it. At most
    /// [`MAX_FACTS_BYTES`](crate::jwt::txn_token::MAX_FACTS_BYTES) and [`MAX_FACTS_DEPTH`](crate::jwt::txn_token::MAX_FACTS_DEPTH) deep: a request with more is refused, since something would be missing behind. Whatever is said here, each
    /// service behind can read. Default: nothing.
    pub fn details_of(
        mut self,
        details: impl Fn(&EdgeRequest<'_>) -> Map<String, Value> + Send + Sync + 'static,
    ) -> Self {
        self.details_of = Some(Arc::new(details));
        self
    }

    /// Where the request came from, as a JSON object: `rctx`; the token service adds how the user was proved (`authn`). Bounds as for
    /// [`Edge::details_of`]. An address is personal: who needs none says so with an empty object. Behind a proxy without a certificate the address is the
    /// proxy's. Default: [`EdgeRequest::default_context`].
    pub fn context_of(
        mut self,
        context: impl Fn(&EdgeRequest<'_>) -> Map<String, Value> + Send + Sync + 'static,
    ) -> Self {
        self.context_of = Some(Arc::new(context));
        self
    }

    /// Takes a header of this name off, too, when it comes from outside.
    pub fn strip(mut self, name: impl Into<String>) -> Self {
        self.strip.add(name.into());
        self
    }

    /// How long an exchange may take. Default: [`Edge::WAITS`].
    pub fn waits(mut self, waits: Duration) -> Self {
        self.waits = Some(waits);
        self
    }

    /// How many exchanges a second for one user, and how many at once, so that nobody makes the token service mint without end. Rules limit requests
    /// only once they are decided. Default: [`Edge::PER_USER`].
    pub fn per_user(mut self, per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        self.per_user = Some((per_second, burst));
        self
    }

    fn limit(&self) -> Limit {
        let (count, burst) = self.per_user.unwrap_or(Self::PER_USER);
        Limit { count, per: LimitPer::Second, burst, by: LimitBy::Caller }
    }

    fn check(&self, shared: &Shared) -> Result<(), EdgeError> {
        self.strip.check()?;
        if self.exchanger.is_none() {
            return Ok(());
        }
        if shared.authorization.txn_tokens().is_none() {
            return Err(EdgeError::NoTxnTokens);
        }
        let word = |word: &str| !word.is_empty() && word.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
        if self.scope.len() <= 1024 && self.scope.split(' ').all(word) {
            Ok(())
        } else {
            Err(EdgeError::Scope { scope: self.scope.chars().take(100).collect() })
        }
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge")
            .field("exchanger", &self.exchanger)
            .field("scope", &self.scope)
            .field("strip", &self.strip)
            .finish_non_exhaustive()
    }
}

/// Puts an [`Edge`] around a service that has an [`AuthorizationLayer`] inside.
#[derive(Clone, Debug)]
pub struct EdgeLayer {
    edge: Arc<Edge>,
    shared: Arc<Shared>,
}

impl AuthorizationLayer {
    /// The layer to put around this one, for a service at the edge.
    ///
    /// # Errors
    /// When the edge could not work.
    pub fn at_edge(&self, edge: Edge) -> Result<EdgeLayer, EdgeError> {
        edge.check(&self.shared)?;
        Ok(EdgeLayer { edge: Arc::new(edge), shared: Arc::clone(&self.shared) })
    }
}

impl<S> tower_layer::Layer<S> for EdgeLayer {
    type Service = AtEdge<S>;

    fn layer(&self, inner: S) -> AtEdge<S> {
        AtEdge { inner, layer: self.clone() }
    }
}

/// A service with an [`EdgeLayer`] around it.
#[derive(Clone, Debug)]
pub struct AtEdge<S> {
    inner: S,
    layer: EdgeLayer,
}

impl<S> AtEdge<S> {
    /// The service inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

impl EdgeLayer {
    /// Takes off what only the inside may say.
    fn strip<B>(&self, request: &mut Request<B>) {
        let authorization = &self.shared.authorization;
        let inside = match request.extensions().get::<Peer>() {
            Some(Peer::Svid(peer)) => authorization.authenticators().is_inside(peer),
            Some(Peer::Key(_) | Peer::Anonymous) | None => false,
        };
        if !inside {
            // One that is looked at is refused instead, by whoever looks.
            self.edge.strip.apply(request.headers_mut(), !authorization.knows_users());
        }
    }

    /// To be waited for before it is known whose token is to be exchanged: the user's token has a key that is looked up.
    fn look_up<B>(&self, request: &Request<B>) -> Option<LookUp> {
        self.edge.exchanger.as_ref()?;
        self.shared.authorization.authenticators().look_up(request.headers())
    }

    /// Whose token is to be exchanged for this request, and for what.
    fn wanted<B>(&self, request: &Request<B>) -> Option<(PresentedUser, Wanted)> {
        self.edge.exchanger.as_ref()?;
        let (token, kind) = match request.extensions().get::<SessionUser>() {
            Some(session) => session.token()?,
            None => (bearer_token(request.headers())?, ProofKindOfToken::Id),
        };
        let asked = self.edge.scope_of.as_ref().and_then(|scope_of| scope_of(request.method(), request.uri()));
        let asked = asked.as_deref().unwrap_or(&self.edge.scope);
        let (user, scope) = request::to_be_exchanged(&self.shared, request, |user| theirs(asked, user))?;
        let kind = match (user.kind(), kind) {
            (crate::caller::ProofKind::UserAccessToken, _) | (_, ProofKindOfToken::Access) => {
                UserTokenKind::AccessToken
            }
            (_, ProofKindOfToken::Id) => UserTokenKind::IdToken,
        };
        let subject_token = Zeroizing::new(token.to_owned());
        let service = self.shared.authorization.service().cloned();
        let asks = EdgeRequest {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            user: &user,
            address: request::address(request).filter(|_| !matches!(request.extensions().get(), Some(Peer::Svid(_)))),
        };
        let details = self.edge.details_of.as_ref().map(|details_of| details_of(&asks)).unwrap_or_default();
        let context = match &self.edge.context_of {
            Some(context_of) => context_of(&asks),
            None => asks.default_context(),
        };
        let wanted = Wanted { subject_token, kind, scope, details, context, service };
        Some((user, wanted))
    }

    async fn exchange(&self, user: PresentedUser, wanted: Wanted) -> Exchanged {
        let authorization = &self.shared.authorization;
        if wanted.scope.is_empty() {
            return Exchanged::Failed(Refusal::Denied, "exchange-scope");
        }
        if let Err(error) = [&wanted.details, &wanted.context].into_iter().try_for_each(check_facts) {
            let reason = "exchange-facts";
            tracing::error!(reason, %error, "what this edge says of a request cannot stand in a transaction token");
            return Exchanged::Failed(Refusal::Broken, reason);
        }
        if let Err(retry_after) = authorization.count_exchange(&user, self.edge.limit()) {
            return Exchanged::Failed(Refusal::Limited { retry_after }, "exchange-limit");
        }
        let (Some(exchanger), Some(tokens)) = (&self.edge.exchanger, authorization.txn_tokens()) else {
            return Exchanged::Failed(Refusal::Unavailable, "exchange-unavailable");
        };
        let waits = self.edge.waits.unwrap_or(Edge::WAITS);
        let asking = async {
            let token = exchanger.exchange(&wanted).await?;
            // Signed by an agent's key that this process may not have been told of yet.
            if let Some(looking) = tokens.look_up_key_of(&token) {
                looking.await;
            }
            Ok(token)
        };
        let answer = tokio::select! {
            answer = asking => answer,
            () = authorization.clock().sleep_for(waits) => {
                Err(NotExchanged::Unavailable { reason: format!("no answer within {waits:?}") })
            }
        };
        let token = match answer {
            Ok(token) => token,
            Err(error) => {
                let (refusal, reason) = error.refusal();
                tracing::warn!(reason, %error, "a user's token was not exchanged");
                return Exchanged::Failed(refusal, reason);
            }
        };
        let at = authorization.clock().now();
        let wrong = match tokens.verify(&token, at) {
            Ok(on_behalf_of) => match self.flaw(&on_behalf_of, &user, &wanted.scope) {
                None => return Exchanged::For(on_behalf_of),
                Some(flaw) => flaw.to_owned(),
            },
            Err(error) => error.to_string(),
        };
        tracing::error!(
            reason = "exchange-answer",
            error = wrong,
            "the token service answered with a token that is no good"
        );
        Exchanged::Failed(Refusal::Unavailable, "exchange-answer")
    }

    /// What is wrong with a token that verifies.
    fn flaw(&self, found: &OnBehalfOf, user: &PresentedUser, wanted: &str) -> Option<&'static str> {
        let service = self.shared.authorization.service();
        if found.sub() != user.id().as_str() {
            Some("it is about another user")
        } else if service.is_some_and(|own| found.requester() != own) {
            Some("another service asked for it")
        } else if !found.scope().split(' ').all(|word| wanted.split(' ').any(|asked| asked == word)) {
            Some("its scope is wider than what was asked for")
        } else {
            None
        }
    }
}

/// The token service takes no others.
fn check_facts(facts: &Map<String, Value>) -> Result<(), FactsError> {
    if facts.is_empty() { Ok(()) } else { read_facts(&Value::Object(facts.clone()).to_string()).map(drop) }
}

/// The words of a scope that are the user's, as far as their own token says.
fn theirs(asked: &str, user: &PresentedUser) -> String {
    match user.scope() {
        None => asked.to_owned(),
        Some(own) => {
            let words = asked.split(' ').filter(|word| own.split(' ').any(|own| own == *word));
            words.collect::<Vec<_>>().join(" ")
        }
    }
}

impl<S, B> tower_service::Service<Request<B>> for AtEdge<S>
where
    S: tower_service::Service<Request<B>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = EdgeFuture<S::Future, S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.layer.strip(&mut request);
        let looking = self.layer.look_up(&request);
        let wanted = if looking.is_some() { None } else { self.layer.wanted(&request) };
        if looking.is_none() && wanted.is_none() {
            return EdgeFuture::Straight { inner: self.inner.call(request) };
        }
        // The one that is ready goes with the request.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        EdgeFuture::Exchanging {
            inner: Box::pin(async move {
                let wanted = match looking {
                    Some(looking) => {
                        looking.await;
                        layer.wanted(&request)
                    }
                    None => wanted,
                };
                if let Some((user, wanted)) = wanted {
                    let exchanged = layer.exchange(user, wanted).await;
                    request.extensions_mut().insert(exchanged);
                }
                inner.call(request).await
            }),
        }
    }
}

type Boxed<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

pin_project! {
    /// The answer of a service [`AtEdge`].
    #[project = Projected]
    #[allow(missing_docs, missing_debug_implementations)]
    pub enum EdgeFuture<F, R, E> {
        Straight { #[pin] inner: F },
        Exchanging { inner: Boxed<R, E> },
    }
}

impl<F, R, E> Future for EdgeFuture<F, R, E>
where
    F: Future<Output = Result<R, E>>,
{
    type Output = Result<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Straight { inner } => inner.poll(cx),
            Projected::Exchanging { inner } => inner.as_mut().poll(cx),
        }
    }
}
