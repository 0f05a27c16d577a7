use std::{os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use bonafide_verifier::spiffe::{BundleSet, TrustBundle, TrustDomain};

use super::*;
use crate::view::{Position, Service};

/// A directory in memory; where there is none, this cannot be tested and says so.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("/dev/shm, a tmpfs on every Linux")
}

struct Issuer {
    root: rcgen::Issuer<'static, rcgen::KeyPair>,
    bundles: BundleSet,
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn uri(text: &str) -> rcgen::SanType {
    rcgen::SanType::URI(rcgen::string::Ia5String::try_from(text).unwrap())
}

fn issuer() -> Issuer {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri("spiffe://example.org")];
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let bundle = TrustBundle::new(trust_domain(), [der], [], Some(1), None).unwrap();
    Issuer { root: rcgen::Issuer::new(params, key), bundles: BundleSet::empty().with(Arc::new(bundle)) }
}

fn service(id: &str) -> Arc<Service> {
    Arc::new(Service {
        id: id.into(),
        version: 1,
        spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/{id}")).unwrap(),
        selectors: vec!["unix:uid:1000".parse().unwrap()],
        x509_ttl: Duration::from_secs(3600),
        jwt_ttl: Duration::from_secs(300),
        dns_names: vec![],
        hint: String::new(),
        edge_scopes: Vec::new(),
        edge_issuers: Vec::new(),
    })
}

fn view(issuer: &Issuer, services: &[Arc<Service>]) -> View {
    View::new(trust_domain(), Position { epoch: "e".into(), version: 1 }, services.to_vec(), issuer.bundles.clone())
}

fn svid(issuer: &Issuer, service: &Service) -> KeptSvid {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![uri(service.spiffe_id.as_str())];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = time::macros::datetime!(2020-01-01 0:00 UTC);
    params.not_after = time::macros::datetime!(2040-01-01 0:00 UTC);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let leaf = params.signed_by(&key, &issuer.root).unwrap().der().to_vec();
    KeptSvid {
        service_id: Arc::clone(&service.id),
        service_digest: service.digest(),
        spiffe_id: service.spiffe_id.clone(),
        chain: vec![leaf],
        key_pkcs8: Zeroizing::new(key.serialize_der()),
        not_before: Timestamp::from_unix_seconds(1_577_836_800),
        not_after: Timestamp::from_unix_seconds(2_208_988_800),
        renew_at: NOW,
    }
}

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

fn open(path: &Path, key: u8) -> RuntimeState {
    RuntimeState::open(path, [key; 32], None, Health::new())
}

fn files(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn f_10_what_is_kept_comes_back_in_a_new_agent() {
    let (temp, issuer) = (memory(), issuer());
    let path = temp.path().join("state");
    let (a, b) = (service("a"), service("b"));
    let before = open(&path, 1);
    assert_eq!(before.note(), None);
    before.keep(&svid(&issuer, &a));
    before.keep(&svid(&issuer, &b));
    before.forget("b");
    let secret = svid(&issuer, &a);
    before.keep(&secret);
    for entry in std::fs::read_dir(&path).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    let kept = open(&path, 1).load(&view(&issuer, &[a.clone(), b]), NOW);
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].key_pkcs8.as_slice(), secret.key_pkcs8.as_slice(), "the last one kept");
    assert_eq!((kept[0].chain.clone(), kept[0].renew_at), (secret.chain.clone(), NOW));
    assert!(!format!("{:?}", kept[0]).contains("pkcs8"));
    open(&path, 1).forget_all();
    assert_eq!(files(&path), 0);
}

#[test]
fn f_10_what_does_not_belong_any_more_is_deleted() {
    let issuer = issuer();
    let a = service("a");
    let changed = Arc::new(Service { hint: "new".into(), ..Service::clone(&a) });
    let stranger = self::issuer();
    type Case<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>, RuntimeKey, View, Timestamp);
    type RuntimeKey = u8;
    let good = view(&issuer, std::slice::from_ref(&a));
    let keep = |path: &Path| open(path, 1).keep(&svid(&issuer, &a));
    let file = |path: &Path| std::fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
    let cases: Vec<Case<'_>> = vec![
        ("another node key", Box::new(|path| keep(path)), 2, good.clone(), NOW),
        ("a service that is gone", Box::new(|path| keep(path)), 1, view(&issuer, &[]), NOW),
        ("a service that has changed", Box::new(|path| keep(path)), 1, view(&issuer, &[changed]), NOW),
        ("a root that is gone", Box::new(|path| keep(path)), 1, view(&stranger, std::slice::from_ref(&a)), NOW),
        ("expired", Box::new(|path| keep(path)), 1, good.clone(), Timestamp::from_unix_seconds(2_208_988_801)),
        (
            "readable by others",
            Box::new(|path| {
                keep(path);
                std::fs::set_permissions(file(path), std::fs::Permissions::from_mode(0o640)).unwrap();
            }),
            1,
            good.clone(),
            NOW,
        ),
        (
            "a link",
            Box::new(|path| {
                keep(path);
                let (real, away) = (file(path), path.join("../away"));
                std::fs::rename(&real, &away).unwrap();
                std::os::unix::fs::symlink(&away, &real).unwrap();
            }),
            1,
            good.clone(),
            NOW,
        ),
        (
            "another service's name",
            Box::new(|path| {
                keep(path);
                std::fs::rename(file(path), path.join(file_name("b"))).unwrap();
            }),
            1,
            good.clone(),
            NOW,
        ),
        (
            "damaged",
            Box::new(|path| {
                keep(path);
                let mut bytes = std::fs::read(file(path)).unwrap();
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                std::fs::write(file(path), bytes).unwrap();
            }),
            1,
            good.clone(),
            NOW,
        ),
        (
            "another boot",
            Box::new(|path| {
                keep(path);
                let name = file_name("a");
                let body = stored::encode(&svid(&issuer, &a), "another-boot", &[1; 32]);
                let dir = StateDir::open_or_create(path).unwrap();
                dir.write(&name, &KIND.enclose(&body)).unwrap();
            }),
            1,
            good.clone(),
            NOW,
        ),
        (
            "a directory that others could open",
            Box::new(|path| {
                keep(path);
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }),
            1,
            good.clone(),
            NOW,
        ),
    ];
    for (name, prepare, key, view, at) in cases {
        let temp = memory();
        let path = temp.path().join("state");
        prepare(&path);
        assert_eq!(files(&path), 1, "{name}: before");
        assert!(open(&path, key).load(&view, at).is_empty(), "{name}");
        assert_eq!(files(&path), 0, "{name}: deleted");
    }
}

#[test]
fn f_14_no_cut_and_no_flipped_bit_is_served() {
    let (temp, issuer) = (memory(), issuer());
    let a = service("a");
    let path = temp.path().join("state");
    let state = open(&path, 1);
    let view = view(&issuer, std::slice::from_ref(&a));
    state.keep(&svid(&issuer, &a));
    let file = path.join(file_name("a"));
    let good = std::fs::read(&file).unwrap();
    let put = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    for at in 0..good.len() {
        put(&good[..at]);
        assert!(state.load(&view, NOW).is_empty(), "cut at {at}");
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        put(&flipped);
        assert!(state.load(&view, NOW).is_empty(), "bit {} of byte {at}", at % 8);
    }
    put(&good);
    assert_eq!(state.load(&view, NOW).len(), 1);
}

#[test]
fn a_renewed_node_key_takes_what_is_kept_along() {
    let (temp, issuer) = (memory(), issuer());
    let a = service("a");
    let path = temp.path().join("state");
    let view = view(&issuer, std::slice::from_ref(&a));
    let state = open(&path, 1);
    state.keep(&svid(&issuer, &a));
    // Killed after the node's state was written, before this was: the key before the current one still counts.
    assert_eq!(RuntimeState::open(&path, [2; 32], Some([1; 32]), Health::new()).load(&view, NOW).len(), 1);
    state.rebind([2; 32]);
    assert_eq!(open(&path, 2).load(&view, NOW).len(), 1);
    assert!(open(&path, 1).load(&view, NOW).is_empty(), "the old key's agent has lost it");
}

#[test]
fn on_a_disk_nothing_is_kept_and_the_reason_is_told() {
    // Wherever the tests run, this is not memory; and nothing can be created there.
    let path = PathBuf::from("/proc/bonafide-test-state");
    let health = Health::new();
    let state = RuntimeState::open(&path, [1; 32], None, health.clone());
    assert!(!path.exists(), "nothing is created where nothing would be kept");
    let note = state.note().unwrap();
    assert!(note.contains("is not on tmpfs or ramfs; give `--runtime-dir`"), "{note}");
    assert_eq!(health.part(Part::RuntimeState).state, State::Degraded);
    let issuer = issuer();
    let a = service("a");
    state.keep(&svid(&issuer, &a));
    state.forget("a");
    state.rebind([2; 32]);
    state.forget_all();
    assert!(state.load(&view(&issuer, &[a]), NOW).is_empty());
    assert!(!path.exists());
}
