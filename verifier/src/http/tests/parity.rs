//! The parity that everything is for: one table of requests over every kind of credential, the same answers and the same records.

use serde_json::Value;

use super::{
    tracks::{OWN, TRACKS, World, api_key, body, head},
    *,
};
use crate::caller::ProofKind;

/// Nothing in it depends on how a caller proves itself.
const POLICY: &str = r#"
version = 1
[accept]
api-key = { until = 2027-03-31 }
shared-secret = { until = 2027-03-31 }
[roles]
reader = ["/photo"]
[[allow]]
name = "exporters read"
callers = ["/export", "/batch/**"]
http = ["GET /v1/config/{key}"]
grpc = ["config.v1.Config/Get"]
proof = "api-key"
[[allow]]
name = "readers read"
callers = ["role:reader"]
http = ["GET /v1/mine"]
proof = "api-key"
audit = true
[[allow]]
name = "a few"
callers = ["/export"]
http = ["GET /v1/limited/{key}"]
proof = "api-key"
limit = "1/h burst 2"
[[allow]]
name = "owners"
callers = ["/photo"]
http = ["PUT /v1/images/{id}", "PUT /v1/forgetful/{id}"]
proof = "api-key"
when = "resource.owner == \"john\""
[[allow]]
name = "for a user"
callers = ["/photo"]
http = ["DELETE /v1/config/{key}"]
proof = "api-key"
user = "required"
scope = "config.write"
[[allow]]
name = "soon"
mode = "shadow"
callers = ["/export"]
http = ["PUT /v1/images/{id}"]
proof = "api-key"
[[deny]]
name = "not the old host"
callers = ["/batch/legacy"]
"#;

/// Caller, request, further headers, status, and the last record's rule or reason.
const TABLE: &[(&str, &str, &str, u16, &str)] = &[
    ("/export", "GET /v1/config/a", "", 200, "exporters read"),
    ("/export", "GET /v1/config/a?x=/../b", "", 200, "exporters read"),
    ("/export", "HEAD /v1/config/a", "", 200, "exporters read"),
    ("/export", "DELETE /v1/config/a", "", 403, "no-rule"),
    ("/export", "PUT /v1/images/1", "", 403, "no-rule"),
    ("/export2", "GET /v1/config/a", "", 403, "no-rule"),
    ("/batch/legacy", "GET /v1/config/a", "", 403, "deny-rule"),
    ("/photo", "GET /v1/config/a", "", 403, "no-rule"),
    ("/photo", "GET /v1/mine", "", 200, "readers read"),
    ("/export", "GET /v1/limited/a", "", 200, "a few"),
    ("/export", "GET /v1/limited/b", "", 200, "a few"),
    ("/export", "GET /v1/limited/c", "", 429, "limit"),
    ("/photo", "PUT /v1/images/john", "", 200, "owners"),
    ("/photo", "PUT /v1/images/mary", "", 403, "condition-false"),
    ("/photo", "PUT /v1/forgetful/john", "", 500, "second-stage-not-asked"),
    ("/photo", "DELETE /v1/config/a", "", 403, "user-required"),
    ("/photo", "DELETE /v1/config/a", "USER", 200, "for a user"),
    ("/photo", "DELETE /v1/config/a", "NARROW", 403, "scope-too-small"),
    ("/photo", "DELETE /v1/config/a", "BROKEN", 400, "txn-token-malformed"),
    ("/export", "GET /v1/config/%2e%2e", "", 400, "dot-segment"),
    ("/export", "GET /v1/other", "", 403, "no-route"),
    ("/export", "POST /v1/config/a", "", 403, "undeclared-method"),
    ("/export", "GET /late", "", 500, "undeclared-route"),
    ("/export", "POST /config.v1.Config/Get", "", 200, "exporters read"),
    ("/photo", "POST /config.v1.Config/Get", "", 200, "no-rule"),
    ("/export", "POST /config.v1.Config/Set", "", 200, "no-rule"),
    ("/export", "POST /config.v1.Config/Drop", "", 200, "no-rule"),
];

/// A record without what tells the kinds of credentials apart, and without times.
fn comparable(mut record: Value) -> Value {
    let members = record.as_object_mut().unwrap();
    for member in ["at", "micros", "proof", "key_id", "token_id"] {
        members.remove(member);
    }
    record
}

/// An answer without its date: status, headers and body.
fn undated(text: &str) -> String {
    text.lines().filter(|line| !line.to_ascii_lowercase().starts_with("date:")).collect::<Vec<_>>().join("\n")
}

/// JWT-21: the same over `Authorization: Bearer` for HTTP and for gRPC.
#[tokio::test]
async fn t_25_t_27_jwt_21_one_table_of_requests_over_every_kind_of_credential() {
    let mut first: Option<Vec<(String, Vec<Value>)>> = None;
    for kind in TRACKS {
        // A new service for each, so that limits begin anew.
        let world = World::new(POLICY).await;
        let mut found = Vec::new();
        for (caller, line, more, status, expected) in TABLE {
            let user = |token: String| format!("Txn-Token: {token}\r\n");
            let more = match *more {
                "USER" => user(world.txn_token("charlie", "config.write")),
                "NARROW" => user(world.txn_token("charlie", "config.read")),
                "BROKEN" => user("x".to_owned()),
                other => other.to_owned(),
            };
            let (answered, text) = world.ask(kind, caller, line, &more).await;
            let records = world.records.take();
            let last = records.last().unwrap_or_else(|| panic!("{kind} {caller} {line}: no record"));
            let told = if last["outcome"] == "allowed" { &last["rule"] } else { &last["reason"] };
            assert_eq!((answered, told.as_str()), (*status, Some(*expected)), "{kind} {caller} {line}: {text}\n{last}");
            if last.get("caller").is_some() {
                assert_eq!((&last["proof"], &last["service"]), (&kind.as_str().into(), &OWN.into()));
                assert_eq!(last["caller"], format!("spiffe://example.org{caller}"));
            }
            found.push((undated(&text), records.into_iter().map(comparable).collect()));
        }
        // Who calls what is known by kind, and by nothing else.
        let edges = world.authorization.edges().list();
        assert!(edges.iter().all(|edge| edge.key.proof == kind.as_str()), "{edges:?}");
        match &first {
            None => first = Some(found),
            Some(first) => {
                for ((one, other), row) in first.iter().zip(&found).zip(TABLE) {
                    assert_eq!(one, other, "{kind}: {row:?}");
                }
            }
        }
        world.stop().await;
    }
}

/// The refusals of `authorization.md` §4.1 in gRPC's words.
#[tokio::test]
async fn t_27_refusals_over_grpc() {
    let limited =
        POLICY.replace("grpc = [\"config.v1.Config/Get\"]\n", "grpc = [\"config.v1.Config/Get\"]\nlimit = \"1/h\"\n");
    let world = World::new(&limited).await;
    let key = format!("Authorization: ApiKey {}\r\n", api_key("/export"));
    let other = format!("Authorization: ApiKey {}\r\n", api_key("/photo"));
    let ask = async |line: &str, headers: &str| {
        let (status, text) = world.raw(head(line, headers).as_bytes()).await;
        let lower = text.to_ascii_lowercase();
        let header = |name: &str| {
            let line = lower.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
            line.unwrap_or_default()
        };
        assert!(status != 200 || header("content-type") == "application/grpc", "{text}");
        assert_eq!(body(&text), "", "trailers alone");
        (status, header("grpc-status"), header("retry-after"))
    };
    let grpc = |code: &str| (200, code.to_owned(), String::new());
    let get = "POST /config.v1.Config/Get";
    assert_eq!(ask(get, "").await, grpc("16"));
    assert_eq!(ask(get, "Authorization: Bearer x\r\n").await, grpc("16"));
    assert_eq!(ask(get, &other).await, grpc("7"));
    assert_eq!(ask(get, &format!("{key}{key}")).await, grpc("3"));
    assert_eq!(ask(get, &key).await, grpc("0"));
    assert_eq!(ask(get, &key).await, (200, "8".to_owned(), "3600".to_owned()));
    let without = Authorization::builder(
        world.authorization.authenticators().clone(),
        Limits::new(Quotas::in_memory(), world.clock.clone()),
        world.clock.clone(),
    );
    let request = Request::builder().method("POST").uri("/config.v1.Config/Get");
    let request = request.header("authorization", format!("ApiKey {}", api_key("/export"))).body(Body::empty());
    let (_, headers, _) = send(&super::tracks::routes(without.build()), request.unwrap()).await;
    assert_eq!(headers["grpc-status"], "14");
    world.stop().await;
}

/// A move from one kind to the next changes the file's dates and a rule's `proof`, and nothing in the service.
#[tokio::test]
async fn what_a_rule_and_the_file_take_is_a_matter_of_strength() {
    let raised = POLICY.replace("proof = \"api-key\"", "proof = \"jwt-svid\"");
    for (text, now, refused) in [
        (raised.as_str(), NOW, vec![("shared-secret", "proof-too-weak"), ("api-key", "proof-too-weak")]),
        // 2027-04-01, when what was accepted until March is no more; what they have of tokens has ended long before.
        (POLICY, 1_806_537_600, vec![("api-key", "credential-no-longer-accepted")]),
    ] {
        let world = World::new(text).await;
        world.clock.set(Timestamp::from_unix_seconds(now));
        for kind in TRACKS {
            if now != NOW && kind != ProofKind::ApiKey {
                continue;
            }
            let (status, _) = world.ask(kind, "/export", "GET /v1/config/a", "").await;
            match refused.iter().find(|(known, _)| *known == kind.as_str()) {
                Some((_, reason)) => assert_eq!((status, world.records.reason().as_str()), (403, *reason), "{kind}"),
                None => assert_eq!((status, world.records.reason().as_str()), (200, ""), "{kind}"),
            }
        }
        world.stop().await;
    }
}

/// Who calls what, as a route behind a rule like any other; on a socket of the machine it is `EdgesReport` itself.
#[tokio::test]
async fn edges_are_a_route_where_the_program_says() {
    let rule = "[[allow]]\nname = \"edges\"\ncallers = [\"/ops\"]\nhttp = [\"GET /v1/edges\"]\n";
    let world = World::new(&format!("{POLICY}{rule}")).await;
    world.ask(ProofKind::ApiKey, "/export", "GET /v1/config/a", "").await;
    world.ask(ProofKind::JwtSvid, "/export", "GET /v1/config/a", "").await;
    assert_eq!(world.ask(ProofKind::X509Svid, "/export", "GET /v1/edges", "").await.0, 403);
    let (status, text) = world.ask(ProofKind::X509Svid, "/ops", "GET /v1/edges", "").await;
    assert_eq!(status, 200, "{text}");
    let document: Value = serde_json::from_str(body(&text)).unwrap_or_else(|error| panic!("{error}: {text}"));
    let edges = document["edges"].as_array().unwrap();
    for proof in ["api-key", "jwt-svid"] {
        let edge = edges.iter().find(|edge| edge["proof"] == proof).unwrap_or_else(|| panic!("{edges:?}"));
        assert_eq!((&edge["operation"], &edge["allowed"]), (&"GET /v1/config/{key}".into(), &1.into()));
    }
    world.stop().await;
}
