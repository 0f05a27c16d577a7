//! What this CA knows of its own condition, part by part: ready, degraded, unready, and why.
//!
//! Ready means that the CA can do its work: its store takes records, its clock is trusted, its authorities have life left, its
//! listeners work. What is about to fail is degraded before it is unready.

mod http;
pub(crate) mod listener;
pub(crate) mod monitor;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tracing::{error, info, warn};

pub(crate) use self::http::{Scrape, router};

/// A part whose condition is told by itself.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Part {
    /// The database takes records.
    Store,
    /// There is room for records.
    Disk,
    /// The clock can be trusted to sign by.
    Clock,
    /// Root, issuing, JWT and token authority have life left, and rotate.
    Authorities,
    /// Nodes can reach the CA, and it presents an identity of its own.
    NodeListener,
    /// An operator's commands are answered.
    AdminListener,
    /// The token endpoint, where there is one, has a policy to decide by.
    TokenEndpoint,
    /// The issuers of users give their keys.
    UserIssuers,
}

impl Part {
    /// Every part.
    pub(crate) const ALL: [Self; 8] = [
        Self::Store,
        Self::Disk,
        Self::Clock,
        Self::Authorities,
        Self::NodeListener,
        Self::AdminListener,
        Self::TokenEndpoint,
        Self::UserIssuers,
    ];

    /// The part's name in URLs, metrics and JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Disk => "disk",
            Self::Clock => "clock",
            Self::Authorities => "authorities",
            Self::NodeListener => "node-listener",
            Self::AdminListener => "admin-listener",
            Self::TokenEndpoint => "token-endpoint",
            Self::UserIssuers => "user-issuers",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The condition of a part.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum State {
    /// Works.
    Ready,
    /// Works, and something has to be done before it stops.
    Degraded,
    /// Does not work.
    Unready,
}

impl State {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Unready => "unready",
        }
    }
}

/// A part's condition and, unless it is ready, the reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Condition {
    /// Which part.
    pub(crate) part: Part,
    /// How it is.
    pub(crate) state: State,
    /// Why; empty if ready.
    pub(crate) reason: String,
}

/// The condition of every part. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    known: Arc<Mutex<Vec<Known>>>,
    worst: watch::Sender<State>,
}

#[derive(Debug)]
struct Known {
    condition: Condition,
    /// It has been ready once: from then on what changes is worth a line in the log.
    was_ready: bool,
}

impl Health {
    /// Every part unready: starting.
    pub(crate) fn new() -> Self {
        let starting = |part| {
            let condition = Condition { part, state: State::Unready, reason: "starting".to_owned() };
            Known { condition, was_ready: false }
        };
        Self {
            known: Arc::new(Mutex::new(Part::ALL.into_iter().map(starting).collect())),
            worst: watch::Sender::new(State::Unready),
        }
    }

    /// Says how `part` is. A change is logged once, here.
    pub(crate) fn set(&self, part: Part, state: State, reason: impl Into<String>) {
        let reason: String = reason.into();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_part) = known.iter_mut().find(|known| known.condition.part == part) else { return };
        let before = std::mem::replace(&mut of_part.condition.state, state);
        of_part.condition.reason.clone_from(&reason);
        let was_ready = of_part.was_ready;
        of_part.was_ready |= state == State::Ready;
        let worst = known.iter().map(|known| known.condition.state).max().unwrap_or(State::Ready);
        drop(known);
        self.worst.send_if_modified(|known| std::mem::replace(known, worst) != worst);
        if before == state || !was_ready && state != State::Degraded {
            return;
        }
        match state {
            State::Ready => info!(part = part.as_str(), "ready again"),
            State::Degraded => warn!(part = part.as_str(), reason, "degraded"),
            State::Unready => error!(part = part.as_str(), reason, "not ready"),
        }
    }

    /// Every part's condition.
    pub(crate) fn conditions(&self) -> Vec<Condition> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|known| known.condition.clone()).collect()
    }

    /// Tells each change of the worst state.
    pub(crate) fn changes(&self) -> watch::Receiver<State> {
        self.worst.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_part_decides() {
        let health = Health::new();
        assert_eq!(*health.changes().borrow(), State::Unready, "nothing is ready before it says so");
        for part in Part::ALL {
            assert_eq!(*health.changes().borrow(), State::Unready);
            health.set(part, State::Ready, "");
        }
        assert_eq!(*health.changes().borrow(), State::Ready);
        health.set(Part::Disk, State::Degraded, "9 % free");
        assert_eq!(*health.changes().borrow(), State::Degraded);
        health.set(Part::Clock, State::Unready, "10 min behind");
        assert_eq!(*health.changes().borrow(), State::Unready);
        health.set(Part::Clock, State::Ready, "");
        assert_eq!(*health.changes().borrow(), State::Degraded);
        let disk = health.conditions().into_iter().find(|condition| condition.part == Part::Disk).unwrap();
        assert_eq!((disk.state, disk.reason.as_str()), (State::Degraded, "9 % free"));
    }
}
