//! JWT-SVIDs from a Workload API: fetched for a call to somebody, or validated by the agent.

use std::{fmt, future::Future};

use prost_types::{Struct, value::Kind};
use serde_json::{Map, Number, Value};
use tokio::time::timeout;
use tonic::{Code, Response, Status};
use zeroize::Zeroizing;

use super::{WorkloadApi, with_header};
use crate::{
    generated::workload::{JwtsvidRequest, ValidateJwtsvidRequest},
    spiffe::{SpiffeId, SpiffeIdError},
};

/// A JWT-SVID as the Workload API gave it.
#[derive(Clone)]
pub struct FetchedJwtSvid {
    id: SpiffeId,
    hint: Option<String>,
    token: Zeroizing<String>,
}

impl FetchedJwtSvid {
    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What it is for, in the operator's words.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The token, to be sent as `Authorization: Bearer` to its audience and nowhere else.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.token
    }
}

impl fmt::Debug for FetchedJwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedJwtSvid").field("id", &self.id).field("hint", &self.hint).finish_non_exhaustive()
    }
}

/// A token that the Workload API holds for good.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ValidatedJwtSvid {
    /// Whose it is.
    pub id: SpiffeId,
    /// Its claims. Whole numbers lose their last digits beyond 2^53 on this way.
    pub claims: Map<String, Value>,
}

/// Why a call to a Workload API came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadApiError {
    /// Not there, or not in time; another try may help.
    #[error("the Workload API is not there: {message}")]
    Unavailable {
        /// Why.
        message: String,
    },
    /// No identity for us, or not this one.
    #[error("the Workload API refuses: {message}")]
    PermissionDenied {
        /// Why.
        message: String,
    },
    /// The request is wrong, or the token to be validated is not valid.
    #[error("the Workload API holds this for invalid: {message}")]
    InvalidArgument {
        /// Why.
        message: String,
    },
    /// Any other status.
    #[error("the Workload API answered {code}: {message}")]
    Status {
        /// The status, by name.
        code: &'static str,
        /// Why.
        message: String,
    },
    /// An answer without something it must have (WAPI-11).
    #[error("the Workload API's answer lacks `{field}`")]
    Incomplete {
        /// What.
        field: &'static str,
    },
    /// An answer for somebody else.
    #[error("the Workload API's answer names `{found}`")]
    OtherId {
        /// Who.
        found: String,
    },
    /// An answer that names nobody.
    #[error("the Workload API's answer names something that is no SPIFFE ID: {source}")]
    Id {
        /// Why not.
        source: SpiffeIdError,
    },
}

impl From<Status> for WorkloadApiError {
    fn from(status: Status) -> Self {
        let message = status.message().chars().take(1024).collect();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable { message },
            Code::PermissionDenied => Self::PermissionDenied { message },
            Code::InvalidArgument => Self::InvalidArgument { message },
            other => Self::Status { code: other.description(), message },
        }
    }
}

impl WorkloadApi {
    /// Fetches JWT-SVIDs for an audience: of one identity, or of all that are ours, the default first. Each should have one audience:
    /// who receives one with several can use it at the others (JWT-13).
    ///
    /// # Errors
    /// See [`WorkloadApiError`].
    pub async fn fetch_jwt_svids(
        &self,
        audiences: &[&str],
        id: Option<&SpiffeId>,
    ) -> Result<Vec<FetchedJwtSvid>, WorkloadApiError> {
        let request = JwtsvidRequest {
            audience: audiences.iter().map(ToString::to_string).collect(),
            spiffe_id: id.map(ToString::to_string).unwrap_or_default(),
        };
        let mut client = self.client();
        let answer = self.in_time(client.fetch_jwtsvid(with_header(request))).await?;
        let mut svids = Vec::with_capacity(answer.svids.len());
        for svid in answer.svids {
            let token = Zeroizing::new(svid.svid);
            if token.is_empty() {
                return Err(WorkloadApiError::Incomplete { field: "svid" });
            }
            let found = parse_id(&svid.spiffe_id)?;
            if id.is_some_and(|wanted| *wanted != found) {
                return Err(WorkloadApiError::OtherId { found: found.to_string() });
            }
            svids.push(FetchedJwtSvid { id: found, hint: Some(svid.hint).filter(|hint| !hint.is_empty()), token });
        }
        if svids.is_empty() {
            return Err(WorkloadApiError::Incomplete { field: "svids" });
        }
        Ok(svids)
    }

    /// Fetches the default identity's JWT-SVID for an audience, or that of `id`.
    ///
    /// # Errors
    /// See [`WorkloadApiError`].
    pub async fn fetch_jwt_svid(
        &self,
        audience: &str,
        id: Option<&SpiffeId>,
    ) -> Result<FetchedJwtSvid, WorkloadApiError> {
        let svids = self.fetch_jwt_svids(&[audience], id).await?;
        svids.into_iter().next().ok_or(WorkloadApiError::Incomplete { field: "svids" })
    }

    /// Lets the Workload API validate a token that names `audience` (WAPI-30). [`crate::jwt`] does it without asking anybody,
    /// against the bundles of an [`Identity`](crate::identity::Identity).
    ///
    /// # Errors
    /// See [`WorkloadApiError`]; a token that is not valid is [`WorkloadApiError::InvalidArgument`].
    pub async fn validate_jwt_svid(&self, audience: &str, token: &str) -> Result<ValidatedJwtSvid, WorkloadApiError> {
        let request = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token.to_owned() };
        let mut client = self.client();
        let answer = self.in_time(client.validate_jwtsvid(with_header(request))).await?;
        let id = parse_id(&answer.spiffe_id)?;
        let claims = answer.claims.ok_or(WorkloadApiError::Incomplete { field: "claims" })?;
        Ok(ValidatedJwtSvid { id, claims: object(claims, MAX_DEPTH)? })
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, WorkloadApiError> {
        let waited = self.options.call_deadline;
        match timeout(waited, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(WorkloadApiError::Unavailable { message: format!("no answer within {waited:?}") }),
        }
    }
}

fn parse_id(text: &str) -> Result<SpiffeId, WorkloadApiError> {
    if text.is_empty() {
        return Err(WorkloadApiError::Incomplete { field: "spiffe_id" });
    }
    SpiffeId::parse(text).map_err(|source| WorkloadApiError::Id { source })
}

/// Deeper than any claim, and what prost decodes at most is not much more.
const MAX_DEPTH: usize = 32;

fn object(fields: Struct, depth: usize) -> Result<Map<String, Value>, WorkloadApiError> {
    fields.fields.into_iter().map(|(name, value)| Ok((name, json(value, depth)?))).collect()
}

fn json(value: prost_types::Value, depth: usize) -> Result<Value, WorkloadApiError> {
    let deeper = depth.checked_sub(1).ok_or(WorkloadApiError::Incomplete { field: "claims" })?;
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::NumberValue(number)) => whole(number).map_or(Value::Null, Value::Number),
        Some(Kind::StructValue(fields)) => Value::Object(object(fields, deeper)?),
        Some(Kind::ListValue(list)) => {
            Value::Array(list.values.into_iter().map(|value| json(value, deeper)).collect::<Result<_, _>>()?)
        }
    })
}

/// Whole numbers as such, as they stood in the token.
fn whole(number: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 2^53")]
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}
