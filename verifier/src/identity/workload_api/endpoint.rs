//! Where a Workload API is (WEP-08..11).

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The address of a Workload API: a Unix socket, or TCP by IP address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// `unix:///absolute/path`.
    Unix(PathBuf),
    /// `tcp://IP:PORT`.
    Tcp(SocketAddr),
}

/// Why a text is no address of a Workload API.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The environment does not say.
    #[error(
        "{} is not set; set it to the agent's socket, such as `unix:///run/bonafide/agent.sock`",
        Endpoint::VARIABLE
    )]
    NotSet,
    /// Neither `unix:` nor `tcp:`.
    #[error("`{text}`: must begin with `unix:` or `tcp:`")]
    Scheme {
        /// The text.
        text: String,
    },
    /// A Unix address that is more or less than an absolute path.
    #[error("`{text}`: {why}; write `unix:///absolute/path`")]
    Unix {
        /// The text.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A TCP address that is more or less than an IP address and a port.
    #[error("`{text}`: {why}; write `tcp://127.0.0.1:8000`")]
    Tcp {
        /// The text.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl Endpoint {
    /// The variable that names the endpoint.
    pub const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
    /// The longest path that a Unix socket's address can hold.
    pub const MAX_PATH: usize = 107;

    /// What `SPIFFE_ENDPOINT_SOCKET` says.
    ///
    /// # Errors
    /// When it is not set, or not what [`parse`](Self::parse) takes.
    pub fn from_env() -> Result<Self, EndpointError> {
        match std::env::var_os(Self::VARIABLE) {
            None => Err(EndpointError::NotSet),
            Some(value) => Self::parse(&value.to_string_lossy()),
        }
    }

    /// Reads `unix:///path`, `unix:/path` or `tcp://IP:PORT`, and nothing else.
    ///
    /// # Errors
    /// At anything else: another scheme, a relative path, a host name, a query, a fragment, credentials.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let shown = || text.chars().take(200).flat_map(char::escape_default).collect::<String>();
        if let Some(rest) = text.strip_prefix("unix:") {
            return parse_unix(rest).map(Self::Unix).map_err(|why| EndpointError::Unix { text: shown(), why });
        }
        if let Some(rest) = text.strip_prefix("tcp:") {
            return parse_tcp(rest).map(Self::Tcp).map_err(|why| EndpointError::Tcp { text: shown(), why });
        }
        Err(EndpointError::Scheme { text: shown() })
    }

    /// The socket's path, when it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) => None,
        }
    }
}

fn parse_unix(rest: &str) -> Result<PathBuf, &'static str> {
    let path = match rest.strip_prefix("//") {
        Some(after) if !after.starts_with('/') => return Err("a Unix socket has no host"),
        Some(after) => after,
        None if !rest.starts_with('/') => return Err("the path must be absolute"),
        None => rest,
    };
    if path.contains(['?', '#']) {
        return Err("a Unix socket has a path and nothing else");
    }
    let path = percent_decoded(path)?;
    if path.len() > Endpoint::MAX_PATH {
        return Err("the path is longer than the 107 bytes that a socket's address holds");
    }
    if path.bytes().any(|byte| byte == 0) {
        return Err("the path holds a NUL byte");
    }
    if path.bytes().all(|byte| byte == b'/') || path.ends_with('/') {
        return Err("the path names a directory");
    }
    Ok(PathBuf::from(path))
}

/// RFC 3986 §2.1. What is encoded must be UTF-8, as the rest is.
fn percent_decoded(path: &str) -> Result<String, &'static str> {
    const BROKEN: &str = "`%` is not followed by two hexadecimal digits, or they are not UTF-8";
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(BROKEN);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).map_err(|_| BROKEN)?);
    }
    String::from_utf8(bytes).map_err(|_| BROKEN)
}

fn parse_tcp(rest: &str) -> Result<SocketAddr, &'static str> {
    let authority = rest.strip_prefix("//").ok_or("`//` is missing")?;
    if authority.contains(['/', '?', '#', '@']) {
        return Err("there may be an IP address and a port and nothing else");
    }
    let (host, port) = authority.rsplit_once(':').ok_or("the port is missing")?;
    // No sign, no blank, as u16's own parser would take a `+`.
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the port must be a number");
    }
    let port = port.parse().ok().filter(|port| *port != 0).ok_or("the port must be between 1 and 65535")?;
    let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    };
    Ok(SocketAddr::new(address.ok_or("the host must be an IP address, IPv6 in brackets")?, port))
}

/// As [`Endpoint::parse`] reads it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => {
                f.write_str("unix://")?;
                for byte in path.to_string_lossy().bytes() {
                    match byte {
                        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                            write!(f, "{}", char::from(byte))?;
                        }
                        other => write!(f, "%{other:02X}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_by_requirement() {
        let unix = |path: &str| Some(Endpoint::Unix(path.into()));
        let tcp = |address: &str| Some(Endpoint::Tcp(address.parse().unwrap()));
        let long = format!("unix:///{}", "a".repeat(106));
        let too_long = format!("unix:///{}", "a".repeat(107));
        let cases: &[(&str, &str, Option<Endpoint>)] = &[
            ("WEP-10 path", "unix:///run/agent.sock", unix("/run/agent.sock")),
            ("WEP-10, A-26 one slash", "unix:/run/agent.sock", unix("/run/agent.sock")),
            ("WEP-10 encoded", "unix:///run/my%20agent", unix("/run/my agent")),
            ("WEP-10 relative", "unix:run/agent.sock", None),
            ("WEP-10 authority", "unix://host/run/agent.sock", None),
            ("WEP-10 query", "unix:///run/agent.sock?a", None),
            ("WEP-10 fragment", "unix:///run/agent.sock#a", None),
            ("WEP-10 nothing", "unix:", None),
            ("WEP-10 no path", "unix://", None),
            ("WEP-10 root", "unix:///", None),
            ("WEP-10 directory", "unix:///run/", None),
            ("WEP-10 NUL", "unix:///run/a%00b", None),
            ("WEP-10 half an escape", "unix:///run/a%2", None),
            ("WEP-10 no escape", "unix:///run/a%zz", None),
            ("WEP-10 as long as it can be", &long, unix(&long["unix://".len()..])),
            ("WEP-10 too long", &too_long, None),
            ("WEP-11 IPv4", "tcp://127.0.0.1:8000", tcp("127.0.0.1:8000")),
            ("WEP-11 IPv6", "tcp://[::1]:8000", tcp("[::1]:8000")),
            ("WEP-11 path", "tcp://127.0.0.1:8000/foo", None),
            ("WEP-11 trailing slash", "tcp://127.0.0.1:8000/", None),
            ("WEP-11, A-26 no slashes", "tcp:127.0.0.1:8000", None),
            ("WEP-11 host name", "tcp://localhost:8000", None),
            ("WEP-11 no port", "tcp://127.0.0.1", None),
            ("WEP-11 port 0", "tcp://127.0.0.1:0", None),
            ("WEP-11 port too large", "tcp://127.0.0.1:65536", None),
            ("WEP-11 port with a sign", "tcp://127.0.0.1:+80", None),
            ("WEP-11 user", "tcp://me@127.0.0.1:8000", None),
            ("WEP-11 query", "tcp://127.0.0.1:8000?a", None),
            ("WEP-11 bare IPv6", "tcp://::1:8000", None),
            ("WEP-11 IPv4 in brackets", "tcp://[127.0.0.1]:8000", None),
            ("WEP-09 other scheme", "http://127.0.0.1:8000", None),
            ("WEP-09 upper case", "UNIX:///run/agent.sock", None),
            ("WEP-09 no scheme", "/run/agent.sock", None),
            ("WEP-09 empty", "", None),
            ("WEP-09 blank before", " unix:///run/agent.sock", None),
        ];
        for (requirement, text, expected) in cases {
            let parsed = Endpoint::parse(text);
            assert_eq!(parsed.as_ref().ok(), expected.as_ref(), "{requirement}: {parsed:?}");
            if let Ok(endpoint) = parsed {
                assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint), "{requirement}: prints as it parses");
            }
        }
    }

    #[test]
    fn the_error_says_what_to_write() {
        let error = Endpoint::parse("tcp://localhost:80").unwrap_err().to_string();
        assert_eq!(
            error,
            "`tcp://localhost:80`: the host must be an IP address, IPv6 in brackets; write `tcp://127.0.0.1:8000`"
        );
        assert!(EndpointError::NotSet.to_string().contains("SPIFFE_ENDPOINT_SOCKET"));
        assert!(!Endpoint::parse("\u{1b}[2J").unwrap_err().to_string().contains('\u{1b}'));
    }

    proptest! {
        #[test]
        fn endpoints_of_any_text(text in "(unix|tcp|UNIX):?/{0,3}[a-z0-9%\\[\\].:/?#@-]{0,24}") {
            crate::fuzzing::endpoint(text.as_bytes());
        }
    }
}
