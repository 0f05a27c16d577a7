//! The authorization layer for hyper services, axum routers and tonic services.
//!
//! [`AuthorizationLayer`] decides on each request before the service inside sees it. What is allowed carries the
//! [`Caller`](crate::caller::Caller), the [`OnBehalfOf`](crate::on_behalf_of::OnBehalfOf) if there is one, and the [`Grant`] in its extensions; what is refused is answered without a word about why.
//!
//! Two parsers must not see two requests (T-27): odd paths, methods and hosts are refused before a rule is looked at, and whether a
//! request is a gRPC call is a matter of which services were declared, never of what the request says of itself.
//!
//! A server that users call, or that is called with users' own tokens, is at the edge of the trust domain: see [`edge`].

#[cfg(feature = "axum")]
mod axum;
mod body;
#[cfg(feature = "axum")]
mod declared;
#[cfg(all(feature = "jwt", feature = "tokio"))]
pub mod edge;
mod grant;
#[cfg(feature = "tokio")]
pub mod propagate;
mod refusal;
mod request;
#[cfg(test)]
mod tests;
mod upgrade;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::ALLOW};
use http_body::Body;
use pin_project_lite::pin_project;

#[cfg(feature = "tonic")]
pub use self::axum::DescriptorError;
#[cfg(feature = "axum")]
pub use self::axum::{Protected, RequireUser, RouteReport, Routes};
pub use self::{body::GuardedBody, grant::Grant};
use self::{
    body::Watch,
    refusal::Challenge,
    request::{Decided, Seen},
    upgrade::Upgrade,
};
use crate::authorization::{Authorization, Refusal};

/// Puts a service behind an [`Authorization`]. Works for any tower service over [`http::Request`].
#[derive(Clone, Debug)]
pub struct AuthorizationLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    authorization: Authorization,
    grpc: Vec<GrpcService>,
    /// The routes inside, where they were declared.
    #[cfg(feature = "axum")]
    declared: Option<declared::Declared>,
}

impl Shared {
    /// What whoever is refused could prove itself with.
    fn challenge(&self) -> Challenge {
        Challenge::of(self.authorization.authenticators())
    }
}

/// A gRPC service inside.
#[derive(Clone, Debug)]
struct GrpcService {
    /// `package.Service`.
    name: String,
    /// Its methods, where they are known.
    methods: Option<Vec<String>>,
}

impl AuthorizationLayer {
    /// For a service that speaks HTTP and no gRPC.
    #[must_use]
    pub fn new(authorization: Authorization) -> Self {
        Self::with_grpc(authorization, [] as [String; 0])
    }

    /// For a service with these gRPC services, by their full names (`package.Service`). Requests to them are decided as gRPC calls whatever
    /// they say of themselves, all others as plain HTTP.
    #[must_use]
    pub fn with_grpc(authorization: Authorization, services: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let grpc = services.into_iter().map(|name| GrpcService { name: name.into(), methods: None }).collect();
        let shared = Shared {
            authorization,
            grpc,
            #[cfg(feature = "axum")]
            declared: None,
        };
        Self { shared: Arc::new(shared) }
    }
}

impl<S> tower_layer::Layer<S> for AuthorizationLayer {
    type Service = Authorized<S>;

    fn layer(&self, inner: S) -> Authorized<S> {
        Authorized { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service behind an [`AuthorizationLayer`].
#[derive(Clone, Debug)]
pub struct Authorized<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B, R> tower_service::Service<Request<B>> for Authorized<S>
where
    S: tower_service::Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    B: Send + 'static,
    R: Body<Data = Bytes> + Unpin,
{
    type Response = Response<GuardedBody<R>>;
    type Error = S::Error;
    type Future = AuthorizedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match look_up(&self.shared, &request) {
            None => decided(&self.shared, &mut self.inner, request),
            Some(looking) => {
                // The one that was found ready is the one that is called.
                let next = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, next);
                let shared = Arc::clone(&self.shared);
                let then = Box::new(move || decided(&shared, &mut inner, request));
                AuthorizedFuture::Waiting { looking, then: Some(then) }
            }
        }
    }
}

fn decided<S, B>(shared: &Arc<Shared>, inner: &mut S, mut request: Request<B>) -> AuthorizedFuture<S::Future>
where
    S: tower_service::Service<Request<B>>,
{
    let upgrade = Upgrade::of(&request);
    match request::decide(shared, &request) {
        Decided::Granted(grant) => {
            request.extensions_mut().insert(grant.caller().clone());
            if let Some(on_behalf_of) = grant.on_behalf_of() {
                request.extensions_mut().insert(on_behalf_of.clone());
            }
            request.extensions_mut().insert(grant.clone());
            let inner = grant.within(|| inner.call(request));
            AuthorizedFuture::Inside { inner, grant: Some(grant), upgrade }
        }
        Decided::Refused(refusal, seen) => {
            AuthorizedFuture::Refused { refusal, challenge: shared.challenge(), grpc: seen == Seen::Grpc }
        }
        Decided::LeftToRouter => {
            // Nobody's, should there be one.
            request.extensions_mut().remove::<Grant>();
            AuthorizedFuture::Inside { inner: inner.call(request), grant: None, upgrade }
        }
    }
}

/// What has to be found out before the request can be decided: by which key its transaction token, or its user's own, is verified, if it is a new one.
#[cfg(feature = "jwt")]
fn look_up<B>(shared: &Shared, request: &Request<B>) -> Option<LookUp> {
    shared.authorization.look_up(request.headers())
}

#[cfg(not(feature = "jwt"))]
fn look_up<B>(_: &Shared, _: &Request<B>) -> Option<LookUp> {
    None
}

type LookUp = Pin<Box<dyn Future<Output = ()> + Send>>;

pin_project! {
    /// The answer of an [`Authorized`] service.
    #[project = Projected]
    #[allow(missing_docs)]
    pub enum AuthorizedFuture<F> {
        Waiting { looking: LookUp, then: Option<Box<dyn FnOnce() -> AuthorizedFuture<F> + Send>> },
        Inside { #[pin] inner: F, grant: Option<Grant>, upgrade: Upgrade },
        Refused { refusal: Refusal, challenge: Challenge, grpc: bool },
    }
}

impl<F> fmt::Debug for AuthorizedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting { .. } => "AuthorizedFuture::Waiting(..)",
            Self::Inside { .. } => "AuthorizedFuture::Inside(..)",
            Self::Refused { .. } => "AuthorizedFuture::Refused(..)",
        })
    }
}

impl<F, R, E> Future for AuthorizedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes> + Unpin,
{
    type Output = Result<Response<GuardedBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Projected::Waiting { looking, then } = self.as_mut().project() {
            ready!(looking.as_mut().poll(cx));
            if let Some(then) = then.take() {
                let next = then();
                self.as_mut().set(next);
            }
        }
        match self.project() {
            // INVARIANT: what follows is decided at once, and waits for nothing more.
            Projected::Waiting { .. } => Poll::Pending,
            Projected::Inside { inner, grant, upgrade } => {
                let mut response = match grant {
                    Some(grant) => ready!(grant.within(|| inner.poll(cx)))?,
                    None => ready!(inner.poll(cx))?,
                };
                Poll::Ready(Ok(match grant.take() {
                    // The rule wanted facts and nobody gave any: what the handler did was not allowed by anything.
                    Some(grant) if grant.is_unanswered() => {
                        refusal::response(grant.forgotten(), Challenge::BEARER, grant.is_grpc())
                    }
                    Some(grant) => {
                        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                            upgrade.follow(grant.clone());
                        }
                        response.map(|body| GuardedBody::inside(body, Watch::new(grant)))
                    }
                    None => {
                        // A refusal, around which axum says which methods the route has: not for whoever is refused (trap 19).
                        response.headers_mut().remove(ALLOW);
                        response.map(GuardedBody::unwatched)
                    }
                }))
            }
            Projected::Refused { refusal, challenge, grpc } => {
                Poll::Ready(Ok(refusal::response(*refusal, *challenge, *grpc)))
            }
        }
    }
}
