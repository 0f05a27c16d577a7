//! Nodes without an agent, and an operator without a command line: they say to a CA over its real sockets what the real
//! programs say, many of them in one process.

use std::{io, path::Path, sync::Arc, time::Duration};

use aws_lc_rs::{
    encoding::AsDer,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use bonafide_ca_api::{
    Invitation, ca_id,
    generated::{
        admin::{AddServiceRequest, InviteNodeRequest, RemoveServiceRequest, admin_api_client::AdminApiClient},
        node::{
            Acknowledgement, AgentInfo, Hello, IssueX509Request, IssueX509Response, JoinRequest, SyncRequest,
            SyncResponse, X509Item, node_api_client::NodeApiClient, sync_request::Message, x509_result,
        },
    },
};
use bonafide_verifier::{
    clock::{Clock, SystemClock},
    identity::{Identity, Publisher},
    spiffe::{BundleSet, TrustBundle},
    tls::{Connector, ConnectorOptions, KeyConnector, KeyCredential, PeerSet, PinnedRoot, ServerTrust},
    x509::X509Svid,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// A connection to the node API.
pub type NodeApi = NodeApiClient<Channel>;

/// An operator: the admin API of the CA whose data is in a directory.
pub type Operator = AdminApiClient<Channel>;

/// Connects to a Unix socket as gRPC clients do.
pub async fn unix_channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

/// The operator of a CA.
pub async fn operator(ca_data: &Path) -> Operator {
    AdminApiClient::new(unix_channel(&ca_data.join("admin.sock")).await.expect("the CA's admin socket"))
}

/// An invitation for a node.
pub async fn invite(operator: &mut Operator, name: &str) -> Invitation {
    let request = InviteNodeRequest { name: name.to_owned(), ..InviteNodeRequest::default() };
    let answer = operator.invite_node(request).await.expect("an invitation").into_inner();
    Invitation::parse(&answer.invitation).expect("an invitation that parses")
}

/// `service add PATH --selector … --on …`; gives the service's id.
pub async fn add_service(operator: &mut Operator, path: &str, selectors: &[String], on: &str) -> String {
    let request = AddServiceRequest {
        path: path.to_owned(),
        selectors: selectors.to_vec(),
        on: vec![on.to_owned()],
        dns_names: vec![DNS_NAME.to_owned()],
        ..AddServiceRequest::default()
    };
    operator.add_service(request).await.expect("a service").into_inner().id
}

/// `service remove PATH`.
pub async fn remove_service(operator: &mut Operator, path: &str) {
    operator.remove_service(RemoveServiceRequest { path: path.to_owned() }).await.expect("the service goes");
}

/// Every service has this name too, so that plain TLS can verify the same chains.
pub const DNS_NAME: &str = "peer.example.org";

/// A P-256 key.
#[derive(Clone, Debug)]
pub struct Key {
    /// The private key.
    pub pkcs8: Vec<u8>,
    /// The public key.
    pub spki: Vec<u8>,
}

impl Key {
    /// A new one.
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
        let spki = pair.public_key().as_der().expect("a public key in DER").as_ref().to_vec();
        let pkcs8 = pair.to_pkcs8v1().expect("a key in PKCS#8").as_ref().to_vec();
        Self { pkcs8, spki }
    }

    fn credential(&self) -> KeyCredential {
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        let pair =
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).expect("the same key");
        let certificate = rcgen::CertificateParams::default().self_signed(&pair).expect("a certificate");
        KeyCredential::new(certificate.der().to_vec(), &self.pkcs8).expect("a credential")
    }
}

/// A node that has joined.
pub struct SimulatedNode {
    /// Who it is.
    pub identity: Identity,
    address: String,
    _publisher: Publisher,
    api: Option<NodeApiClient<Channel>>,
}

/// What a node hears from its CA.
pub struct SyncStream {
    answers: mpsc::Sender<SyncRequest>,
    updates: Streaming<SyncResponse>,
}

impl SimulatedNode {
    /// Redeems an invitation with a new key, over a connection of its own, as an agent does.
    pub async fn join(invitation: &Invitation) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let address = invitation.addresses()[0].to_string();
        let trust_domain = invitation.trust_domain().clone();
        let key = Key::generate();
        let pinned = PinnedRoot {
            trust_domain: trust_domain.clone(),
            root_sha256: *invitation.root_sha256(),
            expected: ca_id(&trust_domain),
        };
        let connector = KeyConnector::new(
            key.credential(),
            ServerTrust::Pinned(pinned),
            clock.clone(),
            ConnectorOptions::default(),
        )
        .expect("a connector");
        let channel = endpoint(&address).connect_with_connector(connector).await.expect("first contact with the CA");
        let request = JoinRequest { secret: invitation.secret().expose_secret().to_vec(), agent: Some(agent(&*clock)) };
        let answer = NodeApiClient::new(channel).join(request).await.expect("the node joins").into_inner();
        let credential = answer.credential.expect("a credential");
        let svid =
            X509Svid::new(credential.chain.into_iter().map(Into::into).collect(), key.pkcs8.clone()).expect("an SVID");
        let bundle = TrustBundle::parse_spiffe_json(trust_domain, &credential.bundle).expect("a bundle");
        let (identity, publisher) = Identity::published(clock);
        publisher.publish(Some(svid), BundleSet::from(bundle));
        Self { identity, address, _publisher: publisher, api: None }
    }

    /// Connects as a node.
    pub async fn connect(&mut self) -> NodeApiClient<Channel> {
        if let Some(api) = &self.api {
            return api.clone();
        }
        let id = self.identity.id().expect("an identity");
        let expected = PeerSet::id(ca_id(id.trust_domain()));
        let connector = Connector::new(&self.identity, expected, ConnectorOptions::default()).expect("a connector");
        let channel = endpoint(&self.address).connect_with_connector(connector).await.expect("the CA takes the node");
        let api = NodeApiClient::new(channel).max_decoding_message_size(16 * 1024 * 1024);
        self.api.insert(api).clone()
    }

    /// Opens the stream, with nothing held, and takes the first update.
    pub async fn sync(&mut self) -> (SyncStream, SyncResponse) {
        let mut api = self.connect().await;
        let (answers, outgoing) = mpsc::channel(4);
        let hello = Hello { agent: Some(agent(&SystemClock)), ..Hello::default() };
        answers.send(SyncRequest { message: Some(Message::Hello(hello)) }).await.expect("room for a hello");
        let updates = api.sync(ReceiverStream::new(outgoing)).await.expect("a stream").into_inner();
        let mut stream = SyncStream { answers, updates };
        let first = stream.next().await;
        (stream, first)
    }
}

impl SyncStream {
    /// The next update; the one before it counts as applied.
    pub async fn next(&mut self) -> SyncResponse {
        let update = self.updates.message().await.expect("the stream goes on").expect("the stream goes on");
        let applied = Acknowledgement { position: update.position.clone(), refused: String::new() };
        self.answers.send(SyncRequest { message: Some(Message::Applied(applied)) }).await.expect("the stream goes on");
        update
    }
}

/// Has keys certified, each for the service beside it.
pub async fn issue(api: &mut NodeApiClient<Channel>, wanted: &[(String, Vec<u8>)]) -> IssueX509Response {
    let items = wanted
        .iter()
        .map(|(service, spki)| X509Item { service_id: service.clone(), public_key: spki.clone() })
        .collect();
    api.issue_x509(IssueX509Request { items }).await.expect("certificates").into_inner()
}

/// The SVIDs out of an answer, with the keys they are for. Panics at the first refusal.
pub fn svids(answer: IssueX509Response, keys: &[Key]) -> Vec<X509Svid> {
    let rest: Vec<Vec<u8>> = answer.issuer_chain;
    answer
        .results
        .into_iter()
        .zip(keys)
        .map(|(result, key)| {
            let leaf = match result.result.expect("a result") {
                x509_result::Result::Leaf(leaf) => leaf,
                x509_result::Result::Refusal(refusal) => panic!("refused: {refusal:?}"),
            };
            let chain = std::iter::once(leaf).chain(rest.iter().cloned()).map(Into::into).collect();
            X509Svid::new(chain, key.pkcs8.clone()).expect("an SVID")
        })
        .collect()
}

/// How many leaves are in an answer. Panics at the first refusal.
pub fn count_leaves(answer: &IssueX509Response) -> usize {
    answer
        .results
        .iter()
        .map(|result| match &result.result {
            Some(x509_result::Result::Leaf(_)) => 1,
            other => panic!("no leaf: {other:?}"),
        })
        .sum()
}

fn agent(clock: &dyn Clock) -> AgentInfo {
    AgentInfo { version: "bench".to_owned(), now_ms: clock.now().unix_millis() }
}

/// Like an agent's: the same windows, the same pings.
pub(super) fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("https://{address}"))
        .expect("an address")
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .tcp_nodelay(true)
}

/// So many nodes that have joined, some at a time. Names begin with `prefix`.
pub async fn join_many(operator: &Operator, prefix: &str, count: usize) -> Vec<SimulatedNode> {
    let mut joining = tokio::task::JoinSet::new();
    let mut nodes = Vec::with_capacity(count);
    for index in 0..count {
        let (mut operator, name) = (operator.clone(), format!("{prefix}-{index}"));
        joining.spawn(async move { SimulatedNode::join(&invite(&mut operator, &name).await).await });
        if joining.len() >= AT_ONCE {
            nodes.extend(joining.join_next().await.transpose().expect("a node joins"));
        }
    }
    while let Some(joined) = joining.join_next().await {
        nodes.push(joined.expect("a node joins"));
    }
    nodes
}

/// Opens the stream of each, some at a time; each has taken its first update.
pub async fn connect_many(nodes: Vec<SimulatedNode>) -> Vec<(SimulatedNode, SyncStream)> {
    let mut connecting = tokio::task::JoinSet::new();
    let mut connected = Vec::with_capacity(nodes.len());
    for mut node in nodes {
        connecting.spawn(async move {
            let (stream, _) = node.sync().await;
            (node, stream)
        });
        if connecting.len() >= AT_ONCE {
            connected.extend(connecting.join_next().await.transpose().expect("a stream"));
        }
    }
    while let Some(one) = connecting.join_next().await {
        connected.push(one.expect("a stream"));
    }
    connected
}

/// Joins and connections under way at once.
const AT_ONCE: usize = 8;
