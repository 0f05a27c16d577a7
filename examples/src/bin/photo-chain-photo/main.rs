//! The edge of the chain: people sign in here with a browser, programs call with a user's own token, and a nightly export calls in its own name.
//!
//! A user's token is exchanged once for each request, at the agent on the node, for a transaction token; that goes along to image and blob, whatever
//! is called because of the request. Nothing of it is written here.

mod album;

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{DefaultBodyLimit, Path},
    http::Method as HttpMethod,
};
use bonafide_examples::{
    next::{Next, NextArguments, Upstream},
    service::{Connecting, Service, ServiceArguments},
    sign_in::{SignIn, SignInArguments},
};
use bonafide_verifier::{
    authenticate::Authenticators,
    http::{Routes, edge::Edge},
    policy::Method,
    serve::{ServeOptions, serve},
};
use bytes::Bytes;
use clap::Parser;
use serde_json::Value;

/// Photos of people, for them alone
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    service: ServiceArguments,
    /// The service that has the images
    #[command(flatten)]
    image: NextArguments,
    /// Where people sign in
    #[command(flatten)]
    sign_in: SignInArguments,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let service = Service::start(arguments.service).await?;
    let tokens = service.tokens().await?;
    let domain = service.id.trust_domain().clone();
    let authenticators = Authenticators::builder(domain, service.identity.clone()).audience(service.id.as_str());
    let issuers = vec![arguments.sign_in.issuer_name().clone()];
    let of_users = tokens.user_issuers().only(&issuers);
    let authenticators = authenticators.x509().users_from(of_users).sessions().build()?;
    // Whose users they are, with the keys of the day.
    tokio::spawn(tokens.supply(authenticators.clone(), issuers));
    let verified = tokens.txn_tokens().clone();
    let authorization = service.authorization(authenticators, |builder| builder.users(verified)).await?;

    let image = Next::new(&service, &arguments.image)?;
    let app = album::routes(Routes::new(authorization))
        .route(Method::Get, "/v1/photos", list)
        .route(Method::Get, "/v1/photos/{name}", fetch)
        .route(Method::Put, "/v1/photos/{name}", keep)
        .route(Method::Get, "/v1/usage", usage)
        .raw(|router| router.layer(Extension(image)).layer(DefaultBodyLimit::max(1 << 20)))
        .into_service();
    // Who only looks gets a token that is good for looking.
    let edge = Edge::new().exchange(tokens, "photo.read photo.write");
    let edge = edge.scope_of(|method, _| (*method == HttpMethod::GET).then(|| "photo.read".to_owned()));
    // And one that is about one photo says about which: image takes it for no other.
    let edge = edge.details_of(|request| {
        let photo = request.uri.path().strip_prefix("/v1/photos/").filter(|name| name.len() <= 64);
        photo.map(|name| ("photo".to_owned(), name.into())).into_iter().collect()
    });
    let app = app.at_edge(edge)?;

    let (incoming, port) = service.listen(Connecting::Anybody).await?;
    if arguments.sign_in.is_wanted() {
        let settings = arguments.sign_in.settings(port, album::PAGES)?;
        let sign_in = SignIn::new(settings, Arc::clone(&service.clock))?;
        serve(incoming, sign_in.in_front_of(app), ServeOptions::default(), service.stop).await;
    } else {
        serve(incoming, app, ServeOptions::default(), service.stop).await;
    }
    Ok(())
}

async fn list(Extension(image): Extension<Next>) -> Result<Json<Value>, Upstream> {
    image.ask_json(HttpMethod::GET, "/v1/images", Bytes::new()).await.map(Json)
}

async fn fetch(Extension(image): Extension<Next>, Path(name): Path<String>) -> Result<Bytes, Upstream> {
    image.ask(HttpMethod::GET, &format!("/v1/images/{name}"), Bytes::new()).await
}

async fn keep(
    Extension(image): Extension<Next>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Upstream> {
    image.ask_json(HttpMethod::PUT, &format!("/v1/images/{name}"), body).await.map(Json)
}

async fn usage(Extension(image): Extension<Next>) -> Result<Json<Value>, Upstream> {
    image.ask_json(HttpMethod::GET, "/v1/usage", Bytes::new()).await.map(Json)
}
