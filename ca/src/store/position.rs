//! Where the audit chain ended at last, in a file of its own beside the database.
//!
//! Written after each commit and never synced: it holds what was durable already, so that whatever of it survives is
//! true. If the database then ends earlier, its write-ahead log is gone or damaged, or an older copy took its place
//! (F-15, F-25): SQLite itself would go on without a word.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use nix::libc;

use super::error::OpenError;

/// The open file.
#[derive(Debug)]
pub(super) struct Position {
    file: File,
}

/// What stands in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Noted {
    pub(super) seq: u64,
    pub(super) hash: [u8; 32],
}

impl Position {
    /// Makes the file, synced, with its first content.
    pub(super) fn create(directory: &Path, noted: Noted) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path(directory))?;
        let position = Self { file };
        position.note(noted)?;
        position.file.sync_all()?;
        Ok(position)
    }

    /// Opens the file and reads it; none when it is not there.
    pub(super) fn open(directory: &Path) -> Result<Option<(Self, Noted)>, OpenError> {
        let path = path(directory);
        let problem = |problem: String| OpenError::Position { path: path.clone(), problem };
        let file = match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problem(format!("cannot be opened: {error}"))),
        };
        let mut bytes = Vec::with_capacity(LENGTH);
        (&file)
            .take(LENGTH as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| problem(format!("cannot be read: {error}")))?;
        let noted = decode(&bytes).map_err(|what| problem(format!("is damaged: {what}")))?;
        Ok(Some((Self { file }, noted)))
    }

    /// Notes what is durable now.
    pub(super) fn note(&self, noted: Noted) -> io::Result<()> {
        self.file.write_all_at(&encode(noted), 0)
    }
}

/// The file's path.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join("head")
}

pub(super) fn encode(noted: Noted) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut content = Vec::with_capacity(LENGTH);
    content.extend_from_slice(MAGIC);
    content.extend_from_slice(&noted.seq.to_be_bytes());
    content.extend_from_slice(&noted.hash);
    let sum = digest(&SHA256, &content);
    content.extend(sum.as_ref().iter().take(LENGTH - content.len()).copied().collect::<Vec<_>>());
    bytes.copy_from_slice(&content);
    bytes
}

/// Reads what [`Position::note`] wrote.
pub(super) fn decode(bytes: &[u8]) -> Result<Noted, String> {
    let bytes: &[u8; LENGTH] =
        bytes.try_into().map_err(|_| format!("it has {} bytes, expected {LENGTH}", bytes.len()))?;
    let (magic, rest) = bytes.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err("it does not start as such a file does".to_owned());
    }
    let field = |from: usize, length: usize| rest.get(from..from + length).unwrap_or_default();
    let seq = u64::from_be_bytes(field(0, 8).try_into().unwrap_or_default());
    let hash = field(8, 32).try_into().unwrap_or_default();
    let noted = Noted { seq, hash };
    if encode(noted) != *bytes { Err("its checksum is wrong".to_owned()) } else { Ok(noted) }
}

const MAGIC: &[u8; 8] = b"BFHEAD1\n";
const LENGTH: usize = 64;
