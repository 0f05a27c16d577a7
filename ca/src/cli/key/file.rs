//! The file of key records: one change at a time, and a reader finds the old content or the new and nothing between.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, chown, fchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use bonafide_verifier::key_records::{KeyFileError, KeyRecords, Wrapping, WrappingKey, read_key_file};
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
    /// What shared secrets are wrapped under, if there are or were any.
    wrapping: Option<Wrapping>,
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
        let (records, wrapping) = match read(path) {
            // That of the wrapping key is another matter.
            Err(KeyFileError::Read { source, path: missing })
                if source.kind() == io::ErrorKind::NotFound && missing == path =>
            {
                (None, None)
            }
            other => other.map_err(unusable)?,
        };
        Ok(Self { path: path.to_owned(), directory, records, wrapping })
    }

    /// What is in it; none while it has no record.
    pub(super) fn records(&self) -> Option<&KeyRecords> {
        self.records.as_ref()
    }

    /// Sees to it that shared secrets can be wrapped: with the key that the file names, else with the one in `chosen`, which is made if it is not
    /// there. By default that is `FILE.wrap`.
    pub(super) fn wrap_secrets(&mut self, chosen: Option<&Path>) -> Result<(), Failure> {
        let named = match (&self.wrapping, chosen) {
            (Some(wrapping), Some(chosen)) if Path::new(&*wrapping.file) != chosen => {
                return Err(Failure::Usage(format!(
                    "`{}` names `{}` as its wrapping key already; leave --wrapping-key out",
                    self.path.display(),
                    wrapping.file
                )));
            }
            (Some(_), _) => return Ok(()),
            (None, Some(chosen)) => chosen.to_owned(),
            (None, None) => {
                let mut name = self.path.file_name().unwrap_or_default().to_owned();
                name.push(".wrap");
                PathBuf::from(name)
            }
        };
        let Some(file) = named.to_str() else {
            return Err(Failure::Usage(format!("`{}` is not UTF-8, so no file can name it", named.display())));
        };
        let path = self.path.parent().unwrap_or(Path::new("")).join(&named);
        let key = match read_key_file(&path) {
            Ok(text) => WrappingKey::parse(&text).ok_or(KeyFileError::NoWrappingKey { path }).map_err(unusable)?,
            Err(KeyFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let key = WrappingKey::generate().ok_or_else(super::create::no_randomness)?;
                write_secret(&path, &format!("{}\n", key.expose_secret().as_str()))?;
                // Whoever reads the records reads this, too.
                if let Ok(earlier) = fs::metadata(&self.path) {
                    let given = chown(&path, Some(earlier.uid()), Some(earlier.gid()));
                    given
                        .map_err(|error| Failure::Failed(format!("cannot give `{}` away: {error}", path.display())))?;
                }
                key
            }
            Err(error) => return Err(unusable(error)),
        };
        self.wrapping = Some(Wrapping { file: file.into(), key: Arc::new(key) });
        Ok(())
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
        let text = match &self.wrapping {
            Some(wrapping) => records.wrapped_toml(wrapping).ok_or_else(super::create::no_randomness)?,
            None => records.expose_secret_toml(),
        };
        let write = || {
            let mut file = create_new(&aside)?;
            if let Ok(earlier) = fs::metadata(&self.path) {
                let ours = file.metadata()?;
                if (earlier.uid(), earlier.gid()) != (ours.uid(), ours.gid()) {
                    fchown(&file, Some(earlier.uid()), Some(earlier.gid()))?;
                }
            }
            file.write_all(text.as_bytes())?;
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
    read(path).map(|(records, _)| records).map_err(unusable)
}

fn read(path: &Path) -> Result<(Option<KeyRecords>, Option<Wrapping>), KeyFileError> {
    let text = read_key_file(path)?;
    let wrapping = Wrapping::of_file(path, &text)?;
    let records = KeyRecords::parse_of_first_owner(&text, wrapping.as_ref());
    let records = records.map_err(|source| KeyFileError::Records { path: path.to_owned(), source })?;
    Ok((records, wrapping))
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
