//! What services and command lines use: JSON over HTTP, and server-sent events for those who watch.
//!
//! Nobody is authenticated or authorized here: a request that comes this far is allowed, and `Caller` says whose it is.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Json,
    extract::Path,
    http::StatusCode,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use bonafide_verifier::{
    authorization::Authorization, caller::Caller, clock::Clock, http::Routes, on_behalf_of::OnBehalfOf, policy::Method,
};
use serde::Deserialize;
use serde_json::json;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};

use crate::store::{Change, Name, Setting, State, Store, StoreError, Wanted};

/// What every handler works with.
#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<dyn Clock>,
}

pub(crate) fn routes(authorization: Authorization) -> Routes {
    Routes::new(authorization)
        .route(Method::Get, "/v1/settings/{service}", state)
        .route(Method::Get, "/v1/settings/{service}/{name}", setting)
        .route(Method::Put, "/v1/settings/{service}/{name}", change)
        .route(Method::Get, "/v1/watch/{service}", watch)
        .route(Method::Get, "/v1/history/{service}", history)
}

async fn state(Extension(hub): Extension<Hub>, Path(service): Path<String>) -> Result<Json<State>, StoreError> {
    Ok(Json(State::clone(&hub.store.state(&Name::parse(&service)?))))
}

async fn setting(
    Extension(hub): Extension<Hub>,
    Path((service, name)): Path<(String, String)>,
) -> Result<Response, StoreError> {
    let (state, name) = (hub.store.state(&Name::parse(&service)?), Name::parse(&name)?);
    let found: Option<&Setting> = state.settings.get(name.as_str());
    Ok(found.map_or_else(|| problem(StatusCode::NOT_FOUND, "no such setting"), |found| Json(found).into_response()))
}

/// Its state at once, and again whenever it changes, until the caller's credential or permission ends.
async fn watch(
    Extension(hub): Extension<Hub>,
    Path(service): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, StoreError> {
    let states = WatchStream::new(hub.store.watch(&Name::parse(&service)?)?);
    let events = states.map(|state| {
        let event = Event::default().event("settings").id(state.version.to_string());
        // Texts and numbers: this is always JSON.
        Ok(event.json_data(&*state).unwrap_or_default())
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewValue {
    value: String,
    /// Changes nothing unless the setting is still of this version; 0 for one that is not there yet.
    seen: Option<u64>,
}

async fn change(
    Extension(hub): Extension<Hub>,
    caller: Caller,
    user: Option<OnBehalfOf>,
    Path((service, name)): Path<(String, String)>,
    Json(new): Json<NewValue>,
) -> Result<Json<Change>, StoreError> {
    hub.change(&caller, user.as_ref(), (&service, &name), new.value, new.seen).await.map(Json)
}

async fn history(Extension(hub): Extension<Hub>, Path(service): Path<String>) -> Result<Json<Vec<Change>>, StoreError> {
    hub.history(Some(Name::parse(&service)?)).await.map(Json)
}

impl Hub {
    /// Makes a change in the name of whoever asked for it: the user, where a service acts for one.
    pub(crate) async fn change(
        &self,
        caller: &Caller,
        user: Option<&OnBehalfOf>,
        (service, name): (&str, &str),
        value: String,
        seen: Option<u64>,
    ) -> Result<Change, StoreError> {
        let changed_by = match user {
            Some(user) => format!("{} by {}", user.sub(), caller.id()),
            None => caller.id().to_string(),
        };
        let wanted = Wanted {
            service: Name::parse(service)?,
            name: Name::parse(name)?,
            value,
            seen,
            changed_by,
            proof: caller.proof().kind.as_str(),
            at: self.clock.now(),
        };
        let store = Arc::clone(&self.store);
        blocking(move || store.change(wanted)).await
    }

    pub(crate) async fn history(&self, service: Option<Name>) -> Result<Vec<Change>, StoreError> {
        let store = Arc::clone(&self.store);
        blocking(move || store.history(service.as_ref())).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

impl StoreError {
    /// What the caller is told: its own mistakes in full, ours not.
    pub(crate) fn told(&self) -> (StatusCode, String) {
        match self {
            Self::Name { .. } | Self::TooLong { .. } => (StatusCode::BAD_REQUEST, self.to_string()),
            Self::ChangedMeanwhile { .. } => (StatusCode::CONFLICT, self.to_string()),
            Self::TooManySettings { .. } | Self::TooManyServices => {
                (StatusCode::INSUFFICIENT_STORAGE, self.to_string())
            }
            Self::Newer { .. } | Self::Database(_) => {
                tracing::error!(error = %self, "the store failed");
                (StatusCode::INTERNAL_SERVER_ERROR, "the store failed".to_owned())
            }
        }
    }
}

impl IntoResponse for StoreError {
    fn into_response(self) -> Response {
        let (status, detail) = self.told();
        problem(status, &detail)
    }
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let body = json!({ "type": "about:blank", "status": status.as_u16(), "detail": detail });
    (status, [("content-type", "application/problem+json")], body.to_string()).into_response()
}
