//! Limits of a server, each with what happens there.

use std::{sync::Arc, time::Duration};

use super::ServeCounters;

/// Limits of [`serve`](super::serve()). The defaults suit a service on the network.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Open and unfinished connections together; there the server stops accepting until one ends. Default 20,000.
    pub connections: usize,
    /// Open connections of one [`Origin`](super::Origin); further ones are closed unanswered. Default 2,048; `None`: no such limit.
    pub connections_per_origin: Option<usize>,
    /// Connections whose handshake is unfinished, or whose peer is a [stranger](super::Prepared::stranger) also after it; for one
    /// more, the oldest of them is dropped. Default 1,024.
    pub handshakes: usize,
    /// The same within one origin, so that who floods from one address drops mostly his own. Default 256.
    pub handshakes_per_origin: usize,
    /// Within this a connection must be prepared, whatever the deadlines of the [`Incoming`](super::Incoming) itself; else it
    /// is dropped. Default 15 s.
    pub prepare_deadline: Duration,
    /// HTTP/1.1: within this a request's headers must have come, counted from when the connection could take one (so this
    /// is also how long a kept-alive connection may rest); else it is closed. Default 10 s.
    pub header_deadline: Duration,
    /// A connection without any request in flight is closed after this, or up to a quarter later. Default 60 s.
    pub idle: Duration,
    /// A peer that takes no bytes for this long, while there are some to send, is cut. Default 30 s.
    pub write_stall: Duration,
    /// After `stop`, open connections may finish for this long. Default 10 s.
    pub grace: Duration,
    /// HTTP/2.
    pub http2: Http2Options,
    /// Where this server counts; share it to read it.
    pub counters: Arc<ServeCounters>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_origin: Some(2_048),
            handshakes: 1_024,
            handshakes_per_origin: 256,
            prepare_deadline: Duration::from_secs(15),
            header_deadline: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write_stall: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            http2: Http2Options::default(),
            counters: Arc::default(),
        }
    }
}

/// Limits of HTTP/2 connections (`T-21`).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Http2Options {
    /// Requests at once on a connection; the peer has to wait. Default 256.
    pub concurrent_streams: u32,
    /// Bytes of a request's headers; a longer list is refused. Default 16 KiB.
    pub header_list_bytes: u32,
    /// Streams reset by the peer and not yet seen by the service; above it the connection is closed. Default 20.
    pub pending_resets: usize,
    /// Streams that we had to reset for the peer's mistakes, in the connection's life; above it, it is closed. Default 256.
    pub local_resets: usize,
    /// Bytes that the peer may send ahead on one stream. Default 256 KiB.
    pub stream_window: u32,
    /// Bytes that the peer may send ahead on all streams of a connection. Default 1 MiB.
    pub connection_window: u32,
    /// Bytes of one stream's answer kept for a peer that does not take them; then the handler waits. Default 64 KiB.
    pub send_buffer: usize,
    /// A connection from which nothing came for this long is asked for a sign of life. Default 20 s.
    pub ping_interval: Duration,
    /// Without that sign within this it is closed. Default 10 s.
    pub ping_timeout: Duration,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            concurrent_streams: 256,
            header_list_bytes: 16 * 1024,
            pending_resets: 20,
            local_resets: 256,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            send_buffer: 64 * 1024,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
        }
    }
}
