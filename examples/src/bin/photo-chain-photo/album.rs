//! The page of somebody who has signed in: their photos, as descriptions, and a form for one more.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Form,
    http::{Method as HttpMethod, StatusCode},
    response::{Html, IntoResponse, Redirect, Response},
};
use bonafide_examples::{
    next::{Next, Upstream},
    sign_in::Session,
};
use bonafide_verifier::{http::Routes, policy::Method};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// Where the pages are.
pub(crate) const PAGES: &str = "/album";
/// The most photos on a page.
const MOST: usize = 100;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route(Method::Get, "/album", show).route(Method::Post, "/album", keep)
}

#[derive(Template)]
#[template(path = "album.html")]
struct Page<'p> {
    user: &'p str,
    csrf: &'p str,
    /// Name and description.
    photos: &'p [(String, String)],
}

async fn show(
    Extension(image): Extension<Next>,
    Extension(session): Extension<Arc<Session>>,
) -> Result<Response, Upstream> {
    let names: Value = image.ask_json(HttpMethod::GET, "/v1/images", Bytes::new()).await?;
    let mut photos = Vec::new();
    for name in names.as_array().into_iter().flatten().filter_map(Value::as_str).take(MOST) {
        let photo = image.ask(HttpMethod::GET, &format!("/v1/images/{name}"), Bytes::new()).await?;
        photos.push((name.to_owned(), String::from_utf8_lossy(&photo).into_owned()));
    }
    let user = session.user().user();
    let page = Page { user: user.as_str(), csrf: session.csrf_token(), photos: &photos };
    Ok(match page.render() {
        Ok(page) => Html(page).into_response(),
        Err(error) => {
            tracing::error!(%error, "the page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPhoto {
    csrf: String,
    name: String,
    photo: String,
}

async fn keep(
    Extension(image): Extension<Next>,
    Extension(session): Extension<Arc<Session>>,
    Form(new): Form<NewPhoto>,
) -> Result<Response, Upstream> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !session.is_own_form(&new.csrf) || !(1..=64).contains(&new.name.len()) || !new.name.bytes().all(plain) {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    }
    image.ask(HttpMethod::PUT, &format!("/v1/images/{}", new.name), Bytes::from(new.photo)).await?;
    Ok(Redirect::to(PAGES).into_response())
}
