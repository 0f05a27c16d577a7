//! Reads the files once.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{Files, FilesError};
use crate::{
    clock::Timestamp,
    spiffe::{BundleError, TrustBundle, TrustDomain},
    x509::{SvidError, X509Svid, chain_from_pem, split_der},
};

/// A chain or key is never larger.
const MAX_SVID_BYTES: u64 = 64 * 1024;
const MAX_BUNDLE_BYTES: u64 = crate::spiffe::MAX_BUNDLE_BYTES as u64;

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Each part by itself: a bad one does not take the others with it.
pub(super) struct Loaded {
    pub(super) svid: Result<X509Svid, FilesError>,
    pub(super) bundles: Vec<Result<Arc<TrustBundle>, FilesError>>,
}

/// None for a file that is not there.
pub(super) fn stamps(files: &Files) -> Vec<Option<Stamp>> {
    files
        .paths()
        .map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some(Stamp {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
            })
        })
        .collect()
}

pub(super) fn load(files: &Files, now: Timestamp) -> Loaded {
    Loaded {
        svid: svid(files, now),
        bundles: files.bundles.iter().map(|(trust_domain, path)| bundle(trust_domain, path)).collect(),
    }
}

fn svid(files: &Files, now: Timestamp) -> Result<X509Svid, FilesError> {
    let chain = read(&files.chain, MAX_SVID_BYTES, |_| Ok(()))?;
    let allowed = if files.allow_key_readable_by_group { 0o740 } else { 0o700 };
    let key = read(&files.key, MAX_SVID_BYTES, |mode| {
        if mode & 0o777 & !allowed == 0 {
            Ok(())
        } else {
            Err(FilesError::KeyTooOpen { path: files.key.clone(), mode: mode & 0o777 })
        }
    })?;
    let refused = |source| FilesError::Svid { chain: files.chain.clone(), key: files.key.clone(), source };
    let svid = assemble(&chain, &key).map_err(refused)?;
    if now < svid.not_before() || svid.not_after() <= now {
        return Err(FilesError::NotValid {
            chain: files.chain.clone(),
            not_before: svid.not_before(),
            not_after: svid.not_after(),
            now,
        });
    }
    Ok(svid)
}

fn assemble(chain: &[u8], key: &[u8]) -> Result<X509Svid, SvidError> {
    match (is_pem(chain), is_pem(key)) {
        (true, true) => X509Svid::from_pem(chain, key),
        (false, false) => X509Svid::from_der(chain, key.to_vec()),
        (true, false) => {
            X509Svid::new(chain_from_pem(chain).map_err(|section| SvidError::Pem { section })?, key.to_vec())
        }
        (false, true) => {
            let certificates = split_der(chain).map_err(|at| SvidError::Der { at })?;
            let certificates = certificates.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
            let key = PrivatePkcs8KeyDer::from_pem_slice(key).map_err(|_| SvidError::PrivateKey)?;
            X509Svid::new(certificates, key.secret_pkcs8_der().to_vec())
        }
    }
}

fn bundle(trust_domain: &TrustDomain, path: &Path) -> Result<Arc<TrustBundle>, FilesError> {
    let bytes = read(path, MAX_BUNDLE_BYTES, |_| Ok(()))?;
    let trust_domain = trust_domain.clone();
    let parsed = if bytes.trim_ascii_start().starts_with(b"{") {
        TrustBundle::parse_spiffe_json(trust_domain.clone(), &bytes)
    } else if bytes.is_empty() {
        // As DER it would be a bundle without a key, which a half-written file shall not be taken for.
        Err(BundleError::NoCertificates)
    } else if is_pem(&bytes) {
        TrustBundle::parse_pem(trust_domain.clone(), &bytes)
    } else {
        TrustBundle::parse_der(trust_domain.clone(), &bytes)
    };
    parsed.map(Arc::new).map_err(|source| FilesError::Bundle { path: path.to_owned(), trust_domain, source })
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

/// The whole file, if it is one and is no larger than `limit`; wiped from memory afterwards, since it may be a key.
fn read(
    path: &Path,
    limit: u64,
    check_mode: impl FnOnce(u32) -> Result<(), FilesError>,
) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let failed = |source| FilesError::Read { path: path.to_owned(), source };
    // Before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(FilesError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    check_mode(metadata.permissions().mode())?;
    let too_large = |size| FilesError::TooLarge { path: path.to_owned(), size, limit };
    if metadata.len() > limit {
        return Err(too_large(metadata.len()));
    }
    // As large as it can get, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1)));
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}
