//! The last of the chain: keeps bytes under their hash, for whoever may. It does not ask for whom and need not; the transaction reaches it
//! nevertheless, and its records name it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Extension, Json,
    extract::{DefaultBodyLimit, Path},
    http::StatusCode,
};
use bonafide_examples::service::{Connecting, Service, ServiceArguments};
use bonafide_verifier::{
    authenticate::Authenticators,
    http::Routes,
    policy::Method,
    serve::{ServeOptions, serve},
};
use bytes::Bytes;
use clap::Parser;
use serde_json::{Value, json};

/// Keeps bytes under their hash
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    service: ServiceArguments,
}

/// The bytes, in memory: what this example is about is who may have them.
#[derive(Clone, Default)]
struct Blobs(Arc<Mutex<HashMap<String, Bytes>>>);

/// The most that are kept.
const MOST: usize = 10_000;
/// The largest.
const MAX_BYTES: usize = 1 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let service = Service::start(Arguments::parse().service).await?;
    let domain = service.id.trust_domain().clone();
    let authenticators = Authenticators::builder(domain, service.identity.clone()).x509().build()?;
    let tokens = service.tokens().await?;
    let authorization =
        service.authorization(authenticators, |builder| builder.users(tokens.txn_tokens().clone())).await?;
    let app = Routes::new(authorization)
        .route(Method::Post, "/v1/blobs", keep)
        .route(Method::Get, "/v1/blobs/{id}", fetch)
        .route(Method::Get, "/v1/usage", usage)
        .raw(|router| router.layer(Extension(Blobs::default())).layer(DefaultBodyLimit::max(MAX_BYTES)))
        .into_service();
    let (incoming, _) = service.listen(Connecting::Services).await?;
    serve(incoming, app, ServeOptions::default(), service.stop).await;
    Ok(())
}

async fn keep(Extension(blobs): Extension<Blobs>, body: Bytes) -> Result<Json<Value>, StatusCode> {
    let id: String = digest(&SHA256, &body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut kept = blobs.0.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() >= MOST && !kept.contains_key(&id) {
        return Err(StatusCode::INSUFFICIENT_STORAGE);
    }
    kept.insert(id.clone(), body);
    Ok(Json(json!({ "id": id })))
}

async fn fetch(Extension(blobs): Extension<Blobs>, Path(id): Path<String>) -> Result<Bytes, StatusCode> {
    let kept = blobs.0.lock().unwrap_or_else(PoisonError::into_inner);
    kept.get(&id).cloned().ok_or(StatusCode::NOT_FOUND)
}

async fn usage(Extension(blobs): Extension<Blobs>) -> Json<Value> {
    let kept = blobs.0.lock().unwrap_or_else(PoisonError::into_inner);
    Json(json!({ "blobs": kept.len(), "bytes": kept.values().map(Bytes::len).sum::<usize>() }))
}
