//! `accept-epoch`: an operator's word that a restored CA is the truth.

use super::{
    Failure,
    output::print,
    socket::{SocketArguments, refused},
};
use crate::generated::local::{AcceptEpochRequest, local_client::LocalClient};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The held epoch, as `status` shows it.
    epoch: String,

    #[command(flatten)]
    socket: SocketArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    arguments.socket.ask(async |channel| {
        let request = AcceptEpochRequest { epoch: arguments.epoch.clone() };
        let answer = LocalClient::new(channel).accept_epoch(request).await;
        answer.map(drop).map_err(|status| refused(&status))
    })?;
    print("accepted; the CA's state of this epoch is applied as soon as it has come\n")
}
