//! What bounds the node API, and what happens at each bound.

use std::time::Duration;

use crate::quota::QuotaLimits;

/// The bounds of the node API.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once; beyond it the kernel's backlog holds new ones. A node needs one or two.
    pub connections: usize,
    /// Connections of one address at once; beyond it the oldest one that has not authenticated itself is dropped, then new
    /// ones are. Many nodes may be behind one address.
    pub connections_per_address: Option<usize>,
    /// Streams on one connection at once; beyond it HTTP/2 makes the client wait.
    pub streams_per_connection: u32,
    /// The largest message of a peer that has only proved a key. A larger one is refused before it is read.
    pub key_message_bytes: usize,
    /// The largest message of a node, but for its hello. A larger one is refused before it is read.
    pub node_message_bytes: usize,
    /// The largest hello. It names each service that the node holds, in some 50 bytes; so many as the CA takes on must fit.
    pub hello_bytes: usize,
    /// The largest message to a node: the whole state of a node. A larger one is not sent, and ends the stream.
    pub update_bytes: usize,
    /// Items in one request for X.509-SVIDs; a larger request is refused.
    pub batch: usize,
    /// How long a call may take, its message included, but for sync. At its end it is refused; a record may then tell of a
    /// document that was never handed out.
    pub call: Duration,
    /// How long an answer to Delegate waits for the nodes that are connected. At its end it goes out: a verifier that was not told asks
    /// its own agent.
    pub rollout: Duration,
    /// How long a sync stream may take to say hello. At its end it is refused.
    pub hello: Duration,
    /// How often an idle connection is asked whether the peer is there. HTTP/2 ping; the transport adds jitter.
    pub ping_interval: Duration,
    /// How long the peer may take to answer; a connection that does not is closed. With the interval at most 30 s.
    pub ping_timeout: Duration,
    /// How long a stop waits for calls to finish before connections are cut.
    pub grace: Duration,
    /// By how much the clocks of node and CA may differ before both say so.
    pub clock_difference: Duration,
    /// Shares of nodes and addresses.
    pub quota: QuotaLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            connections_per_address: None,
            streams_per_connection: 32,
            key_message_bytes: 4 * 1024,
            node_message_bytes: 1024 * 1024,
            hello_bytes: 4 * 1024 * 1024,
            update_bytes: 16 * 1024 * 1024,
            batch: 256,
            call: Duration::from_secs(20),
            rollout: Duration::from_secs(60),
            hello: Duration::from_secs(10),
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(8),
            clock_difference: Duration::from_secs(10),
            quota: QuotaLimits::default(),
        }
    }
}
