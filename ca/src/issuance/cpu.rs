//! Work that keeps a core busy, kept off the async runtime: a batch is cut into as many parts as there are cores, and no
//! more parts run at once than that, however many batches are in flight.

use std::{num::NonZero, sync::Arc, thread};

use tokio::sync::Semaphore;

use super::IssueError;

/// A bounded share of the runtime's blocking threads.
pub(super) struct CpuPool {
    slots: Arc<Semaphore>,
    width: usize,
}

impl CpuPool {
    /// One part at a time for each core of the machine.
    pub(super) fn over_all_cores() -> Self {
        let width = thread::available_parallelism().map_or(1, NonZero::get);
        Self { slots: Arc::new(Semaphore::new(width)), width }
    }

    /// Cuts `items` into parts and runs `work` on each; gives the results in the order of the parts.
    ///
    /// Few items are one part, which is worked on here and now: that takes less than the way to another thread and back. More wait
    /// for free cores; dropping the future lets parts that have begun run to their end, unseen.
    ///
    /// # Errors
    /// A part panicked.
    pub(super) async fn run<T, R, F>(&self, mut items: Vec<T>, work: F) -> Result<Vec<R>, IssueError>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Fn(Vec<T>) -> R + Send + Sync + 'static,
    {
        if items.len() <= AT_ONCE {
            return Ok(vec![work(items)]);
        }
        let size = items.len().div_ceil(self.width).max(AT_ONCE);
        let work = Arc::new(work);
        let mut running = Vec::with_capacity(self.width);
        while !items.is_empty() {
            let rest = items.split_off(size.min(items.len()));
            let part = std::mem::replace(&mut items, rest);
            let work = Arc::clone(&work);
            let slots = Arc::clone(&self.slots);
            running.push(async move {
                // The semaphore is never closed; if it were, the part would run without a slot.
                let slot = slots.acquire_owned().await;
                tokio::task::spawn_blocking(move || {
                    let result = work(part);
                    drop(slot);
                    result
                })
                .await
            });
        }
        join_all(running).await.into_iter().map(|part| part.map_err(|_| IssueError::Thread)).collect()
    }
}

/// Runs the futures side by side, in one task.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut all = true;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(done) => *output = Some(done),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

/// Items that are worked on without leaving the task: some tens of microseconds each.
const AT_ONCE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_keep_the_order_of_the_items_and_lose_none() {
        for count in [0, 1, 4, 5, 8, 100, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let pool = CpuPool::over_all_cores();
            let parts: Vec<Vec<usize>> =
                pool.run(items, |items| items.into_iter().map(|item| item * 2).collect()).await.unwrap();
            assert_eq!(parts.concat(), (0..count).map(|item| item * 2).collect::<Vec<_>>());
            assert!(parts.len() <= pool.width.max(1));
        }
    }

    #[tokio::test]
    async fn a_part_that_panics_is_an_error_and_frees_its_core() {
        let pool = CpuPool::over_all_cores();
        for _ in 0..100 {
            let panics: Result<Vec<()>, _> = pool.run(vec![0u8; 100], |_| panic!("in a test")).await;
            assert!(matches!(panics, Err(IssueError::Thread)));
        }
        assert_eq!(pool.run(vec![7u8; 100], |items| items).await.unwrap().concat(), vec![7; 100]);
    }
}
