//! How much one node, and one address, may ask for: so that nobody fills the disk with records or guesses secrets.
//!
//! A node's share grows with the services it may hold and shrinks with their lifetime: so many documents for each service
//! in each of its lifetimes, saved up at most one lifetime long. Joins are counted by address. Time is that since boot,
//! which no clock change moves.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bonafide_ca_api::NodeName;

/// The shares. At a bound a request is refused with the time after which asking again helps.
#[derive(Clone, Copy, Debug)]
pub struct QuotaLimits {
    /// X.509-SVIDs of one service that one node gets in one of their lifetimes. An agent that renews at half of the
    /// lifetime needs two, one more at each of its restarts.
    pub x509_per_lifetime: u32,
    /// What a node with any service at all may save up, whatever its services allow: a full batch of an agent that starts.
    pub x509_at_once: u32,
    /// JWT-SVIDs of one service that one node gets in one of their lifetimes. An agent needs two for each audience.
    pub jwt_per_lifetime: u32,
    /// Node SVIDs that one node gets in an hour, by renewal or recovery.
    pub node_svids_per_hour: u32,
    /// Delegations that one node gets in an hour. An agent needs two, and one more at each of its restarts and each change of its edges.
    pub delegations_per_hour: u32,
    /// Records of minted tokens that are collected from one node with an edge in a second, in the long run; ten times as many at once. From
    /// one without, which has none but those of before, a fiftieth; a full message always fits.
    pub mints_per_second: u32,
    /// Joins and recoveries that one address may try in a second, in the long run.
    pub joins_per_second: f64,
    /// Joins and recoveries that one address may try at once: a rack that starts together.
    pub join_burst: u32,
    /// Addresses that are counted at once. Beyond it those that have their whole share again are forgotten, then any.
    pub addresses: usize,
}

impl Default for QuotaLimits {
    fn default() -> Self {
        Self {
            x509_per_lifetime: 16,
            x509_at_once: 256,
            jwt_per_lifetime: 300,
            node_svids_per_hour: 60,
            delegations_per_hour: 30,
            mints_per_second: 5_000,
            joins_per_second: 1.0,
            join_burst: 100,
            addresses: 16 * 1024,
        }
    }
}

/// What may be taken: so much in a second, and saved up so much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share {
    per_second: f64,
    burst: f64,
}

impl Share {
    /// `each` documents for every lifetime in `lifetimes` (of one service each).
    pub(crate) fn of_lifetimes(each: u32, lifetimes: impl IntoIterator<Item = Duration>) -> Self {
        let each = f64::from(each);
        let mut share = Self { per_second: 0.0, burst: 0.0 };
        for lifetime in lifetimes {
            share.per_second += each / lifetime.as_secs_f64().max(1.0);
            share.burst += each;
        }
        share
    }

    /// The same, with room to save up at least so much; what grows by nothing stays nothing.
    fn at_least(self, burst: u32) -> Self {
        let floor = if self.per_second > 0.0 { f64::from(burst) } else { 0.0 };
        Self { burst: self.burst.max(floor), ..self }
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Duration,
}

impl Bucket {
    fn full(share: Share, now: Duration) -> Self {
        Self { tokens: share.burst, filled: now }
    }

    fn fill(&mut self, share: Share, now: Duration) {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * share.per_second).min(share.burst);
        self.filled = now;
    }

    /// Takes up to `wanted`; gives how many it took, and when the next one is there.
    fn take(&mut self, wanted: usize, share: Share, now: Duration) -> Taken {
        self.fill(share, now);
        // Whole tokens; the cast saturates, and a bucket never holds more than its burst.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "non-negative, and saturating is right"
        )]
        let there = self.tokens.max(0.0) as usize;
        let granted = wanted.min(there);
        #[expect(clippy::cast_precision_loss, reason = "a batch has few items")]
        {
            self.tokens -= granted as f64;
        }
        let missing = 1.0 - self.tokens;
        let retry_after = if missing <= 0.0 {
            Duration::ZERO
        } else if share.per_second > 0.0 {
            Duration::try_from_secs_f64(missing / share.per_second).unwrap_or(LONGEST_HINT).min(LONGEST_HINT)
        } else {
            LONGEST_HINT
        };
        Taken { granted, retry_after }
    }
}

/// What a bucket gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Taken {
    /// How many of those that were wanted.
    pub(crate) granted: usize,
    /// When the next one is there.
    pub(crate) retry_after: Duration,
}

/// A bucket for each key.
#[derive(Debug)]
struct Buckets<K>(Mutex<HashMap<K, Bucket>>);

impl<K: Eq + Hash + Clone> Buckets<K> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn take(&self, key: &K, wanted: usize, share: Share, now: Duration, most: usize) -> Taken {
        let mut buckets = self.lock();
        if let Some(bucket) = buckets.get_mut(key) {
            return bucket.take(wanted, share, now);
        }
        if buckets.len() >= most {
            buckets.retain(|_, bucket| {
                bucket.fill(share, now);
                bucket.tokens < share.burst
            });
            if buckets.len() >= most
                && let Some(any) = buckets.keys().next().cloned()
            {
                buckets.remove(&any);
            }
        }
        buckets.entry(key.clone()).or_insert_with(|| Bucket::full(share, now)).take(wanted, share, now)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Bucket>> {
        // A bucket is a number and a time: whatever a panicking thread left is still one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Counted {
    X509,
    Jwt,
    NodeSvid,
    Delegation,
    Mint,
}

/// The shares of all nodes and addresses.
#[derive(Debug)]
pub(crate) struct Quota {
    limits: QuotaLimits,
    nodes: Buckets<(NodeName, Counted)>,
    addresses: Buckets<IpAddr>,
    /// What the services of a node add up to, and in which generation of the registry: a node may hold very many, and ask often.
    shares: Mutex<HashMap<(NodeName, Counted), (u64, Share)>>,
}

impl Quota {
    pub(crate) fn new(limits: QuotaLimits) -> Self {
        Self { limits, nodes: Buckets::new(), addresses: Buckets::new(), shares: Mutex::default() }
    }

    /// Takes up to `wanted` X.509-SVIDs from the share of `node`, which in this generation of the registry may hold services of
    /// these lifetimes.
    pub(crate) fn x509<L: IntoIterator<Item = Duration>>(
        &self,
        node: &NodeName,
        generation: u64,
        lifetimes: impl FnOnce() -> L,
        wanted: usize,
        now: Duration,
    ) -> Taken {
        let share = self.share(node, Counted::X509, generation, || {
            Share::of_lifetimes(self.limits.x509_per_lifetime, lifetimes()).at_least(self.limits.x509_at_once)
        });
        self.of_node(node, Counted::X509, share, wanted, now)
    }

    /// Takes one JWT-SVID from the share of `node`; the rest as in [`Quota::x509`].
    pub(crate) fn jwt<L: IntoIterator<Item = Duration>>(
        &self,
        node: &NodeName,
        generation: u64,
        lifetimes: impl FnOnce() -> L,
        now: Duration,
    ) -> Taken {
        let share = self
            .share(node, Counted::Jwt, generation, || Share::of_lifetimes(self.limits.jwt_per_lifetime, lifetimes()));
        self.of_node(node, Counted::Jwt, share, 1, now)
    }

    /// Takes one node SVID from the share of `node`.
    pub(crate) fn node_svid(&self, node: &NodeName, now: Duration) -> Taken {
        let share = Share::of_lifetimes(self.limits.node_svids_per_hour, [HOUR]);
        self.of_node(node, Counted::NodeSvid, share, 1, now)
    }

    /// Takes one delegation from the share of `node`.
    pub(crate) fn delegation(&self, node: &NodeName, now: Duration) -> Taken {
        let share = Share::of_lifetimes(self.limits.delegations_per_hour, [HOUR]);
        self.of_node(node, Counted::Delegation, share, 1, now)
    }

    /// Takes up to `wanted` records of minted tokens from the share of `node`.
    pub(crate) fn mints(&self, node: &NodeName, is_edge: bool, wanted: usize, now: Duration) -> Taken {
        let per_second = f64::from(self.limits.mints_per_second) / if is_edge { 1.0 } else { 50.0 };
        let share = Share { per_second, burst: 10.0 * per_second };
        self.of_node(node, Counted::Mint, share, wanted, now)
    }

    /// Takes one attempt to join or recover from the share of `address`. An IPv6 address counts as its /64, which one
    /// subscriber has whole.
    pub(crate) fn join(&self, address: IpAddr, now: Duration) -> Taken {
        let share = Share { per_second: self.limits.joins_per_second, burst: f64::from(self.limits.join_burst) };
        self.addresses.take(&origin(address), 1, share, now, self.limits.addresses)
    }

    /// Drops what is counted of nodes that are no longer live.
    pub(crate) fn keep_nodes(&self, live: impl Fn(&NodeName) -> bool) {
        self.nodes.lock().retain(|(node, _), _| live(node));
        self.shares().retain(|(node, _), _| live(node));
    }

    /// The share of a node, added up once in a generation.
    fn share(&self, node: &NodeName, counted: Counted, generation: u64, add_up: impl FnOnce() -> Share) -> Share {
        let key = (node.clone(), counted);
        if let Some((known, share)) = self.shares().get(&key)
            && *known == generation
        {
            return *share;
        }
        // Not under the lock: others ask meanwhile.
        let share = add_up();
        self.shares().insert(key, (generation, share));
        share
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<(NodeName, Counted), (u64, Share)>> {
        // One insertion is one step: whatever a panicking thread left is whole.
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_node(&self, node: &NodeName, counted: Counted, share: Share, wanted: usize, now: Duration) -> Taken {
        // Bounded by the live nodes: a bucket is made for an authenticated node only, and `keep_nodes` drops the rest.
        self.nodes.take(&(node.clone(), counted), wanted, share, now, usize::MAX)
    }
}

fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

const HOUR: Duration = Duration::from_secs(60 * 60);
/// The longest time a refusal names.
const LONGEST_HINT: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[test]
    fn a_share_grows_with_the_services_and_shrinks_with_their_lifetime() {
        let hour = Share::of_lifetimes(16, [HOUR]);
        let two = Share::of_lifetimes(16, [HOUR, HOUR]);
        let short = Share::of_lifetimes(16, [10 * SECOND]);
        assert_eq!(two.burst, 2.0 * hour.burst);
        assert_eq!(two.per_second, 2.0 * hour.per_second);
        assert_eq!(short.per_second, 360.0 * hour.per_second);
        assert_eq!(Share::of_lifetimes(16, []).burst, 0.0);
    }

    #[test]
    fn a_node_gets_its_share_then_a_hint_then_more() {
        let quota = Quota::new(QuotaLimits { x509_per_lifetime: 10, x509_at_once: 0, ..QuotaLimits::default() });
        let take = |wanted, now| quota.x509(&node("n1"), 1, || [100 * SECOND], wanted, now);
        assert_eq!(take(4, SECOND).granted, 4);
        let taken = take(8, SECOND);
        assert_eq!(taken.granted, 6);
        assert_eq!(taken.retry_after, 10 * SECOND);
        assert_eq!(take(1, 10 * SECOND).granted, 0, "one millisecond early is early");
        assert_eq!(take(1, 11 * SECOND).granted, 1);
        // Another node has its own share, and a long silence saves up one lifetime's worth.
        assert_eq!(quota.x509(&node("n2"), 1, || [100 * SECOND], 99, SECOND).granted, 10);
        assert_eq!(take(99, 100_000 * SECOND).granted, 10);
    }

    /// A node that may hold very many services once made the CA look at all of them at each of its calls.
    #[test]
    fn a_share_is_added_up_once_in_a_generation() {
        let quota = Quota::new(QuotaLimits { x509_per_lifetime: 1, x509_at_once: 0, ..QuotaLimits::default() });
        let looked = std::cell::Cell::new(0);
        let take = |name, generation, services: usize, now| {
            let lifetimes = || {
                looked.set(looked.get() + 1);
                vec![10 * SECOND; services]
            };
            quota.x509(&node(name), generation, lifetimes, 99, now).granted
        };
        assert_eq!((take("n1", 1, 2, SECOND), looked.get()), (2, 1));
        assert_eq!((take("n1", 1, 2, SECOND), looked.get()), (0, 1));
        assert_eq!((take("n2", 1, 5, SECOND), looked.get()), (5, 2), "each node has its own");
        assert_eq!((take("n1", 2, 4, 101 * SECOND), looked.get()), (4, 3), "a service more, a larger share");
        assert_eq!((take("n1", 3, 0, 201 * SECOND), looked.get()), (0, 4), "none left, nothing");
        quota.jwt(&node("n1"), 3, || [SECOND], SECOND);
        quota.keep_nodes(|name| name.as_str() == "n2");
        assert_eq!(quota.shares().len(), 1);
    }

    #[test]
    fn a_node_without_services_gets_nothing() {
        let quota = Quota::new(QuotaLimits::default());
        let taken = quota.x509(&node("n1"), 1, || [], 1, SECOND);
        assert_eq!(taken, Taken { granted: 0, retry_after: LONGEST_HINT });
    }

    #[test]
    fn time_that_goes_back_gives_nothing_and_takes_nothing() {
        let quota = Quota::new(QuotaLimits { x509_per_lifetime: 1, x509_at_once: 0, ..QuotaLimits::default() });
        assert_eq!(quota.x509(&node("n1"), 1, || [10 * SECOND], 1, 100 * SECOND).granted, 1);
        assert_eq!(quota.x509(&node("n1"), 1, || [10 * SECOND], 1, SECOND).granted, 0);
    }

    #[test]
    fn joins_are_counted_by_address_and_by_prefix() {
        let quota = Quota::new(QuotaLimits { join_burst: 2, ..QuotaLimits::default() });
        let join = |address: &str, now| quota.join(address.parse().unwrap(), now).granted;
        assert_eq!(join("192.0.2.1", SECOND), 1);
        assert_eq!(join("::ffff:192.0.2.1", SECOND), 1, "the same address, mapped");
        assert_eq!(join("192.0.2.1", SECOND), 0);
        assert_eq!(join("192.0.2.2", SECOND), 1);
        assert_eq!(join("192.0.2.1", 2 * SECOND), 1, "one a second");
        assert_eq!(join("2001:db8::1", SECOND), 1);
        assert_eq!(join("2001:db8::2", SECOND), 1);
        assert_eq!(join("2001:db8::3", SECOND), 0, "the same /64");
        assert_eq!(join("2001:db8:0:1::1", SECOND), 1);
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let quota = Quota::new(QuotaLimits { addresses: 100, ..QuotaLimits::default() });
        for n in 0..10_000u32 {
            assert_eq!(quota.join(IpAddr::V4(n.into()), SECOND).granted, 1);
        }
        assert!(quota.addresses.lock().len() <= 100);
    }

    #[test]
    fn removed_nodes_are_forgotten() {
        let quota = Quota::new(QuotaLimits::default());
        for name in ["a", "b"] {
            quota.node_svid(&node(name), SECOND);
        }
        quota.keep_nodes(|name| name.as_str() == "a");
        assert_eq!(quota.nodes.lock().len(), 1);
    }
}
