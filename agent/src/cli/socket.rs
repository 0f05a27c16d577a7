//! Asking the agent on its socket, as any workload does.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{Failure, output::printable};
use crate::settings;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct SocketArguments {
    /// The agent's socket, a path or `unix:///path`. [default: $SPIFFE_ENDPOINT_SOCKET, else /run/bonafide/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<String>,

    /// How long to wait for an answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) timeout: u64,
}

/// Every request carries the header that tells it from one that a browser was tricked into (WEP-05).
#[derive(Clone, Copy, Debug)]
pub(super) struct SecurityHeader;

impl Interceptor for SecurityHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        Ok(request)
    }
}

pub(super) type AgentChannel = InterceptedService<Channel, SecurityHeader>;

impl SocketArguments {
    /// The socket's path: the flag, then `SPIFFE_ENDPOINT_SOCKET` (WEP-08..10), then the default.
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        let from_environment = std::env::var_os(ENDPOINT).filter(|value| !value.is_empty());
        let (origin, text) = match (&self.socket, from_environment) {
            (Some(text), _) => ("--socket", text.clone()),
            (None, Some(value)) => {
                let text = value.into_string().map_err(|_| Failure::Usage(format!("{ENDPOINT} is not UTF-8")))?;
                if !text.starts_with("unix:") {
                    return Err(Failure::Usage(format!("{ENDPOINT}=`{}`: must be `unix:///path`", printable(&text))));
                }
                (ENDPOINT, text)
            }
            (None, None) => return Ok(settings::DEFAULT_SOCKET.into()),
        };
        settings::socket_path(&text).map_err(|why| Failure::Usage(format!("{origin}=`{}`: {why}", printable(&text))))
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Connects, asks, and ends within the time given.
    pub(super) fn ask<T>(&self, question: impl AsyncFnOnce(AgentChannel) -> Result<T, Failure>) -> Result<T, Failure> {
        let path = self.path()?;
        let bound = self.timeout();
        runtime()?.block_on(async {
            let asked = async {
                let channel = connect(&path).await?;
                question(InterceptedService::new(channel, SecurityHeader)).await
            };
            timeout(bound, asked).await.unwrap_or_else(|_| {
                Err(Failure::Unreachable(format!(
                    "the agent at `{}` did not answer within {} s; see its log, or `bonafide-agent doctor`",
                    path.display(),
                    bound.as_secs()
                )))
            })
        })
    }
}

/// A runtime for one command.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))
}

async fn connect(path: &Path) -> Result<Channel, Failure> {
    // Connected by hand first: the system's word on it says more than the transport's.
    let stream = UnixStream::connect(path).await.map_err(|error| unreachable(path, &error))?;
    let mut stream = Some(stream);
    let again = path.to_path_buf();
    let connector = tower::service_fn(move |_| {
        let (first, again) = (stream.take(), again.clone());
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => UnixStream::connect(again).await?,
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://agent")
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::Unreachable(format!("the agent at `{}` does not answer: {error}", path.display())))
}

fn unreachable(path: &Path, error: &std::io::Error) -> Failure {
    let advice = match error.kind() {
        std::io::ErrorKind::NotFound => "is the agent running, and is this its `--socket`?",
        std::io::ErrorKind::ConnectionRefused => "the socket is there and nobody serves it; is the agent running?",
        std::io::ErrorKind::PermissionDenied => "the way to the socket is closed to this user",
        _ => "is the agent running?",
    };
    Failure::Unreachable(format!("cannot reach the agent at `{}`: {error}; {advice}", path.display()))
}

/// What a status of the agent means for a command. The agent's explanation is shown as it is.
pub(super) fn refused(status: &Status) -> Failure {
    let text = printable(status.message());
    match status.code() {
        Code::PermissionDenied | Code::FailedPrecondition | Code::Unauthenticated => Failure::Refused(text),
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => {
            Failure::Unreachable(text)
        }
        Code::InvalidArgument => Failure::Usage(text),
        Code::Unimplemented => {
            Failure::Failed(format!("the agent does not know this command; is it older than this program? {text}"))
        }
        code => Failure::Failed(format!("{text} ({code:?})")),
    }
}

const ENDPOINT: &str = "SPIFFE_ENDPOINT_SOCKET";
