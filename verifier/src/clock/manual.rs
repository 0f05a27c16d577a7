//! A clock that stands still until it is moved.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use super::{Clock, Sleep, Timestamp, WaiterKey, Waiters};

/// A clock for tests: it stands still until moved, and moving it wakes whoever's time has come. Clones are the same clock.
///
/// Needs no runtime and works with any. A task that is woken has not run yet when `advance` returns: wait for what it
/// does, not for the clock.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    time: Mutex<Time>,
    sleepers: Waiters,
}

#[derive(Clone, Copy, Debug, Default)]
struct Time {
    wall: Timestamp,
    boot: Duration,
}

impl ManualClock {
    /// A clock that shows `now`; the boot clock starts at zero.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        let clock = Self::default();
        clock.set(now);
        clock
    }

    /// Lets time pass: the wall clock and the boot clock both move.
    pub fn advance(&self, by: Duration) {
        self.change(|time| {
            time.wall = time.wall.saturating_add(by);
            time.boot = time.boot.saturating_add(by);
        });
    }

    /// Sets the wall clock alone, as an administrator or NTP does, forwards or back.
    pub fn set(&self, now: Timestamp) {
        self.change(|time| time.wall = now);
    }

    /// Moves the wall clock alone by `millis`, which may be negative.
    pub fn jump_wall(&self, millis: i64) {
        self.change(|time| time.wall = Timestamp::from_unix_millis(time.wall.unix_millis().saturating_add(millis)));
    }

    fn change(&self, change: impl FnOnce(&mut Time)) {
        change(&mut self.shared.time.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.sleepers.wake_all();
    }

    fn time(&self) -> Time {
        *self.shared.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.time().wall
    }

    fn boot(&self) -> Duration {
        self.time().boot
    }

    fn sleep_until(&self, at: Timestamp) -> Sleep<'_> {
        Box::pin(Sleeper { clock: self, until: Until::Wall(at), key: WaiterKey::default() })
    }

    fn sleep_for(&self, duration: Duration) -> Sleep<'_> {
        Box::pin(Sleeper {
            clock: self,
            until: Until::Boot(self.boot().saturating_add(duration)),
            key: WaiterKey::default(),
        })
    }
}

enum Until {
    Wall(Timestamp),
    Boot(Duration),
}

struct Sleeper<'a> {
    clock: &'a ManualClock,
    until: Until,
    key: WaiterKey,
}

impl Sleeper<'_> {
    fn is_over(&self) -> bool {
        let time = self.clock.time();
        match self.until {
            Until::Wall(at) => time.wall >= at,
            Until::Boot(at) => time.boot >= at,
        }
    }
}

impl Future for Sleeper<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.is_over() {
            return Poll::Ready(());
        }
        this.clock.shared.sleepers.register(&mut this.key, cx.waker());
        // Again: the clock may have been moved between the look and the registration.
        if this.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.clock.shared.sleepers.remove(&mut self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn poll(sleep: &mut Sleep<'_>) -> bool {
        sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn advancing_moves_both_clocks_and_a_jump_the_wall_clock_alone() {
        let clock = ManualClock::at(Timestamp::from_unix_seconds(100));
        clock.advance(Duration::from_secs(5));
        clock.jump_wall(-3_000);
        assert_eq!((clock.now(), clock.boot()), (Timestamp::from_unix_seconds(102), Duration::from_secs(5)));
    }

    #[test]
    fn sleepers_wake_at_their_own_clock() {
        let clock = ManualClock::at(Timestamp::from_unix_seconds(100));
        let (mut wall, mut boot) =
            (clock.sleep_until(Timestamp::from_unix_seconds(110)), clock.sleep_for(Duration::from_secs(10)));
        assert!(!poll(&mut wall) && !poll(&mut boot));
        clock.jump_wall(10_000);
        assert!(poll(&mut wall) && !poll(&mut boot), "a jump is no passing of time");
        clock.advance(Duration::from_secs(10));
        assert!(poll(&mut boot));
    }

    #[test]
    fn a_dropped_sleeper_leaves_nothing_behind() {
        let clock = ManualClock::default();
        let mut sleep = clock.sleep_for(Duration::from_secs(1));
        assert!(!poll(&mut sleep));
        assert_eq!(clock.shared.sleepers.len(), 1);
        drop(sleep);
        assert_eq!(clock.shared.sleepers.len(), 0);
    }

    #[tokio::test]
    async fn a_sleeping_task_is_woken_when_the_clock_is_moved() {
        let clock = ManualClock::default();
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(Timestamp::from_unix_seconds(60)).await }
        });
        while clock.shared.sleepers.len() == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(60));
        sleeper.await.unwrap();
    }
}
