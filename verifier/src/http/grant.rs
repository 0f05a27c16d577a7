//! What a request that goes on carries along.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Uri};

use super::{
    GrpcService, Shared,
    request::{grpc_call, recorded_grpc, recorded_http},
};
use crate::{
    authorization::{Authorization, Granted, Refusal, Refused},
    caller::Caller,
    on_behalf_of::OnBehalfOf,
    policy::{CanonicalPath, Facts, Method, Operation, User},
    record::RecordedOperation,
};

/// A request's permission, in its extensions. A handler asks it again with what it knows of the thing that the request is about, and
/// about actions of the program's own. Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
// Not behind a pointer of its own: that would be one more allocation for each request.
pub struct Grant {
    authorization: Authorization,
    granted: Granted,
    asked: Asked,
    /// Whether the handler asked, where a rule waits for that.
    answered: Option<Arc<AtomicBool>>,
}

/// What was asked for, without what the request carries.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    method: Option<Method>,
    uri: Uri,
    route: Route,
    services: Arc<[GrpcService]>,
}

#[derive(Clone, Debug)]
enum Route {
    /// Not known: a service without routes, or none that fits.
    None,
    #[cfg(feature = "axum")]
    Matched(::axum::extract::MatchedPath),
}

/// What a router has, or may have, without anybody having declared it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Undeclared {
    /// A whole route.
    Route,
    /// A method of a declared route; most likely one that it does not have.
    Method,
    /// A path that no route has; most likely there is nothing, but it could be a fallback or a service of its own.
    Fallback,
}

impl Asked {
    pub(super) fn new<B>(shared: &Shared, request: &Request<B>) -> Self {
        #[cfg(feature = "axum")]
        let route = request
            .extensions()
            .get::<::axum::extract::MatchedPath>()
            .map_or(Route::None, |path| Route::Matched(path.clone()));
        #[cfg(not(feature = "axum"))]
        let route = Route::None;
        Self {
            method: Method::parse(request.method().as_str()),
            uri: request.uri().clone(),
            route,
            services: Arc::clone(&shared.grpc),
        }
    }

    pub(super) fn grpc(&self) -> Option<(&GrpcService, &str)> {
        grpc_call(&self.uri, &self.services)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.grpc().is_some()
    }

    fn route(&self) -> &str {
        match &self.route {
            Route::None => "",
            #[cfg(feature = "axum")]
            Route::Matched(path) => path.as_str(),
        }
    }

    /// What of the router was not declared, if anything.
    pub(super) fn undeclared(&self, shared: &Shared, method: Method) -> Option<Undeclared> {
        let declared = shared.declared.as_ref().filter(|_| !self.is_grpc())?;
        if self.route().is_empty() {
            return Some(Undeclared::Fallback);
        }
        let method = if method == Method::Head { Method::Get } else { method };
        let mut methods = declared.iter().filter(|(_, template)| template == self.route()).map(|(method, _)| *method);
        match methods.next() {
            None => Some(Undeclared::Route),
            Some(first) if first == method || methods.any(|other| other == method) => None,
            Some(_) => Some(Undeclared::Method),
        }
    }

    pub(super) fn recorded(&self) -> RecordedOperation<'_> {
        match self.grpc() {
            Some((service, method)) => recorded_grpc(service, method),
            None => recorded_http(self.method, self.route()),
        }
    }

    fn operation(&self) -> Option<Operation<'_>> {
        match self.grpc() {
            Some((service, method)) => Some(Operation::Grpc { service: &service.name, method }),
            None => Some(Operation::Http { method: self.method?, path: CanonicalPath::parse(self.uri.path()).ok()? }),
        }
    }
}

impl Grant {
    /// How often a permission that lasts is looked at.
    pub const PERIOD: Duration = Duration::from_secs(10);

    pub(super) fn new(authorization: Authorization, granted: Granted, asked: Asked) -> Self {
        let answered = granted.waits_for_facts.then(Arc::default);
        Self { authorization, granted, asked, answered }
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
        self.granted.user(self.authorization.clock().now())
    }

    /// On whose behalf, for a handler that does nothing without a transaction's user: at an edge that is one whose token was exchanged.
    ///
    /// # Errors
    /// When the request is not made for anybody; hand it on, it becomes the answer.
    pub fn require_user(&self) -> Result<&OnBehalfOf, Refused> {
        self.authorization.require_user(&self.granted, self.asked.recorded())
    }

    /// Asks again, with facts about the thing that the request is about. A rule whose condition speaks of `resource` waits for this: a handler
    /// that never asks answers 500.
    ///
    /// # Errors
    /// When the caller may not; hand it on, it becomes the answer.
    pub fn check(&self, facts: &Facts) -> Result<(), Refused> {
        let asked = &self.asked;
        if let Some(answered) = &self.answered {
            answered.store(true, Ordering::Release);
        }
        let Some(operation) = asked.operation() else {
            return Err(Refused { refusal: Refusal::Malformed, reason: "path" });
        };
        self.authorization.authorize_with(&self.granted, operation, asked.recorded(), facts)
    }

    /// Asks whether the caller may do something that no request names.
    ///
    /// # Errors
    /// When the caller may not; hand it on, it becomes the answer.
    pub fn check_action(&self, action: &str, resource: CanonicalPath<'_>, facts: &Facts) -> Result<(), Refused> {
        let recorded = RecordedOperation::App { action, resource: "" };
        let operation = Operation::App { action, resource };
        self.authorization.authorize_with(&self.granted, operation, recorded, facts)
    }

    /// Waits until the permission is gone: the caller's credential has ended, or the policy of the day says another thing. It is looked at
    /// every [`Grant::PERIOD`] and at the credential's end. The answer's body is followed by the layer, and so is a connection of
    /// [`serve`](crate::serve::serve()) that a handler takes over (a WebSocket); under another server loop the handler ends it when this
    /// returns. May be dropped at any time.
    pub async fn ended(&self) {
        self.authorization.until_ended(&self.granted, Self::PERIOD, || self.still_holds()).await;
    }

    /// Runs a step of the request in the context of its user ([`super::propagate`]). A service that does not look at users has no context, and a request
    /// whose user was not exchanged for a transaction token has none either: a call onward then fails, rather than losing the user.
    pub(super) fn within<T>(&self, step: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tokio")]
        if self.authorization.knows_users()
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
        let at = self.authorization.clock().now();
        let refused =
            self.authorization.refuse_undecided(at, self.asked.recorded(), Refusal::Broken, "second-stage-not-asked");
        tracing::error!(operation = %self.asked.recorded(), "a rule waits for facts and the handler gave none; call `Grant::check`");
        refused.refusal
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.asked.is_grpc()
    }

    /// Whether it still holds, for what lasts.
    pub(super) fn still_holds(&self) -> bool {
        let asked = &self.asked;
        asked.operation().is_some_and(|operation| {
            self.authorization.still_granted(&self.granted, operation, asked.recorded()).is_ok()
        })
    }
}
