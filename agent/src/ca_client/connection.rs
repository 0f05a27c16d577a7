//! One open connection to a CA.

use bonafide_ca_api::generated::node::node_api_client::NodeApiClient;
use bonafide_verifier::clock::Timestamp;
use tonic::transport::Channel;

use super::Connection;

/// A connection that the CA has accepted as this node's.
#[derive(Debug)]
pub(crate) struct Live {
    connection: Connection,
    channel: Channel,
    /// SHA-256 of the node key it was made with.
    key: [u8; 32],
    message_bytes: usize,
}

impl Live {
    pub(crate) fn new(
        address: String,
        since: Timestamp,
        channel: Channel,
        key: [u8; 32],
        message_bytes: usize,
    ) -> Self {
        Self { connection: Connection { address, since }, channel, key, message_bytes }
    }

    pub(crate) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    pub(crate) fn address(&self) -> &str {
        &self.connection.address
    }

    /// SHA-256 of the node key it was made with.
    pub(crate) fn key(&self) -> [u8; 32] {
        self.key
    }

    /// The node API over it.
    pub(crate) fn api(&self) -> NodeApiClient<Channel> {
        NodeApiClient::new(self.channel.clone())
            .max_decoding_message_size(self.message_bytes)
            .max_encoding_message_size(self.message_bytes)
    }
}
