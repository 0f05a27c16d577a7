//! Routes that are declared, and what handlers take from a request.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use ::axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, MatchedPath, OptionalFromRequestParts, State},
    handler::Handler,
    http::{Request, Response, request::Parts},
    middleware::{Next, from_fn_with_state},
    response::IntoResponse,
    routing::{MethodFilter, on},
};

use super::{
    AuthorizationLayer, Authorized, Grant, GrpcService, GuardedBody, Shared,
    declared::Declared,
    refusal::{self, Challenge},
    request::{self, Seen},
};
use crate::{
    authorization::{Authorization, Refusal, Refused},
    caller::Caller,
    on_behalf_of::OnBehalfOf,
    policy::{Method, Mode, Policy, RuleEffect},
};

/// Routes that are declared one by one, so that the server can say at its start what there is and who may use it. Everything in it is
/// behind the authorization, also what [`Routes::raw`] adds; that is answered 500, so that nothing is served by oversight.
///
/// ```no_run
/// use axum::extract::Path;
/// use bonafide_verifier::{authorization::Authorization, caller::Caller, http::Routes, policy::Method};
///
/// async fn read(caller: Caller, Path(key): Path<String>) -> String {
///     format!("{} reads {key}", caller.id())
/// }
///
/// # fn of(authorization: Authorization) {
/// let service = Routes::new(authorization).route(Method::Get, "/v1/config/{key}", read).into_service();
/// print!("{}", service.start_report(["mutual TLS on [::]:8443"]));
/// # }
/// ```
pub struct Routes {
    authorization: Authorization,
    router: Router,
    declared: Declared,
    grpc: Vec<GrpcService>,
}

impl Routes {
    /// No route yet.
    #[must_use]
    pub fn new(authorization: Authorization) -> Self {
        Self { authorization, router: Router::new(), declared: Declared::default(), grpc: Vec::new() }
    }

    /// One more: a method, a template in axum's syntax, a handler. GET serves HEAD as well.
    #[must_use]
    pub fn route<H, T>(mut self, method: Method, template: &str, handler: H) -> Self
    where
        H: Handler<T, ()>,
        T: 'static,
    {
        let method = if method == Method::Head { Method::Get } else { method };
        self.router = self.router.route(template, on(filter(method), handler));
        self.declared.add(method, template);
        self
    }

    /// A route that tells who calls what, and with which kind of credential: an [`EdgesReport`](crate::record::EdgesReport). It needs a rule like
    /// any other.
    #[cfg(feature = "serve")]
    #[must_use]
    pub fn edges(mut self, template: &str) -> Self {
        let handler = crate::record::EdgesReport::new(self.authorization.edges());
        self.router = self.router.route_service(template, handler);
        self.declared.add(Method::Get, template);
        self
    }

    /// A gRPC service of tonic, with the descriptor set that was made beside it. Calls to it are decided as gRPC calls, whatever they say
    /// of themselves.
    ///
    /// # Errors
    /// When the set does not describe the service.
    #[cfg(feature = "tonic")]
    pub fn grpc<S>(mut self, service: S, descriptor_set: &[u8]) -> Result<Self, DescriptorError>
    where
        S: tower_service::Service<Request<Body>, Error = Infallible>
            + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        let methods = methods_of(S::NAME, descriptor_set)?;
        self.router = self.router.route_service(&format!("/{}/{{*method}}", S::NAME), service);
        self.grpc.push(GrpcService { name: S::NAME.to_owned(), methods: Some(methods) });
        Ok(self)
    }

    /// The router as axum knows it, for what has no place here (a body limit, a time-out). A route added here is not declared: it is
    /// answered 500, with a record that names it.
    #[must_use]
    pub fn raw(mut self, change: impl FnOnce(Router) -> Router) -> Self {
        self.router = change(self.router);
        self.declared.open();
        self
    }

    /// The whole thing, as a service.
    #[must_use]
    pub fn into_service(self) -> Protected {
        let shared = Shared { authorization: self.authorization, grpc: self.grpc, declared: Some(self.declared) };
        let layer = AuthorizationLayer { shared: Arc::new(shared) };
        let is_open = layer.shared.declared.as_ref().is_some_and(Declared::is_open);
        let router = if is_open {
            self.router.layer(from_fn_with_state(Arc::clone(&layer.shared), only_declared))
        } else {
            self.router
        };
        Protected { service: tower_layer::Layer::layer(&layer, router) }
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("declared", &self.declared).field("grpc", &self.grpc).finish_non_exhaustive()
    }
}

/// Routes behind their authorization. No route can be added to it.
#[derive(Clone, Debug)]
pub struct Protected {
    service: Authorized<Router>,
}

/// Inside a router that was changed by hand: what goes to another route than the one that was decided on is refused.
async fn only_declared(State(shared): State<Arc<Shared>>, request: Request<Body>, next: Next) -> Response<Body> {
    let route = request.extensions().get::<MatchedPath>();
    let grant = request.extensions().get::<Grant>();
    if grant.zip(route).is_some_and(|(grant, route)| grant.is_at(route.as_str())) {
        return next.run(request).await;
    }
    let (refusal, seen) = request::refuse_undeclared(&shared, &request);
    refusal::response::<Body>(refusal, shared.challenge(), seen == Seen::Grpc).map(Body::new)
}

/// A declared route, with the rules that can allow it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteReport {
    /// `GET /v1/config/{key}`, or `package.Service/Method`.
    pub route: String,
    /// The names of the allow rules that are enforced and cover it. None: nobody is ever allowed.
    pub rules: Vec<String>,
}

impl fmt::Display for RouteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            write!(f, "{}: no rule allows it", self.route)
        } else {
            write!(f, "{}: {}", self.route, self.rules.join(", "))
        }
    }
}

impl Protected {
    /// The same at the edge of the trust domain: see [`super::edge`].
    ///
    /// # Errors
    /// When the edge could not work.
    #[cfg(all(feature = "jwt", feature = "tokio"))]
    pub fn at_edge(self, edge: super::edge::Edge) -> Result<super::edge::AtEdge<Self>, super::edge::EdgeError> {
        let layer = AuthorizationLayer { shared: Arc::clone(&self.service.shared) }.at_edge(edge)?;
        Ok(tower_layer::Layer::layer(&layer, self))
    }

    /// Every declared route with the rules that can allow it by the policy of now.
    #[must_use]
    pub fn report(&self) -> Vec<RouteReport> {
        let shared = &self.service.shared;
        let policy = shared.authorization.policy();
        let rules = |covers: &dyn Fn(&crate::policy::RuleView<'_>) -> bool| -> Vec<String> {
            policy
                .iter()
                .flat_map(Policy::rules)
                .filter(|rule| rule.effect() == RuleEffect::Allow && rule.mode() == Mode::Enforce && covers(rule))
                .map(|rule| rule.name().to_owned())
                .collect()
        };
        let http = shared.declared.iter().flat_map(Declared::iter).map(|(method, template)| RouteReport {
            route: format!("{method} {template}"),
            rules: rules(&|rule| rule.covers_http(method, template)),
        });
        let grpc = shared
            .grpc
            .iter()
            .flat_map(|service| service.methods.iter().flatten().map(move |method| (service, method)));
        let grpc = grpc.map(|(service, method)| RouteReport {
            route: format!("{}/{method}", service.name),
            rules: rules(&|rule| rule.covers_grpc(&service.name, method)),
        });
        http.chain(grpc).collect()
    }
}

impl Protected {
    /// What a server says at its start, a line each: its listeners, as they are called here, and every declared route with the rules that can
    /// allow it.
    #[must_use]
    pub fn start_report(&self, listeners: impl IntoIterator<Item = impl fmt::Display>) -> String {
        let listeners = listeners.into_iter().map(|listener| format!("listener: {listener}\n"));
        let routes = self.report().into_iter().map(|route| format!("route: {route}\n"));
        listeners.chain(routes).collect()
    }
}

impl<B> tower_service::Service<Request<B>> for Protected
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<::axum::BoxError>,
{
    type Response = Response<GuardedBody<Body>>;
    type Error = Infallible;
    type Future = <Authorized<Router> as tower_service::Service<Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        tower_service::Service::<Request<B>>::poll_ready(&mut self.service, cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.service.call(request)
    }
}

/// A descriptor set that does not describe the service it was given for.
#[cfg(feature = "tonic")]
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the descriptor set does not describe `{service}`; give the one that was generated with it")]
pub struct DescriptorError {
    service: &'static str,
}

/// The methods of a service, as its descriptor says.
#[cfg(feature = "tonic")]
fn methods_of(service: &'static str, descriptor_set: &[u8]) -> Result<Vec<String>, DescriptorError> {
    use prost::Message;

    let missing = DescriptorError { service };
    let set = prost_types::FileDescriptorSet::decode(descriptor_set).map_err(|_| missing.clone())?;
    let found = set.file.into_iter().find_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().find(|found| {
            let name = found.name();
            service == if package.is_empty() { name.to_owned() } else { format!("{package}.{name}") }
        })
    });
    Ok(found.ok_or(missing)?.method.into_iter().map(|method| method.name().to_owned()).collect())
}

fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get | Method::Head => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
        Method::Options => MethodFilter::OPTIONS,
    }
}

/// Who calls. Outside of an [`AuthorizationLayer`] the request is answered 500: there is no caller to take.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        parts.extensions.get::<Self>().cloned().ok_or(NO_LAYER)
    }
}

/// Nobody, outside of an [`AuthorizationLayer`].
impl<S: Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// On whose behalf the request is made, if on anybody's.
impl<S: Sync> OptionalFromRequestParts<S> for OnBehalfOf {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Refused> {
        let grant = parts.extensions.get::<Grant>().ok_or(NO_LAYER)?;
        Ok(grant.on_behalf_of().cloned())
    }
}

/// On whose behalf the request is made, for a handler that does nothing without a transaction's user: without one it is answered 403, and that is recorded,
/// whatever the policy says. At an edge a user whose token was not exchanged is none: [`Caller::user`] and [`Grant::user`] know them.
///
/// ```
/// use bonafide_verifier::http::RequireUser;
///
/// async fn change(RequireUser(user): RequireUser) -> String {
///     format!("changed for {}", user.sub())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct RequireUser(pub OnBehalfOf);

impl<S: Sync> FromRequestParts<S> for RequireUser {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let grant = parts.extensions.get::<Grant>().ok_or(NO_LAYER)?;
        grant.require_user().cloned().map(Self)
    }
}

/// The permission, to ask again.
impl<S: Sync> FromRequestParts<S> for Grant {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        parts.extensions.get::<Self>().cloned().ok_or(NO_LAYER)
    }
}

const NO_LAYER: Refused = Refused { refusal: Refusal::Broken, reason: "no-authorization-layer" };

/// So that a handler hands on what [`Grant::check`] says with `?`.
impl IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        refusal::response::<Body>(self.refusal, Challenge::BEARER, false).map(Body::new)
    }
}
