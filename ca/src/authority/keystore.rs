//! Private keys in files: `keys/ID.pem`, PKCS#8, mode 0600 in a directory of mode 0700, refused when others could read them.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{libc, unistd::geteuid};
use pkcs8::{LineEnding, SecretDocument};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{Authority, signing::AuthorityKey};

/// What is wrong with a key file, or with its directory. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum KeyFileError {
    /// It cannot be read or written.
    #[error("cannot {what} `{}`: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// A link, a directory, a device.
    #[error("`{}` is not a regular file but a {found}; put the file itself there", path.display())]
    NotAFile { path: PathBuf, found: &'static str },
    /// The key of an authority that the database names is not there.
    #[error("`{}` is missing, a key of this CA; restore it from a backup", path.display())]
    Missing { path: PathBuf },
    /// No directory.
    #[error("`{}` is not a directory but a {found}; give the directory itself", path.display())]
    NotADirectory { path: PathBuf, found: &'static str },
    /// Others can read it.
    #[error("`{}` has mode {mode:04o}, so others could read the key; if nobody has, `chmod {wanted:04o} {}`", path.display(), path.display())]
    Mode { path: PathBuf, mode: u32, wanted: u32 },
    /// It belongs to somebody else.
    #[error("`{}` belongs to uid {owner}, this process runs as uid {expected}; run the CA as the owner, or `chown` it", path.display())]
    Owner { path: PathBuf, owner: u32, expected: u32 },
    /// No key is that long.
    #[error("`{}` has more than {limit} bytes, which is no key file; restore it from a backup", path.display())]
    TooLong { path: PathBuf, limit: u64 },
    /// Not the PEM of a P-256 key.
    #[error("`{}` holds no PKCS#8 P-256 key ({problem}); restore it from a backup", path.display())]
    NotAKey { path: PathBuf, problem: String },
    /// A key, but another one.
    #[error("`{}` holds another key than the database says; restore both from the same backup", path.display())]
    OtherKey { path: PathBuf },
}

/// The directory of key files.
#[derive(Clone, Debug)]
pub(crate) struct KeyStore {
    directory: Arc<Path>,
}

impl KeyStore {
    /// Makes the directory. It is not synced.
    pub(crate) fn create(directory: &Path) -> Result<Self, KeyFileError> {
        make_directory(directory)?;
        Ok(Self { directory: directory.into() })
    }

    /// Opens an existing directory, if nobody else can look into it.
    pub(crate) fn open(directory: &Path) -> Result<Self, KeyFileError> {
        check_directory(directory)?;
        Ok(Self { directory: directory.into() })
    }

    /// Reads the key of that authority, and compares it with its row.
    pub(crate) fn load(&self, authority: &Authority) -> Result<AuthorityKey, KeyFileError> {
        let path = self.path(&authority.id);
        let text = read_secret(&path, LONGEST)?;
        let not_a_key = |problem: String| KeyFileError::NotAKey { path: path.clone(), problem };
        let text = std::str::from_utf8(&text).map_err(|_| not_a_key("it is not text".to_owned()))?;
        let document = parse_pem(text).map_err(not_a_key)?;
        let key = AuthorityKey::from_pkcs8(authority.kind, document.as_bytes()).map_err(not_a_key)?;
        if key.public_key() != &authority.public_key {
            return Err(KeyFileError::OtherKey { path });
        }
        Ok(key)
    }

    /// Writes a new key: aside, synced, renamed. The directory is synced by [`Self::sync`].
    pub(crate) fn save(&self, id: &str, pkcs8: &[u8]) -> Result<(), KeyFileError> {
        let path = self.path(id);
        let pem = SecretDocument::try_from(pkcs8)
            .and_then(|document| document.to_pem("PRIVATE KEY", LineEnding::LF))
            .map_err(|error| KeyFileError::NotAKey { path: path.clone(), problem: error.to_string() })?;
        let aside = path.with_extension("pem.new");
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| KeyFileError::Io { what, path, source }
        };
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("remove", &aside)(error)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&aside)
            .map_err(io("create", &aside))?;
        let written = file.write_all(pem.as_bytes()).and_then(|()| file.sync_all());
        written.and_then(|()| fs::rename(&aside, &path)).map_err(|error| {
            let _ = fs::remove_file(&aside);
            io("write", &path)(error)
        })
    }

    /// Makes the names of saved keys durable.
    pub(crate) fn sync(&self) -> Result<(), KeyFileError> {
        sync_directory(&self.directory)
    }

    /// Deletes what no authority needs. A file that is not ours is left alone.
    pub(super) fn sweep(&self, keep: &HashSet<Arc<str>>) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let id = name.strip_suffix(".pem").or_else(|| name.strip_suffix(".pem.new"));
            let ours = id.is_some_and(|id| id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let needed = name.ends_with(".pem") && id.is_some_and(|id| keep.contains(id));
            if !ours || needed {
                continue;
            }
            match fs::remove_file(entry.path()) {
                Ok(()) => info!(path = %entry.path().display(), "deleted a key that signs no more"),
                Err(error) => {
                    warn!(path = %entry.path().display(), %error, "could not delete a key that signs no more")
                }
            }
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.pem"))
    }
}

/// PKCS#8 DER from PEM.
pub(crate) fn parse_pem(text: &str) -> Result<SecretDocument, String> {
    match SecretDocument::from_pem(text) {
        Ok(("PRIVATE KEY", document)) => Ok(document),
        Ok((label, _)) => Err(format!("it is a `{}`", label.escape_debug())),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads a file that holds a secret: a regular file of ours, that nobody else can read, of at most `limit` bytes.
pub(crate) fn read_secret(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let io = |what, source| KeyFileError::Io { what, path: path.to_owned(), source };
    // Opened before it is looked at, and never followed or waited for: what is checked is what is read.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match open {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(KeyFileError::NotAFile { path: path.to_owned(), found: "symbolic link" });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(KeyFileError::Missing { path: path.to_owned() });
        }
        Err(error) => return Err(io("open", error)),
    };
    let found = file.metadata().map_err(|error| io("look at", error))?;
    if !found.is_file() {
        let found = if found.is_dir() { "directory" } else { "special file" };
        return Err(KeyFileError::NotAFile { path: path.to_owned(), found });
    }
    check_owner_and_mode(path, &found, 0o600)?;
    // One allocation of the final size: a grown vector would leave copies behind.
    let size = found.len().min(limit);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(2)));
    (&file).take(size + 1).read_to_end(&mut bytes).map_err(|error| io("read", error))?;
    if bytes.len() as u64 > limit {
        return Err(KeyFileError::TooLong { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// A directory of ours that nobody else can look into.
pub(crate) fn check_directory(path: &Path) -> Result<(), KeyFileError> {
    let found = fs::symlink_metadata(path).map_err(|source| KeyFileError::Io {
        what: "look at",
        path: path.to_owned(),
        source,
    })?;
    if !found.is_dir() {
        let found = if found.is_symlink() { "symbolic link" } else { "file" };
        return Err(KeyFileError::NotADirectory { path: path.to_owned(), found });
    }
    check_owner_and_mode(path, &found, 0o700)
}

/// Makes a directory that nobody else can look into.
pub(crate) fn make_directory(path: &Path) -> Result<(), KeyFileError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(path).map_err(|source| KeyFileError::Io {
        what: "create",
        path: path.to_owned(),
        source,
    })
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), KeyFileError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|source| KeyFileError::Io {
        what: "sync",
        path: path.to_owned(),
        source,
    })
}

/// Owned by this process's user, and nothing allowed to others; `wanted` is what the message proposes.
pub(crate) fn check_owner_and_mode(path: &Path, found: &fs::Metadata, wanted: u32) -> Result<(), KeyFileError> {
    let expected = geteuid().as_raw();
    if found.uid() != expected {
        return Err(KeyFileError::Owner { path: path.to_owned(), owner: found.uid(), expected });
    }
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

const LONGEST: u64 = 16 << 10;
