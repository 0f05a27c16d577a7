//! Health and metrics over HTTP: on `DATA/health.sock`, and on TCP only when asked for.
//!
//! | path | answer |
//! | --- | --- |
//! | `/livez` | 200 while the process answers at all |
//! | `/readyz` | 200, or 503 when a part is unready; each that is not ready with its reason, every one with `?verbose` |
//! | `/readyz/PART` | the same for one part; 404 for no such part |
//! | `/metrics` | OpenMetrics |
//!
//! Nothing in the answers is a secret, and nothing names a service.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use axum::{
    Router,
    extract::{Path as UrlPath, RawQuery, State as AppState},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bonafide_verifier::serve::{self, Incoming, Origin, PrepareError, Prepared, ServeOptions};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{Health, Part, PartHealth, State};
use crate::metrics::{CONTENT_TYPE, Metrics};

/// Why health cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HealthListenError {
    #[error("health cannot be served on `{path}`; is the path longer than 107 bytes, or the disk full?")]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("health cannot be served on `{address}` (--health-listen)")]
    Tcp {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// The listeners, bound and not yet served.
#[derive(Debug)]
pub(crate) struct HealthServer {
    unix: UnixListener,
    tcp: Option<TcpListener>,
    file: SocketFile,
}

/// Removes the socket's file when the server ends, however that is.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl HealthServer {
    /// Binds. The directory of `path` is this process's own and locked, so what lies there is left over.
    pub(crate) async fn bind(path: &Path, tcp: Option<SocketAddr>) -> Result<Self, HealthListenError> {
        let refuse = |source| HealthListenError::Socket { path: path.into(), source };
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refuse(error)),
        }
        let unix = UnixListener::bind(path).map_err(refuse)?;
        let file = SocketFile(path.into());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(refuse)?;
        let tcp = match tcp {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|source| HealthListenError::Tcp { address, source })?)
            }
            None => None,
        };
        Ok(Self { unix, tcp, file })
    }

    /// The TCP address in use, for those who asked for port 0.
    pub(crate) fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }

    /// Serves until `stop`.
    pub(crate) async fn serve(self, health: Health, metrics: Metrics, stop: CancellationToken) {
        let routes = router(health, metrics);
        let tcp = async {
            if let Some(listener) = self.tcp {
                serve::serve(PlainTcp(listener), routes.clone(), options(), stop.clone()).await;
            }
        };
        let unix = serve::serve(PlainUnix(self.unix), routes.clone(), options(), stop.clone());
        tokio::join!(tcp, unix);
        drop(self.file);
    }
}

fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/live", get(live))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/ready", get(ready))
        .route("/readyz/{part}", get(ready_part))
        .route("/metrics", get(text))
        .with_state((health, metrics))
}

async fn live() -> &'static str {
    "ok\n"
}

/// 200 unless a part is unready; which and why, if not, or with `?verbose`.
async fn ready(AppState((health, _)): AppState<(Health, Metrics)>, RawQuery(query): RawQuery) -> Response {
    let verbose =
        query.is_some_and(|query| query.split('&').any(|key| key == "verbose" || key.starts_with("verbose=")));
    let parts = health.parts();
    let worst = parts.iter().map(|part| part.state).max().unwrap_or(State::Ready);
    let shown = parts.iter().filter(|part| verbose || part.state != State::Ready);
    let mut body: String = shown.map(describe).collect();
    body.push_str(match worst {
        State::Ready => "ok\n",
        State::Degraded => "ok, degraded\n",
        State::Unready => "not ready\n",
    });
    (status_of(worst), body).into_response()
}

async fn ready_part(AppState((health, _)): AppState<(Health, Metrics)>, UrlPath(name): UrlPath<String>) -> Response {
    match Part::ALL.into_iter().find(|part| part.name() == name) {
        Some(part) => {
            let part = health.part(part);
            (status_of(part.state), describe(&part)).into_response()
        }
        None => {
            let known: Vec<&str> = Part::ALL.into_iter().map(Part::name).collect();
            (StatusCode::NOT_FOUND, format!("no such part; there are {}\n", known.join(", "))).into_response()
        }
    }
}

async fn text(AppState((health, metrics)): AppState<(Health, Metrics)>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.text(&health)).into_response()
}

fn describe(part: &PartHealth) -> String {
    let reason = if part.reason.is_empty() { String::new() } else { format!(": {}", part.reason) };
    let sign = match part.state {
        State::Ready => '+',
        State::Degraded => '!',
        State::Unready => '-',
    };
    format!("[{sign}] {} {}{reason}\n", part.part.name(), part.state.name())
}

fn status_of(state: State) -> StatusCode {
    match state {
        State::Ready | State::Degraded => StatusCode::OK,
        State::Unready => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn options() -> ServeOptions {
    let mut options = ServeOptions::default();
    options.connections = 64;
    options.handshakes = 64;
    options.grace = std::time::Duration::from_secs(1);
    options
}

struct PlainUnix(UnixListener);

impl Incoming for PlainUnix {
    type Raw = UnixStream;
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.0.accept().await.map(|(stream, _)| stream)
    }

    async fn prepare(&self, raw: UnixStream) -> Result<Prepared<UnixStream>, PrepareError> {
        Ok(Prepared::new(raw))
    }
}

struct PlainTcp(TcpListener);

impl Incoming for PlainTcp {
    type Raw = (TcpStream, SocketAddr);
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }

    fn origin(&self, raw: &(TcpStream, SocketAddr)) -> Option<Origin> {
        Some(Origin::of(raw.1.ip()))
    }

    async fn prepare(&self, raw: (TcpStream, SocketAddr)) -> Result<Prepared<TcpStream>, PrepareError> {
        Ok(Prepared::new(raw.0))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(path: &Path, url: &str) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        let request = format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_is_told_by_part_and_by_status() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("health.sock");
        std::fs::write(&path, b"left over").unwrap();
        let (health, stop) = (Health::new(), CancellationToken::new());
        let server = HealthServer::bind(&path, Some("127.0.0.1:0".parse().unwrap())).await.unwrap();
        assert_ne!(server.tcp_address().unwrap().port(), 0);
        let served = tokio::spawn(server.serve(health.clone(), Metrics::new(), stop.clone()));
        assert!(get(&path, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(&path, "/readyz").await.starts_with("HTTP/1.1 503"));
        for part in Part::ALL {
            health.set(part, State::Ready, "");
        }
        health.set(Part::CaConnection, State::Degraded, "no CA answers");
        let ready = get(&path, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        assert!(ready.ends_with("\r\n\r\n[!] ca-connection degraded: no CA answers\nok, degraded\n"), "{ready}");
        assert!(get(&path, "/readyz?verbose").await.contains("\n[+] sync ready\n"));
        assert!(get(&path, "/readyz/ca-connection").await.starts_with("HTTP/1.1 200"));
        assert!(get(&path, "/readyz/nothing").await.starts_with("HTTP/1.1 404"));
        assert!(get(&path, "/metrics").await.contains("bonafide_agent_health{part=\"ca-connection\"} 1"));
        stop.cancel();
        served.await.unwrap();
        assert!(!path.exists());
    }
}
