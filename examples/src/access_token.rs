//! Access tokens for a program that calls as OAuth2 has it (RFC 6749 §4.4): `client_credentials` at the trust domain's token endpoint, which knows the
//! program by its certificate, so that there is no client secret.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use axum::http::{HeaderValue, Request, StatusCode, header::CONTENT_TYPE};
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    identity::Identity,
    spiffe::SpiffeId,
    tls::{Connector, ConnectorOptions, PeerSet},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::{sync::Mutex, time::timeout};

/// Gets access tokens for one service, and keeps each for half of its life. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct AccessTokens(Arc<Shared>);

struct Shared {
    client: Client<Connector, Full<Bytes>>,
    endpoint: String,
    audience: String,
    scope: String,
    clock: Arc<dyn Clock>,
    /// The present one as a header's value, and until when it is used. One asks, the others wait.
    held: Mutex<Option<(HeaderValue, Timestamp)>>,
}

impl AccessTokens {
    /// From the endpoint at this URL, which must be the CA's.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn new(
        identity: &Identity,
        endpoint: &str,
        audience: &SpiffeId,
        scope: &str,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let ca = SpiffeId::parse(&format!("spiffe://{}/bonafide/ca", audience.trust_domain()))?;
        let connector = Connector::new(identity, PeerSet::id(ca), ConnectorOptions::default())?;
        Ok(Self(Arc::new(Shared {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoint: endpoint.to_owned(),
            audience: audience.to_string(),
            scope: scope.to_owned(),
            clock,
            held: Mutex::default(),
        })))
    }

    /// The value of `authorization` for a request now.
    ///
    /// # Errors
    /// What the token endpoint said.
    pub async fn authorization(&self) -> anyhow::Result<HeaderValue> {
        let mut held = self.0.held.lock().await;
        let now = self.0.clock.now();
        if let Some((value, until)) = &*held
            && now < *until
        {
            return Ok(value.clone());
        }
        let said =
            timeout(Duration::from_secs(10), self.0.ask()).await.context("no answer from the token endpoint")??;
        let token = said.get("access_token").and_then(Value::as_str).context("no access token in the answer")?;
        let life = said.get("expires_in").and_then(Value::as_u64).context("no end of it in the answer")?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        *held = Some((value.clone(), now.saturating_add(Duration::from_secs(life / 2))));
        Ok(value)
    }
}

impl Shared {
    async fn ask(&self) -> anyhow::Result<Value> {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("grant_type", "client_credentials"), ("scope", &self.scope), ("audience", &self.audience)])
            .finish();
        let request = Request::post(&self.endpoint).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = self.client.request(request.body(Full::from(form))?).await?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), 64 * 1024).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        let said: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        ensure!(
            status == StatusCode::OK,
            "the token endpoint answered {status}: {}",
            said.get("error").unwrap_or(&Value::Null)
        );
        Ok(said)
    }
}

impl fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessTokens({}, {})", self.0.endpoint, self.0.audience)
    }
}
