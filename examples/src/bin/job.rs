//! A caller on its way from an API key to mutual TLS: it asks the service `limits` for a job's limit, or sets it. How it proves who it
//! is, is a flag. It links the verifier alone.
//!
//! | what proves it | flags |
//! | --- | --- |
//! | an API key, or a secret that signs HS256 tokens | `--key-file export.key --bundle bundle.pem` |
//! | a JWT-SVID from the agent | `--jwt` |
//! | an X.509-SVID from the agent: mutual TLS | none |
//!
//! `job --service https://127.0.0.1:8544 --expect spiffe://example.org/limits --job export [--set 100]`
//!
//! Exit code 0 when the service has answered, 3 when it refuses, 1 for everything else.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use bonafide_verifier::{
    clock::{Clock, SystemClock},
    identity::{Identity, workload_api::WorkloadApi},
    key_records::{CallerKey, read_key_file},
    spiffe::{BundleSet, SpiffeId, TrustBundle},
    tls::{Connector, ConnectorOptions, PeerSet},
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

#[tokio::main]
async fn main() -> ExitCode {
    let asked = async { ask(&Settings::from_arguments()?).await };
    match tokio::time::timeout(Duration::from_secs(60), asked).await {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            eprintln!("job: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("job: no answer within 60 s");
            ExitCode::FAILURE
        }
    }
}

/// A connection to the one service that is expected, and what goes into `authorization`, if anything does.
async fn credential(settings: &Settings) -> anyhow::Result<(Connector, Option<HeaderValue>)> {
    let (clock, expected) = (Arc::new(SystemClock), PeerSet::id(settings.expect.clone()));
    let options = ConnectorOptions::default();
    match &settings.proof {
        // No agent and no certificate: the service is known by the roots in a file.
        Proof::Key { file, bundle } => {
            let bundle = TrustBundle::parse_pem(settings.expect.trust_domain().clone(), &std::fs::read(bundle)?)?;
            let identity = Identity::bundles_only(BundleSet::empty().with(Arc::new(bundle)), clock);
            let key = CallerKey::parse(&read_key_file(file)?)?;
            let value = key.authorization(Duration::from_secs(60), SystemClock.now())?;
            Ok((Connector::anonymous(&identity, expected, options)?, Some(secret(&value)?)))
        }
        Proof::JwtSvid => {
            let api = WorkloadApi::from_env()?;
            let identity = Identity::spawn(&api, clock);
            identity.ready(Duration::from_secs(30)).await?;
            let token = api.fetch_jwt_svid(settings.expect.as_str(), None).await?;
            let value = secret(&format!("Bearer {}", token.expose_secret()))?;
            Ok((Connector::anonymous(&identity, expected, options)?, Some(value)))
        }
        Proof::Certificate => {
            let identity = Identity::spawn(&WorkloadApi::from_env()?, clock);
            identity.ready(Duration::from_secs(30)).await?;
            Ok((Connector::new(&identity, expected, options)?, None))
        }
    }
}

async fn ask(settings: &Settings) -> anyhow::Result<u8> {
    let (connector, authorization) = credential(settings).await?;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let (method, body) = match &settings.set {
        Some(limit) => (Method::PUT, limit.clone()),
        None => (Method::GET, String::new()),
    };
    let uri = format!("{}/v1/limits/{}", settings.service, settings.job);
    let mut request = Request::builder().method(method).uri(uri).body(Full::from(body))?;
    if let Some(value) = authorization {
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let answer = client.request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), 64 * 1024).collect().await.map_err(|error| anyhow::anyhow!(error))?;
    println!("{status} {}", String::from_utf8_lossy(&body.to_bytes()).trim_end());
    Ok(match status.as_u16() {
        200..300 => 0,
        401 | 403 => 3,
        _ => 1,
    })
}

/// What `Debug` does not show.
fn secret(text: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).context("a credential that cannot stand in a header")?;
    value.set_sensitive(true);
    Ok(value)
}

enum Proof {
    Key { file: PathBuf, bundle: PathBuf },
    JwtSvid,
    Certificate,
}

struct Settings {
    service: String,
    expect: SpiffeId,
    job: String,
    set: Option<String>,
    proof: Proof,
}

impl Settings {
    fn from_arguments() -> anyhow::Result<Self> {
        let (mut service, mut expect, mut job, mut set) = (None, None, None, None);
        let (mut key_file, mut bundle, mut jwt) = (None, None, false);
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            if flag == "--jwt" {
                jwt = true;
                continue;
            }
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--service" => service = Some(value),
                "--expect" => expect = Some(SpiffeId::parse(&value)?),
                "--job" => job = Some(value),
                "--set" => set = Some(value),
                "--key-file" => key_file = Some(value.into()),
                "--bundle" => bundle = Some(value.into()),
                _ => bail!(
                    "unknown flag {flag}; known are --service, --expect, --job, --set, --key-file, --bundle, --jwt"
                ),
            }
        }
        ensure!(!(jwt && key_file.is_some()), "--jwt or --key-file, not both");
        let proof = match (key_file, bundle) {
            (Some(file), Some(bundle)) => Proof::Key { file, bundle },
            (None, None) if jwt => Proof::JwtSvid,
            (None, None) => Proof::Certificate,
            _ => bail!(
                "--key-file and --bundle go together: without an agent the service is known by the roots in a file"
            ),
        };
        Ok(Self {
            service: service.context("--service URL is missing: where is it?")?,
            expect: expect.context("--expect SPIFFE-ID is missing: who shall it be?")?,
            job: job.context("--job NAME is missing: whose limit?")?,
            set,
            proof,
        })
    }
}
