//! An access token for a service itself: `grant_type=client_credentials`, for programs that speak only OAuth.

use axum::response::Response;
use bonafide_ca_api::token_exchange::{ExchangeError, MOST_WORDS};
use bonafide_verifier::{
    clock::Timestamp,
    jwt::{
        access_token::{self, AccessTokenClaims},
        is_scope,
    },
    policy::Facts,
};
use serde_json::json;
use uuid::Uuid;

use super::{TokenService, client::Client, fact, form::Form, mint::About, refusal, refusal::TokenRefusal};

/// The most bytes of an audience.
const MAX_AUDIENCE: usize = 256;

impl TokenService {
    pub(super) async fn access_token(&self, client: &Client, form: &Form) -> Result<Response, TokenRefusal> {
        // One receiver in a token: else one of them could use it with another. RFC 8707 calls it `resource`, others `audience`.
        let audience = match (form.get("audience"), form.get("resource")) {
            (Some(_), Some(_)) => {
                let expected = "`audience` says it already";
                return Err(TokenRefusal::Parameter { name: "resource", expected });
            }
            (Some(audience), None) | (None, Some(audience)) => audience,
            (None, None) => return Err(TokenRefusal::Missing { name: "audience" }),
        };
        if audience.len() > MAX_AUDIENCE || audience.chars().any(char::is_control) {
            let expected = "one receiver, by at most 256 bytes without control characters";
            return Err(TokenRefusal::Parameter { name: "audience", expected });
        }
        let scope = form.get("scope");
        if scope.is_some_and(|scope| !is_scope(scope) || scope.split(' ').count() > MOST_WORDS) {
            return Err(ExchangeError::Scope { most: MOST_WORDS }.into());
        }
        let facts = fact(Facts::default(), "audience", audience);
        match scope {
            Some(scope) => {
                for word in scope.split(' ') {
                    self.decide(client, "access-token", Some(word), &facts)?;
                }
            }
            None => self.decide(client, "access-token", None, &facts)?,
        }
        let turn = self.inner.minter.turn()?;
        let issued_at = Timestamp::from_unix_seconds(turn.now().unix_seconds());
        let expires_at = issued_at.saturating_add(self.inner.limits.lifetime.min(turn.longest()));
        let expires_at = Timestamp::from_unix_seconds(expires_at.unix_seconds());
        let claims = AccessTokenClaims {
            issuer: self.inner.url.clone(),
            client: client.id().clone(),
            audience: vec![audience.to_owned()],
            scope: scope.map(str::to_owned),
            token_id: Uuid::now_v7().to_string(),
            issued_at,
            expires_at,
        };
        let about = About {
            requester: client.id(),
            token_type: access_token::TYPE,
            by: client.by(),
            sub: client.id().as_str(),
            id: &claims.token_id,
            scope: scope.unwrap_or_default(),
            audience: &claims.audience,
            issued_at,
            expires_at,
        };
        let input = claims.signing_input(&self.inner.trust_domain, turn.key_id());
        let token = self.inner.minter.mint(&turn, input, &about).await?;
        let mut answer = json!({
            "access_token": token, "token_type": "Bearer", "expires_in": expires_at.since(issued_at).as_secs(),
        });
        if let (Some(scope), Some(members)) = (scope, answer.as_object_mut()) {
            members.insert("scope".to_owned(), scope.into());
        }
        Ok(refusal::granted(&answer))
    }
}
