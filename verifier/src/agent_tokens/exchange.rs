//! For an edge service: a user's token exchanged at the own agent for a transaction token.

use std::{fmt, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::{Map, Value};
use tokio::time::timeout;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::AgentTokens;
use crate::{
    clock::Timestamp,
    generated::tokens::ExchangeRequest,
    identity::{Identity, workload_api::with_header},
    jwt::{Algorithm, self_signed},
    on_behalf_of::OnBehalfOf,
    spiffe::SpiffeId,
    txn_tokens::TxnTokenError,
};

/// What kind of token is shown as the subject (RFC 8693 §3, draft-ietf-oauth-transaction-tokens).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum SubjectTokenType {
    /// An ID token of a user.
    IdToken,
    /// An access token of a user.
    AccessToken,
    /// What this service has signed about itself with the key of its SVID ([`crate::jwt::self_signed`]).
    SelfSigned,
    /// A transaction token, to be replaced by one that says less in its scope.
    TxnToken,
}

impl SubjectTokenType {
    /// As in `subject_token_type`.
    #[must_use]
    pub fn urn(self) -> &'static str {
        match self {
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
            Self::SelfSigned => "urn:ietf:params:oauth:token-type:self_signed",
            Self::TxnToken => "urn:ietf:params:oauth:token-type:txn_token",
        }
    }
}

/// What a transaction token shall say.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WantedToken {
    /// Words with one blank between two. Default: all that this service may have for the subject.
    pub scope: String,
    /// Facts of the transaction that stay as they are: `tctx`.
    pub details: Map<String, Value>,
    /// Where the request came from: `rctx`.
    pub context: Map<String, Value>,
    /// Which of this process's edge services asks. Default: the first.
    pub spiffe_id: Option<SpiffeId>,
}

/// A transaction token from the agent. `Debug` does not show it.
#[derive(Clone)]
pub struct ExchangedToken {
    token: Zeroizing<String>,
    expires_at: Timestamp,
    scope: String,
}

impl ExchangedToken {
    /// The token, to pass on to services of the own trust domain. A secret as long as it is valid.
    #[must_use]
    pub fn expose_token(&self) -> &str {
        &self.token
    }

    /// When it ends.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// What for.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }
}

impl fmt::Debug for ExchangedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangedToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Why there is no transaction token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeRefused {
    /// The subject token, or what is wanted for it, is refused.
    #[error("the agent refuses the exchange ({code}): {message}")]
    Refused {
        /// By which rule; a name that never changes.
        code: String,
        /// The agent's words, for the operator.
        message: String,
    },
    /// The agent cannot mint at the moment. Asking again may help.
    #[error("the agent mints no transaction tokens at the moment ({code}): {message}")]
    Unavailable {
        /// Why; a name that never changes.
        code: String,
        /// The agent's words, for the operator.
        message: String,
    },
    /// There is no SVID whose key could sign.
    #[error("this process has no X.509-SVID with a P-256 key to sign its own statement with")]
    NoSvid,
    /// No answer.
    #[error("no answer from the agent within {waited:?}")]
    NoAnswer {
        /// The bound.
        waited: Duration,
    },
}

impl ExchangeRefused {
    /// A name for the reason that never changes, for records.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } | Self::Unavailable { code, .. } => code,
            Self::NoSvid => "no-svid",
            Self::NoAnswer { .. } => "agent-no-answer",
        }
    }
}

impl AgentTokens {
    /// Exchanges a subject token for a transaction token. This process must be an edge service
    /// (`bonafide-ca service add --edge-scope`). May be dropped at any time; the agent may have recorded a token then that nobody got.
    ///
    /// # Errors
    /// When the agent refuses, cannot mint, or does not answer.
    pub async fn exchange(
        &self,
        subject_token: &str,
        kind: SubjectTokenType,
        wanted: &WantedToken,
    ) -> Result<ExchangedToken, ExchangeRefused> {
        let facts = |facts: &Map<String, Value>| match facts.is_empty() {
            true => Vec::new(),
            false => Value::Object(facts.clone()).to_string().into_bytes(),
        };
        let request = with_header(ExchangeRequest {
            subject_token: subject_token.to_owned(),
            subject_token_type: kind.urn().to_owned(),
            scope: wanted.scope.clone(),
            request_details: facts(&wanted.details),
            request_context: facts(&wanted.context),
            spiffe_id: wanted.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        });
        let waited = self.shared.call_deadline;
        let answer = timeout(waited, self.shared.client.clone().exchange(request)).await;
        let answer = answer.map_err(|_| ExchangeRefused::NoAnswer { waited })?;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(ExchangedToken {
            token: Zeroizing::new(answer.token),
            expires_at: Timestamp::from_unix_millis(answer.expires_at_ms),
            scope: answer.scope,
        })
    }
}

impl AgentTokens {
    /// Begins a transaction of this service's own, as a nightly job does: without a user, under its own name. The statement about itself is
    /// signed with the key of its SVID.
    ///
    /// # Errors
    /// As [`AgentTokens::exchange`], or when there is no SVID.
    pub async fn begin_own(
        &self,
        identity: &Identity,
        wanted: &WantedToken,
    ) -> Result<ExchangedToken, ExchangeRefused> {
        let statement = {
            let (snapshot, now) = (identity.snapshot(), self.shared.clock.now());
            let svid = snapshot.svid().ok_or(ExchangeRefused::NoSvid)?;
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, svid.expose_secret())
                .map_err(|_| ExchangeRefused::NoSvid)?;
            let ends = now.saturating_add(self_signed::MOST_LIFETIME);
            let input = self_signed::signing_input(Algorithm::Es256, svid.id(), &self.shared.trust_domain, now, ends);
            let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| ExchangeRefused::NoSvid)?;
            Zeroizing::new(input.with_signature(signature.as_ref()))
        };
        self.exchange(&statement, SubjectTokenType::SelfSigned, wanted).await
    }
}

impl AgentTokens {
    /// For whom calls are made because of such a token: what [`propagate::within`](crate::http::propagate::within) takes. Its key may be a moment younger than
    /// what this process was told, and is looked up then.
    ///
    /// # Errors
    /// When what the agent gave is no good.
    pub async fn on_behalf_of(&self, token: &ExchangedToken) -> Result<OnBehalfOf, TxnTokenError> {
        if let Some(looking) = self.shared.txn_tokens.look_up_key_of(token.expose_token()) {
            looking.await;
        }
        self.shared.txn_tokens.verify(token.expose_token(), self.shared.clock.now())
    }
}

fn refused(status: &Status) -> ExchangeRefused {
    let message: String = status.message().chars().take(1024).collect();
    let told = status.metadata().get(CODE).and_then(|code| code.to_str().ok()).filter(|code| is_code(code));
    let code = told.unwrap_or(match status.code() {
        Code::PermissionDenied => "no-identity",
        Code::Unimplemented => "agent-too-old",
        Code::InvalidArgument => "request-invalid",
        _ => "agent-unavailable",
    });
    let code = code.to_owned();
    match status.code() {
        Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => {
            ExchangeRefused::Refused { code, message }
        }
        _ => ExchangeRefused::Unavailable { code, message },
    }
}

fn is_code(code: &str) -> bool {
    (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// Under which a refusal has the reason of the exchange.
const CODE: &str = "bonafide-exchange";
