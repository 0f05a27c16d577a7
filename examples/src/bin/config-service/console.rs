//! The page on which people look at settings and change them: forms and nothing else, no script.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Form,
    extract::Path,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Redirect, Response},
};
use bonafide_examples::sign_in::Session;
use bonafide_verifier::{caller::Caller, http::Routes, policy::Method};
use serde::Deserialize;

use crate::{
    api::Hub,
    store::{Change, StoreError},
};

/// Where the pages are.
pub(crate) const PAGES: &str = "/console";

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route(Method::Get, "/console", show)
        .route(Method::Post, "/console", change_any)
        .route(Method::Post, "/console/{service}", change)
        .route(Method::Get, "/console/style.css", style)
}

#[derive(Template)]
#[template(path = "console.html")]
struct Page {
    user: String,
    csrf: String,
    notice: Option<String>,
    services: Vec<Service>,
    history: Vec<Change>,
}

struct Service {
    name: String,
    settings: Vec<Setting>,
}

struct Setting {
    name: String,
    value: String,
    version: u64,
}

async fn show(Extension(hub): Extension<Hub>, Extension(session): Extension<Arc<Session>>) -> Response {
    hub.page(&session, StatusCode::OK, None).await
}

async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css")], include_str!("../../../templates/console.css")).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewValue {
    csrf: String,
    #[serde(default)]
    service: String,
    name: String,
    value: String,
    seen: u64,
}

async fn change(
    hub: Extension<Hub>,
    session: Extension<Arc<Session>>,
    caller: Caller,
    Path(service): Path<String>,
    Form(new): Form<NewValue>,
) -> Response {
    change_any(hub, session, caller, Form(NewValue { service, ..new })).await
}

async fn change_any(
    Extension(hub): Extension<Hub>,
    Extension(session): Extension<Arc<Session>>,
    caller: Caller,
    Form(new): Form<NewValue>,
) -> Response {
    if !session.is_own_form(&new.csrf) {
        let notice = "That form was not from this page, so nothing was changed.".to_owned();
        return hub.page(&session, StatusCode::FORBIDDEN, Some(notice)).await;
    }
    match hub.change(&caller, None, (&new.service, &new.name), new.value, Some(new.seen)).await {
        // Back to the page, so that loading it again changes nothing again.
        Ok(_) => Redirect::to(PAGES).into_response(),
        Err(error) => {
            let (status, told) = error.told();
            hub.page(&session, status, Some(format!("Nothing was changed: {told}."))).await
        }
    }
}

impl Hub {
    async fn page(&self, session: &Session, status: StatusCode, notice: Option<String>) -> Response {
        let services = self.store.all().into_iter().filter(|(_, state)| !state.settings.is_empty());
        let services = services.map(|(name, state)| {
            let settings = state.settings.iter().map(|(name, setting)| Setting {
                name: name.clone(),
                value: setting.value.clone(),
                version: setting.version,
            });
            Service { name: name.to_string(), settings: settings.collect() }
        });
        let history = match self.history(None).await {
            Ok(history) => history,
            Err(error) => return StoreError::into_response(error),
        };
        let page = Page {
            user: session.user().user().to_string(),
            csrf: session.csrf_token().to_owned(),
            notice,
            services: services.collect(),
            history,
        };
        match page.render() {
            Ok(page) => (status, Html(page)).into_response(),
            Err(error) => {
                tracing::error!(%error, "the page could not be made");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}
