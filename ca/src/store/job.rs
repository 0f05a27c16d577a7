//! What waits for the writer, and how its answer finds the way back.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::sync::oneshot;

use super::{
    Recorded,
    error::{Abort, StoreError, WriteError},
    sqlite::Fault,
    tx::Tx,
};
use crate::audit::Record;

/// What waits for the writer.
pub(super) enum Job {
    /// A change with its records, in a savepoint of its own.
    Change(Box<dyn AnyChange>),
    /// Records and nothing else.
    Records { records: Vec<Record>, answer: oneshot::Sender<Result<Vec<Recorded>, StoreError>>, ticket: Ticket },
    /// Ends the writer.
    Close(oneshot::Sender<()>),
}

/// Whether a job waits, runs, or is not wanted any more.
#[derive(Clone, Debug)]
pub(super) struct Ticket(Arc<AtomicU8>);

impl Ticket {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(QUEUED)))
    }

    /// The writer starts on it; false if the caller has given up.
    pub(super) fn take(&self) -> bool {
        self.0.compare_exchange(QUEUED, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller gives up; false if the writer has started.
    pub(super) fn abandon(&self) -> bool {
        self.0.compare_exchange(QUEUED, ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Cancels a job that has not been taken yet when its caller goes away.
pub(super) struct GiveUp<'a>(pub(super) &'a Ticket);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A change, its types hidden.
pub(super) trait AnyChange: Send {
    fn take(&self) -> bool;
    /// Runs it; the error to roll back for, if any.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Undo>;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// Why a savepoint is rolled back.
pub(super) enum Undo {
    /// By the change's own wish.
    Refused,
    /// A statement failed, or the change panicked.
    Failed(Fault, String),
}

pub(super) struct Change<T, E, F> {
    change: Option<F>,
    outcome: Option<Result<T, E>>,
    answer: oneshot::Sender<Result<T, WriteError<E>>>,
    ticket: Ticket,
}

impl<T, E, F> Change<T, E, F>
where
    T: Send + 'static,
    E: Send + 'static,
    F: FnOnce(&mut Tx<'_>) -> Result<T, Abort<E>> + Send + 'static,
{
    pub(super) fn boxed(
        change: F,
        answer: oneshot::Sender<Result<T, WriteError<E>>>,
        ticket: Ticket,
    ) -> Box<dyn AnyChange> {
        Box::new(Self { change: Some(change), outcome: None, answer, ticket })
    }
}

impl<T, E, F> AnyChange for Change<T, E, F>
where
    T: Send,
    E: Send,
    F: FnOnce(&mut Tx<'_>) -> Result<T, Abort<E>> + Send,
{
    fn take(&self) -> bool {
        self.ticket.take()
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Undo> {
        let Some(change) = self.change.take() else { return Err(Undo::Refused) };
        match catch_unwind(AssertUnwindSafe(|| change(tx))) {
            Ok(Ok(value)) => {
                self.outcome = Some(Ok(value));
                Ok(())
            }
            Ok(Err(Abort::Refused(refusal))) => {
                self.outcome = Some(Err(refusal));
                Err(Undo::Refused)
            }
            Ok(Err(Abort::Tx(error))) => Err(Undo::Failed(error.fault(), error.to_string())),
            Err(_) => Err(Undo::Failed(Fault::Internal, "a change panicked".to_owned())),
        }
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (committed, self.outcome) {
            (Err(error), _) => Err(WriteError::Store(error)),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Ok(()), Some(Err(refusal))) => Err(WriteError::Refused(refusal)),
            (Ok(()), None) => Err(WriteError::Store(StoreError::Closed)),
        };
        // Nobody waits any more: the change stands all the same.
        let _ = self.answer.send(answer);
    }
}

/// Answers all of them with the same failure.
pub(super) fn refuse_all(jobs: impl Iterator<Item = Job>, failure: &StoreError) {
    for job in jobs {
        match job {
            Job::Change(change) => change.answer(Err(failure.clone())),
            Job::Records { answer, .. } => drop(answer.send(Err(failure.clone()))),
            Job::Close(done) => drop(done.send(())),
        }
    }
}

const QUEUED: u8 = 0;
const TAKEN: u8 = 1;
const ABANDONED: u8 = 2;
