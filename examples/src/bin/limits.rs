//! A service on its way from API keys to mutual TLS. Who may do what stands in one policy all the way; `--take` says which credentials
//! prove who calls, and is all that changes. It links the verifier alone.
//!
//! `limits --take keys,jwt-svid,x509 --policy policy.toml --keys keys.toml --callers callers.sock [--listen 127.0.0.1:0]`
//!
//! `keys` are API keys and HS256 tokens, by the records that `bonafide-ca key` writes. `--callers` is the socket where the service
//! shows who calls it, and how they prove who they are: `bonafide-agent callers` reads it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use axum::{Extension, Json, extract::Path};
use bonafide_verifier::{
    authenticate::Authenticators,
    authorization::{Authorization, PolicyFiles},
    caller::Caller,
    clock::{Clock, SystemClock},
    http::Routes,
    identity::{Identity, workload_api::WorkloadApi},
    key_records::KeyRecords,
    limits::{Limits, Quotas},
    policy::Method,
    record::{EdgesReport, TracingRecords},
    serve::{ServeOptions, TlsIncoming, UnixIncoming, serve},
    tls::{Acceptor, AcceptorOptions, PeerSet},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let settings = Settings::from_arguments()?;
    let (clock, stop): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), CancellationToken::new());

    // Who we are: kept up to date by the task that this starts.
    let identity = Identity::spawn(&WorkloadApi::from_env()?, clock.clone());
    identity.ready(Duration::from_secs(30)).await?;
    let own = identity.id().context("an identity without an ID")?;
    let domain = own.trust_domain().clone();

    // Which credentials prove who calls: what changes on the way, and nothing else does.
    let mut taken = Authenticators::builder(domain.clone(), identity.clone()).audience(own.as_str());
    if let Some(keys) = &settings.keys {
        taken = taken.key_records(KeyRecords::read(keys, &domain)?);
    }
    if settings.jwt_svids {
        taken = taken.jwt_svids();
    }
    if settings.x509 {
        taken = taken.x509();
    }
    let authenticators = taken.build()?;
    if let Some(keys) = settings.keys.clone() {
        tokio::spawn(authenticators.follow_key_file(keys, clock.clone()).1);
    }

    // Who may do what. Without a policy that can be read, every request is refused.
    let limits = Limits::new(Quotas::in_memory(), clock.clone());
    let authorization =
        Authorization::builder(authenticators, limits, clock).service(own).record_to(Arc::new(TracingRecords)).build();
    let mut policy = PolicyFiles::new(domain.clone(), &settings.policy);
    policy.look(&authorization).await;
    tokio::spawn(policy.run(authorization.clone(), stop.clone()));

    let app = Routes::new(authorization.clone())
        .route(Method::Get, "/v1/limits/{job}", read)
        .route(Method::Put, "/v1/limits/{job}", change)
        .raw(|router| router.layer(Extension(Jobs::default())))
        .into_service();
    for route in app.report() {
        println!("{route}");
    }

    // Keys and tokens are in the request. As long as they are taken, clients without a certificate get as far as the policy; one
    // that shows a certificate which is no good does not.
    let mut options = AcceptorOptions::default();
    options.dangerously_admit_anonymous = settings.keys.is_some() || settings.jwt_svids;
    let acceptor = Acceptor::new(&identity, PeerSet::any_of(domain), options)?;
    let listener = TcpListener::bind(&settings.listen).await.context(settings.listen.clone())?;
    let callers = UnixIncoming::bind(&settings.callers).context("the socket of --callers")?;
    println!("ready listen={}", listener.local_addr()?);

    tokio::spawn(stop_on_signal(stop.clone()));
    let report = EdgesReport::new(authorization.edges());
    tokio::join!(
        serve(TlsIncoming::new(listener, &acceptor), app, ServeOptions::default(), stop.clone()),
        serve(callers, report, ServeOptions::default(), stop),
    );
    Ok(())
}

/// How often each job may run in a minute.
#[derive(Clone, Default)]
struct Jobs(Arc<Mutex<BTreeMap<String, u32>>>);

/// The most jobs that are kept.
const MOST: usize = 1000;

/// A handler: nobody gets here whom the policy does not let, and it need not know by which credential they came.
async fn read(caller: Caller, Path(job): Path<String>, Extension(jobs): Extension<Jobs>) -> Json<Value> {
    let limit = jobs.0.lock().unwrap_or_else(PoisonError::into_inner).get(&job).copied().unwrap_or(60);
    Json(json!({ "job": job, "per_minute": limit, "for": caller.id().as_str(), "proof": caller.proof().kind.as_str() }))
}

async fn change(
    caller: Caller,
    Path(job): Path<String>,
    Extension(jobs): Extension<Jobs>,
    body: String,
) -> Json<Value> {
    let (name, mut jobs) = (caller.id().as_str(), jobs.0.lock().unwrap_or_else(PoisonError::into_inner));
    match body.trim().parse::<u32>() {
        Ok(limit) if jobs.len() < MOST || jobs.contains_key(&job) => {
            jobs.insert(job.clone(), limit);
            Json(json!({ "job": job, "per_minute": limit, "for": name, "proof": caller.proof().kind.as_str() }))
        }
        Ok(_) => Json(json!({ "error": format!("there are {MOST} jobs already") })),
        Err(_) => Json(json!({ "error": "a limit is a whole number" })),
    }
}

struct Settings {
    /// The file of key records; none where keys are not taken.
    keys: Option<PathBuf>,
    jwt_svids: bool,
    x509: bool,
    policy: PathBuf,
    callers: PathBuf,
    listen: String,
}

impl Settings {
    fn from_arguments() -> anyhow::Result<Self> {
        let (mut take, mut policy, mut keys, mut callers) = (None, None, None, None);
        let mut listen = "127.0.0.1:0".to_owned();
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--take" => take = Some(value),
                "--policy" => policy = Some(value.into()),
                "--keys" => keys = Some(PathBuf::from(value)),
                "--callers" => callers = Some(value.into()),
                "--listen" => listen = value,
                _ => bail!("unknown flag {flag}; known are --take, --policy, --keys, --callers and --listen"),
            }
        }
        let take = take.context("--take is missing: keys, jwt-svid, x509, or several of them with commas")?;
        let words: Vec<&str> = take.split(',').collect();
        if let Some(word) = words.iter().find(|word| !["keys", "jwt-svid", "x509"].contains(word)) {
            bail!("--take {word}: it is keys, jwt-svid or x509");
        }
        let takes = |word| words.contains(&word);
        ensure!(takes("keys") == keys.is_some(), "`--take keys` and `--keys FILE` go together");
        Ok(Self {
            keys,
            jwt_svids: takes("jwt-svid"),
            x509: takes("x509"),
            policy: policy.context("--policy FILE is missing: who may do what?")?,
            callers: callers.context("--callers SOCKET is missing: where to show who calls?")?,
            listen,
        })
    }
}

async fn stop_on_signal(stop: CancellationToken) {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    if let Ok(mut terminate) = terminate {
        tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        stop.cancel();
    }
}
