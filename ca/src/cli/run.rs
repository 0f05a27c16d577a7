//! `bonafide-ca run`.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bonafide_verifier::clock::{Clock, SystemClock};
use clap::{Args, Command};
use data_encoding::HEXLOWER;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use super::{Failure, output};
use crate::running::{Running, StartError, start};
use crate::settings::file::FileLayer;
use crate::settings::layers::{Layers, variable_name};
use crate::settings::{Log, LogFormat, NAMES, Settings, unknown_variables};

/// Start the CA
///
/// The first start in an empty or absent directory creates the root, the authorities below it and the database, and says which root
/// it made; later starts load them. When the CA is ready it prints one line to standard output,
/// `ready listen=ADDRESS trust-domain=NAME root=SHA256`, with a token endpoint also `tokens=ADDRESS`. It logs to standard error and ends on SIGTERM or SIGINT.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca run --trust-domain example.org
  bonafide-ca run --trust-domain example.org --data A --listen 127.0.0.1:0
  bonafide-ca run --config /etc/bonafide/ca.toml

A setting is taken from its flag, else from its environment variable, else from the file, else it is the default. The file is
TOML; its keys are the names of the flags: `x509-ttl = \"30m\"`, `advertise = [\"ca.example.org:8443\"]`.")]
pub(crate) struct Run {
    /// Read settings from this TOML file, which not everybody may be able to write
    #[arg(long, value_name = "FILE", env = "BONAFIDE_CONFIG")]
    config: Option<PathBuf>,
    /// The trust domain, for example `example.org`; the first start needs it, later ones check it
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// Directory for database, keys and sockets, created with mode 0700 [default: /var/lib/bonafide/ca]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address and port that nodes connect to [default: `[::]:8443`]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// An address that invitations name; may be repeated [default: host name and addresses that are not loopback]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    /// Refuse to start with any other root than the one with this SHA-256
    #[arg(long, value_name = "SHA256")]
    expect_root: Option<String>,
    /// Lifetime of X.509-SVIDs of services that set none, 10s to a third of the issuing authority's [default: 1h]
    #[arg(long, value_name = "DURATION", help_heading = "Lifetimes")]
    x509_ttl: Option<String>,
    /// Lifetime of JWT-SVIDs of services that set none, 10s to a third of the JWT authority's [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Lifetimes")]
    jwt_ttl: Option<String>,
    /// Lifetime of the nodes' own SVIDs, 10s to a third of the issuing authority's [default: 24h]
    #[arg(long, value_name = "DURATION", help_heading = "Lifetimes")]
    node_ttl: Option<String>,
    /// Lifetime of an issuing authority, 2m to 365d; rotates by itself [default: 7d]
    #[arg(long, value_name = "DURATION", help_heading = "Lifetimes")]
    issuing_authority_ttl: Option<String>,
    /// Lifetime of a JWT authority and of a token authority, 2m to 365d; they rotate by themselves [default: 7d]
    #[arg(long, value_name = "DURATION", help_heading = "Lifetimes")]
    jwt_authority_ttl: Option<String>,
    /// Lifetime of the root that the first start makes, at least twice an issuing authority's [default: 3650d]
    #[arg(long, value_name = "DURATION", help_heading = "Lifetimes")]
    root_ttl: Option<String>,
    /// How long an invitation is good that says nothing else, 10s to 7d [default: 10m]
    #[arg(long, value_name = "DURATION", help_heading = "Lifetimes")]
    invitation_ttl: Option<String>,
    /// How long after it was last seen a node may come back by its key alone, 1m to 365d [default: 30d]
    #[arg(long, value_name = "DURATION", help_heading = "Lifetimes")]
    recovery: Option<String>,
    /// Refuse more live nodes than these [default: 100000]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    max_nodes: Option<String>,
    /// Refuse more services than these [default: 50000]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    max_services: Option<String>,
    /// Stop accepting at so many open connections of nodes until one ends [default: 65536]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    max_connections: Option<String>,
    /// Refuse more joins and recoveries from one address in a minute [default: 60, the first time 100]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    max_joins_per_minute: Option<String>,
    /// Serve health and metrics on this TCP address, too; whoever reaches it can read them [default: only DATA/health.sock]
    #[arg(long, value_name = "ADDR", help_heading = "Operation")]
    health_listen: Option<String>,
    /// Serve OAuth tokens on this address over TLS; needs `--token-policy` and `--token-dns` [default: off]
    #[arg(long, value_name = "ADDR", help_heading = "Token endpoint")]
    token_listen: Option<String>,
    /// The policy that says which service may have which scope, `app exchange /SCOPE` and `app access-token /SCOPE`; read again when it changes
    #[arg(long, value_name = "FILE", help_heading = "Token endpoint")]
    token_policy: Option<String>,
    /// A DNS name of the token endpoint, for its certificate; the first names the issuer of its tokens; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Token endpoint")]
    token_dns: Vec<String>,
    /// The issuer of its tokens, where clients reach it under another port than it listens on: `https://NAME[:PORT]` with a NAME of
    /// `--token-dns` [default: the first of these, with the port]
    #[arg(long, value_name = "URL", help_heading = "Token endpoint")]
    token_url: Option<String>,
    /// Refuse more requests for tokens of one client in a second; twice as many at once [default: 1000]
    #[arg(long, value_name = "NUMBER", help_heading = "Token endpoint")]
    max_tokens_per_second: Option<String>,
    /// Take the system's clock as right though it lies behind the last time this CA acted, or far ahead of it; recorded
    #[arg(long, value_name = "TRUTH", num_args = 0..=1, default_missing_value = "true", require_equals = true,
        help_heading = "Operation")]
    accept_clock: Option<String>,
    /// `text` or `json`, one line an event [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Operation")]
    log_format: Option<String>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,bonafide_ca=debug` [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Operation")]
    log_level: Option<String>,
}

/// Adds the name of its environment variable to the help of each setting.
pub(super) fn with_variables(command: Command) -> Command {
    NAMES.iter().fold(command, |command, name| {
        command.mut_arg(name.replace('-', "_"), |arg| {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            arg.help(format!("{help} [env: {}]", variable_name(name)))
        })
    })
}

impl Run {
    pub(crate) fn run(self) -> Result<(), Failure> {
        crate::data_dir::harden_process();
        let settings = self.settings().map_err(|error| Failure::Usage(error.to_string()))?;
        start_logging(&settings.log);
        for name in slips() {
            warn!(variable = name, "there is no such setting; see `bonafide-ca run --help`");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        let ended = runtime.block_on(serve(settings));
        // What still blocks (a disk that hangs) must not hold up the end; the database is safe at any moment.
        runtime.shutdown_timeout(Duration::from_millis(200));
        ended
    }

    fn settings(self) -> Result<Settings, crate::SettingsError> {
        let one = |value: Option<String>| value.into_iter().collect::<Vec<_>>();
        let config = self.config;
        let mut layers = Layers::from_flags([
            ("trust-domain", one(self.trust_domain)),
            ("data", one(self.data)),
            ("listen", one(self.listen)),
            ("advertise", self.advertise),
            ("expect-root", one(self.expect_root)),
            ("x509-ttl", one(self.x509_ttl)),
            ("jwt-ttl", one(self.jwt_ttl)),
            ("node-ttl", one(self.node_ttl)),
            ("issuing-authority-ttl", one(self.issuing_authority_ttl)),
            ("jwt-authority-ttl", one(self.jwt_authority_ttl)),
            ("root-ttl", one(self.root_ttl)),
            ("invitation-ttl", one(self.invitation_ttl)),
            ("recovery", one(self.recovery)),
            ("max-nodes", one(self.max_nodes)),
            ("max-services", one(self.max_services)),
            ("max-connections", one(self.max_connections)),
            ("max-joins-per-minute", one(self.max_joins_per_minute)),
            ("health-listen", one(self.health_listen)),
            ("token-listen", one(self.token_listen)),
            ("token-policy", one(self.token_policy)),
            ("token-dns", self.token_dns),
            ("token-url", one(self.token_url)),
            ("max-tokens-per-second", one(self.max_tokens_per_second)),
            ("accept-clock", one(self.accept_clock)),
            ("log-format", one(self.log_format)),
            ("log-level", one(self.log_level)),
        ]);
        layers.add_environment(NAMES, |name| std::env::var_os(name))?;
        if let Some(path) = config {
            layers.add_file(FileLayer::read(&path, nix::unistd::geteuid().as_raw(), NAMES)?);
        }
        Settings::from_layers(&layers)
    }
}

/// From start to end. A signal ends it in order, a second one at once; both are a success.
async fn serve(settings: Settings) -> Result<(), Failure> {
    let mut signals = Signals::install()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // A signal during the start waits for it to finish: it is short, and what it does is whole or not at all.
    let running = start(settings, clock.clone()).await.map_err(|error| start_failure(&error))?;
    let ended = until_told(&running, &*clock, &mut signals).await;
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    match &ended {
        Ok(()) => info!("stopping; open requests may finish for up to 10 s"),
        Err(failure) => error!(error = %failure, "stopping, since the CA cannot go on"),
    }
    tokio::select! {
        cut = running.stop() => info!(connections_cut = cut, "stopped"),
        () = signals.next() => warn!("stopped at once, at the second signal"),
    }
    ended
}

/// Tells that it is ready, and waits for the end: a signal, or a reason why it cannot go on.
async fn until_told(running: &Running, clock: &dyn Clock, signals: &mut Signals) -> Result<(), Failure> {
    let told = async {
        while !become_ready(running, clock).await {
            warn!(reason = running.summary(), "not ready yet");
        }
        let mut ready = format!(
            "ready listen={} trust-domain={} root={}",
            running.node_address(),
            running.trust_domain(),
            HEXLOWER.encode(running.root_sha256())
        );
        if let Some(address) = running.token_address() {
            ready.push_str(&format!(" tokens={address}"));
        }
        output::print(&ready)?;
        notify(&[NotifyState::Ready, NotifyState::Status(&ready)]);
        watchdog(running, clock).await
    };
    tokio::select! {
        reason = running.failed() => Err(Failure::Failed(reason)),
        () = signals.next() => Ok(()),
        told = told => told,
    }
}

/// Waits for it to be ready, and some seconds at most.
async fn become_ready(running: &Running, clock: &dyn Clock) -> bool {
    tokio::select! {
        () = running.ready() => true,
        () = clock.sleep_for(Duration::from_secs(10)) => false,
    }
}

/// Tells systemd that the program is alive, at half the interval it asks for, and how it is. Never ends.
async fn watchdog(running: &Running, clock: &dyn Clock) -> Result<(), Failure> {
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_secs(30), |interval| interval / 2);
    loop {
        clock.sleep_for(every).await;
        notify(&[NotifyState::Watchdog, NotifyState::Status(&running.summary())]);
    }
}

/// Without systemd this does nothing; a failure is not worth a word.
fn notify(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> Result<Self, Failure> {
        let install = |kind| signal(kind).map_err(|error| Failure::Failed(format!("cannot handle signals: {error}")));
        Ok(Self { terminate: install(SignalKind::terminate())?, interrupt: install(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn start_failure(error: &StartError) -> Failure {
    let message = error.to_string();
    match error.fault() {
        crate::running::Fault::Settings => Failure::Usage(message),
        crate::running::Fault::Refused(code) => Failure::Refused { message, code: code.to_owned() },
        crate::running::Fault::Failed => Failure::Failed(message),
    }
}

/// Colours only for a terminal whose user did not say no (`NO_COLOR`).
fn start_logging(log: &Log) {
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let filter = EnvFilter::builder().parse_lossy(&log.filter);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    // A subscriber that was set before stays: then this is a test.
    let _ = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

fn slips() -> BTreeSet<String> {
    unknown_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}
