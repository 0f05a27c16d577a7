//! What does it cost to know who the peer is? An mTLS handshake with both sides in memory: our configurations and
//! `Identity::peer` on both sides, against rustls with its WebPki verifiers, which say only that the chain is good.
//! The chains are those that a CA has issued: leaf and issuing authority. No resumption, the same suites.

use std::{hint::black_box, sync::Arc};

use bonafide_tests::measure::{
    self, Figure, Goal, bare, fleet,
    issued::{Issued, issued},
};
use bonafide_verifier::{
    clock::{Clock, SystemClock},
    identity::Identity,
    spiffe::BundleSet,
    tls::{PeerSet, client_config_handshake_only, server_config_handshake_only},
    x509::{self, PresentedChain, X509Svid},
};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection,
    pki_types::{ServerName, UnixTime},
};

/// Handshakes in one measurement.
const BATCH: u32 = 25;

fn main() {
    let issued = issued(&["web", "photo"]);
    let (web, photo) = (&issued.svids[0], &issued.svids[1]);
    let ours = Ours::new(web, photo, &issued.bundles);
    let theirs = (bare::client_config(web, &issued.root), bare::server_config(photo, &issued.root));
    let rounds = measure::rounds(120);

    measure::heading("mTLS handshake, both sides, processor time");
    let plain = || per_handshake(|| drop(black_box(connect(&theirs.0, &theirs.1))));
    let strangers = || {
        let taken = (0..BATCH).map(|_| {
            // Forgetting is the benchmark's part, and not counted.
            ours.client.verified_chains().clear();
            ours.server.verified_chains().clear();
            measure::cpu_micros(|| ours.handshake())
        });
        taken.sum::<f64>() / f64::from(BATCH)
    };
    let first = measure::paired(rounds, strangers, plain);
    Figure::paired("handshake/first-contact", first, "us", Goal::RatioAtMost(1.05)).print();
    let again = measure::paired(rounds, || per_handshake(|| ours.handshake()), plain);
    Figure::paired("handshake/peer-seen-before", again, "us", Goal::RatioAtMost(0.70)).print();
    // What the second must still do: everything but the two chains.
    parts(&issued, rounds);
}

/// The parts that explain the figures.
fn parts(issued: &Issued, rounds: usize) {
    let chain = issued.svids[1].chain();
    let presented = PresentedChain::leaf_first(chain).expect("a chain");
    let now = SystemClock.now();
    let verifier = {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(issued.root.as_slice().into()).expect("the root");
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), bare::provider())
            .build()
            .expect("rustls' server verifier")
    };
    let name = ServerName::try_from(fleet::DNS_NAME).expect("a name");
    let webpki = || {
        per_handshake(|| {
            use rustls::client::danger::ServerCertVerifier;
            let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.unix_seconds().unsigned_abs()));
            verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], time).expect("a good chain");
        })
    };
    let verify =
        || per_handshake(|| drop(black_box(x509::verify(&presented, &issued.bundles, now).expect("a good chain"))));
    let pair = measure::paired(rounds, verify, webpki);
    Figure::paired("handshake/part/verify-a-chain", pair, "us", Goal::None).print();
    let chains = x509::VerifiedChains::new(16);
    let hit = || {
        per_handshake(|| {
            drop(black_box(chains.verify(&presented, 1, &issued.bundles, now).expect("a good chain")));
        })
    };
    let pair = measure::paired(rounds, hit, webpki);
    Figure::paired("handshake/part/verify-a-chain-again", pair, "us", Goal::None).print();
}

fn per_handshake(mut one: impl FnMut()) -> f64 {
    let total = measure::cpu_micros(|| {
        for _ in 0..BATCH {
            one();
        }
    });
    total / f64::from(BATCH)
}

struct Ours {
    client: Identity,
    server: Identity,
    client_config: Arc<ClientConfig>,
    server_config: Arc<ServerConfig>,
}

impl Ours {
    fn new(web: &X509Svid, photo: &X509Svid, bundles: &BundleSet) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let client = Identity::fixed(web.clone(), bundles.clone(), clock.clone());
        let server = Identity::fixed(photo.clone(), bundles.clone(), clock);
        let mut client_config =
            client_config_handshake_only(&client, PeerSet::id(photo.id().clone())).expect("a configuration");
        let mut server_config =
            server_config_handshake_only(&server, PeerSet::id(web.id().clone())).expect("a configuration");
        client_config.alpn_protocols = vec![b"h2".to_vec()];
        server_config.alpn_protocols = vec![b"h2".to_vec()];
        Self { client, server, client_config: Arc::new(client_config), server_config: Arc::new(server_config) }
    }

    /// A handshake, and who the other is, on both sides.
    fn handshake(&self) {
        let (client, server) = connect(&self.client_config, &self.server_config);
        black_box(self.client.peer(&client).expect("the server"));
        black_box(self.server.peer(&server).expect("the client"));
    }
}

fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (ClientConnection, ServerConnection) {
    let name = ServerName::try_from(fleet::DNS_NAME).expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("a client");
    let mut server = ServerConnection::new(Arc::clone(server)).expect("a server");
    let mut wire = Vec::with_capacity(8 * 1024);
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        let mut read = wire.as_slice();
        while !read.is_empty() {
            server.read_tls(&mut read).expect("memory");
            server.process_new_packets().expect("the server goes on");
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        let mut read = wire.as_slice();
        while !read.is_empty() {
            client.read_tls(&mut read).expect("memory");
            client.process_new_packets().expect("the client goes on");
        }
    }
    (client, server)
}
