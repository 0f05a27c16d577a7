//! The operating system's clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Clock, Sleep, Timestamp};

/// The machine's clocks, inside a tokio runtime with its timer enabled.
///
/// tokio's timers stand still while the machine sleeps and know nothing of the wall clock; so this sleeps in slices
/// of at most [`SystemClock::SLICE`] and looks again. A jump of the wall clock or a suspend is noticed that soon.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The longest time for which a sleeper does not look at the clock: short enough to notice a suspend soon, long enough
    /// that ten thousand sleepers (one for each connection) cost next to nothing.
    pub const SLICE: Duration = Duration::from_secs(5);

    /// Slices end at multiples of this since boot, so that sleepers wake together: it is the waking of a thread that costs, a
    /// look at the clock costs nothing.
    const TOGETHER: Duration = Duration::from_millis(250);
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(after) => {
                let seconds = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
                Timestamp::from_unix_millis(seconds.saturating_mul(1000).saturating_add(after.subsec_millis().into()))
            }
            Err(before) => Timestamp::default().saturating_sub(before.duration()),
        }
    }

    fn boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    fn sleep_until(&self, at: Timestamp) -> Sleep<'_> {
        Box::pin(async move {
            loop {
                let left = at.since(self.now());
                if left.is_zero() {
                    return;
                }
                slice(left, self.boot()).await;
            }
        })
    }

    fn sleep_for(&self, duration: Duration) -> Sleep<'_> {
        let until = self.boot().saturating_add(duration);
        Box::pin(async move {
            loop {
                let left = until.saturating_sub(self.boot());
                if left.is_zero() {
                    return;
                }
                slice(left, self.boot()).await;
            }
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where tokio's timer is used for more than a deadline")]
async fn slice(left: Duration, now: Duration) {
    tokio::time::sleep(next_look(left, now)).await;
}

/// How long to sleep, of what is left, at this time since boot: all of it if it is short.
fn next_look(left: Duration, now: Duration) -> Duration {
    if left <= SystemClock::SLICE {
        return left;
    }
    let late = now.saturating_add(SystemClock::SLICE);
    let over = late.as_millis() % SystemClock::TOGETHER.as_millis();
    SystemClock::SLICE.saturating_sub(Duration::from_millis(u64::try_from(over).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_end_together_and_the_last_one_exactly() {
        let millis = Duration::from_millis;
        let cases = [
            ("short", 20, 1_003, 20),
            ("as long as a slice", 5_000, 1_003, 5_000),
            ("longer: to the last multiple of 250 ms within a slice", 60_000, 1_003, 4_997),
            ("the same, woken a little late", 55_000, 6_002, 4_998),
            ("just after a multiple", 60_000, 1_000, 5_000),
            ("just before a multiple", 60_000, 1_249, 4_751),
        ];
        for (case, left, now, slept) in cases {
            assert_eq!(next_look(millis(left), millis(now)), millis(slept), "{case}");
        }
    }

    #[tokio::test]
    async fn sleeps_end_when_their_time_has_come() {
        let clock = SystemClock;
        let (wall, boot) = (clock.now(), clock.boot());
        clock.sleep_until(wall.saturating_add(Duration::from_millis(20))).await;
        assert!(clock.now() >= wall.saturating_add(Duration::from_millis(20)));
        clock.sleep_for(Duration::from_millis(20)).await;
        assert!(clock.boot() >= boot + Duration::from_millis(40));
        clock.sleep_until(wall).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_sleep_looks_at_the_clock_in_between() {
        // Under tokio's paused time the slices fire at once while the system's clocks hardly move: the sleep must go on.
        let clock = SystemClock;
        let far = clock.now().saturating_add(Duration::from_secs(3_600));
        let sleeping = tokio::time::timeout(SystemClock::SLICE * 10, clock.sleep_until(far)).await;
        assert!(sleeping.is_err(), "ten slices have passed by tokio's clock, none by the wall clock");
    }
}
