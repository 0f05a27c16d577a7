//! The keys of one issuer: its discovery document, and the key set that this names (OpenID Connect Discovery §4).
//!
//! HTTPS alone, by the roots that the administrator gave or those of the system; no redirect is followed, nothing is waited for or read
//! without a bound, and a document that speaks for another issuer is refused.

use std::{io, sync::Arc, time::Duration};

use bonafide_verifier::{
    clock::{Clock, TlsTime},
    jwt::user_issuers::{IssuerKeys, IssuerKeysError},
};
use bytes::Bytes;
use http::{StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};

use crate::registry::Issuer;

/// How issuers are asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub(crate) struct Limits {
    /// Keys are fetched again after that.
    pub(crate) refresh: Duration,
    /// After a failure, and twice as long after each further one …
    pub(crate) retry: Duration,
    /// … but no longer than that.
    pub(crate) longest_retry: Duration,
    /// Because of unknown keys, an issuer is asked at most that often.
    pub(crate) look_again: Duration,
    /// For each of the two documents, from the name of the host to the last byte; then it has failed.
    pub(crate) wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(3600),
            retry: Duration::from_secs(30),
            longest_retry: Duration::from_secs(600),
            look_again: Duration::from_secs(60),
            wait: Duration::from_secs(10),
        }
    }
}

/// Why an issuer has not given its keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FetchError {
    /// Not a URL over HTTPS.
    #[error("`{}` is no `https` URL", url.escape_debug())]
    Url { url: String },
    /// The machine's roots.
    #[error("no root certificate of this machine can be used ({problem}); give the issuer's with `--ca-file`")]
    NoRoots { problem: String },
    /// Nobody there.
    #[error("cannot connect to `{host}`: {source}")]
    Connect { host: String, source: io::Error },
    /// Somebody else there.
    #[error("no TLS with `{host}`: {source}; `--ca-file` names the roots that its certificate may have")]
    Tls { host: String, source: io::Error },
    /// Something else than HTTP there.
    #[error("`{host}` does not speak HTTP: {source}")]
    Http { host: String, source: hyper::Error },
    /// Too slow.
    #[error("`{url}` was not read within {waited:?}")]
    TimedOut { url: String, waited: Duration },
    /// It sends elsewhere.
    #[error("`{url}` redirects to `{}`; no redirect is followed: register the issuer with the URL that it has", to.escape_debug())]
    Redirect { url: String, to: String },
    /// It does not answer.
    #[error("`{url}` answers {status}")]
    Status { url: String, status: StatusCode },
    /// Too much.
    #[error("`{url}` has more than {} bytes", IssuerKeys::MAX_BYTES)]
    TooLarge { url: String },
    /// Not a discovery document.
    #[error("`{url}` is no discovery document with `issuer` and `jwks_uri`: {source}")]
    Discovery { url: String, source: serde_json::Error },
    /// Another issuer's.
    #[error("`{url}` speaks for the issuer `{}`, not for this one", found.escape_debug())]
    OtherIssuer { url: String, found: String },
    /// Not a key set.
    #[error("`{url}`: {source}")]
    Keys { url: String, source: IssuerKeysError },
    /// Good, and of no use.
    #[error("{reason}")]
    NotKept { reason: String },
}

impl FetchError {
    /// A name for the reason that never changes.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Url { .. } => "issuer-url",
            Self::NoRoots { .. } => "issuer-no-roots",
            Self::Connect { .. } => "issuer-unreachable",
            Self::Tls { .. } => "issuer-tls",
            Self::Http { .. } => "issuer-http",
            Self::TimedOut { .. } => "issuer-timed-out",
            Self::Redirect { .. } => "issuer-redirects",
            Self::Status { .. } => "issuer-status",
            Self::TooLarge { .. } => "issuer-too-large",
            Self::Discovery { .. } => "issuer-discovery",
            Self::OtherIssuer { .. } => "issuer-other",
            Self::Keys { .. } => "issuer-keys",
            Self::NotKept { .. } => "issuer-keys-not-kept",
        }
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// The keys that an issuer has now.
pub(super) async fn keys(issuer: &Issuer, limits: &Limits, clock: &Arc<dyn Clock>) -> Result<IssuerKeys, FetchError> {
    let tls = Arc::new(client_config(issuer.roots.clone(), clock).await?);
    let own = &issuer.settings.url;
    // OpenID Connect Discovery §4.1: without a slash at the end.
    let url = format!("{}/.well-known/openid-configuration", own.trim_end_matches('/'));
    let document = get(&url, &tls, limits).await?;
    let discovery: Discovery =
        serde_json::from_slice(&document).map_err(|source| FetchError::Discovery { url: url.clone(), source })?;
    if discovery.issuer != *own {
        return Err(FetchError::OtherIssuer { url, found: cut(&discovery.issuer) });
    }
    let document = get(&discovery.jwks_uri, &tls, limits).await?;
    IssuerKeys::parse_jwks(&document).map_err(|source| FetchError::Keys { url: cut(&discovery.jwks_uri), source })
}

/// The roots in a PEM text: at least one certificate, and nothing that cannot be read.
pub(crate) fn roots_of_pem(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate that can be no root: {error}"))?;
    }
    if roots.is_empty() { Err("no certificate is in it".to_owned()) } else { Ok(roots) }
}

async fn client_config(pem: Option<Arc<str>>, clock: &Arc<dyn Clock>) -> Result<ClientConfig, FetchError> {
    let no_roots = |problem: String| FetchError::NoRoots { problem };
    let roots = match pem {
        Some(pem) => roots_of_pem(&pem).map_err(no_roots)?,
        // Reads files.
        None => tokio::task::spawn_blocking(|| {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            let problem = found.errors.first().map_or_else(|| "none is there".to_owned(), ToString::to_string);
            if added == 0 { Err(problem) } else { Ok(roots) }
        })
        .await
        .map_err(|error| no_roots(error.to_string()))?
        .map_err(no_roots)?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(TlsTime::new(clock.clone())));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| no_roots(error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// One document, on a connection of its own.
async fn get(url: &str, tls: &Arc<ClientConfig>, limits: &Limits) -> Result<Bytes, FetchError> {
    let waited = limits.wait;
    match timeout(waited, get_unbounded(url, tls)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(FetchError::TimedOut { url: cut(url), waited }),
    }
}

async fn get_unbounded(url: &str, tls: &Arc<ClientConfig>) -> Result<Bytes, FetchError> {
    let no_url = || FetchError::Url { url: cut(url) };
    let uri: Uri = url.parse().map_err(|_| no_url())?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(no_url)?;
    if uri.scheme_str() != Some("https") {
        return Err(no_url());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| no_url())?;
    let port = authority.port_u16().unwrap_or(443);
    let connect = |source| FetchError::Connect { host: host.clone(), source };
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(connect)?;
    let connector = tokio_rustls::TlsConnector::from(tls.clone());
    let stream =
        connector.connect(name, stream).await.map_err(|source| FetchError::Tls { host: host.clone(), source })?;
    let http = |source| FetchError::Http { host: host.clone(), source };
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await.map_err(http)?;
    let request = http::Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority.as_str())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("bonafide-ca/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| no_url())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http)?;
        read(url, response).await?.map_err(http)
    };
    tokio::pin!(exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        // It may have ended in order, with the whole answer handed over.
        _ = connection => exchange.await,
    }
}

async fn read(url: &str, response: http::Response<Incoming>) -> Result<Result<Bytes, hyper::Error>, FetchError> {
    let status = response.status();
    if status.is_redirection() {
        let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
        return Err(FetchError::Redirect { url: cut(url), to: cut(to) });
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status { url: cut(url), status });
    }
    let mut body = response.into_body();
    let mut document = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) if document.len() + data.len() > IssuerKeys::MAX_BYTES => {
                return Err(FetchError::TooLarge { url: cut(url) });
            }
            Ok(Ok(data)) => document.extend_from_slice(&data),
            // Trailers.
            Ok(Err(_)) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(document.into()))
}

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

/// Status line and header fields of an answer.
const MAX_HEAD: usize = 32 * 1024;
