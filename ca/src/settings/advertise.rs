//! The addresses that an invitation names when the operator gave none.

use std::net::{IpAddr, SocketAddr};

use bonafide_ca_api::{CaAddress, Invitation};

/// Where a CA that listens on `bound` can be reached: that address, if it is one; else every address of this machine that
/// is neither loopback nor link-local, and its host name. A machine with neither is reached on loopback.
///
/// A name with a dot comes first, since it outlives an address; one without comes last, since other machines may not
/// resolve it.
pub(crate) fn default_addresses(bound: SocketAddr, host_name: Option<&str>, interfaces: &[IpAddr]) -> Vec<CaAddress> {
    if !bound.ip().is_unspecified() {
        return CaAddress::try_from(bound).into_iter().collect();
    }
    let reachable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => bound.is_ipv6() && !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    };
    let mut addresses: Vec<CaAddress> = interfaces
        .iter()
        .filter(|address| reachable(address))
        .filter_map(|address| CaAddress::try_from(SocketAddr::new(*address, bound.port())).ok())
        .collect();
    let name = host_name
        .filter(|name| !name.starts_with("localhost"))
        .and_then(|name| CaAddress::parse(&format!("{name}:{}", bound.port())).ok());
    if addresses.is_empty() {
        let loopback = IpAddr::from(std::net::Ipv4Addr::LOCALHOST);
        addresses.extend(CaAddress::try_from(SocketAddr::new(loopback, bound.port())));
    }
    addresses.dedup();
    addresses.truncate(Invitation::MAX_ADDRESSES - 1);
    match name {
        Some(name) if name.host().contains('.') => addresses.insert(0, name),
        Some(name) => addresses.push(name),
        None => {}
    }
    addresses
}

/// This machine's host name and the addresses of its interfaces that are up.
pub(crate) fn this_machine() -> (Option<String>, Vec<IpAddr>) {
    use nix::net::if_::InterfaceFlags;
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let mut addresses = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address.filter(|_| interface.flags.contains(InterfaceFlags::IFF_UP)) else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            addresses.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push(IpAddr::V6(v6.ip()));
        }
    }
    (name, addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_addresses_by_case() {
        type Case<'a> = (&'a str, &'a str, Option<&'a str>, &'a [&'a str], &'a [&'a str]);
        let cases: &[Case<'_>] = &[
            (
                "a given address is the one",
                "192.0.2.1:8443",
                Some("ca.example.org"),
                &["192.0.2.7"],
                &["192.0.2.1:8443"],
            ),
            ("loopback as well", "127.0.0.1:4000", Some("ca"), &["192.0.2.7"], &["127.0.0.1:4000"]),
            (
                "full name first",
                "[::]:8443",
                Some("ca.example.org"),
                &["127.0.0.1", "192.0.2.7", "::1", "fe80::1", "2001:db8::7", "169.254.1.1"],
                &["ca.example.org:8443", "192.0.2.7:8443", "[2001:db8::7]:8443"],
            ),
            ("short name last", "[::]:8443", Some("ca"), &["192.0.2.7"], &["192.0.2.7:8443", "ca:8443"]),
            ("IPv4 only", "0.0.0.0:8443", None, &["192.0.2.7", "2001:db8::7"], &["192.0.2.7:8443"]),
            ("no network", "[::]:8443", Some("localhost"), &["127.0.0.1", "::1"], &["127.0.0.1:8443"]),
            ("odd host name", "[::]:8443", Some("a b"), &[], &["127.0.0.1:8443"]),
        ];
        for (case, bound, name, interfaces, expected) in cases {
            let interfaces: Vec<IpAddr> = interfaces.iter().map(|address| address.parse().unwrap()).collect();
            let addresses = default_addresses(bound.parse().unwrap(), *name, &interfaces);
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            assert_eq!(addresses, *expected, "{case}");
        }
        let many: Vec<IpAddr> = (1..50).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        assert_eq!(default_addresses("[::]:1".parse().unwrap(), Some("ca"), &many).len(), Invitation::MAX_ADDRESSES);
    }
}
