//! What a request that goes on carries along.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, uri::PathAndQuery};

use super::{
    Shared,
    request::{recorded_grpc, recorded_http},
};
use crate::{
    authorization::{Granted, Refusal, Refused},
    caller::Caller,
    on_behalf_of::OnBehalfOf,
    policy::{CanonicalPath, Facts, Method, Operation, User},
    record::RecordedOperation,
};

/// A request's permission, in its extensions. A handler asks it again with what it knows of the thing that the request is about, and
/// about actions of the program's own. Cheap to clone; clones are the same.
#[derive(Clone)]
// Not behind a pointer of its own: that would be one more allocation for each request.
pub struct Grant {
    shared: Arc<Shared>,
    granted: Granted,
    asked: Asked,
    /// Whether the handler asked, where a rule waits for that.
    answered: Option<Arc<AtomicBool>>,
}

/// What was asked for, without what the request carries. Each request has one, and it is cloned: it holds as little as it can.
#[derive(Clone)]
pub(super) struct Asked {
    method: Option<Method>,
    /// None where the request names no path.
    target: Option<PathAndQuery>,
    route: Route,
}

#[derive(Clone)]
enum Route {
    /// Not known: a service without routes, or none that fits.
    None,
    /// One of the layer's gRPC services.
    Grpc(usize),
    /// One of the layer's declared routes.
    #[cfg(feature = "axum")]
    Declared(usize),
    /// As the router around the layer has found it.
    #[cfg(feature = "axum")]
    Matched(::axum::extract::MatchedPath),
}

/// Where a request goes.
#[cfg_attr(not(feature = "axum"), allow(dead_code, reason = "without a router no routes are declared"))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Routes are not declared, or it is a gRPC call.
    Anywhere,
    /// To a declared route; most likely it has no other methods than those that were declared.
    Declared { takes_method: bool },
    /// To no declared route, and there is no other. The router may have a fallback.
    Nowhere,
    /// To no declared route, but there may be others.
    Unknown,
}

/// As in a record, without the path and its query.
impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("granted", &self.granted)
            .field("operation", &self.recorded())
            .finish_non_exhaustive()
    }
}

impl Asked {
    /// By the layer's own tables; else as a router around the layer has found.
    pub(super) fn new<B>(shared: &Shared, request: &Request<B>) -> Self {
        Self::with(shared, request, |asked| Route::of(shared, request, asked.path()))
    }

    /// As the router has found it, whatever was declared.
    #[cfg(feature = "axum")]
    pub(super) fn at_route_of<B>(shared: &Shared, request: &Request<B>) -> Self {
        Self::with(shared, request, |_| Route::matched(request))
    }

    fn with<B>(shared: &Shared, request: &Request<B>, route: impl FnOnce(&Self) -> Route) -> Self {
        let method = Method::parse(request.method().as_str());
        let mut asked = Self { method, target: request.uri().path_and_query().cloned(), route: Route::None };
        asked.route = asked.grpc_service(shared).map_or_else(|| route(&asked), Route::Grpc);
        asked
    }

    /// `/package.Service/Method`, of one of the services.
    fn grpc_service(&self, shared: &Shared) -> Option<usize> {
        if shared.grpc.is_empty() {
            return None;
        }
        let (service, _) = self.grpc_parts()?;
        shared.grpc.iter().position(|known| known.name == service)
    }

    fn grpc_parts(&self) -> Option<(&str, &str)> {
        self.path().strip_prefix('/')?.split_once('/')
    }

    pub(super) fn method(&self) -> Option<Method> {
        self.method
    }

    pub(super) fn path(&self) -> &str {
        self.target.as_ref().map_or("", PathAndQuery::path)
    }

    pub(super) fn is_grpc(&self) -> bool {
        matches!(self.route, Route::Grpc(_))
    }

    /// Whether a route was found.
    #[cfg(feature = "axum")]
    pub(super) fn has_route(&self) -> bool {
        !matches!(self.route, Route::None)
    }

    /// Whether the router has found the same route.
    #[cfg(feature = "axum")]
    pub(super) fn is_at(&self, shared: &Shared, template: &str) -> bool {
        match &self.route {
            Route::None => false,
            Route::Grpc(service) => {
                let rest = template.strip_prefix('/').and_then(|template| template.strip_suffix("/{*method}"));
                shared.grpc.get(*service).is_some_and(|service| rest == Some(&service.name))
            }
            Route::Declared(route) => shared.declared.as_ref().is_some_and(|all| all.template(*route) == template),
            Route::Matched(matched) => matched.as_str() == template,
        }
    }

    pub(super) fn place(&self, shared: &Shared) -> Place {
        #[cfg(feature = "axum")]
        if let Some(declared) = &shared.declared {
            return match (&self.route, self.method) {
                (Route::Grpc(_), _) => Place::Anywhere,
                (Route::Declared(route), Some(method)) => {
                    Place::Declared { takes_method: declared.has(*route, method) }
                }
                (Route::Declared(_), None) => Place::Declared { takes_method: false },
                (Route::None | Route::Matched(_), _) if declared.is_open() => Place::Unknown,
                (Route::None | Route::Matched(_), _) => Place::Nowhere,
            };
        }
        let _ = shared;
        Place::Anywhere
    }

    /// By names that were declared, never by a stranger's own words.
    pub(super) fn recorded<'a>(&'a self, shared: &'a Shared) -> RecordedOperation<'a> {
        let http = |route| recorded_http(self.method, route);
        match &self.route {
            Route::None => http(""),
            Route::Grpc(service) => match (shared.grpc.get(*service), self.grpc_parts()) {
                (Some(service), Some((_, method))) => recorded_grpc(service, method),
                (None, _) | (_, None) => http(""),
            },
            #[cfg(feature = "axum")]
            Route::Declared(route) => http(shared.declared.as_ref().map_or("", |all| all.template(*route))),
            #[cfg(feature = "axum")]
            Route::Matched(matched) => http(matched.as_str()),
        }
    }

    /// What is decided on; none if its method is unknown or its path odd.
    pub(super) fn operation<'a>(&'a self, shared: &'a Shared) -> Option<Operation<'a>> {
        Some(self.operation_of(shared, self.method?, CanonicalPath::parse(self.path()).ok()?))
    }

    /// The same by its method and path, which were read already.
    pub(super) fn operation_of<'a>(
        &'a self,
        shared: &'a Shared,
        method: Method,
        path: CanonicalPath<'a>,
    ) -> Operation<'a> {
        if let Route::Grpc(service) = self.route
            && let (Some(service), Some((_, method))) = (shared.grpc.get(service), self.grpc_parts())
        {
            Operation::Grpc { service: &service.name, method }
        } else {
            Operation::Http { method, path }
        }
    }
}

impl Route {
    #[cfg(feature = "axum")]
    fn of<B>(shared: &Shared, request: &Request<B>, path: &str) -> Self {
        match &shared.declared {
            Some(declared) => declared.find(path).map_or(Self::None, Self::Declared),
            None => Self::matched(request),
        }
    }

    #[cfg(not(feature = "axum"))]
    fn of<B>(_: &Shared, _: &Request<B>, _: &str) -> Self {
        Self::None
    }

    #[cfg(feature = "axum")]
    fn matched<B>(request: &Request<B>) -> Self {
        let matched = request.extensions().get::<::axum::extract::MatchedPath>();
        matched.map_or(Self::None, |path| Self::Matched(path.clone()))
    }
}

impl Grant {
    /// How often a permission that lasts is looked at.
    pub const PERIOD: Duration = Duration::from_secs(10);

    pub(super) fn new(shared: Arc<Shared>, granted: Granted, asked: Asked) -> Self {
        let answered = granted.waits_for_facts.then(Arc::default);
        Self { shared, granted, asked, answered }
    }

    fn recorded(&self) -> RecordedOperation<'_> {
        self.asked.recorded(&self.shared)
    }

    /// Whether it is for the route that the router has found.
    #[cfg(feature = "axum")]
    pub(super) fn is_at(&self, template: &str) -> bool {
        self.asked.is_at(&self.shared, template)
    }

    /// Who calls.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.granted.caller
    }

    /// On whose behalf, if a transaction token says so and the service looks at them.
    #[must_use]
    pub fn on_behalf_of(&self) -> Option<&OnBehalfOf> {
        self.granted.on_behalf_of.as_ref()
    }

    /// The user of the request, whichever credential says so: of its transaction token, or at an edge the one who calls or for whom a service calls.
    #[must_use]
    pub fn user(&self) -> Option<User<'_>> {
        self.granted.user(self.shared.authorization.clock().now())
    }

    /// On whose behalf, for a handler that does nothing without a transaction's user: at an edge that is one whose token was exchanged.
    ///
    /// # Errors
    /// When the request is not made for anybody; hand it on, it becomes the answer.
    pub fn require_user(&self) -> Result<&OnBehalfOf, Refused> {
        self.shared.authorization.require_user(&self.granted, self.recorded())
    }

    /// Asks again, with facts about the thing that the request is about. A rule whose condition speaks of `resource` waits for this: a handler
    /// that never asks answers 500.
    ///
    /// # Errors
    /// When the caller may not; hand it on, it becomes the answer.
    pub fn check(&self, facts: &Facts) -> Result<(), Refused> {
        if let Some(answered) = &self.answered {
            answered.store(true, Ordering::Release);
        }
        let Some(operation) = self.asked.operation(&self.shared) else {
            return Err(Refused { refusal: Refusal::Malformed, reason: "path" });
        };
        self.shared.authorization.authorize_with(&self.granted, operation, self.recorded(), facts)
    }

    /// Asks whether the caller may do something that no request names.
    ///
    /// # Errors
    /// When the caller may not; hand it on, it becomes the answer.
    pub fn check_action(&self, action: &str, resource: CanonicalPath<'_>, facts: &Facts) -> Result<(), Refused> {
        let recorded = RecordedOperation::App { action, resource: "" };
        let operation = Operation::App { action, resource };
        self.shared.authorization.authorize_with(&self.granted, operation, recorded, facts)
    }

    /// Waits until the permission is gone: the caller's credential has ended, or the policy of the day says another thing. It is looked at
    /// every [`Grant::PERIOD`] and at the credential's end. The answer's body is followed by the layer, and so is a connection of
    /// [`serve`](crate::serve::serve()) that a handler takes over (a WebSocket); under another server loop the handler ends it when this
    /// returns. May be dropped at any time.
    pub async fn ended(&self) {
        self.shared.authorization.until_ended(&self.granted, Self::PERIOD, || self.still_holds()).await;
    }

    /// Runs a step of the request in the context of its user ([`super::propagate`]). A service that does not look at users has no context, and a request
    /// whose user was not exchanged for a transaction token has none either: a call onward then fails, rather than losing the user.
    pub(super) fn within<T>(&self, step: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tokio")]
        if self.shared.authorization.knows_users()
            && (self.on_behalf_of().is_some() || self.caller().presented_user().is_none())
        {
            return super::propagate::sync_within(self.on_behalf_of().cloned(), step);
        }
        step()
    }

    /// Whether a rule waited for facts and the handler gave none.
    pub(super) fn is_unanswered(&self) -> bool {
        self.answered.as_ref().is_some_and(|answered| !answered.load(Ordering::Acquire))
    }

    /// The handler's mistake, recorded.
    pub(super) fn forgotten(&self) -> Refusal {
        let at = self.shared.authorization.clock().now();
        let refused =
            self.shared.authorization.refuse_undecided(at, self.recorded(), Refusal::Broken, "second-stage-not-asked");
        tracing::error!(operation = %self.recorded(), "a rule waits for facts and the handler gave none; call `Grant::check`");
        refused.refusal
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.asked.is_grpc()
    }

    /// Whether it still holds, for what lasts.
    pub(super) fn still_holds(&self) -> bool {
        self.asked.operation(&self.shared).is_some_and(|operation| {
            self.shared.authorization.still_granted(&self.granted, operation, self.recorded()).is_ok()
        })
    }
}
