//! The way from a command to its CA: the admin socket in the data directory.

use std::io;
use std::path::Path;
use std::time::Duration;

use bonafide_ca_api::Refusal;
use bonafide_ca_api::generated::admin::admin_api_client::AdminApiClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::{At, Failure};
use crate::settings::Settings;

/// A connection to the CA in a data directory.
pub(crate) type Client = AdminApiClient<Channel>;

/// Runs `command` with a connection to the CA that `at` names, on a runtime of its own.
pub(crate) fn with_ca<T, F>(at: &At, command: F) -> Result<T, Failure>
where
    F: AsyncFnOnce(Client) -> Result<T, Failure>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(async { command(connect(&at.data).await?).await })
}

/// Connects to the CA in `data`.
pub(crate) async fn connect(data: &Path) -> Result<Client, Failure> {
    let socket = Settings::admin_socket(data);
    // The first connection is made here, so that its error is the system's and not a transport's.
    let first = UnixStream::connect(&socket).await.map_err(|error| unreachable(data, &error))?;
    let mut first = Some(first);
    let connector = tower::service_fn(move |_| {
        let (first, socket) = (first.take(), socket.clone());
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => UnixStream::connect(socket).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://bonafide-ca").timeout(CALL_TIMEOUT);
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::Unreachable(format!("the CA in `{}` does not answer: {error}", data.display())))?;
    Ok(AdminApiClient::new(channel).max_decoding_message_size(MAX_ANSWER))
}

/// The answer of a call, or the failure that its status means.
pub(crate) fn answer<T>(result: Result<Response<T>, Status>) -> Result<T, Failure> {
    result.map(Response::into_inner).map_err(|status| {
        if let Some(refusal) = Refusal::from_status(&status) {
            return match status.code() {
                Code::Unavailable => Failure::Unreachable(refusal.to_string()),
                Code::Internal => Failure::Failed(refusal.to_string()),
                _ => Failure::Refused { message: refusal.message, code: refusal.code },
            };
        }
        let message = super::output::printable(status.message());
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                Failure::Unreachable(format!("the CA stopped answering: {message}"))
            }
            Code::Unimplemented => {
                Failure::Failed("the running CA does not know this command; it has another version".to_owned())
            }
            _ => Failure::Failed(format!("the CA could not do it: {message}")),
        }
    })
}

/// What a failed connection means for the person who typed the command.
fn unreachable(data: &Path, error: &io::Error) -> Failure {
    let socket = Settings::admin_socket(data);
    let (socket, data) = (socket.display(), data.display());
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::Unreachable(format!(
            "no CA answers at `{socket}`; is `bonafide-ca run --data {data}` running? (`--data` or BONAFIDE_DATA names its directory)"
        )),
        io::ErrorKind::PermissionDenied => Failure::Refused {
            message: format!(
                "`{socket}` is only for the user who runs the CA and for root; run the command as one of them"
            ),
            code: "not-administrator".to_owned(),
        },
        _ => Failure::Unreachable(format!("cannot connect to the CA at `{socket}`: {error}")),
    }
}

/// Longer than any command takes; a CA whose disk hangs is told from one that works.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER: usize = 16 * 1024 * 1024;
