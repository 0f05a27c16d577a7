//! Tokens by kind: what is taken, and every trap of security.md §4 (JWT).

use super::*;
use crate::jwt::{Claimed, mint_shared_secret_token};

/// Claims with one changed, or taken away.
fn with(mut claims: Value, claim: &str, value: Option<Value>) -> Value {
    let members = claims.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(claim.into(), value),
        None => members.remove(claim),
    };
    claims
}

fn code(found: Result<Caller, AuthenticateError>) -> String {
    found.map_or_else(|error| error.code().to_owned(), |caller| caller.proof().kind.to_string())
}

#[test]
fn hs256_headers() {
    let world = World::new();
    let claims = hs_claims().to_string();
    for (header, expected) in [
        (hs_header("export.1"), "shared-secret"),
        (r#"{"alg":"HS256","kid":"export.1"}"#.to_owned(), "shared-secret"),
        (r#"{"alg":"HS256"}"#.to_owned(), "shared-secret"), // no kid: the subject picks the record
        (hs_header("export.2"), "bad-signature"),
        (hs_header("export.3"), "unknown-key"),
        (hs_header("export"), "unknown-key"),
        (hs_header("legacy.1"), "unknown-key"), // an API key's
        (hs_header("jwt-1"), "algorithm-not-accepted"),
        (hs_header("at-1"), "algorithm-not-accepted"),
        (hs_header("../export.1"), "unknown-key"),
        (hs_header("' or 1=1 --"), "unknown-key"),
        (hs_header(""), "bad-token-header"),
        (r#"{"alg":"HS256","kid":null}"#.to_owned(), "bad-token-header"),
        (r#"{"alg":"HS256","kid":["export.1"]}"#.to_owned(), "bad-token-header"),
        (r#"{"alg":"HS256","kid":"export.1","kid":"export.1"}"#.to_owned(), "bad-token-json"),
        (r#"{"alg":"HS256","kid":"export.1","\u006bid":"export.2"}"#.to_owned(), "bad-token-json"),
        (r#"{"kid":"export.1"}"#.to_owned(), "bad-token-header"),
        (r#"{"alg":"none","kid":"export.1"}"#.to_owned(), "algorithm-not-accepted"),
        (r#"{"alg":"None","kid":"export.1"}"#.to_owned(), "algorithm-not-accepted"),
        (r#"{"alg":"none"}"#.to_owned(), "bad-token-header"),
        (r#"{"alg":"hs256","kid":"export.1"}"#.to_owned(), "algorithm-not-accepted"),
        (r#"{"alg":"HS512","kid":"export.1"}"#.to_owned(), "algorithm-not-accepted"),
        (r#"{"alg":"ES256","kid":"export.1"}"#.to_owned(), "algorithm-not-accepted"),
        (r#"{"alg":"HS256","kid":"export.1","typ":"at+jwt"}"#.to_owned(), "wrong-token-type"),
        (r#"{"alg":"HS256","kid":"export.1","typ":"txntoken+jwt"}"#.to_owned(), "wrong-token-type"),
        (r#"{"alg":"HS256","kid":"export.1","typ":"jwt"}"#.to_owned(), "wrong-token-type"),
        (r#"{"alg":"HS256","kid":"export.1","typ":1}"#.to_owned(), "bad-token-header"),
        (r#"{"alg":"HS256","kid":"export.1","crit":[]}"#.to_owned(), "unknown-token-header"),
        (r#"{"alg":"HS256","kid":"export.1","jku":"https://x"}"#.to_owned(), "unknown-token-header"),
        (r#"{"alg":"HS256","kid":"export.1","jwk":{}}"#.to_owned(), "unknown-token-header"),
        (r#"{"alg":"HS256","kid":"export.1","x5c":[]}"#.to_owned(), "unknown-token-header"),
        (r#"{"alg":"HS256","kid":"export.1","x5u":"https://x"}"#.to_owned(), "unknown-token-header"),
        (r#"{"alg":"HS256","kid":"export.1","zip":"DEF"}"#.to_owned(), "unknown-token-header"),
        (r#"{"alg":"HS256","kid":"export.1","cty":"JWT"}"#.to_owned(), "unknown-token-header"),
        ("[]".to_owned(), "bad-token-json"),
    ] {
        assert_eq!(code(world.bearer(&hs256_of(EXPORT_1, &header, &claims))), expected, "{header}");
    }
}

#[test]
fn a_token_without_a_kid_is_of_the_one_record_of_its_subject() {
    let world = World::new();
    let token = |secret: &[u8], subject: &str| {
        hs256_of(secret, r#"{"alg":"HS256"}"#, &with(hs_claims(), "sub", Some(json!(subject))).to_string())
    };
    assert_eq!(&*world.bearer(&token(EXPORT_2, "export")).unwrap().proof().key_id, "export.2");
    assert_eq!(code(world.bearer(&token(OTHER, "export"))), "bad-signature");
    assert_eq!(code(world.bearer(&token(EXPORT_1, "nobody"))), "bad-token-header");
    // Two records: nobody says which.
    assert_eq!(code(world.bearer(&token(EXPORT_1, "twin"))), "bad-token-header");
    assert_eq!(
        code(world.bearer(&hs256_of(
            EXPORT_1,
            &hs_header("twin-a.1"),
            &with(hs_claims(), "sub", Some(json!("twin"))).to_string()
        ))),
        "shared-secret"
    );
    assert_eq!(code(world.bearer(&hs256_of(EXPORT_1, r#"{"alg":"HS256"}"#, "{}"))), "bad-token-header");
}

/// T-10: for each claim, everything that it is not.
#[test]
fn t_09_t_10_hs256_claims() {
    let world = World::new();
    let ask = |claims: &str| code(world.bearer(&hs256_of(EXPORT_1, &hs_header("export.1"), claims)));
    assert_eq!(ask(&hs_claims().to_string()), "shared-secret");
    for claim in ["exp", "aud", "sub", "roles"] {
        assert_eq!(ask(&with(hs_claims(), claim, None).to_string()), "missing-claim", "T-09 {claim}");
    }
    let junk = [
        json!("x"),
        json!(1.5),
        json!(-1),
        json!(9_007_199_254_740_992_u64),
        json!(null),
        json!(true),
        json!([1]),
        json!({"a": 1}),
    ];
    for claim in ["exp", "aud", "sub", "roles", "jti", "iat"] {
        for value in &junk {
            let fits = value.is_string() && matches!(claim, "aud" | "sub" | "jti");
            let found = ask(&with(hs_claims(), claim, Some(value.clone())).to_string());
            let expected = match claim {
                "aud" if fits => "wrong-audience",
                "sub" if fits => "other-subject",
                "jti" if fits => "shared-secret",
                _ => "bad-claim",
            };
            assert_eq!(found, expected, "T-10 {claim} = {value}");
        }
        let twice = hs_claims().to_string().replacen('{', &format!("{{\"{claim}\":1,\"{claim}\":1,"), 1);
        assert_eq!(ask(&twice), "bad-token-json", "T-10 {claim} twice");
    }
    let text = hs_claims().to_string();
    assert_eq!(ask(&text.replacen('{', "{\"\\u0065xp\":1,", 1)), "bad-token-json");
    assert_eq!(ask(&text.replacen('{', "{\"iat\":1e400,", 1)), "bad-token-json");
    assert_eq!(ask(&format!("{text}x")), "bad-token-json");
    assert_eq!(ask("[]"), "bad-token-json");

    let many = |count: usize| json!((0..count).map(|number| format!("r{number}")).collect::<Vec<_>>());
    for (claim, value, expected) in [
        // Exactly these claims.
        ("nbf", json!(exp(-10)), "unknown-claim"),
        ("iss", json!("export"), "unknown-claim"),
        ("scope", json!("all"), "unknown-claim"),
        ("", json!(1), "unknown-claim"),
        // The end, with leeway, and the most lifetime.
        ("exp", json!(exp(-29)), "shared-secret"),
        ("exp", json!(exp(-30)), "expired"),
        ("exp", json!(exp(600)), "shared-secret"),
        ("exp", json!(exp(601)), "lives-too-long"),
        ("exp", json!(9_007_199_254_740_991_u64), "lives-too-long"),
        ("exp", json!(0), "expired"),
        ("iat", json!(exp(30)), "shared-secret"),
        ("iat", json!(exp(31)), "issued-in-future"),
        // The audience: that of the record, and one's own.
        ("aud", json!([OWN]), "shared-secret"),
        ("aud", json!(["x", OWN]), "shared-secret"),
        ("aud", json!([]), "missing-claim"),
        ("aud", json!([[OWN]]), "bad-claim"),
        ("aud", json!(""), "bad-claim"),
        ("aud", json!(OWN.to_uppercase()), "wrong-audience"),
        ("aud", json!(format!("{OWN}/")), "wrong-audience"),
        ("aud", json!(vec!["x"; 33]), "too-many-audiences"),
        // The subject: that of the record, byte for byte.
        ("sub", json!("Export"), "other-subject"),
        ("sub", json!("spiffe://example.org/export"), "other-subject"),
        ("sub", json!("spiffe://example.org/bonafide/ca"), "other-subject"),
        // Roles.
        ("roles", json!([]), "shared-secret"),
        ("roles", json!(["admin"]), "shared-secret"),
        ("roles", many(64), "shared-secret"),
        ("roles", many(65), "bad-claim"),
        ("roles", json!(["reader", "reader"]), "bad-claim"),
        ("roles", json!(["Reader"]), "bad-claim"),
        ("roles", json!([""]), "bad-claim"),
        ("roles", json!("reader"), "bad-claim"),
    ] {
        let claims = with(hs_claims(), claim, Some(value));
        assert_eq!(ask(&claims.to_string()), expected, "{claims:.300}");
    }
}

#[test]
fn what_a_record_bounds() {
    let world = World::new();
    let own = |claims: Value, key_id: &str| world.bearer(&hs256_of(OTHER, &hs_header(key_id), &claims.to_string()));
    // Its audience is not this service, whatever the token says.
    let claims = with(hs_claims(), "sub", Some(json!("spiffe://example.org/export")));
    assert_eq!(code(own(claims.clone(), "elsewhere.1")), "wrong-audience");
    let both = with(claims, "aud", Some(json!([OWN, "spiffe://example.org/other"])));
    assert_eq!(code(own(both, "elsewhere.1")), "wrong-audience");
    // Its most lifetime.
    let claims = with(hs_claims(), "sub", Some(json!("spiffe://example.org/short")));
    assert_eq!(code(own(with(claims.clone(), "exp", Some(json!(exp(60)))), "short.1")), "shared-secret");
    assert_eq!(code(own(with(claims, "exp", Some(json!(exp(61)))), "short.1")), "lives-too-long");
    // Its roles: asserted ones are kept apart from the granted.
    let claims = with(hs_claims(), "roles", Some(json!(["admin", "reader"])));
    let caller = world.bearer(&hs256_of(EXPORT_1, &hs_header("export.1"), &claims.to_string())).unwrap();
    assert_eq!(*caller.granted_roles(), roles(&["reader", "writer"]));
    assert_eq!(caller.asserted_roles(), Some(&roles(&["admin", "reader"])));
    // Its end.
    let end = Timestamp::from_unix_seconds(1_798_761_600);
    let claims = with(hs_claims(), "exp", Some(json!(end.unix_seconds() + 100)));
    let token = hs256_of(EXPORT_1, &hs_header("export.1"), &claims.to_string());
    let before = end.saturating_sub(Duration::from_secs(1));
    assert_eq!(world.bearer_at(&token, before).unwrap().valid_until(), end);
    assert_eq!(world.bearer_at(&token, end).unwrap_err().code(), "key-expired");
}

/// T-30 and the form of a token.
#[test]
fn t_30_forms() {
    let world = World::new();
    let good = hs256();
    let (input, tag) = good.rsplit_once('.').unwrap();
    let (header, claims) = input.split_once('.').unwrap();
    for (token, expected) in [
        (".".repeat(1 << 20), "token-too-large"),
        (format!("{good}{}", "A".repeat(9000)), "token-too-large"),
        (".".repeat(8192), "not-a-compact-token"),
        (format!("{header}.{claims}"), "not-a-compact-token"),
        (format!("{good}.x"), "not-a-compact-token"),
        (format!("{good}.x.y"), "not-a-compact-token"),
        (format!(".{good}"), "not-a-compact-token"),
        (format!("{good}."), "not-a-compact-token"),
        (format!("{header}.{claims}."), "bad-signature"),
        (format!("{header}..{tag}"), "bad-signature"),
        (format!("{header}.{claims}.{}", &tag[..42]), "bad-base64url"),
        (format!("{header}.{claims}.{}", &tag[..40]), "bad-signature"),
        (format!("{good}="), "not-a-compact-token"),
        (format!("{good}+"), "not-a-compact-token"),
        (format!("{good}/"), "not-a-compact-token"),
        (format!("{{\"payload\":\"{claims}\"}}"), "not-a-compact-token"),
        (hs256_of(EXPORT_1, &hs_header("export.1"), &good), "bad-token-json"), // nested
        (format!("{}.{claims}.{tag}", encode(&hs_header("export.2"))), "bad-signature"),
        (format!("{}.{claims}.{tag}", encode(&hs_header(&"k".repeat(5000)))), "unknown-key"),
    ] {
        assert_eq!(code(world.bearer(&token)), expected, "{token:.100}");
    }
    // The last character of the tag has two bits too many: only one spelling is taken.
    let last = tag.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let taken = alphabet.chars().filter(|&other| world.bearer(&format!("{input}.{}{other}", &tag[..42])).is_ok());
    assert_eq!(taken.collect::<Vec<_>>(), [last]);
}

/// rfc8725 §2.1: the public key of an authority as an HMAC secret, and a secret's token as one of an authority.
#[test]
fn kinds_are_told_apart_by_the_key_and_never_tried() {
    let world = World::new();
    let public = world.jwt.spki();
    let claims = json!({ "sub": "spiffe://example.org/export", "aud": OWN, "exp": exp(300), "roles": [] });
    for secret in [public.as_slice(), crate::spiffe::pem("PUBLIC KEY", &public).as_bytes()] {
        assert_eq!(
            code(world.bearer(&hs256_of(secret, &hs_header("jwt-1"), &claims.to_string()))),
            "algorithm-not-accepted"
        );
    }
    let header = |key_id: &str, typ: &str| json!({ "alg": "ES256", "kid": key_id, "typ": typ });
    for (key, key_id, typ, claims, expected) in [
        (&world.jwt, "jwt-1", "JWT", access_claims(), "jwt-svid"),
        (&world.jwt, "jwt-1", "at+jwt", access_claims(), "wrong-token-type"),
        (&world.jwt, "at-1", "at+jwt", access_claims(), "bad-signature"),
        (&world.jwt, "export.1", "JWT", claims.clone(), "algorithm-not-accepted"),
        (&world.token_service, "at-1", "at+jwt", access_claims(), "access-token"),
        (&world.token_service, "at-1", "JWT", access_claims(), "wrong-token-type"),
        (&world.token_service, "jwt-1", "JWT", claims.clone(), "bad-signature"),
        (&world.token_service, "jwt-1", "at+jwt", access_claims(), "wrong-token-type"),
        (&world.foreign, "foreign", "JWT", claims.clone(), "unknown-key"),
    ] {
        let found = code(world.bearer(&es256(key, &header(key_id, typ), &claims)));
        assert_eq!(found, expected, "{key_id} {typ}");
    }
    // A federated trust domain has its own keys and its own names for them; a name that is taken here is ours.
    let foreign = with(claims, "sub", Some(json!("spiffe://example.com/export")));
    assert_eq!(
        world.bearer(&es256(&world.foreign, &header("foreign", "JWT"), &foreign)).unwrap().id().as_str(),
        "spiffe://example.com/export"
    );
    assert_eq!(
        code(world.bearer(&es256(&world.foreign, &header("export.1", "JWT"), &foreign))),
        "algorithm-not-accepted"
    );
    assert_eq!(code(world.bearer(&es256(&world.foreign, &header("at-1", "JWT"), &foreign))), "wrong-token-type");
}

#[test]
fn a_kid_that_comes_to_name_two_keys_names_none() {
    let world = World::new();
    let bundle =
        TrustBundle::new::<&[u8]>(domain("example.org"), [], [authority("export.1", &world.jwt)], None, None).unwrap();
    world.publisher.publish(None, bundle.into());
    assert_eq!(code(world.bearer(&hs256())), "ambiguous-key");
    assert!(world.authenticators.replace_key_records(records()).is_err());
    assert!(world.authenticators.replace_access_token_keys(vec![authority("export.2", &world.jwt)]).is_err());
}

#[test]
fn access_tokens_by_claim() {
    let world = World::new();
    let ask = |header: &Value, claims: &Value| code(world.bearer(&es256(&world.token_service, header, claims)));
    for claim in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        assert_eq!(
            ask(&access_header(), &with(access_claims(), claim, None)),
            "missing-claim",
            "RFC 9068 §2.2 {claim}"
        );
        for value in [json!(1.5), json!(null), json!(true), json!([1]), json!({"a": 1})] {
            let found = ask(&access_header(), &with(access_claims(), claim, Some(value.clone())));
            assert_eq!(found, "bad-claim", "T-10 {claim} = {value}");
        }
    }
    let both = |id: &str| with(with(access_claims(), "sub", Some(json!(id))), "client_id", Some(json!(id)));
    for (claims, expected) in [
        (with(access_claims(), "iss", Some(json!(format!("{ISSUER}/")))), "other-issuer"),
        (with(access_claims(), "aud", Some(json!(["x"]))), "wrong-audience"),
        (with(access_claims(), "exp", Some(json!(exp(-29)))), "access-token"),
        (with(access_claims(), "exp", Some(json!(exp(-30)))), "expired"),
        (with(access_claims(), "iat", Some(json!(exp(31)))), "issued-in-future"),
        (with(access_claims(), "nbf", Some(json!(exp(31)))), "not-yet-valid"),
        (with(access_claims(), "nbf", Some(json!("x"))), "bad-claim"),
        (with(access_claims(), "scope", Some(json!("a b"))), "access-token"),
        // Of a user: no proof of a service.
        (with(access_claims(), "sub", Some(json!("john"))), "other-subject"),
        (both("john"), "bad-spiffe-id"),
        (both("spiffe://example.com/export"), "no-client"),
        (both("spiffe://example.org/bonafide/ca"), "no-client"),
        (both("spiffe://example.org"), "spiffe-id-without-path"),
    ] {
        assert_eq!(ask(&access_header(), &claims), expected, "{claims}");
    }
    for (typ, expected) in [
        (Some("at+jwt"), "access-token"),
        (Some("AT+JWT"), "wrong-token-type"),
        (Some("application/at+jwt"), "wrong-token-type"),
        (Some("JWT"), "wrong-token-type"),
        (None, "wrong-token-type"),
    ] {
        let header = with(access_header(), "typ", typ.map(|typ| json!(typ)));
        assert_eq!(ask(&header, &access_claims()), expected, "{typ:?}");
    }
    world.authenticators.replace_access_token_keys(vec![authority("at-2", &world.token_service)]).unwrap();
    assert_eq!(
        ask(&access_header(), &access_claims()),
        "wrong-token-type",
        "no key of the token service: no access token"
    );
    let header = with(access_header(), "kid", Some(json!("at-2")));
    assert_eq!(ask(&header, &access_claims()), "access-token");
}

#[test]
fn what_is_minted_is_taken() {
    let world = World::new();
    let secret = crate::shared_secret::SharedSecret::parse(&Base64UrlUnpadded::encode_string(EXPORT_2)).unwrap();
    let wanted = roles(&["reader"]);
    let claimed = Claimed {
        key_id: "export.2",
        subject: "export",
        audience: OWN,
        roles: &wanted,
        lifetime: Duration::from_secs(60),
    };
    let token = mint_shared_secret_token(&secret, &claimed, NOW).unwrap();
    let caller = world.bearer(&token).unwrap();
    assert_eq!((caller.service(), caller.valid_until()), (Some(&id("/export")), at(90)));
    assert_eq!(caller.asserted_roles(), Some(&wanted));
    assert_ne!(*token, *mint_shared_secret_token(&secret, &claimed, NOW).unwrap());
}

/// Somebody else's signer and verifier.
#[test]
fn hs256_tokens_of_another_library() {
    use jsonwebtoken as other;
    let world = World::new();
    let header =
        |kid: Option<&str>, algorithm| other::Header { kid: kid.map(Into::into), ..other::Header::new(algorithm) };
    let signed = |header: &other::Header, claims: &Value, secret: &[u8]| {
        other::encode(header, claims, &other::EncodingKey::from_secret(secret)).unwrap()
    };
    let hs256 = other::Algorithm::HS256;
    for (header, claims, secret, expected) in [
        (header(Some("export.1"), hs256), hs_claims(), EXPORT_1, "shared-secret"),
        (header(None, hs256), hs_claims(), EXPORT_1, "shared-secret"),
        (header(Some("export.1"), hs256), hs_claims(), EXPORT_2, "bad-signature"),
        (header(Some("export.1"), hs256), hs_claims(), b"".as_slice(), "bad-signature"),
        (header(Some("export.1"), other::Algorithm::HS384), hs_claims(), EXPORT_1, "algorithm-not-accepted"),
        (header(Some("export.1"), hs256), with(hs_claims(), "exp", Some(json!(exp(-45)))), EXPORT_1, "expired"), // its leeway is 60 s
        (header(Some("export.1"), hs256), with(hs_claims(), "nbf", Some(json!(exp(-1)))), EXPORT_1, "unknown-claim"),
    ] {
        assert_eq!(code(world.bearer(&signed(&header, &claims, secret))), expected, "{header:?} {claims}");
    }
    // And ours there.
    let secret = crate::shared_secret::SharedSecret::parse(&Base64UrlUnpadded::encode_string(EXPORT_1)).unwrap();
    let wanted = roles(&["reader"]);
    let claimed = Claimed {
        key_id: "export.1",
        subject: "export",
        audience: OWN,
        roles: &wanted,
        lifetime: Duration::from_secs(60),
    };
    let token = mint_shared_secret_token(&secret, &claimed, NOW).unwrap();
    let mut validation = other::Validation::new(hs256);
    validation.set_audience(&[OWN]);
    validation.validate_exp = false;
    let read = other::decode::<Value>(token.as_str(), &other::DecodingKey::from_secret(EXPORT_1), &validation).unwrap();
    assert_eq!((&read.claims["sub"], &read.claims["roles"]), (&json!("export"), &json!(["reader"])));
}
