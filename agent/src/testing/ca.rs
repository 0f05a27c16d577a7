//! A CA for tests, in memory: issues what a view says, with real certificates and tokens, or fails as it is told.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    spiffe::{BundleSet, JwtAuthority, TrustBundle, TrustDomain},
};
use data_encoding::BASE64URL_NOPAD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    ca_client::{CaError, IssuedJwt, IssuedX509, ItemRefusal, X509Request},
    renewal::{Authority, Boxed, Keep},
    runtime_state::KeptSvid,
    view::{Service, View, ViewStore},
};

/// How the CA is today.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mood {
    Issues,
    /// Connections are refused.
    Away,
    /// Connections are taken, answers never come.
    Silent,
    /// Every item is refused, with this hint.
    Refuses(Option<Duration>),
    /// Certifies another SPIFFE ID than the service's.
    WrongId,
    /// Signs by a root that is in nobody's bundle.
    UnknownRoot,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct TestCa {
    clock: Arc<dyn Clock>,
    pub(crate) views: ViewStore,
    mood: Mutex<Mood>,
    authorities: Authorities,
    strange: Authorities,
    pub(crate) x509_calls: AtomicU64,
    pub(crate) x509_items: AtomicU64,
    pub(crate) jwt_calls: AtomicU64,
    connections: watch::Sender<u64>,
}

#[derive(Debug)]
struct Authorities {
    issuing: Vec<u8>,
    issuing_key: KeyPair,
    jwt_key: EcdsaKeyPair,
    bundle: Arc<TrustBundle>,
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

impl TestCa {
    pub(crate) fn new(clock: Arc<dyn Clock>, views: ViewStore) -> Arc<TestCa> {
        let now = clock.now();
        Arc::new(TestCa {
            clock,
            views,
            mood: Mutex::new(Mood::Issues),
            authorities: Authorities::new(&trust_domain(), now, 1),
            strange: Authorities::new(&trust_domain(), now, 1),
            x509_calls: AtomicU64::new(0),
            x509_items: AtomicU64::new(0),
            jwt_calls: AtomicU64::new(0),
            connections: watch::Sender::new(0),
        })
    }

    pub(crate) fn set(&self, mood: Mood) {
        let before = std::mem::replace(&mut *self.mood.lock().unwrap(), mood);
        if before == Mood::Away && mood != Mood::Away {
            self.connections.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    pub(crate) fn bundle(&self) -> Arc<TrustBundle> {
        self.authorities.bundle.clone()
    }

    pub(crate) fn bundles(&self) -> BundleSet {
        std::iter::once(self.bundle()).collect()
    }

    /// Publishes a view that holds these services and the CA's bundle.
    pub(crate) fn publish(&self, services: Vec<Arc<Service>>) {
        self.publish_with(services, self.bundles());
    }

    pub(crate) fn publish_with(&self, services: Vec<Arc<Service>>, bundles: BundleSet) {
        let version = self.views.snapshot().position().map_or(1, |position| position.version + 1);
        let position = crate::view::Position { epoch: "e".into(), version };
        self.views.publish(View::new(trust_domain(), position, services, bundles));
    }

    fn service(&self, id: &str) -> Option<Arc<Service>> {
        self.views.snapshot().service(id).cloned()
    }

    fn certify(&self, service: &Service, public_key: &[u8]) -> IssuedX509 {
        let mut id = service.spiffe_id.to_string();
        let mut authorities = &self.authorities;
        match self.mood() {
            Mood::WrongId => id.push_str("-not"),
            Mood::UnknownRoot => authorities = &self.strange,
            _ => {}
        }
        let now = self.clock.now();
        let mut leaf = params(now, service.x509_ttl);
        leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        leaf.subject_alt_names
            .extend(service.dns_names.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap())));
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.use_authority_key_identifier_extension = true;
        let issuer_params = authority_params(&trust_domain(), now, "issuing");
        let issuer = Issuer::from_params(&issuer_params, &authorities.issuing_key);
        let key = SubjectPublicKeyInfo::from_der(public_key).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        IssuedX509 { chain: vec![leaf.der().to_vec(), authorities.issuing.clone()] }
    }

    /// A token of this CA over any claims.
    pub(crate) fn sign(&self, claims: &serde_json::Value) -> String {
        let header = json!({ "alg": "ES256", "kid": KEY_ID, "typ": "JWT" });
        let encode = |value: &serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let input = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.authorities.jwt_key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }

    fn unreachable(&self) -> CaError {
        CaError::NotConnected { waited: Duration::from_secs(2) }
    }
}

impl Authority for TestCa {
    fn issue_x509(
        &self,
        requests: Vec<X509Request>,
    ) -> Boxed<'_, Result<Vec<Result<IssuedX509, ItemRefusal>>, CaError>> {
        self.x509_calls.fetch_add(1, Ordering::Relaxed);
        self.x509_items.fetch_add(requests.len() as u64, Ordering::Relaxed);
        Box::pin(async move {
            let refusal = |retry_after| {
                Err(ItemRefusal {
                    reason: "quota".into(),
                    message: "this node has used up its share".into(),
                    retry_after,
                })
            };
            match self.mood() {
                Mood::Away => return Err(self.unreachable()),
                Mood::Silent => std::future::pending().await,
                _ => {}
            }
            let result = |request: X509Request| match (self.mood(), self.service(&request.service_id)) {
                (Mood::Refuses(hint), _) => refusal(hint),
                (_, Some(service)) => Ok(self.certify(&service, &request.public_key)),
                (_, None) => refusal(None),
            };
            Ok(requests.into_iter().map(result).collect())
        })
    }

    fn issue_jwt<'a>(&'a self, service_id: &'a str, audience: &'a [String]) -> Boxed<'a, Result<IssuedJwt, CaError>> {
        self.jwt_calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            match self.mood() {
                Mood::Away | Mood::Refuses(_) => return Err(self.unreachable()),
                Mood::Silent => std::future::pending().await,
                _ => {}
            }
            let service = self.service(service_id).ok_or_else(|| self.unreachable())?;
            let now = self.clock.now();
            let not_after = now.saturating_add(service.jwt_ttl);
            let seconds = |at: Timestamp| at.unix_millis() / 1000;
            let claims = json!({ "sub": service.spiffe_id.as_str(), "aud": audience, "iat": seconds(now), "exp": seconds(not_after) });
            Ok(IssuedJwt { token: self.sign(&claims), not_after })
        })
    }

    fn reconnected(&self) -> Boxed<'static, ()> {
        let mut connections = self.connections.subscribe();
        Box::pin(async move {
            if connections.changed().await.is_err() {
                std::future::pending().await
            }
        })
    }
}

impl Authorities {
    fn new(trust_domain: &TrustDomain, now: Timestamp, sequence: u64) -> Authorities {
        let (root_key, issuing_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root_params = authority_params(trust_domain, now, "root");
        let root = root_params.self_signed(&root_key).unwrap().der().to_vec();
        let mut issuing_params = authority_params(trust_domain, now, "issuing");
        issuing_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = Issuer::from_params(&root_params, &root_key);
        let issuing = issuing_params.signed_by(&issuing_key, &issuer).unwrap().der().to_vec();
        let jwt_pair = KeyPair::generate().unwrap();
        let jwt_key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, jwt_pair.serialized_der()).unwrap();
        let jwt = JwtAuthority::new(KEY_ID, &jwt_pair.subject_public_key_info()).unwrap();
        let bundle = TrustBundle::new(trust_domain.clone(), [&root], [jwt], Some(sequence), None).unwrap();
        Authorities { issuing, issuing_key, jwt_key, bundle: Arc::new(bundle) }
    }
}

/// The bundle of another trust domain, with authorities of its own.
pub(crate) fn foreign_bundle(name: &str, now: Timestamp) -> Arc<TrustBundle> {
    Authorities::new(&TrustDomain::parse(name).unwrap(), now, 1).bundle
}

fn params(now: Timestamp, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let at = |at: Timestamp| time::OffsetDateTime::from_unix_timestamp(at.unix_millis() / 1000).unwrap();
    params.not_before = at(now.saturating_sub(life / 10));
    params.not_after = at(now.saturating_add(life));
    params.distinguished_name = DistinguishedName::new();
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).unwrap();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn authority_params(trust_domain: &TrustDomain, now: Timestamp, name: &str) -> CertificateParams {
    let mut params = params(now, Duration::from_secs(400 * 24 * 3600));
    params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} {name}"));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What survives a restart, in memory.
#[derive(Debug, Default)]
pub(crate) struct Kept(pub(crate) Mutex<std::collections::HashMap<String, KeptSvid>>);

impl Keep for Kept {
    fn keep(&self, svid: &KeptSvid) {
        self.0.lock().unwrap().insert(svid.service_id.to_string(), svid.clone());
    }

    fn forget(&self, service_id: &str) {
        self.0.lock().unwrap().remove(service_id);
    }
}

const KEY_ID: &str = "jwt-1";
