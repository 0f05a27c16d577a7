//! Whom a request is made for, carried from the request that came in to those that go out because of it.
//!
//! The [`AuthorizationLayer`](super::AuthorizationLayer) of a service that looks at transaction tokens
//! ([`Builder::users`](crate::authorization::Builder::users)) runs each request in a context that knows the user; a [`UserClient`] puts the
//! token of that context on what it sends, unchanged. The context is the task's: what is spawned leaves it, unless it is spawned with
//! [`spawn`]. A call outside of any context fails, so that a user who got lost is noticed at the place where that happened.
//!
//! ```
//! use bonafide_verifier::http::propagate;
//!
//! # async fn handler() {
//! // Goes on for the user of the request.
//! propagate::spawn(async { /* calls other services */ });
//! // A job of the service's own, for no user.
//! tokio::spawn(propagate::for_nobody(async { /* calls other services */ }));
//! # }
//! ```

#[cfg(feature = "connect")]
mod client;
#[cfg(test)]
#[cfg(all(feature = "jwt", feature = "axum", feature = "serve", feature = "connect"))]
mod tests;

use std::{future::Future, pin::Pin};

use tokio::task::{JoinHandle, futures::TaskLocalFuture};

#[cfg(feature = "connect")]
pub use self::client::{HttpClient, NotSent, UserClient, UserClientError};
use crate::on_behalf_of::OnBehalfOf;

tokio::task_local! {
    static CURRENT: Option<OnBehalfOf>;
}

/// A future in the context of a user, or of nobody.
pub type Within<F> = TaskLocalFuture<Option<OnBehalfOf>, F>;

/// There is no context: nobody can tell whether there was a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "this is outside of any request, so a user could have been lost; spawn with `propagate::spawn` what goes on for a request, and run \
     in `propagate::for_nobody` what is for no user"
)]
pub struct NoContext;

/// For whom the present request is made, if for anybody.
///
/// # Errors
/// Outside of any context.
pub fn current() -> Result<Option<OnBehalfOf>, NoContext> {
    CURRENT.try_with(Clone::clone).map_err(|_| NoContext)
}

/// Runs `future` for this user, or for nobody.
pub fn within<F: Future>(on_behalf_of: Option<OnBehalfOf>, future: F) -> Within<F> {
    CURRENT.scope(on_behalf_of, future)
}

/// Runs `future` for nobody: what a service does of its own accord.
pub fn for_nobody<F: Future>(future: F) -> Within<F> {
    within(None, future)
}

/// Takes the present context along, wherever `future` is run. Outside of any it changes nothing: calls in it fail.
pub fn carried<F>(future: F) -> Pin<Box<dyn Future<Output = F::Output> + Send>>
where
    F: Future + Send + 'static,
{
    match current() {
        Ok(on_behalf_of) => Box::pin(within(on_behalf_of, future)),
        Err(NoContext) => Box::pin(future),
    }
}

/// Spawns a task that goes on in the present context.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    tokio::spawn(carried(future))
}

/// Runs `function` for this user, or for nobody.
pub(super) fn sync_within<T>(on_behalf_of: Option<OnBehalfOf>, function: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(on_behalf_of, function)
}
