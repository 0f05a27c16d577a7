//! The settings of `bonafide-agent run`: flag, then `BONAFIDE_*` environment, then file, then default, each
//! checked into a typed value before anything is opened or written. A bad value is told with where it came from.

use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bonafide_ca_api::Invitation;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::ca_client;

/// What an agent is started with.
#[derive(Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The invitation to join by, if one was given.
    pub join: Option<JoinSource>,
    /// The socket that workloads ask on.
    pub socket: PathBuf,
    /// The directory of the node's keys and state.
    pub data: PathBuf,
    /// The directory for what survives a restart of the agent; used only when it is memory.
    pub runtime_dir: PathBuf,
    /// Attest by pid where the kernel has no SO_PEERPIDFD. Racy: a pid may be taken over between two looks.
    pub attest_by_pid: bool,
    /// Serve health and metrics on TCP as well as on `DATA/health.sock`.
    pub health_listen: Option<SocketAddr>,
    /// How much is logged: `error`, `warn`, `info`, `debug`, `trace`, or tracing directives.
    pub log_level: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Bounds of the conversation with the CA.
    pub ca_limits: ca_client::Limits,
}

impl Settings {
    /// The defaults, for an agent of the given directory and socket.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>, socket: impl Into<PathBuf>) -> Self {
        Self {
            join: None,
            socket: socket.into(),
            data: data.into(),
            runtime_dir: DEFAULT_RUNTIME_DIR.into(),
            attest_by_pid: false,
            health_listen: None,
            log_level: DEFAULT_LOG_LEVEL.into(),
            log_format: LogFormat::Text,
            ca_limits: ca_client::Limits::default(),
        }
    }

    /// Puts the settings together. `environment` is asked for variables, `read` for the settings file.
    ///
    /// # Errors
    /// The first value that cannot be used, with its origin and what is allowed.
    pub fn resolve(
        flags: &Flags,
        environment: &dyn Fn(&str) -> Option<OsString>,
        read: &dyn Fn(&Path) -> Result<String, SettingsError>,
    ) -> Result<Self, SettingsError> {
        let environment = Environment(environment);
        let config = match &flags.config {
            Some(path) => Some(path.clone()),
            None => environment.text(CONFIG)?.map(PathBuf::from),
        };
        let file = match &config {
            Some(path) => File::parse(path, &read(path)?)?,
            None => File::default(),
        };
        let pick = Pick { environment, config: config.as_deref() };
        let socket = pick
            .text("--socket", &flags.socket, SOCKET, "socket", &file.socket)?
            .map(|value| value.parse(socket_path))
            .transpose()?
            .unwrap_or_else(|| DEFAULT_SOCKET.into());
        let data = pick.path("--data", &flags.data, DATA, "data", &file.data, DEFAULT_DATA)?;
        let runtime_dir = pick.path(
            "--runtime-dir",
            &flags.runtime_dir,
            RUNTIME_DIR,
            "runtime-dir",
            &file.runtime_dir,
            DEFAULT_RUNTIME_DIR,
        )?;
        let join = join_source(&pick, flags, &file)?;
        let attest_by_pid = match (flags.attest_by_pid, pick.environment.text(ATTEST_BY_PID)?, file.attest_by_pid) {
            (true, _, _) => true,
            (false, Some(text), _) => Value { origin: ATTEST_BY_PID.into(), text }.parse(boolean)?,
            (false, None, value) => value.unwrap_or(false),
        };
        let health_listen = pick
            .text("--health-listen", &flags.health_listen, HEALTH_LISTEN, "health-listen", &file.health_listen)?
            .map(|value| {
                value.parse(|text| {
                    text.parse::<SocketAddr>()
                        .map_err(|_| "must be an address and a port, such as `127.0.0.1:9464`".into())
                })
            })
            .transpose()?;
        let log_level = pick
            .text("--log-level", &flags.log_level, LOG_LEVEL, "log-level", &file.log_level)?
            .map(|value| value.parse(log_level))
            .transpose()?
            .unwrap_or_else(|| DEFAULT_LOG_LEVEL.into());
        let log_format = pick
            .text("--log-format", &flags.log_format, LOG_FORMAT, "log-format", &file.log_format)?
            .map(|value| value.parse(LogFormat::parse))
            .transpose()?
            .unwrap_or(LogFormat::Text);
        let settings = Self {
            join,
            socket,
            data,
            runtime_dir,
            attest_by_pid,
            health_listen,
            log_level,
            log_format,
            ca_limits: ca_client::Limits::default(),
        };
        settings.check()?;
        Ok(settings)
    }

    /// Rules between the values.
    ///
    /// # Errors
    /// When the directory of keys is the one that others see.
    pub fn check(&self) -> Result<(), SettingsError> {
        let socket_dir = absolute(self.socket.parent().unwrap_or(Path::new(".")));
        for (name, path) in [("--runtime-dir", &self.runtime_dir), ("--data", &self.data)] {
            if absolute(path) == socket_dir {
                return Err(SettingsError::Value {
                    origin: name.into(),
                    value: path.display().to_string(),
                    reason:
                        "is the socket's directory, which every workload may open; give keys a directory of their own"
                            .into(),
                });
            }
        }
        if absolute(&self.runtime_dir) == absolute(&self.data) {
            return Err(SettingsError::Value {
                origin: "--runtime-dir".into(),
                value: self.runtime_dir.display().to_string(),
                reason: "is the data directory; give it one of its own, on tmpfs".into(),
            });
        }
        Ok(())
    }
}

/// Where an invitation comes from. The secret in it is wiped when this is dropped.
pub enum JoinSource {
    /// The text itself, with where it was given.
    Text {
        /// `--join` or the variable's name.
        origin: String,
        /// The invitation.
        text: Zeroizing<String>,
    },
    /// A file, which may be gone once the node has joined.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl fmt::Debug for JoinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { origin, .. } => write!(f, "Text({origin}: ..)"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Stdin => f.write_str("Stdin"),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be `text` or `json`".into()),
        }
    }
}

/// The flags of `run`, as typed. Absent ones are looked for in the environment, then in the file.
#[derive(Clone, Default, clap::Args)]
pub struct Flags {
    /// The invitation printed by `bonafide-ca node invite`; `-` reads it from standard input. Used once: a later start
    /// goes on with what it has, with the same string or none. [env: BONAFIDE_JOIN]
    #[arg(long, value_name = "STRING", conflicts_with = "join_file")]
    pub join: Option<String>,

    /// A file with the invitation, so that it is not in the process list; `-` reads it from standard input.
    /// [env: BONAFIDE_JOIN_FILE]
    #[arg(long, value_name = "FILE")]
    pub join_file: Option<PathBuf>,

    /// The socket that workloads ask on, a path or `unix:///path`, at most 107 bytes; its directory should be its own.
    /// [default: /run/bonafide/agent.sock] [env: BONAFIDE_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,

    /// The directory of the node's keys and state, 0700; created if missing. [default: /var/lib/bonafide/agent]
    /// [env: BONAFIDE_DATA]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// The directory for workload keys that survive a restart of the agent, 0700; used only on tmpfs or ramfs that is
    /// never swapped. [default: /run/bonafide-state] [env: BONAFIDE_RUNTIME_DIR]
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,

    /// On a kernel without SO_PEERPIDFD (before 6.5), attest more than uid and gid by the pid. Racy: another process may
    /// take over the pid between two looks. [env: BONAFIDE_ATTEST_BY_PID]
    #[arg(long)]
    pub attest_by_pid: bool,

    /// Serve health and metrics on this TCP address too; without it only on `DATA/health.sock`.
    /// [env: BONAFIDE_HEALTH_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    pub health_listen: Option<String>,

    /// How much is logged on standard error: error, warn, info, debug, trace, or directives such as `info,h2=debug`.
    /// [default: info] [env: BONAFIDE_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// text or json. [default: text] [env: BONAFIDE_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// A TOML file with these settings, named as the flags are. [env: BONAFIDE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flags").field("join", &self.join.as_ref().map(|_| "..")).finish_non_exhaustive()
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A value out of its bounds.
    #[error("{origin}=`{value}`: {reason}")]
    Value {
        /// The flag, variable or file and key.
        origin: String,
        /// As given.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// A secret that cannot be used: the value is not repeated.
    #[error("{origin}: {reason}")]
    Secret {
        /// The flag, variable or file.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// Two values of which one would be ignored.
    #[error("{one} and {other} are both given; give one of them")]
    Both {
        /// The first.
        one: &'static str,
        /// The second.
        other: &'static str,
    },
    /// The settings file cannot be read.
    #[error("the settings file `{path}` cannot be used: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Variables that begin like a setting of ours and are none: most likely misspelt. The CA's may stand in the same environment.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut unknown: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("BONAFIDE_") && !OURS.contains(&name.as_str()) && !is_the_cas(name))
        .collect();
    unknown.sort();
    unknown
}

fn is_the_cas(name: &str) -> bool {
    let rest = name.trim_start_matches("BONAFIDE_");
    CAS.contains(&rest) || rest.ends_with("_TTL")
}

/// Reads a settings file: bounded, and only if no stranger can write it.
///
/// # Errors
/// When it cannot be read, is too large, or others may write it.
pub fn read_settings_file(path: &Path) -> Result<String, SettingsError> {
    use std::{
        io::Read,
        os::unix::fs::{MetadataExt, OpenOptionsExt},
    };
    let refuse = |reason: String| SettingsError::File { path: path.into(), reason };
    // Not blocking, so that a FIFO at that path does not hold the start.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path);
    let file = opened.map_err(|error| refuse(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refuse("it is not a regular file".into()));
    }
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != 0 && owner != own {
        return Err(refuse(format!("it belongs to uid {owner}; it must belong to root or to uid {own}")));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(refuse(format!("everyone may write it; `chmod o-w {}`", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| refuse(error.to_string()))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(refuse(format!("it is larger than {FILE_LIMIT} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| refuse(format!("byte {} is not UTF-8", error.utf8_error().valid_up_to())))
}

/// Reads the invitation from where it is, bounded; white space around it is dropped.
///
/// # Errors
/// When there is none, or it is too long.
pub fn read_invitation(source: &JoinSource) -> Result<Zeroizing<String>, SettingsError> {
    use std::{io::Read, os::unix::fs::MetadataExt};
    let from = |origin: String, reader: &mut dyn Read| {
        let mut text = Zeroizing::new(String::with_capacity(INVITATION_LIMIT + 1));
        let read = reader.take(INVITATION_LIMIT as u64 + 1).read_to_string(&mut text);
        match read {
            Err(error) => {
                Err(SettingsError::Secret { origin, reason: format!("the invitation cannot be read: {error}") })
            }
            Ok(_) if text.len() > INVITATION_LIMIT => Err(SettingsError::Secret {
                origin,
                reason: format!("this is longer than any invitation ({INVITATION_LIMIT} bytes)"),
            }),
            Ok(_) if text.trim().is_empty() => {
                Err(SettingsError::Secret { origin, reason: "there is no invitation in it".into() })
            }
            Ok(_) => Ok(text),
        }
    };
    match source {
        JoinSource::Text { origin, text } => from(origin.clone(), &mut text.as_bytes()),
        JoinSource::File(path) => {
            let origin = path.display().to_string();
            let mut file = std::fs::File::open(path).map_err(|error| SettingsError::Secret {
                origin: origin.clone(),
                reason: format!("the invitation cannot be read: {error}"),
            })?;
            if file.metadata().is_ok_and(|there| there.is_file() && there.mode() & 0o077 != 0) {
                tracing::warn!(
                    path = origin,
                    "others can read the file with the invitation, and could join in this node's place"
                );
            }
            from(origin, &mut file)
        }
        JoinSource::Stdin => from("standard input".into(), &mut std::io::stdin().lock()),
    }
}

/// Reads an invitation's text, with where it came from in the message and nothing of the secret.
///
/// # Errors
/// When it is not an invitation.
pub fn parse_invitation(source: &JoinSource, text: &str) -> Result<Invitation, SettingsError> {
    Invitation::parse(text).map_err(|error| {
        let origin = match source {
            JoinSource::Text { origin, .. } => origin.clone(),
            JoinSource::File(path) => path.display().to_string(),
            JoinSource::Stdin => "standard input".into(),
        };
        SettingsError::Secret { origin, reason: error.to_string() }
    })
}

/// Reads a socket's path: a path, or `unix:///path` as in `SPIFFE_ENDPOINT_SOCKET` (WEP-10).
///
/// # Errors
/// What is wrong with it.
pub fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = match text.strip_prefix("unix:") {
        Some(rest) => {
            let path = match rest.strip_prefix("//") {
                Some(path) if path.starts_with('/') => path,
                Some(_) => return Err("must not name a host: write `unix:///path`".into()),
                None => rest,
            };
            if !path.starts_with('/') {
                return Err("must be an absolute path after `unix:`".into());
            }
            if path.contains(['?', '#', '%']) {
                return Err("must be a plain path, without `?`, `#` or `%`".into());
            }
            path
        }
        None if text.contains("://") => return Err("must be a path or `unix:///path`".into()),
        None => text,
    };
    if path.is_empty() || path.ends_with('/') {
        return Err("must name a file".into());
    }
    if path.contains('\0') {
        return Err("must not contain a NUL byte".into());
    }
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_LIMIT {
        return Err(format!(
            "is {length} bytes long as an absolute path; the kernel takes at most {SOCKET_PATH_LIMIT}"
        ));
    }
    Ok(path)
}

fn join_source(pick: &Pick<'_>, flags: &Flags, file: &File) -> Result<Option<JoinSource>, SettingsError> {
    let of_text = |origin: &str, text: String| match text.as_str() {
        "-" => JoinSource::Stdin,
        _ => JoinSource::Text { origin: origin.into(), text: Zeroizing::new(text) },
    };
    let of_path = |path: PathBuf| if path == Path::new("-") { JoinSource::Stdin } else { JoinSource::File(path) };
    match (&flags.join, &flags.join_file) {
        (Some(_), Some(_)) => return Err(SettingsError::Both { one: "--join", other: "--join-file" }),
        (Some(text), None) => return Ok(Some(of_text("--join", text.clone()))),
        (None, Some(path)) => return Ok(Some(of_path(path.clone()))),
        (None, None) => {}
    }
    match (pick.environment.text(JOIN)?, pick.environment.text(JOIN_FILE)?) {
        (Some(_), Some(_)) => return Err(SettingsError::Both { one: JOIN, other: JOIN_FILE }),
        (Some(text), None) => return Ok(Some(of_text(JOIN, text))),
        (None, Some(path)) => return Ok(Some(of_path(path.into()))),
        (None, None) => {}
    }
    Ok(file.join_file.clone().map(of_path))
}

/// The settings file. The invitation itself does not stand in it, only a file's name: it is a secret.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    join_file: Option<PathBuf>,
    socket: Option<String>,
    data: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    attest_by_pid: Option<bool>,
    health_listen: Option<String>,
    log_level: Option<String>,
    log_format: Option<String>,
}

/// What a settings file comes to by itself, for the property that it comes to something whatever is in it.
pub(crate) fn of_file(text: &str) -> Result<Settings, SettingsError> {
    let flags = Flags { config: Some("file".into()), ..Flags::default() };
    Settings::resolve(&flags, &|_| None, &|_| Ok(text.to_owned()))
}

impl File {
    fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        toml::from_str(text).map_err(|error| SettingsError::File {
            path: path.into(),
            reason: format!("line {}: {}", line_of(text, error.span()), error.message()),
        })
    }
}

fn line_of(text: &str, span: Option<std::ops::Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start);
    1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count()
}

#[derive(Clone, Copy)]
struct Environment<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Environment<'_> {
    /// A variable; one that is set to nothing counts as not set.
    fn text(&self, name: &str) -> Result<Option<String>, SettingsError> {
        let Some(value) = (self.0)(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        value.into_string().map(Some).map_err(|value| SettingsError::Value {
            origin: name.into(),
            value: value.display().to_string(),
            reason: "must be UTF-8".into(),
        })
    }
}

/// A value with where it was found.
struct Value {
    origin: String,
    text: String,
}

impl Value {
    fn parse<T>(self, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, SettingsError> {
        parse(&self.text).map_err(|reason| SettingsError::Value { origin: self.origin, value: self.text, reason })
    }
}

struct Pick<'a> {
    environment: Environment<'a>,
    config: Option<&'a Path>,
}

impl Pick<'_> {
    fn text(
        &self,
        flag: &str,
        flag_value: &Option<String>,
        variable: &str,
        key: &str,
        file_value: &Option<String>,
    ) -> Result<Option<Value>, SettingsError> {
        if let Some(text) = flag_value {
            return Ok(Some(Value { origin: flag.into(), text: text.clone() }));
        }
        if let Some(text) = self.environment.text(variable)? {
            return Ok(Some(Value { origin: variable.into(), text }));
        }
        let path = self.config.map(|path| path.display().to_string()).unwrap_or_default();
        Ok(file_value.clone().map(|text| Value { origin: format!("{path}: {key}"), text }))
    }

    fn path(
        &self,
        flag: &str,
        flag_value: &Option<PathBuf>,
        variable: &str,
        key: &str,
        file_value: &Option<PathBuf>,
        default: &str,
    ) -> Result<PathBuf, SettingsError> {
        let (origin, path) = match (flag_value, self.environment.text(variable)?, file_value) {
            (Some(path), _, _) => (flag.to_owned(), path.clone()),
            (None, Some(text), _) => (variable.to_owned(), PathBuf::from(text)),
            (None, None, Some(path)) => (
                format!("{}: {key}", self.config.map(|path| path.display().to_string()).unwrap_or_default()),
                path.clone(),
            ),
            (None, None, None) => return Ok(default.into()),
        };
        if path.as_os_str().is_empty() || path.starts_with("~") {
            return Err(SettingsError::Value {
                origin,
                value: path.display().to_string(),
                reason: "must be a path; `~` is the shell's to replace".into(),
            });
        }
        Ok(path)
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("must be `true` or `false`".into()),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    // tracing takes any word for the name of a module, and logs that alone: `loud` would be silence.
    let known = |part: &str| part.contains(['=', '[']) || levels.contains(&part.to_ascii_lowercase().as_str());
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if text.split(',').all(|part| known(part.trim())) => Ok(text.to_owned()),
        Ok(_) => Err("must be error, warn, info, debug or trace, or directives such as `info,h2=debug`".into()),
        Err(error) => Err(format!("must be error, warn, info, debug, trace or tracing directives: {error}")),
    }
}

/// Comparable, also where the path does not exist yet.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_path_buf())
}

/// Where workloads ask by default.
pub const DEFAULT_SOCKET: &str = "/run/bonafide/agent.sock";
/// Where the node's keys and state lie by default.
pub const DEFAULT_DATA: &str = "/var/lib/bonafide/agent";
/// Where what survives a restart of the agent lies by default.
pub const DEFAULT_RUNTIME_DIR: &str = "/run/bonafide-state";
const DEFAULT_LOG_LEVEL: &str = "info";

const JOIN: &str = "BONAFIDE_JOIN";
const JOIN_FILE: &str = "BONAFIDE_JOIN_FILE";
const SOCKET: &str = "BONAFIDE_SOCKET";
const DATA: &str = "BONAFIDE_DATA";
const RUNTIME_DIR: &str = "BONAFIDE_RUNTIME_DIR";
const ATTEST_BY_PID: &str = "BONAFIDE_ATTEST_BY_PID";
const HEALTH_LISTEN: &str = "BONAFIDE_HEALTH_LISTEN";
const LOG_LEVEL: &str = "BONAFIDE_LOG_LEVEL";
const LOG_FORMAT: &str = "BONAFIDE_LOG_FORMAT";
const CONFIG: &str = "BONAFIDE_CONFIG";

/// What this program reads.
const OURS: [&str; 10] =
    [JOIN, JOIN_FILE, SOCKET, DATA, RUNTIME_DIR, ATTEST_BY_PID, HEALTH_LISTEN, LOG_LEVEL, LOG_FORMAT, CONFIG];
/// What the CA reads beside those.
const CAS: [&str; 11] = [
    "TRUST_DOMAIN",
    "LISTEN",
    "ADVERTISE",
    "EXPECT_ROOT",
    "ACCEPT_CLOCK",
    "DATABASE",
    "RECOVERY",
    "MAX_NODES",
    "MAX_SERVICES",
    "MAX_CONNECTIONS",
    "MAX_JOINS_PER_MINUTE",
];

/// `sun_path` has 108 bytes with its end.
const SOCKET_PATH_LIMIT: usize = 107;
const FILE_LIMIT: u64 = 64 << 10;
/// Addresses, names, a secret and a checksum: far below this.
const INVITATION_LIMIT: usize = 16 << 10;

#[cfg(test)]
mod tests;
