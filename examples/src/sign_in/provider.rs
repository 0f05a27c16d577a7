//! What is asked of the provider: where it lets people sign in, a token for the code that it sends along with them, and the keys that
//! it signs with.

use std::{io, sync::Arc, time::Duration};

use axum::http::{
    Method, Request, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use base64ct::{Base64, Encoding};
use bonafide_verifier::{
    clock::Timestamp,
    jwt::{
        Algorithm,
        user_issuers::{IssuerKeys, UserIssuer, UserIssuerSettings, UserIssuers},
        user_token::{self, UserTokenError, VerifiedUser},
    },
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    sync::{Mutex, OnceCell},
    time::timeout,
};
use tracing::warn;
use zeroize::Zeroizing;

use super::SignInSettings;

/// The provider, as an issuer whose users are believed.
pub(super) struct Provider {
    believed: UserIssuerSettings,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    known: OnceCell<Endpoints>,
    /// The keys, and when they were asked for. One asks, the others wait.
    keys: Mutex<Option<(UserIssuers, Timestamp)>>,
}

/// What it says of itself.
#[derive(Clone, Debug)]
pub(super) struct Endpoints {
    pub(super) authorization: String,
    token: String,
    jwks: String,
}

/// What a code is redeemed with.
pub(super) struct Redeemed<'a> {
    pub(super) code: &'a str,
    pub(super) verifier: &'a str,
    pub(super) redirect_uri: &'a str,
    pub(super) client_id: &'a str,
    pub(super) client_secret: Option<&'a str>,
}

/// Why the provider was of no help.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProviderError {
    #[error("`{url}` gave no answer within {within:?}", within = PATIENCE)]
    TooLate { url: String },
    #[error("`{url}`: {why}")]
    NoAnswer { url: String, why: String },
    #[error("`{url}` answered {status}")]
    Status { url: String, status: u16 },
    #[error("`{url}` answered no JSON of at most {MAX_BYTES} bytes that has a text `{member}`")]
    Answer { url: String, member: &'static str },
    #[error("`{url}` says that its issuer is `{found}`, not `{expected}`")]
    OtherIssuer { url: String, found: String, expected: String },
    #[error("`{found}` is no address over HTTPS")]
    NotHttps { found: String },
    #[error("`{url}` answered no keys: {why}")]
    Keys { url: String, why: String },
    #[error("the ID token: {0}")]
    Token(#[from] UserTokenError),
}

/// For a whole answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer.
const MAX_BYTES: usize = 256 * 1024;
/// So old may keys be that are used, unless the provider is away.
const KEYS_AGE: Duration = Duration::from_secs(3600);
/// So old must they be before they are asked for again because a token names one that is not among them.
const KEYS_PAUSE: Duration = Duration::from_secs(60);

impl Provider {
    /// A provider whose certificate is below one of the system's roots, or below those of `roots`, a PEM file.
    pub(super) fn new(settings: &SignInSettings) -> io::Result<Self> {
        let mut store = RootCertStore::empty();
        match &settings.provider_roots {
            Some(file) => {
                for certificate in CertificateDer::pem_file_iter(file).map_err(io::Error::other)? {
                    store.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
                }
            }
            None => _ = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(io::Error::other)?.with_root_certificates(store).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
        let http = Client::builder(TokioExecutor::new()).build(connector);
        let believed = UserIssuerSettings {
            name: settings.issuer_name.clone(),
            url: settings.issuer.clone(),
            audiences: vec![settings.client_id.clone()],
            // What providers sign with; whichever it is, a key is used with one alone.
            algorithms: vec![Algorithm::Rs256, Algorithm::Es256],
            roles_claim: settings.roles_claim.clone(),
        };
        // Whatever is wrong with the settings is told before anybody wants in.
        UserIssuer::new(believed.clone(), &IssuerKeys::default()).map_err(io::Error::other)?;
        Ok(Self { believed, http, known: OnceCell::new(), keys: Mutex::default() })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.believed.url
    }

    /// Whom a token of this provider speaks of.
    pub(super) async fn verify(&self, token: &str, now: Timestamp) -> Result<VerifiedUser, ProviderError> {
        match user_token::verify(token, &self.keys(now, KEYS_AGE).await?, now) {
            Err(UserTokenError::UnknownKey { .. }) => {
                Ok(user_token::verify(token, &self.keys(now, KEYS_PAUSE).await?, now)?)
            }
            verdict => Ok(verdict?),
        }
    }

    /// Its keys, at most so old. While it is away the earlier ones serve.
    async fn keys(&self, now: Timestamp, at_most: Duration) -> Result<UserIssuers, ProviderError> {
        let mut known = self.keys.lock().await;
        if let Some((keys, asked_at)) = &*known
            && now.since(*asked_at) < at_most
        {
            return Ok(keys.clone());
        }
        let asked = self.ask_for_keys().await;
        let keys = match (asked, &*known) {
            (Ok(keys), _) => keys,
            (Err(error), Some((earlier, _))) => {
                warn!(%error, "the provider's earlier keys serve");
                earlier.clone()
            }
            (Err(error), None) => return Err(error),
        };
        *known = Some((keys.clone(), now));
        Ok(keys)
    }

    async fn ask_for_keys(&self) -> Result<UserIssuers, ProviderError> {
        let url = self.endpoints().await?.jwks.clone();
        let failed = |why: String| ProviderError::Keys { url: url.clone(), why };
        let said = self.ask(Method::GET, &url, None, String::new()).await?;
        let keys = IssuerKeys::parse_jwks(&said).map_err(|error| failed(error.to_string()))?;
        let issuer = UserIssuer::new(self.believed.clone(), &keys).map_err(|error| failed(error.to_string()))?;
        UserIssuers::new(vec![issuer]).map_err(|error| failed(error.to_string()))
    }

    /// Where it does what. Asked once; a provider that is away when this starts is asked again by the next who wants in.
    pub(super) async fn endpoints(&self) -> Result<&Endpoints, ProviderError> {
        self.known.get_or_try_init(|| self.discover()).await
    }

    async fn discover(&self) -> Result<Endpoints, ProviderError> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer().trim_end_matches('/'));
        let said = json(&self.ask(Method::GET, &url, None, String::new()).await?);
        let found = text(&said, &url, "issuer")?;
        if found != self.issuer() {
            return Err(ProviderError::OtherIssuer { url, found, expected: self.issuer().to_owned() });
        }
        let https = |member| {
            let found = text(&said, &url, member)?;
            if found.starts_with("https://") { Ok(found) } else { Err(ProviderError::NotHttps { found }) }
        };
        Ok(Endpoints {
            authorization: https("authorization_endpoint")?,
            token: https("token_endpoint")?,
            jwks: https("jwks_uri")?,
        })
    }

    /// The ID token for a code.
    pub(super) async fn redeem(&self, with: &Redeemed<'_>) -> Result<Zeroizing<String>, ProviderError> {
        let url = self.endpoints().await?.token.clone();
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("grant_type", "authorization_code"), ("code", with.code)])
            .extend_pairs([("redirect_uri", with.redirect_uri), ("client_id", with.client_id)])
            .append_pair("code_verifier", with.verifier)
            .finish();
        let basic = with.client_secret.map(|secret| {
            // RFC 6749 §2.3.1: each encoded as in a form first.
            let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = Zeroizing::new(format!("{}:{}", encoded(with.client_id), encoded(secret)));
            Zeroizing::new(format!("Basic {}", Base64::encode_string(pair.as_bytes())))
        });
        let said = json(&self.ask(Method::POST, &url, basic, form).await?);
        text(&said, &url, "id_token").map(Zeroizing::new)
    }

    /// One question. A redirect is an answer like any other that is not 200: it is not followed.
    async fn ask(
        &self,
        method: Method,
        url: &str,
        authorization: Option<Zeroizing<String>>,
        form: String,
    ) -> Result<Bytes, ProviderError> {
        let failed = |why: String| ProviderError::NoAnswer { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| ProviderError::NotHttps { found: url.to_owned() })?;
        let mut request = Request::builder().method(method).uri(uri).header(ACCEPT, "application/json");
        if !form.is_empty() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization.as_str());
        }
        let request = request.body(Full::new(Bytes::from(form))).map_err(|error| failed(error.to_string()))?;
        let asked = async {
            let answer = self.http.request(request).await.map_err(|error| failed(whole(&error)))?;
            let status = answer.status().as_u16();
            if status != 200 {
                return Err(ProviderError::Status { url: url.to_owned(), status });
            }
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
            Ok(body.map_err(|error| failed(error.to_string()))?.to_bytes())
        };
        timeout(PATIENCE, asked).await.map_err(|_| ProviderError::TooLate { url: url.to_owned() })?
    }
}

/// What is no JSON has no members.
fn json(said: &[u8]) -> Value {
    serde_json::from_slice(said).unwrap_or_default()
}

/// With what is behind an error: HTTP libraries keep that to themselves.
fn whole(error: &dyn std::error::Error) -> String {
    let behind = std::iter::successors(error.source(), |error| error.source());
    behind.fold(error.to_string(), |text, error| format!("{text}: {error}"))
}

fn text(said: &Value, url: &str, member: &'static str) -> Result<String, ProviderError> {
    let found = said.get(member).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| ProviderError::Answer { url: url.to_owned(), member })
}
