//! What a process executes: which file, under which path, with which SHA-256. The path and the hash narrow a user down;
//! they are as good as who may write that file or start it (W-01).
//!
//! Everything here may wait for a file system that its owner controls (FUSE, a dead NFS server), so it runs on
//! threads of its own, few for each user, and is waited for a bounded time (W-10).

use std::{
    collections::HashMap,
    ffi::CStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use bonafide_verifier::clock::Clock;
use quick_cache::sync::Cache;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, stat, statat};

use super::peer::{Process, is_exhaustion};

/// Which file a process executes. Another inode, and also another content of it, is another executable.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct ExecutableIdentity {
    device: u64,
    inode: u64,
    changed_s: i64,
    changed_ns: i64,
}

/// What was found out about an executable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Executable {
    pub(crate) identity: ExecutableIdentity,
    /// As the kernel prints it, also where it names no file of this host; for people only.
    pub(crate) shown_path: String,
    /// The path under which this host has this very file.
    pub(crate) path: Result<String, NoPath>,
    /// Lower-case hexadecimal; `None` if it was not asked for.
    pub(crate) sha256: Option<Result<Arc<str>, NoHash>>,
}

/// Why there is no path selector.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NoPath {
    #[error("the executable was deleted, or never had a name (memfd)")]
    Deleted,
    #[error("the path is not valid text")]
    NotText,
    /// It runs in a mount namespace or root directory of its own, where anything may have that name.
    #[error(
        "the path names another file on this host; the process runs in a mount namespace or root directory of its own"
    )]
    NotOfThisHost,
}

/// Why there is no hash selector.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NoHash {
    #[error("the executable was deleted, or never had a name (memfd)")]
    Deleted,
    #[error("the executable is {size} bytes long, at most {limit} are hashed")]
    TooLarge { size: u64, limit: u64 },
    #[error("the executable changed while it was read")]
    Changed,
    #[error("the executable could not be hashed within {limit:?}")]
    TooSlow { limit: Duration },
    #[error("the executable cannot be read: {error}")]
    Unreadable { error: String },
    /// F-19: nothing is said about the executable.
    #[error("the agent has no file descriptors or memory left: {error}")]
    Exhausted { error: String },
}

/// Why nothing is known about an executable.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NoExecutable {
    #[error("the executable cannot be looked at: {error}; for processes of other users the agent needs CAP_SYS_PTRACE")]
    Unreadable { error: String },
    #[error("the file system of the executable did not answer within {limit:?}")]
    TooSlow { limit: Duration },
    #[error("{limit} executables of this user are being looked at already, and their file system does not answer")]
    TooMany { limit: usize },
    /// F-19: nothing is said about the executable.
    #[error("the agent has no file descriptors or memory left: {error}")]
    Exhausted { error: String },
}

/// How much work looking at executables may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExecutableLimits {
    /// The longest wait for a file system; then nothing is known of the executable. Default 1 s.
    pub(crate) look: Duration,
    /// The longest wait for a hash; then there is none. Default 5 s.
    pub(crate) hash: Duration,
    /// The largest executable that is hashed. Default 1 GiB.
    pub(crate) size: u64,
    /// Threads that may wait for a user's file systems at once; more look-ups of that user find nothing. Default 8.
    pub(crate) threads_per_user: usize,
    /// Hashes remembered; the least used is forgotten. Default 1,024.
    pub(crate) hashes: usize,
}

impl Default for ExecutableLimits {
    fn default() -> Self {
        ExecutableLimits {
            look: Duration::from_secs(1),
            hash: Duration::from_secs(5),
            size: 1 << 30,
            threads_per_user: 8,
            hashes: 1024,
        }
    }
}

/// Looks at executables, remembers hashes.
#[derive(Debug)]
pub(crate) struct Executables {
    limits: ExecutableLimits,
    clock: Arc<dyn Clock>,
    hashes: Arc<Cache<HashKey, Arc<str>>>,
    busy: Arc<Mutex<HashMap<u32, usize>>>,
}

/// A file's content as far as the kernel tells without reading it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct HashKey {
    identity: ExecutableIdentity,
    size: u64,
    modified: (i64, i64),
}

/// A thread of a user that looks at a file; counted until it is really done, not until it is given up.
struct BusyThread {
    busy: Arc<Mutex<HashMap<u32, usize>>>,
    uid: u32,
}

impl Executables {
    pub(crate) fn new(limits: ExecutableLimits, clock: Arc<dyn Clock>) -> Executables {
        let hashes = Arc::new(Cache::new(limits.hashes));
        Executables { limits, clock, hashes, busy: Arc::default() }
    }

    /// What `process`, a process of user `uid`, executes now.
    pub(crate) async fn of(
        &self,
        process: &Arc<Process>,
        uid: u32,
        with_hash: bool,
    ) -> Result<Executable, NoExecutable> {
        let thread = BusyThread::start(&self.busy, uid, self.limits.threads_per_user)
            .ok_or(NoExecutable::TooMany { limit: self.limits.threads_per_user })?;
        let job = Job {
            process: process.clone(),
            with_hash,
            hashes: self.hashes.clone(),
            clock: self.clock.clone(),
            limits: self.limits,
        };
        let limit = if with_hash { self.limits.look + self.limits.hash } else { self.limits.look };
        let looking = tokio::task::spawn_blocking(move || {
            let _thread = thread;
            job.run()
        });
        match tokio::time::timeout(limit, looking).await {
            Ok(Ok(found)) => found.map_err(|error| match is_exhaustion(&error) {
                true => NoExecutable::Exhausted { error: error.to_string() },
                false => NoExecutable::Unreadable { error: error.to_string() },
            }),
            Ok(Err(ended)) => Err(NoExecutable::Unreadable { error: ended.to_string() }),
            Err(_) => Err(NoExecutable::TooSlow { limit }),
        }
    }
}

impl BusyThread {
    fn start(busy: &Arc<Mutex<HashMap<u32, usize>>>, uid: u32, limit: usize) -> Option<BusyThread> {
        let mut counts = busy.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(uid).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(BusyThread { busy: busy.clone(), uid })
    }
}

impl Drop for BusyThread {
    fn drop(&mut self) {
        let mut counts = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// One look, on a thread that may wait.
struct Job {
    process: Arc<Process>,
    with_hash: bool,
    hashes: Arc<Cache<HashKey, Arc<str>>>,
    clock: Arc<dyn Clock>,
    limits: ExecutableLimits,
}

impl Job {
    fn run(&self) -> io::Result<Executable> {
        let directory = self.process.directory();
        // Through the link itself, so this is the file that runs, whatever its path names by now.
        let file = statat(directory, EXE, AtFlags::empty())?;
        let link = readlinkat(directory, EXE, Vec::new())?;
        Ok(Executable {
            identity: ExecutableIdentity::of(&file),
            shown_path: link.to_string_lossy().into_owned(),
            path: path_on_this_host(link.as_c_str(), &file),
            sha256: self.with_hash.then(|| self.sha256(directory, &file)),
        })
    }

    fn sha256(&self, directory: &OwnedFd, looked_at: &Stat) -> Result<Arc<str>, NoHash> {
        if looked_at.st_nlink == 0 {
            return Err(NoHash::Deleted);
        }
        let key = HashKey::of(looked_at);
        if let Some(known) = self.hashes.get(&key) {
            return Ok(known);
        }
        if key.size > self.limits.size {
            return Err(NoHash::TooLarge { size: key.size, limit: self.limits.size });
        }
        let unreadable = |error: io::Error| match is_exhaustion(&error) {
            true => NoHash::Exhausted { error: error.to_string() },
            false => NoHash::Unreadable { error: error.to_string() },
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = openat(directory, EXE, flags, Mode::empty()).map_err(|error| unreadable(error.into()))?;
        let opened = fstat(&file).map_err(|error| unreadable(error.into()))?;
        if HashKey::of(&opened) != key || FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
            return Err(NoHash::Changed);
        }
        let deadline = self.clock.boot() + self.limits.hash;
        let mut context = Context::new(&SHA256);
        let mut chunk = vec![0; 256 * 1024];
        let mut length = 0;
        loop {
            let read = rustix::io::read(&file, &mut chunk).map_err(|error| unreadable(error.into()))?;
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            context.update(bytes);
            length += bytes.len() as u64;
            if length > key.size {
                return Err(NoHash::Changed);
            }
            if self.clock.boot() > deadline {
                return Err(NoHash::TooSlow { limit: self.limits.hash });
            }
        }
        let afterwards = fstat(&file).map_err(|error| unreadable(error.into()))?;
        if HashKey::of(&afterwards) != key || length != key.size {
            return Err(NoHash::Changed);
        }
        let hash: Arc<str> = data_encoding::HEXLOWER.encode(context.finish().as_ref()).into();
        self.hashes.insert(key, hash.clone());
        Ok(hash)
    }
}

/// A process may be in a mount namespace of its own making, where it can bind any file over any path: the kernel then
/// prints that path. So the path counts only if this host has the same file there.
fn path_on_this_host(link: &CStr, file: &Stat) -> Result<String, NoPath> {
    if file.st_nlink == 0 {
        return Err(NoPath::Deleted);
    }
    let text = link.to_str().map_err(|_| NoPath::NotText)?;
    let path = Path::new(std::ffi::OsStr::from_bytes(link.to_bytes()));
    if !path.is_absolute() {
        return Err(NoPath::NotOfThisHost);
    }
    match stat(path) {
        Ok(there) if (there.st_dev, there.st_ino) == (file.st_dev, file.st_ino) => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(NoPath::NotOfThisHost),
    }
}

impl ExecutableIdentity {
    fn of(file: &Stat) -> ExecutableIdentity {
        ExecutableIdentity {
            device: file.st_dev,
            inode: file.st_ino,
            changed_s: file.st_ctime,
            changed_ns: file.st_ctime_nsec,
        }
    }
}

impl HashKey {
    fn of(file: &Stat) -> HashKey {
        HashKey {
            identity: ExecutableIdentity::of(file),
            size: u64::try_from(file.st_size).unwrap_or(u64::MAX),
            modified: (file.st_mtime, file.st_mtime_nsec),
        }
    }
}

const EXE: &CStr = c"exe";
