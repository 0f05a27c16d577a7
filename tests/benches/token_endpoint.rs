//! How much of what the machine can sign does the CA's token endpoint hand out? Transaction tokens a second for users whose tokens it has seen
//! before, from a whole CA in its own process over warm mTLS connections, each decided by the token policy and recorded durably before it leaves,
//! client and CA on the same machine; against ES256 signatures in a loop, on all cores and on one.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bonafide_ca_api::{ca_id, token_exchange};
use bonafide_tests::{
    measure::{
        self, Figure, Goal,
        kept::{self, Kept},
        process,
        signatures::Signatures,
        users::{ID_TOKEN, ISSUER, Users},
    },
    site::{SOON, Site, TRUST_DOMAIN},
};
use bonafide_verifier::{
    clock::SystemClock,
    identity::{
        Identity,
        workload_api::{Endpoint, WorkloadApi},
    },
    spiffe::TrustDomain,
    tls::PeerSet,
};
use tokio::task::JoinSet;

/// Connections, each with one request at a time.
const CONNECTIONS: usize = 64;
/// Requests on each in a measurement.
const REQUESTS: usize = 50;
/// Users whose tokens come again and again.
const USERS: usize = 64;
/// Of a token without its signature.
const SIGNED_BYTES: usize = 400;

const POLICY: &str = r#"
version = 1
[[allow]]
name = "users' photos"
callers = ["/edge"]
app = ["exchange /photo.read", "exchange /photo.write"]
when = 'resource.subject_type == "id_token" && resource.issuer == "corp"'
"#;

fn main() {
    let mut site = Site::new();
    site.environment = vec![("RUST_LOG".to_owned(), "warn".to_owned())];
    let policy = site.path("tokens.toml");
    std::fs::write(&policy, POLICY).expect("a policy");
    let arguments = ["--token-listen", "127.0.0.1:0", "--token-dns", "localhost", "--max-tokens-per-second", "1000000"];
    site.ca_arguments = arguments.map(str::to_owned).to_vec();
    site.ca_arguments.extend(["--token-policy".to_owned(), policy.display().to_string()]);
    site.start_ca();
    let ca = site.ca.as_ref().expect("a CA");
    let address = ca.ready("tokens", SOON).unwrap_or_else(|error| panic!("{error}")).parse().expect("an address");
    let node = site.join("n1");
    let users = Users::of(&site);
    site.add_service("edge", &["--on", "n1", "--edge-scope", "photo.read", "--edge-issuer", ISSUER]);
    let requests: Arc<Vec<Vec<u8>>> =
        Arc::new((0..USERS).map(|user| request(&users.id_token(&format!("u-{user:03}")))).collect());
    let pid = ca.id();
    let signatures = Signatures::over(SIGNED_BYTES);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let api = WorkloadApi::at(Endpoint::Unix(node.socket()));
        let identity = Identity::spawn(&api, Arc::new(SystemClock));
        identity.ready(SOON).await.expect("an identity");
        let mut connections = open(&identity, address).await;
        // Each token for the first time.
        for request in requests.iter() {
            connections[0].ask(request).await;
        }

        measure::heading("transaction tokens a second from the CA's token endpoint, user's token seen before");
        let (mut all, mut one, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..measure::rounds(20) {
            let mut sign = || {
                let signed = signatures.per_second_on_all_cores(CONNECTIONS * REQUESTS);
                (signed, signatures.per_second(CONNECTIONS * REQUESTS / 4))
            };
            let before = (round % 2 == 0).then(&mut sign);
            let taken = ask(pid, &mut connections, &requests).await;
            let (on_all, on_one) = before.unwrap_or_else(&mut sign);
            all.push((taken.per_second, on_all));
            one.push((taken.per_second, on_one));
            cpu.push((taken.cpu, signatures.micros()));
        }
        Figure::paired("token-endpoint/tokens", measure::of_pairs(&all), "/s", Goal::RatioAtLeast(0.5)).print();
        Figure::paired("token-endpoint/against-one-core", measure::of_pairs(&one), "/s", Goal::None).print();
        Figure::paired("token-endpoint/ca-cpu-per-token", measure::of_pairs(&cpu), "us", Goal::None).print();
    });
}

fn request(id_token: &str) -> Vec<u8> {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", token_exchange::GRANT_TYPE)
        .append_pair("requested_token_type", token_exchange::TXN_TOKEN_TYPE)
        .append_pair("subject_token_type", ID_TOKEN)
        .append_pair("subject_token", id_token)
        .append_pair("audience", TRUST_DOMAIN)
        .append_pair("scope", "photo.read")
        .finish();
    let length = form.len();
    format!(
        "POST /token HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {length}\r\n\r\n{form}"
    )
    .into_bytes()
}

async fn open(identity: &Identity, address: SocketAddr) -> Vec<Kept> {
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN).expect("a trust domain");
    let connector = kept::connector(identity, PeerSet::id(ca_id(&trust_domain)));
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(Kept::open(&connector, address).await);
    }
    connections
}

struct Taken {
    per_second: f64,
    /// Of the CA, for one token.
    cpu: f64,
}

/// From all connections at once.
async fn ask(pid: u32, connections: &mut Vec<Kept>, requests: &Arc<Vec<Vec<u8>>>) -> Taken {
    let (began, before) = (Instant::now(), process::cpu(pid));
    let mut asking = JoinSet::new();
    for (number, mut connection) in connections.drain(..).enumerate() {
        let requests = Arc::clone(requests);
        asking.spawn(async move {
            for request in requests.iter().cycle().skip(number).take(REQUESTS) {
                connection.ask(request).await;
            }
            connection
        });
    }
    connections.extend(asking.join_all().await);
    let count = (connections.len() * REQUESTS) as f64;
    let cpu = (process::cpu(pid) - before).as_secs_f64() * 1e6 / count;
    Taken { per_second: count / began.elapsed().as_secs_f64(), cpu }
}
