//! Tasks that wait for something to change, without a runtime: each leaves its waker, a change wakes them all.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

/// The wakers of all who wait. Bounded by the number of waiting futures: each holds one entry and takes it along
/// when it is dropped.
///
/// A connection waits here for its whole life and is polled at each of its reads and writes: only the first of these in a
/// round takes the lock.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// Counts how often all were woken.
    round: AtomicU64,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    wakers: HashMap<u64, Waker>,
}

/// A future's own entry in [`Waiters`].
#[derive(Debug, Default)]
pub(crate) struct WaiterKey(Option<Entry>);

#[derive(Debug)]
struct Entry {
    id: u64,
    round: u64,
    waker: Waker,
}

impl Waiters {
    /// Leaves `waker`, replacing the one left before under `key`. To miss nothing, look at what is waited for again
    /// after this.
    pub(crate) fn register(&self, key: &mut WaiterKey, waker: &Waker) {
        let round = self.round.load(Ordering::Acquire);
        if key.0.as_ref().is_some_and(|entry| entry.round == round && entry.waker.will_wake(waker)) {
            // It is in the list, or was just taken out to be woken.
            return;
        }
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let id = key.0.as_ref().map_or_else(
            || {
                list.next += 1;
                list.next
            },
            |entry| entry.id,
        );
        list.wakers.insert(id, waker.clone());
        // Rounds change under the lock alone.
        let round = self.round.load(Ordering::Relaxed);
        key.0 = Some(Entry { id, round, waker: waker.clone() });
    }

    /// Takes the entry out.
    pub(crate) fn remove(&self, key: &mut WaiterKey) {
        if let Some(entry) = key.0.take() {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            list.wakers.remove(&entry.id);
        }
    }

    /// Wakes everyone who waits now.
    pub(crate) fn wake_all(&self) {
        let woken = {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            self.round.fetch_add(1, Ordering::AcqRel);
            std::mem::take(&mut list.wakers)
        };
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).wakers.len()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn waker() -> (Arc<Count>, Waker) {
        let count = Arc::<Count>::default();
        (Arc::clone(&count), Waker::from(count))
    }

    #[test]
    fn each_round_wakes_who_has_registered_since_the_last() {
        let (waiters, mut key, (count, waker)) = (Waiters::default(), WaiterKey::default(), waker());
        let woken = || count.0.load(Ordering::SeqCst);
        waiters.register(&mut key, &waker);
        waiters.register(&mut key, &waker);
        assert_eq!(waiters.len(), 1);
        waiters.wake_all();
        assert_eq!((woken(), waiters.len()), (1, 0));
        waiters.wake_all();
        assert_eq!(woken(), 1, "not again without having asked again");
        waiters.register(&mut key, &waker);
        waiters.wake_all();
        assert_eq!(woken(), 2);
        waiters.register(&mut key, &waker);
        waiters.remove(&mut key);
        waiters.wake_all();
        assert_eq!((woken(), waiters.len()), (2, 0));
    }

    #[test]
    fn another_task_takes_over_the_entry() {
        let (waiters, mut key) = (Waiters::default(), WaiterKey::default());
        let ((first, first_waker), (second, second_waker)) = (waker(), waker());
        waiters.register(&mut key, &first_waker);
        waiters.register(&mut key, &second_waker);
        waiters.wake_all();
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (0, 1));
    }
}
