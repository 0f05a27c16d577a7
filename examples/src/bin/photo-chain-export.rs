//! A nightly job: calls photo in its own name, for no user. It may count, and may not look.
//!
//! Each run is a transaction of its own, begun by what this service signs about itself; the records of all services behind name it. Its scope is what this
//! service is registered for, which no photo is shown for.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::http::{Request, StatusCode};
use bonafide_verifier::{
    agent_tokens::{AgentTokens, ExchangeRefused, WantedToken},
    clock::{Clock, SystemClock},
    http::propagate::{self, UserClient},
    identity::{Identity, workload_api::WorkloadApi},
    on_behalf_of::OnBehalfOf,
    spiffe::SpiffeId,
    tls::{Connector, ConnectorOptions, PeerSet},
};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full, Limited};
use tokio::time::timeout;

/// Counts photos, and finds out that it may not look at them
#[derive(Debug, Parser)]
struct Arguments {
    /// The address of photo
    #[arg(long, value_name = "URL")]
    photo: String,
    /// Who must answer there
    #[arg(long, value_name = "SPIFFE-ID", default_value = "spiffe://example.org/photo")]
    photo_id: SpiffeId,
    /// Begin no transaction: then nobody behind can tell what this was for
    #[arg(long)]
    no_transaction: bool,
    /// What to ask for
    #[arg(default_value = "/v1/usage")]
    path: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let api = WorkloadApi::from_env()?;
    let identity = Identity::spawn(&api, Arc::new(SystemClock));
    identity.ready(Duration::from_secs(30)).await?;
    let transaction = match arguments.no_transaction {
        true => None,
        false => Some(timeout(Duration::from_secs(60), begin(&api, &identity)).await.context("no transaction")??),
    };
    let connector = Connector::new(&identity, PeerSet::id(arguments.photo_id), ConnectorOptions::default())?;
    let client = UserClient::http(connector, &arguments.photo)?;
    let request = Request::get(format!("{}{}", arguments.photo, arguments.path)).body(Full::<Bytes>::default())?;
    let asked = propagate::within(transaction, client.request(request));
    let answer = timeout(Duration::from_secs(20), asked).await.context("no answer")?;
    let answer = answer.map_err(|error| anyhow::anyhow!(error))?;
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

/// Begins the transaction. The agent may be without its delegation for a moment, when it has just started.
async fn begin(api: &WorkloadApi, identity: &Identity) -> anyhow::Result<OnBehalfOf> {
    let trust_domain = identity.id().context("an identity")?.trust_domain().clone();
    let tokens = AgentTokens::spawn(api, trust_domain, Arc::new(SystemClock));
    tokens.ready(Duration::from_secs(30)).await?;
    let mut wanted = WantedToken::default();
    wanted.details.insert("job".to_owned(), "nightly-export".into());
    loop {
        match tokens.begin_own(identity, &wanted).await {
            Ok(token) => return Ok(tokens.on_behalf_of(&token).await?),
            Err(ExchangeRefused::Unavailable { .. }) => SystemClock.sleep_for(Duration::from_millis(200)).await,
            Err(refused) => return Err(refused.into()),
        }
    }
}
