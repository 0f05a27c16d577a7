//! A service that calls another: plain HTTP in front, mutual TLS with a SPIFFE identity behind. It links the verifier
//! alone.
//!
//! `web --photos https://127.0.0.1:PORT --photo-id spiffe://example.org/photo [--listen 127.0.0.1:0]` answers each
//! request with a photo that it asks of `photo`, and talks to nobody else. Its identity comes from the agent that
//! `SPIFFE_ENDPOINT_SOCKET` names.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
    routing::get,
};
use bonafide_verifier::{
    clock::SystemClock,
    identity::{Identity, workload_api::WorkloadApi},
    spiffe::SpiffeId,
    tls::{Connector, ConnectorOptions, Peer, PeerSet},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tokio::net::TcpListener;

type Photos = Client<Connector, Empty<bytes::Bytes>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (photos, photo_id, listen) = arguments()?;

    // Who we are: kept up to date by the task that this starts.
    let identity = Identity::spawn(&WorkloadApi::from_env()?, Arc::new(SystemClock));
    identity.ready(Duration::from_secs(30)).await?;

    // Whom we expect: a server with another identity is refused in the handshake.
    let connector = Connector::new(&identity, PeerSet::id(photo_id), ConnectorOptions::default())?;
    let client: Photos = Client::builder(TokioExecutor::new()).build(connector);

    let app = Router::new().route("/", get(page)).with_state((client, photos));
    let listener = TcpListener::bind(&listen).await.with_context(|| format!("listening on {listen}"))?;
    println!("ready listen={}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn page(State((client, photos)): State<(Photos, String)>) -> (StatusCode, Json<Value>) {
    match tokio::time::timeout(Duration::from_secs(10), ask(&client, &photos)).await {
        Ok(Ok(photo)) => (StatusCode::OK, Json(photo)),
        Ok(Err(error)) => (StatusCode::BAD_GATEWAY, Json(json!({ "error": format!("{error:#}") }))),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, Json(json!({ "error": "no answer within 10 s" }))),
    }
}

async fn ask(client: &Photos, photos: &str) -> anyhow::Result<Value> {
    let photo: Uri = format!("{photos}/photos/1").parse()?;
    let answer = match client.get(photo.clone()).await {
        // A request can meet the word that its connection takes no more, which the HTTP library answers with an error. Asking twice
        // does no harm here; a service that changes something lets the caller decide.
        Err(error) if !error.is_connect() => client.get(photo).await?,
        answer => answer?,
    };
    let Some(Peer::Svid(server)) = answer.extensions().get::<Peer>().cloned() else { bail!("who was that?") };
    if answer.status() != StatusCode::OK {
        bail!("{} answered {}", server.id(), answer.status());
    }
    let body = Limited::new(answer.into_body(), 64 * 1024).collect().await.map_err(|error| anyhow::anyhow!(error))?;
    let mut photo: Value = serde_json::from_slice(&body.to_bytes())?;
    if let Some(photo) = photo.as_object_mut() {
        photo.insert("from".to_owned(), json!(server.id().as_str()));
    }
    Ok(photo)
}

fn arguments() -> anyhow::Result<(String, SpiffeId, String)> {
    let (mut photos, mut photo_id, mut listen) = (None, None, "127.0.0.1:0".to_owned());
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--photos" => photos = Some(value),
            "--photo-id" => photo_id = Some(SpiffeId::parse(&value)?),
            "--listen" => listen = value,
            _ => bail!("unknown flag {flag}; known are --photos, --photo-id and --listen"),
        }
    }
    let photos = photos.context("--photos URL is missing: where is the photo service?")?;
    Ok((photos, photo_id.context("--photo-id SPIFFE-ID is missing: who shall it be?")?, listen))
}
