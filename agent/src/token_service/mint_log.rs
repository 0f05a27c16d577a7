//! The log of what this agent has minted: no token leaves without its record, and the CA collects every one of them.
//!
//! A record is written to the file before its token leaves, so that no end of this process loses it, by whatever signal. It is durable a moment
//! later: a thread of its own syncs what many calls have written. A power cut loses the records since the last sync, which are those of
//! [`MintLogLimits::behind`] at the most: where the disk takes longer than that, calls wait for it. Only what is durable goes to the CA, so that
//! it never has more than the file.
//!
//! Records form a chain ([`bonafide_ca_api::MintChain`]), each with its hash behind it; what a kill or a power cut left half-written at the
//! end is cut off, anything else that does not fit is damage, with which nothing is minted. The file is bounded: where the CA
//! has been away for so long that it is full, nothing is minted either. What was collected is dropped.

mod file;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use bonafide_ca_api::{NodeName, generated::node};
use bonafide_verifier::clock::Clock;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, watch},
};
use tracing::warn;

use self::file::LogFile;

/// Bounds of the log, each with what happens there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MintLogLimits {
    /// Bytes of the file; beyond it nothing is minted until the CA has collected some. Default 256 MiB, some 600,000 tokens.
    pub(crate) bytes: u64,
    /// Calls that wait for the disk; further ones are refused. Default 4,096.
    pub(crate) waiting: usize,
    /// How long a record whose token has left may be on its way to the disk; while one is longer, no further one is written. Default 100 ms.
    pub(crate) behind: Duration,
    /// Bytes of collected records after which the file is written anew without them. Default 16 MiB, and at once where nothing else is
    /// in it and it is larger than a sixteenth of that.
    pub(crate) collected_bytes: u64,
}

impl Default for MintLogLimits {
    fn default() -> Self {
        Self { bytes: 256 << 20, waiting: 4096, behind: Duration::from_millis(100), collected_bytes: 16 << 20 }
    }
}

/// Why nothing is recorded, and so nothing minted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum MintLogError {
    #[error(
        "the mint log `{path}` is full ({bytes} of {limit} bytes): the CA has not collected it; nothing is minted until it does"
    )]
    Full { path: PathBuf, bytes: u64, limit: u64 },
    #[error("the mint log `{path}` cannot be written: {reason}")]
    Unwritable { path: PathBuf, reason: String },
    #[error(
        "the mint log `{path}` is damaged at byte {offset}: {reason}; nothing is minted with it. Keep it for an inspection, move it \
         away and start the agent again: a new log begins, which the CA records"
    )]
    Damaged { path: PathBuf, offset: u64, reason: String },
    #[error("too many tokens are asked for at once; ask again in a moment")]
    Busy,
}

/// The log's place and fill, for status and metrics.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct MintLogStatus {
    /// Records that the CA has not collected.
    pub(crate) waiting: u64,
    pub(crate) bytes: u64,
    /// Why nothing can be recorded.
    pub(crate) trouble: Option<MintLogError>,
}

/// A stretch for the CA.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) request: node::CollectMintsRequest,
    /// Of its last record.
    pub(crate) last: u64,
}

/// The log of this node. Cheap to clone; the last clone ends its thread.
#[derive(Clone, Debug)]
pub(crate) struct MintLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    limits: MintLogLimits,
    /// Held for as long as the kernel takes to copy a record, and while the file is written anew: calls wait for it without a thread.
    log: tokio::sync::Mutex<Log>,
    places: Semaphore,
    status: Mutex<MintLogStatus>,
    /// Wakes the thread.
    writes: SyncSender<()>,
    /// Changes whenever a sync has ended, well or not, and when the file cannot be used any more.
    synced: watch::Sender<()>,
    /// Something can be collected.
    durable: Notify,
}

#[derive(Debug)]
struct Log {
    file: Result<LogFile, MintLogError>,
    /// When the oldest record was written that waits for the next sync, on the boot clock.
    unsynced_since: Option<Duration>,
    /// The same of those that are being synced.
    syncing_since: Option<Duration>,
}

impl MintLog {
    /// The name of the file in the agent's data directory.
    pub(crate) const FILE: &str = "mint.log";

    /// Opens the log in `directory`, or begins one. A log that cannot be used is one all the same: it says so at every record. Blocks.
    pub(crate) fn open(directory: &Path, node: &NodeName, limits: MintLogLimits, clock: Arc<dyn Clock>) -> Self {
        let path = directory.join(Self::FILE);
        let mut file = LogFile::open(&path, node, limits);
        let ((writes, wakes), runtime) = (sync_channel(1), Handle::try_current().ok());
        let shared = Arc::new_cyclic(|log: &Weak<Shared>| {
            let log = log.clone();
            let thread = std::thread::Builder::new().name("mint-log".into());
            if let Err(error) = thread.spawn(move || keep_synced(&wakes, &log, runtime.as_ref())) {
                file = Err(MintLogError::Unwritable { path, reason: format!("no thread: {error}") });
            }
            let status = match &file {
                Ok(file) => file.status(),
                Err(trouble) => MintLogStatus { waiting: 0, bytes: 0, trouble: Some(trouble.clone()) },
            };
            Shared {
                clock,
                limits,
                log: tokio::sync::Mutex::new(Log { file, unsynced_since: None, syncing_since: None }),
                places: Semaphore::new(limits.waiting),
                status: Mutex::new(status),
                writes,
                synced: watch::Sender::new(()),
                durable: Notify::new(),
            }
        });
        // What an earlier start has left can be collected.
        shared.durable.notify_one();
        Self(shared)
    }

    /// Writes a record, with its place. It survives this process from here on, and a power cut after the next sync, which is under way.
    ///
    /// # Errors
    /// When it is not written: then what it tells of must not leave.
    pub(crate) async fn append(&self, at_ms: i64, body: &[u8]) -> Result<u64, MintLogError> {
        let shared = &self.0;
        let _place = shared.places.try_acquire().map_err(|_| MintLogError::Busy)?;
        let mut log = shared.log.lock().await;
        while log.is_behind(shared.clock.boot(), shared.limits.behind) {
            let mut synced = shared.synced.subscribe();
            drop(log);
            // Its sender is in `shared`.
            let _ = synced.changed().await;
            log = shared.log.lock().await;
        }
        let appended = log.append(at_ms, body, shared);
        shared.tell(&log);
        appended
    }

    /// What the CA has not collected and is durable, as much as goes into one message; nothing when it has everything.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) async fn waiting(&self) -> Result<Option<Waiting>, MintLogError> {
        self.with_file(LogFile::waiting).await
    }

    /// The CA has everything up to `seq`.
    pub(crate) async fn collected(&self, seq: u64) {
        // The trouble, if there is any, is in the status and with the next record.
        let _ = self.with_file(move |file| file.collected(seq)).await;
    }

    /// Completes when something has become durable since the last time, or at once if this is asked for the first time.
    pub(crate) async fn durable(&self) {
        self.0.durable.notified().await;
    }

    pub(crate) fn status(&self) -> MintLogStatus {
        lock(&self.0.status).clone()
    }

    /// Does something with the file that reads or writes more than one record, on a thread that may wait. A file with which that fails is not used any more.
    async fn with_file<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut LogFile) -> Result<T, MintLogError> + Send + 'static,
    ) -> Result<T, MintLogError> {
        let shared = Arc::clone(&self.0);
        let running = tokio::task::spawn_blocking(move || {
            let mut log = shared.log.blocking_lock();
            let done = match &mut log.file {
                Ok(file) => run(file),
                Err(trouble) => return Err(trouble.clone()),
            };
            if let Err(trouble) = &done {
                log.file = Err(trouble.clone());
                shared.synced.send_replace(());
            }
            shared.tell(&log);
            done
        });
        running.await.unwrap_or(Err(MintLogError::Busy))
    }
}

impl Log {
    /// Whether the disk does not keep up. One that cannot be used keeps nobody waiting.
    fn is_behind(&self, now: Duration, most: Duration) -> bool {
        let oldest = self.syncing_since.or(self.unsynced_since).filter(|_| self.file.is_ok());
        oldest.is_some_and(|since| now.saturating_sub(since) > most)
    }

    fn append(&mut self, at_ms: i64, body: &[u8], shared: &Shared) -> Result<u64, MintLogError> {
        let file = self.file.as_mut().map_err(|trouble| trouble.clone())?;
        if self.unsynced_since.is_none() {
            // Before it is written: the thread looks after a file system that does not answer, too.
            if let Err(TrySendError::Disconnected(())) = shared.writes.try_send(()) {
                let path = file.path().to_owned();
                return Err(MintLogError::Unwritable { path, reason: "its thread has ended".into() });
            }
            self.unsynced_since = Some(shared.clock.boot());
        }
        file.append(at_ms, body)
    }
}

impl Shared {
    /// Makes durable what was written until now. Blocks.
    fn sync(&self) {
        let (file, last) = {
            let mut log = self.log.blocking_lock();
            let unsynced_since = log.unsynced_since.take();
            let Ok(file) = &log.file else { return };
            let written = file.written();
            log.syncing_since = unsynced_since;
            written
        };
        let synced = file.sync_data();
        let mut log = self.log.blocking_lock();
        log.syncing_since = None;
        if let Ok(file) = &mut log.file {
            match file.synced(last, synced) {
                Ok(()) => self.durable.notify_one(),
                // What is on disk is not known any more (F-04): it is read again at the next start.
                Err(trouble) => log.file = Err(trouble),
            }
        }
        self.tell(&log);
        drop(log);
        self.synced.send_replace(());
    }

    fn tell(&self, log: &Log) {
        let mut status = lock(&self.status);
        match &log.file {
            Ok(file) => *status = file.status(),
            Err(trouble) => status.trouble = Some(trouble.clone()),
        }
    }
}

/// A log that is closed leaves nothing on its way.
impl Drop for Shared {
    fn drop(&mut self) {
        let log = self.log.get_mut();
        if let (Some(_), Ok(file)) = (log.unsynced_since, &log.file)
            && let Err(error) = file.written().0.sync_data()
        {
            warn!(%error, "the last records of the mint log may not be durable");
        }
    }
}

/// What the thread does until the log is closed.
fn keep_synced(writes: &Receiver<()>, log: &Weak<Shared>, runtime: Option<&Handle>) {
    while writes.recv().is_ok() {
        // Nothing comes here before the sync: this waits, unless the log is closed.
        let _ = writes.recv_timeout(GATHER);
        // A frozen file system holds the worker that writes. It may be the one that listened for all connections, and the others sleep until there is
        // something to do: this wakes one of them, which listens from then on. No other one can be held here: who writes has the lock.
        drop(runtime.map(|runtime| runtime.spawn(async {})));
        let Some(log) = log.upgrade() else { return };
        log.sync();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one assignment: what a panicking thread left is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For so long records are gathered that share a sync.
const GATHER: Duration = Duration::from_millis(20);
