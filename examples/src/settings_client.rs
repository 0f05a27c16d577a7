//! The caller's side of `config-service`: a program's settings, now and whenever they change, and questions and changes as a command line has
//! them. By what it proves itself is one flag.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header::CONTENT_TYPE};
use bonafide_verifier::{
    caller::ProofKind,
    clock::{Clock, SystemClock, Timestamp},
    credential::Credential,
    identity::{Identity, workload_api::WorkloadApi},
    key_records::{CallerKey, read_key_file},
    spiffe::SpiffeId,
    tls::{Connector, ConnectorOptions, PeerSet},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::time::timeout;
use tonic::transport::Endpoint;

use crate::{
    access_token::AccessTokens,
    generated::settings::{State, WatchRequest, settings_client},
};

/// Where the settings are, and as whom they are asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct SettingsArguments {
    /// The address of config-service, `https://host:port`
    #[arg(long = "config", value_name = "URL")]
    url: String,
    /// Who must answer there
    #[arg(long = "config-id", value_name = "SPIFFE-ID", default_value = "spiffe://example.org/config")]
    id: SpiffeId,
    /// What this program proves itself by: x509, jwt-svid, access-token, shared-secret or api-key
    #[arg(long, value_name = "KIND", default_value = "x509", value_parser = kind)]
    credential: ProofKind,
    /// The key, for shared-secret and api-key: the file that `bonafide-ca key create` wrote for the caller
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The token endpoint, for access-token: `https://ca.internal:8445/token`
    #[arg(long, value_name = "URL")]
    token_endpoint: Option<String>,
}

/// A kind of credential, as a flag.
///
/// # Errors
/// There is no such kind.
pub fn kind(word: &str) -> Result<ProofKind, String> {
    ProofKind::parse(word).ok_or_else(|| format!("one of {}", ProofKind::ALL.map(ProofKind::as_str).join(", ")))
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct SettingsClient {
    http: Client<Connector, Full<Bytes>>,
    grpc: Endpoint,
    connector: Connector,
    proof: Proof,
    url: String,
    clock: Arc<dyn Clock>,
}

/// By what this program proves itself, where its connection does not.
#[derive(Clone, Debug)]
enum Proof {
    Credential(Credential),
    AccessToken(AccessTokens),
}

/// For a whole answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer, and of one state.
const MAX_BYTES: usize = 4 << 20;

impl SettingsClient {
    /// Gets this program's identity from its agent, and what else it proves itself by. Connects when it is used.
    ///
    /// # Errors
    /// No agent, no identity, or no such key.
    pub async fn start(arguments: &SettingsArguments) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let api = WorkloadApi::from_env()?;
        let identity = Identity::spawn(&api, Arc::clone(&clock));
        identity.ready(Duration::from_secs(30)).await?;
        let credential = |credential| Ok::<_, anyhow::Error>(Proof::Credential(credential));
        let proof = match arguments.credential {
            ProofKind::X509Svid => credential(Credential::svid())?,
            ProofKind::JwtSvid => credential(Credential::jwt_svid(api, arguments.id.as_str()))?,
            ProofKind::SharedSecret | ProofKind::ApiKey => {
                let file = arguments.key_file.as_deref().context("--key-file is missing: which key?")?;
                let key = Credential::key(CallerKey::parse(&read_key_file(file)?)?);
                ensure!(key.kind() == arguments.credential, "`{}` is another kind of key", file.display());
                credential(key)?
            }
            ProofKind::AccessToken => {
                let endpoint = arguments.token_endpoint.as_deref().context("--token-endpoint is missing")?;
                Proof::AccessToken(AccessTokens::new(
                    &identity,
                    endpoint,
                    &arguments.id,
                    "settings",
                    Arc::clone(&clock),
                )?)
            }
            other => bail!("--credential {other} is not one that a program has"),
        };
        // Whatever we send goes to this one service and to nobody else.
        let (expected, options) = (PeerSet::id(arguments.id.clone()), ConnectorOptions::default());
        let connector = match &proof {
            Proof::Credential(credential) => credential.connector(&identity, expected, options)?,
            Proof::AccessToken(_) => Connector::anonymous(&identity, expected, options)?,
        };
        let http = Client::builder(TokioExecutor::new()).build(connector.clone());
        let grpc = Endpoint::from_shared(arguments.url.clone())?.connect_timeout(PATIENCE);
        Ok(Self { http, grpc, connector, proof, url: arguments.url.clone(), clock })
    }

    /// The settings of a service, each time they change: the first state is that of now. Returns when the stream ends, which happens to
    /// every stream when its credential ends: ask again then.
    ///
    /// # Errors
    /// What the service, or the way there, said.
    pub async fn watch(&self, service: &str, mut changed: impl FnMut(State)) -> anyhow::Result<()> {
        let channel = self.grpc.connect_with_connector_lazy(self.connector.clone());
        let mut client = settings_client::SettingsClient::new(channel).max_decoding_message_size(MAX_BYTES);
        let mut request = tonic::Request::new(WatchRequest { service: service.to_owned() });
        if let Some(value) = self.proof.authorization(self.clock.now()).await? {
            request.metadata_mut().insert("authorization", value.to_str()?.parse()?);
        }
        let mut states = timeout(PATIENCE, client.watch(request)).await.context("no answer")??.into_inner();
        while let Some(state) = states.message().await? {
            changed(state);
        }
        Ok(())
    }

    /// The same, for as long as it is polled: over the ends of streams, and while the service is away. `changed` is called for
    /// each state, `away` when there is none to be had for a while; until then the last one holds.
    pub async fn follow(&self, service: &str, mut changed: impl FnMut(State), mut away: impl FnMut(anyhow::Error)) {
        let mut wait = SHORTEST_WAIT;
        loop {
            let mut heard = false;
            let ended = self.watch(service, |state| {
                heard = true;
                changed(state);
            });
            match ended.await {
                // Its credential has ended; the next stream has another.
                Ok(()) if heard => {}
                Ok(()) => away(anyhow::anyhow!("the stream ended before it began")),
                Err(error) => away(error),
            }
            wait = if heard { SHORTEST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
            self.clock.sleep_for(wait).await;
        }
    }

    /// One question or change: `GET`, `/v1/settings/export`.
    ///
    /// # Errors
    /// No whole answer in time.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(StatusCode, Value)> {
        timeout(PATIENCE, async {
            let answer = self.send(method, path, body).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        })
        .await
        .context("no answer")?
    }

    /// The states of a service as server-sent events, for as long as the stream lasts. The refusal, if it is one.
    ///
    /// # Errors
    /// What the way there said.
    pub async fn events(&self, service: &str, mut event: impl FnMut(Value)) -> anyhow::Result<StatusCode> {
        let path = format!("/v1/watch/{service}");
        let answer = timeout(PATIENCE, self.send(Method::GET, &path, None)).await.context("no answer")??;
        let status = answer.status();
        if status != StatusCode::OK {
            return Ok(status);
        }
        let (mut body, mut unread) = (answer.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            ensure!(unread.len() + data.len() <= MAX_BYTES, "an event of more than {MAX_BYTES} bytes");
            unread.extend_from_slice(&data);
            while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                if let Some(data) = line.strip_prefix(b"data: ") {
                    event(serde_json::from_slice(data)?);
                }
            }
        }
        Ok(status)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<axum::http::Response<Incoming>> {
        let uri = Uri::from_str(&format!("{}{path}", self.url))?;
        let body = body.map(ToString::to_string).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "application/json");
        if let (Some(value), Some(headers)) = (self.proof.authorization(self.clock.now()).await?, request.headers_mut())
        {
            headers.insert("authorization", value);
        }
        Ok(self.http.request(request.body(Full::from(body))?).await?)
    }
}

impl Proof {
    async fn authorization(&self, now: Timestamp) -> anyhow::Result<Option<HeaderValue>> {
        match self {
            Self::Credential(credential) => Ok(credential.authorization(now).await?),
            Self::AccessToken(tokens) => tokens.authorization().await.map(Some),
        }
    }
}

const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl fmt::Debug for SettingsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SettingsClient({}, {:?})", self.url, self.proof)
    }
}
