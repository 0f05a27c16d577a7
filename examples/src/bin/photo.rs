//! A service that others call: an axum application over mutual TLS with a SPIFFE identity. It links the verifier alone.
//!
//! `photo --caller spiffe://example.org/web [--listen 127.0.0.1:0]` answers the one caller that it is told to take, and
//! knows who that is. Its own identity comes from the agent that `SPIFFE_ENDPOINT_SOCKET` names, and is renewed while
//! it runs.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use axum::{Extension, Json, Router, extract::Path, routing::get};
use bonafide_verifier::{
    clock::SystemClock,
    identity::{Identity, workload_api::WorkloadApi},
    serve::{ServeOptions, TlsIncoming, serve},
    spiffe::SpiffeId,
    tls::{Acceptor, AcceptorOptions, Peer, PeerSet},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (caller, listen) = arguments()?;

    // Who we are: kept up to date by the task that this starts.
    let identity = Identity::spawn(&WorkloadApi::from_env()?, Arc::new(SystemClock));
    identity.ready(Duration::from_secs(30)).await?;

    // Whom we take: a certificate of anybody else does not get past the handshake.
    let acceptor = Acceptor::new(&identity, PeerSet::id(caller), AcceptorOptions::default())?;

    let app = Router::new().route("/photos/{number}", get(photo));
    let listener = TcpListener::bind(&listen).await.with_context(|| format!("listening on {listen}"))?;
    println!("ready listen={}", listener.local_addr()?);

    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    serve(TlsIncoming::new(listener, &acceptor), app, ServeOptions::default(), stop).await;
    Ok(())
}

/// The handler: `Peer` is in the extensions of every request, because nobody without an identity gets here.
async fn photo(Path(number): Path<u32>, Extension(peer): Extension<Peer>) -> Json<Value> {
    let Peer::Svid(caller) = peer else { return Json(json!({ "error": "a key is not an identity" })) };
    Json(json!({ "photo": number, "for": caller.id().as_str(), "until": caller.not_after().to_string() }))
}

fn arguments() -> anyhow::Result<(SpiffeId, String)> {
    let (mut caller, mut listen) = (None, "127.0.0.1:0".to_owned());
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--caller" => caller = Some(SpiffeId::parse(&value)?),
            "--listen" => listen = value,
            _ => bail!("unknown flag {flag}; known are --caller and --listen"),
        }
    }
    Ok((caller.context("--caller SPIFFE-ID is missing: whom shall this service take?")?, listen))
}

async fn stop_on_signal(stop: CancellationToken) {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    if let Ok(mut terminate) = terminate {
        tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        stop.cancel();
    }
}
