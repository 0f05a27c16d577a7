//! What lasts longer than a request: a connection that a handler took over, and one that speaks no HTTP at all.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    tracks::{World, api_key},
    *,
};
use crate::{key_records::KeyRecords, policy::CanonicalPath, tls::Peer};

const POLICY: &str = r#"
version = 1
[accept]
api-key = { until = 9000-12-31 }
[[allow]]
name = "echo"
callers = ["/export"]
http = ["GET /v1/echo"]
app = ["connect /orders", "order.cancel /orders/{id}"]
proof = "api-key"
"#;

const NOTHING: &str = "version = 1\n[accept]\napi-key = { until = 9000-12-31 }\n";

fn policy_of(text: &str) -> Policy {
    Policy::parse(text, &TrustDomain::parse("example.org").unwrap(), Timestamp::from_unix_seconds(NOW)).unwrap().policy
}

/// Moves the clock until `done` is. On a busy machine it runs years ahead before anybody looks, which is why API keys are accepted for so long here.
async fn while_time_goes<T>(world: &World, step: Duration, done: impl Future<Output = T>) -> T {
    let time = async {
        loop {
            tokio::task::yield_now().await;
            world.clock.advance(step);
        }
    };
    tokio::select! {
        found = done => found,
        () = time => unreachable!("time has no end"),
    }
}

async fn upgraded(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {
    let key = format!("Authorization: ApiKey {}\r\n", api_key("/export"));
    let head = format!("GET /v1/echo HTTP/1.1\r\nHost: config\r\nConnection: upgrade\r\nUpgrade: echo\r\n{key}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    stream
}

/// F-24, traps 14 and 15: a handler that takes its connection over (as for a WebSocket) and looks at nothing keeps it no longer than it is
/// allowed: by the policy of the day, by the key's record, by the key's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_15_f_24_a_connection_that_was_taken_over_ends_with_its_permission() {
    for (what, reason) in [("policy", "no-rule"), ("key", "key-withdrawn"), ("end", "credential-expired")] {
        let world = World::new(POLICY).await;
        let mut stream = upgraded(world.plain_stream().await).await;
        assert_eq!(world.records.take().len(), 1);
        match what {
            "policy" => world.authorization.replace_policy(policy_of(NOTHING)).unwrap(),
            "key" => world
                .authorization
                .authenticators()
                .replace_key_records(KeyRecords::empty(TrustDomain::parse("example.org").unwrap()))
                .unwrap(),
            _ => {}
        }
        let step = Duration::from_secs(if what == "end" { 3600 } else { 1 });
        let mut rest = Vec::new();
        let ended =
            tokio::time::timeout(Duration::from_secs(30), while_time_goes(&world, step, stream.read_to_end(&mut rest)));
        drop(ended.await.expect("cut in time"));
        assert!(rest.is_empty(), "{what}: nothing more came");
        assert_eq!(world.records.reason(), reason, "{what}");
        world.stop().await;
    }
}

/// Over mutual TLS it ends with the connection's own credentials, too, and when the server stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_taken_over_ends_with_its_svids_and_with_the_server() {
    let world = World::new(POLICY).await;
    let mut stream = upgraded(world.tls_stream("/export").await).await;
    let mut rest = Vec::new();
    let ended = while_time_goes(&world, Duration::from_secs(60), stream.read_to_end(&mut rest));
    drop(tokio::time::timeout(Duration::from_secs(30), ended).await.expect("cut in time"));
    assert!(rest.is_empty());
    world.clock.set(Timestamp::from_unix_seconds(NOW));
    let stream = upgraded(world.plain_stream().await).await;
    drop(stream);
    world.stop().await;
}

/// A server that speaks neither HTTP nor gRPC: identity and a decision for the whole connection, looked at again while it lasts.
#[tokio::test]
async fn a_raw_connection_is_decided_as_a_whole() {
    let world = World::new(POLICY).await;
    let orders = CanonicalPath::parse("/orders").unwrap();
    let peer = async |path: &str| {
        let Peer::Svid(peer) = world.server_side_peer(path).await else { unreachable!("an SVID was presented") };
        peer
    };
    let (export, photo) = (peer("/export").await, peer("/photo").await);
    let grant = world.authorization.authorize_connection(&export, None, orders).unwrap();
    assert_eq!(grant.caller().service().unwrap().path(), "/export");
    let record = world.records.take().pop().unwrap();
    assert_eq!((&record["protocol"], &record["rule"]), (&"connection".into(), &"echo".into()));
    assert!(world.authorization.authorize_connection(&photo, None, orders).is_err());
    assert_eq!(world.records.reason(), "no-rule");
    let elsewhere = CanonicalPath::parse("/elsewhere").unwrap();
    assert!(world.authorization.authorize_connection(&export, None, elsewhere).is_err());
    world.records.take();

    // What is said within it is decided by itself.
    let order = CanonicalPath::parse("/orders/7").unwrap();
    assert!(grant.check("order.cancel", order, &Facts::default()).is_ok());
    assert!(grant.check("order.ship", order, &Facts::default()).is_err());
    world.records.take();

    assert!(grant.still_holds());
    world.authorization.replace_policy(policy_of(NOTHING)).unwrap();
    while_time_goes(&world, Duration::from_secs(1), grant.ended()).await;
    assert_eq!(world.records.reason(), "no-rule");
    world.authorization.replace_policy(policy_of(POLICY)).unwrap();
    assert!(grant.still_holds());
    while_time_goes(&world, Duration::from_secs(60), grant.ended()).await;
    assert_eq!(world.records.reason(), "credential-expired");
    world.stop().await;
}
