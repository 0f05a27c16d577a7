//! The token endpoint: off, unless it is given where to listen, by what policy, and under which names.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use super::{Layers, SettingsError, parse_listen, read, read_number};
use crate::registry::dns_problem;

/// Settings of the token endpoint. [`TokenEndpoint::new`] has the defaults.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct TokenEndpoint {
    /// Where clients reach it.
    pub listen: SocketAddr,
    /// The token policy: who may have which scope from which kind of subject token. Read again when it changes; without one that can be
    /// read, every request is refused.
    pub policy: PathBuf,
    /// The DNS names of its certificate, which is the CA's SVID; the first, with the port, is the issuer of its tokens, unless `url` says another. At least one,
    /// at most 8.
    pub dns_names: Vec<String>,
    /// `iss` of its access tokens, and the beginning of the addresses in its metadata: `https://NAME[:PORT]` with one of `dns_names`. For an endpoint that clients
    /// reach on another port than it listens on, and for several CA processes with one name.
    pub url: Option<String>,
    /// So many requests of one client are decided in a second, twice as many at once (1,000).
    pub requests_per_second: NonZeroU32,
}

impl TokenEndpoint {
    /// There, by this policy, under this name; the rest is the default.
    #[must_use]
    pub fn new(listen: SocketAddr, policy: impl Into<PathBuf>, dns_name: impl Into<String>) -> Self {
        let requests_per_second = NonZeroU32::MIN.saturating_add(DEFAULT_REQUESTS - 1);
        Self { listen, policy: policy.into(), dns_names: vec![dns_name.into()], url: None, requests_per_second }
    }

    /// Its URL, the issuer of its access tokens, when it listens on this port.
    #[must_use]
    pub fn url(&self, port: u16) -> String {
        if let Some(url) = &self.url {
            return url.clone();
        }
        let name = self.dns_names.first().map(String::as_str).unwrap_or_default();
        if port == 443 { format!("https://{name}") } else { format!("https://{name}:{port}") }
    }

    pub(super) fn from_layers(layers: &Layers) -> Result<Option<Self>, SettingsError> {
        let listen = read(layers, "token-listen", parse_listen)?;
        let policy = read(layers, "token-policy", |text| Ok(PathBuf::from(text)))?;
        let mut dns_names = Vec::new();
        for given in layers.many("token-dns")? {
            if let Some(problem) = dns_problem(&given.value) {
                return Err(given.refuse(format!("is no DNS name: {problem}")));
            }
            if dns_names.contains(&given.value) {
                return Err(given.refuse("is given twice"));
            }
            if dns_names.len() == MOST_NAMES {
                return Err(given.refuse(format!("at most {MOST_NAMES} names are possible")));
            }
            dns_names.push(given.value);
        }
        let url = layers.one("token-url")?;
        if let Some(given) = url.as_ref().filter(|given| !is_url_of(&given.value, &dns_names)) {
            return Err(given.refuse("is not `https://NAME` or `https://NAME:PORT` with a NAME of `--token-dns`"));
        }
        let url = url.map(|given| given.value);
        let most = read_number(layers, "max-tokens-per-second", 10_000_000, DEFAULT_REQUESTS)?;
        let incomplete = |missing| SettingsError::TokenEndpoint { missing };
        match (listen, policy, dns_names.is_empty()) {
            (None, None, true) => Ok(None),
            (None, _, _) => Err(incomplete("token-listen")),
            (Some(_), None, _) => Err(incomplete("token-policy")),
            (Some(_), Some(_), true) => Err(incomplete("token-dns")),
            (Some(listen), Some(policy), false) => {
                let requests_per_second = NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN);
                Ok(Some(Self { listen, policy, dns_names, url, requests_per_second }))
            }
        }
    }
}

/// Compared byte for byte by whoever takes the tokens, so there is one way to write it.
fn is_url_of(url: &str, dns_names: &[String]) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let (name, port) = rest.split_once(':').map_or((rest, None), |(name, port)| (name, Some(port)));
    let is_port = |port: &str| {
        let number = port.parse::<u16>().ok();
        number.is_some_and(|number| number != 0 && number != 443 && number.to_string() == port)
    };
    dns_names.iter().any(|known| known == name) && port.is_none_or(is_port)
}

const DEFAULT_REQUESTS: u32 = 1000;
const MOST_NAMES: usize = 8;
