//! How much of what the machine can sign does the CA hand out? X.509-SVIDs issued per second over the node API of a whole
//! CA in its own process: mTLS, four calls of a hundred in flight, each record durable before its certificate leaves, client and CA on
//! the same machine; against building and signing the same leaves in a loop on all cores.

use std::{hint::black_box, path::Path, sync::Arc, thread, time::Instant};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey},
};
use bonafide_tests::measure::{self, Figure, Goal, disk, fleet, process, role};
use bonafide_verifier::x509::CertificateView;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};

/// Calls in flight.
const CALLS: usize = 4;
/// Certificates in a call.
const BATCH: usize = 100;
/// Services of the node.
const SERVICES: usize = 400;
/// Rounds in which only the CA works, for its processor time.
const ALONE: usize = 3;

fn main() {
    role::play();
    let folder = tempfile::tempdir().expect("a folder");
    let ca = role::ca_without_quota(folder.path());
    let data = folder.path().join("ca");
    let pid = ca.id();
    let rounds = measure::rounds(8);
    let calls_a_round = if measure::quick() { 10 } else { 40 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (api, wanted) = runtime.block_on(prepare(&data, SERVICES));
    let keys: Arc<Vec<KeyPair>> = Arc::new((0..BATCH).map(|_| KeyPair::generate().expect("a key")).collect());

    measure::heading("X.509-SVIDs issued over the node API");
    let disk = disk::fdatasync(&data);
    Figure::alone("issuance/fdatasync-p50", disk.quantile(0.5), "ms", Goal::AtMost(2.0)).print();
    let mut next = 0;
    let mut issue = || {
        let began = Instant::now();
        next = runtime.block_on(issue(&api, &wanted, next, calls_a_round));
        (CALLS * calls_a_round * BATCH) as f64 / began.elapsed().as_secs_f64()
    };
    issue();
    let pair = measure::paired(rounds, &mut issue, || sign(&keys, CALLS * calls_a_round * BATCH));
    Figure::paired("issuance/svids-per-second", pair, "/s", Goal::RatioAtLeast(0.6)).print();
    let (mut cpu, mut own, mut count) = (0.0, 0.0, 0);
    for _ in 0..ALONE {
        let before = process::cpu(pid);
        own += measure::cpu_micros(|| assert!(issue() > 0.0));
        cpu += (process::cpu(pid) - before).as_secs_f64() * 1e6;
        count += CALLS * calls_a_round * BATCH;
    }
    let one = measure::cpu_micros(|| assert_eq!(sign_some(&keys, 1000), 1000)) / 1000.0;
    Figure::beside("issuance/part/ca-cpu-per-svid", cpu / count as f64, one, "us", Goal::None).print();
    let client = own / f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    Figure::beside("issuance/part/client-cpu-per-svid", client, one, "us", Goal::None).print();
    for (part, work) in parts() {
        let each = measure::median((0..20).map(|_| measure::cpu_micros(|| (0..50).for_each(|_| work())) / 50.0));
        Figure::beside(&format!("issuance/part/{part}"), each, one, "us", Goal::None).print();
    }
}

type Part = (&'static str, Box<dyn Fn()>);

/// What each leaf needs for certain, whoever does it.
fn parts() -> [Part; 3] {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let certificate = rcgen::generate_simple_self_signed([fleet::DNS_NAME.to_owned()]).expect("a certificate").cert;
    let (point, random) = (pair.public_key().as_ref().to_vec(), SystemRandom::new());
    [
        (
            "one-signature",
            Box::new(move || {
                black_box(pair.sign(&random, &[7; 450]).expect("a signature"));
            }),
        ),
        ("key-on-the-curve", {
            Box::new(move || {
                black_box(ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point).expect("a point"));
            })
        }),
        ("certificate-read-once", {
            Box::new(move || {
                black_box(CertificateView::parse(certificate.der()).expect("a certificate"));
            })
        }),
    ]
}

async fn prepare(ca: &Path, services: usize) -> (fleet::NodeApi, Vec<(String, Vec<u8>)>) {
    let mut operator = fleet::operator(ca).await;
    let selectors = ["unix:uid:1000".to_owned()];
    let mut adding = tokio::task::JoinSet::new();
    let mut ids = Vec::with_capacity(services);
    for index in 0..services {
        let (mut operator, selectors) = (operator.clone(), selectors.clone());
        adding.spawn(
            async move { fleet::add_service(&mut operator, &format!("service-{index}"), &selectors, "any").await },
        );
        if adding.len() >= 8 {
            ids.extend(adding.join_next().await.transpose().expect("a service"));
        }
    }
    while let Some(added) = adding.join_next().await {
        ids.push(added.expect("a service"));
    }
    let mut node = fleet::SimulatedNode::join(&fleet::invite(&mut operator, "n1").await).await;
    let keys: Vec<fleet::Key> = (0..BATCH).map(|_| fleet::Key::generate()).collect();
    let wanted = ids.into_iter().zip(keys.iter().cycle()).map(|(id, key)| (id, key.spki.clone())).collect();
    (node.connect().await, wanted)
}

/// So many calls each by so many callers; gives where to go on among the services.
async fn issue(api: &fleet::NodeApi, wanted: &[(String, Vec<u8>)], first: usize, calls: usize) -> usize {
    let batches: Vec<&[(String, Vec<u8>)]> = wanted.chunks_exact(BATCH).collect();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLS {
        let mut api = api.clone();
        let own: Vec<Vec<(String, Vec<u8>)>> =
            (0..calls).map(|call| batches[(first + caller * calls + call) % batches.len()].to_vec()).collect();
        callers.spawn(async move {
            for batch in own {
                let answer = fleet::issue(&mut api, &batch).await;
                assert_eq!(fleet::count_leaves(&answer), BATCH);
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("all are issued");
    }
    first + CALLS * calls
}

/// Certificates built and signed per second, by a thread on each core.
fn sign(keys: &Arc<Vec<KeyPair>>, count: usize) -> f64 {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let began = Instant::now();
    let threads: Vec<_> = (0..cores)
        .map(|_| {
            let keys = Arc::clone(keys);
            thread::spawn(move || sign_some(&keys, count / cores))
        })
        .collect();
    let made: usize = threads.into_iter().map(|thread| thread.join().expect("a signing thread")).sum();
    made as f64 / began.elapsed().as_secs_f64()
}

/// The same leaves as the CA's: names, extensions, key and signature of the same kinds.
fn sign_some(keys: &[KeyPair], count: usize) -> usize {
    let authority = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "Bonafide issuing authority");
    let certificate = parameters.self_signed(&authority).expect("an authority");
    let issuer = Issuer::from_ca_cert_der(certificate.der(), authority).expect("an issuer");
    let now = time::OffsetDateTime::now_utc();
    let mut bytes = 0;
    for (index, key) in (0..count).zip(keys.iter().cycle()) {
        let mut leaf = CertificateParams::default();
        leaf.not_before = now - time::Duration::minutes(5);
        leaf.not_after = now + time::Duration::hours(1);
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).expect("randomness");
        leaf.serial_number = Some(SerialNumber::from_slice(&serial));
        leaf.distinguished_name = DistinguishedName::new();
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.der_bytes());
        leaf.key_identifier_method = KeyIdMethod::PreSpecified(digest.as_ref()[..20].to_vec());
        let id = format!("spiffe://example.org/service-{index}");
        leaf.subject_alt_names.push(SanType::URI(id.as_str().try_into().expect("a URI")));
        leaf.subject_alt_names.push(SanType::DnsName(fleet::DNS_NAME.try_into().expect("a name")));
        bytes += leaf.signed_by(key, &issuer).expect("a leaf").der().len();
    }
    assert!(bytes > count * 300);
    count
}
