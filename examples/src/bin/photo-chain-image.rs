//! The middle of the chain: whose image is whose. It acts for a user and does nothing without one, whoever calls.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Extension, Json,
    extract::{DefaultBodyLimit, Path},
    http::{Method as HttpMethod, StatusCode},
};
use bonafide_examples::{
    next::{Next, NextArguments, Upstream},
    service::{Connecting, Service, ServiceArguments},
};
use bonafide_verifier::{
    authenticate::Authenticators,
    http::{RequireUser, Routes},
    on_behalf_of::OnBehalfOf,
    policy::Method,
    serve::{ServeOptions, serve},
};
use bytes::Bytes;
use clap::Parser;
use serde_json::{Value, json};

/// Whose image is whose
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    service: ServiceArguments,
    /// The service that keeps the bytes
    #[command(flatten)]
    blob: NextArguments,
}

#[derive(Clone)]
struct Images {
    /// By user: name -> blob.
    albums: Arc<Mutex<HashMap<String, BTreeMap<String, String>>>>,
    blob: Next,
}

/// The most images of a user, and the most users.
const MOST: usize = 1000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let service = Service::start(arguments.service).await?;
    let domain = service.id.trust_domain().clone();
    let authenticators = Authenticators::builder(domain, service.identity.clone()).x509().build()?;
    let tokens = service.tokens().await?;
    let authorization =
        service.authorization(authenticators, |builder| builder.users(tokens.txn_tokens().clone())).await?;
    let images = Images { albums: Arc::default(), blob: Next::new(&service, &arguments.blob)? };
    let app = Routes::new(authorization)
        .route(Method::Get, "/v1/images", list)
        .route(Method::Get, "/v1/images/{name}", fetch)
        .route(Method::Put, "/v1/images/{name}", keep)
        .route(Method::Get, "/v1/usage", usage)
        .raw(|router| router.layer(Extension(images)).layer(DefaultBodyLimit::max(1 << 20)))
        .into_service();
    let (incoming, _) = service.listen(Connecting::Services).await?;
    serve(incoming, app, ServeOptions::default(), service.stop).await;
    Ok(())
}

async fn list(Extension(images): Extension<Images>, RequireUser(user): RequireUser) -> Json<Vec<String>> {
    Json(images.albums().get(user.sub()).into_iter().flat_map(BTreeMap::keys).cloned().collect())
}

async fn fetch(
    Extension(images): Extension<Images>,
    RequireUser(user): RequireUser,
    Path(name): Path<String>,
) -> Result<Bytes, Upstream> {
    is_about(&user, &name)?;
    // In the user's own album and in no other: there is no name by which to ask for somebody else's.
    let blob = images.albums().get(user.sub()).and_then(|album| album.get(&name)).cloned();
    let blob = blob.ok_or(Upstream::Answered(StatusCode::NOT_FOUND))?;
    images.blob.ask(HttpMethod::GET, &format!("/v1/blobs/{blob}"), Bytes::new()).await
}

async fn keep(
    Extension(images): Extension<Images>,
    RequireUser(user): RequireUser,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Upstream> {
    is_about(&user, &name)?;
    let kept: Value = images.blob.ask_json(HttpMethod::POST, "/v1/blobs", body).await?;
    let blob = kept.get("id").and_then(Value::as_str).ok_or(Upstream::NotUnderstood)?;
    let mut albums = images.albums();
    let full = albums.len() >= MOST && !albums.contains_key(user.sub());
    let album = albums.entry(user.sub().to_owned()).or_default();
    if full || album.len() >= MOST && !album.contains_key(&name) {
        return Err(Upstream::Answered(StatusCode::INSUFFICIENT_STORAGE));
    }
    album.insert(name, blob.to_owned());
    // What the edge has said of the transaction comes this far.
    Ok(Json(json!({ "images": album.len(), "about": user.tctx().get("photo"), "from": user.rctx().get("req_ip") })))
}

/// Where the edge has said what the transaction is about, it is about nothing else.
fn is_about(user: &OnBehalfOf, name: &str) -> Result<(), Upstream> {
    match user.tctx().get("photo") {
        Some(photo) if photo != name => Err(Upstream::Answered(StatusCode::FORBIDDEN)),
        Some(_) | None => Ok(()),
    }
}

/// Numbers, of nobody in particular: asked for by a service in its own name.
async fn usage(Extension(images): Extension<Images>) -> Result<Json<Value>, Upstream> {
    let mut usage: Value = images.blob.ask_json(HttpMethod::GET, "/v1/usage", Bytes::new()).await?;
    if let Some(usage) = usage.as_object_mut() {
        usage.insert("images".to_owned(), images.albums().values().map(BTreeMap::len).sum::<usize>().into());
    }
    Ok(Json(usage))
}

impl Images {
    fn albums(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<String, String>>> {
        self.albums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
