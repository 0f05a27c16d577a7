//! The file of key records: one change at a time, and a reader finds the old content or the new and nothing between.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use bonafide_verifier::key_records::{KeyFileError, KeyRecords, read_key_file};
use nix::{
    fcntl::{Flock, FlockArg},
    libc,
};

use crate::cli::Failure;

/// The file while nobody else changes it.
pub(super) struct KeyFile {
    path: PathBuf,
    directory: Flock<File>,
    records: Option<KeyRecords>,
}

impl KeyFile {
    /// Waits until nobody else changes a file beside it, then reads it. One that is not there has no records.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Failed(format!("cannot lock the directory `{}`: {error}", parent.display()))
        };
        let directory = File::open(parent).map_err(|error| failed(&error))?;
        let directory = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| failed(&errno))?;
        let records = match read(path) {
            Err(KeyFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            other => other.map_err(unusable)?,
        };
        Ok(Self { path: path.to_owned(), directory, records })
    }

    /// What is in it; none while it has no record.
    pub(super) fn records(&self) -> Option<&KeyRecords> {
        self.records.as_ref()
    }

    /// Puts these in its place: written aside with mode 0600, synced, renamed, the directory synced. It stays its owner's.
    pub(super) fn replace(self, records: &KeyRecords) -> Result<(), Failure> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        let failed = |error: io::Error| Failure::Failed(format!("cannot write `{}`: {error}", self.path.display()));
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let write = || {
            let mut file = create_new(&aside)?;
            if let Ok(earlier) = fs::metadata(&self.path) {
                let ours = file.metadata()?;
                if (earlier.uid(), earlier.gid()) != (ours.uid(), ours.gid()) {
                    fchown(&file, Some(earlier.uid()), Some(earlier.gid()))?;
                }
            }
            file.write_all(records.expose_secret_toml().as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &self.path)?;
            self.directory.sync_all()
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&aside);
            failed(error)
        })
    }
}

/// Reads the file, for who changes nothing.
pub(super) fn records_in(path: &Path) -> Result<Option<KeyRecords>, Failure> {
    read(path).map_err(unusable)
}

fn read(path: &Path) -> Result<Option<KeyRecords>, KeyFileError> {
    let text = read_key_file(path)?;
    KeyRecords::parse_of_first_owner(&text).map_err(|source| KeyFileError::Records { path: path.to_owned(), source })
}

fn unusable(error: KeyFileError) -> Failure {
    match error {
        KeyFileError::Read { .. } => Failure::Failed(error.to_string()),
        other => Failure::Usage(other.to_string()),
    }
}

/// Writes a secret into a new file with mode 0600. Nothing that is there is written over.
pub(super) fn write_secret(path: &Path, secret: &str) -> Result<(), Failure> {
    let mut file = create_new(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::Usage(format!("`{}` is there already; name a new file for the caller's secret", path.display()))
        }
        _ => Failure::Failed(format!("cannot create `{}`: {error}", path.display())),
    })?;
    file.write_all(secret.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = fs::remove_file(path);
        Failure::Failed(format!("cannot write `{}`: {error}", path.display()))
    })
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}
