//! How this agent is, part by part: what `readyz`, `status` and the metrics tell.
//!
//! Ready means: what this agent serves has life left and its listener works. What fails first without anyone
//! noticing (a renewal, the connection to the CA) is a part of its own, degraded long before it is unready.

pub(crate) mod http;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A part of the agent that can be well or not.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Part {
    /// The node's own key and SVID.
    NodeIdentity,
    /// The connection to a CA.
    CaConnection,
    /// The services and bundles, as the CA last told them.
    Sync,
    /// The socket that workloads ask on.
    WorkloadSocket,
    /// The renewal of the workloads' SVIDs.
    Renewal,
    /// The memory-backed state that survives a restart of the agent.
    RuntimeState,
    /// The difference to the CA's clock.
    Clock,
    /// What the CA delegates to this agent for the node's edge services.
    Delegation,
    /// The log of what was minted for them.
    MintLog,
}

impl Part {
    /// All of them, in the order they are listed in.
    pub const ALL: [Self; 9] = [
        Self::NodeIdentity,
        Self::CaConnection,
        Self::Sync,
        Self::WorkloadSocket,
        Self::Renewal,
        Self::RuntimeState,
        Self::Clock,
        Self::Delegation,
        Self::MintLog,
    ];

    /// The word in `readyz/PART`, `status` and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeIdentity => "node-identity",
            Self::CaConnection => "ca-connection",
            Self::Sync => "sync",
            Self::WorkloadSocket => "workload-socket",
            Self::Renewal => "renewal",
            Self::RuntimeState => "runtime-state",
            Self::Clock => "clock",
            Self::Delegation => "delegation",
            Self::MintLog => "mint-log",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::NodeIdentity => 0,
            Self::CaConnection => 1,
            Self::Sync => 2,
            Self::WorkloadSocket => 3,
            Self::Renewal => 4,
            Self::RuntimeState => 5,
            Self::Clock => 6,
            Self::Delegation => 7,
            Self::MintLog => 8,
        }
    }

    /// What holds before the part has said anything: what must work is unready, what only narrows is ready.
    fn at_start(self) -> (State, &'static str) {
        match self {
            Self::NodeIdentity | Self::Sync | Self::WorkloadSocket => (State::Unready, "starting"),
            Self::CaConnection => (State::Degraded, "not connected yet"),
            Self::Renewal | Self::RuntimeState | Self::Clock | Self::Delegation | Self::MintLog => (State::Ready, ""),
        }
    }
}

/// How a part is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// It works.
    Ready,
    /// It works with less, or will stop working if nothing changes.
    Degraded,
    /// It does not work.
    Unready,
}

impl State {
    /// The word in `readyz` and `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Unready => "unready",
        }
    }
}

/// One part, how it is, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PartHealth {
    /// Which.
    pub part: Part,
    /// How it is.
    pub state: State,
    /// Why, for an operator; empty when ready and there is nothing to say.
    pub reason: String,
}

/// The state of all parts. Cheap to clone; all clones tell the same.
#[derive(Clone, Debug)]
pub struct Health {
    parts: Arc<Mutex<Vec<PartHealth>>>,
    changed: tokio::sync::watch::Sender<()>,
}

impl Health {
    /// Every part as it is before it has said anything.
    pub fn new() -> Self {
        let parts = Part::ALL
            .into_iter()
            .map(|part| {
                let (state, reason) = part.at_start();
                PartHealth { part, state, reason: reason.into() }
            })
            .collect();
        Self { parts: Arc::new(Mutex::new(parts)), changed: tokio::sync::watch::Sender::new(()) }
    }

    /// Says how a part is now.
    pub fn set(&self, part: Part, state: State, reason: impl Into<String>) {
        let reason = reason.into();
        let mut parts = self.lock();
        let Some(known) = parts.get_mut(part.index()) else { return };
        if known.state == state && known.reason == reason {
            return;
        }
        let before = known.state;
        known.state = state;
        known.reason.clone_from(&reason);
        drop(parts);
        if before != state {
            tracing::debug!(part = part.name(), from = before.name(), to = state.name(), reason, "health changed");
        }
        self.changed.send_replace(());
    }

    /// One part.
    pub fn part(&self, part: Part) -> PartHealth {
        self.lock().get(part.index()).cloned().unwrap_or(PartHealth {
            part,
            state: State::Unready,
            reason: "unknown part".into(),
        })
    }

    /// All parts, in the order of [`Part::ALL`].
    pub fn parts(&self) -> Vec<PartHealth> {
        self.lock().clone()
    }

    /// The worst state of any part: what `readyz` answers by.
    pub fn overall(&self) -> State {
        self.lock().iter().map(|part| part.state).max().unwrap_or(State::Unready)
    }

    /// Marked at every change.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PartHealth>> {
        // Nothing panics under the lock; a poisoned one still holds whole values.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_at_their_index() {
        for (index, part) in Part::ALL.into_iter().enumerate() {
            assert_eq!(part.index(), index, "{}", part.name());
        }
    }

    #[test]
    fn the_worst_part_decides() {
        let health = Health::new();
        assert_eq!(health.overall(), State::Unready);
        for part in Part::ALL {
            health.set(part, State::Ready, "");
        }
        assert_eq!(health.overall(), State::Ready);
        health.set(Part::CaConnection, State::Degraded, "no CA answers");
        assert_eq!(health.overall(), State::Degraded);
        health.set(Part::NodeIdentity, State::Unready, "removed");
        assert_eq!(health.overall(), State::Unready);
        assert_eq!(health.part(Part::CaConnection).reason, "no CA answers");
    }
}
