//! Where a CA is reached: `HOST:PORT` as in an invitation and after `--advertise`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Host and port of a CA: a DNS name, an IPv4 address or an IPv6 address in brackets, at most 255 bytes in all, and a port
/// that is not 0. Never the unspecified address (`0.0.0.0`, `[::]`): one listens there, nobody is reached there.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CaAddress {
    host: String,
    port: u16,
}

impl CaAddress {
    /// Reads `HOST:PORT` or `[IPV6]:PORT`.
    ///
    /// # Errors
    /// [`CaAddressError`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, CaAddressError> {
        if text.len() > MAX_LENGTH {
            return Err(CaAddressError::TooLong { length: text.len(), limit: MAX_LENGTH });
        }
        let no_port = || CaAddressError::NoPort { address: text.escape_debug().to_string() };
        let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or_else(no_port)?;
                let address: Ipv6Addr = inner.parse().map_err(|_| host_error(host))?;
                if address.is_unspecified() {
                    return Err(CaAddressError::Unspecified { host: host.to_owned() });
                }
                address.to_string()
            }
            None if host.contains(':') => {
                return Err(CaAddressError::Brackets { host: host.escape_debug().to_string() });
            }
            None => checked_name(host)?,
        };
        // `u16::from_str` takes `+443`; a port is digits.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port.parse::<u16>() {
            Ok(0) => return Err(CaAddressError::PortZero),
            Ok(number) if digits => number,
            _ => return Err(CaAddressError::Port { port: port.escape_debug().to_string() }),
        };
        Ok(Self { host, port })
    }

    /// The host: a DNS name or an IP address, the latter without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl TryFrom<SocketAddr> for CaAddress {
    type Error = CaAddressError;
    fn try_from(address: SocketAddr) -> Result<Self, Self::Error> {
        if address.ip().is_unspecified() {
            return Err(CaAddressError::Unspecified { host: address.ip().to_string() });
        }
        if address.port() == 0 {
            return Err(CaAddressError::PortZero);
        }
        Ok(Self { host: address.ip().to_string(), port: address.port() })
    }
}

impl fmt::Display for CaAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for CaAddress {
    type Err = CaAddressError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Why a text is not the address of a CA.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CaAddressError {
    /// Longer than any host name with a port.
    #[error("an address is {length} bytes long, at most {limit} are allowed")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// No port.
    #[error("`{address}` has no port; write HOST:PORT, for example `ca.example.org:8443` or `[2001:db8::1]:8443`")]
    NoPort {
        /// What was given.
        address: String,
    },
    /// Port 0.
    #[error("port 0 cannot be reached; give the port on which the CA listens")]
    PortZero,
    /// Not a port.
    #[error("`{port}` is not a port; give a number from 1 to 65535")]
    Port {
        /// What was given.
        port: String,
    },
    /// An IPv6 address without brackets.
    #[error("`{host}` looks like an IPv6 address; write it in brackets, `[2001:db8::1]:8443`")]
    Brackets {
        /// What was given.
        host: String,
    },
    /// The address one listens on, not one that is reached.
    #[error(
        "`{host}` means every address of this machine and cannot be reached from another one; give a name or address"
    )]
    Unspecified {
        /// What was given.
        host: String,
    },
    /// Not a host name or an address.
    #[error("`{host}` is not a host name or IP address; write international names in their ASCII form (`xn--...`)")]
    Host {
        /// What was given.
        host: String,
    },
}

fn checked_name(host: &str) -> Result<String, CaAddressError> {
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        if address.is_unspecified() {
            return Err(CaAddressError::Unspecified { host: host.to_owned() });
        }
        return Ok(address.to_string());
    }
    let name = host.to_ascii_lowercase();
    let label_is_valid = |label: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        label.len() <= 63
            && edge(label.as_bytes().first())
            && edge(label.as_bytes().last())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let labels = name.strip_suffix('.').unwrap_or(&name);
    // A name whose last label is a number is an IPv4 address in disguise (`127.1`, `0.0.0.0.`): resolvers disagree on it.
    let numeric = labels.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() <= MAX_HOST_LENGTH && !numeric && labels.split('.').all(label_is_valid) {
        Ok(name)
    } else {
        Err(host_error(host))
    }
}

fn host_error(host: &str) -> CaAddressError {
    CaAddressError::Host { host: host.escape_debug().to_string() }
}

const MAX_HOST_LENGTH: usize = 253;
/// An invitation has one byte for the length.
const MAX_LENGTH: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_by_rule() {
        let host = |host: &str| Err(CaAddressError::Host { host: host.into() });
        let label = "a".repeat(63);
        let long = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        let cases: &[(&str, &str, Result<&str, CaAddressError>)] = &[
            ("name", "ca.example.org:8443", Ok("ca.example.org:8443")),
            ("case of a name", "CA.example.org:1", Ok("ca.example.org:1")),
            ("one label", "localhost:65535", Ok("localhost:65535")),
            ("IPv4", "192.0.2.1:8443", Ok("192.0.2.1:8443")),
            ("IPv6", "[2001:db8::1]:8443", Ok("[2001:db8::1]:8443")),
            ("IPv6 in its one form", "[2001:DB8:0::1]:8443", Ok("[2001:db8::1]:8443")),
            ("T-08 host at the limit", &format!("{long}:1"), Ok(&format!("{long}:1"))),
            ("T-08 limit + 1", &format!("{long}a:1"), Err(CaAddressError::TooLong { length: 256, limit: 255 })),
            ("no port", "ca.example.org", Err(CaAddressError::NoPort { address: "ca.example.org".into() })),
            ("port 0", "ca:0", Err(CaAddressError::PortZero)),
            ("port too high", "ca:65536", Err(CaAddressError::Port { port: "65536".into() })),
            ("port with sign", "ca:+1", Err(CaAddressError::Port { port: "+1".into() })),
            ("no port digits", "ca:", Err(CaAddressError::Port { port: String::new() })),
            ("unspecified", "0.0.0.0:1", Err(CaAddressError::Unspecified { host: "0.0.0.0".into() })),
            ("unspecified", "[::]:1", Err(CaAddressError::Unspecified { host: "[::]".into() })),
            ("IPv6 without brackets", "2001:db8::1:1", Err(CaAddressError::Brackets { host: "2001:db8::1".into() })),
            ("short IPv4", "127.1:1", host("127.1")),
            ("IDN", "bücher.example:1", host("bücher.example")),
            ("scheme", "https://ca:1", Err(CaAddressError::Brackets { host: "https://ca".into() })),
            ("user", "a@b:1", host("a@b")),
            ("path", "a/b:1", host("a/b")),
            ("blank", " ca:1", host(" ca")),
            ("T-31 escape", "\x1b[2J:1", host("\\u{1b}[2J")),
            ("empty host", ":1", host("")),
            ("empty label", "a..b:1", host("a..b")),
        ];
        for (rule, input, expected) in cases {
            let printed = CaAddress::parse(input).map(|address| address.to_string());
            assert_eq!(printed, expected.clone().map(str::to_owned), "{rule}: {input:?}");
        }
    }
}
