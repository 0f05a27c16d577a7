//! The configuration hub: services read their settings and hear of changes, people change them in a browser or from the command line, and who
//! changed what is kept.
//!
//! `--callers KIND` is the one setting that says by what services and command lines prove themselves. Rules, handlers and records stay as they
//! are, whichever it is.

mod api;
mod console;
mod grpc;
mod store;

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use axum::{Extension, extract::DefaultBodyLimit};
use bonafide_examples::{
    generated::settings::{DESCRIPTORS, settings_server::SettingsServer},
    service::{Connecting, Service, ServiceArguments},
    settings_client::kind,
    sign_in::{SignIn, SignInArguments},
};
use bonafide_verifier::{
    authenticate::Authenticators,
    caller::ProofKind,
    key_records::KeyRecords,
    serve::{ServeOptions, serve},
};
use clap::Parser;

use crate::{api::Hub, store::Store};

/// Settings for services, watched by them and changed by people
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    service: ServiceArguments,
    /// The folder of the database; made if it is not there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// By what callers prove themselves: x509, jwt-svid, access-token, shared-secret or api-key
    #[arg(long, value_name = "KIND", default_value = "x509", value_parser = kind)]
    callers: ProofKind,
    /// The records of keys, for shared-secret and api-key: the file that `bonafide-ca key create` writes; read again when it changes
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Whose access tokens are taken, for access-token: the address of the token endpoint, without the path
    #[arg(long, value_name = "URL")]
    token_issuer: Option<String>,
    /// The page for people; without these flags there is none
    #[command(flatten)]
    sign_in: SignInArguments,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let service = Service::start(arguments.service.clone()).await?;
    let has_console = arguments.sign_in.is_wanted();
    let authenticators = authenticators(&arguments, &service).await?;
    let authorization = service.authorization(authenticators, |builder| builder).await?;

    std::fs::create_dir_all(&arguments.data).context("--data")?;
    let hub = Hub { store: Arc::new(Store::open(&arguments.data)?), clock: Arc::clone(&service.clock) };
    let routes = api::routes(authorization).grpc(SettingsServer::new(hub.clone()), DESCRIPTORS)?;
    let routes = if has_console { console::routes(routes) } else { routes };
    let app = routes.raw(|router| router.layer(Extension(hub)).layer(DefaultBodyLimit::max(64 * 1024))).into_service();
    for route in app.report() {
        tracing::info!(%route, "served");
    }
    let connecting = match arguments.callers {
        ProofKind::X509Svid if !has_console => Connecting::Services,
        _ => Connecting::Anybody,
    };
    let (incoming, port) = service.listen(connecting).await?;
    if has_console {
        let settings = arguments.sign_in.settings(port, console::PAGES)?;
        let sign_in = SignIn::new(settings, Arc::clone(&service.clock))?;
        serve(incoming, sign_in.in_front_of(app), ServeOptions::default(), service.stop).await;
    } else {
        serve(incoming, app, ServeOptions::default(), service.stop).await;
    }
    Ok(())
}

/// The one place that knows by what callers prove themselves. People do so by their session, whatever services do.
async fn authenticators(arguments: &Arguments, service: &Service) -> anyhow::Result<Authenticators> {
    let domain = service.id.trust_domain();
    let builder = Authenticators::builder(domain.clone(), service.identity.clone()).audience(service.id.as_str());
    let builder = if arguments.sign_in.is_wanted() { builder.sessions() } else { builder };
    match arguments.callers {
        ProofKind::X509Svid => Ok(builder.x509().build()?),
        ProofKind::JwtSvid => Ok(builder.jwt_svids().build()?),
        ProofKind::SharedSecret | ProofKind::ApiKey => {
            let keys = arguments.keys.clone().context("--keys is missing: which keys are taken?")?;
            let authenticators = builder.key_records(KeyRecords::read(&keys, domain)?).build()?;
            tokio::spawn(authenticators.follow_key_file(keys, Arc::clone(&service.clock)).1);
            Ok(authenticators)
        }
        ProofKind::AccessToken => {
            let issuer =
                arguments.token_issuer.as_deref().context("--token-issuer is missing: whose tokens are taken?")?;
            let tokens = service.tokens().await?;
            let authenticators = builder.access_tokens(issuer, tokens.service_keys()).build()?;
            let supplied = tokens.supply(authenticators.clone(), Vec::new());
            tokio::spawn(async move {
                supplied.await;
                drop(tokens);
            });
            Ok(authenticators)
        }
        other => bail!("--callers {other} is not a kind that callers have here"),
    }
}
