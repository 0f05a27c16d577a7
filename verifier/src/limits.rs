//! How often something may be done: by a caller, by a user within a caller, by a rule as a whole.
//!
//! Rates are buckets that refill evenly (GCRA): a caller that comes at an even pace never waits, one that comes in a burst gets
//! as many as the bucket holds. Daily limits are quotas: they begin anew at midnight UTC and survive a restart of the service.

mod quota;

use std::{
    convert::Infallible,
    fmt,
    hash::{Hash, Hasher},
    num::NonZeroU32,
    ops::Add,
    sync::Arc,
    time::Duration,
};

use governor::{
    Quota as Rate, RateLimiter,
    clock::{Clock as _, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use quick_cache::{Equivalent, sync::Cache};

pub use self::quota::{QuotaFileError, Quotas};
use crate::{
    caller::CallerId,
    clock::Clock,
    policy::{Limit, LimitPer},
};

/// Counts what is limited. Cheap to clone; clones count together.
///
/// Keeps at most [`Limits::MOST`] buckets; beyond that the least used are forgotten, which fills them. Whoever has a bucket is
/// authenticated, so that only callers and users who are known can do that to each other. Users are many: what is counted by user has as many
/// buckets of its own, so that no number of users makes a service's limit forgotten.
#[derive(Clone)]
pub struct Limits(Arc<Shared>);

struct Shared {
    buckets: Cache<Key, Arc<Bucket>>,
    of_users: Cache<Key, Arc<Bucket>>,
    quotas: Quotas,
    clock: Boot,
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, Boot, NoOpMiddleware<Since>>;

/// What is counted together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Counted<'a> {
    /// The rule that has the limit, by its name; empty for a limit of the whole service.
    pub rule: &'a str,
    /// Who calls, a service or a user; nobody when the rule's calls are counted as a whole.
    pub caller: Option<&'a CallerId>,
    /// For whom, where that is counted by itself.
    pub user: Option<&'a str>,
}

/// It was too often.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("more than {limit:?}; come back in {retry_after:?}")]
pub struct LimitExceeded {
    /// What was exceeded.
    pub limit: Limit,
    /// When the next one is taken.
    pub retry_after: Duration,
}

impl Counted<'_> {
    /// Whether there is one for each user, of whom there are many.
    fn is_by_user(&self) -> bool {
        self.user.is_some() || self.caller.is_some_and(|caller| caller.user().is_some())
    }
}

impl Limits {
    /// The most buckets, and the most of users.
    pub const MOST: usize = 65_536;

    /// Nothing counted yet but what `quotas` holds.
    #[must_use]
    pub fn new(quotas: Quotas, clock: Arc<dyn Clock>) -> Self {
        let (buckets, of_users) = (Cache::new(Self::MOST), Cache::new(Self::MOST));
        Self(Arc::new(Shared { buckets, of_users, quotas, clock: Boot(clock) }))
    }

    /// Counts one, if it is not one too many.
    ///
    /// # Errors
    /// When it is; then nothing is counted.
    pub fn take(&self, counted: &Counted<'_>, limit: Limit) -> Result<(), LimitExceeded> {
        if limit.per == LimitPer::Day {
            let taken = self.0.quotas.take(counted, limit.count, self.0.clock.0.now());
            return taken.map_err(|retry_after| LimitExceeded { limit, retry_after });
        }
        let buckets = if counted.is_by_user() { &self.0.of_users } else { &self.0.buckets };
        let bucket = match buckets.get(&KeyRef { counted, limit }) {
            Some(bucket) => bucket,
            None => {
                let fresh = || Arc::new(RateLimiter::direct_with_clock(rate(limit), self.0.clock.clone()));
                let key = Key::of(counted, limit);
                let Ok(bucket) = buckets.get_or_insert_with(&key, || Ok::<_, Infallible>(fresh()));
                bucket
            }
        };
        bucket.check().map_err(|full| LimitExceeded { limit, retry_after: full.wait_time_from(self.0.clock.now()) })
    }

    /// The daily limits.
    #[must_use]
    pub fn quotas(&self) -> &Quotas {
        &self.0.quotas
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("buckets", &self.0.buckets.len())
            .field("of_users", &self.0.of_users.len())
            .finish_non_exhaustive()
    }
}

/// The pace and the burst of a limit.
fn rate(limit: Limit) -> Rate {
    let period = match limit.per {
        LimitPer::Second => Duration::from_secs(1),
        LimitPer::Minute => Duration::from_secs(60),
        LimitPer::Hour => Duration::from_secs(3600),
        LimitPer::Day => Duration::from_secs(86_400),
    };
    let each = period / limit.count.get();
    match Rate::with_period(each) {
        Some(rate) => rate.allow_burst(limit.burst),
        // More than a thousand million a second: as often as there is.
        None => Rate::per_second(NonZeroU32::MAX).allow_burst(limit.burst),
    }
}

/// A key that owns what it names.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Key {
    rule: Box<str>,
    caller: Option<CallerId>,
    user: Option<Box<str>>,
    limit: Limit,
}

/// The same key, borrowed.
#[derive(Clone, Copy)]
struct KeyRef<'a> {
    counted: &'a Counted<'a>,
    limit: Limit,
}

impl Key {
    fn of(counted: &Counted<'_>, limit: Limit) -> Self {
        let Counted { rule, caller, user } = *counted;
        Self { rule: rule.into(), caller: caller.cloned(), user: user.map(Box::from), limit }
    }

    fn counted(&self) -> Counted<'_> {
        Counted { rule: &self.rule, caller: self.caller.as_ref(), user: self.user.as_deref() }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.counted().hash(state);
        self.limit.hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.counted.hash(state);
        self.limit.hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.counted == key.counted() && self.limit == key.limit
    }
}

/// Our clock as the buckets take it.
#[derive(Clone)]
struct Boot(Arc<dyn Clock>);

/// Time since the machine started.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Since(u64);

impl governor::clock::Clock for Boot {
    type Instant = Since;

    fn now(&self) -> Since {
        Since(u64::try_from(self.0.boot().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Add<Nanos> for Since {
    type Output = Self;

    fn add(self, other: Nanos) -> Self {
        Self(self.0.saturating_add(other.as_u64()))
    }
}

impl Reference for Since {
    fn duration_since(&self, earlier: Self) -> Nanos {
        Nanos::new(self.0.saturating_sub(earlier.0))
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.saturating_sub(duration.as_u64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::{ManualClock, Timestamp},
        policy::LimitBy,
        spiffe::SpiffeId,
        user::UserId,
    };

    fn limit(count: u32, per: LimitPer, burst: u32) -> Limit {
        let number = |count| NonZeroU32::new(count).unwrap();
        Limit { count: number(count), per, burst: number(burst), by: LimitBy::Caller }
    }

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000)))
    }

    fn of<'a>(caller: &'a CallerId, user: Option<&'a str>) -> Counted<'a> {
        Counted { rule: "r", caller: Some(caller), user }
    }

    #[test]
    fn a_burst_then_an_even_pace_and_everyone_by_themselves() {
        let clock = clock();
        let limits = Limits::new(Quotas::in_memory(), clock.clone());
        let [one, other] =
            ["a", "b"].map(|path| CallerId::Service(SpiffeId::parse(&format!("spiffe://example.org/{path}")).unwrap()));
        let limit = limit(10, LimitPer::Second, 3);
        for _ in 0..3 {
            limits.take(&of(&one, None), limit).unwrap();
        }
        let full = limits.take(&of(&one, None), limit).unwrap_err();
        assert_eq!(full.retry_after, Duration::from_millis(100));
        // Another caller, and a user within this one, have buckets of their own.
        limits.take(&of(&other, None), limit).unwrap();
        limits.take(&of(&one, Some("john")), limit).unwrap();
        clock.advance(full.retry_after);
        limits.take(&of(&one, None), limit).unwrap();
        assert!(limits.take(&of(&one, None), limit).is_err());
        // A jump of the wall clock changes nothing.
        clock.jump_wall(3_600_000);
        assert!(limits.take(&of(&one, None), limit).is_err());
    }

    #[test]
    fn t_29_buckets_are_bounded() {
        let limits = Limits::new(Quotas::in_memory(), clock());
        for index in 0..Limits::MOST * 2 {
            let user = index.to_string();
            let counted = Counted { rule: "r", caller: None, user: Some(&user) };
            limits.take(&counted, limit(1, LimitPer::Hour, 1)).unwrap();
        }
        assert!(limits.0.of_users.len() <= Limits::MOST);
    }

    #[test]
    fn t_29_no_number_of_users_makes_a_services_limit_forgotten() {
        let limits = Limits::new(Quotas::in_memory(), clock());
        let service = CallerId::Service(SpiffeId::parse("spiffe://example.org/a").unwrap());
        let users = |issuer: &str| {
            for index in 0..Limits::MOST * 2 {
                let user = CallerId::User(UserId::parse(&format!("{issuer}:{index}")).unwrap());
                limits.take(&of(&user, None), limit(1, LimitPer::Hour, 1)).unwrap();
            }
        };
        users("first");
        limits.take(&of(&service, None), limit(1, LimitPer::Hour, 1)).unwrap();
        users("then");
        assert!(limits.take(&of(&service, None), limit(1, LimitPer::Hour, 1)).is_err());
        // Nor is one of them the other: each has a bucket of its own.
        let john = |id: &str| CallerId::User(UserId::parse(id).unwrap());
        limits.take(&of(&john("home:1"), None), limit(1, LimitPer::Hour, 1)).unwrap();
        assert!(limits.take(&of(&john("home:1"), None), limit(1, LimitPer::Hour, 1)).is_err());
    }
}
