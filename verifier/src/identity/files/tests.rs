use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::{
    clock::ManualClock,
    tls::fixtures::{Authority, START, after, clock},
    x509::X509Svid,
};

struct Folder {
    folder: tempfile::TempDir,
    authority: Authority,
    clock: ManualClock,
}

impl Folder {
    fn new() -> Self {
        let this =
            Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("example.org"), clock: clock() };
        this.write_svid(&this.authority.svid("/web", 600));
        this.write("bundle.pem", this.bundle_pem().as_bytes());
        this
    }

    fn bundle_pem(&self) -> String {
        Authority::bundles(&[&self.authority]).get(&self.authority.trust_domain).unwrap().to_pem()
    }

    fn files(&self) -> Files {
        let path = |name: &str| self.folder.path().join(name);
        Files::new(path("chain.pem"), path("key.pem"), self.authority.trust_domain.clone(), path("bundle.pem"))
    }

    fn write(&self, name: &str, content: &[u8]) {
        let aside = self.folder.path().join("aside");
        fs::write(&aside, content).unwrap();
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(aside, self.folder.path().join(name)).unwrap();
    }

    fn write_svid(&self, svid: &X509Svid) {
        self.write("key.pem", svid.expose_secret_pem().as_bytes());
        self.write("chain.pem", svid.chain_pem().as_bytes());
    }

    async fn open(&self) -> Result<Identity, FilesError> {
        Identity::spawn_from_files(self.files(), Arc::new(self.clock.clone())).await
    }

    /// Lets the files be looked at until `done`.
    async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !done() {
                self.clock.advance(Duration::from_millis(100));
                // Files are read by the real clock: spinning here, ten minutes passed before they were, and the SVID was over.
                let _ = tokio::time::timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn new_files_are_taken_and_bad_ones_are_not() {
    let folder = Folder::new();
    let identity = folder.open().await.unwrap();
    assert_eq!(identity.id(), Some(folder.authority.id("/web")));
    assert_eq!(identity.snapshot().generation(), 1);

    let renewed = folder.authority.svid("/web", 3_600);
    folder.write_svid(&renewed);
    let serial = || identity.snapshot().svid().map(X509Svid::serial);
    folder.until("the renewal is seen", || serial() == Some(renewed.serial())).await;

    // A chain whose key has not come yet, junk, a stranger's key: each is reported, none replaces what is good.
    let failures = identity.source().failures();
    let next = folder.authority.svid("/web", 3_600);
    folder.write("chain.pem", next.chain_pem().as_bytes());
    folder.until("reported", || identity.source().failures() > failures).await;
    let (_, why) = identity.source().last_failure().unwrap();
    assert!(why.contains("not the key of the leaf"), "{why}");
    assert_eq!(serial(), Some(renewed.serial()));
    folder.write("key.pem", next.expose_secret_pem().as_bytes());
    folder.until("the key came too", || serial() == Some(next.serial())).await;
    folder.until("all is well again", || identity.source().last_failure().is_none()).await;

    folder.write("chain.pem", b"");
    folder.until("an empty file is reported", || identity.source().last_failure().is_some()).await;
    assert_eq!(serial(), Some(next.serial()));
}

/// The leaf is the same, an authority above it was certified anew: such a chain was overlooked.
#[tokio::test]
async fn x509_30_a_chain_with_another_intermediate_is_taken() {
    let folder = Folder::new();
    let svid = folder.authority.svid("/web", 600);
    let chain = svid.chain().to_vec();
    let longer = [chain.as_slice(), &[folder.authority.root_der().into()]].concat();
    let longer = X509Svid::new(longer, svid.expose_secret().to_vec()).unwrap();
    folder.write_svid(&svid);
    let identity = folder.open().await.unwrap();
    folder.write("chain.pem", longer.chain_pem().as_bytes());
    folder.until("the new chain", || identity.snapshot().svid().unwrap().chain().len() == chain.len() + 1).await;
}

#[tokio::test]
async fn a_35_a_bundle_is_taken_also_when_the_svid_is_bad() {
    let folder = Folder::new();
    let identity = folder.open().await.unwrap();
    let other = Authority::new("example.org");
    folder.write("chain.pem", b"junk");
    let both = Authority::bundles(&[&folder.authority, &other]);
    folder.write("bundle.pem", both.get(&other.trust_domain).unwrap().to_spiffe_json().as_bytes());
    let roots = || identity.snapshot().bundles().get(&other.trust_domain).unwrap().x509_authorities().len();
    folder.until("both roots", || roots() == 2).await;
    assert_eq!(identity.id(), Some(folder.authority.id("/web")));
    folder.write("bundle.pem", b"{}");
    folder.until("reported", || identity.source().last_failure().is_some_and(|(_, why)| why.contains("bundle"))).await;
    assert_eq!(roots(), 2, "the last good bundle stays");
}

#[tokio::test]
async fn der_files_are_taken_in_any_mix() {
    let folder = Folder::new();
    let svid = folder.authority.svid("/web", 600);
    let (pem, der) = (svid.chain_pem().into_bytes(), svid.chain_der_concatenated());
    let (key_pem, key_der) = (svid.expose_secret_pem().as_bytes().to_vec(), svid.expose_secret().to_vec());
    for (chain, key) in [(&pem, &key_pem), (&pem, &key_der), (&der, &key_pem), (&der, &key_der)] {
        folder.write("chain.pem", chain);
        folder.write("key.pem", key);
        folder.write("bundle.pem", &folder.authority.root_der());
        assert_eq!(folder.open().await.unwrap().id(), Some(folder.authority.id("/web")));
    }
    // One file for both, as credential bundles are.
    folder.write("key.pem", &[key_pem, pem].concat());
    let mut files = folder.files();
    files.chain = files.key.clone();
    assert!(Identity::from_files(files, Arc::new(folder.clock.clone())).await.is_ok());
}

#[tokio::test]
async fn f_14_what_is_refused_at_the_start() {
    let error = async |break_it: &dyn Fn(&Folder)| {
        let folder = Folder::new();
        break_it(&folder);
        folder.open().await.map(drop).unwrap_err()
    };
    let path = |folder: &Folder, name: &str| folder.folder.path().join(name);
    for mode in [0o604, 0o620, 0o640, 0o644, 0o666] {
        let open = error(&|folder| {
            fs::set_permissions(path(folder, "key.pem"), fs::Permissions::from_mode(mode)).unwrap();
        })
        .await;
        assert!(matches!(open, FilesError::KeyTooOpen { mode: found, .. } if found == mode), "{open}");
        assert!(open.to_string().contains("chmod 600"));
    }
    let missing = error(&|folder| fs::remove_file(path(folder, "chain.pem")).unwrap()).await;
    assert!(matches!(missing, FilesError::Read { .. }));
    let directory = error(&|folder| {
        fs::remove_file(path(folder, "key.pem")).unwrap();
        fs::create_dir(path(folder, "key.pem")).unwrap();
    })
    .await;
    assert!(matches!(directory, FilesError::NotAFile { .. }));
    let large = error(&|folder| folder.write("chain.pem", &vec![b'x'; 64 * 1024 + 1])).await;
    assert!(matches!(large, FilesError::TooLarge { size: 65_537, limit: 65_536, .. }));
    let expired = error(&|folder| folder.clock.set(after(600))).await;
    assert!(matches!(expired, FilesError::NotValid { .. }), "{expired}");
    let early = error(&|folder| folder.clock.set(START.saturating_sub(Duration::from_secs(3_600)))).await;
    assert!(matches!(early, FilesError::NotValid { .. }), "{early}");
    let empty = error(&|folder| folder.write("bundle.pem", b"")).await;
    assert!(matches!(empty, FilesError::Bundle { .. } | FilesError::Svid { .. }), "{empty}");
}

#[tokio::test]
async fn a_key_for_its_group_needs_the_word() {
    let folder = Folder::new();
    let key = folder.folder.path().join("key.pem");
    let mut files = folder.files();
    files.allow_key_readable_by_group = true;
    for (mode, taken) in [(0o440, true), (0o640, true), (0o660, false), (0o644, false)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let opened = Identity::from_files(files.clone(), Arc::new(folder.clock.clone())).await;
        assert_eq!(opened.is_ok(), taken, "{mode:o}");
    }
}

#[tokio::test]
async fn the_task_ends_with_the_identity() {
    let folder = Folder::new();
    let identity = folder.open().await.unwrap();
    let mut changes = identity.changes();
    let clone = identity.clone();
    drop(identity);
    folder.write_svid(&folder.authority.svid("/web", 3_600));
    folder.until("a clone keeps it going", || clone.snapshot().generation() == 2).await;
    drop(clone);
    assert_eq!(changes.next().await.generation(), 2);
}
