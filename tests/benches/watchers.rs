//! How long until a change of a setting is at those who watch? `examples/config-service` as it is, in its own process, with a thousand watchers in
//! this one, each on an mTLS connection of its own: from the moment a change is asked for, its time on the disk included, to each watcher, over gRPC
//! and over server-sent events; against a local broadcast to as many tasks.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bonafide_examples::{
    generated::settings::{WatchRequest, settings_client::SettingsClient},
    process::Process,
};
use bonafide_tests::{
    measure::{
        self, Figure, Goal, Times,
        kept::{self, Kept},
    },
    site::{SOON, Site},
};
use bonafide_verifier::{
    clock::SystemClock,
    identity::{
        Identity,
        workload_api::{Endpoint, WorkloadApi},
    },
    spiffe::SpiffeId,
    tls::{Connector, ConnectorOptions, PeerSet},
};
use tokio::{
    io::AsyncReadExt as _,
    sync::{broadcast, mpsc},
    task::JoinSet,
    time::timeout,
};

const POLICY: &str = r#"
version = 1
[[allow]]
name = "the benchmark watches and changes"
callers = ["/bench"]
http = ["GET /v1/watch/{service}", "PUT /v1/settings/{service}/{name}"]
grpc = ["bonafide.examples.settings.v1.Settings/Watch"]
app = ["watch /{service}"]
"#;

const HUB: &str = "spiffe://example.org/config";

fn main() {
    let mut site = Site::new();
    site.environment = vec![("RUST_LOG".to_owned(), "warn".to_owned())];
    site.start_ca();
    let node = site.join("n1");
    let this = std::env::current_exe().expect("this program");
    site.add_program("config", &site.programs.config_service, &["--on", "n1", "--dns", "localhost"]);
    site.add_program("bench", &this, &["--on", "n1"]);
    let policy = node.path("policy.toml");
    std::fs::write(&policy, POLICY).expect("a policy");
    let mut command = node.workload(&site.programs.config_service);
    command.env("RUST_LOG", "warn").arg("--policy").arg(policy);
    command.arg("--records").arg(node.path("records.jsonl")).arg("--data").arg(node.path("settings"));
    let hub = Process::start("config-service", &mut command).expect("the hub starts");
    let address = hub.ready("listen", SOON).unwrap_or_else(|error| panic!("{error}")).parse().expect("an address");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let api = WorkloadApi::at(Endpoint::Unix(node.socket()));
        let identity = Identity::spawn(&api, Arc::new(SystemClock));
        identity.ready(SOON).await.expect("an identity");
        let hub = Hub { address, identity };
        let many = if measure::quick() { 100 } else { 1000 };
        measure::heading("a change of a setting, from the request for it to those who watch");
        for count in [1, many] {
            let local = local_broadcast(count).await;
            for (way, goal) in [(Way::Grpc, Goal::AtMost(50.0)), (Way::Events, Goal::AtMost(50.0))] {
                let times = changes(&hub, way, count).await;
                let name = |figure: &str| format!("watchers/{count}/{}/{figure}", way.name());
                let figure = |name: &str, share, goal| {
                    Figure::beside(name, times.quantile(share), local.quantile(share), "ms", goal).print();
                };
                figure(&name("p50"), 0.5, Goal::None);
                figure(&name("p99"), 0.99, goal);
            }
        }
    });
}

/// How a watcher is told.
#[derive(Clone, Copy, Debug)]
enum Way {
    Grpc,
    Events,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Events => "events",
        }
    }
}

/// When a watcher had which version.
type Told = mpsc::UnboundedSender<(u64, Instant)>;

struct Hub {
    address: SocketAddr,
    identity: Identity,
}

impl Hub {
    fn expected() -> PeerSet {
        PeerSet::id(SpiffeId::parse(HUB).expect("an ID"))
    }

    async fn kept(&self) -> Kept {
        Kept::open(&kept::connector(&self.identity, Self::expected()), self.address).await
    }

    /// Watches for as long as it is polled.
    async fn watch_grpc(&self, told: Told) -> impl Future<Output = ()> + Send + 'static {
        let connector = Connector::new(&self.identity, Self::expected(), ConnectorOptions::default());
        let endpoint = format!("http://localhost:{}", self.address.port());
        let endpoint = tonic::transport::Endpoint::from_shared(endpoint).expect("an address");
        let channel = endpoint.connect_with_connector(connector.expect("a connector")).await.expect("the hub answers");
        let request = WatchRequest { service: SERVICE.to_owned() };
        let mut states = SettingsClient::new(channel).watch(request).await.expect("a stream").into_inner();
        async move {
            while let Some(state) = states.message().await.expect("the stream goes on") {
                let _ = told.send((state.version, Instant::now()));
            }
        }
    }

    /// The same by server-sent events.
    async fn watch_events(&self, told: Told) -> impl Future<Output = ()> + Send + 'static {
        let request = format!("GET /v1/watch/{SERVICE} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let mut stream = self.kept().await.begin(request.as_bytes()).await;
        async move {
            let (mut text, mut buffer) = (String::new(), [0; 4096]);
            loop {
                let read = stream.read(&mut buffer).await.expect("the stream goes on");
                assert_ne!(read, 0, "the stream goes on: {text}");
                let now = Instant::now();
                text += std::str::from_utf8(&buffer[..read]).expect("text");
                // An event ends with an empty line.
                while let Some(end) = text.find("\n\n") {
                    let event = text.drain(..end + 2).collect::<String>();
                    let version = event.lines().find_map(|line| line.strip_prefix("id: "));
                    if let Some(version) = version {
                        let _ = told.send((version.parse().expect("a version"), now));
                    }
                }
            }
        }
    }
}

const SERVICE: &str = "export";

/// Changes a setting again and again; each time for each of so many watchers.
async fn changes(hub: &Hub, way: Way, count: usize) -> Times {
    let (told, mut tell) = mpsc::unbounded_channel();
    let mut watching = JoinSet::new();
    for _ in 0..count {
        match way {
            Way::Grpc => watching.spawn(hub.watch_grpc(told.clone()).await),
            Way::Events => watching.spawn(hub.watch_events(told.clone()).await),
        };
    }
    // The state of now.
    for _ in 0..count {
        next(&mut tell).await;
    }
    let mut changing = hub.kept().await;
    let mut times = Times::new();
    for round in 0..measure::rounds(50) {
        let body = format!(r#"{{"value":"{}"}}"#, 10_000 + round);
        let request = format!(
            "PUT /v1/settings/{SERVICE}/row-limit HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        let asked = changing.ask_any(request.as_bytes());
        let arrived = async {
            let mut version = None;
            for _ in 0..count {
                let (found, at) = next(&mut tell).await;
                assert_eq!(*version.get_or_insert(found), found, "one change at a time");
                times.record(at - began);
            }
        };
        tokio::join!(asked, arrived);
    }
    assert!(watching.try_join_next().is_none(), "all watch to the end");
    times
}

async fn next(tell: &mut mpsc::UnboundedReceiver<(u64, Instant)>) -> (u64, Instant) {
    timeout(SOON, tell.recv()).await.expect("in time").expect("there are watchers")
}

/// As many tasks of this process, told through a channel.
async fn local_broadcast(count: usize) -> Times {
    let (send, _) = broadcast::channel::<Instant>(4);
    let (told, mut tell) = mpsc::unbounded_channel();
    let mut waiting = JoinSet::new();
    for _ in 0..count {
        let (mut receive, told) = (send.subscribe(), told.clone());
        waiting.spawn(async move {
            while let Ok(sent) = receive.recv().await {
                let _ = told.send(sent.elapsed());
            }
        });
    }
    let mut times = Times::new();
    for _ in 0..measure::rounds(50) {
        send.send(Instant::now()).expect("receivers");
        for _ in 0..count {
            times.record(tell.recv().await.expect("a receiver"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    times
}
