//! Handshakes and the end of connections, over loopback and in memory.

mod anonymous;
mod endings;
mod handshakes;
mod http;
mod keys;
mod old_bugs;

use std::sync::Arc;

use tokio::{
    io::DuplexStream,
    net::{TcpListener, TcpStream},
};

use super::{
    AcceptError, Acceptor, AcceptorOptions, ConnectError, Connector, ConnectorOptions, PeerSet, SecuredStream,
    fixtures::{Authority, clock},
};
use crate::{
    clock::{Clock, ManualClock},
    identity::{Identity, Publisher},
    spiffe::BundleSet,
    x509::X509Svid,
};

/// One trust domain, a clock, and what is needed to connect within it.
struct World {
    authority: Authority,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        Self { authority: Authority::new("example.org"), clock: clock() }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    fn bundles(&self) -> BundleSet {
        Authority::bundles(&[&self.authority])
    }

    /// An identity for an hour.
    fn identity(&self, path: &str) -> Identity {
        self.published(path, 3_600).0
    }

    fn published(&self, path: &str, seconds: u64) -> (Identity, Publisher) {
        self.published_as(self.authority.svid(path, seconds))
    }

    fn published_as(&self, svid: X509Svid) -> (Identity, Publisher) {
        let (identity, publisher) = Identity::published(self.clock());
        publisher.publish(Some(svid), self.bundles());
        (identity, publisher)
    }
}

fn set(text: &str) -> PeerSet {
    PeerSet::parse(text.split(' ')).unwrap()
}

fn acceptor(identity: &Identity, callers: &str) -> Acceptor {
    Acceptor::new(identity, set(callers), AcceptorOptions::default()).unwrap()
}

fn connector(identity: &Identity, expected: &str) -> Connector {
    Connector::new(identity, set(expected), ConnectorOptions::default()).unwrap()
}

type Accepted = Result<SecuredStream<DuplexStream>, AcceptError>;
type Connected = Result<SecuredStream<DuplexStream>, ConnectError>;

/// Both ends of one handshake in memory.
async fn meet(connector: &Connector, acceptor: &Acceptor) -> (Connected, Accepted) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    // In TLS 1.3 the client is done before the server has judged it.
    tokio::join!(connector.connect_over(ours, "server.test"), acceptor.accept(theirs))
}

async fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await.unwrap().0 });
    (client.unwrap(), server)
}
