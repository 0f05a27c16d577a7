//! A cheap limit for each address, which stands before any signature check (T-29): a stranger's tokens cost us no more than so many
//! checks a second, however many there are.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use super::error::AuthenticateError;
use crate::clock::Timestamp;

/// How many signatures are checked for one address, which is an IPv4 address or an IPv6 network of 64 bits. Tokens that were seen before
/// do not count, nor do certificates and API keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AddressRate {
    /// So many a second, at least 1.
    pub per_second: u32,
    /// So many at once, at least 1.
    pub burst: u32,
}

/// 200 a second, 1000 at once: less than a hundredth of what a core does.
impl Default for AddressRate {
    fn default() -> Self {
        Self { per_second: 200, burst: 1000 }
    }
}

/// A table of fixed size. Addresses that fall into one place share a limit, so that a flood of addresses uses up the limits of
/// others, but neither memory nor, beyond all places together, our time. The places are random for each process.
pub(super) struct AddressLimit {
    /// GCRA: the theoretical arrival time of the next, in microseconds since 1970.
    places: Box<[AtomicI64]>,
    hasher: RandomState,
    /// Microseconds between two.
    interval: i64,
    /// Microseconds that an arrival may be early.
    tolerance: i64,
}

const PLACES: usize = 16_384;

impl AddressLimit {
    pub(super) fn new(rate: AddressRate) -> Self {
        let interval = (1_000_000 / i64::from(rate.per_second.max(1))).max(1);
        Self {
            places: (0..PLACES).map(|_| AtomicI64::new(0)).collect(),
            hasher: RandomState::new(),
            interval,
            tolerance: interval.saturating_mul(i64::from(rate.burst.max(1)) - 1),
        }
    }

    /// Takes one check from the limit of this address.
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "it stands before signature checks"))]
    pub(super) fn admit(&self, address: Option<IpAddr>, at: Timestamp) -> Result<(), AuthenticateError> {
        let Some(place) = self.places.get(self.place_of(address)) else { return Ok(()) };
        let now = at.unix_millis().saturating_mul(1000);
        // Later than `most` is none but after the clock was set back, and then what was counted is of no use.
        let most = now.saturating_add(self.tolerance).saturating_add(self.interval);
        let next = |planned: i64| (if planned > most { now } else { planned.max(now) }).saturating_add(self.interval);
        let taken = place.try_update(Ordering::Relaxed, Ordering::Relaxed, |planned| {
            let next = next(planned);
            (next <= most).then_some(next)
        });
        taken.map(drop).map_err(|planned| {
            let early = next(planned).saturating_sub(most).max(1);
            AuthenticateError::AddressLimit { retry_after: Duration::from_micros(early.unsigned_abs()) }
        })
    }

    fn place_of(&self, address: Option<IpAddr>) -> usize {
        let network = match address {
            Some(IpAddr::V4(address)) => Some(u64::from(address.to_bits())),
            Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                Some(address) => Some(u64::from(address.to_bits())),
                // Never an IPv4 address: those of the first 2^32 networks are not in use.
                None => u64::try_from(address.to_bits() >> 64).ok(),
            },
            None => None,
        };
        usize::try_from(self.hasher.hash_one(network)).unwrap_or_default() % PLACES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(1_795_424_400_000 + millis)
    }

    fn limit() -> AddressLimit {
        AddressLimit::new(AddressRate { per_second: 10, burst: 3 })
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn so_many_at_once_and_then_so_many_a_second() {
        let limit = limit();
        let mut admitted = |millis| limit.admit(address("192.0.2.1"), at(millis));
        assert_eq!([0, 0, 0].map(&mut admitted), [Ok(()), Ok(()), Ok(())]);
        let retry_after = Duration::from_millis(100);
        assert_eq!(admitted(0), Err(AuthenticateError::AddressLimit { retry_after }));
        assert_eq!([100, 100].map(&mut admitted).map(|done| done.is_ok()), [true, false]);
        assert_eq!([10_000; 4].map(&mut admitted).map(|done| done.is_ok()), [true, true, true, false]);
    }

    #[test]
    fn one_limit_for_an_ipv6_network_and_for_an_ipv4_address_in_either_form() {
        let limit = limit();
        let place = |text| limit.place_of(address(text));
        assert_eq!(place("2001:db8::1"), place("2001:db8::ffff:1"));
        assert_eq!(place("192.0.2.1"), place("::ffff:192.0.2.1"));
    }

    #[test]
    fn t_29_a_million_addresses_take_no_memory_and_no_more_checks_than_there_are_places() {
        let limit = limit();
        let admitted = (0..1_000_000_u32).filter(|bits| limit.admit(Some(IpAddr::V4((*bits).into())), at(0)).is_ok());
        assert!(admitted.count() <= 3 * PLACES);
        assert_eq!(limit.places.len(), PLACES);
    }

    #[test]
    fn a_clock_that_is_set_back_shuts_nobody_out() {
        let limit = limit();
        for _ in 0..3 {
            limit.admit(None, at(3_600_000)).unwrap();
        }
        assert_eq!([0; 4].map(|millis| limit.admit(None, at(millis)).is_ok()), [true, true, true, false]);
    }
}
