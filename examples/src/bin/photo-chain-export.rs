//! A nightly job: calls photo in its own name, for nobody. It may count, and may not look.

use std::time::Duration;

use anyhow::Context;
use axum::http::{Request, StatusCode};
use bonafide_verifier::{
    clock::SystemClock,
    identity::{Identity, workload_api::WorkloadApi},
    spiffe::SpiffeId,
    tls::{Connector, ConnectorOptions, PeerSet},
};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// Counts photos, and finds out that it may not look at them
#[derive(Debug, Parser)]
struct Arguments {
    /// The address of photo
    #[arg(long, value_name = "URL")]
    photo: String,
    /// Who must answer there
    #[arg(long, value_name = "SPIFFE-ID", default_value = "spiffe://example.org/photo")]
    photo_id: SpiffeId,
    /// What to ask for
    #[arg(default_value = "/v1/usage")]
    path: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let identity = Identity::spawn(&WorkloadApi::from_env()?, std::sync::Arc::new(SystemClock));
    identity.ready(Duration::from_secs(30)).await?;
    let connector = Connector::new(&identity, PeerSet::id(arguments.photo_id), ConnectorOptions::default())?;
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(format!("{}{}", arguments.photo, arguments.path)).body(Full::<Bytes>::default())?;
    let answer =
        tokio::time::timeout(Duration::from_secs(20), client.request(request)).await.context("no answer")??;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), 1 << 20).collect().await.map_err(|error| anyhow::anyhow!(error))?;
    println!("{} {}", status.as_u16(), String::from_utf8_lossy(&body.to_bytes()));
    match status {
        StatusCode::OK => Ok(()),
        // As our own commands have it: 3 is "refused, and asking again does not help".
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => std::process::exit(3),
        _ => std::process::exit(1),
    }
}
