//! A CA from its start to its end: what is opened in which order, which tasks run, and who waits for them.

use std::fmt::Display;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bonafide_verifier::clock::Clock;
use bonafide_verifier::serve::{Drained, serve};
use bonafide_verifier::spiffe::TrustDomain;
use data_encoding::HEXLOWER;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

use crate::admin_api::{AdminApi, AdminIncoming};
use crate::authority;
use crate::data_dir::{self, DataDirError, Opened};
use crate::health::listener::{self, LocalIncoming, TcpIncoming};
use crate::health::monitor::Monitor;
use crate::health::{Health, Scrape, State, router};
use crate::issuance::{Issuer, SvidLifetimes};
use crate::local_socket::LocalSocket;
use crate::metrics::{AuthorityKind, Metrics, Readings};
use crate::node_api::{self, NodeApi};
use crate::registry::Rules;
use crate::settings::{Settings, default_addresses, this_machine};
use crate::store;
use crate::token_service::{self, TokenLimits, TokenService};
use crate::user_issuers::{self, IssuerKeeper};

/// Starts a CA: opens or makes its directory, binds its listeners and starts its tasks. When this returns, connections are
/// accepted; [`Running::ready`] tells when they are answered.
///
/// # Errors
/// [`StartError`] says what is in the way and what to do. Nothing is left running, and nothing half made.
pub async fn start(settings: Settings, clock: Arc<dyn Clock>) -> Result<Running, StartError> {
    let started_at = clock.now();
    let health = Health::new();
    let metrics = Metrics::new(started_at);
    let opened = data_dir::open_or_create(data_dir_options(&settings), clock.clone()).await?;
    announce(&opened, &settings);

    let listener = bind(settings.listen).await?;
    let node_address = listener.local_addr().map_err(|source| cannot_listen(settings.listen, source))?;
    let health_socket = bind_local(&settings, Settings::health_socket)?;
    let admin_socket = bind_local(&settings, Settings::admin_socket)?;
    let health_tcp = match settings.health_listen {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|source| cannot_listen(address, source))?),
        None => None,
    };
    let token_listener = match &settings.token {
        Some(token) => Some((bind(token.listen).await?, token.clone())),
        None => None,
    };
    let advertised = if settings.advertise.is_empty() {
        let (name, interfaces) = this_machine();
        default_addresses(node_address, name.as_deref(), &interfaces)
    } else {
        settings.advertise.clone()
    };

    let issuer = Issuer::new(
        opened.trust_domain.clone(),
        opened.store.clone(),
        opened.authorities.clone(),
        opened.clock_guard.clone(),
    );
    let issuers = IssuerKeeper::new(opened.registry.clone(), clock.clone(), user_issuers::Limits::default());
    let issuer_of_tokens = issuer.clone();
    let node_api = NodeApi::new(node_api::Parts {
        issuer,
        registry: opened.registry.clone(),
        authorities: opened.authorities.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        lifetimes: SvidLifetimes { node: settings.lifetimes.node_svid, own: settings.lifetimes.node_svid },
        limits: settings.node_api.clone(),
        dns_names: settings.token.as_ref().map(|token| token.dns_names.clone()).unwrap_or_default(),
        issuers: issuers.clone(),
    });
    let token_service = match token_listener {
        Some((listener, token)) => {
            let address = listener.local_addr().map_err(|source| cannot_listen(token.listen, source))?;
            let service = TokenService::new(token_service::Parts {
                issuer: issuer_of_tokens,
                authorities: opened.authorities.clone(),
                store: opened.store.clone(),
                registry: opened.registry.clone(),
                issuers: issuers.clone(),
                identity: node_api.identity().clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                url: token.url(address.port()),
                policy: token.policy,
                limits: TokenLimits { per_client: token.requests_per_second, ..TokenLimits::default() },
            });
            Some((listener, address, service.map_err(|error| StartError(Cause::TokenService(error)))?))
        }
        None => None,
    };
    let admin_api = AdminApi {
        registry: opened.registry.clone(),
        store: opened.store.clone(),
        authorities: opened.authorities.clone(),
        hub: node_api.hub().clone(),
        health: health.clone(),
        issuers: issuers.clone(),
        clock: clock.clone(),
        root_sha256: opened.root_hash,
        advertised: advertised.clone(),
        node_address,
        started_at,
    };
    let monitor = Monitor {
        health: health.clone(),
        store: opened.store.clone(),
        authorities: opened.authorities.clone(),
        clock_guard: opened.clock_guard.clone(),
        node_api: node_api.clone(),
        admin_socket: admin_socket.file(),
        token_service: token_service.as_ref().map(|(_, _, service)| service.clone()),
        issuers: issuers.clone(),
        clock: clock.clone(),
    };
    let scrape = scrape(&metrics, &health, &opened, &node_api);
    let observed = metrics.clone();
    opened.store.observe_groups(move |records, took| observed.store_group(records, took));
    let routes = router(health.clone(), scrape);

    let mut parts = Parts::default();
    let stop = parts.front_stop.clone();
    info!(address = %node_address, callers = "nodes by their SVID; bare keys may join and recover only", "listening: node API");
    parts.front("node API", {
        let (api, stop) = (node_api.clone(), stop.clone());
        async move { api.serve(listener, stop).await.map_err(|error| error.to_string()) }
    });
    info!(socket = %admin_socket.file().path().display(), callers = "the owner of this process and root", "listening: admin API");
    parts.front("admin API", {
        let stop = stop.clone();
        async move { Ok(admin_api.serve(AdminIncoming::new(admin_socket), stop).await) }
    });
    info!(socket = %health_socket.file().path().display(), callers = "the owner of this process and root", "listening: health and metrics");
    parts.front("health", {
        let (routes, stop) = (routes.clone(), stop.clone());
        async move { Ok(serve(LocalIncoming(health_socket), routes, listener::options(), stop).await) }
    });
    let token_address = token_service.as_ref().map(|(_, address, _)| *address);
    if let Some((listener, address, service)) = token_service {
        info!(%address, issuer = service.url(), callers = "services of the trust domain by their SVID; keys and metadata for everybody", "listening: token endpoint");
        parts.back("token policy", {
            let (service, stop) = (service.clone(), parts.back_stop.clone());
            async move { service.run_policy(stop).await }
        });
        parts.back("token keys", {
            let (service, stop) = (service.clone(), parts.back_stop.clone());
            async move { service.run_keys(stop).await }
        });
        let stop = stop.clone();
        parts.front(
            "token endpoint",
            async move { service.serve(listener, stop).await.map_err(|error| error.to_string()) },
        );
    }
    if let Some(tcp) = health_tcp {
        let address = tcp.local_addr().map_err(|source| cannot_listen(node_address, source))?;
        warn!(%address, callers = "everybody who reaches the address", "listening: health and metrics");
        let stop = stop.clone();
        parts.front(
            "health over TCP",
            async move { Ok(serve(TcpIncoming(tcp), routes, listener::options(), stop).await) },
        );
    }
    let stop = parts.back_stop.clone();
    parts.back("own identity", {
        let (api, stop) = (node_api.clone(), stop.clone());
        async move { api.run_identity(&stop).await }
    });
    parts.back("changes to nodes", {
        let stop = stop.clone();
        async move { node_api.run_hub(&stop).await }
    });
    parts.back("rotation", {
        let (authorities, guard, stop) = (opened.authorities.clone(), opened.clock_guard.clone(), stop.clone());
        async move { authorities.rotate(guard, stop).await }
    });
    parts.back("keys of users' issuers", {
        let (issuers, stop) = (issuers, stop.clone());
        async move { issuers.run(stop).await }
    });
    parts.back("clock guard", {
        let (guard, stop) = (opened.clock_guard.clone(), stop.clone());
        async move { guard.run(stop).await }
    });
    parts.back("disk watch", {
        let (store, stop) = (opened.store.clone(), stop.clone());
        async move { store.watch_disk(stop).await }
    });
    parts.back("health monitor", monitor.run(stop));

    let facts = Facts {
        node_address,
        token_address,
        trust_domain: opened.trust_domain.clone(),
        root_sha256: opened.root_hash,
        created: opened.created,
    };
    Ok(Running::supervised(parts, opened, facts, health))
}

/// A CA that runs. Dropping it tells its tasks to end; [`Running::stop`] also waits for them.
#[derive(Debug)]
pub struct Running {
    facts: Facts,
    health: Health,
    failed: watch::Receiver<Option<Arc<str>>>,
    stop: DropGuard,
    supervisor: JoinHandle<usize>,
}

#[derive(Debug)]
struct Facts {
    node_address: SocketAddr,
    token_address: Option<SocketAddr>,
    trust_domain: TrustDomain,
    root_sha256: [u8; 32],
    created: bool,
}

impl Running {
    fn supervised(parts: Parts, opened: Opened, facts: Facts, health: Health) -> Self {
        let (tell, failed) = watch::channel(None);
        let stop = parts.front_stop.clone().drop_guard();
        let supervisor = tokio::spawn(parts.supervise(opened, tell));
        Self { facts, health, failed, stop, supervisor }
    }

    /// The address of the node API as it was bound.
    #[must_use]
    pub fn node_address(&self) -> SocketAddr {
        self.facts.node_address
    }

    /// The address of the token endpoint as it was bound, if there is one.
    #[must_use]
    pub fn token_address(&self) -> Option<SocketAddr> {
        self.facts.token_address
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.facts.trust_domain
    }

    /// SHA-256 of the root's certificate.
    #[must_use]
    pub fn root_sha256(&self) -> &[u8; 32] {
        &self.facts.root_sha256
    }

    /// Whether this start made the trust domain.
    #[must_use]
    pub fn created(&self) -> bool {
        self.facts.created
    }

    /// Waits until every part works, or is at most degraded. May be dropped.
    pub async fn ready(&self) {
        let mut changes = self.health.changes();
        // The sender lives as long as `health` does.
        let _ = changes.wait_for(|state| *state != State::Unready).await;
    }

    /// How it is, in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        let troubled = self.health.conditions().into_iter().filter(|condition| condition.state != State::Ready);
        let parts: Vec<String> = troubled.map(|c| format!("{} {}: {}", c.part, c.state.as_str(), c.reason)).collect();
        if parts.is_empty() { "ready".to_owned() } else { parts.join("; ") }
    }

    /// Waits until the CA cannot go on, and says why: its database failed, or one of its tasks ended. It must be stopped then.
    /// May be dropped.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.as_deref().unwrap_or_default().to_owned(),
            Err(_) => "the CA's tasks have ended".to_owned(),
        }
    }

    /// Takes no more connections, lets open requests finish for some seconds, ends every task and closes the database. Gives
    /// the number of connections that had to be cut.
    pub async fn stop(self) -> usize {
        drop(self.stop);
        match self.supervisor.await {
            Ok(cut) => cut,
            Err(error) => {
                error!(%error, "the CA did not stop in order; its database is safe at any moment");
                0
            }
        }
    }
}

/// The tasks of a CA. Those in front answer somebody and drain first; those at the back keep things valid until then.
#[derive(Default)]
struct Parts {
    front: JoinSet<(&'static str, Result<Drained, String>)>,
    front_stop: CancellationToken,
    back: JoinSet<&'static str>,
    back_stop: CancellationToken,
}

impl Parts {
    fn front(&mut self, name: &'static str, task: impl Future<Output = Result<Drained, String>> + Send + 'static) {
        self.front.spawn(async move { (name, task.await) });
    }

    fn back(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.back.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits for the word to stop, or for what must not happen; then ends everything in order.
    async fn supervise(mut self, opened: Opened, failed: watch::Sender<Option<Arc<str>>>) -> usize {
        let reason = tokio::select! {
            // First: when asked to stop, the parts end by themselves as they should.
            biased;
            () = self.front_stop.cancelled() => None,
            reason = opened.store.failed() => Some(reason.to_string()),
            Some(ended) = self.front.join_next() => Some(match ended {
                Ok((name, Ok(_))) => format!("{name} ended by itself"),
                Ok((name, Err(error))) => format!("{name} ended: {error}"),
                Err(error) => panicked(&error),
            }),
            Some(ended) = self.back.join_next() => Some(match ended {
                Ok(name) => format!("{name} ended by itself"),
                Err(error) => panicked(&error),
            }),
        };
        if let Some(reason) = reason {
            error!(reason, "the CA cannot go on");
            failed.send_replace(Some(reason.into()));
        }
        self.front_stop.cancel();
        let mut cut = 0;
        while let Some(ended) = self.front.join_next().await {
            if let Ok((_, Ok(Drained::Cut(connections)))) = ended {
                cut += connections;
            }
        }
        self.back_stop.cancel();
        while let Some(ended) = self.back.join_next().await {
            if let Err(error) = ended {
                error!(error = panicked(&error), "while stopping");
            }
        }
        opened.store.close().await;
        // The directory's lock goes last, with `opened`.
        drop(opened);
        cut
    }
}

fn panicked(error: &JoinError) -> String {
    format!("a task failed: {error}")
}

/// Why a CA did not start.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StartError(#[from] Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    TokenService(token_service::TokenServiceError),
    #[error("cannot listen on `{address}`: {source}{hint}")]
    Listen { address: String, source: io::Error, hint: &'static str },
}

impl From<DataDirError> for StartError {
    fn from(error: DataDirError) -> Self {
        Self(Cause::DataDir(error))
    }
}

/// Whose fault a failed start is; each has its exit code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// The settings.
    Settings,
    /// What is there is not what was asked for; the reason code.
    Refused(&'static str),
    /// It did not work.
    Failed,
}

impl StartError {
    /// Whose fault it is.
    pub(crate) fn fault(&self) -> Fault {
        match &self.0 {
            Cause::DataDir(DataDirError::NoTrustDomain { .. }) => Fault::Settings,
            Cause::DataDir(DataDirError::InUse { .. }) => Fault::Refused("data-in-use"),
            Cause::DataDir(DataDirError::OtherTrustDomain { .. }) => Fault::Refused("other-trust-domain"),
            Cause::DataDir(DataDirError::OtherRoot { .. } | DataDirError::ExpectedRootOfNothing { .. }) => {
                Fault::Refused("other-root")
            }
            Cause::DataDir(DataDirError::NotOurs { .. } | DataDirError::NotWhole { .. }) => {
                Fault::Refused("data-not-usable")
            }
            Cause::DataDir(_) | Cause::Listen { .. } | Cause::TokenService(_) => Fault::Failed,
        }
    }
}

fn data_dir_options(settings: &Settings) -> data_dir::Options {
    let (lifetimes, limits) = (&settings.lifetimes, &settings.limits);
    data_dir::Options {
        directory: settings.data.clone(),
        trust_domain: settings.trust_domain.clone(),
        expect_root: settings.expect_root,
        accept_clock: settings.accept_clock,
        lifetimes: authority::Lifetimes {
            root: lifetimes.root,
            issuing: lifetimes.issuing_authority,
            jwt: lifetimes.jwt_authority,
        },
        rules: Rules {
            nodes: limits.nodes.into(),
            services: limits.services.into(),
            invitation_ttl: lifetimes.invitation,
            x509_ttl: lifetimes.x509_svid,
            jwt_ttl: lifetimes.jwt_svid,
            shortest_leaf: crate::Lifetimes::SHORTEST_LEAF,
            longest_x509: lifetimes.longest_x509_svid(),
            longest_jwt: lifetimes.longest_jwt_svid(),
            recovery: lifetimes.recovery,
            ..Rules::default()
        },
        store: store::Limits::default(),
    }
}

/// Says what was found or made: a new root is what every node and every verifier will trust.
fn announce(opened: &Opened, settings: &Settings) {
    let (trust_domain, root) = (&opened.trust_domain, HEXLOWER.encode(&opened.root_hash));
    let data = settings.data.display();
    if opened.created {
        info!(%trust_domain, root, %data, "first start: made a NEW ROOT for this trust domain; keep its hash, and back up the directory");
    } else {
        info!(%trust_domain, root, %data, "loaded");
    }
}

/// Binds a TCP address. The default one is IPv6 with IPv4 in it; a machine without IPv6 gets the same port over IPv4.
async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && lacks_ipv6(&error) => {
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            TcpListener::bind(v4).await.map_err(|source| cannot_listen(v4, source))
        }
        bound => bound.map_err(|source| cannot_listen(address, source)),
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

fn cannot_listen(address: impl Display, source: io::Error) -> StartError {
    let hint = match source.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there, stop it or choose another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 are for privileged users, choose another",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    };
    StartError(Cause::Listen { address: address.to_string(), source, hint })
}

fn bind_local(
    settings: &Settings,
    name: fn(&std::path::Path) -> std::path::PathBuf,
) -> Result<LocalSocket, StartError> {
    let path = name(&settings.data);
    LocalSocket::bind(&path).map_err(|source| cannot_listen(path.display(), source))
}

/// What the metrics show beside what is counted: read when they are asked for.
fn scrape(metrics: &Metrics, health: &Health, opened: &Opened, node_api: &NodeApi) -> Scrape {
    let (metrics, health, registry) = (metrics.clone(), health.clone(), opened.registry.clone());
    let (authorities, hub, connections) =
        (opened.authorities.clone(), node_api.hub().clone(), node_api.counters().clone());
    Arc::new(move || {
        let snapshot = registry.load();
        let signing = authorities.current();
        let readings = Readings {
            nodes: snapshot.node_count(),
            nodes_connected: hub.connected(),
            services: snapshot.service_count(),
            registry_version: snapshot.position().version,
            bundle_sequence: snapshot.bundle().sequence().unwrap_or(0),
            connections: connections.clone(),
            authorities: vec![
                (AuthorityKind::Root, signing.root.not_after()),
                (AuthorityKind::Issuing, signing.issuing.not_after()),
                (AuthorityKind::Jwt, signing.jwt.not_after()),
                (AuthorityKind::Token, signing.token.not_after()),
            ],
        };
        metrics.render(&readings, &health)
    })
}

#[cfg(test)]
mod tests;
