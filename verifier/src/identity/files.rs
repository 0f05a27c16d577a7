//! An identity from files that something else renews: certificates, a key, bundles.
//!
//! Each second the files' inode, size and time are looked at (inotify misses renames over network and overlay mounts).
//! A new file that cannot be used changes nothing: what was good stays until it expires, and the trouble is logged and
//! to be seen in [`Identity::source`].

mod load;

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tracing::{info, warn};

use self::load::{Loaded, Stamp};
use super::{Identity, Publisher};
use crate::{
    clock::{Clock, Timestamp},
    spiffe::{BundleError, TrustDomain},
    x509::SvidError,
};

/// Where an identity's files are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Files {
    /// The certificate chain, leaf first: PEM, or DER one behind the other. At most 64 KiB.
    pub chain: PathBuf,
    /// The leaf's private key: PKCS#8 as PEM or DER; may be the same PEM file as the chain. At most 64 KiB, readable by its owner
    /// alone.
    pub key: PathBuf,
    /// A bundle for each trust domain: a SPIFFE bundle document (JSON), or root certificates as PEM or DER. At most 1 MiB.
    pub bundles: Vec<(TrustDomain, PathBuf)>,
    /// How often the files are looked at. Default 1 s.
    pub every: Duration,
    /// Also takes a key file that its group can read, as Kubernetes mounts secrets with `fsGroup`. Default: no. One that
    /// everybody can read is never taken.
    pub allow_key_readable_by_group: bool,
}

impl Files {
    /// A chain, its key, and the bundle of one trust domain.
    #[must_use]
    pub fn new(
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        trust_domain: TrustDomain,
        bundle: impl Into<PathBuf>,
    ) -> Self {
        Self {
            chain: chain.into(),
            key: key.into(),
            bundles: vec![(trust_domain, bundle.into())],
            every: Duration::from_secs(1),
            allow_key_readable_by_group: false,
        }
    }

    /// The same with the bundle of a further trust domain.
    #[must_use]
    pub fn with_bundle(mut self, trust_domain: TrustDomain, bundle: impl Into<PathBuf>) -> Self {
        self.bundles.push((trust_domain, bundle.into()));
        self
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.chain, &self.key].into_iter().chain(self.bundles.iter().map(|(_, path)| path)).map(PathBuf::as_path)
    }
}

/// Why files give no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// Not there, or not readable.
    #[error("cannot read `{}`: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, a pipe or the like.
    #[error("`{}` is not a file", .path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// Larger than such a file can be.
    #[error("`{}` has {size} bytes, at most {limit} are read", .path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// How large it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// Others can read the key.
    #[error("the private key `{}` can be read by others (mode {mode:03o}); run `chmod 600` on it", .path.display())]
    KeyTooOpen {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Chain and key are no SVID.
    #[error("`{}` and `{}` are no X.509-SVID: {source}", .chain.display(), .key.display())]
    Svid {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: SvidError,
    },
    /// The SVID is not valid now.
    #[error("the X.509-SVID in `{}` is valid from {not_before} to {not_after}, and now is {now}", .chain.display())]
    NotValid {
        /// The chain's file.
        chain: PathBuf,
        /// From when.
        not_before: Timestamp,
        /// Until when.
        not_after: Timestamp,
        /// The time of our clock.
        now: Timestamp,
    },
    /// No bundle.
    #[error("`{}` is no trust bundle of `{trust_domain}`: {source}", .path.display())]
    Bundle {
        /// Which.
        path: PathBuf,
        /// Whose.
        trust_domain: TrustDomain,
        /// Why.
        source: BundleError,
    },
}

impl Identity {
    /// An identity from files, and the future that keeps it up to date for as long as it is polled.
    ///
    /// # Errors
    /// When one of the files is of no use. Later that is only reported.
    pub async fn from_files(
        files: Files,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), FilesError> {
        let (files, stamps, loaded) = off_runtime(files, clock.now()).await?;
        let mut last = Last { svid: loaded.svid?, bundles: Vec::new() };
        for bundle in loaded.bundles {
            let bundle = bundle?;
            bundle.log_skipped();
            last.bundles.push(bundle);
        }
        let (identity, publisher) = Self::published(clock);
        last.publish(&publisher);
        Ok((identity, follow(files, stamps, last, publisher)))
    }

    /// The same, kept up to date by a task of its own, which ends with the last clone of the identity.
    ///
    /// # Errors
    /// As [`Identity::from_files`].
    pub async fn spawn_from_files(files: Files, clock: Arc<dyn Clock>) -> Result<Self, FilesError> {
        let (identity, driver) = Self::from_files(files, clock).await?;
        Ok(identity.driven_by(driver))
    }
}

/// What was good last, part by part.
struct Last {
    svid: crate::x509::X509Svid,
    bundles: Vec<Arc<crate::spiffe::TrustBundle>>,
}

impl Last {
    fn publish(&self, publisher: &Publisher) {
        publisher.publish(Some(self.svid.clone()), self.bundles.iter().cloned().collect());
    }
}

async fn follow(mut files: Arc<Files>, mut seen: Vec<Option<Stamp>>, mut last: Last, publisher: Publisher) {
    let clock = Arc::clone(publisher.clock());
    let mut well = true;
    loop {
        clock.sleep_for(files.every).await;
        let stamps = off_runtime_stamps(&files).await;
        if well && stamps == seen {
            continue;
        }
        let changed = stamps != seen;
        let (again, stamps, loaded) = match off_runtime((*files).clone(), clock.now()).await {
            Ok(loaded) => loaded,
            Err(error) => {
                publisher.source().failed(clock.now(), &error);
                continue;
            }
        };
        (files, seen) = (again, stamps);
        well = take(loaded, &mut last, &publisher, &clock, changed);
    }
}

/// Takes over what is good; what is not leaves the last good part in place.
fn take(loaded: Loaded, last: &mut Last, publisher: &Publisher, clock: &Arc<dyn Clock>, changed: bool) -> bool {
    let mut errors = Vec::new();
    let mut news = false;
    match loaded.svid {
        // Also when only an authority above the leaf is another.
        Ok(svid) if svid.chain() != last.svid.chain() => {
            info!(spiffe_id = %svid.id(), serial = %svid.serial(), not_after = %svid.not_after(), "X.509-SVID from files");
            last.svid = svid;
            news = true;
        }
        Ok(_) => (),
        Err(error) => errors.push(error),
    }
    for (place, bundle) in last.bundles.iter_mut().zip(loaded.bundles) {
        match bundle {
            Ok(bundle) if !bundle.same_keys(place) => {
                info!(trust_domain = %bundle.trust_domain(), roots = bundle.x509_authorities().len(), "trust bundle from a file");
                bundle.log_skipped();
                *place = bundle;
                news = true;
            }
            Ok(_) => (),
            Err(error) => errors.push(error),
        }
    }
    if news {
        last.publish(publisher);
    }
    for error in &errors {
        publisher.source().failed(clock.now(), error);
        if changed {
            warn!(%error, "new identity files are of no use; the last good ones are kept until they expire");
        }
    }
    if errors.is_empty() {
        publisher.source().went_well();
    }
    errors.is_empty()
}

async fn off_runtime(files: Files, now: Timestamp) -> Result<(Arc<Files>, Vec<Option<Stamp>>, Loaded), FilesError> {
    let path = files.chain.clone();
    tokio::task::spawn_blocking(move || {
        // Looked at before they are read: what changes meanwhile is read again next time.
        let stamps = load::stamps(&files);
        let loaded = load::load(&files, now);
        (Arc::new(files), stamps, loaded)
    })
    .await
    .map_err(|stopped| FilesError::Read { path, source: io::Error::other(stopped) })
}

async fn off_runtime_stamps(files: &Arc<Files>) -> Vec<Option<Stamp>> {
    let files = Arc::clone(files);
    tokio::task::spawn_blocking(move || load::stamps(&files)).await.unwrap_or_default()
}

#[cfg(test)]
mod tests;
