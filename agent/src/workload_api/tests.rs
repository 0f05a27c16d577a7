//! The Workload API over a real socket, by a client in this process and by processes of other users: a row for each
//! requirement (WAPI, WEP) that the agent has to keep.

use std::{path::PathBuf, sync::atomic::Ordering};

use bonafide_ca_api::Refusal;
use bonafide_verifier::{
    clock::{ManualClock, Timestamp},
    spiffe::{BundleSet, TrustBundle},
    x509::X509Svid,
};
use tonic::{Code, Request, Streaming};

use super::*;
use crate::{
    ca_client::CaClient,
    generated::{
        local::{
            AcceptEpochRequest, AcceptEpochResponse, StatusRequest, StatusResponse, WhoAmIRequest, WhoAmIResponse,
        },
        tokens::{
            self, ExchangeRequest, ExchangeResponse, FindKeyRequest, FindKeyResponse, LookAtIssuerRequest,
            LookAtIssuerResponse, WatchKeysRequest, WatchKeysResponse,
        },
        workload::*,
    },
    renewal::{Boxed, Renewal, RenewalLimits},
    svid_cache::jwt::JwtLimits,
    testing::{
        Helper, OTHER_GID, OTHER_UID, by_root,
        ca::{Kept, Mood, TestCa, foreign_bundle, trust_domain},
        client::*,
        copy_of_helper, open_directory, set_mode,
    },
    token_service,
    view::{Service, View, tests::service as any_service},
};

mod flood;

struct Agent {
    directory: tempfile::TempDir,
    clock: ManualClock,
    ca: Arc<TestCa>,
    cache: SvidCache,
    health: Health,
    stop: CancellationToken,
    running: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Debug)]
struct NoNode;

impl NodeControl for NoNode {
    fn name(&self) -> Option<String> {
        Some("web-1".into())
    }

    fn status(&self) -> StatusResponse {
        StatusResponse { node: "spiffe://example.org/bonafide/node/web-1".into(), ..StatusResponse::default() }
    }

    fn accept_epoch<'a>(&'a self, epoch: &'a str) -> Boxed<'a, Result<(), String>> {
        Box::pin(async move { if epoch == "held" { Ok(()) } else { Err("no epoch is held".into()) } })
    }
}

fn limits() -> Limits {
    Limits {
        wait_for_service: Duration::from_millis(200),
        wait_for_svid: Duration::from_millis(400),
        ..Limits::default()
    }
}

async fn start() -> Agent {
    start_with(limits(), Binding::detect(false).unwrap()).await
}

async fn start_with(limits: Limits, binding: Binding) -> Agent {
    let directory = open_directory();
    let clock = ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000));
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let views = ViewStore::new(View::empty(trust_domain()));
    let ca = TestCa::new(shared.clone(), views.clone());
    let cache = SvidCache::new(shared.clone());
    let jwts = JwtCache::new(ca.clone(), shared.clone(), JwtLimits::default());
    let (health, metrics, stop) = (Health::new(), Metrics::new(), CancellationToken::new());
    let renewal = Renewal {
        cache: cache.clone(),
        jwts: jwts.clone(),
        views: views.clone(),
        authority: ca.clone(),
        keep: Arc::new(Kept::default()),
        health: health.clone(),
        metrics: metrics.clone(),
        clock: shared.clone(),
        limits: RenewalLimits::default(),
    };
    let endpoint = Endpoint::bind(&directory.path().join("s"), binding).unwrap();
    let (_, not_connected) = tokio::sync::watch::channel(None);
    let tokens = TokenService::new(token_service::Parts {
        views: views.clone(),
        ca: CaClient::new(not_connected, Arc::default()),
        health: health.clone(),
        metrics: metrics.clone(),
        clock: shared.clone(),
        directory: directory.path().to_owned(),
    });
    let parts = Parts::new((views, cache.clone(), jwts), tokens, Arc::new(NoNode), (health.clone(), metrics), shared);
    let parts = Parts { limits, ..parts };
    let (stop_serving, stop_renewing) = (stop.clone(), stop.clone());
    let running = vec![
        tokio::spawn(async move {
            endpoint.serve(parts, stop_serving).await;
        }),
        tokio::spawn(renewal.run(stop_renewing)),
    ];
    Agent { directory, clock, ca, cache, health, stop, running }
}

impl Agent {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket()).await
    }

    async fn end(self) {
        self.stop.cancel();
        for running in self.running {
            running.await.unwrap();
        }
    }
}

/// A service of the user who runs this test.
fn own(id: &str) -> Arc<Service> {
    with_selectors(id, &[])
}

fn with_selectors(id: &str, selectors: &[&str]) -> Arc<Service> {
    let user = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
    let mut all = vec![user.as_str()];
    all.extend(selectors);
    any_service(id, &format!("/{id}"), &all)
}

fn hinted(service: &Arc<Service>, hint: &str) -> Arc<Service> {
    Arc::new(Service { hint: hint.into(), ..Service::clone(service) })
}

async fn x509(client: &Client) -> Result<Streaming<X509svidResponse>, Status> {
    client.stream(X509_SVID, X509svidRequest {}).await
}

fn ids(message: &X509svidResponse) -> Vec<&str> {
    message.svids.iter().map(|svid| svid.spiffe_id.strip_prefix("spiffe://example.org").unwrap()).collect()
}

fn reason(status: &Status) -> String {
    Refusal::from_status(status).expect("a refusal with a reason").code
}

/// Over a Unix socket of this host without TLS, to a program that proves nothing and only asks; the kernel says who it is (WEP-01, WEP-03, WEP-07, WEP-12..14).
#[tokio::test]
async fn wapi_06_15_16_the_first_message_holds_all_of_it() {
    let agent = start().await;
    let foreign = foreign_bundle("other.example", agent.clock.now());
    let bundles: BundleSet = [agent.ca.bundle(), foreign.clone()].into_iter().collect();
    agent.ca.publish_with(vec![hinted(&own("photo"), "internal")], bundles);
    let client = agent.client().await;
    let message = next(&mut x509(&client).await.unwrap()).await.unwrap();
    assert_eq!(ids(&message), ["/photo"]);
    let svid = &message.svids[0];
    assert_eq!(svid.hint, "internal");
    assert!(message.crl.is_empty(), "A-32: never sent");
    // WAPI-16: DER, leaf first, and an unencrypted PKCS#8 key that belongs to it.
    let parsed = X509Svid::from_der(&svid.x509_svid, svid.x509_svid_key.clone()).unwrap();
    assert_eq!(parsed.id().as_str(), svid.spiffe_id);
    let bundle = TrustBundle::parse_der(trust_domain(), &svid.bundle).unwrap();
    assert!(bundle.same_keys(&bundle) && bundle.x509_authorities().len() == 1);
    assert_eq!(svid.bundle, agent.ca.bundle().x509_der_concatenated());
    // A-34: the own trust domain is not among the federated ones.
    assert_eq!(message.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://other.example"]);
    assert_eq!(message.federated_bundles["spiffe://other.example"], foreign.x509_der_concatenated());
    agent.end().await;
}

#[tokio::test]
async fn wapi_04_05_every_change_is_told_as_the_full_state() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let mut stream = x509(&client).await.unwrap();
    let first = next(&mut stream).await.unwrap();
    assert_eq!(ids(&first), ["/a"]);
    // A service more, with more selectors: the default identity (WAPI-35).
    let gid = format!("unix:gid:{}", rustix::process::getegid().as_raw());
    agent.ca.publish(vec![own("a"), with_selectors("z", &[&gid])]);
    let second = next(&mut stream).await.unwrap();
    assert_eq!(ids(&second), ["/z", "/a"]);
    assert_eq!(second.svids[1].x509_svid, first.svids[0].x509_svid, "unchanged ones are there again");
    // A bundle changes.
    let bundles: BundleSet =
        [agent.ca.bundle(), foreign_bundle("other.example", agent.clock.now())].into_iter().collect();
    agent.ca.publish_with(vec![own("a"), with_selectors("z", &[&gid])], bundles.clone());
    let third = next(&mut stream).await.unwrap();
    assert_eq!((ids(&third), third.federated_bundles.len()), (vec!["/z", "/a"], 1));
    // Renewed: the same identities, other keys.
    agent.clock.advance(Duration::from_secs(33 * 60));
    let mut renewed = next(&mut stream).await.unwrap();
    if renewed.svids.iter().zip(&third.svids).any(|(now, before)| now.x509_svid == before.x509_svid) {
        renewed = next(&mut stream).await.unwrap(); // one after the other
    }
    assert_eq!(ids(&renewed), ["/z", "/a"]);
    for (now, before) in renewed.svids.iter().zip(&third.svids) {
        assert!(now.x509_svid != before.x509_svid && now.x509_svid_key != before.x509_svid_key);
    }
    // One goes.
    agent.ca.publish_with(vec![own("a")], bundles);
    assert_eq!(ids(&next(&mut stream).await.unwrap()), ["/a"]);
    agent.end().await;
}

#[tokio::test]
async fn wapi_05_nothing_is_said_when_nothing_changed() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let mut stream = x509(&client).await.unwrap();
    next(&mut stream).await.unwrap();
    // Views that change nothing for this caller: another's service, the same again.
    agent.ca.publish(vec![own("a"), any_service("b", "/b", &["unix:uid:4000000"])]);
    agent.ca.publish(vec![own("a")]);
    let silent = tokio::time::timeout(Duration::from_millis(300), stream.message()).await;
    assert!(silent.is_err(), "{silent:?}");
    agent.end().await;
}

#[tokio::test]
async fn wapi_20_what_is_taken_back_ends_the_streams() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let mut svids = x509(&client).await.unwrap();
    let mut x509_bundles: Streaming<X509BundlesResponse> =
        client.stream(X509_BUNDLES, X509BundlesRequest {}).await.unwrap();
    let mut jwt_bundles: Streaming<JwtBundlesResponse> =
        client.stream(JWT_BUNDLES, JwtBundlesRequest {}).await.unwrap();
    next(&mut svids).await.unwrap();
    next(&mut x509_bundles).await.unwrap();
    next(&mut jwt_bundles).await.unwrap();
    agent.ca.publish(Vec::new());
    let ended = [
        next(&mut svids).await.map(drop),
        next(&mut x509_bundles).await.map(drop),
        next(&mut jwt_bundles).await.map(drop),
    ];
    for status in ended.map(Result::unwrap_err) {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "no-identity"));
    }
    agent.end().await;
}

/// (WEP-17)
#[tokio::test]
async fn wapi_19_24_no_identity_is_explained_to_the_asker_with_its_own_facts_alone() {
    let agent = start().await;
    agent.ca.publish(vec![any_service("secret", "/secret-service", &["unix:uid:4000000", "unix:path:/opt/secret"])]);
    let client = agent.client().await;
    let refused = [
        ("FetchX509SVID", x509(&client).await.map(drop)),
        (
            "FetchX509Bundles",
            client.stream::<_, X509BundlesResponse>(X509_BUNDLES, X509BundlesRequest {}).await.map(drop),
        ),
        ("FetchJWTBundles", client.stream::<_, JwtBundlesResponse>(JWT_BUNDLES, JwtBundlesRequest {}).await.map(drop)),
        ("FetchJWTSVID", jwt(&client, &["a"], "").await.map(drop)),
        ("ValidateJWTSVID", validate(&client, "a", "x.y.z").await.map(drop)),
    ];
    let mut references = std::collections::BTreeSet::new();
    for (rpc, outcome) in refused {
        let status = outcome.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "no-identity"), "WAPI-19 {rpc}");
        let text = status.message();
        let uid = rustix::process::geteuid().as_raw();
        let expected = [format!("uid {uid}"), format!("pid {}", std::process::id()), "whoami --socket ".into()];
        assert!(expected.iter().all(|part| text.contains(part)), "{rpc}: {text}");
        assert!(!text.contains("secret") && !text.contains("4000000"), "nothing of others' services: {text}");
        references.insert(text.split("reference ").nth(1).unwrap().split(';').next().unwrap().to_owned());
    }
    assert_eq!(references.len(), 1, "the same asker, the same reference");
    agent.ca.publish(vec![any_service("other", "/other", &["unix:uid:4000000"])]);
    let text = x509(&client).await.unwrap_err().message().to_owned();
    let reference = text.split("reference ").nth(1).unwrap().split(';').next().unwrap();
    assert!(!references.contains(reference), "another explanation, told and logged anew: {text}");
    agent.end().await;
}

#[tokio::test]
async fn a_service_registered_a_moment_later_is_waited_for() {
    let agent = start_with(Limits { wait_for_service: Duration::from_secs(20), ..limits() }, Binding::PeerPidfd).await;
    agent.ca.publish(Vec::new());
    let client = agent.client().await;
    let (stream, ()) = tokio::join!(x509(&client), async {
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
        agent.ca.publish(vec![own("late")]);
    });
    assert_eq!(ids(&next(&mut stream.unwrap()).await.unwrap()), ["/late"]);
    agent.end().await;
}

#[tokio::test]
async fn wep_16_without_a_state_from_the_ca_it_is_unavailable() {
    let agent = start().await;
    let client = agent.client().await;
    let status = x509(&client).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "agent-not-ready"));
    agent.end().await;
}

#[tokio::test]
async fn wep_16_without_an_svid_from_the_ca_it_is_unavailable_with_the_reason() {
    let agent = start().await;
    agent.ca.set(Mood::Refuses(None));
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let status = x509(&client).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "not-issued"));
    assert!(status.message().contains("this node has used up its share"), "{}", status.message());
    agent.end().await;
}

#[tokio::test]
async fn an_expired_svid_is_neither_sent_nor_taken_back() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let mut stream = x509(&client).await.unwrap();
    let first = next(&mut stream).await.unwrap();
    agent.ca.set(Mood::Away);
    agent.clock.advance(Duration::from_secs(2 * 3600));
    let silent = tokio::time::timeout(Duration::from_millis(300), stream.message()).await;
    assert!(silent.is_err(), "the CA is away; that is no redaction: {silent:?}");
    agent.ca.set(Mood::Issues);
    let renewed = next(&mut stream).await.unwrap();
    assert!(ids(&renewed) == ["/a"] && renewed.svids[0].x509_svid != first.svids[0].x509_svid);
    agent.end().await;
}

#[tokio::test]
async fn wapi_17_hints_are_unique_in_each_answer() {
    let agent = start().await;
    agent.ca.publish(vec![hinted(&own("a"), "same"), hinted(&own("b"), "same"), hinted(&own("c"), "other")]);
    let client = agent.client().await;
    let message = next(&mut x509(&client).await.unwrap()).await.unwrap();
    let hints: Vec<_> = message.svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!((ids(&message), hints), (vec!["/a", "/b", "/c"], vec!["same", "", "other"]));
    let tokens = jwt(&client, &["x"], "").await.unwrap();
    let hints: Vec<_> = tokens.svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!(hints, ["same", "", "other"]);
    agent.end().await;
}

/// (FED-13)
#[tokio::test]
async fn wapi_13_21_25_26_bundles_of_each_profile() {
    let agent = start().await;
    let foreign = foreign_bundle("other.example", agent.clock.now());
    // Trust domains that take part in one profile alone.
    let none: [&[u8]; 0] = [];
    let td = |name: &str| bonafide_verifier::spiffe::TrustDomain::parse(name).unwrap();
    let roots = foreign_bundle("x509.example", agent.clock.now());
    let roots: Vec<Vec<u8>> = vec![roots.x509_authorities()[0].der().to_vec()];
    let x509_only = TrustBundle::new(td("x509.example"), roots, [], None, None).unwrap();
    let empty = TrustBundle::new(td("empty.example"), none, [], None, None).unwrap();
    let bundles: BundleSet = [agent.ca.bundle(), foreign, Arc::new(x509_only), Arc::new(empty)].into_iter().collect();
    agent.ca.publish_with(vec![own("a")], bundles);
    let client = agent.client().await;
    let mut stream: Streaming<X509BundlesResponse> = client.stream(X509_BUNDLES, X509BundlesRequest {}).await.unwrap();
    let message = next(&mut stream).await.unwrap();
    let mut names: Vec<_> = message.bundles.keys().map(String::as_str).collect();
    names.sort();
    assert_eq!(names, ["spiffe://example.org", "spiffe://other.example", "spiffe://x509.example"], "WAPI-21");
    assert!(message.crl.is_empty());
    assert_eq!(message.bundles["spiffe://example.org"], agent.ca.bundle().x509_der_concatenated());

    let mut stream: Streaming<JwtBundlesResponse> = client.stream(JWT_BUNDLES, JwtBundlesRequest {}).await.unwrap();
    let message = next(&mut stream).await.unwrap();
    let mut names: Vec<_> = message.bundles.keys().map(String::as_str).collect();
    names.sort();
    assert_eq!(names, ["spiffe://example.org", "spiffe://other.example"], "WAPI-21, JWT-25");
    let jwks: serde_json::Value = serde_json::from_slice(&message.bundles["spiffe://example.org"]).unwrap();
    let keys = jwks["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1, "WAPI-26: JWT keys alone");
    assert!(keys[0]["kid"].is_string() && keys[0].get("x5c").is_none(), "WAPI-25, -26: {jwks}");
    agent.ca.publish(vec![own("a")]);
    assert_eq!(next(&mut stream).await.unwrap().bundles.len(), 1, "WAPI-05");
    agent.end().await;
}

async fn jwt(client: &Client, audience: &[&str], spiffe_id: &str) -> Result<JwtsvidResponse, Status> {
    let audience = audience.iter().map(|value| (*value).to_owned()).collect();
    client.unary(JWT_SVID, JwtsvidRequest { audience, spiffe_id: spiffe_id.into() }).await
}

async fn validate(client: &Client, audience: &str, svid: &str) -> Result<ValidateJwtsvidResponse, Status> {
    client.unary(VALIDATE, ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() }).await
}

/// (JWT-27)
#[tokio::test]
async fn wapi_22_23_24_jwt_svids() {
    let agent = start().await;
    agent.ca.publish(vec![own("a"), own("b")]);
    let client = agent.client().await;
    let long = "x".repeat(513);
    let many: Vec<String> = (0..17).map(|number| format!("a{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    type Expected<'a> = Result<&'a [&'a str], (Code, &'a str)>;
    let cases: &[(&str, &[&str], &str, Expected<'_>)] = &[
        ("WAPI-23 all identities", &["db"], "", Ok(&["/a", "/b"])),
        ("WAPI-22 several audiences", &["db", "cache"], "", Ok(&["/a", "/b"])),
        ("the one that is named", &["db"], "spiffe://example.org/b", Ok(&["/b"])),
        ("WAPI-24 another's", &["db"], "spiffe://example.org/c", Err((Code::PermissionDenied, "not-your-identity"))),
        (
            "WAPI-24 other trust domain",
            &["db"],
            "spiffe://other.example/a",
            Err((Code::PermissionDenied, "not-your-identity")),
        ),
        ("WAPI-10 no audience", &[], "", Err((Code::InvalidArgument, "request-invalid"))),
        ("WAPI-10 empty audience", &[""], "", Err((Code::InvalidArgument, "request-invalid"))),
        ("WAPI-10 one of them empty", &["db", ""], "", Err((Code::InvalidArgument, "request-invalid"))),
        ("audience too long", &[&long], "", Err((Code::InvalidArgument, "request-invalid"))),
        ("audience just fits", &[&long[1..]], "", Ok(&["/a", "/b"])),
        ("too many audiences", &many, "", Err((Code::InvalidArgument, "request-invalid"))),
        ("as many as may be", &many[1..], "", Ok(&["/a", "/b"])),
        ("not a SPIFFE ID", &["db"], "https://example.org/a", Err((Code::InvalidArgument, "request-invalid"))),
    ];
    for (requirement, audience, spiffe_id, expected) in cases {
        let answer = jwt(&client, audience, spiffe_id).await;
        match (answer, expected) {
            (Ok(answer), Ok(paths)) => {
                let ids: Vec<_> = answer.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
                let wanted: Vec<_> = paths.iter().map(|path| format!("spiffe://example.org{path}")).collect();
                assert_eq!(ids, wanted, "{requirement}");
                for (svid, value) in
                    answer.svids.iter().flat_map(|svid| audience.iter().map(move |value| (svid, value)))
                {
                    let validated = validate(&client, value, &svid.svid).await.unwrap();
                    assert_eq!(validated.spiffe_id, svid.spiffe_id, "{requirement}");
                }
            }
            (Err(status), Err((code, expected))) => {
                assert_eq!((status.code(), reason(&status).as_str()), (*code, *expected), "{requirement}");
            }
            (answer, _) => panic!("{requirement}: {answer:?}"),
        }
    }
    agent.end().await;
}

#[tokio::test]
async fn t_37_cached_tokens_outlive_the_ca() {
    let agent = start().await;
    agent.ca.publish(vec![own("a"), own("b")]);
    let client = agent.client().await;
    let first = jwt(&client, &["db"], "").await.unwrap();
    assert_eq!(jwt(&client, &["db"], "").await.unwrap(), first, "shared until half of its life");
    assert_eq!(agent.ca.jwt_calls.load(Ordering::Relaxed), 2);
    assert_ne!(jwt(&client, &["cache"], "").await.unwrap(), first, "by audience");
    agent.clock.advance(Duration::from_secs(149));
    assert_eq!(jwt(&client, &["db"], "").await.unwrap(), first);
    agent.clock.advance(Duration::from_secs(2));
    let second = jwt(&client, &["db"], "").await.unwrap();
    assert_ne!(second, first, "renewed after half of its life");

    for mood in [Mood::Silent, Mood::Away] {
        agent.ca.set(mood);
        agent.clock.advance(Duration::from_secs(if mood == Mood::Silent { 151 } else { 10 }));
        for _ in 0..3 {
            let answered = tokio::time::timeout(Duration::from_millis(1500), jwt(&client, &["db"], "")).await;
            assert_eq!(answered.expect("T-37: within 1.5 s").unwrap(), second, "{mood:?}");
        }
    }
    agent.clock.advance(Duration::from_secs(200));
    let status = jwt(&client, &["db"], "").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "not-issued"), "expired is expired");
    agent.end().await;
}

#[tokio::test]
async fn a_token_whose_key_left_the_bundle_is_not_handed_out() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    jwt(&client, &["db"], "").await.unwrap();
    let without_jwt = TrustBundle::parse_der(trust_domain(), &agent.ca.bundle().x509_der_concatenated()).unwrap();
    agent.ca.publish_with(vec![own("a")], without_jwt.into());
    agent.ca.set(Mood::Away);
    assert_eq!(jwt(&client, &["db"], "").await.unwrap_err().code(), Code::Unavailable);
    agent.end().await;
}

#[tokio::test]
async fn wapi_27_28_29_validation() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let now = agent.clock.now().unix_millis() / 1000;
    let claims = serde_json::json!({
        "sub": "spiffe://example.org/a", "aud": ["db"], "exp": now + 60, "iat": now,
        "custom": { "list": [1, true, null, "x"], "big": 9_007_199_254_740_991_i64 },
    });
    let good = agent.ca.sign(&claims);
    let validated = validate(&client, "db", &good).await.unwrap();
    assert_eq!(validated.spiffe_id, "spiffe://example.org/a");
    let fields = validated.claims.unwrap().fields;
    for claim in ["sub", "aud", "exp"] {
        assert!(fields.contains_key(claim), "WAPI-28: {claim}");
    }
    let Some(prost_types::value::Kind::StructValue(custom)) = &fields["custom"].kind else { panic!("{fields:?}") };
    assert_eq!(custom.fields["big"].kind, Some(prost_types::value::Kind::NumberValue(9_007_199_254_740_991.0)), "A-31");

    let without = |claim: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(claim);
        agent.ca.sign(&claims)
    };
    let with = |claim: &str, value: serde_json::Value| {
        let mut claims = claims.clone();
        claims[claim] = value;
        agent.ca.sign(&claims)
    };
    let cases: Vec<(&str, &str, String, &str)> = vec![
        ("WAPI-29 no audience", "", good.clone(), "request-invalid"),
        ("WAPI-29 no token", "db", String::new(), "request-invalid"),
        ("JWT-12 for another", "cache", good.clone(), "token-invalid"),
        ("not a token", "db", "x.y.z".into(), "token-invalid"),
        ("T-09 no exp", "db", without("exp"), "token-invalid"),
        ("T-09 no aud", "db", without("aud"), "token-invalid"),
        ("T-09 no sub", "db", without("sub"), "token-invalid"),
        ("expired", "db", with("exp", (now - 60).into()), "token-invalid"),
        ("unknown trust domain", "db", with("sub", "spiffe://other.example/a".into()), "token-invalid"),
        ("changed", "db", good.replacen('.', ".e", 1), "token-invalid"),
    ];
    for (requirement, audience, token, expected) in cases {
        let status = validate(&client, audience, &token).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, expected), "A-31 {requirement}");
    }
    agent.end().await;
}

/// (ID-27)
#[tokio::test]
async fn wapi_32_wit_is_not_served() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let svid = client.stream::<_, WitsvidResponse>(WIT_SVID, WitsvidRequest::default()).await.unwrap_err();
    let bundles = client.stream::<_, WitBundlesResponse>(WIT_BUNDLES, WitBundlesRequest {}).await.unwrap_err();
    assert_eq!([svid.code(), bundles.code()], [Code::Unimplemented; 2]);
    agent.end().await;
}

/// (A-25)
#[tokio::test]
async fn wep_05_06_the_security_header_guards_every_service() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let paths = [
        X509_SVID,
        X509_BUNDLES,
        JWT_SVID,
        JWT_BUNDLES,
        VALIDATE,
        WIT_SVID,
        WIT_BUNDLES,
        WHO_AM_I,
        STATUS,
        ACCEPT_EPOCH,
        EXCHANGE,
        WATCH_KEYS,
        FIND_KEY,
        LOOK_AT_ISSUER,
        REFLECTION,
        REFLECTION_ALPHA,
        "/SpiffeWorkloadAPI/NoSuchMethod",
        "/no.such.Service/Method",
        "/",
    ];
    for path in paths {
        let headers: &[&[&'static str]] = &[&[], &["TRUE"], &["True"], &[""], &["true", "true"], &["1"]];
        for values in headers {
            let mut request = Request::new(());
            values.iter().for_each(|value| {
                request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
            });
            let status = client.stream_request::<(), ()>(path, request).await.unwrap_err();
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (Code::InvalidArgument, "security-header"),
                "WEP-06 {path} {values:?}"
            );
        }
    }
    // With the header: what is not there is not implemented.
    for path in ["/SpiffeWorkloadAPI/NoSuchMethod", "/no.such.Service/Method"] {
        let status = client.stream::<(), ()>(path, ()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
    agent.end().await;
}

/// (WEP-19, WEP-20, WAPI-02, A-29)
#[tokio::test]
async fn wep_18_20_reflection_names_our_services_beside_the_workload_api() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };
    let agent = start().await;
    let client = agent.client().await;
    for path in [REFLECTION, REFLECTION_ALPHA] {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut stream: Streaming<ServerReflectionResponse> = client.stream(path, request).await.unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = next(&mut stream).await.unwrap().message_response
        else {
            panic!("no list");
        };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&"SpiffeWorkloadAPI") && names.contains(&"bonafide.local.v1.Local"), "{names:?}");
    }
    agent.end().await;
}

#[tokio::test]
async fn whoami_says_what_is_seen_what_matches_and_what_nearly_does() {
    let agent = start().await;
    agent.ca.publish(vec![hinted(&own("a"), "main")]);
    let client = agent.client().await;
    next(&mut x509(&client).await.unwrap()).await.unwrap();
    let answer: WhoAmIResponse = client.unary(WHO_AM_I, WhoAmIRequest { pid: 0 }).await.unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let process = answer.process.unwrap();
    assert_eq!((process.uid, process.pid as u32), (uid, std::process::id()));
    assert_eq!(process.path, std::env::current_exe().unwrap().canonicalize().unwrap().to_str().unwrap());
    assert!(answer.selectors.contains(&format!("unix:uid:{uid}")), "{:?}", answer.selectors);
    assert!(answer.selectors.iter().any(|selector| selector.starts_with("unix:sha256:")));
    assert_eq!((answer.services.len(), answer.services[0].hint.as_str()), (1, "main"));
    assert!(answer.services[0].not_after_ms > 0 && answer.nearest_miss.is_none() && answer.reference.is_empty());

    agent.ca.publish(vec![with_selectors("photo", &["unix:path:/usr/bin/photo"])]);
    let answer: WhoAmIResponse = client.unary(WHO_AM_I, WhoAmIRequest { pid: 0 }).await.unwrap();
    let miss = answer.nearest_miss.expect("this process is the agent's own user");
    assert_eq!(miss.spiffe_id, "spiffe://example.org/photo");
    assert_eq!(miss.differences[0].wanted, "unix:path:/usr/bin/photo");
    assert!(miss.differences[0].found.starts_with("unix:path:/"), "{miss:?}");
    assert!(miss.command.starts_with("bonafide-ca service update /photo --selector unix:uid:"), "{miss:?}");
    assert!(!answer.reference.is_empty());

    agent.ca.publish(Vec::new());
    let answer: WhoAmIResponse = client.unary(WHO_AM_I, WhoAmIRequest { pid: 0 }).await.unwrap();
    let command = answer.nearest_miss.unwrap().command;
    assert!(command.starts_with("bonafide-ca service add /") && command.ends_with("--on web-1"), "{command}");
    let gone = client.unary::<_, WhoAmIResponse>(WHO_AM_I, WhoAmIRequest { pid: i32::MAX }).await.unwrap_err();
    assert_eq!(reason(&gone), "process-ended");
    let negative = client.unary::<_, WhoAmIResponse>(WHO_AM_I, WhoAmIRequest { pid: -1 }).await.unwrap_err();
    assert_eq!(negative.code(), Code::InvalidArgument);
    agent.end().await;
}

#[tokio::test]
async fn status_counts_streams_and_the_epoch_is_the_operators_word() {
    let agent = start().await;
    agent.ca.publish(vec![own("a"), any_service("b", "/b", &["unix:uid:4000000"])]);
    let client = agent.client().await;
    let mut stream = x509(&client).await.unwrap();
    next(&mut stream).await.unwrap();
    let status: StatusResponse = client.unary(STATUS, StatusRequest {}).await.unwrap();
    assert_eq!(status.node, "spiffe://example.org/bonafide/node/web-1");
    assert_eq!((status.services.len(), status.services[0].streams), (1, 1), "what nobody asked for is not listed");
    assert!(status.services[0].renew_at_ms < status.services[0].not_after_ms);
    let held = |epoch: &str| AcceptEpochRequest { epoch: epoch.into() };
    assert!(client.unary::<_, AcceptEpochResponse>(ACCEPT_EPOCH, held("held")).await.is_ok());
    let other = client.unary::<_, AcceptEpochResponse>(ACCEPT_EPOCH, held("other")).await.unwrap_err();
    assert_eq!((other.code(), reason(&other).as_str()), (Code::FailedPrecondition, "epoch-not-held"));
    let empty = client.unary::<_, AcceptEpochResponse>(ACCEPT_EPOCH, held("")).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    agent.end().await;
}

/// Every RPC by every kind of caller. An RPC without a row fails here, since the descriptors are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_13_every_rpc_by_every_kind_of_caller() {
    if !by_root("T-13") {
        return;
    }
    let agent = start().await;
    let other = format!("unix:uid:{OTHER_UID}");
    agent.ca.publish(vec![any_service("photo", "/photo", &[&other])]);
    // Root has no service here, the other user has one, a third has none.
    let rows: &[(&str, &str, &str, &str)] = &[
        // RPC, workload, user without a service, root without a service
        ("x509-svid", "ok", "PermissionDenied", "PermissionDenied"),
        ("x509-bundles", "ok", "PermissionDenied", "PermissionDenied"),
        ("jwt-svid", "ok", "PermissionDenied", "PermissionDenied"),
        ("jwt-bundles", "ok", "PermissionDenied", "PermissionDenied"),
        ("validate", "InvalidArgument", "PermissionDenied", "PermissionDenied"), // the token is none
        ("wit-svid", "Unimplemented", "Unimplemented", "Unimplemented"),
        ("wit-bundles", "Unimplemented", "Unimplemented", "Unimplemented"),
        ("whoami", "ok", "ok", "ok"),
        ("whoami-other", "PermissionDenied", "PermissionDenied", "ok"),
        ("status", "PermissionDenied", "PermissionDenied", "ok"),
        ("accept-epoch", "PermissionDenied", "PermissionDenied", "ok"),
        ("exchange", "FailedPrecondition", "PermissionDenied", "PermissionDenied"), // it is no edge
        ("watch-keys", "ok", "PermissionDenied", "PermissionDenied"),
        ("find-key", "ok", "PermissionDenied", "PermissionDenied"),
        ("look-at-issuer", "ok", "PermissionDenied", "PermissionDenied"),
    ];
    assert_eq!(rpcs_in_descriptors() + 1, rows.len(), "an RPC without a row (whoami has two)");
    for (column, uid) in [(0, OTHER_UID), (1, OTHER_UID + 7), (2, 0)] {
        let mut helper = Helper::start(&agent.socket());
        if uid != 0 {
            helper.order(&format!("gid {OTHER_GID}"));
            helper.order(&format!("uid {uid}"));
        }
        for (rpc, workload, stranger, root) in rows {
            let expected = [workload, stranger, root][column];
            let answer = helper_call(&mut helper, rpc).await;
            assert_eq!(&answer.as_str(), expected, "{rpc} by uid {uid}");
        }
    }
    agent.end().await;
}

/// The facts of a transaction are read as strictly as at the CA's token endpoint.
#[tokio::test]
async fn t_10_facts_that_an_edge_states() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(2048));
    for (what, facts, good) in [
        ("none", "", true),
        ("an object", r#"{"a":1}"#, true),
        ("a member twice", r#"{"a":1,"a":2}"#, false),
        ("a list", "[]", false),
        ("too long", &long, false),
        ("no JSON", "{", false),
    ] {
        for context in [false, true] {
            let (details, context) = if context { ("", facts) } else { (facts, "") };
            let request = ExchangeRequest {
                request_details: details.into(),
                request_context: context.into(),
                ..ExchangeRequest::default()
            };
            let refused = client.unary::<_, ExchangeResponse>(EXCHANGE, request).await.unwrap_err();
            // One that is taken comes as far as the service, which is no edge here.
            let expected = if good { "not-an-edge" } else { "request-invalid" };
            assert_eq!(reason(&refused), expected, "{what}: {refused:?}");
        }
    }
    agent.end().await;
}

fn rpcs_in_descriptors() -> usize {
    use prost::Message;
    let count = |bytes: &[u8]| {
        let set = prost_types::FileDescriptorSet::decode(bytes).unwrap();
        set.file.iter().flat_map(|file| &file.service).map(|service| service.method.len()).sum::<usize>()
    };
    count(workload::DESCRIPTORS) + count(local::DESCRIPTORS) + count(tokens::DESCRIPTORS)
}

/// The helper is another process: this one must go on serving meanwhile.
async fn helper_call(helper: &mut Helper, rpc: &str) -> String {
    helper.send(&format!("call {rpc}"));
    tokio::task::block_in_place(|| helper.answer())
}

/// What a helper process does for `call RPC`: one call on a connection of its own, and what came of it.
pub(crate) fn call_by_name(socket: &Path, rpc: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome: Result<(), Status> = runtime.block_on(async {
        let client = Client::connect(socket).await;
        match rpc {
            "x509-svid" => next(&mut x509(&client).await?).await.map(drop),
            "x509-bundles" => {
                let mut stream: Streaming<X509BundlesResponse> =
                    client.stream(X509_BUNDLES, X509BundlesRequest {}).await?;
                next(&mut stream).await.map(drop)
            }
            "jwt-svid" => jwt(&client, &["db"], "").await.map(drop),
            "jwt-bundles" => {
                let mut stream: Streaming<JwtBundlesResponse> =
                    client.stream(JWT_BUNDLES, JwtBundlesRequest {}).await?;
                next(&mut stream).await.map(drop)
            }
            "validate" => validate(&client, "db", "x.y.z").await.map(drop),
            "wit-svid" => client.stream::<_, WitsvidResponse>(WIT_SVID, WitsvidRequest::default()).await.map(drop),
            "wit-bundles" => client.stream::<_, WitBundlesResponse>(WIT_BUNDLES, WitBundlesRequest {}).await.map(drop),
            "whoami" => {
                let answer: WhoAmIResponse = client.unary(WHO_AM_I, WhoAmIRequest { pid: 0 }).await?;
                // Others' services are for operators.
                let operator = rustix::process::geteuid().is_root();
                assert!(operator || answer.nearest_miss.is_none(), "{answer:?}");
                Ok(())
            }
            "whoami-other" => {
                let parent = nix::unistd::getppid().as_raw();
                client.unary::<_, WhoAmIResponse>(WHO_AM_I, WhoAmIRequest { pid: parent }).await.map(drop)
            }
            "status" => client.unary::<_, StatusResponse>(STATUS, StatusRequest {}).await.map(drop),
            "accept-epoch" => {
                let request = AcceptEpochRequest { epoch: "held".into() };
                client.unary::<_, AcceptEpochResponse>(ACCEPT_EPOCH, request).await.map(drop)
            }
            "exchange" => client.unary::<_, ExchangeResponse>(EXCHANGE, ExchangeRequest::default()).await.map(drop),
            "watch-keys" => {
                let mut stream: Streaming<WatchKeysResponse> = client.stream(WATCH_KEYS, WatchKeysRequest {}).await?;
                next(&mut stream).await.map(drop)
            }
            "find-key" => client.unary::<_, FindKeyResponse>(FIND_KEY, FindKeyRequest::default()).await.map(drop),
            "look-at-issuer" => {
                let request = LookAtIssuerRequest { issuer: "corp".into() };
                let answer: LookAtIssuerResponse = client.unary(LOOK_AT_ISSUER, request).await?;
                assert!(!answer.looked, "there is no such issuer");
                let odd = LookAtIssuerRequest { issuer: "Corp:x".into() };
                let refused = client.unary::<_, LookAtIssuerResponse>(LOOK_AT_ISSUER, odd).await.unwrap_err();
                assert_eq!(refused.code(), Code::InvalidArgument);
                Ok(())
            }
            other => panic!("no RPC `{other}`"),
        }
    });
    match outcome {
        Ok(()) => "ok".to_owned(),
        Err(status) => format!("{:?}", status.code()),
    }
}

/// W-08: what is documented is what holds.
#[test]
fn w_08_the_limits_are_those_of_the_contract() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/CONTRACT.md")).unwrap();
    let limits = Limits::default();
    let of = limits.admission;
    let rows: &[(&str, u64)] = &[
        ("open connections, less where the limit of open files is low", limits.connections as u64),
        ("of one user, and of a quarter of all", limits.connections_per_user as u64),
        ("of one process", of.connections_per_process as u64),
        ("of one stranger", of.connections_per_stranger as u64),
        ("of all strangers", of.connections_of_strangers as u64),
        ("calls and streams of one user", of.calls_per_user as u64),
        ("of one process", of.calls_per_process as u64),
        ("calls of one user a second", of.rate_per_user.per_second.into()),
        ("bytes of a request", limits.request_bytes as u64),
        ("audiences of a JWT-SVID", limits.audiences as u64),
        ("bytes of an audience", limits.audience_bytes as u64),
        ("new JWT-SVIDs of one service a second", JwtLimits::default().per_service.per_second.into()),
        ("seconds that a process without a service is waited for", limits.wait_for_service.as_secs()),
        ("seconds that its SVID is waited for", limits.wait_for_svid.as_secs()),
    ];
    for (what, bound) in rows {
        assert!(document.contains(&format!("| {what} | {bound} |")), "tests/CONTRACT.md: {what} is {bound}");
    }
}

#[tokio::test]
async fn t_11_lengths_that_lie_cost_nothing() {
    if !crate::testing::is_alone("workload_api::tests::t_11_lengths_that_lie_cost_nothing") {
        return;
    }
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let resident = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let post = async |body: Vec<u8>| {
        let request = http::Request::post(format!("http://agent{JWT_SVID}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("workload.spiffe.io", "true")
            .body(tonic::body::Body::new(axum::body::Body::from(body)))
            .unwrap();
        let mut channel = client.channel.clone();
        std::future::poll_fn(|cx| tower_service::Service::poll_ready(&mut channel, cx)).await.unwrap();
        let response = tower_service::Service::call(&mut channel, request).await.unwrap();
        Status::from_header_map(response.headers()).map(|status| status.code())
    };
    let before = resident();
    let cases: &[(&str, &[u8], Code)] = &[
        ("T-11 4 GiB announced, 5 bytes sent", &[0, 0xff, 0xff, 0xff, 0xff], Code::OutOfRange),
        ("T-11 just too long", &[0, 0, 1, 0, 1], Code::OutOfRange),
        ("compressed", &[1, 0, 0, 0, 0], Code::Internal),
        ("flag unknown", &[7, 0, 0, 0, 0], Code::Internal),
        ("ends within the message", &[0, 0, 0, 0, 9, 1], Code::Internal),
        ("nothing at all", &[], Code::Internal),
        ("wrong wire type", &[0, 0, 0, 0, 2, 0x08, 0x01], Code::Internal),
        ("invalid UTF-8", &[0, 0, 0, 0, 3, 0x0a, 0x01, 0xff], Code::Internal),
    ];
    for (name, body, expected) in cases {
        let code = post(body.to_vec()).await;
        assert!(code.is_some_and(|code| code == *expected || code == Code::InvalidArgument), "{name}: {code:?}");
    }
    assert!(resident().saturating_sub(before) < 8 * 1024, "T-11: memory grows by {} KiB", resident() - before);
    assert!(x509(&client).await.is_ok(), "and others are served");
    agent.end().await;
}

#[tokio::test]
async fn w_08_too_many_calls_and_connections() {
    let admission = AdmissionLimits { calls_per_process: 3, connections_per_process: 4, ..AdmissionLimits::default() };
    let agent = start_with(Limits { admission, ..limits() }, Binding::PeerPidfd).await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = x509(&client).await.unwrap();
        next(&mut stream).await.unwrap();
        open.push(stream);
    }
    let status = x509(&client).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "too-many-calls"));
    open.pop();
    tokio::time::timeout(Duration::from_secs(20), async {
        while x509(&client).await.is_err() {
            tokio::task::yield_now().await; // until the end of the stream has come through
        }
    })
    .await
    .unwrap();
    agent.end().await;
}

#[tokio::test]
async fn w_08_one_user_cannot_keep_others_from_connecting() {
    if !by_root("W-08") {
        return;
    }
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    // A user whom no service names opens as many connections as it can get.
    let mut flood = Helper::start(&agent.socket());
    flood.order(&format!("uid {}", OTHER_UID + 3));
    flood.send("flood 10000");
    let held = tokio::task::spawn_blocking(move || (flood.answer(), flood)).await.unwrap();
    let client = agent.client().await;
    assert!(next(&mut x509(&client).await.unwrap()).await.is_ok(), "others are served; the flood: {}", held.0);
    let kept: usize = held.0.parse().unwrap();
    assert!(kept <= limits().admission.connections_per_stranger, "{kept} connections kept");
    agent.end().await;
}

#[tokio::test]
async fn w_03_the_connection_ends_with_its_process() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let mut helper = Helper::start(&agent.socket());
    helper.order("connect");
    let heir = helper.order("hand-on");
    helper.send("exit");
    tokio::task::spawn_blocking(move || helper.wait()).await.unwrap();
    // The heir still holds its end; the agent has closed its own. The kernel lists sockets under the name they were bound to.
    let pid = nix::unistd::Pid::from_raw(heir.parse().unwrap());
    let bound_to = format!("{}.new", agent.socket().display());
    tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let table = tokio::fs::read_to_string("/proc/net/unix").await.unwrap();
            let ends = table.lines().filter(|line| line.ends_with(&bound_to)).count();
            assert!(ends >= 1, "the listener is there");
            if ends == 1 {
                break;
            }
        }
    })
    .await
    .expect("the agent lets go of the connection");
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    agent.end().await;
}

#[tokio::test]
async fn old_kernels_attest_the_user_alone_and_by_pid_on_request() {
    let own_path = format!("unix:path:{}", std::env::current_exe().unwrap().canonicalize().unwrap().display());
    for (binding, expected, notes) in [
        (Binding::PeerPidfd, vec!["/exact", "/user"], 0),
        (Binding::ByPid, vec!["/exact", "/user"], 1),
        (Binding::UserOnly, vec!["/user"], 1),
    ] {
        let agent = start_with(limits(), binding).await;
        agent.ca.publish(vec![own("user"), with_selectors("exact", &[&own_path])]);
        let client = agent.client().await;
        let message = next(&mut x509(&client).await.unwrap()).await.unwrap();
        assert_eq!(ids(&message), expected, "{binding:?}");
        let status: StatusResponse = client.unary(STATUS, StatusRequest {}).await.unwrap();
        assert_eq!(status.notes.len(), notes, "{binding:?}: {:?}", status.notes);
        agent.end().await;
    }
}

#[tokio::test]
async fn f_20_a_socket_that_was_taken_away_comes_back() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    drop(agent.client().await);
    std::fs::remove_file(agent.socket()).unwrap();
    tokio::time::timeout(Duration::from_secs(20), async {
        while !agent.socket().exists() {
            agent.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the socket is bound again");
    let client = agent.client().await;
    assert!(next(&mut x509(&client).await.unwrap()).await.is_ok());
    assert_eq!(agent.health.part(Part::WorkloadSocket).state, State::Ready);
    agent.end().await;
}

#[tokio::test]
async fn stopping_ends_streams_so_that_clients_come_back() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let mut stream = x509(&client).await.unwrap();
    next(&mut stream).await.unwrap();
    agent.stop.cancel();
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "stopping"), "no redaction");
    let (cache, socket) = (agent.cache.clone(), agent.socket());
    agent.end().await;
    assert!(!socket.exists() && cache.slots().len() == 1);
}

#[tokio::test]
async fn w_01_02_a_stream_ends_when_its_process_is_not_what_it_was() {
    if !by_root("W-01, W-02") {
        return;
    }
    for (change, expected) in [("executable", "executable-changed"), ("user", "user-changed")] {
        let agent = start().await;
        agent.ca.publish(vec![own("a")]);
        let program = copy_of_helper(&agent.directory.path().join("photo"));
        let mut helper = Helper::start_by(std::process::Command::new(&program), &agent.socket());
        helper.send("watch");
        let mut helper = answered(helper, "svids /a").await;
        match change {
            "executable" => set_mode(&program, 0o700), // another change time: another file, for all one knows
            _ => assert_eq!(helper.order(&format!("uid {OTHER_UID}")), "done"),
        }
        // The next message is not sent, whatever it would have said.
        agent.ca.publish(vec![own("a"), own("b")]);
        drop(answered(helper, &format!("ended PermissionDenied {expected}")).await);
        agent.end().await;
    }
}

/// Tokens go by what was found out about a process up to a second ago, over one connection and as long as nothing has changed for its services; whether it lives
/// is asked each time.
#[tokio::test]
async fn w_01_02_a_token_goes_by_what_its_process_was_a_second_ago_at_most() {
    if !by_root("W-01, W-02") {
        return;
    }
    let edge = |id: &str| Arc::new(Service { edge_scopes: vec!["photo.read".into()], ..Service::clone(&own(id)) });
    // Nothing is delegated: an edge is told that, and whoever is none is told that.
    let (for_an_edge, in_time, too_late) =
        ("Unavailable no-delegation", Duration::from_millis(999), Duration::from_millis(1));
    let asks = async |mut helper: Helper, expected: &str| {
        helper.send("exchange");
        answered(helper, expected).await
    };
    for (change, expected) in
        [("executable", "PermissionDenied no-identity"), ("user", "PermissionDenied user-changed")]
    {
        let agent = start().await;
        let program = copy_of_helper(&agent.directory.path().join("photo"));
        let by_path = with_selectors("a", &[&format!("unix:path:{}", program.display())]);
        agent
            .ca
            .publish(vec![Arc::new(Service { edge_scopes: vec!["photo.read".into()], ..Service::clone(&by_path) })]);
        let helper = Helper::start_by(std::process::Command::new(&program), &agent.socket());
        let mut helper = asks(helper, for_an_edge).await;
        match change {
            "executable" => std::fs::remove_file(&program).unwrap(),
            _ => assert_eq!(helper.order(&format!("uid {OTHER_UID}")), "done"),
        }
        agent.clock.advance(in_time);
        let helper = asks(helper, for_an_edge).await;
        agent.clock.advance(too_late);
        drop(asks(helper, expected).await);
        agent.end().await;
    }
    // What an administrator changes counts at once.
    let agent = start().await;
    agent.ca.publish(vec![edge("a")]);
    let helper = Helper::start(&agent.socket());
    let helper = asks(helper, for_an_edge).await;
    agent.ca.publish(vec![own("a")]);
    drop(asks(helper, "FailedPrecondition not-an-edge").await);
    agent.end().await;
}

/// What a helper process does for `exchange`, each time: asks for a token over one connection, and tells what it was told.
pub(crate) fn exchange(socket: PathBuf, say: fn(&str)) -> std::sync::mpsc::Sender<()> {
    let (ask, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::connect(&socket).await;
            while asked.recv().is_ok() {
                let refused =
                    client.unary::<_, ExchangeResponse>(EXCHANGE, ExchangeRequest::default()).await.unwrap_err();
                say(&format!("{:?} {}", refused.code(), reason(&refused)));
            }
        });
    });
    ask
}

/// Waits for what a helper says, while this process goes on serving it.
async fn answered(mut helper: Helper, expected: &str) -> Helper {
    let (answer, helper) = tokio::task::spawn_blocking(move || (helper.answer(), helper)).await.unwrap();
    assert_eq!(answer, expected);
    helper
}

/// What a helper process does for `watch`: tells of each message, on a thread of its own.
pub(crate) fn watch(socket: PathBuf, say: fn(&str)) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::connect(&socket).await;
            let mut stream = x509(&client).await.unwrap();
            loop {
                match next(&mut stream).await {
                    Ok(message) => say(&format!("svids {}", ids(&message).join(" "))),
                    Err(status) => return say(&format!("ended {:?} {}", status.code(), reason(&status))),
                }
            }
        });
    });
}

#[tokio::test]
async fn wapi_07_a_change_of_bundles_is_spread_over_many_streams() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    let mut streams = Vec::new();
    for _ in 0..80 {
        let mut stream = x509(&client).await.unwrap();
        next(&mut stream).await.unwrap();
        streams.push(stream);
    }
    let bundles: BundleSet =
        [agent.ca.bundle(), foreign_bundle("other.example", agent.clock.now())].into_iter().collect();
    agent.ca.publish_with(vec![own("a")], bundles);
    let mut at_once = 0;
    for stream in &mut streams {
        let told = tokio::time::timeout(Duration::from_millis(5), stream.message()).await;
        at_once += usize::from(told.is_ok());
    }
    assert!(at_once < 8, "{at_once} of 80 were told at the same moment");
    agent.clock.advance(limits().bundle_spread);
    let rest = 80 - at_once;
    let mut told = 0;
    for stream in &mut streams {
        if let Ok(message) = tokio::time::timeout(Duration::from_secs(2), stream.message()).await {
            assert_eq!(message.unwrap().unwrap().federated_bundles.len(), 1);
            told += 1;
            if told == rest {
                break;
            }
        }
    }
    assert_eq!(told, rest, "and all of them within the bound");
    agent.end().await;
}

#[tokio::test]
async fn t_20_connections_that_say_nothing_hold_nobody_up() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let silent: Vec<_> = (0..200).map(|_| std::os::unix::net::UnixStream::connect(agent.socket()).unwrap()).collect();
    let client = agent.client().await;
    let answered =
        tokio::time::timeout(Duration::from_secs(5), async { next(&mut x509(&client).await.unwrap()).await });
    assert!(answered.await.expect("T-20").is_ok());
    drop(silent);
    agent.end().await;
}
