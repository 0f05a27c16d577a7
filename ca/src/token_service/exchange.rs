//! A token for a token: `grant_type=urn:ietf:params:oauth:grant-type:token-exchange`, for a transaction token.

use axum::response::Response;
use bonafide_ca_api::token_exchange::{
    self, Believed, ExchangeError, Grant, MOST_WORDS, Requester, Subject, SubjectTokenType, Subjects, TXN_TOKEN_TYPE,
    Wanted,
};
use bonafide_verifier::{
    jwt::{
        txn_token::{self, TxnClaims},
        user_token::UserTokenError,
    },
    policy::Facts,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    TokenService, client::Client, fact, form::Form, mint::About, refusal, refusal::TokenRefusal, subjects::Name,
};

impl TokenService {
    pub(super) async fn exchange(&self, client: &Client, form: &Form) -> Result<Response, TokenRefusal> {
        let required = |name: &'static str| form.get(name).ok_or(TokenRefusal::Missing { name });
        // RFC 8693 would give an access token to who does not say; nobody here means that.
        if required("requested_token_type")? != TXN_TOKEN_TYPE {
            let expected = "urn:ietf:params:oauth:token-type:txn_token";
            return Err(TokenRefusal::Parameter { name: "requested_token_type", expected });
        }
        for name in ["actor_token", "actor_token_type", "resource"] {
            if form.get(name).is_some() {
                let expected = "who acts is the client, and the audience is the trust domain";
                return Err(TokenRefusal::Parameter { name, expected });
            }
        }
        let kind = SubjectTokenType::parse(required("subject_token_type")?)?;
        let token = required("subject_token")?;
        let (audience, scope) = (required("audience")?, required("scope")?);
        let object = |name: &'static str| facts(form, name);
        let (details, context) = (object("request_details")?, object("request_context")?);

        let subject = self.subject(client, token, kind).await?;
        let registry = self.inner.registry.load();
        let edge = registry.service_by_path(client.id().path()).and_then(|service| service.edge.as_ref());
        let words = self.allowed_words(client, &subject, scope, edge.is_some())?;
        let turn = self.inner.minter.turn()?;
        let grant = Grant {
            words: &words,
            registered: edge.map_or(&[], |edge| &edge.scopes),
            // Where only the registration says what the token is for, it says for whose, too.
            subjects: match subject.scope() {
                None => Subjects::OfIssuers(edge.map_or(&[], |edge| &edge.issuers)),
                Some(_) => Subjects::AllowedByPolicy,
            },
            most_lifetime: self.inner.limits.lifetime.min(turn.longest()),
        };
        let wanted = Wanted { audience, scope, details, context };
        let (trust_domain, txn) = (&self.inner.trust_domain, Uuid::now_v7().to_string());
        let claims: TxnClaims =
            token_exchange::exchange(client.id(), &subject, wanted, &grant, trust_domain, &txn, turn.now())?;
        let about = About {
            requester: client.id(),
            token_type: txn_token::TYPE,
            by: kind.word(),
            sub: &claims.sub,
            id: &claims.txn,
            scope: &claims.scope,
            audience: &[trust_domain.as_str().to_owned()],
            issued_at: claims.issued_at,
            expires_at: claims.expires_at,
        };
        let token = self.inner.minter.mint(&turn, claims.signing_input(trust_domain, turn.key_id()), &about).await?;
        Ok(refusal::granted(&json!({
            "access_token": token,
            "issued_token_type": TXN_TOKEN_TYPE,
            "token_type": "N_A",
            "expires_in": claims.expires_at.since(claims.issued_at).as_secs(),
            "scope": claims.scope,
        })))
    }

    /// Whom the token is about. A key that is not known is looked up once.
    async fn subject(&self, client: &Client, token: &str, kind: SubjectTokenType) -> Result<Subject, TokenRefusal> {
        let name = Name::of(token, kind);
        let verify = || {
            let (users, now) = (self.inner.issuers.believed(), self.inner.clock.now());
            if let Some(subject) = self.inner.subjects.get(name, &users, now) {
                return Ok(subject);
            }
            let trust_domain = &self.inner.trust_domain;
            let believed = Believed { trust_domain, users: &users.issuers, txn_tokens: &self.inner.txn_tokens };
            // Only what it says about itself is signed with its own key.
            let keys = if kind == SubjectTokenType::SelfSigned { client.key() } else { None };
            let requester = Requester { id: client.id(), keys: keys.as_slice() };
            let subject = Subject::verify(token, kind, &requester, &believed, now)?;
            self.inner.subjects.put(name, &users, &subject);
            Ok(subject)
        };
        match verify() {
            Err(ExchangeError::User(UserTokenError::UnknownKey { issuer, .. }))
                if self.inner.issuers.look_again(&issuer).await =>
            {
                Ok(verify()?)
            }
            outcome => Ok(outcome?),
        }
    }

    /// The words that the token policy allows; the first that it does not refuses all.
    fn allowed_words(
        &self,
        client: &Client,
        subject: &Subject,
        scope: &str,
        is_edge: bool,
    ) -> Result<Vec<String>, TokenRefusal> {
        let words: Vec<&str> = scope.split(' ').collect();
        if words.len() > MOST_WORDS || !bonafide_verifier::jwt::is_scope(scope) {
            return Err(ExchangeError::Scope { most: MOST_WORDS }.into());
        }
        let issuer = subject.issuer();
        let facts = fact(Facts::default(), "subject_type", subject.kind().word());
        let facts = fact(facts, "issuer", issuer.as_ref().map_or("", |issuer| issuer.as_str()));
        let facts = fact(facts, "own", subject.sub() == client.id().as_str());
        let facts = fact(facts, "edge", is_edge);
        for word in &words {
            self.decide(client, "exchange", Some(word), &facts)?;
        }
        Ok(words.into_iter().map(str::to_owned).collect())
    }
}

/// A JSON object; absent, an empty one.
fn facts(form: &Form, name: &'static str) -> Result<Map<String, Value>, TokenRefusal> {
    let Some(text) = form.get(name) else { return Ok(Map::new()) };
    let expected = "a JSON object of at most 2048 bytes, no member twice, at most 8 deep";
    txn_token::read_facts(text).map_err(|_| TokenRefusal::Parameter { name, expected })
}
