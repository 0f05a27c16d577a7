//! What does it cost to carry a user through three services? photo calls image, which acts for the user, which calls blob, each behind mutual TLS
//! and its own rules in a thread of its own, as in `examples/photo-chain`; the user's transaction token is checked at all three and carried on by the
//! client layer. Against the same three without a user: the same connections, layers and rules but for those about users. Requests a second.
//!
//! The tokens are those of a token authority made here, five minutes long, with the key type of the real one. Seen before means that the
//! services have had other requests of the transaction; beside it stands a chain in which each request has a token of its own, whose signature
//! each of the three has to check.

use std::{
    iter,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use axum::{Extension, extract::Path, http::StatusCode};
use bonafide_tests::measure::{
    self, Figure, Goal,
    guarded::{self, Served},
    issued::{Issued, issued},
    kept::Kept,
    process, rules,
};
use bonafide_verifier::{
    authorization::Authorization,
    clock::{Clock as _, SystemClock, Timestamp},
    http::{
        RequireUser, Routes,
        propagate::{HttpClient, UserClient},
    },
    jwt::txn_token::TxnClaims,
    policy::Method,
    record::{JsonLines, JsonLinesOptions, RecordSink},
    spiffe::JwtAuthority,
    tls::{Connector, ConnectorOptions, PeerSet},
    txn_tokens::{FindTxnKey, LookUp, TxnTokens},
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Map, json};
use tokio::task::JoinSet;

/// Connections of the requests that come at once.
const CONNECTIONS: usize = 8;
/// Requests on each in a measurement.
const BATCH: usize = 50;

/// The services, by their places among the SVIDs.
const PHOTO: usize = 0;
const IMAGE: usize = 1;
const BLOB: usize = 2;
const CALLER: usize = 3;

fn main() {
    let issued = issued(&["photo", "image", "blob", "web"]);
    let folder = tempfile::tempdir().expect("a folder");
    let records =
        JsonLines::open(folder.path().join("records"), JsonLinesOptions::default()).expect("a file of records");
    let records: Arc<dyn RecordSink> = Arc::new(records);
    let authority = Authority::new();
    let with = Chain::start(&issued, &records, Some(&authority));
    let without = Chain::start(&issued, &records, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut with, mut without) = (with.connect(&issued).await, without.connect(&issued).await);
        let plain = vec![request(None)];
        let transactions: Vec<_> =
            (0..CONNECTIONS).map(|user| request(Some(&authority.token(&issued, user)))).collect();
        rate(&mut with, &transactions).await;
        rate(&mut without, &plain).await;
        let (mut before, mut new, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..measure::rounds(100) {
            let tokens = (0..CONNECTIONS * BATCH).map(|number| request(Some(&authority.token(&issued, number))));
            let tokens: Vec<_> = tokens.collect();
            let mut taken = [None, None, None];
            for turn in 0..3 {
                let which = (round + turn) % 3;
                taken[which] = Some(match which {
                    0 => rate(&mut with, &transactions).await,
                    1 => rate(&mut without, &plain).await,
                    _ => rate(&mut with, &tokens).await,
                });
            }
            let [Some(seen), Some(bare), Some(first)] = taken else { panic!("three were measured") };
            before.push((seen.per_second, bare.per_second));
            new.push((first.per_second, bare.per_second));
            cpu.push((seen.cpu, bare.cpu));
        }
        measure::heading("photo, image and blob with a user carried and checked, against the same without a user");
        Figure::paired("chain/with-user", measure::of_pairs(&before), "/s", Goal::RatioAtLeast(0.9)).print();
        // Whatever else runs on the machine only ever takes away.
        let best = |rates: &mut dyn Iterator<Item = f64>| rates.fold(0.0, f64::max);
        let most = best(&mut before.iter().map(|(rate, _)| *rate));
        let most_without = best(&mut before.iter().map(|(_, rate)| *rate));
        Figure::beside("chain/with-user/best-of-rounds", most, most_without, "/s", Goal::RatioAtLeast(0.9)).print();
        Figure::paired("chain/with-user/cpu-of-all", measure::of_pairs(&cpu), "us", Goal::None).print();
        Figure::paired("chain/with-new-token-each", measure::of_pairs(&new), "/s", Goal::None).print();
    });
}

/// Who signs the transaction tokens.
struct Authority {
    pair: EcdsaKeyPair,
    key: JwtAuthority,
}

impl Authority {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let key =
            JwtAuthority::new("txn-1", pair.public_key().as_der().expect("a public key").as_ref()).expect("a key");
        Self { pair, key }
    }

    /// As a service has it from its agent, which would be asked for keys that are not known.
    fn verifies(&self) -> TxnTokens {
        let tokens = TxnTokens::new(rules::trust_domain(), vec![self.key.clone()]).expect("one key");
        tokens.look_up_with(Arc::new(NoOther));
        tokens
    }

    fn token(&self, issued: &Issued, user: usize) -> String {
        let now = Timestamp::from_unix_seconds(SystemClock.now().unix_seconds());
        let mut rctx = Map::new();
        rctx.insert("authn".to_owned(), json!("id_token"));
        let claims = TxnClaims {
            sub: format!("corp:u-{user}"),
            txn: format!("{:032x}", u128::from(now.unix_millis().unsigned_abs()) << 64 | user as u128),
            scope: "photo.read".to_owned(),
            requester: issued.svids[CALLER].id().clone(),
            earlier_requesters: Vec::new(),
            tctx: Map::new(),
            rctx,
            issued_at: now,
            expires_at: now.saturating_add(Duration::from_secs(300)),
        };
        let input = claims.signing_input(&rules::trust_domain(), self.key.key_id()).expect("good claims");
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
        input.with_signature(signature.as_ref())
    }
}

/// There are no other keys.
#[derive(Debug)]
struct NoOther;

impl FindTxnKey for NoOther {
    fn find(&self, key_id: &str) -> Option<LookUp> {
        panic!("a key of nobody: {key_id}");
    }
}

/// Three services; the first is called.
struct Chain {
    photo: Served,
    _others: [Served; 2],
}

impl Chain {
    fn start(issued: &Issued, records: &Arc<dyn RecordSink>, users: Option<&Authority>) -> Self {
        let authorization = |server, caller: usize, route: &str| {
            let caller = issued.svids[caller].id().path();
            let user = if users.is_some() { "user = \"required\"\nscope = \"photo.read\"\n" } else { "" };
            let rule = format!("callers = [\"{caller}\"]\nhttp = [\"GET {route}\"]\n{user}");
            guarded::authorization_by(issued, server, &rule, |builder| {
                let builder = builder.sample_allowed(1000).record_to(Arc::clone(records));
                match users {
                    Some(authority) => builder.users(authority.verifies()),
                    None => builder,
                }
            })
        };
        let routes = |authorization: Authorization| Routes::new(authorization);
        let blob = routes(authorization(BLOB, IMAGE, "/v1/blobs/{id}")).route(Method::Get, "/v1/blobs/{id}", blob);
        let blob = Served::start(issued, BLOB, blob.into_service());
        let to_blob = Next::new(issued, IMAGE, &blob, users.is_some());
        let image = routes(authorization(IMAGE, PHOTO, "/v1/images/{name}"));
        let image = match users {
            Some(_) => image.route(Method::Get, "/v1/images/{name}", image_of_user),
            None => image.route(Method::Get, "/v1/images/{name}", image_of_anybody),
        };
        let image = Served::start(issued, IMAGE, image.raw(|router| router.layer(Extension(to_blob))).into_service());
        let to_image = Next::new(issued, PHOTO, &image, users.is_some());
        let photo = routes(authorization(PHOTO, CALLER, "/v1/photos/{name}"));
        let photo = photo.route(Method::Get, "/v1/photos/{name}", self::photo);
        let photo = Served::start(issued, PHOTO, photo.raw(|router| router.layer(Extension(to_image))).into_service());
        Self { photo, _others: [image, blob] }
    }

    async fn connect(&self, issued: &Issued) -> Vec<Kept> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(self.photo.kept(issued, CALLER).await);
        }
        connections
    }
}

/// The next service, as the examples call theirs.
#[derive(Clone)]
struct Next {
    client: ForWhom,
    url: String,
}

#[derive(Clone)]
enum ForWhom {
    Users(UserClient<HttpClient<Full<Bytes>>>),
    Nobody(HttpClient<Full<Bytes>>),
}

impl Next {
    fn new(issued: &Issued, own: usize, next: &Served, for_users: bool) -> Self {
        let expected = PeerSet::id(next.id());
        let connector =
            Connector::new(&issued.identity(own), expected, ConnectorOptions::default()).expect("a connector");
        let url = next.url();
        let client = if for_users {
            ForWhom::Users(UserClient::http(connector, &url).expect("an origin").require_user())
        } else {
            ForWhom::Nobody(Client::builder(TokioExecutor::new()).build(connector))
        };
        Self { client, url }
    }

    async fn ask(&self, path: &str) -> Result<Bytes, StatusCode> {
        let request = Request::get(format!("{}{path}", self.url)).body(Full::default());
        let request = request.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let answer = match &self.client {
            ForWhom::Users(client) => client.request(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?,
            ForWhom::Nobody(client) => client.request(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?,
        };
        if answer.status() != StatusCode::OK {
            return Err(answer.status());
        }
        Ok(answer.into_body().collect().await.map_err(|_| StatusCode::BAD_GATEWAY)?.to_bytes())
    }
}

async fn photo(Extension(next): Extension<Next>, Path(name): Path<String>) -> Result<Bytes, StatusCode> {
    next.ask(&format!("/v1/images/{name}")).await
}

async fn image_of_user(
    RequireUser(user): RequireUser,
    Extension(next): Extension<Next>,
    Path(_name): Path<String>,
) -> Result<Bytes, StatusCode> {
    if !user.sub().starts_with("corp:u-") {
        return Err(StatusCode::NOT_FOUND);
    }
    next.ask("/v1/blobs/5e884898da28047151d0e56f8dc62927").await
}

async fn image_of_anybody(Extension(next): Extension<Next>, Path(_name): Path<String>) -> Result<Bytes, StatusCode> {
    next.ask("/v1/blobs/5e884898da28047151d0e56f8dc62927").await
}

async fn blob(Path(_id): Path<String>) -> Bytes {
    Bytes::from_static(&[b'p'; 1024])
}

fn request(token: Option<&str>) -> Vec<u8> {
    let token = token.map(|token| format!("txn-token: {token}\r\n")).unwrap_or_default();
    format!("GET /v1/photos/cat HTTP/1.1\r\nhost: localhost\r\n{token}\r\n").into_bytes()
}

struct Rate {
    per_second: f64,
    /// Processor time of clients and services together for one request.
    cpu: f64,
}

/// From all connections at once; each takes its share of the requests, again and again.
async fn rate(connections: &mut Vec<Kept>, requests: &[Vec<u8>]) -> Rate {
    let this = std::process::id();
    let (began, before) = (Instant::now(), process::cpu(this));
    let mut asking = JoinSet::new();
    for (number, mut connection) in connections.drain(..).enumerate() {
        let own: Vec<_> = requests.iter().skip(number % requests.len()).step_by(CONNECTIONS).cloned().collect();
        asking.spawn(async move {
            for request in iter::repeat(&own).flatten().take(BATCH) {
                connection.ask(request).await;
            }
            connection
        });
    }
    connections.extend(asking.join_all().await);
    let count = (connections.len() * BATCH) as f64;
    let cpu = (process::cpu(this) - before).as_secs_f64() * 1e6 / count;
    Rate { per_second: count / began.elapsed().as_secs_f64(), cpu }
}
