//! The database: one writer that groups what is asked of it at the same time into one durable commit, and readers beside it.
//!
//! SQLite beside the CA, in WAL mode with full synchronisation. [`Store::write`] runs a change with its records in one
//! transaction; [`Store::record_group`] is the short way for issuance. Both answer after the commit is on disk. A failing
//! change harms no other of its group. An error of the disk itself is final: a page that could not be written may be
//! gone from the page cache as well, so nothing after it can be trusted (F-04).

mod disk;
mod error;
mod job;
mod migrate;
mod opened;
mod position;
mod readers;
pub(crate) mod rows;
mod sqlite;
mod statements;
#[cfg(test)]
mod tests;
mod tx;
mod writer;

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bonafide_verifier::clock::{Clock, Timestamp};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    disk::Disk,
    error::{Abort, OpenError, StoreError, TxError, WriteError},
    opened::DATABASE,
    readers::{ReadOnly, Reader},
    tx::Tx,
};
use self::{
    disk::DiskWatch,
    job::{Change, GiveUp, Job, Ticket},
    opened::Opened,
    readers::Readers,
    writer::Writer,
};
use crate::audit::{Head, HeadSigner, Record};

/// The proof that one record is durable. Only the store makes one, after the commit; there is no way to copy it.
#[derive(Debug, Eq, PartialEq)]
#[must_use]
pub(crate) struct Recorded {
    seq: u64,
    subject: [u8; 32],
}

impl Recorded {
    /// The record's place in the chain.
    #[cfg(test)]
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether it is the proof for these to-be-signed bytes, given by their SHA-256.
    pub(crate) fn covers(&self, tbs_hash: &[u8; 32]) -> bool {
        self.subject == *tbs_hash
    }
}

/// Bounds of the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub(crate) struct Limits {
    /// Jobs that wait for the writer; more wait for a place, at most [`Limits::wait`].
    pub(crate) queue: usize,
    /// Records after which a group is closed.
    pub(crate) group_records: usize,
    /// How long a caller waits for its turn before it is told that the store is unavailable (F-06).
    pub(crate) wait: Duration,
    /// Connections that read; more readers wait.
    pub(crate) readers: usize,
    /// Pages in the write-ahead log after which they are moved to the database.
    pub(crate) checkpoint_pages: u32,
    /// Free bytes below which health is degraded; at most a fifth of the file system.
    pub(crate) disk_low: u64,
    /// Free bytes below which nothing is issued, so that an administrator still can act; at most a twentieth.
    pub(crate) disk_exhausted: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 1024,
            group_records: 4096,
            wait: Duration::from_secs(5),
            readers: 2,
            checkpoint_pages: 4000,
            disk_low: 512 << 20,
            disk_exhausted: 32 << 20,
        }
    }
}

/// Property of the file that says where the audit log ended.
pub(crate) fn check_position_file(data: &[u8]) {
    match position::decode(data) {
        Ok(noted) => assert_eq!(position::encode(noted), data),
        Err(problem) => assert!(!problem.is_empty()),
    }
}

/// What that file holds.
#[cfg(test)]
pub(crate) fn position_file(seq: u64, hash: [u8; 32]) -> Vec<u8> {
    position::encode(position::Noted { seq, hash }).to_vec()
}

/// A handle to the database of this CA.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    queue: mpsc::Sender<Job>,
    readers: Readers,
    disk: DiskWatch,
    link: Arc<Link>,
    restored: bool,
    found_time: Timestamp,
    failed: watch::Receiver<Option<Arc<str>>>,
    limits: Limits,
}

/// What handle and writer thread share.
struct Link {
    clock: Arc<dyn Clock>,
    /// Signs the head of each group.
    signer: ArcSwapOption<HeadSigner>,
    /// The last durable record.
    head: ArcSwap<Head>,
    /// The highest time at which this CA acted, as the clock guard saw it; written with each group.
    highest_time: AtomicI64,
    /// Called on the writer's thread after each commit and before its answers.
    after_commit: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Told of each durable group: its records, and how long it took.
    observer: OnceLock<GroupObserver>,
}

/// What is told of each durable group.
type GroupObserver = Box<dyn Fn(u64, Duration) + Send + Sync>;

impl Link {
    fn observe(&self, records: u64, took: Duration) {
        if let Some(observer) = self.observer.get() {
            observer(records, took);
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("head", &self.head.load().seq).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database at `directory/ca.db`, reads what is kept in memory and starts its writer. Blocks. Nothing can be recorded
    /// before [`Self::sign_heads_with`].
    ///
    /// # Errors
    /// [`OpenError`]: what is wrong with the file, and what to do. Nothing is changed then, but for migrations that
    /// were due.
    pub(crate) fn open(
        directory: &Path,
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, rows::Everything), OpenError> {
        let opened = Opened::open(directory, &limits)?;
        let everything = opened.everything()?;
        let path = opened.path.clone();
        let readers = Readers::open(&path, limits.readers, limits.wait)?;
        let disk = DiskWatch::new(directory, &limits);
        let link = Arc::new(Link {
            clock,
            signer: ArcSwapOption::empty(),
            head: ArcSwap::from_pointee(opened.head.clone()),
            highest_time: AtomicI64::new(opened.highest_time.unix_millis()),
            after_commit: OnceLock::new(),
            observer: OnceLock::new(),
        });
        let (restored, found_time) = (opened.is_restored(), opened.highest_time);
        let (queue, jobs) = mpsc::channel(limits.queue);
        let (failed_to, failed) = watch::channel(None);
        Writer::start(opened, jobs, link.clone(), disk.clone(), failed_to, &limits)
            .map_err(|source| OpenError::Thread { source })?;
        let shared = Shared { path, queue, readers, disk, link, restored, found_time, failed, limits };
        Ok((Self { shared: Arc::new(shared) }, everything))
    }

    /// Makes a new database in `directory` with what `first` puts in. Its files are synced, the directory is not. Blocks.
    ///
    /// # Errors
    /// [`OpenError`], for example when there is no space.
    pub(crate) fn create(
        directory: &Path,
        origin: Head,
        signer: &HeadSigner,
        at: Timestamp,
        first: impl FnOnce(&mut Tx<'_>) -> Result<(), TxError>,
    ) -> Result<(), OpenError> {
        opened::create(directory, origin, signer, at, first)
    }

    /// Runs `change` in a transaction of its own, together with the records it makes, and answers when it is durable.
    /// What it gave to [`Tx::on_commit`] has run then.
    ///
    /// Dropping the future before the writer took the change cancels it; later it goes on by itself.
    ///
    /// # Errors
    /// [`WriteError::Refused`] with what `change` refused; nothing of it is written then.
    pub(crate) async fn write<T, E, F>(&self, change: F) -> Result<T, WriteError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, Abort<E>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let ticket = Ticket::new();
        self.enqueue(Job::Change(Change::boxed(change, answer, ticket.clone()))).await.map_err(WriteError::Store)?;
        self.answer(answered, &ticket).await.map_err(WriteError::Store)?
    }

    /// Writes many records, and nothing else, in one group: the way of issuance. The proofs are in the order of the
    /// records. The job is queued when this is called, not when the future is first polled, unless the queue is full.
    ///
    /// Dropping the future may leave records of what was never handed out.
    pub(crate) fn record_group(
        &self,
        records: Vec<Record>,
    ) -> impl Future<Output = Result<Vec<Recorded>, StoreError>> + Send + use<> {
        let store = self.clone();
        let (answer, answered) = oneshot::channel();
        let ticket = Ticket::new();
        let refused = store.shared.disk.refusal();
        let unsent = match refused {
            Some(refusal) => Err(refusal),
            None => match store.shared.queue.try_send(Job::Records { records, answer, ticket: ticket.clone() }) {
                Ok(()) => Ok(None),
                Err(mpsc::error::TrySendError::Full(job)) => Ok(Some(job)),
                Err(mpsc::error::TrySendError::Closed(_)) => Err(store.closed()),
            },
        };
        async move {
            if let Some(job) = unsent? {
                store.enqueue(job).await?;
            }
            store.answer(answered, &ticket).await?
        }
    }

    /// Runs `read` on a connection of its own that can only read, in one consistent view, off the runtime.
    ///
    /// # Errors
    /// [`StoreError`] when no connection is free in time, or the database cannot be read.
    pub(crate) async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Reader<'_>) -> Result<T, TxError> + Send + 'static,
    {
        if let Some(failure) = self.shared.failed.borrow().clone() {
            return Err(StoreError::Failed { reason: failure });
        }
        self.shared.readers.read(read, &self.shared.path).await
    }

    /// Completes when the database failed for good: the program must end with a failure, and not go on (F-04).
    pub(crate) async fn failed(&self) -> Arc<str> {
        let mut failed = self.shared.failed.clone();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The writer ended in order: there is nothing left that could fail.
            None => std::future::pending().await,
        }
    }

    /// Whether the last position was unknown at the start: the database is a restored copy, or the file that tells was
    /// removed to say so.
    pub(crate) fn is_restored(&self) -> bool {
        self.shared.restored
    }

    /// What health says about the disk; the error of the database, if it failed for good.
    pub(crate) fn health(&self) -> (Disk, Option<Arc<str>>) {
        (self.shared.disk.state(), self.shared.failed.borrow().clone())
    }

    /// Looks at the free space again and again. May be dropped.
    pub(crate) async fn watch_disk(&self, stop: CancellationToken) {
        self.shared.disk.run(self.shared.link.clock.clone(), stop).await;
    }

    /// Finishes what is queued, moves the write-ahead log into the database and closes it.
    pub(crate) async fn close(&self) {
        self.shared.readers.close();
        let (answer, answered) = oneshot::channel();
        if self.shared.queue.send(Job::Close(answer)).await.is_ok() {
            let _ = answered.await;
        }
    }

    /// As [`Self::close`], from a thread that may block.
    pub(crate) fn close_blocking(&self) {
        self.shared.readers.close();
        let (answer, answered) = oneshot::channel();
        if self.shared.queue.blocking_send(Job::Close(answer)).is_ok() {
            let _ = answered.blocking_recv();
        }
    }

    /// The last durable record.
    pub(crate) fn head(&self) -> Arc<Head> {
        self.shared.link.head.load_full()
    }

    /// From now on heads are signed by this key.
    pub(crate) fn sign_heads_with(&self, signer: HeadSigner) {
        self.shared.link.signer.store(Some(Arc::new(signer)));
    }

    /// Notes that the CA acted at `at`. Written with the next group.
    pub(crate) fn note_time(&self, at: Timestamp) {
        self.shared.link.highest_time.fetch_max(at.unix_millis(), Ordering::AcqRel);
    }

    /// Takes `at` as the highest time, also if it goes back: an operator said that the clock is right.
    pub(crate) fn reset_time(&self, at: Timestamp) {
        self.shared.link.highest_time.store(at.unix_millis(), Ordering::Release);
    }

    /// The highest time as it stood in the database when it was opened.
    pub(crate) fn found_time(&self) -> Timestamp {
        self.shared.found_time
    }

    /// The highest time at which this CA acted.
    pub(crate) fn highest_time(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.shared.link.highest_time.load(Ordering::Acquire))
    }

    /// Calls `publish` after each commit, on the writer's thread, before anybody gets an answer. Once only.
    pub(crate) fn after_commit(&self, publish: Box<dyn Fn() + Send + Sync>) {
        let _ = self.shared.link.after_commit.set(publish);
    }

    /// Tells `observer` of each durable group: how many records it had, and how long it took. On the writer's thread. Once only.
    pub(crate) fn observe_groups(&self, observer: impl Fn(u64, Duration) + Send + Sync + 'static) {
        let _ = self.shared.link.observer.set(Box::new(observer));
    }

    /// Where the database is.
    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    async fn enqueue(&self, job: Job) -> Result<(), StoreError> {
        match timeout(self.shared.limits.wait, self.shared.queue.send(job)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.closed()),
            Err(_) => Err(StoreError::Unavailable { waited: self.shared.limits.wait }),
        }
    }

    async fn answer<T>(&self, answered: oneshot::Receiver<T>, ticket: &Ticket) -> Result<T, StoreError> {
        let _given_up = GiveUp(ticket);
        tokio::pin!(answered);
        let wait = self.shared.limits.wait;
        if let Ok(answer) = timeout(wait, &mut answered).await {
            return answer.map_err(|_| self.closed());
        }
        if ticket.abandon() {
            return Err(StoreError::Unavailable { waited: wait });
        }
        // The writer has it: the answer is near, unless the disk hangs.
        match timeout(wait * 2, answered).await {
            Ok(answer) => answer.map_err(|_| self.closed()),
            Err(_) => Err(StoreError::OutcomeUnknown { waited: wait * 3 }),
        }
    }

    fn closed(&self) -> StoreError {
        match self.shared.failed.borrow().clone() {
            Some(reason) => StoreError::Failed { reason },
            None => StoreError::Closed,
        }
    }
}
