//! Tasks that wait for something to change, without a runtime: each leaves its waker, a change wakes them all.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    task::Waker,
};

/// The wakers of all who wait. Bounded by the number of waiting futures: each holds one entry and takes it along
/// when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    wakers: HashMap<u64, Waker>,
}

/// A future's own entry in [`Waiters`].
#[derive(Debug, Default)]
pub(crate) struct WaiterKey(Option<u64>);

impl Waiters {
    /// Leaves `waker`, replacing the one left before under `key`. To miss nothing, look at what is waited for again
    /// after this.
    pub(crate) fn register(&self, key: &mut WaiterKey, waker: &Waker) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *key.0.get_or_insert_with(|| {
            list.next += 1;
            list.next
        });
        match list.wakers.get_mut(&id) {
            Some(present) => present.clone_from(waker),
            None => drop(list.wakers.insert(id, waker.clone())),
        }
    }

    /// Takes the entry out.
    pub(crate) fn remove(&self, key: &mut WaiterKey) {
        if let Some(id) = key.0.take() {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            list.wakers.remove(&id);
        }
    }

    /// Wakes everyone who waits now.
    pub(crate) fn wake_all(&self) {
        let woken = std::mem::take(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner).wakers);
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).wakers.len()
    }
}
