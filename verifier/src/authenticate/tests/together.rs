//! Several credentials, proxies, and what stands around the tokens: the cache, the limit, single use.

use super::*;

/// The code of a refusal, or the kind of proof.
fn outcome(found: Result<Option<Caller>, AuthenticateError>) -> String {
    match found {
        Ok(Some(caller)) => caller.proof().kind.to_string(),
        Ok(None) => "absent".to_owned(),
        Err(error) => error.code().to_owned(),
    }
}

#[test]
fn trap_7_a_bad_credential_is_a_refusal_whatever_else_there_is() {
    let world = World::new();
    let (peer, other) = (world.peer("/export"), world.peer("/photo"));
    let (svid, hs, key) = (bearer(&world.svid()), bearer(&hs256()), api_key("legacy"));
    let bad = bearer(&hs256_of(OTHER, &hs_header("export.1"), &hs_claims().to_string()));
    let wrong = format!("legacy.1.{}", "A".repeat(43));
    let other_key = api_key("legacy-b");
    let scheme = format!("ApiKey {other_key}");
    type Case<'c> = (&'c str, Option<&'c VerifiedPeer>, Option<&'c str>, Option<&'c str>, &'c str);
    let cases: [Case<'_>; 14] = [
        ("the stronger counts", Some(&peer), Some(&svid), None, "x509"),
        ("the stronger counts", Some(&peer), Some(&hs), Some(&key), "x509"),
        ("the stronger counts", None, Some(&svid), Some(&key), "jwt-svid"),
        ("the stronger counts", None, Some(&hs), Some(&key), "shared-secret"),
        ("bad token, good certificate", Some(&peer), Some(&bad), None, "bad-signature"),
        ("bad token, good key", None, Some(&bad), Some(&key), "bad-signature"),
        ("good token, bad key", None, Some(&svid), Some(&wrong), "wrong-api-key-secret"),
        ("good certificate, bad key", Some(&peer), None, Some(&wrong), "wrong-api-key-secret"),
        ("an unknown scheme", Some(&peer), Some("Basic YTpi"), None, "unknown-credential-scheme"),
        ("an empty header", Some(&peer), Some(""), None, "bad-credential-header"),
        ("an empty key", Some(&peer), None, Some(""), "not-an-api-key"),
        ("two callers", Some(&other), Some(&svid), None, "callers-disagree"),
        ("two callers", Some(&other), None, Some(&key), "callers-disagree"),
        ("two keys of one caller", None, Some(&scheme), Some(&key), "credentials-alike"),
    ];
    for (what, connection, authorization, key, expected) in cases {
        let mut headers: Vec<(&str, &[u8])> = Vec::new();
        headers.extend(authorization.map(|value| ("authorization", value.as_bytes())));
        headers.extend(key.map(|value| ("x-api-key", value.as_bytes())));
        let found = world.ask(connection, &headers);
        if let Err(error) = &found {
            assert_eq!(error.refusal(), Refusal::Unauthenticated, "{what}");
        }
        assert_eq!(outcome(found), expected, "{what}");
    }
    // The roles are those of the stronger one alone.
    let headers: [(&str, &[u8]); 2] = [("authorization", svid.as_bytes()), ("x-api-key", key.as_bytes())];
    assert!(world.ask(None, &headers).unwrap().unwrap().granted_roles().is_empty());
}

#[test]
fn trap_6_a_header_that_stands_twice_is_malformed() {
    let world = World::new();
    let (svid, key) = (bearer(&world.svid()), api_key("legacy"));
    for (name, value) in [("authorization", &svid), ("x-api-key", &key)] {
        let upper = name.to_uppercase();
        for second in [value.as_str(), "Bearer x", ""] {
            let found = world.ask(None, &[(name, value.as_bytes()), (&upper, second.as_bytes())]).unwrap_err();
            assert_eq!(found, AuthenticateError::DuplicateHeader { name: name.into() });
            assert_eq!(found.refusal(), Refusal::Malformed);
        }
    }
}

#[test]
fn what_is_no_authorization() {
    let world = World::new();
    let token = world.svid();
    for (value, expected) in [
        (format!("Bearer {token}"), "jwt-svid"),
        (format!("bEARER {token}"), "jwt-svid"),
        (format!("Bearer  {token}"), "bad-credential-header"),
        (format!("Bearer {token} "), "bad-credential-header"),
        (format!(" Bearer {token}"), "bad-credential-header"),
        (format!("Bearer\t{token}"), "bad-credential-header"),
        (format!("Bearer {token}, Bearer {token}"), "bad-credential-header"),
        (format!("Bearer {token},Bearer"), "not-a-compact-token"),
        (format!("Bearer {token}\r\nx: y"), "bad-credential-header"),
        (format!("Bearer {token}\0"), "bad-credential-header"),
        (format!("Bearer: {token}"), "unknown-credential-scheme"),
        (format!("DPoP {token}"), "unknown-credential-scheme"),
        (token.clone(), "bad-credential-header"),
        ("Bearer".into(), "bad-credential-header"),
        ("Bearer ".into(), "bad-credential-header"),
        ("Bearer é".into(), "bad-credential-header"),
    ] {
        assert_eq!(outcome(world.ask(None, &[("authorization", value.as_bytes())])), expected, "{value:?}");
    }
    assert_eq!(outcome(world.ask(None, &[("authorization", b"Bearer \xff")])), "bad-credential-header");
    // Where only certificates are taken, the header is the service's own.
    let (identity, _publisher) = Identity::published(Arc::new(ManualClock::at(NOW)));
    let x509_only = Authenticators::builder(domain("example.org"), identity).x509().build().unwrap();
    let headers = Headers(&[("authorization", b"Basic YTpi")]);
    let presented = Presented { connection: None, session: None, headers: &headers, address: None, at: NOW };
    assert_eq!(x509_only.authenticate(&presented), Ok(None));
}

#[test]
fn behind_a_proxy_the_one_bearer_credential_is_the_caller() {
    let world = World::new();
    let edge = world.peer("/edge");
    let (svid, key, scheme) = (bearer(&world.svid()), api_key("legacy"), format!("ApiKey {}", api_key("legacy-b")));
    let wrong = |count| Err(AuthenticateError::ViaCredentials { proxy: id("/edge"), count });
    let caller = world.ask(Some(&edge), &[("authorization", svid.as_bytes())]).unwrap().unwrap();
    assert_eq!((caller.service(), caller.via()), (Some(&id("/export")), Some(&id("/edge"))));
    assert_eq!(caller.proof().kind, ProofKind::JwtSvid);
    assert_eq!(world.ask(Some(&edge), &[]), wrong(0));
    assert_eq!(world.ask(Some(&edge), &[("authorization", svid.as_bytes()), ("x-api-key", key.as_bytes())]), wrong(2));
    assert_eq!(
        world.ask(Some(&edge), &[("authorization", scheme.as_bytes()), ("x-api-key", key.as_bytes())]),
        wrong(2)
    );
    assert_eq!(outcome(world.ask(Some(&edge), &[("authorization", b"Bearer x")])), "not-a-compact-token");
    // T-25: the whole ID counts, so nobody else is the proxy.
    for other in ["/edge/x", "/edge2", "/Edge"] {
        let found = world.ask(Some(&world.peer(other)), &[("authorization", svid.as_bytes())]);
        assert_eq!(outcome(found), "callers-disagree", "{other}");
    }
    let foreign = Authority::root("example.com");
    let chain = [foreign.leaf("spiffe://example.com/edge", &Key::p256())];
    let bundles = crate::x509::fixtures::bundle_of("example.com", &[&foreign.der]).into();
    let peer = verify_chain(&chain, &bundles, NOW).unwrap();
    assert_eq!(outcome(world.ask(Some(&peer), &[("authorization", svid.as_bytes())])), "callers-disagree");
}

#[test]
fn a_connection_that_outlives_its_certificate_has_no_caller() {
    let world = World::new();
    let peer = world.peer("/export");
    let late = Timestamp::from_unix_seconds(peer.not_after().unix_seconds() + 1);
    assert_eq!(outcome(world.ask_at(Some(&peer), &[], late)), "certificate-expired");
}

#[test]
fn what_is_remembered_ends_with_the_token_and_with_every_change_of_keys() {
    let world = World::new();
    let (svid, hs) = (world.svid(), hs256());
    let remembered = || world.authenticators.0.tokens.len();
    // T-12, trap 17: refusals are not remembered.
    world.bearer(&format!("{svid}A")).unwrap_err();
    assert_eq!(remembered(), 0);
    for _ in 0..3 {
        world.bearer(&svid).unwrap();
        world.bearer(&hs).unwrap();
    }
    assert_eq!(remembered(), 2);
    // Never past its end: the leeway is for tokens that are verified, each time.
    assert!(world.bearer_at(&svid, at(329)).is_ok());
    assert_eq!(world.bearer_at(&svid, at(330)).unwrap_err().code(), "expired");
    assert_eq!(world.bearer_at(&hs, at(330)).unwrap_err().code(), "expired");
    // Nor before its beginning, when the clock is set back.
    assert_eq!(world.bearer_at(&hs, at(-301)).unwrap_err().code(), "lives-too-long");
    // Other bundles, without the key.
    world.publisher.publish(None, bundles(&Key::p256(), &world.foreign));
    assert_eq!(world.bearer(&svid).unwrap_err().code(), "bad-signature");
    assert!(world.bearer(&hs).is_ok());
    // Other records, without the key.
    world.authenticators.replace_key_records(KeyRecords::empty(domain("example.org"))).unwrap();
    assert_eq!(world.bearer(&hs).unwrap_err().code(), "unknown-key");
}

#[test]
fn uses_of_keys_are_counted_and_outlive_a_change_of_the_records() {
    let world = World::new();
    let old = hs256();
    let key = api_key("legacy");
    for second in 0..3 {
        world.bearer_at(&old, at(second)).unwrap();
    }
    world.ask(None, &[("x-api-key", key.as_bytes())]).unwrap();
    // Good in itself, but not the request's caller.
    world.ask(Some(&world.peer("/photo")), &[("x-api-key", key.as_bytes())]).unwrap_err();
    world.authenticators.replace_key_records(records()).unwrap();
    let uses = world.authenticators.key_uses();
    let of = |key_id: &str| uses.iter().find(|used| &*used.key_id == key_id).unwrap();
    assert_eq!((of("export.1").count, of("export.1").last_used_at, of("export.1").replaced), (3, Some(at(2)), true));
    assert_eq!((of("export.2").count, of("export.2").last_used_at, of("export.2").replaced), (0, None, false));
    assert_eq!((of("legacy.1").count, of("legacy.1").kind), (1, crate::key_records::KeyKind::ApiKey));
}

#[test]
fn single_use_is_looked_at_after_the_cache_and_only_for_a_caller() {
    let world = World::with(|builder| builder.single_use(100));
    let peer = world.peer("/photo");
    let svid = world.svid();
    // A request that is refused for another reason uses nothing up.
    let found = world.ask(Some(&peer), &[("authorization", bearer(&svid).as_bytes())]);
    assert_eq!(outcome(found), "callers-disagree");
    assert!(world.bearer(&svid).is_ok());
    let replayed = world.bearer(&svid).unwrap_err();
    assert_eq!((replayed.code(), replayed.refusal()), ("token-replayed", Refusal::Unauthenticated));
    assert_eq!(world.bearer_at(&svid, at(329)).unwrap_err().code(), "token-replayed");
    assert_eq!(world.bearer(&hs256()).unwrap_err().code(), "token-without-id");
    assert!(world.bearer(&world.access_token()).is_ok());
    // An API key is no token.
    let key = api_key("legacy");
    for _ in 0..2 {
        assert!(world.ask(None, &[("x-api-key", key.as_bytes())]).is_ok());
    }
}

#[test]
fn t_29_the_limit_of_an_address_stands_before_signatures_and_not_before_what_was_seen() {
    let world = World::with(|builder| builder.address_rate(AddressRate { per_second: 1, burst: 3 }));
    let from = |address: &str, token: &str| {
        let value = bearer(token);
        let pairs: [(&str, &[u8]); 1] = [("authorization", value.as_bytes())];
        let headers = Headers(&pairs);
        let address: IpAddr = address.parse().unwrap();
        world.authenticators.authenticate(&Presented {
            connection: None,
            session: None,
            headers: &headers,
            address: Some(address),
            at: NOW,
        })
    };
    let svid = world.svid();
    assert!(from("192.0.2.1", &svid).is_ok());
    for number in 0..2 {
        assert_eq!(outcome(from("192.0.2.1", &format!("{svid}{number}.x"))), "not-a-compact-token");
    }
    let limited = from("192.0.2.1", &hs256()).unwrap_err();
    assert_eq!(limited.refusal(), Refusal::Limited { retry_after: Duration::from_secs(1) });
    assert!(from("192.0.2.1", &svid).is_ok(), "it was seen before");
    assert!(from("192.0.2.2", &hs256()).is_ok());
}

#[test]
fn api_keys_that_are_refused() {
    let world = World::new();
    for (key, code) in [
        (api_key("nobody"), "unknown-api-key"),
        (format!("export.1.{API_SECRET}"), "unknown-api-key"),
        (api_key("ended"), "api-key-expired"),
        (api_key("not-ours"), "api-key-of-another-service"),
        (format!("legacy.1.{}", "A".repeat(43)), "wrong-api-key-secret"),
        (format!("legacy.1.{API_SECRET}A"), "not-an-api-key"),
        (format!("legacy.1.{} ", &API_SECRET[1..]), "not-an-api-key"),
        ("legacy.1.".into(), "not-an-api-key"),
        (API_SECRET.into(), "not-an-api-key"),
    ] {
        let found = world.ask(None, &[("x-api-key", key.as_bytes())]).unwrap_err();
        assert_eq!(found.code(), code, "{key}");
        let shown = format!("{found} {found:?} {:?}", world.authenticators);
        assert!(!shown.contains(&API_SECRET[1..20]), "{shown}");
    }
}

#[test]
fn nothing_printed_is_a_secret() {
    let world = World::new();
    let shown = format!("{:?} {:?} {:?}", world.authenticators, records(), records().records());
    for secret in [EXPORT_1, EXPORT_2, OTHER] {
        let encoded = Base64UrlUnpadded::encode_string(secret);
        assert!(!shown.contains(&encoded) && !shown.contains(std::str::from_utf8(secret).unwrap()));
    }
    assert!(!shown.contains(API_SECRET));
    let caller = world.bearer(&hs256()).unwrap();
    let tag = hs256().rsplit('.').next().unwrap().to_owned();
    assert!(!format!("{caller:?}").contains(&tag));
}
