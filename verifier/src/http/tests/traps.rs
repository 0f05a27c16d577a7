//! Every way around an authorization that `authorization.md` §5 lists, as bytes on sockets: one test for each, by its number. What of a trap
//! is decided deeper down has further tests there.

use serde_json::json;

use super::{
    raw_h2::{self, Outcome, fields},
    tracks::{OWN, World, api_key, bearer, body, head, hs_claims, hs256, signed},
    *,
};
use crate::{caller::ProofKind, x509::fixtures::Key};

const POLICY: &str = r#"
version = 1
[accept]
api-key = { until = 2027-12-31 }
shared-secret = { until = 2027-12-31 }
[[allow]]
name = "read"
callers = ["/export"]
http = ["GET /v1/config/{key}", "GET /late", "GET /merged", "GET /v1/echo", "OPTIONS /v1/config/{key}"]
proof = "api-key"
"#;

fn key() -> String {
    format!("Authorization: ApiKey {}\r\n", api_key("/export"))
}

/// Line, further headers, status.
async fn table(world: &World, cases: &[(&str, &str, &str, u16)]) {
    for (what, line, headers, expected) in cases {
        let (status, text) = world.raw(head(line, headers).as_bytes()).await;
        assert_eq!(status, *expected, "{what}: {line} {headers}: {text}");
        assert!(*expected == 200 || !text.contains("reads"), "{what}: {text}");
    }
}

/// The same path over HTTP/2: refused with a status, or the stream is.
async fn refused_over_h2(world: &World, fields: &[(&str, &[u8])]) {
    let outcome = raw_h2::ask(world.plain_stream().await, fields).await;
    assert!(matches!(outcome, Outcome::Reset | Outcome::Status(400..=599)), "{outcome:?}: {fields:?}");
}

/// Two parsers, two paths.
#[tokio::test]
async fn trap_01_t_27_paths_that_two_programs_read_differently() {
    let world = World::new(POLICY).await;
    let own_key = format!("ApiKey {}", api_key("/export"));
    let authorized = [("authorization", own_key.as_bytes())];
    let good = raw_h2::ask(world.plain_stream().await, &fields("GET", "/v1/config/a", &authorized)).await;
    assert_eq!(good, Outcome::Status(200));
    for path in [
        "/v1/config/..%2fadmin%2fx",
        "/v1/config/%2e%2e",
        "/v1/config/../config/a",
        "/v1/config/.",
        "/v1/x/%2e%2e/config/a",
        "/v1/config/a%00",
        "/v1/config/a%0d%0ab",
        "/v1/config/a%5cb",
        "/v1\\config\\a",
        "/v1/config/a%2fb",
        "/v1/config/a%252fb",
        "/v1/config/..;x=1/a",
        "//v1/config/a",
        "/v1//config/a",
        "/v1/config/a/",
        "/%761/config/a",
        "/v1/config/%ff",
        "/v1/config/%c0%ae",
        "/v1/config/%zz",
        "/v1/config/%",
        "v1/config/a",
        "*",
        "",
    ] {
        if !path.is_empty() {
            let (status, text) = world.raw(head(&format!("GET {path}"), &key()).as_bytes()).await;
            assert_eq!(status, 400, "{path}: {text}");
        }
        refused_over_h2(&world, &fields("GET", path, &authorized)).await;
    }
    // What stands behind a question mark or a hash sign is no part of the path, and the hash sign no part of a request at all.
    table(
        &world,
        &[
            ("a query", "GET /v1/config/a?x=/../admin", &key(), 200),
            ("parameters are part of their segment", "GET /v1/config/a;v=1", &key(), 200),
        ],
    )
    .await;
    let (status, text) = world.raw(head("GET /v1/config/a#/../admin", &key()).as_bytes()).await;
    assert!(status == 400 || body(&text) == "/export reads a", "{status} {text}");
    world.stop().await;
}

/// Whole segments, of paths and of IDs.
#[tokio::test]
async fn trap_02_a_prefix_is_no_match() {
    let world = World::new(POLICY).await;
    table(
        &world,
        &[
            ("a longer last segment", "GET /v1/config-admin/a", &key(), 403),
            ("a longer first segment", "GET /v10/config/a", &key(), 403),
            ("a segment more", "GET /v1/config/a/b", &key(), 403),
            ("a segment less", "GET /v1/config", &key(), 403),
            ("a longer caller", "GET /v1/config/a", &format!("Authorization: ApiKey {}\r\n", api_key("/export2")), 403),
        ],
    )
    .await;
    for path in ["/export2", "/export/a", "/exports", "/expor"] {
        assert_eq!(world.raw_as(path, head("GET /v1/config/a", "").as_bytes()).await.0, 403, "{path}");
    }
    world.stop().await;
}

/// What no rule allows is denied, and without any policy nothing is decided.
#[tokio::test]
async fn trap_03_there_is_no_default_but_denial() {
    let world = World::new("version = 1\n[accept]\napi-key = { until = 2027-12-31 }\n").await;
    let ask = head("GET /v1/config/a", &key());
    assert_eq!(world.raw(ask.as_bytes()).await.0, 403);
    assert_eq!(world.records.reason(), "no-rule");
    let text = "version = 1\n[accept]\napi-key = { until = 2027-12-31 }\n[[deny]]\nname = \"not that\"\nhttp = [\"GET /v1/mine\"]\n";
    let at = Timestamp::from_unix_seconds(NOW);
    let domain = TrustDomain::parse("example.org").unwrap();
    // A file of denials alone allows nothing else.
    world.authorization.replace_policy(Policy::parse(text, &domain, at).unwrap().policy).unwrap();
    assert_eq!(world.raw(ask.as_bytes()).await.0, 403);
    let limits = Limits::new(Quotas::in_memory(), world.clock.clone());
    let without = Authorization::builder(world.authorization.authenticators().clone(), limits, world.clock.clone());
    let request =
        Request::builder().uri("/v1/config/a").header("authorization", format!("ApiKey {}", api_key("/export")));
    let (status, ..) = send(&super::tracks::routes(without.build()), request.body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    world.stop().await;
}

/// HEAD is GET; OPTIONS needs a rule; the others are none.
#[tokio::test]
async fn trap_04_methods() {
    let world = World::new(POLICY).await;
    let preflight = "Origin: https://evil.example\r\nAccess-Control-Request-Method: GET\r\n";
    table(
        &world,
        &[
            ("HEAD goes where GET goes", "HEAD /v1/config/a", &key(), 200),
            ("and nowhere else", "HEAD /v1/mine", &key(), 403),
            ("OPTIONS has a rule of its own", "OPTIONS /v1/config/a", &key(), 200),
            ("a preflight without a credential", "OPTIONS /v1/config/a", preflight, 401),
            ("OPTIONS without one", "OPTIONS /v1/mine", &key(), 403),
            ("TRACE", "TRACE /v1/config/a", &key(), 400),
            ("lower case", "get /v1/config/a", &key(), 400),
            ("mixed", "Get /v1/config/a", &key(), 400),
            ("an unknown one", "BREW /v1/config/a", &key(), 400),
            ("CONNECT", "CONNECT config:443", &key(), 400),
            (
                "an override is no method",
                "POST /v1/config/a",
                &format!("{}X-HTTP-Method-Override: GET\r\n", key()),
                403,
            ),
            ("nor of the other sort", "GET /v1/config/a", &format!("{}X-HTTP-Method-Override: DELETE\r\n", key()), 200),
            ("nor in a query", "POST /v1/config/a?_method=GET", &key(), 403),
        ],
    )
    .await;
    let own_key = format!("ApiKey {}", api_key("/export"));
    for method in ["TRACE", "get", "BREW", "CONNECT", ""] {
        refused_over_h2(&world, &fields(method, "/v1/config/a", &[("authorization", own_key.as_bytes())])).await;
    }
    world.stop().await;
}

/// One name for the server in a request.
#[tokio::test]
async fn trap_05_hosts_that_disagree() {
    let world = World::new(POLICY).await;
    table(
        &world,
        &[
            ("absolute form, another name", "GET http://evil.example/v1/config/a", &key(), 400),
            ("absolute form, the same name", "GET http://config/v1/config/a", &key(), 200),
            ("absolute form, another port", "GET http://config:81/v1/config/a", &key(), 400),
            ("absolute form, a user in it", "GET http://x@config/v1/config/a", &key(), 400),
            ("two hosts", "GET /v1/config/a", &format!("{}Host: config\r\n", key()), 400),
            ("two different hosts", "GET /v1/config/a", &format!("{}Host: evil.example\r\n", key()), 400),
        ],
    )
    .await;
    let own_key = format!("ApiKey {}", api_key("/export"));
    for hosts in [vec!["evil.example"], vec!["config", "config"]] {
        let mut more: Vec<(&str, &[u8])> = vec![("authorization", own_key.as_bytes())];
        more.extend(hosts.iter().map(|host| ("host", host.as_bytes())));
        refused_over_h2(&world, &fields("GET", "/v1/config/a", &more)).await;
    }
    world.stop().await;
}

/// Once, or 400; and no byte that is no text.
#[tokio::test]
async fn trap_06_headers_twice() {
    let world = World::new(POLICY).await;
    let user = format!("Txn-Token: {}\r\n", world.txn_token("charlie", "a"));
    table(
        &world,
        &[
            ("the same twice", "GET /v1/config/a", &format!("{0}{0}", key()), 400),
            ("a bad one behind", "GET /v1/config/a", &format!("{}Authorization: Bearer x\r\n", key()), 400),
            ("a bad one in front", "GET /v1/config/a", &format!("Authorization: Bearer x\r\n{}", key()), 400),
            ("an empty one behind", "GET /v1/config/a", &format!("{}Authorization:\r\n", key()), 400),
            ("in another case", "GET /v1/config/a", &format!("{}aUTHORIZATION: Bearer x\r\n", key()), 400),
            ("a user twice", "GET /v1/config/a", &format!("{}{user}{user}", key()), 400),
            ("two in one", "GET /v1/config/a", &key().replace("\r\n", ", Bearer x\r\n"), 401),
        ],
    )
    .await;
    for bytes in [&b"ApiKey \xff\xfe"[..], b"Bearer a\xc3\xb6.b.c", b"ApiKey export-a.1.\x80"] {
        let request =
            [b"GET /v1/config/a HTTP/1.1\r\nHost: config\r\nConnection: close\r\nAuthorization: ", bytes, b"\r\n\r\n"];
        assert!(matches!(world.raw(&request.concat()).await.0, 400 | 401), "{bytes:?}");
        refused_over_h2(&world, &fields("GET", "/v1/config/a", &[("authorization", bytes)])).await;
    }
    let own_key = format!("ApiKey {}", api_key("/export"));
    let twice = [("authorization", own_key.as_bytes()), ("authorization", own_key.as_bytes())];
    assert_eq!(
        raw_h2::ask(world.plain_stream().await, &fields("GET", "/v1/config/a", &twice)).await,
        Outcome::Status(400)
    );
    world.stop().await;
}

/// A bad credential is a refusal whatever else there is, and two callers are none.
#[tokio::test]
async fn trap_07_credentials_that_disagree() {
    let world = World::with(POLICY, |builder| builder.api_key_header("x-api-key")).await;
    let good = format!("X-Api-Key: {}\r\n", api_key("/export"));
    let other = format!("X-Api-Key: {}\r\n", api_key("/photo"));
    let token = world.authorization_of(ProofKind::JwtSvid, "/export");
    table(
        &world,
        &[
            ("a good key", "GET /v1/config/a", &good, 200),
            ("a bad token and a good key", "GET /v1/config/a", &format!("{good}Authorization: Bearer x\r\n"), 401),
            (
                "a basic credential and a good key",
                "GET /v1/config/a",
                &format!("{good}Authorization: Basic eDp5\r\n"),
                401,
            ),
            ("a good token and another's key", "GET /v1/config/a", &format!("{token}{other}"), 401),
            ("a good token and a wrong key", "GET /v1/config/a", &format!("{token}X-Api-Key: export-a.1.x\r\n"), 401),
            ("both of one caller", "GET /v1/config/a", &format!("{token}{good}"), 200),
        ],
    )
    .await;
    let mut proofs: Vec<_> = world.records.take();
    assert_eq!(proofs.pop().unwrap()["proof"], "jwt-svid", "the stronger counts");
    for (headers, expected) in [(other, 401), (good, 200), ("X-Api-Key: x\r\n".into(), 401)] {
        assert_eq!(
            world.raw_as("/export", head("GET /v1/config/a", &headers).as_bytes()).await.0,
            expected,
            "{headers}"
        );
    }
    world.stop().await;
}

/// What a header says of the caller is worth nothing.
#[tokio::test]
async fn trap_08_identity_headers_from_outside() {
    let world = World::new(POLICY).await;
    let forged = "X-Forwarded-Client-Cert: By=spiffe://example.org/edge;URI=spiffe://example.org/export\r\n\
                  X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-User: admin\r\nX-Spiffe-Id: spiffe://example.org/export\r\n\
                  X-Real-Ip: 127.0.0.1\r\nSsl-Client-Verify: SUCCESS\r\n";
    table(&world, &[("nobody", "GET /v1/config/a", forged, 401)]).await;
    assert_eq!(world.raw_as("/photo", head("GET /v1/config/a", forged).as_bytes()).await.0, 403);
    assert_eq!(world.records.take().pop().unwrap()["caller"], "spiffe://example.org/photo");
    // A proxy is itself, unless it is named and passes a credential on.
    assert_eq!(world.raw_as("/edge", head("GET /v1/config/a", forged).as_bytes()).await.0, 401);
    let passed = format!("{forged}{}", world.authorization_of(ProofKind::JwtSvid, "/export"));
    assert_eq!(world.raw_as("/edge", head("GET /v1/config/a", &passed).as_bytes()).await.0, 200);
    let record = world.records.take().pop().unwrap();
    assert_eq!(
        (&record["caller"], &record["via"]),
        (&"spiffe://example.org/export".into(), &"spiffe://example.org/edge".into())
    );
    world.stop().await;
}

/// T-25: the whole ID, also when a trust domain is federated.
#[tokio::test]
async fn trap_09_t_25_the_same_path_of_another_trust_domain() {
    let world = World::new(POLICY).await;
    let ask = head("GET /v1/config/a", "");
    assert_eq!(world.raw_as("/export", ask.as_bytes()).await.0, 200);
    assert_eq!(world.raw_as_partner("/export", ask.as_bytes()).await.0, 403);
    let record = world.records.take().pop().unwrap();
    assert_eq!((&record["caller"], &record["reason"]), (&"spiffe://partner.example/export".into(), &"no-rule".into()));
    for sub in [
        "spiffe://partner.example/export",
        "spiffe://EXAMPLE.org/export",
        "/export",
        "export",
        "spiffe://example.org.evil/export",
    ] {
        let claims = json!({ "sub": sub, "aud": [OWN], "exp": NOW + 300, "iat": NOW });
        let token = bearer(&signed(&world.jwt, None, "jwt-1", &claims));
        assert_eq!(world.raw(head("GET /v1/config/a", &token).as_bytes()).await.0, 401, "{sub}");
    }
    world.stop().await;
}

/// One kind of token is never another.
#[tokio::test]
async fn trap_10_kinds_of_tokens_that_are_mixed() {
    let world = World::new(POLICY).await;
    let id = "spiffe://example.org/export";
    let svid = json!({ "sub": id, "aud": [OWN], "exp": NOW + 300, "iat": NOW });
    let access = json!({
        "iss": super::tracks::ISSUER, "sub": id, "client_id": id, "aud": OWN, "exp": NOW + 300, "iat": NOW, "jti": "a",
    });
    for (what, token) in [
        ("a transaction token", world.txn_token("charlie", "a")),
        ("one that names a caller", signed(&world.users, Some("txntoken+jwt"), "txn-1", &svid)),
        ("an access token under an authority's key", signed(&world.jwt, Some("at+jwt"), "jwt-1", &access)),
        ("a JWT-SVID under the token service's key", signed(&world.token_service, None, "at-1", &svid)),
        ("a WIT", signed(&world.jwt, Some("wit+jwt"), "jwt-1", &svid)),
        ("of another audience", {
            let claims = json!({ "sub": id, "aud": ["spiffe://example.org/other"], "exp": NOW + 300 });
            signed(&world.jwt, None, "jwt-1", &claims)
        }),
        ("HS256 under a name of the authority's key", hs256("jwt-1", &hs_claims("/export"))),
        ("HS256 under an API key's name", hs256("export-a.1", &hs_claims("/export"))),
        ("another's HS256 key", hs256("photo-s.1", &hs_claims("/export"))),
    ] {
        let (status, text) = world.raw(head("GET /v1/config/a", &bearer(&token)).as_bytes()).await;
        assert_eq!(status, 401, "{what}: {text}");
    }
    // And no caller's credential is a user's.
    for token in [world.jwt_svid("/export"), world.access_token("/export")] {
        let headers = format!("{}Txn-Token: {token}\r\n", key());
        assert_eq!(world.raw(head("GET /v1/config/a", &headers).as_bytes()).await.0, 400);
    }
    world.stop().await;
}

/// Audiences are a setting.
#[tokio::test]
async fn trap_11_the_audience_is_not_what_the_request_calls_the_server() {
    let world = World::new(POLICY).await;
    for audience in ["config", "http://config", "https://config/", "CONFIG"] {
        let claims = json!({ "sub": "spiffe://example.org/export", "aud": [audience], "exp": NOW + 300 });
        let token = bearer(&signed(&world.jwt, None, "jwt-1", &claims));
        let more = format!("{token}X-Forwarded-Host: {audience}\r\n");
        assert_eq!(world.raw(head("GET /v1/config/a", &more).as_bytes()).await.0, 401, "{audience}");
    }
    world.stop().await;
}

/// 30 seconds and no more.
#[tokio::test]
async fn trap_12_leeway() {
    let world = World::new(POLICY).await;
    for (ago, expected) in [(0, 200), (29, 200), (30, 401), (59, 401), (899, 401)] {
        let claims = json!({ "sub": "spiffe://example.org/export", "aud": [OWN], "exp": NOW - ago });
        let mut shared = hs_claims("/export");
        shared["exp"] = (NOW - ago).into();
        for token in [signed(&world.jwt, None, "jwt-1", &claims), hs256("export-s.1", &shared)] {
            let (status, text) = world.raw(head("GET /v1/config/a", &bearer(&token)).as_bytes()).await;
            assert_eq!(status, expected, "{ago} s ago: {text}");
        }
    }
    world.stop().await;
}

/// What cannot be evaluated denies.
#[tokio::test]
async fn trap_13_conditions_that_fail() {
    for (rule, reason) in [
        (
            "[[deny]]\nname = \"no\"\nhttp = [\"GET /v1/config/{key}\"]\nwhen = \"user.sub == \\\"mallory\\\"\"\n",
            "deny-rule",
        ),
        ("[[deny]]\nname = \"no\"\nhttp = [\"GET /v1/config/{key}\"]\nscope = \"bad\"\n", "deny-rule"),
        ("[[deny]]\nname = \"no\"\nwhen = \"9223372036854775807 + 1 > 0\"\n", "deny-rule"),
    ] {
        let world = World::new(&format!("{POLICY}{rule}")).await;
        assert_eq!(world.raw(head("GET /v1/config/a", &key()).as_bytes()).await.0, 403, "{rule}");
        assert_eq!(world.records.reason(), reason);
        world.stop().await;
    }
    let failing = POLICY.replace("proof = \"api-key\"", "proof = \"api-key\"\nwhen = \"user.sub == \\\"john\\\"\"");
    let world = World::new(&failing).await;
    assert_eq!(world.raw(head("GET /v1/config/a", &key()).as_bytes()).await.0, 403);
    assert_eq!(world.records.reason(), "condition-error");
    world.stop().await;
}

/// What was added behind the layer's back answers 500, with a record, and what is not there is refused as what may not be seen.
#[tokio::test]
async fn trap_14_routes_outside_the_layer() {
    let world = World::new(POLICY).await;
    for (line, expected, reason) in [
        ("GET /late", 500, "undeclared-route"),
        ("GET /merged", 500, "undeclared-route"),
        ("GET /nothing", 403, "no-route"),
        ("POST /v1/config/a", 403, "undeclared-method"),
        ("POST /grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 403, "no-route"),
        ("POST /grpc.health.v1.Health/Check", 403, "no-route"),
        ("GET /metrics", 403, "no-route"),
        ("GET /healthz", 403, "no-route"),
    ] {
        assert_eq!(world.raw(head(line, &key()).as_bytes()).await.0, expected, "{line}");
        assert_eq!(world.records.reason(), reason, "{line}");
    }
    // One that hides behind a declared template is decided on as that, and not served either.
    assert_eq!(world.raw(head("GET /v1/config/late", &key()).as_bytes()).await.0, 500);
    let records = world.records.take();
    assert_eq!(records.last().unwrap()["reason"], "undeclared-route");
    assert_eq!(records.last().unwrap()["route"], "/v1/config/late");
    // gRPC-web and a body in JSON do not make another operation of a call.
    for kind in ["application/grpc", "application/grpc-web", "application/json", "text/plain"] {
        let headers = format!("{}Content-Type: {kind}\r\n", key());
        let (status, text) = world.raw(head("POST /config.v1.Config/Get", &headers).as_bytes()).await;
        assert!(status == 200 && text.to_ascii_lowercase().contains("grpc-status: 7"), "{kind}: {text}");
    }
    // Without a credential an upgrade is refused as anything else is.
    let upgrade = "Connection: upgrade\r\nUpgrade: echo\r\n";
    assert_eq!(
        world
            .raw(format!("GET /v1/echo HTTP/1.1\r\nHost: config\r\n{upgrade}Connection: close\r\n\r\n").as_bytes())
            .await
            .0,
        401
    );
    let report = super::tracks::routes(world.authorization.clone()).report();
    assert!(report.iter().any(|line| line.route == "config.v1.Config/Get" && line.rules.is_empty()), "{report:?}");
    assert!(report.iter().any(|line| line.route == "GET /v1/echo" && line.rules == ["read"]), "{report:?}");
    world.stop().await;
}

/// Behind a proxy the caller is each request's, whatever the connection carried before.
#[tokio::test]
async fn trap_16_one_connection_of_a_proxy_for_many_callers() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let world = World::new(POLICY).await;
    let mut stream = world.tls_stream("/edge").await;
    let [export, photo] = ["/export", "/photo"].map(|path| world.authorization_of(ProofKind::JwtSvid, path));
    for (headers, expected) in
        [(&export, "200"), (&photo, "403"), (&String::new(), "401"), (&export, "200"), (&bearer("x"), "401")]
    {
        let request = format!("GET /v1/config/a HTTP/1.1\r\nHost: config\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {expected}")), "{headers}: {text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        stream.read_exact(&mut vec![0; length]).await.unwrap();
    }
    let callers: Vec<_> = world.records.take().iter().map(|record| record.get("caller").cloned()).collect();
    let id = |path: &str| Some(json!(format!("spiffe://example.org{path}")));
    assert_eq!(callers, [id("/export"), id("/photo"), None, id("/export"), None]);
    world.stop().await;
}

/// What was verified is forgotten with each change of keys, and nobody's refusal is another's.
#[tokio::test]
async fn trap_17_caches_and_changes_of_keys() {
    let world = World::new(POLICY).await;
    let ask = async |headers: &str| world.raw(head("GET /v1/config/a", headers).as_bytes()).await.0;
    let [svid, shared, access] = [ProofKind::JwtSvid, ProofKind::SharedSecret, ProofKind::AccessToken]
        .map(|kind| world.authorization_of(kind, "/export"));
    for headers in [&svid, &shared, &access, &key()] {
        assert_eq!((ask(headers).await, ask(headers).await), (200, 200), "{headers}");
    }
    let spoilt = |headers: &str| headers.replace("\r\n", "A\r\n");
    assert_eq!((ask(&spoilt(&svid)).await, ask(&svid).await), (401, 200));
    let domain = TrustDomain::parse("example.org").unwrap();
    world.authorization.authenticators().replace_key_records(KeyRecords::empty(domain)).unwrap();
    assert_eq!((ask(&shared).await, ask(&key()).await, ask(&svid).await), (401, 401, 200));
    world.authorization.authenticators().replace_access_token_keys(Vec::new()).unwrap();
    assert_eq!((ask(&access).await, ask(&svid).await), (401, 200));
    world.publisher.publish(None, world.bundles_without_jwt_keys());
    assert_eq!(ask(&svid).await, 401);
    world.stop().await;
}

/// A service's own rights are not any user's: see also `trap_18_users_over_http`.
#[tokio::test]
async fn trap_18_a_rule_that_requires_a_user() {
    let rule = "[[allow]]\nname = \"for a user\"\ncallers = [\"/photo\"]\nhttp = [\"GET /v1/mine\"]\nproof = \"api-key\"\nuser = \"required\"\nscope = \"read\"\n";
    let world = World::new(&format!("{POLICY}{rule}")).await;
    let key = format!("Authorization: ApiKey {}\r\n", api_key("/photo"));
    let user = |sub: &str, scope: &str| format!("{key}Txn-Token: {}\r\n", world.txn_token(sub, scope));
    for (headers, expected, reason) in [
        (key.clone(), 403, "user-required"),
        (user("charlie", "write"), 403, "scope-too-small"),
        (user("charlie", "readx"), 403, "scope-too-small"),
        (user("charlie", "read"), 200, ""),
        // A token alone proves no caller.
        (format!("Txn-Token: {}\r\n", world.txn_token("charlie", "read")), 401, "no-credential"),
    ] {
        let (status, text) = world.raw(head("GET /v1/mine", &headers).as_bytes()).await;
        assert_eq!((status, world.records.reason().as_str()), (expected, reason), "{text}");
    }
    world.stop().await;
}

/// All refusals of one kind are the same to the byte; only the record tells them apart.
#[tokio::test]
async fn trap_19_refusals_tell_nothing() {
    let world = World::new(POLICY).await;
    let mut expired = hs_claims("/export");
    expired["exp"] = (NOW - 60).into();
    let mut elsewhere = hs_claims("/export");
    elsewhere["aud"] = "spiffe://example.org/other".into();
    let api = |key: &str| format!("Authorization: ApiKey {key}\r\n");
    // The order of header lines is the server library's affair.
    let undated = |text: &str| -> Vec<String> {
        let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let mut answers = Vec::new();
    let mut reasons = Vec::new();
    for headers in [
        String::new(),
        "Authorization: Basic eDp5\r\n".to_owned(),
        api("nobody.1.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"),
        api(&api_key("/export").replace("AAEC", "BBBB")),
        api("x"),
        bearer(&hs256("export-s.9", &hs_claims("/export"))),
        bearer(&hs256("export-s.1", &expired)),
        bearer(&hs256("export-s.1", &elsewhere)),
        bearer(&hs256("photo-s.1", &hs_claims("/export"))),
        bearer(&signed(
            &Key::p256(),
            None,
            "jwt-1",
            &json!({ "sub": "spiffe://example.org/export", "aud": [OWN], "exp": NOW + 60 }),
        )),
    ] {
        let (status, text) = world.raw(head("GET /v1/config/a", &headers).as_bytes()).await;
        assert_eq!(status, 401);
        answers.push(undated(&text));
        reasons.push(world.records.reason());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:#?}");
    reasons.sort_unstable();
    reasons.dedup();
    assert!(reasons.len() >= 8, "{reasons:?}");
    // Nor does 403 say whether there is such a route.
    let mut denied = Vec::new();
    for line in ["GET /v1/nothing", "GET /v1/mine", "POST /v1/config/a", "GET /v1/limited/a"] {
        let (status, text) = world.raw(head(line, &key()).as_bytes()).await;
        assert_eq!(status, 403);
        denied.push(undated(&text));
    }
    denied.dedup();
    assert_eq!(denied.len(), 1, "{denied:#?}");
    // And a stranger is a stranger wherever they knock.
    for line in ["GET /v1/nothing", "GET /v1/mine", "POST /v1/config/a", "GET /v1/config/a"] {
        let (status, text) = world.raw(head(line, "").as_bytes()).await;
        assert_eq!((status, undated(&text)), (401, answers[0].clone()), "{line}");
    }
    world.stop().await;
}

/// T-30: what is too large or too deep is refused before it is worked on.
#[tokio::test]
async fn trap_20_t_30_what_is_too_large() {
    let world = World::new(POLICY).await;
    let roles: Vec<_> = (0..65).map(|number| format!("r{number}")).collect();
    let mut many = hs_claims("/export");
    many["roles"] = json!(roles);
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let encode = |text: &str| <base64ct::Base64UrlUnpadded as base64ct::Encoding>::encode_string(text.as_bytes());
    let header = encode(r#"{"alg":"HS256","kid":"export-s.1"}"#);
    for (what, token) in [
        ("a long token", "a.".repeat(5000)),
        (
            "a long key ID",
            format!("{}.{}.x", encode(&format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(3000))), encode("{}")),
        ),
        ("deep claims", format!("{header}.{}.{}", encode(&deep), "A".repeat(43))),
        ("a deep header", format!("{}.{}.{}", encode(&deep), encode("{}"), "A".repeat(43))),
        ("many roles", hs256("export-s.1", &many)),
        (
            "critical extensions",
            format!(
                "{}.{}.x",
                encode(r#"{"alg":"HS256","kid":"export-s.1","crit":["b64"],"b64":false}"#),
                encode("{}")
            ),
        ),
        ("compressed", format!("{}.{}.x", encode(r#"{"alg":"HS256","kid":"export-s.1","zip":"DEF"}"#), encode("{}"))),
    ] {
        let (status, text) = world.raw(head("GET /v1/config/a", &bearer(&token)).as_bytes()).await;
        assert_eq!(status, 401, "{what}: {text}");
    }
    let (long, segments) = (format!("/v1/config/{}", "a".repeat(9000)), format!("/v1{}", "/a".repeat(64)));
    for path in [long, segments] {
        assert_eq!(world.raw(head(&format!("GET {path}"), &key()).as_bytes()).await.0, 400);
    }
    let lines: String = (0..150).map(|number| format!("X-{number}: a\r\n")).collect();
    assert!(matches!(world.raw(head("GET /v1/config/a", &lines).as_bytes()).await.0, 400 | 431));
    world.stop().await;
}

/// Bytes are compared.
#[tokio::test]
async fn trap_21_case_and_unicode() {
    let world = World::new(POLICY).await;
    table(
        &world,
        &[
            ("a path in upper case", "GET /V1/config/a", &key(), 403),
            ("a key ID in upper case", "GET /v1/config/a", &key().replace("export-a", "EXPORT-a"), 401),
            ("a variable that is not ASCII", "GET /v1/config/%c3%b6", &key(), 200),
        ],
    )
    .await;
    for path in ["/Export", "/EXPORT"] {
        assert_eq!(world.raw_as(path, head("GET /v1/config/a", "").as_bytes()).await.0, 403, "{path}");
    }
    for sub in [
        "spiffe://example.org/%65xport",
        "spiffe://example.org/exp\u{043e}rt",
        "SPIFFE://example.org/export",
        "spiffe://example.org/export\u{200b}",
    ] {
        let claims = json!({ "sub": sub, "aud": [OWN], "exp": NOW + 300 });
        let token = bearer(&signed(&world.jwt, None, "jwt-1", &claims));
        assert_eq!(world.raw(head("GET /v1/config/a", &token).as_bytes()).await.0, 401, "{sub}");
    }
    world.stop().await;
}

/// One snapshot for a whole decision, while policies are changed all the time; and a candidate beside them decides nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_22_policies_that_change_while_requests_are_decided() {
    let world = World::new(POLICY).await;
    let domain = TrustDomain::parse("example.org").unwrap();
    let parsed = |text: &str| Policy::parse(text, &domain, Timestamp::from_unix_seconds(NOW)).unwrap().policy;
    let policies =
        [parsed(POLICY), parsed(&POLICY.replace("name = \"read\"", "name = \"look\"\nlimit = \"1000000/s\""))];
    let names: Vec<_> =
        policies.iter().zip(["read", "look"]).map(|(policy, rule)| (policy.version().to_string(), rule)).collect();
    world.authorization.try_beside(Some(parsed("version = 1\nmode = \"shadow\"\n")));
    let changing = {
        let (authorization, policies) = (world.authorization.clone(), policies.clone());
        tokio::spawn(async move {
            for policy in policies.iter().cycle() {
                authorization.replace_policy(policy.clone()).unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    for _ in 0..100 {
        assert_eq!(world.raw(head("GET /v1/config/a", &key()).as_bytes()).await.0, 200);
    }
    changing.abort();
    let records = world.records.take();
    assert_eq!(records.len(), 100);
    for record in records {
        let of = (record["policy"].as_str().unwrap().to_owned(), record["rule"].as_str().unwrap());
        assert!(names.contains(&of), "{record}");
        assert_eq!(
            (&record["outcome"], &record["shadow"]["outcome"]),
            (&"allowed".into(), &"denied".into()),
            "{record}"
        );
    }
    world.stop().await;
}
