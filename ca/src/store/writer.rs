//! The one thread that writes: takes what is queued, runs it in one transaction, answers after the commit.
//!
//! While one group is being synced to disk the queue fills with the next: under load many records share one sync, at
//! rest each change has its own at once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread,
};

use bonafide_verifier::clock::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use super::{
    Limits, Link, Recorded,
    disk::DiskWatch,
    error::{StoreError, TxError},
    job::{AnyChange, Job, Ticket, Undo, refuse_all},
    opened::Opened,
    position::{self, Noted, Position},
    sqlite::{self, Fault},
    tx::{Hook, Tx},
};
use crate::audit::{Head, Record};

pub(super) struct Writer {
    connection: Connection,
    jobs: mpsc::Receiver<Job>,
    link: Arc<Link>,
    disk: DiskWatch,
    failed: watch::Sender<Option<Arc<str>>>,
    head: Head,
    written_time: i64,
    path: PathBuf,
    directory: PathBuf,
    position: Option<Position>,
    scratch: Vec<u8>,
    limits: Limits,
}

/// A job of the present group that has run.
enum Ran {
    Change(Box<dyn AnyChange>),
    Records(Vec<Recorded>, oneshot::Sender<Result<Vec<Recorded>, StoreError>>),
}

impl Writer {
    pub(super) fn start(
        opened: Opened,
        jobs: mpsc::Receiver<Job>,
        link: Arc<Link>,
        disk: DiskWatch,
        failed: watch::Sender<Option<Arc<str>>>,
        limits: &Limits,
    ) -> std::io::Result<()> {
        let mut writer = Self {
            connection: opened.connection,
            jobs,
            link,
            disk,
            failed,
            head: opened.head,
            written_time: opened.highest_time.unix_millis(),
            path: opened.path,
            directory: opened.directory,
            position: opened.position,
            scratch: Vec::with_capacity(4096),
            limits: limits.clone(),
        };
        // The thread ends when the last handle is dropped or the store is closed; `Store::close` waits for it.
        thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run()).map(drop)
    }

    fn run(&mut self) {
        let mut group = Vec::new();
        while let Some(first) = self.jobs.blocking_recv() {
            let mut records = 0;
            let mut closing = None;
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Close(done) => closing = Some(done),
                    Job::Change(_) => {
                        records += 1;
                        group.push(job);
                    }
                    Job::Records { records: ref more, .. } => {
                        records += more.len();
                        group.push(job);
                    }
                }
                if closing.is_none() && records < self.limits.group_records {
                    next = self.jobs.try_recv().ok();
                }
            }
            self.write_group(&mut group);
            if let Some(done) = closing {
                self.jobs.close();
                self.end();
                let _ = done.send(());
                return;
            }
        }
        self.end();
    }

    fn write_group(&mut self, group: &mut Vec<Job>) {
        if let Some(reason) = self.failed.borrow().clone() {
            return refuse_all(group.drain(..), &StoreError::Failed { reason });
        }
        if group.is_empty() {
            return;
        }
        if let Err(failure) = self.connection.execute_batch("BEGIN IMMEDIATE") {
            let failure = self.store_error(Fault::of(&failure), &failure.to_string());
            return refuse_all(group.drain(..), &failure);
        }
        let (at, began) = (self.link.clock.now(), self.link.clock.boot());
        let (before, mut hooks, mut ran) = (self.head.clone(), Vec::new(), Vec::with_capacity(group.len()));
        let before_seq = before.seq;
        let mut broken = None;
        let mut jobs = group.drain(..);
        for job in jobs.by_ref() {
            let outcome = match job {
                Job::Change(change) => self.run_change(change, at, &mut hooks, &mut ran),
                Job::Records { records, answer, ticket } => self.run_records(&records, at, answer, &ticket, &mut ran),
                Job::Close(done) => {
                    drop(done);
                    Ok(())
                }
            };
            if let Err(failure) = outcome {
                broken = Some(failure);
                break;
            }
        }
        let outcome = match broken {
            Some(failure) => Err(failure),
            None => self.commit(&before, at),
        };
        match outcome {
            Ok(()) => {
                drop(jobs);
                self.publish(hooks);
                let records = self.head.seq.saturating_sub(before_seq);
                self.link.observe(records, self.link.clock.boot().saturating_sub(began));
                for ran in ran {
                    match ran {
                        Ran::Change(change) => change.answer(Ok(())),
                        Ran::Records(proofs, answer) => drop(answer.send(Ok(proofs))),
                    }
                }
                self.checkpoint_if_due();
            }
            Err((fault, detail)) => {
                self.head = before;
                if !self.connection.is_autocommit() {
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                let failure = self.store_error(fault, &detail);
                for ran in ran {
                    match ran {
                        Ran::Change(change) => change.answer(Err(failure.clone())),
                        Ran::Records(_, answer) => drop(answer.send(Err(failure.clone()))),
                    }
                }
                refuse_all(jobs, &failure);
            }
        }
    }

    /// Runs one change in a savepoint. An error is one that ends the whole group.
    fn run_change(
        &mut self,
        mut change: Box<dyn AnyChange>,
        at: Timestamp,
        hooks: &mut Vec<Hook>,
        ran: &mut Vec<Ran>,
    ) -> Result<(), (Fault, String)> {
        if !change.take() {
            return Ok(());
        }
        let broken = |error: rusqlite::Error| (Fault::of(&error), error.to_string());
        let (head, hooks_before) = (self.head.clone(), hooks.len());
        self.connection.execute_batch("SAVEPOINT change").map_err(broken)?;
        let mut tx = Tx::new(&self.connection, at, &mut self.head, hooks, &mut self.scratch);
        match change.run(&mut tx) {
            Ok(()) => {
                self.connection.execute_batch("RELEASE change").map_err(broken)?;
                ran.push(Ran::Change(change));
                Ok(())
            }
            Err(undo) => {
                self.head = head;
                hooks.truncate(hooks_before);
                if let Undo::Failed(fault @ (Fault::Fatal | Fault::DiskFull), detail) = undo {
                    ran.push(Ran::Change(change));
                    return Err((fault, detail));
                }
                self.connection.execute_batch("ROLLBACK TO change; RELEASE change").map_err(broken)?;
                change.answer(match undo {
                    Undo::Refused => Ok(()),
                    Undo::Failed(fault, detail) => Err(self.store_error(fault, &detail)),
                });
                Ok(())
            }
        }
    }

    fn run_records(
        &mut self,
        records: &[Record],
        at: Timestamp,
        answer: oneshot::Sender<Result<Vec<Recorded>, StoreError>>,
        ticket: &Ticket,
        ran: &mut Vec<Ran>,
    ) -> Result<(), (Fault, String)> {
        if !ticket.take() {
            return Ok(());
        }
        let first = self.head.seq + 1;
        let mut hooks = Vec::new();
        let written = Tx::new(&self.connection, at, &mut self.head, &mut hooks, &mut self.scratch).append_all(records);
        let proofs =
            records.iter().zip(first..).map(|(record, seq)| Recorded { seq, subject: *record.subject() }).collect();
        ran.push(Ran::Records(proofs, answer));
        written.map_err(|error| (error.fault(), error.to_string()))
    }

    /// Signs the new head and makes all of it durable.
    fn commit(&mut self, before: &Head, at: Timestamp) -> Result<(), (Fault, String)> {
        let highest = self.link.highest_time.load(Ordering::Acquire);
        self.close_group(before, at, highest).map_err(|error| (error.fault(), error.to_string()))?;
        self.written_time = highest;
        if self.head.seq != before.seq {
            self.note_position();
        }
        Ok(())
    }

    fn close_group(&mut self, before: &Head, at: Timestamp, highest: i64) -> Result<(), TxError> {
        let mut hooks = Vec::new();
        let mut tx = Tx::new(&self.connection, at, &mut self.head, &mut hooks, &mut self.scratch);
        if tx.head().seq != before.seq {
            let signer = self.link.signer.load_full().ok_or(TxError::Unsigned)?;
            tx.sign_head(&signer)?;
        }
        if highest != self.written_time {
            tx.set_highest_time(Timestamp::from_unix_millis(highest))?;
        }
        self.connection.execute_batch("COMMIT")?;
        Ok(())
    }

    /// Runs the hooks of what was committed, in its order, and makes readers in memory see it.
    fn publish(&mut self, hooks: Vec<Hook>) {
        self.link.head.store(Arc::new(self.head.clone()));
        let changed = !hooks.is_empty();
        let publish = AssertUnwindSafe(|| {
            for hook in hooks {
                hook();
            }
            if changed && let Some(after_commit) = self.link.after_commit.get() {
                after_commit();
            }
        });
        if catch_unwind(publish).is_err() {
            // What is in memory is not what is on disk any more.
            self.fail("what was committed could not be taken over into memory");
        }
    }

    fn note_position(&mut self) {
        let noted = Noted { seq: self.head.seq, hash: self.head.hash };
        let outcome = match &self.position {
            Some(position) => position.note(noted),
            None => Position::create(&self.directory, noted).map(|position| self.position = Some(position)),
        };
        if let Err(error) = outcome {
            warn!(path = %position::path(&self.directory).display(), %error, "could not note where the audit log ends");
        }
    }

    /// By hand, since SQLite keeps an error of its automatic checkpoint to itself.
    fn checkpoint_if_due(&mut self) {
        let moved = sqlite::pages_in_log(&self.connection).and_then(|pages| {
            if pages > i64::from(self.limits.checkpoint_pages) {
                sqlite::checkpoint(&self.connection, "PASSIVE")?;
            }
            Ok(())
        });
        if let Err(failure) = moved {
            let fault = Fault::of(&failure);
            if fault == Fault::Fatal {
                self.fail(&failure.to_string());
            } else {
                warn!(error = %failure, "could not move the write-ahead log into the database; it grows until that works");
            }
        }
    }

    fn end(&mut self) {
        if self.failed.borrow().is_some() {
            return;
        }
        if let Err(error) = sqlite::checkpoint(&self.connection, "TRUNCATE") {
            warn!(%error, "could not move the write-ahead log into the database; the next start does");
        }
        let placeholder = match Connection::open_in_memory() {
            Ok(placeholder) => placeholder,
            Err(_) => return,
        };
        let connection = std::mem::replace(&mut self.connection, placeholder);
        connection.flush_prepared_statement_cache();
        if let Err((_, error)) = connection.close() {
            warn!(%error, "could not close the database");
        }
    }

    fn store_error(&mut self, fault: Fault, detail: &str) -> StoreError {
        match fault {
            Fault::Busy => StoreError::Unavailable { waited: self.limits.wait },
            Fault::DiskFull => StoreError::DiskFull { path: self.path.clone(), free: self.disk.look() },
            Fault::Fatal => self.fail(detail),
            Fault::Damaged => StoreError::Damaged { detail: detail.to_owned() },
            Fault::Internal => {
                error!(error = detail, "a statement failed");
                StoreError::Internal { detail: detail.to_owned() }
            }
        }
    }

    fn fail(&mut self, detail: &str) -> StoreError {
        let reason: Arc<str> = format!("`{}`: {detail}", self.path.display()).into();
        error!(path = %self.path.display(), error = detail, "the database failed; nothing is signed or changed any more");
        self.failed.send_replace(Some(reason.clone()));
        StoreError::Failed { reason }
    }
}
