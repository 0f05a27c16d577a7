//! Who is let in: counts of connections, in all and by origin, and the list of unfinished handshakes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Origin, ServeCounters, ServeOptions};

/// The counts of one server.
#[derive(Debug)]
pub(super) struct Admission {
    connections: usize,
    connections_per_origin: Option<usize>,
    handshakes: usize,
    handshakes_per_origin: usize,
    counters: Arc<ServeCounters>,
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    total: usize,
    next: u64,
    /// By age: the first is the oldest.
    unfinished: BTreeMap<u64, Unfinished>,
    origins: HashMap<Origin, Counts>,
}

#[derive(Debug)]
struct Unfinished {
    origin: Option<Origin>,
    dropped: CancellationToken,
    /// It is prepared, and a stranger is served on it.
    served: bool,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    unfinished: usize,
}

/// A connection's place; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Slot {
    admission: Arc<Admission>,
    id: u64,
    origin: Option<Origin>,
    dropped: CancellationToken,
    open: bool,
}

impl Admission {
    pub(super) fn new(options: &ServeOptions) -> Self {
        Self {
            connections: options.connections.max(1),
            connections_per_origin: options.connections_per_origin,
            handshakes: options.handshakes.max(1),
            handshakes_per_origin: options.handshakes_per_origin.max(1),
            counters: Arc::clone(&options.counters),
            state: Mutex::default(),
            room: Notify::new(),
        }
    }

    /// Returns when one more connection may be accepted.
    pub(super) async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            if self.lock().total < self.connections {
                return;
            }
            room.await;
        }
    }

    /// A place for a connection from `origin`, if it has not its number already. May drop an older unfinished one for it.
    pub(super) fn admit(self: &Arc<Self>, origin: Option<Origin>) -> Option<Slot> {
        let mut state = self.lock();
        if let Some(origin) = origin {
            let counts = state.origins.entry(origin).or_default();
            let (all, unfinished) = (counts.all, counts.unfinished);
            // Unfinished ones do not shut out their own origin: the oldest of them makes room below.
            if self.connections_per_origin.is_some_and(|limit| all - unfinished >= limit) {
                return None;
            }
            if unfinished >= self.handshakes_per_origin {
                self.drop_oldest(&mut state, Some(origin));
            }
        }
        if state.unfinished.len() >= self.handshakes {
            self.drop_oldest(&mut state, None);
        }
        let id = state.next;
        state.next += 1;
        state.total += 1;
        if let Some(origin) = origin {
            let counts = state.origins.entry(origin).or_default();
            counts.all += 1;
            counts.unfinished += 1;
        }
        let dropped = CancellationToken::new();
        state.unfinished.insert(id, Unfinished { origin, dropped: dropped.clone(), served: false });
        self.counters.began();
        Some(Slot { admission: Arc::clone(self), id, origin, dropped, open: false })
    }

    /// Drops every connection that is still being prepared.
    pub(super) fn drop_unfinished(&self) {
        for unfinished in self.lock().unfinished.values().filter(|unfinished| !unfinished.served) {
            unfinished.dropped.cancel();
        }
    }

    fn drop_oldest(&self, state: &mut State, of: Option<Origin>) {
        let oldest = state.unfinished.iter().find(|(_, one)| of.is_none() || one.origin == of).map(|(id, _)| *id);
        if let Some(one) = oldest.and_then(|id| state.unfinished.remove(&id)) {
            if let Some(counts) = one.origin.and_then(|origin| state.origins.get_mut(&origin)) {
                counts.unfinished -= 1;
            }
            self.counters.refused();
            one.dropped.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Fires when the connection is dropped for a newer one while it is being prepared, or a stranger is served on it.
    pub(super) fn dropped(&self) -> &CancellationToken {
        &self.dropped
    }

    /// The connection is prepared. False when it was dropped in that moment.
    pub(super) fn opened(&mut self) -> bool {
        let admission = Arc::clone(&self.admission);
        let mut state = admission.lock();
        if state.unfinished.remove(&self.id).is_none() {
            return false;
        }
        if let Some(counts) = self.origin.and_then(|origin| state.origins.get_mut(&origin)) {
            counts.unfinished -= 1;
        }
        drop(state);
        self.open = true;
        admission.counters.opened();
        true
    }

    /// The connection is prepared, and its peer a stranger: it stays in its place. False when it was dropped in that moment.
    pub(super) fn serves_stranger(&self) -> bool {
        match self.admission.lock().unfinished.get_mut(&self.id) {
            Some(unfinished) => {
                unfinished.served = true;
                true
            }
            None => false,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.total -= 1;
        let unfinished = state.unfinished.remove(&self.id).is_some();
        if let Some(origin) = self.origin
            && let Some(counts) = state.origins.get_mut(&origin)
        {
            counts.all -= 1;
            counts.unfinished -= usize::from(unfinished);
            if counts.all == 0 {
                state.origins.remove(&origin);
            }
        }
        drop(state);
        if self.open {
            self.admission.counters.closed();
        } else {
            self.admission.counters.given_up();
        }
        self.admission.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(change: impl FnOnce(&mut ServeOptions)) -> Arc<Admission> {
        let mut options = ServeOptions::default();
        change(&mut options);
        Arc::new(Admission::new(&options))
    }

    fn from(last: u8) -> Option<Origin> {
        Some(Origin::of([192, 0, 2, last].into()))
    }

    #[test]
    fn the_oldest_unfinished_of_the_same_origin_makes_room() {
        let admission = admission(|options| options.handshakes_per_origin = 2);
        let other = admission.admit(from(9)).unwrap();
        let (first, second) = (admission.admit(from(1)).unwrap(), admission.admit(from(1)).unwrap());
        let mut third = admission.admit(from(1)).unwrap();
        assert!(first.dropped().is_cancelled() && !second.dropped().is_cancelled() && !other.dropped().is_cancelled());
        assert!(third.opened());
        assert_eq!(admission.counters.refused_at_limit(), 1);
    }

    #[test]
    fn in_all_the_oldest_unfinished_makes_room() {
        let admission = admission(|options| options.handshakes = 2);
        let mut finished = admission.admit(from(1)).unwrap();
        assert!(finished.opened());
        let (mut first, second) = (admission.admit(from(2)).unwrap(), admission.admit(from(3)).unwrap());
        let _third = admission.admit(None).unwrap();
        assert!(
            first.dropped().is_cancelled() && !second.dropped().is_cancelled() && !finished.dropped().is_cancelled()
        );
        assert!(!first.opened(), "what was dropped is not served");
    }

    #[test]
    fn open_connections_of_an_origin_are_bounded() {
        let admission = admission(|options| options.connections_per_origin = Some(1));
        let mut open = admission.admit(from(1)).unwrap();
        assert!(admission.admit(from(1)).is_some(), "unfinished ones do not count");
        assert!(open.opened());
        assert!(admission.admit(from(1)).is_none());
        assert!(admission.admit(from(2)).is_some() && admission.admit(None).is_some());
        drop(open);
        assert!(admission.admit(from(1)).is_some());
    }

    #[tokio::test]
    async fn at_the_limit_the_server_waits_for_room() {
        let admission = admission(|options| options.connections = 1);
        let slot = admission.admit(None).unwrap();
        let waiting = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.wait_for_room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(slot);
        waiting.await.unwrap();
    }

    #[test]
    fn everything_is_given_back() {
        let admission = admission(|_| ());
        let mut slots: Vec<_> = (0..10).filter_map(|n| admission.admit(from(n % 3))).collect();
        slots.iter_mut().take(5).for_each(|slot| assert!(slot.opened()));
        assert_eq!((admission.counters.open(), admission.counters.unfinished()), (5, 5));
        drop(slots);
        let state = admission.lock();
        assert_eq!((state.total, state.unfinished.len(), state.origins.len()), (0, 0, 0));
        assert_eq!((admission.counters.open(), admission.counters.unfinished()), (0, 0));
    }
}
