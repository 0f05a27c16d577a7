//! The log of what this agent has minted: no token leaves without its record, and the CA collects every one of them.
//!
//! A thread of its own has the file. It takes what many calls ask for at the same time, writes it, syncs once, and answers then. Records form
//! a chain ([`bonafide_ca_api::MintChain`]), each with its hash behind it; what a kill left half-written at the end was never answered and is cut off, anything
//! else that does not fit is damage, with which nothing is minted. The file is bounded: where the CA has been away for so long that it is
//! full, nothing is minted either. What was collected is dropped.

mod file;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bonafide_ca_api::{NodeName, generated::node};
use tokio::sync::{Notify, mpsc, oneshot};

use self::file::LogFile;

/// Bounds of the log, each with what happens there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MintLogLimits {
    /// Bytes of the file; beyond it nothing is minted until the CA has collected some. Default 256 MiB, some 600,000 tokens.
    pub(crate) bytes: u64,
    /// Calls that wait for the thread; further ones are refused. Default 4,096.
    pub(crate) waiting: usize,
    /// Bytes of collected records after which the file is written anew without them. Default 16 MiB, and at once where nothing else is
    /// in it and it is larger than a sixteenth of that.
    pub(crate) collected_bytes: u64,
}

impl Default for MintLogLimits {
    fn default() -> Self {
        Self { bytes: 256 << 20, waiting: 4096, collected_bytes: 16 << 20 }
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
pub(crate) struct MintLog {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    status: Mutex<MintLogStatus>,
    appended: Notify,
}

enum Job {
    Append(Append),
    Waiting { answer: oneshot::Sender<Result<Option<Waiting>, MintLogError>> },
    Collected { seq: u64 },
}

struct Append {
    at_ms: i64,
    body: Vec<u8>,
    answer: oneshot::Sender<Result<u64, MintLogError>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Append(_) => "Append",
            Self::Waiting { .. } => "Waiting",
            Self::Collected { .. } => "Collected",
        })
    }
}

impl MintLog {
    /// The name of the file in the agent's data directory.
    pub(crate) const FILE: &str = "mint.log";

    /// Opens the log in `directory`, or begins one. A log that cannot be used is one all the same: it says so at every record. Blocks.
    pub(crate) fn open(directory: &Path, node: &NodeName, limits: MintLogLimits) -> Self {
        let path = directory.join(Self::FILE);
        let opened = LogFile::open(&path, node, limits);
        let status = match &opened {
            Ok(file) => file.status(),
            Err(trouble) => MintLogStatus { waiting: 0, bytes: 0, trouble: Some(trouble.clone()) },
        };
        let shared = Arc::new(Shared { status: Mutex::new(status), appended: Notify::new() });
        let (jobs, queue) = mpsc::channel(limits.waiting);
        let writer = Writer { file: opened, queue, shared: Arc::clone(&shared) };
        let started = std::thread::Builder::new().name("mint-log".into()).spawn(move || writer.run());
        if let Err(error) = started {
            // The queue's other end is gone: every record is refused.
            lock(&shared.status).trouble =
                Some(MintLogError::Unwritable { path, reason: format!("no thread: {error}") });
        }
        Self { jobs, shared }
    }

    /// Writes a record and answers once it is on disk, with its place.
    ///
    /// # Errors
    /// When it is not: then what it tells of must not leave.
    pub(crate) async fn append(&self, at_ms: i64, body: Vec<u8>) -> Result<u64, MintLogError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job::Append(Append { at_ms, body, answer })).map_err(|_| self.trouble())?;
        answered.await.map_err(|_| self.trouble())?
    }

    /// What the CA has not collected, as much as goes into one message; nothing when it has everything.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) async fn waiting(&self) -> Result<Option<Waiting>, MintLogError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job::Waiting { answer }).await.map_err(|_| self.trouble())?;
        answered.await.map_err(|_| self.trouble())?
    }

    /// The CA has everything up to `seq`.
    pub(crate) async fn collected(&self, seq: u64) {
        let _ = self.jobs.send(Job::Collected { seq }).await;
    }

    /// Completes when something was appended since the last time, or at once if that was before this was asked for the first time.
    pub(crate) async fn appended(&self) {
        self.shared.appended.notified().await;
    }

    pub(crate) fn status(&self) -> MintLogStatus {
        lock(&self.shared.status).clone()
    }

    fn trouble(&self) -> MintLogError {
        lock(&self.shared.status).trouble.clone().unwrap_or(MintLogError::Busy)
    }
}

/// The thread with the file.
struct Writer {
    file: Result<LogFile, MintLogError>,
    queue: mpsc::Receiver<Job>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        let mut group = Vec::new();
        while let Some(first) = self.queue.blocking_recv() {
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Append(append) => {
                        group.push(append);
                        if group.len() < GROUP {
                            next = self.queue.try_recv().ok();
                        }
                    }
                    // What was asked for before it comes first.
                    other => {
                        self.write(&mut group);
                        self.other(other);
                    }
                }
            }
            self.write(&mut group);
        }
    }

    fn write(&mut self, group: &mut Vec<Append>) {
        if group.is_empty() {
            return;
        }
        let mut answers = Vec::with_capacity(group.len());
        match &mut self.file {
            Err(trouble) => answers.extend(group.drain(..).map(|one| (one.answer, Err(trouble.clone())))),
            Ok(file) => {
                for one in group.drain(..) {
                    answers.push((one.answer, file.append(one.at_ms, &one.body)));
                }
                if let Err(trouble) = file.sync() {
                    // What is on disk is not known any more (F-04): it is read again at the next start.
                    answers.iter_mut().for_each(|(_, answer)| *answer = Err(trouble.clone()));
                    self.file = Err(trouble);
                }
            }
        }
        self.tell();
        for (answer, outcome) in answers {
            let _ = answer.send(outcome);
        }
        self.shared.appended.notify_one();
    }

    fn other(&mut self, job: Job) {
        match (job, &mut self.file) {
            (Job::Append(_), _) => {}
            (Job::Waiting { answer }, Ok(file)) => drop(answer.send(file.waiting())),
            (Job::Waiting { answer }, Err(trouble)) => drop(answer.send(Err(trouble.clone()))),
            (Job::Collected { seq }, Ok(file)) => {
                if let Err(trouble) = file.collected(seq) {
                    self.file = Err(trouble);
                }
                self.tell();
            }
            (Job::Collected { .. }, Err(_)) => {}
        }
    }

    fn tell(&self) {
        let status = match &self.file {
            Ok(file) => file.status(),
            Err(trouble) => {
                let before = lock(&self.shared.status).clone();
                MintLogStatus { trouble: Some(trouble.clone()), ..before }
            }
        };
        *lock(&self.shared.status) = status;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one assignment: what a panicking thread left is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that share one sync.
const GROUP: usize = 512;
