//! The agent, put together: what `start` opens, in which order, and what keeps running until it is stopped.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bonafide_ca_api::Invitation;
use bonafide_verifier::{clock::Clock, identity::Identity};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    attest,
    ca_client::{CaClient, dial::Dialer},
    health::{Health, Part, State, http::HealthServer},
    join::{self, PlanError},
    membership::{self, Membership, MembershipError},
    metrics::Metrics,
    node_state::DataDir,
    node_status::NodeStatus,
    renewal::{Renewal, RenewalLimits},
    runtime_state::RuntimeState,
    settings::{self, JoinSource, Settings, SettingsError},
    state_file::StateError,
    svid_cache::{
        SvidCache,
        jwt::{JwtCache, JwtLimits},
    },
    sync::{self, Follower},
    token_service::{self, TokenService},
    view::ViewStore,
    workload_api::{BindError, Endpoint, Parts},
};

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Settings that cannot be used, the invitation among them.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Nothing to join by.
    #[error("{0}")]
    Plan(String),
    /// The node is a member elsewhere.
    #[error("{0}")]
    Elsewhere(String),
    /// The state on disk cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The workloads' socket cannot be had.
    #[error("{0}")]
    Socket(String),
    /// Health cannot be served.
    #[error("{0}")]
    Health(String),
    /// No key can be made.
    #[error("{0}")]
    Key(String),
}

/// Why an agent ended that was not asked to.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndError {
    /// The CA refused the join, or it is not the CA that the invitation names.
    #[error("{0}")]
    JoinRefused(String),
    /// No CA answered while the invitation lived.
    #[error("{0}")]
    JoinUnreachable(String),
    /// Something else, such as a disk that takes no state.
    #[error("{0}")]
    Other(String),
    /// A task panicked, which is a fault of this program.
    #[error("a part of the agent panicked; its log has the place")]
    Panicked,
}

/// An agent that serves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ready {
    /// Where workloads ask.
    pub socket: PathBuf,
    /// The node's SPIFFE ID.
    pub node: String,
}

/// A started agent. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    ready: watch::Receiver<Option<Ready>>,
    main: Mutex<Option<JoinHandle<Result<(), EndError>>>>,
    ended: watch::Receiver<Option<Result<(), EndError>>>,
    health: Health,
    tokens: TokenService,
    health_address: Option<std::net::SocketAddr>,
}

impl Running {
    /// Waits until the socket serves and there is something to serve by: a valid SVID of the node, or workload SVIDs kept from
    /// before a restart. May be dropped at any time; never returns once the agent has ended before.
    pub async fn ready(&self) -> Ready {
        let mut ready = self.ready.clone();
        loop {
            if let Some(ready) = ready.borrow_and_update().clone() {
                return ready;
            }
            if ready.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the agent has ended: by itself, or after [`Running::stop`] once all is drained.
    ///
    /// # Errors
    /// Why it ended by itself.
    pub async fn ended(&self) -> Result<(), EndError> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or(Err(EndError::Panicked)),
            Err(_) => Err(EndError::Panicked),
        }
    }

    /// Asks the agent to finish: open calls have 10 s.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether transaction tokens can be minted for an edge service of this node.
    #[must_use]
    pub fn has_delegation(&self) -> bool {
        self.tokens.status().key_id.is_some()
    }

    /// Records of minted tokens that the CA has not collected; none before the first delegation.
    #[must_use]
    pub fn mints_waiting(&self) -> Option<u64> {
        self.tokens.status().log.map(|log| log.waiting)
    }

    /// How the agent is.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Where health is served on TCP, if asked for.
    #[must_use]
    pub fn health_address(&self) -> Option<std::net::SocketAddr> {
        self.health_address
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        // The task goes on to its end by itself: it was told to finish.
        drop(self.main.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Starts an agent: settings and state are checked, the sockets bound, and everything else goes on in tasks that end with it.
/// A CA that does not answer keeps nothing from starting.
///
/// # Errors
/// When settings or state cannot be used, or a socket cannot be bound.
pub async fn start(settings: Settings, clock: Arc<dyn Clock>) -> Result<Running, StartError> {
    settings.check()?;
    let health = Health::new();
    let metrics = Metrics::new();
    let stop = CancellationToken::new();

    let mut settings = settings;
    let given = read_invitation(settings.join.take()).await?;
    if !settings.data.exists() && given.is_none() {
        return Err(match given {
            Given::LostFile(error) => error.into(),
            Given::Nothing | Given::Invitation(_) => StartError::Plan(PlanError::NotJoined.to_string()),
        });
    }
    let data = Arc::new(open_data(&settings.data, &*clock).await?);
    // Before the join: what is waited for can be looked at.
    let health_server = HealthServer::bind(&data.path().join("health.sock"), settings.health_listen)
        .await
        .map_err(|error| StartError::Health(with_causes(&error)))?;
    let health_address = health_server.tcp_address();

    let node = {
        let data = Arc::clone(&data);
        blocking(move || data.load_node()).await?
    };
    let has_joined = node.as_ref().is_some_and(|node| node.has_joined());
    let given = given.for_a_node(has_joined)?;
    let plan = join::plan(node, given, &data.path().display().to_string()).map_err(|error| match error {
        PlanError::Elsewhere { .. } => StartError::Elsewhere(error.to_string()),
        PlanError::Key(_) => StartError::Key(error.to_string()),
        PlanError::NotJoined | PlanError::Kept { .. } => StartError::Plan(error.to_string()),
    })?;
    if has_joined && plan.invitation.is_some() {
        info!("this node has joined already; the invitation is used only if the CA refuses what the node has");
    }
    if plan.write {
        let (data, file) = (Arc::clone(&data), DataDir::node_file(&plan.state));
        blocking(move || data.write_node_file(&file)).await?;
    }
    let state = plan.state;

    let (view, memory) = {
        let (data, trust_domain) = (Arc::clone(&data), state.trust_domain.clone());
        blocking(move || sync::load(&data, &trust_domain)).await?
    };
    if let Some(position) = view.position() {
        metrics.registry_version.set(i64::try_from(position.version).unwrap_or(i64::MAX));
        metrics.services.set(i64::try_from(view.services().len()).unwrap_or(i64::MAX));
        health.set(Part::Sync, State::Ready, "");
    }
    let views = ViewStore::new(view);

    let runtime_state = {
        let (path, health) = (settings.runtime_dir.clone(), health.clone());
        let (key, replaced) = (state.current.key.fingerprint(), state.replaced);
        let pending = state.pending.as_ref().map(|pending| pending.key.fingerprint());
        blocking(move || Ok::<_, StateError>(RuntimeState::open(&path, key, replaced.or(pending), health))).await?
    };
    let cache = SvidCache::new(Arc::clone(&clock));
    let kept = {
        let (runtime_state, view, now) = (runtime_state.clone(), views.snapshot(), clock.now());
        blocking(move || Ok::<_, StateError>(runtime_state.load(&view, now))).await?
    };
    let has_kept = !kept.is_empty();
    cache.take_back(&views.snapshot(), kept);

    let (live, live_receiver) = watch::channel(None);
    let limits = Arc::new(settings.ca_limits.clone());
    let client = CaClient::new(live_receiver.clone(), Arc::clone(&limits));
    let jwts = JwtCache::new(Arc::new(client.clone()), Arc::clone(&clock), JwtLimits::default());
    let (status, accepts) = NodeStatus::new(health.clone(), metrics.clone(), views.clone(), live_receiver);
    status.set_held(memory.held.clone());
    if let Some(note) = runtime_state.note() {
        status.note(note);
    }
    let by_pid = settings.attest_by_pid;
    let binding = attest::Binding::detect(by_pid)
        .map_err(|error| StartError::Socket(format!("this kernel's Unix sockets cannot be used: {error}")))?;
    let endpoint = Endpoint::bind(&settings.socket, binding)
        .map_err(|error: BindError| StartError::Socket(with_causes(&error)))?;
    for note in endpoint.notes() {
        warn!("{note}");
    }

    let (identity, publisher) = Identity::published(Arc::clone(&clock));
    let svid = membership::svid_in_use(&state);
    if let Some(svid) = &svid {
        status.set_node(Some(svid.id().clone()), Some(svid.not_after()));
    }
    let kept_node = svid.filter(|_| has_kept).map(|svid| svid.id().to_string());
    let renewal = Renewal {
        cache: cache.clone(),
        jwts: jwts.clone(),
        views: views.clone(),
        authority: Arc::new(client.clone()),
        keep: Arc::new(runtime_state.clone()),
        health: health.clone(),
        metrics: metrics.clone(),
        clock: Arc::clone(&clock),
        limits: RenewalLimits::default(),
    };
    let tokens = TokenService::new(token_service::Parts {
        views: views.clone(),
        ca: client.clone(),
        health: health.clone(),
        metrics: metrics.clone(),
        clock: Arc::clone(&clock),
        directory: data.path().to_owned(),
    });
    let parts = Parts::new(
        (views.clone(), cache.clone(), jwts),
        tokens.clone(),
        Arc::new(status.clone()),
        (health.clone(), metrics.clone()),
        Arc::clone(&clock),
    );
    let follower = Follower {
        data: Arc::clone(&data),
        views: views.clone(),
        status: status.clone(),
        health: health.clone(),
        metrics: metrics.clone(),
        clock: Arc::clone(&clock),
        memory,
    };
    let membership = Membership {
        dialer: Dialer::new(state.addresses.clone(), limits),
        data,
        state,
        invitation: plan.invitation,
        clock: Arc::clone(&clock),
        client,
        live,
        accepts,
        identity: identity.clone(),
        publisher,
        follower,
        views,
        runtime_state,
        status,
        health: health.clone(),
        metrics: metrics.clone(),
        cache,
    };

    let token_service = tokens.clone();
    let (ready_sender, ready) = watch::channel(None);
    let announce = announce(identity, settings.socket.clone(), kept_node, Arc::clone(&clock), ready_sender);
    let (ended_sender, ended) = watch::channel(None);
    let tasks = Tasks {
        membership: tokio::spawn(membership.run(stop.clone())),
        renewal: tokio::spawn(renewal.run(stop.clone())),
        tokens: tokio::spawn(tokens.run(stop.clone())),
        endpoint: tokio::spawn(endpoint.serve(parts, stop.clone())),
        announce: tokio::spawn(announce),
        health: tokio::spawn(health_server.serve(health.clone(), metrics, stop.clone())),
    };
    let main = tokio::spawn(tasks.run(stop.clone(), ended_sender));
    Ok(Running { stop, ready, main: Mutex::new(Some(main)), ended, health, tokens: token_service, health_address })
}

struct Tasks<D> {
    membership: JoinHandle<Result<(), MembershipError>>,
    renewal: JoinHandle<()>,
    tokens: JoinHandle<()>,
    endpoint: JoinHandle<D>,
    announce: JoinHandle<()>,
    health: JoinHandle<()>,
}

impl<D> Tasks<D> {
    /// Waits for all; the first that ends without being asked takes the others with it.
    async fn run(
        mut self,
        stop: CancellationToken,
        ended: watch::Sender<Option<Result<(), EndError>>>,
    ) -> Result<(), EndError> {
        let first = tokio::select! {
            ended = &mut self.membership => Some(from_membership(ended)),
            ended = &mut self.renewal => Some(ended.map_err(|_| EndError::Panicked)),
            ended = &mut self.tokens => Some(ended.map_err(|_| EndError::Panicked)),
            ended = &mut self.endpoint => Some(ended.map(drop).map_err(|_| EndError::Panicked)),
            () = stop.cancelled() => None,
        };
        let asked = stop.is_cancelled();
        stop.cancel();
        self.announce.abort();
        let mut outcome = first.unwrap_or(Ok(()));
        if outcome.is_ok() && !asked {
            outcome = Err(EndError::Other("a part of the agent ended by itself; its log says why".into()));
        }
        let grace = async {
            if !self.membership.is_finished() {
                let last = from_membership((&mut self.membership).await);
                if outcome.is_ok() {
                    outcome = last;
                }
            }
            if !self.renewal.is_finished() {
                let _ = (&mut self.renewal).await;
            }
            if !self.tokens.is_finished() {
                let _ = (&mut self.tokens).await;
            }
            if !self.endpoint.is_finished() {
                let _ = (&mut self.endpoint).await;
            }
            if !self.health.is_finished() {
                let _ = (&mut self.health).await;
            }
        };
        if tokio::time::timeout(GRACE, grace).await.is_err() {
            warn!("not everything finished in time; ending it");
        }
        for task in [
            self.membership.abort_handle(),
            self.renewal.abort_handle(),
            self.tokens.abort_handle(),
            self.endpoint.abort_handle(),
            self.health.abort_handle(),
        ] {
            task.abort();
        }
        if let Err(error) = &outcome {
            error!(error = %error, "the agent ends");
        }
        ended.send_replace(Some(outcome.clone()));
        outcome
    }
}

fn from_membership(ended: Result<Result<(), MembershipError>, tokio::task::JoinError>) -> Result<(), EndError> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(match &error {
            MembershipError::JoinRefused { .. } => EndError::JoinRefused(error.to_string()),
            MembershipError::JoinUnreachable { .. } => EndError::JoinUnreachable(error.to_string()),
            MembershipError::State(_) | MembershipError::Key(_) => EndError::Other(with_causes(&error)),
        }),
        Err(_) => Err(EndError::Panicked),
    }
}

/// Tells when there is something to serve by. The socket serves already.
async fn announce(
    identity: Identity,
    socket: PathBuf,
    kept_node: Option<String>,
    clock: Arc<dyn Clock>,
    ready: watch::Sender<Option<Ready>>,
) {
    let node = match kept_node {
        Some(node) => node,
        None => {
            let mut changes = identity.changes_since(0);
            loop {
                let now = clock.now();
                let snapshot = identity.snapshot();
                let valid = snapshot.svid().filter(|svid| svid.not_before() <= now && now < svid.not_after());
                if let Some(svid) = valid {
                    break svid.id().to_string();
                }
                changes.next().await;
            }
        }
    };
    ready.send_replace(Some(Ready { socket, node }));
}

/// What a start was given to join by.
enum Given {
    Nothing,
    Invitation(Box<Invitation>),
    /// A file that cannot be read: no fault once the node has joined, since it may have been removed on purpose.
    LostFile(SettingsError),
}

impl Given {
    fn is_none(&self) -> bool {
        matches!(self, Self::Nothing | Self::LostFile(_))
    }

    fn for_a_node(self, has_joined: bool) -> Result<Option<Invitation>, StartError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Invitation(invitation) => Ok(Some(*invitation)),
            Self::LostFile(error) if has_joined => {
                info!(error = %error, "going on without the invitation: this node has joined already");
                Ok(None)
            }
            Self::LostFile(error) => Err(error.into()),
        }
    }
}

/// An agent that was killed holds its directory until the kernel has cleared it away, which may be after its successor's start.
async fn open_data(path: &Path, clock: &dyn Clock) -> Result<DataDir, StartError> {
    let until = clock.boot() + PREDECESSOR_GONE;
    loop {
        let path = path.to_path_buf();
        match blocking(move || DataDir::open(&path)).await {
            Err(StartError::State(StateError::InUse { .. })) if clock.boot() < until => {
                clock.sleep_for(PREDECESSOR_GONE / 20).await;
            }
            opened => return opened,
        }
    }
}

/// Reads the invitation before anything is opened or written.
async fn read_invitation(source: Option<JoinSource>) -> Result<Given, StartError> {
    let Some(source) = source else { return Ok(Given::Nothing) };
    let (read, source) = blocking(move || Ok::<_, StateError>((settings::read_invitation(&source), source))).await?;
    match (read, source) {
        (Ok(text), source) => Ok(Given::Invitation(Box::new(settings::parse_invitation(&source, &text)?))),
        (Err(error), JoinSource::File(_)) => Ok(Given::LostFile(error)),
        (Err(error), JoinSource::Text { .. } | JoinSource::Stdin) => Err(error.into()),
    }
}

async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, StartError>
where
    StartError: From<E>,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(StartError::from),
        Err(panicked) => Err(StartError::Key(panicked.to_string())),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// How long a data directory in use is waited for.
const PREDECESSOR_GONE: std::time::Duration = std::time::Duration::from_secs(1);
/// Open calls have this long to finish.
const GRACE: std::time::Duration = std::time::Duration::from_secs(10);
