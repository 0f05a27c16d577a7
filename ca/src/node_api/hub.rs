//! Who is connected: one sync stream a node, woken when something it may see has changed, ended when it may go on no
//! longer.
//!
//! A stream is never sent to from here. It is woken, and works out what to send when its turn to write comes: however slow
//! a reader is, it holds no queue, and gets the latest state in one message. What streams have to tell the registry (last
//! seen, first sync) is collected by node and written in groups.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bonafide_ca_api::{NodeName, Reason};
use bonafide_verifier::clock::Timestamp;
use tokio::sync::Notify;

use crate::issuance::KeyHash;

/// A position in the CA's history that a node has said it applied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Applied {
    pub(crate) epoch: Arc<str>,
    pub(crate) version: u64,
}

/// What is known of a node's stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamStatus {
    /// When it was opened.
    pub(crate) since: Timestamp,
    /// From where.
    pub(crate) remote: SocketAddr,
    /// What the agent calls its version.
    pub(crate) agent_version: String,
    /// By how many milliseconds the node's clock was ahead of the CA's; negative: behind.
    pub(crate) clock_ahead_ms: i64,
    /// The last update that the node applied.
    pub(crate) applied: Option<Applied>,
    /// Why the node refused the last update, if it did: a reason code.
    pub(crate) refused: Option<String>,
    /// How often a stream of this node took the place of one that was still open, since the CA started. More than a few:
    /// two copies of the node's state are running.
    pub(crate) replaced: u32,
    /// From where the one that was replaced last had come.
    pub(crate) replaced_remote: Option<SocketAddr>,
}

/// Why a stream is ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EndReason {
    /// The node was removed.
    Removed,
    /// The node, or another key of it, has a newer stream or key.
    Replaced,
    /// The CA is stopping.
    Stopping,
}

impl EndReason {
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Removed => Reason::NodeRemoved,
            Self::Replaced => Reason::StreamReplaced,
            Self::Stopping => Reason::Stopping,
        }
    }
}

/// The open streams.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    nodes: Mutex<HashMap<NodeName, Entry>>,
    notes: Mutex<HashMap<NodeName, Note>>,
    noted: Notify,
    /// Told when a node has applied something, or a stream has ended.
    progressed: Notify,
}

/// A node that has or had a stream. Bounded by the live nodes.
#[derive(Debug, Default)]
struct Entry {
    open: Option<Arc<Slot>>,
    replaced: u32,
    replaced_remote: Option<SocketAddr>,
}

/// What a stream wants to have written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Note {
    /// The node was there at this time.
    pub(crate) seen: Timestamp,
    /// It has applied its first update, which closes its invitation.
    pub(crate) synced: bool,
}

/// What the hub and a stream share.
#[derive(Debug)]
struct Slot {
    key: KeyHash,
    takes_token_keys: bool,
    state: Mutex<SlotState>,
}

#[derive(Debug)]
struct SlotState {
    changed: bool,
    end: Option<EndReason>,
    waker: Option<Waker>,
    since: Timestamp,
    remote: SocketAddr,
    agent_version: String,
    clock_ahead_ms: i64,
    applied: Option<Applied>,
    refused: Option<String>,
    closed: bool,
}

/// How a node introduced itself.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) key: KeyHash,
    pub(super) remote: SocketAddr,
    pub(super) agent_version: String,
    pub(super) clock_ahead_ms: i64,
    /// It is sent token keys; an older agent has nothing to verify by them.
    pub(super) takes_token_keys: bool,
    pub(super) at: Timestamp,
}

impl Hub {
    /// What is known of the node's open stream.
    pub(crate) fn status(&self, node: &NodeName) -> Option<StreamStatus> {
        let nodes = lock(&self.nodes);
        let entry = nodes.get(node)?;
        let state = lock(&entry.open.as_ref()?.state);
        Some(StreamStatus {
            since: state.since,
            remote: state.remote,
            agent_version: state.agent_version.clone(),
            clock_ahead_ms: state.clock_ahead_ms,
            applied: state.applied.clone(),
            refused: state.refused.clone(),
            replaced: entry.replaced,
            replaced_remote: entry.replaced_remote,
        })
    }

    /// How many nodes have a stream.
    pub(crate) fn connected(&self) -> usize {
        lock(&self.nodes).values().filter(|entry| entry.open.is_some()).count()
    }

    /// Opens the stream of `node`. One that is open is ended: the newest one is the node's.
    ///
    /// Gives the address of the stream that was replaced, if one was.
    pub(super) fn open(self: &Arc<Self>, node: &NodeName, arrival: Arrival) -> (Open, Option<SocketAddr>) {
        let slot = Arc::new(Slot {
            key: arrival.key,
            takes_token_keys: arrival.takes_token_keys,
            state: Mutex::new(SlotState {
                changed: true,
                end: None,
                waker: None,
                since: arrival.at,
                remote: arrival.remote,
                agent_version: arrival.agent_version,
                clock_ahead_ms: arrival.clock_ahead_ms,
                applied: None,
                refused: None,
                closed: false,
            }),
        });
        let older = {
            let mut nodes = lock(&self.nodes);
            let entry = nodes.entry(node.clone()).or_default();
            let older = entry.open.replace(Arc::clone(&slot));
            // The node's own change of key or connection replaces its stream, too: only the same key counts.
            if let Some(older) = &older
                && older.key == slot.key
            {
                entry.replaced = entry.replaced.saturating_add(1);
                entry.replaced_remote = Some(lock(&older.state).remote);
            }
            older
        };
        let replaced = older.map(|older| {
            older.end(EndReason::Replaced);
            lock(&older.state).remote
        });
        let open = Open { hub: Arc::clone(self), node: node.clone(), slot };
        (open, replaced)
    }

    /// Wakes the streams of these nodes.
    pub(super) fn wake<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeName>) {
        let open = lock(&self.nodes);
        for node in nodes {
            if let Some(slot) = open.get(node).and_then(|entry| entry.open.as_ref()) {
                slot.wake();
            }
        }
    }

    /// Wakes every stream whose node is `affected`.
    pub(super) fn wake_where(&self, affected: impl Fn(&NodeName) -> bool) {
        let open: Vec<_> = lock(&self.nodes)
            .iter()
            .filter(|(node, _)| affected(node))
            .filter_map(|(_, entry)| entry.open.clone())
            .collect();
        for slot in open {
            slot.wake();
        }
    }

    /// Ends the stream of a node, and forgets what is known of it.
    pub(super) fn remove(&self, node: &NodeName) {
        let entry = lock(&self.nodes).remove(node);
        lock(&self.notes).remove(node);
        if let Some(slot) = entry.and_then(|entry| entry.open) {
            slot.end(EndReason::Removed);
        }
    }

    /// Ends the node's stream if it was opened with another key than this one.
    pub(super) fn end_other_keys(&self, node: &NodeName, key: KeyHash) {
        let other = lock(&self.nodes).get(node).and_then(|entry| entry.open.clone()).filter(|slot| slot.key != key);
        if let Some(slot) = other {
            slot.end(EndReason::Replaced);
        }
    }

    /// Ends all streams.
    pub(super) fn end_all(&self, reason: EndReason) {
        let open: Vec<_> = lock(&self.nodes).values().filter_map(|entry| entry.open.clone()).collect();
        for slot in open {
            slot.end(reason);
        }
    }

    /// Notes that a node is there.
    pub(super) fn note_seen(&self, node: &NodeName, at: Timestamp) {
        self.note(node, Note { seen: at, synced: false });
    }

    fn note(&self, node: &NodeName, note: Note) {
        lock(&self.notes)
            .entry(node.clone())
            .and_modify(|known| {
                known.seen = known.seen.max(note.seen);
                known.synced |= note.synced;
            })
            .or_insert(note);
        self.noted.notify_one();
    }

    /// Waits until every node that is connected now and takes token keys has applied this position, or is not connected any more: whoever
    /// comes later gets the newest state first of all. Dropping it gives up waiting.
    pub(super) async fn applied_everywhere(&self, position: &Applied) {
        let mut waiting: Vec<_> = lock(&self.nodes)
            .values()
            .filter_map(|entry| entry.open.clone())
            .filter(|slot| slot.takes_token_keys)
            .collect();
        loop {
            let progressed = self.progressed.notified();
            tokio::pin!(progressed);
            // Before the look, so that nothing between it and the wait is missed.
            progressed.as_mut().enable();
            // Each is looked at until it is there, and never again: of many nodes one slow one costs one look for each of the others.
            while waiting.last().is_some_and(|slot| slot.is_at(position)) {
                waiting.pop();
            }
            if waiting.is_empty() {
                return;
            }
            progressed.await;
        }
    }

    /// Waits until there is something to write, and takes it.
    pub(super) async fn notes(&self) -> HashMap<NodeName, Note> {
        loop {
            let noted = self.noted.notified();
            let notes = self.take_notes();
            if !notes.is_empty() {
                return notes;
            }
            noted.await;
        }
    }

    /// Takes what there is to write.
    pub(super) fn take_notes(&self) -> HashMap<NodeName, Note> {
        std::mem::take(&mut lock(&self.notes))
    }

    /// Puts back what could not be written.
    pub(super) fn put_back(&self, notes: HashMap<NodeName, Note>) {
        let mut waiting = lock(&self.notes);
        for (node, note) in notes {
            let known = waiting.entry(node).or_insert(note);
            known.seen = known.seen.max(note.seen);
            known.synced |= note.synced;
        }
    }
}

impl Slot {
    /// Whether the node has applied the position, or will never on this stream.
    fn is_at(&self, position: &Applied) -> bool {
        let state = lock(&self.state);
        let applied = |applied: &Applied| applied.epoch == position.epoch && applied.version >= position.version;
        state.end.is_some() || state.closed || state.applied.as_ref().is_some_and(applied)
    }

    fn wake(&self) {
        let waker = {
            let mut state = lock(&self.state);
            state.changed = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn end(&self, reason: EndReason) {
        let waker = {
            let mut state = lock(&self.state);
            // The first reason is the one that is told.
            state.end.get_or_insert(reason);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A stream's side of the hub. Dropping it closes the node's place, unless a newer stream has taken it.
#[derive(Debug)]
pub(super) struct Open {
    hub: Arc<Hub>,
    node: NodeName,
    slot: Arc<Slot>,
}

/// Why a stream was woken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Woken {
    /// Something that the node may see may have changed.
    Changed,
    /// It is over.
    End(EndReason),
}

impl Open {
    pub(super) fn node(&self) -> &NodeName {
        &self.node
    }

    pub(super) fn key(&self) -> KeyHash {
        self.slot.key
    }

    /// Whether something has happened since the last time it was asked; the task is woken when something does.
    pub(super) fn poll_woken(&self, context: &mut Context<'_>) -> Poll<Woken> {
        let mut state = lock(&self.slot.state);
        if let Some(reason) = state.end {
            return Poll::Ready(Woken::End(reason));
        }
        if std::mem::take(&mut state.changed) {
            return Poll::Ready(Woken::Changed);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Notes that the node applied an update; the first one closes its invitation.
    pub(super) fn applied(&self, applied: Applied, at: Timestamp) {
        let first = {
            let mut state = lock(&self.slot.state);
            state.refused = None;
            state.applied.replace(applied).is_none()
        };
        self.hub.progressed.notify_waiters();
        if first {
            self.hub.note(&self.node, Note { seen: at, synced: true });
        }
    }

    /// Notes that the node refused an update.
    pub(super) fn refused(&self, reason: String) {
        lock(&self.slot.state).refused = Some(reason);
    }

    /// Closes the node's place, which was still there at `at`.
    pub(super) fn close(&self, at: Timestamp) {
        lock(&self.slot.state).closed = true;
        self.hub.progressed.notify_waiters();
        let mut nodes = lock(&self.hub.nodes);
        let Some(entry) = nodes.get_mut(&self.node) else {
            return;
        };
        if entry.open.as_ref().is_some_and(|open| Arc::ptr_eq(open, &self.slot)) {
            entry.open = None;
            if entry.replaced == 0 {
                nodes.remove(&self.node);
            }
            drop(nodes);
            self.hub.note_seen(&self.node, at);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one assignment: what a panicking thread left is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    const AT: Timestamp = Timestamp::from_unix_seconds(1_790_000_000);

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    fn arrival(key: u8, remote: &str) -> Arrival {
        Arrival {
            key: KeyHash([key; 32]),
            remote: remote.parse().unwrap(),
            agent_version: "0.1.0".into(),
            clock_ahead_ms: 0,
            takes_token_keys: true,
            at: AT,
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(open: &Open, wakes: &Arc<Wakes>) -> Poll<Woken> {
        open.poll_woken(&mut Context::from_waker(&Arc::clone(wakes).into()))
    }

    #[test]
    fn a_stream_starts_changed_and_is_woken_only_for_its_node() {
        let hub = Arc::new(Hub::default());
        let (a, _) = hub.open(&node("a"), arrival(1, "192.0.2.1:1"));
        let (b, _) = hub.open(&node("b"), arrival(2, "192.0.2.2:1"));
        let (wakes_a, wakes_b) = (Arc::default(), Arc::default());
        assert_eq!(poll(&a, &wakes_a), Poll::Ready(Woken::Changed));
        assert_eq!(poll(&a, &wakes_a), Poll::Pending);
        assert_eq!(poll(&b, &wakes_b), Poll::Ready(Woken::Changed));
        assert_eq!(poll(&b, &wakes_b), Poll::Pending);
        // Many changes, one wake: nothing queues up.
        for _ in 0..100 {
            hub.wake([&node("a")]);
        }
        assert_eq!(wakes_a.0.load(Ordering::SeqCst), 1);
        assert_eq!(wakes_b.0.load(Ordering::SeqCst), 0);
        assert_eq!(poll(&a, &wakes_a), Poll::Ready(Woken::Changed));
        assert_eq!(poll(&a, &wakes_a), Poll::Pending);
        hub.wake_where(|name| *name == node("b"));
        assert_eq!(poll(&b, &wakes_b), Poll::Ready(Woken::Changed));
        assert_eq!(hub.connected(), 2);
    }

    #[test]
    fn a_newer_stream_takes_the_place_and_the_older_one_leaves_it_alone() {
        let hub = Arc::new(Hub::default());
        let (first, replaced) = hub.open(&node("a"), arrival(1, "192.0.2.1:1"));
        assert_eq!(replaced, None);
        let (second, replaced) = hub.open(&node("a"), arrival(1, "192.0.2.9:1"));
        assert_eq!(replaced, Some("192.0.2.1:1".parse().unwrap()));
        assert_eq!(poll(&first, &Arc::default()), Poll::Ready(Woken::End(EndReason::Replaced)));
        first.close(AT);
        let status = hub.status(&node("a")).unwrap();
        assert_eq!(status.remote, "192.0.2.9:1".parse().unwrap());
        assert_eq!((status.replaced, status.replaced_remote), (1, Some("192.0.2.1:1".parse().unwrap())));
        second.close(AT);
        assert!(hub.status(&node("a")).is_none());
        assert_eq!(hub.connected(), 0);
    }

    #[test]
    fn the_next_key_of_a_node_is_not_counted_as_a_copy() {
        let hub = Arc::new(Hub::default());
        let (_old, _) = hub.open(&node("a"), arrival(1, "192.0.2.1:1"));
        let (_new, _) = hub.open(&node("a"), arrival(2, "192.0.2.1:2"));
        assert_eq!(hub.status(&node("a")).unwrap().replaced, 0);
    }

    #[test]
    fn an_end_is_told_once_and_keeps_its_first_reason() {
        let hub = Arc::new(Hub::default());
        let (open, _) = hub.open(&node("a"), arrival(1, "192.0.2.1:1"));
        let wakes = Arc::<Wakes>::default();
        assert_eq!(poll(&open, &wakes), Poll::Ready(Woken::Changed));
        assert_eq!(poll(&open, &wakes), Poll::Pending);
        hub.remove(&node("a"));
        hub.end_all(EndReason::Stopping);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&open, &wakes), Poll::Ready(Woken::End(EndReason::Removed)));
        open.close(AT);
        assert!(hub.take_notes().is_empty(), "a removed node is not written to");
    }

    #[test]
    fn only_streams_of_other_keys_end_when_a_key_comes_into_use() {
        let hub = Arc::new(Hub::default());
        let (open, _) = hub.open(&node("a"), arrival(1, "192.0.2.1:1"));
        assert_eq!(poll(&open, &Arc::default()), Poll::Ready(Woken::Changed));
        hub.end_other_keys(&node("a"), KeyHash([1; 32]));
        assert_eq!(poll(&open, &Arc::default()), Poll::Pending);
        hub.end_other_keys(&node("a"), KeyHash([2; 32]));
        assert_eq!(poll(&open, &Arc::default()), Poll::Ready(Woken::End(EndReason::Replaced)));
    }

    #[tokio::test]
    async fn a_rollout_waits_for_those_who_are_connected_and_for_nobody_else() {
        let hub = Arc::new(Hub::default());
        let applied = |version| Applied { epoch: "e".into(), version };
        hub.applied_everywhere(&applied(1)).await;
        let (a, _) = hub.open(&node("a"), arrival(1, "192.0.2.1:1"));
        let (b, _) = hub.open(&node("b"), arrival(2, "192.0.2.2:1"));
        let (_old, _) = hub.open(&node("c"), Arrival { takes_token_keys: false, ..arrival(3, "192.0.2.3:1") });
        let position = applied(7);
        let waiting = hub.applied_everywhere(&position);
        tokio::pin!(waiting);
        let mut is_over = async || poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())).await;
        assert!(!is_over().await);
        let (_late, _) = hub.open(&node("d"), arrival(4, "192.0.2.4:1"));
        b.applied(applied(6), AT);
        a.applied(applied(8), AT);
        assert!(!is_over().await, "b has an earlier one");
        b.applied(Applied { epoch: "other".into(), version: 9 }, AT);
        assert!(!is_over().await, "b is in another epoch");
        b.close(AT);
        assert!(is_over().await);
    }

    #[tokio::test]
    async fn notes_are_collected_by_node() {
        let hub = Arc::new(Hub::default());
        let (open, _) = hub.open(&node("a"), arrival(1, "192.0.2.1:1"));
        let applied = |version| Applied { epoch: "e".into(), version };
        open.applied(applied(1), AT);
        open.applied(applied(2), AT);
        hub.note_seen(&node("a"), AT.saturating_add(std::time::Duration::from_secs(9)));
        let notes = hub.notes().await;
        let expected = Note { seen: AT.saturating_add(std::time::Duration::from_secs(9)), synced: true };
        assert_eq!(notes, HashMap::from([(node("a"), expected)]));
        hub.put_back(notes.clone());
        assert_eq!(hub.notes().await, notes);
        assert!(hub.take_notes().is_empty());
        assert_eq!(hub.status(&node("a")).unwrap().applied, Some(applied(2)));
        let waiting = hub.notes();
        tokio::pin!(waiting);
        poll_fn(|context| {
            assert!(waiting.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        open.close(AT);
        assert_eq!(waiting.await.len(), 1);
    }
}
