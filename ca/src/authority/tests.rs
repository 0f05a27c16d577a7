//! Profiles, key files and the rotation over months.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    time::Duration,
};

use bonafide_verifier::x509::{CertificateView, profile};

use super::*;
use crate::{
    audit::{self, Kind},
    fixtures::{self, Home, Stopped},
};

const DAY: Duration = Duration::from_secs(86_400);

/// The root is the authority that a trust domain has, with an SVID of its own that names it and has no path; it signs the issuing authority (ID-21..24, X509-12).
#[tokio::test]
async fn x509_09_authorities_are_signing_certificates_of_the_trust_domain() {
    let home = Home::new().await;
    let trust_domain = home.opened.trust_domain.clone();
    let signing = home.opened.authorities.current();
    let root = CertificateView::parse(signing.root.certificate()).unwrap();
    let issuing = CertificateView::parse(signing.issuing.certificate()).unwrap();
    profile::issued_root(&root, &trust_domain).unwrap();
    profile::issued_intermediate(&issuing, &trust_domain).unwrap();
    assert_eq!(issuing.path_length(), Some(0), "X509-14");
    assert_eq!(issuing.issuer(), root.subject());
    assert_eq!(issuing.authority_key_id(), root.subject_key_id());
    assert_ne!(issuing.subject(), root.subject(), "T-44");
    for view in [&root, &issuing] {
        assert!(view.serial().len() <= 20 && view.serial().first().is_some_and(|first| first & 0x80 == 0));
        assert_eq!(view.names().unwrap().first_uri(), Some("spiffe://example.org"), "X509-10: no path");
    }
    assert_ne!(root.serial(), issuing.serial(), "I2");
    let now = fixtures::start();
    assert_eq!(root.not_after().since(now), 3650 * DAY);
    assert_eq!(issuing.not_after().since(now), 7 * DAY);
    assert_eq!(now.since(issuing.not_before()), Duration::from_secs(300), "backdated");
    let bundle = home.opened.authorities.bundle();
    assert_eq!((bundle.x509_authorities().len(), bundle.jwt_authorities().len(), bundle.sequence()), (1, 1, Some(1)));
    assert_eq!(bundle.jwt_authorities()[0].key_id(), signing.jwt.kid());
    // What the token service signs proves no SVID, so its key is in no bundle.
    let token_keys = home.opened.authorities.token_keys();
    assert_eq!(token_keys.iter().map(|key| key.key_id()).collect::<Vec<_>>(), [signing.token.kid()]);
    assert!(
        bundle.jwt_authority(signing.token.kid()).is_none() && !bundle.to_spiffe_json().contains(signing.token.kid())
    );
    for row in home.opened.authorities.list() {
        assert!(home.opened.authorities.is_authority_key(&sha256(&row.public_key)));
    }
}

/// Watches a CA through its rotations and checks what must hold at every moment.
struct Watch {
    lifetimes: Lifetimes,
    published: BTreeMap<String, Timestamp>,
    last_signed: BTreeMap<String, Timestamp>,
    token_keys: BTreeMap<String, (Timestamp, Option<Timestamp>)>,
    bundle: (u64, Vec<String>),
    version: u64,
    signers: usize,
}

impl Watch {
    fn new(lifetimes: Lifetimes) -> Self {
        Self {
            lifetimes,
            published: BTreeMap::new(),
            last_signed: BTreeMap::new(),
            token_keys: BTreeMap::new(),
            bundle: (0, Vec::new()),
            version: 0,
            signers: 0,
        }
    }

    fn look(&mut self, home: &Home, first: bool) {
        let now = home.clock.now();
        let signing = home.opened.authorities.current();
        let snapshot = home.opened.registry.load();
        let bundle = snapshot.bundle();
        let kids: Vec<String> = bundle.jwt_authorities().iter().map(|key| key.key_id().to_owned()).collect();
        let sequence = bundle.sequence().unwrap();
        if kids != self.bundle.1 {
            assert!(sequence > self.bundle.0, "TDB-06: the sequence grows with each change");
            assert!(snapshot.version() > self.version || self.version == 0, "nodes see it");
        } else {
            assert_eq!(sequence, self.bundle.0);
        }
        self.bundle = (sequence, kids.clone());
        self.version = snapshot.version();
        for kid in &kids {
            self.published.entry(kid.clone()).or_insert(now);
        }
        // Published before use.
        let kid = signing.jwt.kid().to_owned();
        let known_for = now.since(self.published[&kid]);
        let used_for_the_first_time = self.last_signed.insert(kid.clone(), now).is_none();
        if used_for_the_first_time && !first {
            assert!(known_for >= self.lifetimes.jwt / 4, "{kid} was published only {known_for:?} before its use");
        }
        // Withdrawn after the last document it signed expired, leeway included.
        for (kid, last) in &self.last_signed {
            let expired = last.saturating_add(self.lifetimes.jwt / 3 + Duration::from_secs(30));
            assert!(kids.contains(kid) || now >= expired, "{kid} was withdrawn while its documents are valid");
        }
        // There is always life left for the longest document.
        assert!(signing.issuing.not_after().since(now) >= self.lifetimes.issuing / 3);
        assert!(signing.jwt.not_after().since(now) >= signing.jwt.longest_token());
        // Bounded: the old ones, the present and the next.
        assert!(kids.len() <= 4, "{kids:?}");
        self.signers = self.last_signed.len();
        self.look_at_token_keys(home, now, first);
    }

    /// The same for the token authorities, which are published, but never in a bundle.
    fn look_at_token_keys(&mut self, home: &Home, now: Timestamp, first: bool) {
        let keys = home.opened.authorities.token_keys();
        let has = |kid: &str| keys.iter().any(|key| key.key_id() == kid);
        for key in &keys {
            self.token_keys.entry(key.key_id().to_owned()).or_insert((now, None));
            assert!(!self.bundle.1.contains(&key.key_id().to_owned()), "in the bundle");
        }
        let signing = home.opened.authorities.current();
        let (known_since, last) = self.token_keys.get_mut(signing.token.kid()).unwrap();
        if last.replace(now).is_none() && !first {
            assert!(now.since(*known_since) >= self.lifetimes.jwt / 4, "used too soon after it was published");
        }
        for (kid, (_, last)) in &self.token_keys {
            let expired = last.map(|last| last.saturating_add(self.lifetimes.jwt / 3 + Duration::from_secs(30)));
            assert!(has(kid) || expired.is_some_and(|expired| now >= expired), "{kid} was withdrawn too early");
        }
        assert!(keys.len() <= 4 && signing.token.not_after().since(now) >= signing.token.longest_token());
    }
}

async fn rotates(lifetimes: Lifetimes, step: Duration, steps: u32) {
    let home = Home::with(|options| options.lifetimes = lifetimes).await;
    let mut watch = Watch::new(lifetimes);
    watch.look(&home, true);
    for _ in 0..steps {
        home.clock.advance(step);
        home.opened.authorities.rotate_due().await.unwrap();
        watch.look(&home, false);
    }
    let expected = (step * steps).as_secs() / (lifetimes.jwt * 3 / 7).as_secs();
    assert!(watch.signers as u64 >= expected && watch.signers as u64 <= expected + 2, "{} signers", watch.signers);
    let kept = fs::read_dir(home.options.directory.join("state/keys")).unwrap().count();
    assert!((4..=7).contains(&kept), "{kept} key files: those of the retired are deleted");
    fixtures::verify(&home.opened.store).await.unwrap();
    // Every change of the bundle has its record, which says what it was changed to.
    let filter = crate::audit::Filter { kinds: vec![Kind::BundleChanged], limit: 10_000, ..Default::default() };
    let records = fixtures::list(&home.opened.store, filter).await.unwrap().entries;
    assert_eq!(records.len() as u64, watch.bundle.0 - 1);
    let newest: serde_json::Value = serde_json::from_str(&records[0].body).unwrap();
    let json = home.opened.registry.load().bundle().to_spiffe_json();
    assert_eq!(newest["sha256"], data_encoding::HEXLOWER.encode(&sha256(json.as_bytes())));
    assert_eq!((&newest["sequence"], &newest["who"]), (&watch.bundle.0.into(), &"ca".into()));
    assert_eq!(home.opened.authorities.failure(), None);
    let home = home.stop().await.start().await;
    watch.look(&home, false);
}

/// (FED-01..03, I-06)
#[tokio::test]
async fn authorities_change_by_themselves_for_two_months() {
    rotates(Lifetimes::default(), Duration::from_secs(3 * 3600), 8 * 60).await;
}

#[tokio::test]
async fn the_shortest_authorities_can_be_watched() {
    let lifetimes =
        Lifetimes { issuing: Duration::from_secs(120), jwt: Duration::from_secs(120), ..Lifetimes::default() };
    rotates(lifetimes, Duration::from_secs(1), 600).await;
}

#[tokio::test]
async fn the_driver_rotates_when_it_is_time_and_not_with_a_doubted_clock() {
    let home = Home::new().await;
    let stop = CancellationToken::new();
    let (authorities, guard) = (home.opened.authorities.clone(), home.opened.clock_guard.clone());
    let driver = {
        let (authorities, stop) = (authorities.clone(), stop.clone());
        tokio::spawn(async move { authorities.rotate(guard, stop).await })
    };
    let mut changes = authorities.changes();
    let before = authorities.current().issuing.id().to_owned();
    // Ten years by `date`: nothing must be made there.
    home.clock.jump_wall(315_360_000_000);
    for _ in 0..20 {
        home.clock.advance(Duration::from_secs(1));
        let _ = tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
    }
    assert_eq!(authorities.current().issuing.id(), before);
    assert_eq!(authorities.list().len(), 4);
    home.clock.jump_wall(-315_360_000_000);
    for _ in 0..30 {
        home.clock.advance(Duration::from_secs(6 * 3600));
        let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
    }
    assert_ne!(authorities.current().issuing.id(), before);
    stop.cancel();
    driver.await.unwrap();
}

#[tokio::test]
async fn f09_a_ca_that_was_off_for_a_month_has_new_authorities_before_it_serves() {
    let home = Home::new().await;
    let before = home.opened.authorities.current();
    // With the next ones prepared, which are of no use either by then.
    home.clock.advance(2 * DAY);
    home.opened.authorities.rotate_due().await.unwrap();
    let stopped = home.stop().await;
    stopped.clock.advance(30 * DAY);
    let home = stopped.start().await;
    let now = home.clock.now();
    let signing = home.opened.authorities.current();
    assert_ne!(signing.issuing.id(), before.issuing.id());
    assert!(signing.issuing.not_after() > now && signing.jwt.not_after() > now);
    let overslept = home.opened.authorities.list().iter().filter(|row| row.state() == AuthorityState::Prepared).count();
    assert_eq!(overslept, 0);
    home.clock.advance(Duration::from_secs(120));
    home.opened.authorities.rotate_due().await.unwrap();
    let kids: Vec<_> =
        home.opened.authorities.bundle().jwt_authorities().iter().map(|key| key.key_id().to_owned()).collect();
    assert_eq!(kids, [signing.jwt.kid()]);
    let page = fixtures::list(&home.opened.store, audit::Filter { limit: 1000, ..Default::default() }).await.unwrap();
    let count = |kind: Kind| page.entries.iter().filter(|entry| entry.kind == kind.as_str()).count();
    assert_eq!((count(Kind::AuthorityCreated), count(Kind::AuthorityRetired)), (10, 3));
    fixtures::verify(&home.opened.store).await.unwrap();
}

#[tokio::test]
async fn an_expired_root_is_told() {
    let home = Home::with(|options| options.lifetimes.root = 30 * DAY).await.stop().await;
    home.clock.advance(28 * DAY);
    let home = home.start().await;
    // Nothing outlives the root.
    assert!(home.opened.authorities.current().issuing.not_after() <= home.opened.authorities.root().not_after());
    let home = home.stop().await;
    home.clock.advance(2 * DAY);
    assert!(home.refusal().await.contains("the root is valid from"));
}

fn key_file(home: &Stopped) -> PathBuf {
    let keys = home.state().join("keys");
    let mut files: Vec<_> = fs::read_dir(keys).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.remove(0)
}

use std::path::PathBuf;

#[tokio::test]
async fn f14_a_key_file_that_is_not_as_we_wrote_it_is_refused_and_left_alone() {
    let home = Home::new().await.stop().await;
    let path = key_file(&home);
    let good = fs::read(&path).unwrap();
    let other = {
        let (_, pkcs8) = AuthorityKey::generate(AuthorityKind::Jwt).unwrap();
        let parent = tempfile::tempdir().unwrap();
        let keys = KeyStore::create(&parent.path().join("keys")).unwrap();
        keys.save("x", &pkcs8).unwrap();
        fs::read(parent.path().join("keys/x.pem")).unwrap()
    };
    let public = String::from_utf8(good.clone()).unwrap().replace("PRIVATE", "PUBLIC");
    let contents: &[(&str, &[u8], &str)] = &[
        ("empty", b"", "holds no PKCS#8"),
        ("not text", &[0xff; 100], "it is not text"),
        ("not PEM", b"hello", "holds no PKCS#8"),
        ("another label", public.as_bytes(), "it is a `PUBLIC KEY`"),
        ("another key", &other, "holds another key than the database says"),
    ];
    for (name, content, expected) in contents {
        fs::write(&path, content).unwrap();
        let message = home.refusal().await;
        assert!(message.contains(expected) && message.contains(&path.display().to_string()), "{name}: {message}");
        assert_eq!(fs::read(&path).unwrap(), *content, "{name}: overwritten");
    }
    let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    fs::write(&path, &good).unwrap();
    for mode in [0o640, 0o604, 0o660, 0o622] {
        set(mode);
        let message = home.refusal().await;
        assert!(message.contains(&format!("has mode {mode:04o}")) && message.contains("chmod 0600"), "{message}");
    }
    set(0o600);
    // 1 GiB that takes no room.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    assert!(home.refusal().await.contains("has more than 16384 bytes"));
    fs::remove_file(&path).unwrap();
    assert!(home.refusal().await.contains("is missing"));
    symlink("/dev/zero", &path).unwrap();
    assert!(home.refusal().await.contains("symbolic link"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(home.refusal().await.contains("directory"));
    fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(home.refusal().await.contains("special file"), "and does not wait for a writer");
    fs::remove_file(&path).unwrap();
    fs::write(&path, &good).unwrap();
    set(0o600);
    fs::set_permissions(home.state().join("keys"), fs::Permissions::from_mode(0o750)).unwrap();
    assert!(home.refusal().await.contains("has mode 0750"));
    fs::set_permissions(home.state().join("keys"), fs::Permissions::from_mode(0o700)).unwrap();
    home.start().await;
}

#[tokio::test]
async fn f14_a_key_file_cut_at_each_byte_or_with_any_bit_flipped_never_signs() {
    let home = Home::new().await;
    let row = home.opened.authorities.list().into_iter().find(|row| row.kind == AuthorityKind::Jwt).unwrap();
    let keys = KeyStore::open(&home.options.directory.join("state/keys")).unwrap();
    let path = home.options.directory.join("state/keys").join(format!("{}.pem", row.id));
    let good = fs::read(&path).unwrap();
    let full = String::from_utf8(good.clone()).unwrap().trim_end().len();
    for length in 0..full {
        fs::write(&path, &good[..length]).unwrap();
        assert!(keys.load(&row).is_err(), "cut at {length}");
    }
    let mut accepted = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        // A flip that changes no bit of the key, such as a line end, may be read; never as another key.
        if let Ok(key) = keys.load(&row) {
            accepted += 1;
            assert_eq!(key.public_key(), &row.public_key, "bit {bit}");
        }
    }
    assert!(accepted < 40, "{accepted} flips were not noticed");
}

#[test]
fn a_new_key_is_written_aside_with_its_mode_and_what_is_left_over_is_swept() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("keys");
    let keys = KeyStore::create(&directory).unwrap();
    let (_, pkcs8) = AuthorityKey::generate(AuthorityKind::Jwt).unwrap();
    let id = "ab".repeat(20);
    fs::write(directory.join(format!("{id}.pem.new")), "half of a key").unwrap();
    keys.save(&id, &pkcs8).unwrap();
    let file = fs::metadata(directory.join(format!("{id}.pem"))).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    let orphan = "cd".repeat(20);
    fs::write(directory.join(format!("{orphan}.pem")), "x").unwrap();
    fs::write(directory.join(format!("{orphan}.pem.new")), "x").unwrap();
    fs::write(directory.join("notes.txt"), "mine").unwrap();
    keys.sweep(&[Arc::from(id.as_str())].into());
    let mut left: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, [format!("{id}.pem"), "notes.txt".to_owned()]);
}

#[test]
fn secrets_do_not_print() {
    let (key, pkcs8) = AuthorityKey::generate(AuthorityKind::Issuing).unwrap();
    let printed = format!("{key:?}");
    assert_eq!(printed, "AuthorityKey(..)");
    let hex = data_encoding::HEXLOWER.encode(&pkcs8);
    assert!(!printed.contains(&hex[..16]));
}

use tokio_util::sync::CancellationToken;
