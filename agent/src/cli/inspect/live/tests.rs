//! Servers that show what they should not: somebody else's certificate, or a handshake that never ends.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread::{self, JoinHandle},
};

use bonafide_verifier::{
    clock::Timestamp,
    spiffe::{BundleSet, TrustBundle, TrustDomain},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, string::Ia5String,
};
use rustls::{
    ServerConfig, ServerConnection, Stream,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::*;
use crate::cli::inspect::json;

/// A root of `example.org` and what it signs, good today.
pub(in crate::cli) struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(in crate::cli) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![uri("spiffe://example.org")];
        Self { root: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// A leaf with its root behind it, as our CA presents itself.
    pub(in crate::cli) fn chain(&self, id: &str, key: &KeyPair) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(id)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(key, &self.root).unwrap();
        vec![leaf.der().clone(), self.root.der().clone()]
    }

    pub(in crate::cli) fn root(&self) -> &[u8] {
        self.root.der()
    }

    fn judge(&self) -> Judge {
        let bundle = TrustBundle::parse_der(TrustDomain::parse("example.org").unwrap(), self.root()).unwrap();
        Judge { bundles: Some(BundleSet::empty().with(Arc::new(bundle))), audience: vec![], at: now() }
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub(in crate::cli) fn now() -> Timestamp {
    SystemClock.now()
}

#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A server that shows this chain and signs by this key, for one connection.
fn serve(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> (CaAddress, JoinHandle<()>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider.key_provider.load_private_key(key).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shows(Arc::new(CertifiedKey::new(chain, key)))));
    listen(move |mut socket| {
        let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
        let _ = Stream::new(&mut tls, &mut socket).read(&mut [0]);
    })
}

fn listen(serve: impl FnOnce(TcpStream) + Send + 'static) -> (CaAddress, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = CaAddress::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    (address, thread::spawn(move || serve(listener.accept().unwrap().0)))
}

#[test]
fn a_certificate_without_its_key_proves_nothing() {
    let pki = Pki::new();
    let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let chain = pki.chain("spiffe://example.org/web", &own);

    let (address, server) = serve(chain.clone(), &own);
    let shown = json(&examine(&address, &pki.judge()).unwrap_or_else(|failure| panic!("{failure}")));
    assert_eq!((&shown["verdict"], &shown["spiffe_id"]), (&"accepted".into(), &"spiffe://example.org/web".into()));
    server.join().unwrap();

    let without_bundles = Judge { bundles: None, audience: vec![], at: now() };
    for judge in [pki.judge(), without_bundles] {
        let (address, server) = serve(chain.clone(), &other);
        let shown = json(&examine(&address, &judge).unwrap_or_else(|failure| panic!("{failure}")));
        assert_eq!((&shown["verdict"], &shown["reason"]), (&"refused".into(), &"bad-signature".into()), "{shown}");
        server.join().unwrap();
    }
}

#[test]
fn a_server_that_never_finishes_is_given_up_however_often_it_says_something() {
    // A record of the handshake that announces 16 KiB and comes byte by byte.
    let (address, server) = listen(|mut socket| {
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let mut bytes = vec![22, 3, 3, 64, 0];
        bytes.resize(1 << 14, 2);
        for byte in bytes {
            // Waits a little: for what does not come, or for the other end to be gone.
            if socket.write_all(&[byte]).is_err() || matches!(socket.read(&mut [0; 4096]), Ok(0)) {
                return;
            }
        }
        panic!("nobody gave up");
    });
    match presented(&address, Duration::from_millis(300)) {
        Err(Failure::Unreachable(said)) => assert!(said.contains("no whole answer within 300ms"), "{said}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it presented nothing"),
    }
    server.join().unwrap();
}
