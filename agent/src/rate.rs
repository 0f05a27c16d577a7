//! A bound on how often something may happen: a bucket that fills with time and is emptied by use.

use std::time::Duration;

/// So many a second, and so many at once after a rest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
}

/// What is left of a [`Rate`].
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    left: f64,
    /// On the boot clock; `None` before the first use.
    filled_at: Option<Duration>,
}

impl Bucket {
    pub(crate) fn full(rate: Rate) -> Bucket {
        Bucket { rate, left: f64::from(rate.burst), filled_at: None }
    }

    /// Whether there was one more, at `boot` on the boot clock.
    pub(crate) fn take(&mut self, boot: Duration) -> bool {
        let passed = boot.saturating_sub(self.filled_at.unwrap_or(boot)).as_secs_f64();
        self.filled_at = Some(boot.max(self.filled_at.unwrap_or(boot)));
        self.left = (self.left + passed * f64::from(self.rate.per_second)).min(f64::from(self.rate.burst));
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::full(Rate { per_second: 10, burst: 3 });
        let mut taken = |ms: u64| bucket.take(Duration::from_millis(ms));
        assert_eq!([taken(0), taken(0), taken(0), taken(0)], [true, true, true, false]);
        assert_eq!([taken(99), taken(101), taken(101)], [false, true, false]);
        assert_eq!([taken(60_000), taken(60_000), taken(60_000), taken(60_000)], [true, true, true, false]);
        assert!(!taken(0), "a clock that goes back gives nothing");
    }
}
