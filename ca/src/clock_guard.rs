//! Nobody signs in a past or an absurd future.
//!
//! The highest time at which this CA acted is stored. A clock that is 2 minutes behind it, was 400 days ahead of it at the
//! start, or moves 10 minutes off the boot clock while the process runs is doubted: nothing is signed until it is right
//! again, or an operator says that it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bonafide_verifier::clock::{Clock, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::store::{Abort, Store, StoreError, WriteError};

/// Why nothing is signed at this time.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ClockRefusal {
    /// Before the last act of this CA.
    #[error(
        "the clock says {now}, but this CA has acted at {highest}, so the clock is behind by {behind}; set it right, or, \
         if it is right, start once with `bonafide-ca run --accept-clock`"
    )]
    Behind { now: Timestamp, highest: Timestamp, behind: Ago },
    /// Far after the last act of this CA, at its start.
    #[error(
        "the clock says {now}, and this CA last acted at {highest}, {ahead} before; set the clock right, or, if this CA \
         was off for so long, start once with `bonafide-ca run --accept-clock`"
    )]
    Ahead { now: Timestamp, highest: Timestamp, ahead: Ago },
    /// Set by hand, or the machine was paused.
    #[error(
        "the clock says {now}, but by the time since boot it must be {expected}: it was set, or the machine stood still; set it \
         right, or, if it is right, start the CA again with `bonafide-ca run --accept-clock`"
    )]
    Drifted { now: Timestamp, expected: Timestamp },
}

/// A span of time for people.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ago(pub(crate) Duration);

impl std::fmt::Display for Ago {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..7200 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            7200..172_800 => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

/// Asks the clock on behalf of everything that signs. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ClockGuard {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    store: Store,
    /// Wall and boot clock when the process started.
    started: (Timestamp, Duration),
    /// The highest time as it was found at the start, if the clock was too far ahead of it then.
    ahead_of: Option<Timestamp>,
    doubted: AtomicBool,
}

impl ClockGuard {
    /// Compares the clock with what `store` remembers, and from then on with the boot clock.
    pub(crate) fn start(store: Store, clock: Arc<dyn Clock>) -> Self {
        let started = (clock.now(), clock.boot());
        let highest = store.highest_time();
        let ahead_of = (started.0.since(highest) > MOST_AHEAD).then_some(highest);
        let inner = Inner { clock, store, started, ahead_of, doubted: AtomicBool::new(false) };
        Self { inner: Arc::new(inner) }
    }

    /// The time, if it can be trusted for signing.
    ///
    /// # Errors
    /// [`ClockRefusal`] with both times and what mends it.
    pub(crate) fn check(&self) -> Result<Timestamp, ClockRefusal> {
        let inner = &self.inner;
        let (now, boot) = (inner.clock.now(), inner.clock.boot());
        let outcome = judge(now, boot, inner.store.highest_time(), inner.started, inner.ahead_of);
        let doubted = outcome.is_err();
        if inner.doubted.swap(doubted, Ordering::AcqRel) != doubted {
            match &outcome {
                Ok(_) => info!("the clock is right again; signing goes on"),
                Err(refusal) => error!(error = %refusal, "the clock is doubted; nothing is signed"),
            }
        }
        outcome.inspect(|now| inner.store.note_time(*now))
    }

    /// Writes the highest time every minute, also when nothing else is written. May be dropped.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            if self.check().is_ok() {
                let written = self.inner.store.write(|_| Ok::<(), Abort<()>>(())).await;
                if let Err(WriteError::Store(StoreError::Failed { .. } | StoreError::Closed)) = written {
                    return;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.clock.sleep_for(PERIOD) => {}
            }
        }
    }
}

fn judge(
    now: Timestamp,
    boot: Duration,
    highest: Timestamp,
    (wall_then, boot_then): (Timestamp, Duration),
    ahead_of: Option<Timestamp>,
) -> Result<Timestamp, ClockRefusal> {
    let behind = highest.since(now);
    if behind > MOST_BEHIND {
        return Err(ClockRefusal::Behind { now, highest, behind: Ago(behind) });
    }
    // Set right since the start: judged anew.
    if let Some(highest) = ahead_of
        && now.since(highest) > MOST_AHEAD
    {
        return Err(ClockRefusal::Ahead { now, highest, ahead: Ago(now.since(highest)) });
    }
    let expected = wall_then.saturating_add(boot.saturating_sub(boot_then));
    let off = now.since(expected).max(expected.since(now));
    // A clock that was too far ahead at the start and has been set right since is off by that.
    if off > MOST_OFF && ahead_of.is_none() {
        return Err(ClockRefusal::Drifted { now, expected });
    }
    Ok(now)
}

const MOST_BEHIND: Duration = Duration::from_secs(120);
const MOST_AHEAD: Duration = Duration::from_secs(400 * 86_400);
const MOST_OFF: Duration = Duration::from_secs(600);
const PERIOD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f08_the_clock_by_rule() {
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let seconds = Duration::from_secs;
        // Name, now minus start in seconds, boot since start, highest minus start, ahead at the start, refused as.
        type Case<'a> = (&'a str, i64, u64, i64, Option<u64>, Option<&'a str>);
        let cases: &[Case<'_>] = &[
            ("at the start", 0, 0, 0, None, None),
            ("two minutes behind", 0, 0, 120, None, None),
            ("just more than two minutes behind", 0, 0, 121, None, Some("behind by 2 min 1 s")),
            ("an hour later", 3600, 3600, 0, None, None),
            ("slept for months, both clocks went on", 9_000_000, 9_000_000, 0, None, None),
            ("set ahead by 10 min", 600, 0, 0, None, None),
            ("set ahead by more", 601, 0, 0, None, Some("it was set")),
            ("set back by 10 min, 2 min allowed by the last act", -600, 0, -600, None, None),
            ("set back by more", -601, 0, -601, None, Some("it was set")),
            ("F-08 10 years ahead", 315_360_000, 5, 0, None, Some("it was set")),
            ("F-08 1970", -1_800_000_000, 5, 0, None, Some("behind by 20833 days")),
            ("off for 401 days", 0, 0, 0, Some(401), Some("start once with")),
            ("off for 401 days, then set right", -86_400 * 200, 60, -86_400 * 401, Some(401), None),
        ];
        for (name, wall, boot, highest, ahead, expected) in cases {
            let at = |seconds: i64| Timestamp::from_unix_seconds(start.unix_seconds() + seconds);
            let ahead_of = ahead.map(|ahead| start.saturating_sub(days(ahead)));
            let verdict = judge(at(*wall), seconds(1000 + boot), at(*highest), (start, seconds(1000)), ahead_of);
            match (verdict, expected) {
                (Ok(now), None) => assert_eq!(now, at(*wall), "{name}"),
                (Err(refusal), Some(text)) => {
                    let message = refusal.to_string();
                    assert!(message.contains(text), "{name}: {message}");
                    assert!(
                        message.contains("--accept-clock") && message.contains(&at(*wall).to_string()),
                        "{name}: {message}"
                    );
                }
                (verdict, expected) => panic!("{name}: {verdict:?}, expected {expected:?}"),
            }
        }
    }
}
