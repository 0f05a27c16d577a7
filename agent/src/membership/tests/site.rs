//! A CA and agents in one process, over real sockets, by one clock that is moved by hand.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bonafide_ca_api::{
    Invitation,
    generated::admin::{
        AddServiceRequest, InviteNodeRequest, Node, RemoveNodeRequest, ShowNodeRequest,
        admin_api_client::AdminApiClient,
    },
};
use bonafide_verifier::{
    clock::{Clock, ManualClock, Timestamp},
    spiffe::TrustDomain,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::transport::{Channel, Endpoint};
use zeroize::Zeroizing;

use crate::{
    ca_client::Limits,
    generated::workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    health::{Part, PartHealth},
    node_state::{DataDir, NodeState},
    running::{Running, StartError, start},
    settings::{JoinSource, Settings},
};

/// On a busy machine; nothing here takes a second on a free one.
pub(super) const SOON: Duration = Duration::from_secs(60);

pub(super) struct Site {
    pub(super) temp: tempfile::TempDir,
    pub(super) clock: ManualClock,
    ca: Option<bonafide_ca::Running>,
    listen: SocketAddr,
}

impl Site {
    pub(super) async fn start() -> Self {
        let temp = tempfile::tempdir_in("/dev/shm").expect("/dev/shm, a tmpfs on every Linux");
        let clock = ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000));
        let mut site = Self { temp, clock, ca: None, listen: "127.0.0.1:0".parse().unwrap() };
        site.start_ca().await;
        site
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    pub(super) fn ca_data(&self) -> PathBuf {
        self.temp.path().join("ca")
    }

    /// The same port from the first start on.
    pub(super) async fn start_ca(&mut self) {
        let mut settings = bonafide_ca::Settings::new(self.ca_data(), Some(TrustDomain::parse("example.org").unwrap()));
        settings.listen = self.listen;
        let ca = bonafide_ca::start(settings, self.clock()).await.unwrap();
        timeout(SOON, ca.ready()).await.unwrap();
        self.listen = ca.node_address();
        self.ca = Some(ca);
    }

    pub(super) async fn stop_ca(&mut self) {
        self.ca.take().unwrap().stop().await;
    }

    pub(super) async fn admin(&self) -> AdminApiClient<Channel> {
        let path = self.ca_data().join("admin.sock");
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://ca").connect_with_connector(connector).await.unwrap();
        AdminApiClient::new(channel)
    }

    pub(super) async fn invite(&self, name: &str, replace: bool) -> String {
        let request = InviteNodeRequest { name: name.into(), replace, ..InviteNodeRequest::default() };
        self.admin().await.invite_node(request).await.unwrap().into_inner().invitation
    }

    pub(super) async fn add_service(&self, path: &str, on: &str) {
        let request = AddServiceRequest {
            path: path.into(),
            selectors: vec![format!("unix:uid:{}", rustix::process::geteuid().as_raw())],
            on: vec![on.into()],
            ..AddServiceRequest::default()
        };
        self.admin().await.add_service(request).await.unwrap();
    }

    pub(super) async fn remove_node(&self, name: &str) {
        self.admin().await.remove_node(RemoveNodeRequest { name: name.into() }).await.unwrap();
    }

    pub(super) async fn node(&self, name: &str) -> Node {
        self.admin().await.show_node(ShowNodeRequest { name: name.into() }).await.unwrap().into_inner()
    }

    pub(super) fn home(&self, name: &str) -> Home {
        Home { path: self.temp.path().join(name) }
    }

    /// An agent that is ready.
    pub(super) async fn agent(&self, home: &Home, join: Option<&str>) -> Running {
        let agent = self.try_agent(home, join).await.unwrap();
        timeout(SOON, agent.ready()).await.expect("ready");
        agent
    }

    pub(super) async fn try_agent(&self, home: &Home, join: Option<&str>) -> Result<Running, StartError> {
        start(home.settings(join), self.clock()).await
    }
}

/// The folders of one agent.
pub(super) struct Home {
    pub(super) path: PathBuf,
}

impl Home {
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn kept(&self) -> PathBuf {
        self.path.join("kept")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path.join("socket/agent.sock")
    }

    pub(super) fn settings(&self, join: Option<&str>) -> Settings {
        let mut settings = Settings::new(self.data(), self.socket());
        settings.runtime_dir = self.kept();
        settings.join =
            join.map(|text| JoinSource::Text { origin: "--join".into(), text: Zeroizing::new(text.to_owned()) });
        settings.ca_limits = Limits { longest_pause: Duration::from_millis(500), ..Limits::default() };
        settings
    }

    /// What is on disk, while no agent runs.
    pub(super) fn state(&self) -> NodeState {
        self.open().load_node().unwrap().unwrap()
    }

    pub(super) fn open(&self) -> DataDir {
        DataDir::open(&self.data()).unwrap()
    }

    /// What is on disk, also while an agent runs.
    pub(super) fn peek(&self) -> NodeState {
        crate::node_state::peek_node(&self.data()).unwrap().unwrap()
    }

    /// As a backup tool or a thief makes one.
    pub(super) fn copy_to(&self, other: &Home) {
        std::fs::create_dir_all(other.data()).unwrap();
        crate::testing::set_mode(&other.data(), 0o700);
        for name in ["node", "view"] {
            let from = self.data().join(name);
            if from.exists() {
                std::fs::copy(from, other.data().join(name)).unwrap();
            }
        }
    }
}

pub(super) fn parse(invitation: &str) -> Invitation {
    Invitation::parse(invitation).unwrap()
}

pub(super) async fn stop(agent: Running) {
    agent.stop();
    timeout(SOON, agent.ended()).await.expect("ends").unwrap();
}

/// Waits for an event: the part of the agent's health says what `wanted` wants.
pub(super) async fn health(agent: &Running, part: Part, wanted: impl Fn(&PartHealth) -> bool) -> PartHealth {
    let mut changes = agent.health().changes();
    let found = async {
        loop {
            let now = agent.health().part(part);
            if wanted(&now) {
                return now;
            }
            changes.changed().await.unwrap();
        }
    };
    match timeout(SOON, found).await {
        Ok(found) => found,
        Err(_) => panic!("{} is {:?}", part.name(), agent.health().part(part)),
    }
}

/// Waits until `holds`, looking a few times a second: for what lies on a disk or in another process.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looked = async {
        while !holds().await {
            let _ = timeout(Duration::from_millis(50), std::future::pending::<()>()).await;
        }
    };
    timeout(SOON, looked).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The SPIFFE IDs that a process of this user gets, or the status that it gets instead.
pub(super) async fn fetch(socket: &Path) -> Result<Vec<String>, tonic::Status> {
    Ok(fetch_all(socket).await?.svids.into_iter().map(|svid| svid.spiffe_id).collect())
}

/// All that such a process gets.
pub(super) async fn fetch_all(socket: &Path) -> Result<X509svidResponse, tonic::Status> {
    let path = socket.to_path_buf();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://agent").connect_with_connector(connector).await.unwrap();
    let mut request = tonic::Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    let mut stream = SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await?.into_inner();
    Ok(timeout(SOON, stream.message()).await.expect("an answer")?.expect("a message"))
}
