//! What everybody may know of the token service: its metadata (RFC 8414 §2) and its keys (RFC 7517).

use axum::{extract::State, response::Response};
use bonafide_ca_api::token_exchange::GRANT_TYPE;
use http::{HeaderValue, header};
use serde_json::json;

use super::{TOKEN_PATH, TokenService, client::ASSERTION_TYPES};

/// RFC 8414 §3.
pub(super) const PATH: &str = "/.well-known/oauth-authorization-server";
pub(super) const KEYS_PATH: &str = "/jwks";

pub(super) async fn metadata(State(service): State<TokenService>) -> Response {
    let url = &service.inner.url;
    let algorithms = ["ES256", "ES384", "RS256", "PS256"];
    document(
        json!({
            "issuer": url,
            "token_endpoint": format!("{url}{TOKEN_PATH}"),
            "jwks_uri": format!("{url}{KEYS_PATH}"),
            "grant_types_supported": ["client_credentials", GRANT_TYPE],
            "token_endpoint_auth_methods_supported": ["tls_client_auth", "private_key_jwt", "spiffe_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": algorithms,
            "client_assertion_types_supported": ASSERTION_TYPES,
            // RFC 8414 requires it; there is no authorization endpoint.
            "response_types_supported": [],
        })
        .to_string(),
        "application/json",
    )
}

pub(super) async fn keys(State(service): State<TokenService>) -> Response {
    document(service.inner.keys.load().to_string(), "application/jwk-set+json")
}

/// The next key is published days before it is used: five minutes are soon enough.
fn document(text: String, kind: &'static str) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}
