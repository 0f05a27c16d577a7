//! Looks up at the own agent, once, by which key a token is verified that is not known here: a delegation may be a moment younger than what
//! this process was told. What the agent does not know either is remembered for a while, so that tokens with made-up keys cost nothing.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::watch;
use tracing::debug;

use super::{Shared, follow::State};
use crate::{
    generated::tokens::{FindKeyRequest, find_key_response::Key},
    identity::workload_api::with_header,
    txn_tokens::{FindTxnKey, LookUp},
};

/// At a bound nothing is looked up, and the token is refused by what is known.
pub(super) struct Finder {
    shared: Weak<Shared>,
    state: Arc<State>,
    asked: Arc<Mutex<HashMap<Box<str>, Asked>>>,
    /// When the latest looks began, on the boot clock.
    latest: Mutex<VecDeque<Duration>>,
}

/// A key that was asked for.
enum Asked {
    /// Whoever needs it too waits for the same answer.
    Now(watch::Receiver<()>),
    /// The agent did not know it; until then, on the boot clock, it is not asked again.
    Unknown { until: Duration },
}

impl Finder {
    /// Keys that are asked for at once.
    const MOST_AT_ONCE: usize = 16;
    /// Keys that are remembered as unknown.
    const MOST_UNKNOWN: usize = 1024;
    /// Looks that begin in one second: whoever sends made-up names must not keep the agent from others.
    const MOST_PER_SECOND: usize = 20;
    /// How long they are.
    const UNKNOWN_FOR: Duration = Duration::from_secs(10);
    /// How long an answer is waited for.
    const DEADLINE: Duration = Duration::from_secs(1);
    /// No agent has longer names for its keys.
    const MOST_NAME: usize = 256;

    pub(super) fn new(shared: Weak<Shared>, state: Arc<State>) -> Self {
        Self { shared, state, asked: Arc::default(), latest: Mutex::default() }
    }

    /// Takes one look out of those of this second.
    fn may_look(&self, now: Duration) -> bool {
        let mut latest = lock(&self.latest);
        while latest.front().is_some_and(|began| now.saturating_sub(*began) >= Duration::from_secs(1)) {
            latest.pop_front();
        }
        let may = latest.len() < Self::MOST_PER_SECOND;
        if may {
            latest.push_back(now);
        }
        may
    }
}

impl FindTxnKey for Finder {
    fn find(&self, key_id: &str) -> Option<LookUp> {
        if key_id.len() > Self::MOST_NAME {
            return None;
        }
        let shared = self.shared.upgrade()?;
        let now = shared.clock.boot();
        let mut asked = lock(&self.asked);
        match asked.get(key_id) {
            Some(Asked::Now(answer)) => {
                let mut answer = answer.clone();
                return Some(Box::pin(async move { drop(answer.changed().await) }));
            }
            Some(Asked::Unknown { until }) if now < *until => return None,
            Some(Asked::Unknown { .. }) | None => {}
        }
        if asked.values().filter(|one| matches!(one, Asked::Now(_))).count() >= Self::MOST_AT_ONCE {
            return None;
        }
        if asked.len() >= Self::MOST_UNKNOWN {
            asked.retain(|_, one| {
                matches!(one, Asked::Now(_)) || matches!(one, Asked::Unknown { until } if now < *until)
            });
            if asked.len() >= Self::MOST_UNKNOWN {
                return None;
            }
        }
        if !self.may_look(now) {
            return None;
        }
        let (done, answer) = watch::channel(());
        asked.insert(key_id.into(), Asked::Now(answer));
        drop(asked);
        // Forgotten also when the request that waits is given up.
        let asking = Asking {
            key_id: key_id.into(),
            asked: Arc::clone(&self.asked),
            shared: Arc::downgrade(&shared),
            _done: done,
        };
        let state = Arc::clone(&self.state);
        Some(Box::pin(async move {
            let found = tokio::time::timeout(Self::DEADLINE, ask(&shared, &state, &asking.key_id)).await;
            if found != Ok(true) {
                debug!(key_id = ?asking.key_id, "a token has a key that the agent does not know");
            }
            drop(asking);
        }))
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finder").field("asked", &lock(&self.asked).len()).finish_non_exhaustive()
    }
}

struct Asking {
    key_id: Box<str>,
    asked: Arc<Mutex<HashMap<Box<str>, Asked>>>,
    shared: Weak<Shared>,
    /// Dropped with this, it wakes who waits for the same answer.
    _done: watch::Sender<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut asked = lock(&self.asked);
        asked.remove(&self.key_id);
        // Known now, or unknown for a while: also where the agent did not answer.
        if let Some(shared) = self.shared.upgrade().filter(|shared| !shared.txn_tokens.knows(&self.key_id)) {
            let until = shared.clock.boot().saturating_add(Finder::UNKNOWN_FOR);
            asked.insert(self.key_id.clone(), Asked::Unknown { until });
        }
    }
}

async fn ask(shared: &Shared, state: &State, key_id: &str) -> bool {
    let request = with_header(FindKeyRequest { key_id: key_id.to_owned() });
    let Ok(answer) = shared.client.clone().find_key(request).await else { return false };
    match answer.into_inner().key {
        Some(Key::Service(key)) if key.key_id == key_id => state.add_service(key_id, &key.public_key, shared),
        Some(Key::Delegation(statement)) => state.add_delegation(&statement, shared),
        Some(Key::Service(_)) | None => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // One insertion or removal is one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
