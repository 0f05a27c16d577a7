//! A live server: what it presents in a TLS handshake. This client has no certificate, sends nothing, and believes nothing; it
//! does check that the server has the key of the certificate it shows.

use std::{
    io,
    net::{TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bonafide_ca_api::CaAddress;
use bonafide_verifier::clock::{Clock, SystemClock, TlsTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{super::Failure, Judge, Report, Verdict, chain};

pub(super) fn examine(address: &CaAddress, judge: &Judge) -> Result<Report, Failure> {
    let presented = presented(address, DEADLINE)?;
    let mut report = chain::examine(&presented.chain, judge);
    report.rows.insert(0, ("server", format!("{address}, {}", presented.protocol)));
    report.json.insert("server".into(), address.to_string().into());
    report.json.insert("protocol".into(), presented.protocol.into());
    // Certificates are public: whoever shows one without its key is nobody. A flaw of the chain itself is told first.
    if let Some(why) = presented.unproved
        && !matches!(report.verdict, Some(Verdict::Refused { .. }))
    {
        let message = format!("the server did not prove that it has the key of the certificate it shows: {why}");
        report.verdict = Some(Verdict::refused("bad-signature", message));
    }
    Ok(report)
}

/// What a server showed.
pub(in crate::cli) struct Presented {
    pub(in crate::cli) chain: Vec<CertificateDer<'static>>,
    /// Why it is not known to have the leaf's key; absent if it has signed the handshake by it.
    pub(in crate::cli) unproved: Option<String>,
    pub(in crate::cli) protocol: String,
}

/// Asks a server for its chain, for `within` at most, however slowly it answers.
pub(in crate::cli) fn presented(address: &CaAddress, within: Duration) -> Result<Presented, Failure> {
    let unreachable = |why: String| Failure::Unreachable(format!("`{address}`: {why}"));
    let name = ServerName::try_from(address.host().to_owned())
        .map_err(|_| Failure::Usage(format!("`{address}` has no usable host name")))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let witness = Arc::new(Witness { provider: Arc::clone(&provider), seen: Mutex::default() });
    let mut config =
        ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(TlsTime::new(Arc::new(SystemClock))))
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::Failed(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(|error| Failure::Failed(error.to_string()))?;
    let waiting = Waiting { until: SystemClock.boot() + within, within };
    let mut socket = connect(address, &waiting).map_err(|error| unreachable(error.to_string()))?;
    let outcome = handshake(&mut tls, &mut socket, &waiting);
    let Seen { chain, proved } = std::mem::take(&mut *witness.seen());
    let version = tls.protocol_version().and_then(|version| version.as_str().map(str::to_owned));
    let protocol = version.unwrap_or_else(|| "TLS".into());
    match outcome {
        Err(error) if chain.is_empty() => Err(unreachable(format!("the TLS handshake failed: {error}"))),
        Ok(()) if chain.is_empty() => Err(unreachable("the server presented no certificate".into())),
        // A server that wants a client certificate ends the connection after it has shown and proved its own.
        _ if proved => Ok(Presented { chain, unproved: None, protocol }),
        Err(error) => Ok(Presented { chain, unproved: Some(error.to_string()), protocol }),
        Ok(()) => Ok(Presented { chain, unproved: Some("it signed nothing".into()), protocol }),
    }
}

/// How long a server may take for everything together.
struct Waiting {
    /// By the boot clock.
    until: Duration,
    within: Duration,
}

impl Waiting {
    /// What is left, or that nothing is.
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_sub(SystemClock.boot());
        if left.is_zero() { Err(self.over()) } else { Ok(left) }
    }

    fn over(&self) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, format!("no whole answer within {:?}", self.within))
    }

    /// A socket that gave up waiting says so in its own words.
    fn explain(&self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.over(),
            _ => error,
        }
    }
}

fn connect(address: &CaAddress, waiting: &Waiting) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in (address.host(), address.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, waiting.left()?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = waiting.explain(error),
        }
    }
    Err(last)
}

/// The handshake, step by step: rustls' own loop would begin a new wait with each byte that arrives.
fn handshake(tls: &mut ClientConnection, socket: &mut TcpStream, waiting: &Waiting) -> io::Result<()> {
    while tls.is_handshaking() || tls.wants_write() {
        let left = waiting.left()?;
        socket.set_read_timeout(Some(left))?;
        socket.set_write_timeout(Some(left))?;
        if tls.wants_write() {
            tls.write_tls(socket).map_err(|error| waiting.explain(error))?;
            continue;
        }
        if tls.read_tls(socket).map_err(|error| waiting.explain(error))? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the connection"));
        }
        tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    Ok(())
}

/// Takes note of what is presented, and of nothing else.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    /// The handshake was signed by the leaf's key.
    proved: bool,
}

impl Witness {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(
        &self,
        checked: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.seen().proved = checked.is_ok();
        checked
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut chain = vec![end_entity.clone().into_owned()];
        chain.extend(intermediates.iter().map(|certificate| certificate.clone().into_owned()));
        *self.seen() = Seen { chain, proved: false };
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.note(verify_tls12_signature(message, certificate, signature, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.note(verify_tls13_signature(message, certificate, signature, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// For a server that is there.
pub(in crate::cli) const DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
pub(in crate::cli) mod tests;
