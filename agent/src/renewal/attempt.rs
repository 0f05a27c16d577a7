//! When to try again, and the randomness that keeps nodes and services from doing so all at once.

use std::time::Duration;

use super::RenewalLimits;
use crate::svid_cache::Failure;

/// A service whose last renewal failed.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) failures: u32,
    /// On the boot clock.
    pub(crate) again: Duration,
    pub(crate) failure: Failure,
}

impl Attempt {
    /// The `failures`-th failure in a row, at `boot`. `hint` is the CA's word, `life` that of the SVIDs in question.
    pub(crate) fn failed(
        failures: u32,
        failure: Failure,
        hint: Option<Duration>,
        life: Duration,
        boot: Duration,
        limits: &RenewalLimits,
    ) -> Attempt {
        let again = boot + pause(failures, hint, life, limits, random());
        Attempt { failures, again, failure }
    }
}

/// Doubles from the first pause to the longest, less up to a half by chance. A hint counts in full, and up to a fifth more.
fn pause(failures: u32, hint: Option<Duration>, life: Duration, limits: &RenewalLimits, random: f64) -> Duration {
    let first = limits.first_pause.min(life / 50);
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(limits.longest_pause);
    let own = doubled.mul_f64(0.5 + random / 2.0);
    match hint {
        Some(hint) => own.max(hint.min(limits.longest_hint).mul_f64(1.0 + random / 5.0)),
        None => own,
    }
}

/// Evenly from 0 to 1. Of no use as a secret.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness all would come at the same moment, which is worse than late, not wrong.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 1.0;
    }
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let limits = RenewalLimits::default();
        let hour = Duration::from_secs(3600);
        let at = |failures, random| pause(failures, None, hour, &limits, random);
        for (failures, most) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 15), (6, 15), (u32::MAX, 15)] {
            assert_eq!(at(failures, 1.0), Duration::from_secs(most), "{failures}");
            assert_eq!(at(failures, 0.0), Duration::from_secs(most) / 2, "{failures}");
        }
        assert_eq!(pause(1, None, Duration::from_secs(10), &limits, 1.0), Duration::from_millis(200), "short lives");
    }

    #[test]
    fn the_ca_is_never_asked_before_the_time_it_named() {
        let limits = RenewalLimits::default();
        let hour = Duration::from_secs(3600);
        let at = |hint, random| pause(1, Some(Duration::from_secs(hint)), hour, &limits, random);
        assert_eq!(at(60, 0.0), Duration::from_secs(60));
        assert_eq!(at(60, 1.0), Duration::from_secs(72));
        assert_eq!(at(0, 1.0), Duration::from_secs(1));
        assert_eq!(at(1_000_000, 0.0), limits.longest_hint, "and not for ever");
    }

    #[test]
    fn random_is_in_bounds() {
        assert!((0..1000).all(|_| (0.0..=1.0).contains(&random())));
    }
}
