//! The settings of a CA: flag, then environment, then file, then default, checked into typed values before a port is
//! bound or a file written.

mod advertise;
pub(crate) mod duration;
pub(crate) mod file;
pub(crate) mod layers;
mod token;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bonafide_ca_api::{CaAddress, Invitation};
use bonafide_verifier::spiffe::TrustDomain;
use data_encoding::HEXLOWER_PERMISSIVE;

pub(crate) use self::advertise::{default_addresses, this_machine};
use self::layers::{Given, Layers, Literal};
pub use self::token::TokenEndpoint;
use crate::node_api;

/// Everything that can be set about a CA. [`Settings::new`] has the defaults; each field's documentation is its help text.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The directory that holds database, keys and sockets; created with mode 0700 at the first start.
    pub data: PathBuf,
    /// The trust domain, `example.org`. The first start needs it; a later one refuses another name than the directory's.
    pub trust_domain: Option<TrustDomain>,
    /// Where nodes reach the CA. The default falls back to IPv4 where there is no IPv6.
    pub listen: SocketAddr,
    /// The addresses that invitations name, at most 8. Empty: found out, see [`Settings::listen`].
    pub advertise: Vec<CaAddress>,
    /// SHA-256 of the root's certificate: any other root is refused.
    pub expect_root: Option<[u8; 32]>,
    /// How long everything lives that this CA signs.
    pub lifetimes: Lifetimes,
    /// How much this CA takes on.
    pub limits: Limits,
    /// Bounds of the node API. Of these, flags set the number of connections and the rate of joins.
    pub node_api: node_api::Limits,
    /// Serve health and metrics on this TCP address besides the Unix socket in the data directory. They are not
    /// authenticated.
    pub health_listen: Option<SocketAddr>,
    /// The token endpoint of this CA. Off unless it is set.
    pub token: Option<TokenEndpoint>,
    /// Take the system's clock as it is, though it lies behind the last time this CA acted or far ahead of it. Recorded.
    pub accept_clock: bool,
    /// What the program logs.
    pub log: Log,
}

/// How long what is signed lives. Nothing outlives the authority that signed it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Lifetimes {
    /// X.509-SVIDs of services without a TTL of their own (1 h; at least 10 s, at most a third of the issuing authority's life).
    pub x509_svid: Duration,
    /// JWT-SVIDs of services without a TTL of their own (5 min; at least 10 s, at most a third of the JWT authority's life).
    pub jwt_svid: Duration,
    /// Nodes' own SVIDs (24 h; at least 10 s, at most a third of the issuing authority's life).
    pub node_svid: Duration,
    /// Issuing authorities (7 d; 2 min to 1 year). The next one is active after three sevenths of it.
    pub issuing_authority: Duration,
    /// JWT and token authorities (7 d; 2 min to 1 year).
    pub jwt_authority: Duration,
    /// The root, which is made at the first start (10 years; 1 h to 30 years, at least twice an issuing authority's life).
    pub root: Duration,
    /// Invitations that name no time (10 min; 10 s to 7 d).
    pub invitation: Duration,
    /// How long after it was last seen a node may come back by its key alone (30 d; 1 min to 1 year).
    pub recovery: Duration,
}

/// How much the CA takes on; what is more is refused with a reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Live nodes (100,000).
    pub nodes: u32,
    /// Registered services (50,000).
    pub services: u32,
}

/// What the program logs, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Log {
    /// One line of text, or of JSON, for each event.
    pub format: LogFormat,
    /// The least level that is logged, or directives such as `info,bonafide_ca=debug`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Settings {
    /// The directory of a CA that was not given another.
    pub const DEFAULT_DATA: &'static str = "/var/lib/bonafide/ca";

    /// The defaults, in `data`, for `trust_domain`.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>, trust_domain: Option<TrustDomain>) -> Self {
        Self {
            data: data.into(),
            trust_domain,
            listen: DEFAULT_LISTEN,
            advertise: Vec::new(),
            expect_root: None,
            lifetimes: Lifetimes::default(),
            limits: Limits::default(),
            node_api: node_api::Limits::default(),
            health_listen: None,
            token: None,
            accept_clock: false,
            log: Log { format: LogFormat::Text, filter: "info".to_owned() },
        }
    }

    /// The socket for an operator's commands.
    #[must_use]
    pub fn admin_socket(data: &Path) -> PathBuf {
        data.join("admin.sock")
    }

    /// The socket for health and metrics.
    #[must_use]
    pub fn health_socket(data: &Path) -> PathBuf {
        data.join("health.sock")
    }

    /// Checks what was given into typed values.
    pub(crate) fn from_layers(layers: &Layers) -> Result<Self, SettingsError> {
        let data = layers.one("data")?.map(|given| given.of(Literal::Text)).transpose()?;
        if let Some(given) = data.as_ref().filter(|given| given.value.is_empty() || given.value.starts_with('~')) {
            return Err(given.refuse("must be a path; `~` is the shell's to replace"));
        }
        let mut settings = Self::new(data.as_ref().map_or(Self::DEFAULT_DATA, |given| given.value.as_str()), None);
        check_socket_path(&Self::health_socket(&settings.data), data.as_ref())?;
        settings.trust_domain =
            read(layers, "trust-domain", |text| TrustDomain::parse(text).map_err(|e| e.to_string()))?;
        if let Some(listen) = read(layers, "listen", parse_listen)? {
            settings.listen = listen;
        }
        settings.health_listen = read(layers, "health-listen", parse_listen)?;
        for given in layers.many("advertise")? {
            let given = given.of(Literal::Text)?;
            let address = CaAddress::parse(&given.value).map_err(|error| given.refuse(error.to_string()))?;
            if settings.advertise.contains(&address) {
                return Err(given.refuse("is given twice"));
            }
            if settings.advertise.len() == Invitation::MAX_ADDRESSES {
                return Err(
                    given.refuse(format!("at most {} addresses fit in an invitation", Invitation::MAX_ADDRESSES))
                );
            }
            settings.advertise.push(address);
        }
        settings.expect_root = read(layers, "expect-root", parse_hash)?;
        settings.lifetimes = Lifetimes::from_layers(layers)?;
        settings.limits = Limits::from_layers(layers)?;
        // A service in a hello: an id of 36 bytes, a version, and what frames them.
        let all_held = usize::try_from(settings.limits.services).unwrap_or(usize::MAX).saturating_mul(64);
        settings.node_api.hello_bytes = settings.node_api.hello_bytes.max(all_held);
        settings.node_api.connections =
            usize::try_from(read_number(layers, "max-connections", 1_000_000, DEFAULT_CONNECTIONS)?)
                .unwrap_or(usize::MAX);
        let joins = read_number(layers, "max-joins-per-minute", 100_000, DEFAULT_JOINS_PER_MINUTE)?;
        settings.node_api.quota.joins_per_second = f64::from(joins) / 60.0;
        // Whoever names a number means it, also for the first minute.
        if layers.one("max-joins-per-minute")?.is_some() {
            settings.node_api.quota.join_burst = joins;
        }
        settings.token = TokenEndpoint::from_layers(layers)?;
        settings.accept_clock = read_as(layers, "accept-clock", Literal::Truth, parse_truth)?.unwrap_or(false);
        if let Some(format) = read(layers, "log-format", parse_log_format)? {
            settings.log.format = format;
        }
        if let Some(filter) = read(layers, "log-level", parse_filter)? {
            settings.log.filter = filter;
        }
        let listen = [("--listen", Some(settings.listen)), ("--health-listen", settings.health_listen)];
        let listen = listen.into_iter().chain([("--token-listen", settings.token.as_ref().map(|token| token.listen))]);
        let mut taken: Vec<(&'static str, SocketAddr)> = Vec::new();
        for (flag, address) in listen.filter_map(|(flag, address)| Some((flag, address?))) {
            let same = |(_, other): &&(&str, SocketAddr)| *other == address && address.port() != 0;
            if let Some((other, _)) = taken.iter().find(same) {
                return Err(SettingsError::SameAddress { one: other, other: flag, address });
            }
            taken.push((flag, address));
        }
        Ok(settings)
    }
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            x509_svid: HOUR,
            jwt_svid: 5 * MINUTE,
            node_svid: DAY,
            issuing_authority: 7 * DAY,
            jwt_authority: 7 * DAY,
            root: 3650 * DAY,
            invitation: 10 * MINUTE,
            recovery: 30 * DAY,
        }
    }
}

impl Lifetimes {
    /// The shortest lifetime of anything that is not an authority.
    pub const SHORTEST_LEAF: Duration = Duration::from_secs(10);

    /// The longest X.509-SVID that an issuing authority of this life signs.
    #[must_use]
    pub fn longest_x509_svid(&self) -> Duration {
        self.issuing_authority / 3
    }

    /// The longest JWT-SVID that a JWT authority of this life signs.
    #[must_use]
    pub fn longest_jwt_svid(&self) -> Duration {
        self.jwt_authority / 3
    }

    fn from_layers(layers: &Layers) -> Result<Self, SettingsError> {
        let mut lifetimes = Self::default();
        let authority = (2 * MINUTE, 365 * DAY);
        if let Some(life) = read_duration(layers, "issuing-authority-ttl", authority, lifetimes.issuing_authority)? {
            lifetimes.issuing_authority = life;
        }
        if let Some(life) = read_duration(layers, "jwt-authority-ttl", authority, lifetimes.jwt_authority)? {
            lifetimes.jwt_authority = life;
        }
        let root = (HOUR.max(2 * lifetimes.issuing_authority), 30 * 365 * DAY);
        if let Some(life) = read_duration(layers, "root-ttl", root, lifetimes.root)? {
            lifetimes.root = life;
        }
        // Of what is not given, the default; shorter where a short authority asks for it, so that a rotation can be
        // watched by setting one value.
        let leaf = (Self::SHORTEST_LEAF, lifetimes.longest_x509_svid());
        let token = (Self::SHORTEST_LEAF, lifetimes.longest_jwt_svid());
        let default = Self::default();
        lifetimes.x509_svid =
            read_duration(layers, "x509-ttl", leaf, default.x509_svid)?.unwrap_or(default.x509_svid.min(leaf.1));
        lifetimes.node_svid =
            read_duration(layers, "node-ttl", leaf, default.node_svid)?.unwrap_or(default.node_svid.min(leaf.1));
        lifetimes.jwt_svid =
            read_duration(layers, "jwt-ttl", token, default.jwt_svid)?.unwrap_or(default.jwt_svid.min(token.1));
        if let Some(life) = read_duration(layers, "invitation-ttl", (Self::SHORTEST_LEAF, 7 * DAY), default.invitation)?
        {
            lifetimes.invitation = life;
        }
        if let Some(life) = read_duration(layers, "recovery", (MINUTE, 365 * DAY), default.recovery)? {
            lifetimes.recovery = life;
        }
        Ok(lifetimes)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { nodes: 100_000, services: 50_000 }
    }
}

impl Limits {
    fn from_layers(layers: &Layers) -> Result<Self, SettingsError> {
        let default = Self::default();
        Ok(Self {
            nodes: read_number(layers, "max-nodes", 10_000_000, default.nodes)?,
            services: read_number(layers, "max-services", 10_000_000, default.services)?,
        })
    }
}

/// Why the settings cannot be used. Each tells where the value stands.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A value that is not valid.
    #[error("{origin}=`{value}`: {bound}")]
    Value {
        /// `--x509-ttl`, `BONAFIDE_X509_TTL` or `ca.toml:3:1: x509-ttl`.
        origin: String,
        /// What was given.
        value: String,
        /// What it must be.
        bound: String,
    },
    /// The settings file, or a place in it.
    #[error("{at}: {problem}")]
    File {
        /// The file, with line and column where there is one.
        at: String,
        /// What is wrong there.
        problem: String,
    },
    /// A token endpoint of which a part is not said.
    #[error("the token endpoint needs `--token-listen`, `--token-policy` and `--token-dns`; `--{missing}` is missing")]
    TokenEndpoint {
        /// What is missing.
        missing: &'static str,
    },
    /// Two listeners on one address.
    #[error("`{one}` and `{other}` are both {address}; give them different ports")]
    SameAddress {
        /// The one's flag.
        one: &'static str,
        /// The other's.
        other: &'static str,
        /// The address.
        address: SocketAddr,
    },
}

/// The name of every setting: flag, key in the file, and (upper case, `BONAFIDE_` before it) variable.
pub(crate) const NAMES: &[&str] = &[
    "data",
    "trust-domain",
    "listen",
    "advertise",
    "expect-root",
    "x509-ttl",
    "jwt-ttl",
    "node-ttl",
    "issuing-authority-ttl",
    "jwt-authority-ttl",
    "root-ttl",
    "invitation-ttl",
    "recovery",
    "max-nodes",
    "max-services",
    "max-connections",
    "max-joins-per-minute",
    "health-listen",
    "token-listen",
    "token-policy",
    "token-dns",
    "token-url",
    "max-tokens-per-second",
    "accept-clock",
    "log-format",
    "log-level",
];

/// Variables that start with `BONAFIDE_` and name nothing that either program reads: probably a slip of the pen.
pub(crate) fn unknown_variables(variables: impl Iterator<Item = String>) -> BTreeSet<String> {
    let known: BTreeSet<String> = NAMES.iter().map(|name| layers::variable_name(name)).collect();
    variables
        .filter(|name| name.starts_with("BONAFIDE_") && !known.contains(name))
        .filter(|name| !OTHER_VARIABLES.contains(&name.as_str()))
        .collect()
}

fn read<T>(
    layers: &Layers,
    name: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, SettingsError> {
    read_as(layers, name, Literal::Text, parse)
}

fn read_as<T>(
    layers: &Layers,
    name: &'static str,
    literal: Literal,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, SettingsError> {
    let Some(given) = layers.one(name)? else { return Ok(None) };
    let given = given.of(literal)?;
    parse(&given.value).map(Some).map_err(|bound| given.refuse(bound))
}

fn read_duration(
    layers: &Layers,
    name: &'static str,
    (least, most): (Duration, Duration),
    default: Duration,
) -> Result<Option<Duration>, SettingsError> {
    read(layers, name, |text| {
        let value = duration::parse(text)?;
        if value < least || value > most {
            let [least, most, default] = [least, most, default].map(duration::print);
            return Err(format!("must lie between {least} and {most} (default {default})"));
        }
        Ok(value)
    })
}

fn read_number(layers: &Layers, name: &'static str, most: u32, default: u32) -> Result<u32, SettingsError> {
    let value = read_as(layers, name, Literal::Number, |text| match text.parse::<u32>() {
        Ok(value) if (1..=most).contains(&value) => Ok(value),
        _ => Err(format!("must be a number from 1 to {most} (default {default})")),
    })?;
    Ok(value.unwrap_or(default))
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "must be an IP address and a port, for example `[::]:8443`, `0.0.0.0:8443` or `127.0.0.1:0`".to_owned()
    })
}

/// A SHA-256 in hexadecimal digits.
pub(crate) fn parse_hash(text: &str) -> Result<[u8; 32], String> {
    HEXLOWER_PERMISSIVE
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "must be 64 hexadecimal digits, as `bonafide-ca status` shows them".to_owned())
}

fn parse_truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("must be `true` or `false`".to_owned()),
    }
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be `text` or `json` (default text)".to_owned()),
    }
}

fn parse_filter(text: &str) -> Result<String, String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    // tracing takes any word for the name of a module, and logs that alone: `loud` would be silence.
    let known = |part: &str| part.contains(['=', '[']) || levels.contains(&part.to_ascii_lowercase().as_str());
    let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
    if parsed.is_ok() && text.split(',').all(|part| known(part.trim())) {
        return Ok(text.to_owned());
    }
    Err("must be `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,bonafide_ca=debug` (default info)"
        .to_owned())
}

/// A socket's path ends in the kernel at 108 bytes.
fn check_socket_path(socket: &Path, data: Option<&Given>) -> Result<(), SettingsError> {
    let length = socket.as_os_str().len();
    if length < 108 {
        return Ok(());
    }
    let default =
        Given { origin: "--data".to_owned(), value: Settings::DEFAULT_DATA.to_owned(), literal: Literal::Text };
    Err(data.unwrap_or(&default).refuse(format!(
        "the socket in it would have a path of {length} bytes, and the system takes 107; choose a directory with a shorter path"
    )))
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 8443);
const DEFAULT_CONNECTIONS: u32 = 65_536;
const DEFAULT_JOINS_PER_MINUTE: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// What the agent reads beside those, and the path of the file itself.
const OTHER_VARIABLES: [&str; 6] = [
    "BONAFIDE_CONFIG",
    "BONAFIDE_SOCKET",
    "BONAFIDE_JOIN",
    "BONAFIDE_JOIN_FILE",
    "BONAFIDE_RUNTIME_DIR",
    "BONAFIDE_ATTEST_BY_PID",
];

#[cfg(test)]
mod tests;
