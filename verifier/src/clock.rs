//! Time as an argument: whoever depends on time is handed a [`Clock`], so that a test can move it.
//!
//! [`SystemClock`] is the one implementation that asks the operating system; [`ManualClock`] is moved by hand and
//! wakes its sleepers when it is. rustls gets the same clock through [`TlsTime`].

mod manual;
#[cfg(feature = "tokio")]
mod system;
mod waiters;

use std::{
    fmt::{self, Debug, Display},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use rustls::pki_types::UnixTime;

pub use self::manual::ManualClock;
#[cfg(feature = "tokio")]
pub use self::system::SystemClock;
pub(crate) use self::waiters::{WaiterKey, Waiters};

/// A future that a [`Clock`] hands out.
pub type Sleep<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A point in wall-clock time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest point that can be written: later than any certificate's end.
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From seconds since the Unix epoch, at the ends of the range as far as it goes.
    #[must_use]
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded towards the past.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This much later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This much earlier.
    #[must_use]
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` until this; zero when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// What rustls calls it; times before 1970 become 1970.
    #[must_use]
    pub fn to_unix_time(self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(self.0).unwrap_or(0)))
    }
}

impl From<UnixTime> for Timestamp {
    fn from(time: UnixTime) -> Self {
        Self::from_unix_seconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 1000))
    }
}

/// RFC 3339 in UTC with whole seconds (milliseconds when there are any): `2026-11-23T09:00:00Z`. Outside of the years
/// 0 to 9999, which RFC 3339 cannot write, the seconds since the epoch: `@253402300800`.
impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
        match written {
            Some(text) => f.write_str(&text),
            None => write!(f, "@{}", self.unix_seconds()),
        }
    }
}

/// Where time comes from.
///
/// `now` can be set by an administrator and by NTP, forwards and back; `boot` only grows, also while the machine sleeps.
pub trait Clock: Debug + Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Time since the machine started, sleep included.
    fn boot(&self) -> Duration;

    /// Returns once the wall clock has reached `at`, also when it got there by a jump. For what is bound to a date:
    /// expiry, renewal. May be dropped at any time.
    fn sleep_until(&self, at: Timestamp) -> Sleep<'_>;

    /// Returns once `duration` has passed by the boot clock, whatever happens to the wall clock meanwhile. For periods and
    /// backing off. May be dropped at any time.
    fn sleep_for(&self, duration: Duration) -> Sleep<'_>;
}

/// A [`Clock`] as rustls wants it, so that handshakes are judged by the same time as everything else.
#[derive(Clone, Debug)]
pub struct TlsTime(Arc<dyn Clock>);

impl TlsTime {
    /// Wraps a clock for `rustls`' `builder_with_details`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(clock)
    }
}

impl rustls::time_provider::TimeProvider for TlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        // A wall clock before 1970 is no time to judge a certificate by.
        u64::try_from(self.0.now().0).ok().map(|millis| UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

#[cfg(test)]
mod tests {
    use rustls::time_provider::TimeProvider;

    use super::*;

    #[test]
    fn timestamps_are_written_as_rfc_3339() {
        let cases = [
            (Timestamp::from_unix_seconds(0), "1970-01-01T00:00:00Z"),
            (Timestamp::from_unix_seconds(1_795_424_400), "2026-11-23T09:00:00Z"),
            (Timestamp::from_unix_millis(1_795_424_400_250), "2026-11-23T09:00:00.25Z"),
            (Timestamp::from_unix_millis(-1), "1969-12-31T23:59:59.999Z"),
            (Timestamp::from_unix_seconds(253_402_300_799), "9999-12-31T23:59:59Z"),
            (Timestamp::from_unix_seconds(253_402_300_800), "@253402300800"),
            (Timestamp::MAX, "@9223372036854775"),
        ];
        for (at, text) in cases {
            assert_eq!(at.to_string(), text);
        }
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let at = Timestamp::from_unix_seconds(10);
        assert_eq!(at.saturating_add(Duration::from_secs(5)), Timestamp::from_unix_seconds(15));
        assert_eq!(at.saturating_add(Duration::MAX), Timestamp::MAX);
        assert_eq!(at.saturating_sub(Duration::MAX).unix_millis(), 10_000 - i64::MAX);
        assert_eq!(at.since(Timestamp::from_unix_seconds(4)), Duration::from_secs(6));
        assert_eq!(Timestamp::from_unix_seconds(4).since(at), Duration::ZERO);
        assert_eq!(Timestamp::from_unix_millis(-1).unix_seconds(), -1);
    }

    #[test]
    fn rustls_gets_our_time_and_none_before_1970() {
        let clock = ManualClock::at(Timestamp::from_unix_seconds(1_000));
        let time = TlsTime::new(Arc::new(clock.clone()));
        assert_eq!(time.current_time().map(|at| at.as_secs()), Some(1_000));
        clock.set(Timestamp::from_unix_seconds(-1));
        assert!(time.current_time().is_none());
    }
}
