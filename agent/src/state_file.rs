//! Files that this agent trusts again after a restart: how they are opened, checked, written and enclosed.
//!
//! A directory of ours is 0700 and belongs to the user the agent runs as; its files are regular, 0600, of the
//! same owner and bounded in size. Anything else is refused by name, with what to do, and never overwritten.
//! A file is written aside, synced, renamed, and the directory synced, so that a reader finds the old
//! content or the new one and nothing between (F-02, F-14).
//!
//! Content lies in an envelope, one line before the body, so that a cut file, a flipped bit, a file of
//! another kind and a file of a newer agent are each told apart:
//!
//! ```text
//! bonafide-agent-state 1 node 812 <SHA-256 of the body, hex>\n<body>
//! ```

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use zeroize::Zeroizing;

/// Why a file or directory of the agent cannot be used. Every text names the file and what mends it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The directory's last component, or the file, is a symbolic link.
    #[error("`{path}` is a symbolic link; give the real path, or remove the link")]
    Symlink {
        /// Which.
        path: PathBuf,
    },
    /// The place is taken by something that is not a directory.
    #[error("`{path}` is not a directory; give another path, or move it away")]
    NotADirectory {
        /// Which.
        path: PathBuf,
    },
    /// The file is a directory, a pipe, a socket or a device.
    #[error("`{path}` is a {found}, not a regular file; move it away")]
    NotAFile {
        /// Which.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Someone else owns it, so someone else may have written it.
    #[error(
        "`{path}` belongs to uid {owner}, the agent runs as uid {expected}; `chown {expected} {path}` if it is yours, else move it away"
    )]
    WrongOwner {
        /// Which.
        path: PathBuf,
        /// Who has it.
        owner: u32,
        /// Who should.
        expected: u32,
    },
    /// Others can read or change it.
    #[error("`{path}` has mode {mode:04o}, so others can get at it; if nobody has, `chmod {wanted:o} {path}`")]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// What it has.
        mode: u32,
        /// What it must have.
        wanted: u32,
    },
    /// Larger than anything the agent writes there.
    #[error("`{path}` has {size} bytes, the agent writes at most {limit} there; move it away")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// What it has.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// Not what the agent wrote.
    #[error("`{path}` is damaged at byte {offset}: {reason}; {remedy}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where the damage shows; after the envelope's end it is that of the body.
        offset: usize,
        /// What is wrong there.
        reason: String,
        /// What to do with this file.
        remedy: &'static str,
    },
    /// A newer agent wrote it.
    #[error("`{path}` has format {version}, this agent knows {known}; run the newer agent that wrote it, or {remedy}")]
    Newer {
        /// Which.
        path: PathBuf,
        /// What it has.
        version: u32,
        /// What is known.
        known: u32,
        /// What to do with this file if the newer agent is gone.
        remedy: &'static str,
    },
    /// Another agent runs on this directory.
    #[error("`{path}` is in use by another agent{}; stop it, or give this one a `--data` of its own", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other agent, if its lock file says so.
        pid: Option<u32>,
    },
    /// The operating system said no.
    #[error("cannot {doing} `{path}`")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::Io { doing, path, source: errno.into() }
    }

    fn std(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

/// A directory of the agent's own: 0700, of the agent's user, held open so that a rename of the path
/// cannot put another one in its place. Every method blocks for a disk's time.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    fd: OwnedFd,
}

impl StateDir {
    /// Opens the directory, creating it (and its parents) if it is missing. An empty directory of ours that is
    /// too open is closed to others; one with content is refused, since others may have been there.
    pub(crate) fn open_or_create(path: &Path) -> Result<Self, StateError> {
        match std::fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
            Err(error) => return Err(StateError::std("look at", path)(error)),
        }
        let fd = open_directory(path)?;
        let stat = rustix::fs::fstat(&fd).map_err(StateError::io("look at", path))?;
        let expected = rustix::process::geteuid().as_raw();
        if stat.st_uid != expected {
            return Err(StateError::WrongOwner { path: path.into(), owner: stat.st_uid, expected });
        }
        let dir = Self { path: path.to_path_buf(), fd };
        let mode = stat.st_mode & 0o7777;
        if mode & 0o077 != 0 {
            if !dir.names()?.is_empty() {
                return Err(StateError::TooOpen { path: path.into(), mode, wanted: 0o700 });
            }
            rustix::fs::fchmod(&dir.fd, Mode::from_raw_mode(0o700)).map_err(StateError::io("close to others", path))?;
        }
        Ok(dir)
    }

    /// Opens a directory that must be there already, with the same checks and no change.
    pub(crate) fn open_existing(path: &Path) -> Result<Self, StateError> {
        let fd = open_directory(path)?;
        let stat = rustix::fs::fstat(&fd).map_err(StateError::io("look at", path))?;
        let expected = rustix::process::geteuid().as_raw();
        if stat.st_uid != expected {
            return Err(StateError::WrongOwner { path: path.into(), owner: stat.st_uid, expected });
        }
        let mode = stat.st_mode & 0o7777;
        if mode & 0o077 != 0 {
            return Err(StateError::TooOpen { path: path.into(), mode, wanted: 0o700 });
        }
        Ok(Self { path: path.to_path_buf(), fd })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where `name` lies, for messages.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    /// When it is not a regular file of ours that only we can read, or larger than `limit`.
    pub(crate) fn read(&self, name: &str, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        let path = self.path_of(name);
        // Not blocking: a named pipe in the file's place must not hold the agent for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(StateError::Symlink { path }),
            Err(rustix::io::Errno::NXIO) => return Err(StateError::NotAFile { path, found: "socket or pipe" }),
            Err(errno) => return Err(StateError::io("open", path)(errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(StateError::io("look at", &path))?;
        check_file(&path, &stat)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let bound = u64::try_from(limit).unwrap_or(u64::MAX);
        if size > bound {
            return Err(StateError::TooLarge { path, size, limit: bound });
        }
        // Reserved at once and read within the bound: a buffer that grows leaves copies of a key behind.
        let mut content = Zeroizing::new(Vec::with_capacity(limit.min(usize::try_from(size).unwrap_or(limit)) + 1));
        std::fs::File::from(fd)
            .take(bound.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(StateError::std("read", &path))?;
        if content.len() > limit {
            return Err(StateError::TooLarge { path, size: content.len() as u64, limit: bound });
        }
        Ok(Some(content))
    }

    /// Puts `content` in the place of `name`: after a return the new content is on disk, after an error or a
    /// crash the old or the new one is.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let aside = format!(".{name}.new");
        let path = self.path_of(&aside);
        // What a killed agent left aside was never in use.
        match rustix::fs::unlinkat(&self.fd, aside.as_str(), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(StateError::io("remove", path)(errno)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, aside.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(StateError::io("create", &path))?;
        let mut file = std::fs::File::from(fd);
        let written = file.write_all(content).and_then(|()| file.sync_all());
        if let Err(source) = written {
            let _ = rustix::fs::unlinkat(&self.fd, aside.as_str(), AtFlags::empty());
            return Err(StateError::Io { doing: "write", path, source });
        }
        rustix::fs::renameat(&self.fd, aside.as_str(), &self.fd, name)
            .map_err(StateError::io("put in place", self.path_of(name)))?;
        self.sync()
    }

    /// Removes a file; one that is not there is fine.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StateError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => self.sync(),
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(StateError::io("remove", self.path_of(name))(errno)),
        }
    }

    /// The names of what lies here, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, StateError> {
        let entries = rustix::fs::Dir::read_from(&self.fd).map_err(StateError::io("list", &self.path))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StateError::io("list", &self.path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Takes the directory for this process until the lock is dropped; the kernel frees it when the process ends.
    pub(crate) fn lock(&self) -> Result<DirLock, StateError> {
        let path = self.path_of(LOCK);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, LOCK, flags, Mode::from_raw_mode(0o600))
            .map_err(StateError::io("open", &path))?;
        let mut file = std::fs::File::from(fd);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = file.take(32).read_to_string(&mut text);
                return Err(StateError::InUse { path: self.path.clone(), pid: text.trim().parse().ok() });
            }
            Err(errno) => return Err(StateError::io("lock", path)(errno)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(StateError::std("write", path))?;
        Ok(DirLock { _file: file })
    }

    fn sync(&self) -> Result<(), StateError> {
        rustix::fs::fsync(&self.fd).map_err(StateError::io("sync", &self.path))
    }
}

/// The directory is this process's own for as long as this value lives.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: std::fs::File,
}

/// A kind of file: its word in the envelope, its bound and what mends a damaged one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// One word, in the envelope.
    pub(crate) word: &'static str,
    /// The newest format that is known; older ones are read too.
    pub(crate) version: u32,
    /// The largest body in bytes.
    pub(crate) limit: usize,
    /// What an operator does with a damaged one.
    pub(crate) remedy: &'static str,
}

impl Kind {
    /// The largest file, envelope included.
    pub(crate) fn file_limit(&self) -> usize {
        self.limit.saturating_add(ENVELOPE_LIMIT)
    }

    /// Encloses a body.
    pub(crate) fn enclose(&self, body: &[u8]) -> Zeroizing<Vec<u8>> {
        let head = format!("{MAGIC} {} {} {} {}\n", self.version, self.word, body.len(), hex_sha256(body));
        let mut whole = Zeroizing::new(Vec::with_capacity(head.len() + body.len()));
        whole.extend_from_slice(head.as_bytes());
        whole.extend_from_slice(body);
        whole
    }

    /// Takes a body out of its envelope. `path` is for the message.
    ///
    /// # Errors
    /// When anything differs from what [`Kind::enclose`] writes.
    pub(crate) fn open<'a>(&self, path: &Path, whole: &'a [u8]) -> Result<&'a [u8], StateError> {
        let damaged = |offset: usize, reason: String| StateError::Damaged {
            path: path.to_path_buf(),
            offset,
            reason,
            remedy: self.remedy,
        };
        let head_end = whole.iter().take(ENVELOPE_LIMIT).position(|byte| *byte == b'\n');
        let Some((head, body)) = head_end.and_then(|end| Some((whole.get(..end)?, whole.get(end + 1..)?))) else {
            return Err(damaged(whole.len().min(ENVELOPE_LIMIT), "the first line does not end".into()));
        };
        let Ok(head) = std::str::from_utf8(head) else {
            return Err(damaged(0, "the first line is not text".into()));
        };
        let mut offset = 0;
        let mut word = |what: &str, rest: &mut dyn Iterator<Item = &'a str>| {
            let at = offset;
            let found = rest.next().ok_or_else(|| damaged(at, format!("the first line has no {what}")))?;
            offset += found.len() + 1;
            Ok::<_, StateError>((at, found))
        };
        let mut words = head.split(' ');
        let (at, magic) = word("name", &mut words)?;
        if magic != MAGIC {
            return Err(damaged(at, format!("it does not begin with `{MAGIC}`, so no agent wrote it")));
        }
        let (at, version) = word("format", &mut words)?;
        let number: u32 = canonical(version).ok_or_else(|| damaged(at, "the format is not a number".into()))?;
        if number > self.version {
            return Err(StateError::Newer {
                path: path.to_path_buf(),
                version: number,
                known: self.version,
                remedy: self.remedy,
            });
        }
        if number == 0 {
            return Err(damaged(at, "there is no format 0".into()));
        }
        let (at, kind) = word("kind", &mut words)?;
        if kind != self.word {
            return Err(damaged(at, format!("its kind is not `{}`", self.word)));
        }
        let (at, length) = word("length", &mut words)?;
        let length: usize = canonical(length).ok_or_else(|| damaged(at, "the length is not a number".into()))?;
        let (hash_at, hash) = word("hash", &mut words)?;
        if words.next().is_some() {
            return Err(damaged(offset, "the first line has more than five words".into()));
        }
        if body.len() != length {
            return Err(damaged(at, format!("the first line says {length} bytes follow, {} do", body.len())));
        }
        if length > self.limit {
            return Err(damaged(at, format!("{length} bytes are more than the bound of {}", self.limit)));
        }
        if hash != hex_sha256(body) {
            return Err(damaged(hash_at, "the content does not have the hash in the first line".into()));
        }
        Ok(body)
    }
}

/// Writes `content` to `path` for a user's program: aside first, synced, renamed into place.
pub(crate) fn write_into_place(path: &Path, content: &[u8], mode: u32) -> Result<(), StateError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(StateError::NotADirectory { path: path.into() });
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let directory = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(StateError::io("open", parent))?;
    let mut aside = OsStr::new(".").to_os_string();
    aside.push(name);
    aside.push(".new");
    match rustix::fs::unlinkat(&directory, aside.as_os_str(), AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(StateError::io("remove", parent.join(&aside))(errno)),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&directory, aside.as_os_str(), flags, Mode::from_raw_mode(mode))
        .map_err(StateError::io("create", path))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content).and_then(|()| file.sync_all()).map_err(StateError::std("write", path))?;
    rustix::fs::renameat(&directory, aside.as_os_str(), &directory, name)
        .map_err(StateError::io("put in place", path))?;
    rustix::fs::fsync(&directory).map_err(StateError::io("sync", parent))
}

fn create(path: &Path) -> Result<(), StateError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(StateError::std("create", parent))?;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StateError::std("create", path)(error)),
    }
    let parent_fd = std::fs::File::open(parent).map_err(StateError::std("open", parent))?;
    parent_fd.sync_all().map_err(StateError::std("sync", parent))
}

fn open_directory(path: &Path) -> Result<OwnedFd, StateError> {
    let metadata = std::fs::symlink_metadata(path).map_err(StateError::std("look at", path))?;
    if metadata.file_type().is_symlink() {
        return Err(StateError::Symlink { path: path.into() });
    }
    if !metadata.is_dir() {
        return Err(StateError::NotADirectory { path: path.into() });
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(StateError::io("open", path))?;
    let opened = rustix::fs::fstat(&fd).map_err(StateError::io("look at", path))?;
    if opened.st_ino != metadata.ino() {
        return Err(StateError::Symlink { path: path.into() });
    }
    Ok(fd)
}

fn check_file(path: &Path, stat: &rustix::fs::Stat) -> Result<(), StateError> {
    let found = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("directory"),
        FileType::Fifo => Some("pipe"),
        FileType::Socket => Some("socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("device"),
        FileType::Symlink => Some("symbolic link"),
        FileType::Unknown => Some("thing of unknown kind"),
    };
    if let Some(found) = found {
        return Err(StateError::NotAFile { path: path.into(), found });
    }
    let expected = rustix::process::geteuid().as_raw();
    if stat.st_uid != expected {
        return Err(StateError::WrongOwner { path: path.into(), owner: stat.st_uid, expected });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::TooOpen { path: path.into(), mode, wanted: 0o600 });
    }
    Ok(())
}

/// A number in the one way we write it: no sign, no leading zero.
fn canonical<T: std::str::FromStr + ToString>(text: &str) -> Option<T> {
    let number: T = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn hex_sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

const MAGIC: &str = "bonafide-agent-state";
const LOCK: &str = "lock";
/// The first line is shorter than this.
const ENVELOPE_LIMIT: usize = 160;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KIND: Kind = Kind { word: "test", version: 2, limit: 64, remedy: "move it away" };

    fn dir() -> (tempfile::TempDir, StateDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::open_or_create(&temp.path().join("a/b")).unwrap();
        (temp, dir)
    }

    #[test]
    fn f_14_every_cut_and_every_flipped_bit_is_refused() {
        let whole = KIND.enclose(b"what the agent wrote");
        let path = Path::new("/x");
        assert_eq!(KIND.open(path, &whole).unwrap(), b"what the agent wrote");
        for end in 0..whole.len() {
            let error = KIND.open(path, &whole[..end]).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "cut at {end}: {error}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.to_vec();
                flipped[at] ^= 1 << bit;
                let error = KIND.open(path, &flipped).unwrap_err();
                assert!(matches!(error, StateError::Damaged { .. } | StateError::Newer { .. }), "bit {bit} of {at}");
            }
        }
        let mut longer = whole.to_vec();
        longer.push(b' ');
        assert!(KIND.open(path, &longer).is_err(), "one byte more");
    }

    #[test]
    fn f_14_the_envelope_says_what_is_wrong() {
        let body = b"body";
        let hash = hex_sha256(body);
        let cases: &[(&str, String, &str)] = &[
            ("empty", String::new(), "`/x` is damaged at byte 0: the first line does not end; move it away"),
            (
                "other program",
                "SQLite format 3\n".into(),
                "`/x` is damaged at byte 0: it does not begin with `bonafide-agent-state`, so no agent wrote it; move it away",
            ),
            (
                "newer",
                format!("bonafide-agent-state 3 test 4 {hash}\nbody"),
                "`/x` has format 3, this agent knows 2; run the newer agent that wrote it, or move it away",
            ),
            (
                "format 0",
                format!("bonafide-agent-state 0 test 4 {hash}\nbody"),
                "`/x` is damaged at byte 21: there is no format 0; move it away",
            ),
            (
                "format 01",
                format!("bonafide-agent-state 01 test 4 {hash}\nbody"),
                "`/x` is damaged at byte 21: the format is not a number; move it away",
            ),
            (
                "kind",
                format!("bonafide-agent-state 1 view 4 {hash}\nbody"),
                "`/x` is damaged at byte 23: its kind is not `test`; move it away",
            ),
            (
                "short",
                format!("bonafide-agent-state 1 test 4 {hash}\nbod"),
                "`/x` is damaged at byte 28: the first line says 4 bytes follow, 3 do; move it away",
            ),
            (
                "long",
                format!("bonafide-agent-state 1 test 4 {hash}\nbody\n"),
                "`/x` is damaged at byte 28: the first line says 4 bytes follow, 5 do; move it away",
            ),
            (
                "changed",
                format!("bonafide-agent-state 1 test 4 {hash}\nbodY"),
                "`/x` is damaged at byte 30: the content does not have the hash in the first line; move it away",
            ),
        ];
        for (name, whole, expected) in cases {
            let error = KIND.open(Path::new("/x"), whole.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), *expected, "{name}");
        }
        let older = format!("bonafide-agent-state 1 test 4 {hash}\nbody");
        assert_eq!(KIND.open(Path::new("/x"), older.as_bytes()).unwrap(), body, "an older format is read");
    }

    #[test]
    fn f_14_files_that_are_not_ours_are_refused_and_left_alone() {
        let (_temp, dir) = dir();
        let set = |name: &str, mode: u32| {
            let path = dir.path_of(name);
            std::fs::write(&path, b"content").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set("open", 0o640);
        assert!(matches!(dir.read("open", 100), Err(StateError::TooOpen { mode: 0o640, wanted: 0o600, .. })));
        set("good", 0o600);
        assert_eq!(dir.read("good", 7).unwrap().unwrap().as_slice(), b"content");
        assert!(matches!(dir.read("good", 6), Err(StateError::TooLarge { size: 7, limit: 6, .. })));
        std::os::unix::fs::symlink(dir.path_of("good"), dir.path_of("link")).unwrap();
        assert!(matches!(dir.read("link", 100), Err(StateError::Symlink { .. })));
        std::fs::create_dir(dir.path_of("folder")).unwrap();
        assert!(matches!(dir.read("folder", 100), Err(StateError::NotAFile { found: "directory", .. })));
        nix::unistd::mkfifo(&dir.path_of("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(dir.read("pipe", 100), Err(StateError::NotAFile { found: "pipe", .. })));
        let huge = std::fs::File::create(dir.path_of("huge")).unwrap();
        huge.set_len(1 << 30).unwrap();
        std::fs::set_permissions(dir.path_of("huge"), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(dir.read("huge", 100), Err(StateError::TooLarge { .. })), "1 GiB, not read");
        assert!(dir.read("missing", 100).unwrap().is_none());
        if rustix::process::geteuid().is_root() {
            set("foreign", 0o600);
            std::os::unix::fs::chown(dir.path_of("foreign"), Some(4711), None).unwrap();
            assert!(matches!(dir.read("foreign", 100), Err(StateError::WrongOwner { owner: 4711, expected: 0, .. })));
        }
        assert_eq!(std::fs::read(dir.path_of("good")).unwrap(), b"content");
    }

    #[test]
    fn a_directory_is_ours_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (open, link) = (temp.path().join("open"), temp.path().join("link"));
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        StateDir::open_or_create(&open).expect("an empty one of ours is closed");
        assert_eq!(std::fs::metadata(&open).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(open.join("f"), b"").unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(StateDir::open_or_create(&open), Err(StateError::TooOpen { mode: 0o750, wanted: 0o700, .. })));
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(matches!(StateDir::open_or_create(&link), Err(StateError::Symlink { .. })));
        assert!(matches!(StateDir::open_or_create(&open.join("f")), Err(StateError::NotADirectory { .. })));
    }

    #[test]
    fn two_agents_on_one_directory_are_refused_by_name() {
        let (_temp, dir) = dir();
        let held = dir.lock().unwrap();
        let again = StateDir::open_or_create(dir.path()).unwrap();
        match again.lock() {
            Err(StateError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        again.lock().expect("free again");
    }

    #[test]
    fn writing_replaces_as_a_whole_and_leaves_nothing_aside() {
        let (_temp, dir) = dir();
        std::fs::write(dir.path_of(".file.new"), b"left by a killed agent").unwrap();
        dir.write("file", b"one").unwrap();
        dir.write("file", b"two").unwrap();
        assert_eq!(dir.read("file", 10).unwrap().unwrap().as_slice(), b"two");
        assert_eq!(dir.names().unwrap(), ["file"]);
        assert_eq!(std::fs::metadata(dir.path_of("file")).unwrap().permissions().mode() & 0o7777, 0o600);
        dir.remove("file").unwrap();
        dir.remove("file").unwrap();
    }
}
