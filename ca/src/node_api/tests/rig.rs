//! A CA with its node API on a port of its own, and what agents need to talk to it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bonafide_ca_api::{
    InvitationSecret, Labels, NodeName, Placement, Reason, Refusal, Selector, ca_id,
    generated::node::{
        AgentInfo, Hello, IssueX509Request, JoinRequest, NodeCredential, SyncRequest, SyncResponse, X509Item,
        node_api_client::NodeApiClient, sync_request::Message, x509_result,
    },
};
use bonafide_verifier::{
    clock::{Clock, ManualClock, Timestamp},
    identity::Identity,
    spiffe::{BundleSet, TrustBundle, TrustDomain},
    tls::{Connector, ConnectorOptions, KeyConnector, KeyCredential, PeerSet, PinnedRoot, ServerTrust},
    x509::{PresentedChain, VerifiedPeer, X509Svid, verify},
};
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    audit::Who,
    authority::Lifetimes,
    data_dir::{self, Opened},
    issuance::{Issuer, SvidLifetimes},
    metrics::Metrics,
    node_api::{Limits, NodeApi, Parts},
    registry::{NewInvitation, NewService, Rules, Service, ServiceUpdate},
    store,
    user_issuers::{self, IssuerKeeper},
};

pub(super) const START: Timestamp = Timestamp::from_unix_seconds(1_790_000_000);
pub(super) const ADMIN: Who = Who::Admin { uid: 0, user: None };

pub(super) struct Rig {
    pub(super) clock: ManualClock,
    pub(super) opened: Opened,
    pub(super) api: Arc<NodeApi>,
    pub(super) address: SocketAddr,
    pub(super) stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(super) async fn start_with(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(START);
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let options = data_dir::Options {
            directory: directory.path().join("ca"),
            trust_domain: Some(trust_domain()),
            expect_root: None,
            accept_clock: false,
            lifetimes: Lifetimes::default(),
            rules: Rules::default(),
            store: store::Limits::default(),
        };
        let opened = data_dir::open_or_create(options, Arc::clone(&shared)).await.unwrap();
        let api = api_of(&opened, shared, limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn({
                let (api, stop) = (Arc::clone(&api), stop.clone());
                async move {
                    api.serve(listener, stop).await.unwrap();
                }
            }),
            tokio::spawn({
                let (api, stop) = (Arc::clone(&api), stop.clone());
                async move { api.run_identity(&stop).await }
            }),
            tokio::spawn({
                let (api, stop) = (Arc::clone(&api), stop.clone());
                async move { api.run_hub(&stop).await }
            }),
            tokio::spawn({
                let (authorities, guard, stop) = (opened.authorities.clone(), opened.clock_guard.clone(), stop.clone());
                async move { authorities.rotate(guard, stop).await }
            }),
        ];
        api.own.identity().ready(Duration::from_secs(10)).await.unwrap();
        Self { clock, opened, api, address, stop, tasks, _directory: directory }
    }

    /// A node API that nothing drives yet.
    pub(super) fn another_api(&self) -> Arc<NodeApi> {
        api_of(&self.opened, self.shared_clock(), Limits::default())
    }

    /// Stops everything and waits for it.
    pub(super) async fn finish(mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
        self.opened.store.close().await;
    }

    /// Lets time pass, and waits until the CA has a certificate that is valid then.
    pub(super) async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        let now = self.clock.now();
        let identity = self.api.own.identity().clone();
        eventually("the CA has a certificate of its own", || {
            identity.snapshot().svid().is_some_and(|svid| svid.not_after() > now)
        })
        .await;
    }

    pub(super) fn shared_clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    pub(super) async fn invite(&self, node: &str, labels: &[(&str, &str)], replace: bool) -> InvitationSecret {
        let secret = InvitationSecret::generate().unwrap();
        let new = NewInvitation {
            node: name(node),
            labels: Labels::from_pairs(labels.iter().copied()).unwrap(),
            ttl: None,
            replace,
        };
        self.opened.registry.invite(new, secret.hash(), ADMIN).await.unwrap();
        secret
    }

    /// A client that has proved a key and nothing else.
    pub(super) async fn with_key(&self, key: &KeyPair) -> NodeApiClient<Channel> {
        self.try_with_key(key).await.unwrap()
    }

    pub(super) async fn try_with_key(&self, key: &KeyPair) -> Result<NodeApiClient<Channel>, tonic::transport::Error> {
        let trust = ServerTrust::Pinned(PinnedRoot {
            trust_domain: trust_domain(),
            root_sha256: self.opened.root_hash,
            expected: ca_id(&trust_domain()),
        });
        let connector =
            KeyConnector::new(credential_of(key), trust, self.shared_clock(), ConnectorOptions::default()).unwrap();
        Ok(NodeApiClient::new(self.endpoint().connect_with_connector(connector).await?))
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("https://{}", self.address)).unwrap()
    }

    pub(super) fn connector(&self, svid: X509Svid) -> Connector {
        let bundles = BundleSet::empty().with(self.opened.registry.load().bundle().clone());
        let identity = Identity::fixed(svid, bundles, self.shared_clock());
        Connector::new(&identity, PeerSet::id(ca_id(&trust_domain())), ConnectorOptions::default()).unwrap()
    }

    /// A client with an SVID, whosever it is.
    pub(super) async fn with_svid(&self, svid: X509Svid) -> NodeApiClient<Channel> {
        self.try_with_svid(svid).await.unwrap()
    }

    pub(super) async fn try_with_svid(
        &self,
        svid: X509Svid,
    ) -> Result<NodeApiClient<Channel>, tonic::transport::Error> {
        let channel = self.endpoint().connect_with_connector(self.connector(svid)).await?;
        Ok(NodeApiClient::new(channel))
    }

    pub(super) async fn join(&self, key: &KeyPair, secret: &InvitationSecret) -> Result<NodeCredential, Status> {
        let request = JoinRequest { secret: secret.expose_secret().to_vec(), agent: Some(self.agent()) };
        let joined = self.with_key(key).await.join(request).await?;
        Ok(joined.into_inner().credential.unwrap())
    }

    /// A node that has joined.
    pub(super) async fn node(&self, node: &str, labels: &[(&str, &str)]) -> TestNode {
        let secret = self.invite(node, labels, false).await;
        let key = KeyPair::generate().unwrap();
        let credential = self.join(&key, &secret).await.unwrap();
        TestNode::new(self, key, credential).await
    }

    pub(super) async fn service(&self, path: &str, on: &[&str]) -> Arc<Service> {
        self.service_with(path, on, Duration::from_secs(3600)).await
    }

    pub(super) async fn service_with(&self, path: &str, on: &[&str], ttl: Duration) -> Arc<Service> {
        let new = NewService {
            path: path.to_owned(),
            selectors: vec![Selector::parse("unix:uid:1000").unwrap()],
            placements: on.iter().map(|on| Placement::parse(on).unwrap()).collect(),
            x509_ttl: Some(ttl),
            jwt_ttl: None,
            dns_names: vec![],
            hint: String::new(),
            edge_scopes: Vec::new(),
            edge_issuers: Vec::new(),
        };
        self.opened.registry.add_service(new, ADMIN).await.unwrap();
        self.opened.registry.load().service_by_path(&format!("/{path}")).unwrap().clone()
    }

    /// A service that is an edge.
    pub(super) async fn edge(&self, path: &str, on: &[&str], scopes: &[&str], issuers: &[&str]) -> Arc<Service> {
        let words = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect());
        self.service(path, on).await;
        let update =
            ServiceUpdate { edge_scopes: words(scopes), edge_issuers: words(issuers), ..ServiceUpdate::default() };
        self.opened.registry.update_service(path.to_owned(), update, ADMIN).await.unwrap()
    }

    pub(super) fn agent(&self) -> AgentInfo {
        AgentInfo { version: "0.1.0".into(), now_ms: self.clock.now().unix_millis() }
    }

    /// The verifier's word on a chain.
    pub(super) fn verify(&self, chain: &[Vec<u8>]) -> VerifiedPeer {
        let bundles = BundleSet::empty().with(self.opened.registry.load().bundle().clone());
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        verify(&PresentedChain::leaf_first(&chain).unwrap(), &bundles, self.clock.now()).unwrap()
    }

    /// How many records of this kind the audit log has.
    pub(super) async fn records(&self, kind: crate::audit::Kind) -> usize {
        let filter = crate::audit::Filter { kinds: vec![kind], limit: 1000, ..Default::default() };
        crate::fixtures::list(&self.opened.store, filter).await.unwrap().entries.len()
    }
}

fn api_of(opened: &Opened, clock: Arc<dyn Clock>, limits: Limits) -> Arc<NodeApi> {
    let issuer = Issuer::new(
        opened.trust_domain.clone(),
        opened.store.clone(),
        opened.authorities.clone(),
        opened.clock_guard.clone(),
    );
    NodeApi::new(Parts {
        issuer,
        registry: opened.registry.clone(),
        authorities: opened.authorities.clone(),
        issuers: IssuerKeeper::new(opened.registry.clone(), Arc::clone(&clock), user_issuers::Limits::default()),
        clock,
        metrics: Metrics::new(START),
        lifetimes: SvidLifetimes::default(),
        dns_names: Vec::new(),
        limits,
    })
}

/// A node's agent, as far as the CA can tell.
pub(super) struct TestNode {
    pub(super) key: KeyPair,
    pub(super) credential: NodeCredential,
    pub(super) client: NodeApiClient<Channel>,
}

impl TestNode {
    pub(super) async fn new(rig: &Rig, key: KeyPair, credential: NodeCredential) -> Self {
        let client = rig.with_svid(svid_of(&credential, &key)).await;
        Self { key, credential, client }
    }

    pub(super) fn svid(&self) -> X509Svid {
        svid_of(&self.credential, &self.key)
    }

    pub(super) async fn issue(&mut self, items: Vec<(String, Vec<u8>)>) -> Result<Vec<Issued>, Status> {
        let items = items.into_iter().map(|(service_id, public_key)| X509Item { service_id, public_key }).collect();
        let response = self.client.issue_x509(IssueX509Request { items }).await?.into_inner();
        let chain = response.issuer_chain;
        Ok(response
            .results
            .into_iter()
            .map(|result| match result.result.unwrap() {
                x509_result::Result::Leaf(leaf) => Ok([vec![leaf], chain.clone()].concat()),
                x509_result::Result::Refusal(refusal) => Err(refusal),
            })
            .collect())
    }

    pub(super) async fn sync(&mut self, hello: Hello) -> Result<TestStream, Status> {
        let (requests, incoming) = mpsc::channel(8);
        let first = SyncRequest { message: Some(Message::Hello(hello)) };
        requests.send(first).await.unwrap();
        let updates = self.client.sync(ReceiverStream::new(incoming)).await?.into_inner();
        Ok(TestStream { requests, updates })
    }
}

pub(super) type Issued = Result<Vec<Vec<u8>>, bonafide_ca_api::generated::node::Refusal>;

pub(super) struct TestStream {
    pub(super) requests: mpsc::Sender<SyncRequest>,
    pub(super) updates: Streaming<SyncResponse>,
}

impl TestStream {
    /// The next update; waits for it.
    pub(super) async fn next(&mut self) -> Result<SyncResponse, Status> {
        let next = tokio::time::timeout(DEADLINE, self.updates.message()).await.expect("an update in time");
        next.map(|update| update.expect("the stream goes on"))
    }

    /// Acknowledges an update.
    pub(super) async fn apply(&self, update: &SyncResponse) {
        let acknowledgement = bonafide_ca_api::generated::node::Acknowledgement {
            position: update.position.clone(),
            refused: String::new(),
        };
        self.requests.send(SyncRequest { message: Some(Message::Applied(acknowledgement)) }).await.unwrap();
    }

    /// What the stream ends with.
    pub(super) async fn end(&mut self) -> Reason {
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(status) => return reason(&status),
            }
        }
    }
}

pub(super) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(super) fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

pub(super) fn spki(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

pub(super) fn new_spki() -> Vec<u8> {
    spki(&KeyPair::generate().unwrap())
}

pub(super) fn credential_of(key: &KeyPair) -> KeyCredential {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let certificate = parameters.self_signed(key).unwrap();
    KeyCredential::new(certificate.der().to_vec(), &key.serialize_der()).unwrap()
}

pub(super) fn svid_of(credential: &NodeCredential, key: &KeyPair) -> X509Svid {
    let chain = credential.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    X509Svid::new(chain, key.serialize_der()).unwrap()
}

pub(super) fn bundle_of(credential: &NodeCredential) -> TrustBundle {
    TrustBundle::parse_spiffe_json(trust_domain(), &credential.bundle).unwrap()
}

/// Our reason in a refusal.
pub(super) fn reason(status: &Status) -> Reason {
    match Refusal::from_status(status) {
        Some(refusal) => refusal.reason.expect("a known reason"),
        None => panic!("not a refusal of ours: {status:?}"),
    }
}

pub(super) fn code(status: &Status) -> Code {
    status.code()
}

/// Waits for something that will be so in a moment.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

pub(super) const DEADLINE: Duration = Duration::from_secs(20);
