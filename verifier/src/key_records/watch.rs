//! The file of key records on disk: read, and read again when it changes.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::MAX_FILE_BYTES;

/// Why a file of keys is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
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
    /// Others can read the keys, or write them.
    #[error("`{}` holds keys, and others have access to it (mode {mode:03o}); run `chmod 600` on it", .path.display())]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("`{}` has more than {} bytes", .path.display(), MAX_FILE_BYTES)]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// Not a text.
    #[error("`{}` is not UTF-8", .path.display())]
    NotText {
        /// Which.
        path: PathBuf,
    },
    /// Named as the wrapping key of a file of records, and none.
    #[cfg(feature = "policy-file")]
    #[error("`{}` is no wrapping key: one is 43 characters of base64url, as `bonafide-ca key create` writes it", .path.display())]
    NoWrappingKey {
        /// Which.
        path: PathBuf,
    },
    /// Its records cannot be taken.
    #[cfg(feature = "policy-file")]
    #[error("{}:{source}", .path.display())]
    Records {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: super::KeyRecordsError,
    },
    /// They do not fit to the other keys.
    #[error("`{}`: {source}", .path.display())]
    Keys {
        /// Which.
        path: PathBuf,
        /// Why.
        source: crate::authenticate::AuthenticatorsError,
    },
}

/// The text of a file that its owner alone has access to (mode 0600 or less).
///
/// # Errors
/// When it is no such file.
pub fn read_key_file(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let failed = |source| KeyFileError::Read { path: path.to_owned(), source };
    // Before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(KeyFileError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::TooOpen { path: path.to_owned(), mode });
    }
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let too_large = || KeyFileError::TooLarge { path: path.to_owned() };
    if size > MAX_FILE_BYTES {
        return Err(too_large());
    }
    // With room for what is added meanwhile, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 4096));
    file.take(bytes.capacity() as u64).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > size {
        return Err(failed(io::Error::other("it grows while it is read; write it aside and rename it")));
    }
    let text = std::mem::take(&mut *bytes);
    match String::from_utf8(text) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(KeyFileError::NotText { path: path.to_owned() })
        }
    }
}

/// What tells one version of a file from another.
#[cfg(feature = "policy-file")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[cfg(feature = "policy-file")]
fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;

    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        // A mode that was set right is news too.
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(feature = "policy-file")]
mod follow {
    use std::{
        path::{Path, PathBuf},
        sync::{Arc, Mutex, PoisonError},
        time::Duration,
    };

    use tracing::{info, warn};

    use super::{KeyFileError, Stamp, read_key_file, stamp};
    use crate::{
        authenticate::Authenticators,
        clock::Clock,
        key_records::{KeyRecords, Wrapping},
        spiffe::TrustDomain,
    };

    /// How the following of a file goes. Cheap to clone; clones are the same.
    #[derive(Clone, Debug, Default)]
    pub struct KeyFileHealth(Arc<Mutex<Option<String>>>);

    impl KeyFileHealth {
        /// Why the file as it is now is not in use, if it is not. For readiness and a metric.
        #[must_use]
        pub fn trouble(&self) -> Option<String> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }

        fn set(&self, trouble: Option<String>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        }
    }

    impl KeyRecords {
        /// Reads the file of key records, which its owner alone has access to, and the file of the wrapping key that it names.
        ///
        /// # Errors
        /// When it cannot be read, or its records cannot be taken.
        pub fn read(path: &Path, trust_domain: &TrustDomain) -> Result<Self, KeyFileError> {
            let text = read_key_file(path)?;
            let wrapping = Wrapping::of_file(path, &text)?;
            Self::parse_wrapped(&text, trust_domain, wrapping.as_ref())
                .map_err(|source| KeyFileError::Records { path: path.to_owned(), source })
        }
    }

    impl Authenticators {
        /// Looks at the file of key records every second, and takes it when it has changed, for as long as the future is polled. It
        /// may be dropped at any time. A file that is of no use changes nothing: the earlier records stay, the trouble is logged
        /// and to be seen in what comes with the future.
        pub fn follow_key_file(
            &self,
            path: PathBuf,
            clock: Arc<dyn Clock>,
        ) -> (KeyFileHealth, impl Future<Output = ()> + Send + 'static) {
            let health = KeyFileHealth::default();
            (health.clone(), follow(self.clone(), Arc::from(path), clock, health))
        }

        fn take_key_file(&self, path: &Path) -> Result<usize, KeyFileError> {
            let records = KeyRecords::read(path, self.trust_domain())?;
            let count = records.records().len();
            let keys = |source| KeyFileError::Keys { path: path.to_owned(), source };
            self.replace_key_records(records).map(|()| count).map_err(keys)
        }
    }

    /// inotify misses renames over network and overlay mounts.
    const EVERY: Duration = Duration::from_secs(1);

    async fn follow(authenticators: Authenticators, path: Arc<Path>, clock: Arc<dyn Clock>, health: KeyFileHealth) {
        let mut seen: Option<Option<Stamp>> = None;
        loop {
            let (taker, file) = (authenticators.clone(), Arc::clone(&path));
            // The disk may be slow. Looked at before it is read: what changes meanwhile is read again next time.
            let looked = tokio::task::spawn_blocking(move || {
                let now = stamp(&file);
                let news = seen != Some(now);
                (now, news.then(|| taker.take_key_file(&file)))
            });
            if let Ok((now, outcome)) = looked.await {
                match outcome {
                    Some(Ok(count)) => {
                        info!(file = %path.display(), records = count, "key records from a file");
                        health.set(None);
                    }
                    Some(Err(error)) => {
                        warn!(%error, "the file of key records is of no use; the earlier records are kept");
                        health.set(Some(error.to_string()));
                    }
                    None => {}
                }
                seen = Some(now);
            }
            clock.sleep_for(EVERY).await;
        }
    }
}

#[cfg(feature = "policy-file")]
pub use follow::KeyFileHealth;
