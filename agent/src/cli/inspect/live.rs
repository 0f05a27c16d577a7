//! A live server: what it presents in a TLS handshake. This client has no certificate, sends nothing, and believes nothing; it
//! does check that the server has the key of the certificate it shows.

use std::{
    io,
    net::{TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bonafide_ca_api::CaAddress;
use bonafide_verifier::clock::{SystemClock, TlsTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{super::Failure, Judge, Report, chain};

pub(super) fn examine(address: &CaAddress, judge: &Judge) -> Result<Report, Failure> {
    let presented = presented(address)?;
    let mut report = chain::examine(&presented.chain, judge);
    report.rows.insert(0, ("server", format!("{address}, {}", presented.protocol)));
    report.json.insert("server".into(), address.to_string().into());
    report.json.insert("protocol".into(), presented.protocol.into());
    Ok(report)
}

/// What a server showed.
pub(in crate::cli) struct Presented {
    pub(in crate::cli) chain: Vec<CertificateDer<'static>>,
    protocol: String,
}

/// Asks a server for its chain.
pub(in crate::cli) fn presented(address: &CaAddress) -> Result<Presented, Failure> {
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
    let mut socket = connect(address).map_err(|error| unreachable(error.to_string()))?;
    let mut outcome = Ok(());
    while tls.is_handshaking() {
        if let Err(error) = tls.complete_io(&mut socket) {
            outcome = Err(error);
            break;
        }
    }
    let chain = std::mem::take(&mut *witness.seen.lock().unwrap_or_else(PoisonError::into_inner));
    match (chain.is_empty(), outcome) {
        // A server that wants a client certificate ends the connection after it has shown its own.
        (false, _) => {
            let version = tls.protocol_version().and_then(|version| version.as_str().map(str::to_owned));
            Ok(Presented { chain, protocol: version.unwrap_or_else(|| "TLS".into()) })
        }
        (true, Err(error)) => Err(unreachable(format!("the TLS handshake failed: {error}"))),
        (true, Ok(())) => Err(unreachable("the server presented no certificate".into())),
    }
}

fn connect(address: &CaAddress) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in (address.host(), address.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, DEADLINE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Takes note of what is presented, and of nothing else.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
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
        let mut seen = vec![end_entity.clone().into_owned()];
        seen.extend(intermediates.iter().map(|certificate| certificate.clone().into_owned()));
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const DEADLINE: Duration = Duration::from_secs(5);
