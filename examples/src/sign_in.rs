//! People sign in with a browser: the code flow of OpenID Connect with PKCE, `state` and `nonce`, and a session in a cookie.
//!
//! Who somebody is comes from the provider's ID token alone, which the verifier checks. From then on each request for a page carries a
//! [`SessionUser`](bonafide_verifier::authenticate::SessionUser) in place of the cookie: rules, limits, records and handlers see a user, and nobody
//! downstream knows what a cookie is. Addresses outside of the pages do not look at cookies at all, so that no form of another site can reach them.
//!
//! | attack | what stands against it |
//! | --- | --- |
//! | a code that was stolen on its way | PKCE: the verifier never leaves this process |
//! | somebody else's answer, sent to a victim's browser | `state` is bound to a cookie of the browser that asked |
//! | an ID token of another sign-in | `nonce`, bound likewise |
//! | the answer of another provider | `iss` (RFC 9207), and the token's own |
//! | a session made known to a victim beforehand | each sign-in begins a new one |
//! | scripts, other hosts, clear text | `__Host-`, `HttpOnly`, `Secure`, `SameSite`; no script runs in these pages |
//! | a form of another site | a token in each form, and `Origin` |
//! | a page in a frame of another site | `frame-ancestors 'none'` |

mod attempt;
mod cookies;
mod provider;
mod sessions;

use std::{
    convert::Infallible,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::Context as _;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    Form, Router,
    body::Body,
    extract::{Query, State},
    http::{
        HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
        header::{self, AUTHORIZATION},
    },
    response::{Html, IntoResponse, Redirect},
    routing::{get, post},
};
use bonafide_verifier::{
    clock::Clock,
    jwt::user_token::{UserTokenKind, VerifiedUser},
    key_records::read_key_file,
    user::IssuerName,
};
use serde::Deserialize;
use tower_service::Service;
use tracing::{info, warn};
use zeroize::Zeroizing;

pub use self::{attempt::NoRandomness, sessions::Session};
use self::{
    attempt::{Attempt, Attempts},
    provider::{Provider, Redeemed},
    sessions::Sessions,
};

/// How people sign in at a program.
#[derive(Clone, Debug)]
pub struct SignInSettings {
    /// The provider, by its issuer's URL.
    pub issuer: String,
    /// What rules and records call it: `corp`.
    pub issuer_name: IssuerName,
    /// The claim of its ID tokens with people's roles, if there is one.
    pub roles_claim: Option<String>,
    /// The provider's certificate authorities, a PEM file; the system's where there is none.
    pub provider_roots: Option<PathBuf>,
    /// As which client this program is known to it.
    pub client_id: String,
    /// What it proves that by, if the provider gave it a secret. PKCE is used either way.
    pub client_secret: Option<Zeroizing<String>>,
    /// Where browsers find this program: `https://config.internal:8443`, and nothing behind.
    pub origin: String,
    /// The pages for those who have signed in are this path and those below it: `/console`.
    pub pages: String,
}

/// The same as flags of a program, all of which may be left out: then nobody signs in.
#[derive(Clone, Debug, clap::Args)]
pub struct SignInArguments {
    /// The OpenID Connect provider at which people sign in, by its issuer's URL
    #[arg(long, value_name = "URL", requires = "client_id")]
    issuer: Option<String>,
    /// What rules and records call it
    #[arg(long, value_name = "NAME", default_value = "corp", value_parser = issuer_name)]
    issuer_name: IssuerName,
    /// The claim of its ID tokens with people's roles, if there is one
    #[arg(long, value_name = "CLAIM", requires = "issuer")]
    roles_claim: Option<String>,
    /// As which client the provider knows this program; the redirect URI is `URL/signed-in`
    #[arg(long, value_name = "ID", requires = "issuer")]
    client_id: Option<String>,
    /// What this program proves that by, if the provider gave it a secret
    #[arg(long, value_name = "FILE", requires = "issuer")]
    client_secret_file: Option<PathBuf>,
    /// Certificate authorities for the provider's own certificate, if the system does not know them
    #[arg(long, value_name = "FILE", requires = "issuer")]
    provider_roots: Option<PathBuf>,
    /// Where browsers find this program, if not at `https://localhost:PORT`
    #[arg(long, value_name = "URL", requires = "issuer")]
    url: Option<String>,
}

fn issuer_name(name: &str) -> Result<IssuerName, String> {
    IssuerName::parse(name).map_err(|error| error.to_string())
}

impl SignInArguments {
    /// What rules and records call the issuer.
    #[must_use]
    pub fn issuer_name(&self) -> &IssuerName {
        &self.issuer_name
    }

    /// Whether anybody signs in.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.issuer.is_some()
    }

    /// What they come to, for a program that listens on `port` and has its pages at this path.
    ///
    /// # Errors
    /// Flags that are missing, a file that cannot be read.
    pub fn settings(self, port: u16, pages: &str) -> anyhow::Result<SignInSettings> {
        let client_secret = match self.client_secret_file {
            Some(file) => Some(Zeroizing::new(read_key_file(&file)?.trim_end().to_owned())),
            None => None,
        };
        Ok(SignInSettings {
            issuer: self.issuer.context("--issuer is missing")?,
            issuer_name: self.issuer_name,
            roles_claim: self.roles_claim,
            provider_roots: self.provider_roots,
            client_id: self.client_id.context("--client-id is missing")?,
            client_secret,
            origin: self.url.unwrap_or_else(|| format!("https://localhost:{port}")),
            pages: pages.to_owned(),
        })
    }
}

/// Signs people in. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct SignIn(Arc<Shared>);

struct Shared {
    settings: SignInSettings,
    provider: Provider,
    attempts: Attempts,
    sessions: Sessions,
    clock: Arc<dyn Clock>,
}

const ATTEMPT: &str = "__Host-sign-in";
const SESSION: &str = "__Host-session";
const BEGIN: &str = "/sign-in";
const FINISH: &str = "/signed-in";
const END: &str = "/sign-out";

impl SignIn {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// The file of roots cannot be read, or there is no randomness.
    pub fn new(settings: SignInSettings, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let provider = Provider::new(&settings)?;
        let attempts = Attempts::new().map_err(io::Error::other)?;
        Ok(Self(Arc::new(Shared { settings, provider, attempts, sessions: Sessions::default(), clock })))
    }

    /// What is served in front of `inner`: the addresses for signing in and out, and `inner` itself, whose pages are for those who have
    /// signed in. A handler of a page finds the [`Session`] among its extensions.
    pub fn in_front_of<S>(&self, inner: S) -> WithBrowsers<S> {
        let public = Router::new()
            .route(BEGIN, get(begin))
            .route(FINISH, get(finish))
            .route(END, post(end))
            .with_state(self.clone());
        WithBrowsers { sign_in: self.clone(), public, inner }
    }

    /// The session that a request belongs to, put where the verifier and the handlers look.
    fn admit<B>(&self, request: &mut Request<B>) -> Result<(), NotAdmitted> {
        let secret = cookies::find(request.headers(), SESSION).map_err(|_| NotAdmitted::TwoCookies)?;
        let now = self.0.clock.now();
        let session = secret.and_then(|secret| self.0.sessions.find(secret, now)).ok_or(NotAdmitted::NotSignedIn)?;
        if request.headers().contains_key(AUTHORIZATION) {
            return Err(NotAdmitted::TwoCredentials);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            self.is_own_origin(request.headers())?;
        }
        request.extensions_mut().insert(session.credential.clone());
        request.extensions_mut().insert(session);
        Ok(())
    }

    /// Browsers say from which site a form comes.
    fn is_own_origin(&self, headers: &HeaderMap) -> Result<(), NotAdmitted> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) if origin.as_bytes() == self.0.settings.origin.as_bytes() => Ok(()),
            _ => Err(NotAdmitted::OtherOrigin),
        }
    }

    fn redirect_uri(&self) -> String {
        format!("{}{FINISH}", self.0.settings.origin)
    }
}

/// Whether an ID token is the answer to this attempt.
fn accept(user: &VerifiedUser, attempt: &Attempt) -> Result<(), NotAccepted> {
    if user.kind() != UserTokenKind::IdToken {
        return Err(NotAccepted::NoIdToken);
    }
    let nonce = user.claims().get("nonce").and_then(serde_json::Value::as_str).unwrap_or_default();
    verify_slices_are_equal(nonce.as_bytes(), attempt.nonce.as_bytes()).map_err(|_| NotAccepted::Nonce)
}

/// Why a request for a page was not let through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NotAdmitted {
    NotSignedIn,
    TwoCookies,
    TwoCredentials,
    OtherOrigin,
}

impl NotAdmitted {
    fn answer(self, method: &Method) -> Response<Body> {
        match self {
            Self::NotSignedIn if matches!(*method, Method::GET | Method::HEAD) => Redirect::to(BEGIN).into_response(),
            Self::NotSignedIn => page(StatusCode::UNAUTHORIZED, "You are not signed in", "Nothing was changed."),
            Self::TwoCookies | Self::TwoCredentials => page(
                StatusCode::BAD_REQUEST,
                "Two people at once",
                "The request says two different things about who you are.",
            ),
            Self::OtherOrigin => {
                page(StatusCode::FORBIDDEN, "Not from here", "The form came from another site. Nothing was changed.")
            }
        }
    }
}

/// Why an answer of the provider was not taken.
#[derive(Debug, thiserror::Error)]
enum NotAccepted {
    #[error("no cookie of an attempt of the last ten minutes: another browser asked, or too long ago")]
    NoAttempt,
    #[error("`state` is not that of the attempt")]
    State,
    #[error("`iss` is `{found}`")]
    OtherIssuer { found: String },
    #[error("the provider says `{error}`")]
    Refused { error: String },
    #[error("neither a code nor an error")]
    NoCode,
    #[error(transparent)]
    Provider(#[from] provider::ProviderError),
    #[error("the provider gave a token that is no ID token")]
    NoIdToken,
    #[error("`nonce` is not that of the attempt")]
    Nonce,
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// To the provider, with everything that its answer is compared with kept in the browser's cookie.
async fn begin(State(sign_in): State<SignIn>) -> Response<Body> {
    let shared = &sign_in.0;
    let begun = async {
        let endpoints = shared.provider.endpoints().await?;
        Ok::<_, NotAccepted>((endpoints.authorization.clone(), shared.attempts.begin(shared.clock.now())?))
    };
    let (authorization, attempt) = match begun.await {
        Ok(begun) => begun,
        Err(error) => return not_signed_in(&error),
    };
    let (redirect_uri, challenge) = (sign_in.redirect_uri(), attempt.challenge());
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("response_type", "code"), ("client_id", &shared.settings.client_id)])
        .extend_pairs([("redirect_uri", &*redirect_uri), ("scope", "openid"), ("state", &attempt.state)])
        .extend_pairs([("nonce", &*attempt.nonce), ("code_challenge", &challenge), ("code_challenge_method", "S256")])
        .finish();
    let separator = if authorization.contains('?') { '&' } else { '?' };
    let mut answer = Redirect::to(&format!("{authorization}{separator}{query}")).into_response();
    answer.headers_mut().append(header::SET_COOKIE, cookies::set(ATTEMPT, attempt.cookie()));
    answer
}

#[derive(Deserialize)]
struct Answer {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// Back from the provider.
async fn finish(State(sign_in): State<SignIn>, headers: HeaderMap, Query(answer): Query<Answer>) -> Response<Body> {
    let mut response = match sign_in.signed_in(&headers, answer).await {
        Ok(secret) => {
            let mut response = Redirect::to(&sign_in.0.settings.pages).into_response();
            response.headers_mut().append(header::SET_COOKIE, cookies::set(SESSION, &secret));
            response
        }
        Err(error) => not_signed_in(&error),
    };
    response.headers_mut().append(header::SET_COOKIE, cookies::clear(ATTEMPT));
    response
}

impl SignIn {
    async fn signed_in(&self, headers: &HeaderMap, answer: Answer) -> Result<String, NotAccepted> {
        let shared = &self.0;
        let cookie = cookies::find(headers, ATTEMPT).ok().flatten();
        let attempt = cookie.and_then(|cookie| shared.attempts.resume(cookie, shared.clock.now()));
        let attempt = attempt.ok_or(NotAccepted::NoAttempt)?;
        let state = answer.state.unwrap_or_default();
        verify_slices_are_equal(state.as_bytes(), attempt.state.as_bytes()).map_err(|_| NotAccepted::State)?;
        if let Some(found) = answer.iss.filter(|issuer| issuer != shared.provider.issuer()) {
            return Err(NotAccepted::OtherIssuer { found });
        }
        if let Some(error) = answer.error {
            return Err(NotAccepted::Refused { error: error.chars().take(64).collect() });
        }
        let code = answer.code.ok_or(NotAccepted::NoCode)?;
        let redeemed = Redeemed {
            code: &code,
            verifier: &attempt.verifier,
            redirect_uri: &self.redirect_uri(),
            client_id: &shared.settings.client_id,
            client_secret: shared.settings.client_secret.as_ref().map(|secret| secret.as_str()),
        };
        let token = shared.provider.redeem(&redeemed).await?;
        let user = shared.provider.verify(&token, shared.clock.now()).await?;
        accept(&user, &attempt)?;
        info!(user = %user.user(), "signed in");
        // What the browser had before is over.
        if let Ok(Some(before)) = cookies::find(headers, SESSION) {
            shared.sessions.end(before);
        }
        Ok(shared.sessions.begin(user, &token, shared.clock.now())?)
    }
}

#[derive(Deserialize)]
struct SignOut {
    csrf: String,
}

/// Ends the session, here and in the browser.
async fn end(State(sign_in): State<SignIn>, headers: HeaderMap, Form(form): Form<SignOut>) -> Response<Body> {
    let secret = cookies::find(&headers, SESSION).ok().flatten();
    let session = secret.and_then(|secret| sign_in.0.sessions.find(secret, sign_in.0.clock.now()));
    if let (Some(secret), Some(session)) = (secret, session) {
        if let Err(why) = sign_in.is_own_origin(&headers) {
            return why.answer(&Method::POST);
        }
        if !session.is_own_form(&form.csrf) {
            return NotAdmitted::OtherOrigin.answer(&Method::POST);
        }
        sign_in.0.sessions.end(secret);
        info!(user = %session.user().user(), "signed out");
    }
    let mut response = page(StatusCode::OK, "Signed out", r#"<a href="/sign-in">Sign in again</a>"#);
    response.headers_mut().append(header::SET_COOKIE, cookies::clear(SESSION));
    response
}

/// Why is for the log; a stranger is told that it did not work.
fn not_signed_in(error: &NotAccepted) -> Response<Body> {
    warn!(%error, "nobody was signed in");
    page(StatusCode::FORBIDDEN, "You were not signed in", r#"<a href="/sign-in">Try again</a>"#)
}

/// A short page; `text` is ours.
fn page(status: StatusCode, title: &str, text: &str) -> Response<Body> {
    let page = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
         <body><h1>{title}</h1><p>{text}</p></body></html>"
    );
    (status, Html(page)).into_response()
}

/// A service behind a [`SignIn`].
#[derive(Clone)]
pub struct WithBrowsers<S> {
    sign_in: SignIn,
    public: Router,
    inner: S,
}

/// What every page says of itself: nothing but what came from here is loaded or sent to, no script is run, no other site shows it in a frame, and
/// no cache keeps it.
const PAGE_HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    // Not `no-referrer`: a browser would then say of its own forms, too, that they come from nowhere.
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

impl<S, B, R> Service<Request<B>> for WithBrowsers<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible> + Clone + Send + 'static,
    R: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    R::Error: Into<axum::BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let pages = &self.sign_in.0.settings.pages;
        if [BEGIN, FINISH, END].contains(&path) {
            let answer = self.public.call(request);
            return Box::pin(async { answer.await.map(as_page) });
        }
        if !path.strip_prefix(pages.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let answer = self.inner.call(request);
            return Box::pin(async { answer.await.map(|answer| answer.map(Body::new)) });
        }
        let method = request.method().clone();
        if let Err(why) = self.sign_in.admit(&mut request) {
            return Box::pin(async move { Ok(as_page(why.answer(&method))) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?.map(Body::new);
            Ok(as_page(match answer.status() {
                // The token has ended, or its key is no longer believed: sign in anew.
                StatusCode::UNAUTHORIZED => NotAdmitted::NotSignedIn.answer(&method),
                // The rules' word, not the page's own.
                StatusCode::FORBIDDEN if !is_page(&answer) => page(
                    StatusCode::FORBIDDEN,
                    "Not for you",
                    "You are signed in, and the rules do not allow you this. Nothing was changed.",
                ),
                _ => answer,
            }))
        })
    }
}

fn is_page(answer: &Response<Body>) -> bool {
    answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
}

fn as_page(mut answer: Response<Body>) -> Response<Body> {
    for (name, value) in PAGE_HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
