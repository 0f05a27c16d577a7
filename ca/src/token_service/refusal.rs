//! What a requester is told that gets no token: RFC 6749 §5.2, one word and nothing else. The reason stands in the log.

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bonafide_ca_api::token_exchange::ExchangeError;
use bonafide_verifier::jwt::JwtError;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::form::FormError;
use crate::issuance::IssueError;

/// Why no token is given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum TokenRefusal {
    /// Not a form.
    #[error(transparent)]
    Form(#[from] FormError),
    /// Not said to be one.
    #[error("the body is not said to be `application/x-www-form-urlencoded`")]
    ContentType,
    /// It did not come in time, or broke off.
    #[error("the body was not read: {reason}")]
    Body { reason: String },
    /// A parameter that must be there.
    #[error("the parameter `{name}` is missing")]
    Missing { name: &'static str },
    /// A parameter that says what nobody here does.
    #[error("the parameter `{name}` is not taken: {expected}")]
    Parameter { name: &'static str, expected: &'static str },
    /// Another grant.
    #[error("the grant type `{}` is not taken; `client_credentials` and token exchange are", found.escape_debug())]
    GrantType { found: String },
    /// Nobody, or not whom they claim to be.
    #[error("the client is not authenticated: {reason}")]
    Client { code: &'static str, reason: String },
    /// A subject token, a scope or an audience that does not do.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The token policy says no.
    #[error("the token policy does not allow `{operation}` ({code})")]
    Denied { operation: String, code: &'static str, of_scope: bool },
    /// Too often.
    #[error("too many requests of this client; the next one is taken in {retry_after:?}")]
    Limited { retry_after: Duration },
    /// No policy, or none that can be used.
    #[error("there is no token policy to decide by ({code})")]
    NoPolicy { code: &'static str },
    /// What would be said makes no token that anybody takes.
    #[error("the token would be one that nobody takes: {0}")]
    Claims(#[source] JwtError),
    /// The clock, the authority, the store.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl TokenRefusal {
    /// A name for the reason that never changes, for logs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Form(_) | Self::ContentType | Self::Body { .. } => "token-request-malformed",
            Self::Missing { .. } => "token-parameter-missing",
            Self::Parameter { .. } => "token-parameter",
            Self::GrantType { .. } => "token-grant-type",
            Self::Exchange(error) => error.code(),
            Self::Client { code, .. } | Self::Denied { code, .. } | Self::NoPolicy { code } => code,
            Self::Limited { .. } => "token-limit",
            Self::Claims(_) => "token-claims",
            Self::Issue(_) => "token-not-issued",
        }
    }

    /// Status and `error` of the answer.
    fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Form(_)
            | Self::ContentType
            | Self::Body { .. }
            | Self::Missing { .. }
            | Self::Parameter { .. }
            | Self::Claims(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::GrantType { .. } => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
            Self::Client { .. } => (StatusCode::UNAUTHORIZED, "invalid_client"),
            Self::Exchange(error) => (StatusCode::BAD_REQUEST, error.oauth_code()),
            Self::Denied { of_scope: true, .. } => (StatusCode::BAD_REQUEST, "invalid_scope"),
            Self::Denied { of_scope: false, .. } => (StatusCode::BAD_REQUEST, "unauthorized_client"),
            Self::Limited { .. } => (StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable"),
            Self::NoPolicy { .. } => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable"),
            Self::Issue(error) if error.is_ours() => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
            Self::Issue(_) => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable"),
        }
    }

    /// Whether a person must look at this CA.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Issue(error) if error.is_ours())
    }

    pub(super) fn into_response(self) -> Response {
        let (status, error) = self.answer();
        let mut response = (status, json!({ "error": error }).to_string()).into_response();
        let headers = response.headers_mut();
        set_json(headers);
        if let Self::Limited { retry_after } = self {
            // At least a second: sooner it would be refused again.
            let seconds = retry_after.as_secs().saturating_add(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2 wants one; a client proves itself by its certificate or an assertion, never here.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_client\""));
        }
        response
    }
}

/// Of every answer that holds or refuses a token (RFC 6749 §5.1).
pub(super) fn set_json(headers: &mut http::HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
}

/// A token and what is said of it.
pub(super) fn granted(answer: &serde_json::Value) -> Response<Body> {
    let mut response = answer.to_string().into_response();
    set_json(response.headers_mut());
    response
}
