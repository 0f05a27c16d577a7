//! The next service in a chain, called for the user of the present request, if there is one: the verifier's [`UserClient`] sees to that.

use std::{fmt, time::Duration};

use axum::{
    http::{Method, Request, StatusCode},
    response::{IntoResponse, Response},
};
use bonafide_verifier::{
    http::propagate::{HttpClient, UserClient},
    spiffe::SpiffeId,
    tls::{Connector, ConnectorOptions, PeerSet},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;
use tokio::time::timeout;

use crate::service::Service;

/// Where the next service is, and who it must be.
#[derive(Clone, Debug, clap::Args)]
pub struct NextArguments {
    /// The address of the next service, `https://host:port`
    #[arg(long, value_name = "URL")]
    next: String,
    /// Who must answer there
    #[arg(long, value_name = "SPIFFE-ID")]
    next_id: SpiffeId,
}

/// The next service. Cheap to clone.
#[derive(Clone)]
pub struct Next {
    client: UserClient<HttpClient<Full<Bytes>>>,
    url: String,
}

/// Why it was of no help.
#[derive(Debug)]
pub enum Upstream {
    /// It said so.
    Answered(StatusCode),
    /// What it said is not what was asked for.
    NotUnderstood,
    /// It was not asked, or did not answer.
    NoAnswer(String),
}

/// For a whole answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer.
const MAX_BYTES: usize = 4 << 20;

impl Next {
    /// Connects when it is used.
    ///
    /// # Errors
    /// The address is none, or the service could be of another trust domain.
    pub fn new(service: &Service, arguments: &NextArguments) -> anyhow::Result<Self> {
        let expected = PeerSet::id(arguments.next_id.clone());
        let connector = Connector::new(&service.identity, expected, ConnectorOptions::default())?;
        Ok(Self { client: UserClient::http(connector, &arguments.next)?, url: arguments.next.clone() })
    }

    /// One request; its answer if that is 200.
    ///
    /// # Errors
    /// Any other answer, or none.
    pub async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Upstream> {
        let asked = async {
            let request = Request::builder().method(method).uri(format!("{}{path}", self.url));
            let request = request.body(Full::from(body)).map_err(no_answer)?;
            let answer = self.client.request(request).await.map_err(no_answer)?;
            if answer.status() != StatusCode::OK {
                return Err(Upstream::Answered(answer.status()));
            }
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.map_err(no_answer)?;
            Ok(body.to_bytes())
        };
        timeout(PATIENCE, asked).await.unwrap_or_else(|late| Err(no_answer(late)))
    }

    /// The same for an answer in JSON.
    ///
    /// # Errors
    /// Likewise.
    pub async fn ask_json(&self, method: Method, path: &str, body: Bytes) -> Result<Value, Upstream> {
        serde_json::from_slice(&self.ask(method, path, body).await?).map_err(|_| Upstream::NotUnderstood)
    }
}

fn no_answer(error: impl fmt::Display) -> Upstream {
    Upstream::NoAnswer(error.to_string())
}

/// What the next one refuses is refused here; what else went wrong there is its own affair.
impl IntoResponse for Upstream {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Answered(
                status @ (StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::INSUFFICIENT_STORAGE),
            ) => status,
            Self::Answered(_) | Self::NotUnderstood | Self::NoAnswer(_) => {
                tracing::warn!(why = ?self, "the next service was of no help");
                StatusCode::BAD_GATEWAY
            }
        };
        status.into_response()
    }
}
