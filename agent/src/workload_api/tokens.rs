//! Transaction tokens on the workloads' socket: minted for edge services, and the keys by which any service of the node verifies them.
//!
//! A process is attested at each call and before each message, as for SVIDs; for tokens, which an edge has minted at each of its requests,
//! what was found out about it counts for a second ([`Caller::recent_services`]). What an edge may have is in the agent's delegation;
//! which process is that edge, attestation says; the process says neither.

use std::{pin::Pin, sync::Arc};

use bonafide_ca_api::{Reason, refusal};
use bonafide_verifier::{
    jwt::txn_token::read_facts,
    spiffe::{JwtAuthority, PublicKey, SpiffeId},
    user::IssuerName,
};
use futures_core::Stream;
use serde_json::{Map, Value};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, metadata::MetadataValue};
use tracing::{debug, warn};

use super::{Shared, caller::Caller, token_keys};
use crate::{
    generated::tokens::{
        ExchangeRequest, ExchangeResponse, FindKeyRequest, FindKeyResponse, LookAtIssuerRequest, LookAtIssuerResponse,
        ServiceKey, WatchKeysRequest, WatchKeysResponse, find_key_response::Key, tokens_server::Tokens,
    },
    token_service::{Asked, MintError},
    view::Service,
};

/// Answers edges, and whoever verifies.
#[derive(Debug)]
pub(crate) struct TokensApi {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl TokensApi {
    pub(crate) fn new(shared: Arc<Shared>, stop: CancellationToken) -> TokensApi {
        TokensApi { shared, stop }
    }
}

#[tonic::async_trait]
impl Tokens for TokensApi {
    type WatchKeysStream = Pin<Box<dyn Stream<Item = Result<WatchKeysResponse, Status>> + Send>>;

    async fn exchange(&self, request: Request<ExchangeRequest>) -> Result<Response<ExchangeResponse>, Status> {
        let mut caller = Caller::of(&request, &self.shared)?;
        let request = request.into_inner();
        let details = facts("request_details", &request.request_details)?;
        let context = facts("request_context", &request.request_context)?;
        let services = caller.recent_services().await?;
        let service = edge(&services, &request.spiffe_id)?;
        let parts = &self.shared.parts;
        let svid = parts.cache.slot(&service).usable(&service, parts.clock.now());
        let keys: Vec<PublicKey> = svid.and_then(|svid| svid.public_key()).into_iter().collect();
        let asked = Asked {
            requester: &service.spiffe_id,
            keys: &keys,
            subject_token: &request.subject_token,
            subject_token_type: &request.subject_token_type,
            scope: &request.scope,
            details,
            context,
        };
        match parts.tokens.exchange(asked).await {
            Ok(minted) => {
                // The token goes to the process that asked, if it is still there.
                caller.peer().check_alive().map_err(|error| super::refused(&error))?;
                parts.metrics.exchanged(true);
                let expires_at_ms = minted.expires_at.unix_millis();
                Ok(Response::new(ExchangeResponse { token: minted.token, expires_at_ms, scope: minted.scope }))
            }
            Err(error) => {
                parts.metrics.exchanged(false);
                Err(refused(&service.spiffe_id, &error))
            }
        }
    }

    async fn watch_keys(&self, request: Request<WatchKeysRequest>) -> Result<Response<Self::WatchKeysStream>, Status> {
        let caller = Caller::of(&request, &self.shared)?;
        let (first, rest) = token_keys::stream(caller, self.stop.clone()).await?;
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(rest))))
    }

    async fn find_key(&self, request: Request<FindKeyRequest>) -> Result<Response<FindKeyResponse>, Status> {
        let mut caller = Caller::of(&request, &self.shared)?;
        let identified = caller.identify().await?;
        let key_id = request.get_ref().key_id.as_str();
        let keys = identified.view.token_keys();
        let service = keys.service().iter().find(|key| key.key_id() == key_id).map(|key| Key::Service(to_wire(key)));
        let agent = || keys.delegation(key_id).map(|held| Key::Delegation(held.statement.clone()));
        Ok(Response::new(FindKeyResponse { key: service.or_else(agent) }))
    }

    async fn look_at_issuer(
        &self,
        request: Request<LookAtIssuerRequest>,
    ) -> Result<Response<LookAtIssuerResponse>, Status> {
        let mut caller = Caller::of(&request, &self.shared)?;
        caller.identify().await?;
        let name = IssuerName::parse(&request.get_ref().issuer)
            .map_err(|error| coded(Reason::RequestInvalid, format!("`issuer` is no issuer's name: {error}")))?;
        let looked = self.shared.parts.tokens.look_at_issuer(&name).await;
        Ok(Response::new(LookAtIssuerResponse { looked }))
    }
}

pub(super) fn to_wire(key: &JwtAuthority) -> ServiceKey {
    ServiceKey { key_id: key.key_id().to_owned(), public_key: key.public_key().spki().to_vec() }
}

/// The edge among the services of the process that asks, or the one that it names.
fn edge(services: &[Arc<Service>], wanted: &str) -> Result<Arc<Service>, Status> {
    if wanted.is_empty() {
        return services.iter().find(|service| service.is_edge()).cloned().ok_or_else(|| {
            let ids: Vec<_> = services.iter().map(|service| service.spiffe_id.as_str()).collect();
            let message = format!(
                "{} is no edge, so no tokens are exchanged for it; an administrator makes it one with \
                 `bonafide-ca service update PATH --edge-scope WORD`",
                ids.join(", ")
            );
            coded(Reason::NotAnEdge, message)
        });
    }
    let id = SpiffeId::parse(wanted)
        .map_err(|error| coded(Reason::RequestInvalid, format!("`spiffe_id` is not a SPIFFE ID: {error}")))?;
    let own = services.iter().find(|service| service.spiffe_id == id).cloned();
    own.ok_or_else(|| coded(Reason::NotYourIdentity, format!("`{id}` is not an identity of this process")))
}

/// A JSON object, by the rules of the CA's token endpoint; empty for none.
fn facts(field: &str, json: &[u8]) -> Result<Map<String, Value>, Status> {
    if json.is_empty() {
        return Ok(Map::new());
    }
    let invalid = |why: String| coded(Reason::RequestInvalid, format!("`{field}`: {why}"));
    let text = std::str::from_utf8(json).map_err(|_| invalid("it is no text".into()))?;
    read_facts(text).map_err(|error| invalid(error.to_string()))
}

/// What the edge is told: a code for its record, and what its operator can do. Whose token it was, nobody is told.
fn refused(requester: &SpiffeId, error: &MintError) -> Status {
    let (reason, code) = match error {
        MintError::Exchange(error) => (Reason::SubjectRefused, error.code()),
        MintError::Beyond(_) => (Reason::SubjectRefused, "beyond-delegation"),
        MintError::Claims(error) => (Reason::SubjectRefused, error.code()),
        MintError::NotAnEdge { .. } => (Reason::NotAnEdge, Reason::NotAnEdge.code()),
        MintError::NoDelegation => (Reason::NoDelegation, Reason::NoDelegation.code()),
        MintError::Log(_) => (Reason::MintLogUnusable, Reason::MintLogUnusable.code()),
        MintError::Record | MintError::Sign => (Reason::Internal, Reason::Internal.code()),
    };
    let message = match error {
        MintError::Exchange(_) | MintError::Beyond(_) | MintError::Claims(_) => {
            debug!(spiffe_id = %requester, reason = code, error = %error, "exchanged no token");
            format!(
                "no transaction token for this subject token ({code}); the agent's log has more at its level `debug`"
            )
        }
        MintError::NotAnEdge { .. } | MintError::NoDelegation => error.to_string(),
        MintError::Log(_) => {
            "the agent cannot record what it mints, so it mints nothing; `bonafide-agent status` says why".to_owned()
        }
        MintError::Record | MintError::Sign => {
            warn!(error = %error, "minted nothing");
            "a fault of the agent; its log has the reason".to_owned()
        }
    };
    with_code(refusal(reason, message, None), code)
}

fn coded(reason: Reason, message: String) -> Status {
    with_code(refusal(reason, message, None), reason.code())
}

/// A name for the reason that a client without our error details can read.
fn with_code(mut status: Status, code: &'static str) -> Status {
    status.metadata_mut().insert(CODE, MetadataValue::from_static(code));
    status
}

/// Under which a refusal has the reason of the exchange.
const CODE: &str = "bonafide-exchange";
