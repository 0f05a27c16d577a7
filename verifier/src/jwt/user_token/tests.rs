//! Which tokens are a user and which not, by requirement.

use base64ct::{Base64UrlUnpadded, Encoding};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    jwt::{
        Algorithm, SigningInput, UnverifiedJwt, access_token,
        tests::sign,
        txn_token,
        user_issuers::{IssuerKeys, UserIssuerSettings},
    },
    spiffe::{BundleSet, JwtAuthority, PublicKey, SpiffeId, TrustBundle},
    user::UserIdError,
    x509::fixtures::{ID, Key, NOW, at, domain},
};

const URL: &str = "https://login.example.com/dex";
const AUDIENCE: &str = "photo-web";

/// An issuer with an EC and an RSA key, under the `kid`s `ec` and `rsa`, and another issuer with a key under the same `kid`.
struct Provider {
    ec: Key,
    rsa: Key,
    other: Key,
    issuers: UserIssuers,
}

fn issuer(name: &str, url: &str, keys: &[(&str, &Key)], roles_claim: Option<&str>) -> UserIssuer {
    issuer_of(&[Algorithm::Es256, Algorithm::Rs256], name, url, keys, roles_claim)
}

fn issuer_of(
    algorithms: &[Algorithm],
    name: &str,
    url: &str,
    keys: &[(&str, &Key)],
    roles_claim: Option<&str>,
) -> UserIssuer {
    let jwk = |(key_id, key): &(&str, &Key)| {
        let mut jwk = PublicKey::from_spki(&key.spki()).unwrap().to_jwk();
        jwk.insert("kid".into(), (*key_id).into());
        Value::Object(jwk)
    };
    let keys = json!({ "keys": keys.iter().map(jwk).collect::<Vec<_>>() }).to_string();
    let settings = UserIssuerSettings {
        name: IssuerName::parse(name).unwrap(),
        url: url.into(),
        audiences: vec![AUDIENCE.into(), "photo-cli".into()],
        algorithms: algorithms.to_vec(),
        roles_claim: roles_claim.map(Into::into),
    };
    UserIssuer::new(settings, &IssuerKeys::parse_jwks(keys.as_bytes()).unwrap()).unwrap()
}

impl Provider {
    fn new() -> Self {
        Self::with_roles(Some("groups"))
    }

    fn with_roles(roles_claim: Option<&str>) -> Self {
        let (ec, rsa, other) = (Key::p256(), Key::rsa2048(), Key::p256());
        let corp = issuer("corp", URL, &[("ec", &ec), ("rsa", &rsa)], roles_claim);
        let partner = issuer("partner", "https://partner.example.net", &[("ec", &other)], roles_claim);
        let issuers = UserIssuers::new(vec![corp, partner]).unwrap();
        Self { ec, rsa, other, issuers }
    }

    /// Of these two texts, whatever they are, signed by the issuer with ES256.
    fn token(&self, header: &str, claims: &str) -> String {
        token_of(&self.ec, header, claims)
    }

    fn verify(&self, header: &str, claims: &Value) -> Result<VerifiedUser, UserTokenError> {
        verify(&self.token(header, &claims.to_string()), &self.issuers, NOW)
    }
}

fn token_of(key: &Key, header: &str, claims: &str) -> String {
    let input = [header, claims].map(|text| Base64UrlUnpadded::encode_string(text.as_bytes())).join(".");
    let signature = sign(key, Algorithm::Es256, input.as_bytes());
    format!("{input}.{}", Base64UrlUnpadded::encode_string(&signature))
}

const HEADER: &str = r#"{"alg":"ES256","kid":"ec"}"#;

fn claims() -> Value {
    json!({ "iss": URL, "sub": "charlie", "aud": AUDIENCE, "iat": NOW.unix_seconds(), "exp": at(300).unix_seconds() })
}

fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (claim, value) in changes.as_object().unwrap() {
        claims[claim] = value.clone();
    }
    claims
}

fn without(claim: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(claim);
    claims
}

/// What a verdict comes down to in these tables: kind and scope, or the reason's code.
fn said(found: Result<VerifiedUser, UserTokenError>) -> String {
    match found {
        Ok(user) => format!("{} {}", user.kind().as_str(), user.scope().unwrap_or("?")),
        Err(error) => {
            assert!(UserTokenError::CODES.contains(&error.code()), "{error}");
            assert!(!error.to_string().contains("charlie"), "{error}");
            error.code().to_owned()
        }
    }
}

#[test]
fn what_a_verified_token_says() {
    let provider = Provider::new();
    let claims = with(&json!({
        "groups": ["editors", "Domain Users", "b"], "nonce": "n", "jti": "7", "nbf": at(-5).unix_seconds(), "email": "c@example.com"
    }));
    let user = provider.verify(r#"{"alg":"ES256","kid":"ec","typ":"JWT"}"#, &claims).unwrap();
    assert_eq!((user.user().as_str(), user.issuer().as_str(), user.subject()), ("corp:charlie", "corp", "charlie"));
    assert_eq!(user.roles().iter().map(RoleName::as_str).collect::<Vec<_>>(), ["b", "editors"]);
    assert_eq!((user.kind(), user.scope(), user.key_id()), (UserTokenKind::IdToken, None, "ec"));
    assert_eq!((user.issued_at(), user.expires_at(), user.token_id()), (NOW, at(300), Some("7")));
    assert_eq!((user.valid_from(), user.claims()), (at(-30), claims.as_object().unwrap()));
    let shown = format!("{user:?}");
    assert!(!shown.contains("charlie") && !shown.contains("example.com") && shown.contains("corp"), "{shown}");
}

/// As providers write their headers, and what would change by which key or how a token is verified (A-11, RFC 8725).
#[test]
fn headers() {
    let provider = Provider::new();
    for (what, header, expected) in [
        ("Dex, Okta", r#"{"alg":"ES256","kid":"ec"}"#, "id-token ?"),
        ("Keycloak, Google, Auth0", r#"{"alg":"ES256","typ":"JWT","kid":"ec"}"#, "id-token ?"),
        ("Entra, AD FS", r#"{"alg":"ES256","typ":"JWT","kid":"ec","x5t":"ec"}"#, "id-token ?"),
        ("Duende", r#"{"alg":"ES256","typ":"at+jwt","kid":"ec","x5t":"a"}"#, "user-access-token ?"),
        ("RFC 9068 §4", r#"{"alg":"ES256","typ":"application/at+jwt","kid":"ec"}"#, "user-access-token ?"),
        ("x5t#S256", r##"{"alg":"ES256","kid":"ec","x5t#S256":"a"}"##, "id-token ?"),
        ("x5t is no text", r#"{"alg":"ES256","kid":"ec","x5t":{}}"#, "user-token-malformed"),
        ("crit", r#"{"alg":"ES256","kid":"ec","crit":["exp"]}"#, "user-token-malformed"),
        ("jwk", r#"{"alg":"ES256","kid":"ec","jwk":{}}"#, "user-token-malformed"),
        ("jku", r#"{"alg":"ES256","kid":"ec","jku":"https://a"}"#, "user-token-malformed"),
        ("x5c", r#"{"alg":"ES256","kid":"ec","x5c":["MII"]}"#, "user-token-malformed"),
        ("x5u", r#"{"alg":"ES256","kid":"ec","x5u":"https://a"}"#, "user-token-malformed"),
        ("Entra's tokens for Graph", r#"{"alg":"ES256","kid":"ec","nonce":"a"}"#, "user-token-malformed"),
        ("b64", r#"{"alg":"ES256","kid":"ec","b64":false}"#, "user-token-malformed"),
        ("a nested token", r#"{"alg":"ES256","kid":"ec","cty":"JWT"}"#, "user-token-malformed"),
        ("kid twice", r#"{"alg":"ES256","kid":"ec","kid":"ec"}"#, "user-token-malformed"),
        ("no kid", r#"{"alg":"ES256"}"#, "user-token-malformed"),
        ("an unknown kid", r#"{"alg":"ES256","kid":"ce"}"#, "user-token-key"),
        ("none", r#"{"alg":"none","kid":"ec"}"#, "user-token-algorithm"),
        ("None", r#"{"alg":"None","kid":"ec"}"#, "user-token-algorithm"),
        ("a public key as a secret", r#"{"alg":"HS256","kid":"ec"}"#, "user-token-algorithm"),
        ("EdDSA", r#"{"alg":"EdDSA","kid":"ec"}"#, "user-token-algorithm"),
        ("lower case", r#"{"alg":"es256","kid":"ec"}"#, "user-token-algorithm"),
        ("not of the issuer", r#"{"alg":"ES384","kid":"ec"}"#, "user-token-algorithm"),
        ("not of the key", r#"{"alg":"RS256","kid":"ec"}"#, "user-token-algorithm"),
        ("trap 10: a transaction token", r#"{"alg":"ES256","kid":"ec","typ":"txntoken+jwt"}"#, "user-token-type"),
        ("a logout token", r#"{"alg":"ES256","kid":"ec","typ":"logout+jwt"}"#, "user-token-type"),
        ("a security event", r#"{"alg":"ES256","kid":"ec","typ":"secevent+jwt"}"#, "user-token-type"),
        ("a proof", r#"{"alg":"ES256","kid":"ec","typ":"dpop+jwt"}"#, "user-token-type"),
        ("a delegation", r#"{"alg":"ES256","kid":"ec","typ":"bonafide-delegation+jwt"}"#, "user-token-type"),
        ("JOSE", r#"{"alg":"ES256","kid":"ec","typ":"JOSE"}"#, "user-token-type"),
        ("lower case", r#"{"alg":"ES256","kid":"ec","typ":"jwt"}"#, "user-token-type"),
        ("typ is null", r#"{"alg":"ES256","kid":"ec","typ":null}"#, "user-token-malformed"),
    ] {
        assert_eq!(said(provider.verify(header, &claims())), expected, "{what}");
    }
}

/// Issue 5 §3, T-10: one claim at a time, just inside and just outside.
#[test]
fn claims_by_requirement() {
    let provider = Provider::new();
    let list = |count: usize| Value::from(vec![AUDIENCE; count]);
    let seconds = |offset: i64| at(offset).unix_seconds();
    let cases: Vec<(&str, Value, &str)> = vec![
        ("good", claims(), "id-token ?"),
        (
            "iss of another issuer, whose key this is not",
            with(&json!({ "iss": "https://partner.example.net" })),
            "user-token-signature",
        ),
        ("iss unknown", with(&json!({ "iss": "https://evil.example" })), "user-token-issuer"),
        ("iss with a slash more", with(&json!({ "iss": format!("{URL}/") })), "user-token-issuer"),
        ("iss in another case", with(&json!({ "iss": URL.to_uppercase() })), "user-token-issuer"),
        ("iss is a list", with(&json!({ "iss": [URL] })), "user-token-claim"),
        ("no iss", without("iss"), "user-token-claim"),
        ("no sub", without("sub"), "user-token-claim"),
        ("sub is a number", with(&json!({ "sub": 7 })), "user-token-claim"),
        ("sub is empty", with(&json!({ "sub": "" })), "user-token-subject"),
        ("sub of 255", with(&json!({ "sub": "a".repeat(255) })), "id-token ?"),
        ("sub of 256", with(&json!({ "sub": "a".repeat(256) })), "user-token-subject"),
        ("sub with a line end", with(&json!({ "sub": "a\nb" })), "user-token-subject"),
        ("trap 10: sub is a service", with(&json!({ "sub": ID })), "user-token-subject"),
        (
            "trap 10: sub is a service, shouted",
            with(&json!({ "sub": "SPIFFE://example.org/photo" })),
            "user-token-subject",
        ),
        ("sub is the client", with(&json!({ "sub": "job", "client_id": "job", "scope": "a" })), "user-token-subject"),
        ("sub is the client, by azp", with(&json!({ "sub": AUDIENCE, "azp": AUDIENCE })), "user-token-subject"),
        ("no aud", without("aud"), "user-token-claim"),
        ("aud of another", with(&json!({ "aud": "photo-we" })), "user-token-audience"),
        ("aud in another case", with(&json!({ "aud": "Photo-Web" })), "user-token-audience"),
        ("aud is a number", with(&json!({ "aud": 1 })), "user-token-claim"),
        ("aud is empty", with(&json!({ "aud": [] })), "user-token-claim"),
        ("aud of one in a list", with(&json!({ "aud": [AUDIENCE] })), "id-token ?"),
        ("aud of several, without azp", with(&json!({ "aud": [AUDIENCE, "other"] })), "user-token-claim"),
        ("aud of several, azp ours", with(&json!({ "aud": ["other", AUDIENCE], "azp": "photo-cli" })), "id-token ?"),
        (
            "aud of several, azp another's",
            with(&json!({ "aud": ["other", AUDIENCE], "azp": "other" })),
            "user-token-authorized-party",
        ),
        ("aud ours, azp another's", with(&json!({ "azp": "other" })), "user-token-authorized-party"),
        ("azp is a number", with(&json!({ "azp": 1 })), "user-token-claim"),
        ("an access token of another client's", with(&json!({ "azp": "spa", "scope": "a" })), "user-access-token a"),
        (
            "the same for several",
            with(&json!({ "aud": ["account", AUDIENCE], "azp": "spa", "scope": "a" })),
            "user-access-token a",
        ),
        (
            "the same by client_id",
            with(&json!({ "aud": ["account", AUDIENCE], "client_id": "spa", "scope": "a" })),
            "user-access-token a",
        ),
        ("the same by nothing", with(&json!({ "aud": ["account", AUDIENCE], "scope": "a" })), "user-token-claim"),
        ("32 audiences", with(&json!({ "aud": list(32), "azp": AUDIENCE })), "id-token ?"),
        ("33 audiences", with(&json!({ "aud": list(33), "azp": AUDIENCE })), "user-token-claim"),
        ("no exp", without("exp"), "user-token-claim"),
        ("exp is a text", with(&json!({ "exp": seconds(300).to_string() })), "user-token-claim"),
        ("exp is a fraction", with(&json!({ "exp": seconds(300) as f64 + 0.5 })), "user-token-claim"),
        ("exp is negative", with(&json!({ "exp": -1 })), "user-token-claim"),
        ("exp is beyond what is a number", with(&json!({ "exp": 9_007_199_254_740_992_u64 })), "user-token-claim"),
        ("exp is null", with(&json!({ "exp": null })), "user-token-claim"),
        ("no iat", without("iat"), "user-token-claim"),
        ("iat is a text", with(&json!({ "iat": "now" })), "user-token-claim"),
        ("exp is iat", with(&json!({ "exp": seconds(0) })), "user-token-claim"),
        ("nbf is a text", with(&json!({ "nbf": "now" })), "user-token-claim"),
        ("a day", with(&json!({ "exp": seconds(86_400) })), "id-token ?"),
        ("a day and a second", with(&json!({ "exp": seconds(86_401) })), "user-token-lifetime"),
        ("cnf", with(&json!({ "cnf": { "jkt": "a" } })), "user-token-bound-to-key"),
        ("a logout token without a type", with(&json!({ "events": {} })), "user-token-type"),
        ("jti is a number", with(&json!({ "jti": 1 })), "user-token-claim"),
    ];
    for (what, claims, expected) in cases {
        assert_eq!(said(provider.verify(HEADER, &claims)), expected, "{what}");
    }
    let twice = format!(r#"{{"sub":"charlie","sub":"root",{}"#, &claims().to_string()[1..]);
    assert_eq!(said(verify(&provider.token(HEADER, &twice), &provider.issuers, NOW)), "user-token-malformed");
}

/// A-14: 30 seconds each way, and no more.
#[test]
fn times_with_leeway() {
    let provider = Provider::new();
    let token = provider.token(HEADER, &with(&json!({ "nbf": at(10).unix_seconds() })).to_string());
    for (offset, expected) in
        [(-21, "user-token-not-yet-valid"), (-20, "id-token ?"), (329, "id-token ?"), (330, "user-token-expired")]
    {
        assert_eq!(said(verify(&token, &provider.issuers, at(offset))), expected, "{offset}");
    }
    let token = provider.token(HEADER, &claims().to_string());
    assert_eq!(said(verify(&token, &provider.issuers, at(-31))), "user-token-not-yet-valid");
    assert_eq!(said(verify(&token, &provider.issuers, at(-30))), "id-token ?");
}

/// Unknown is not unlimited: what does not clearly say a scope has none that anybody knows.
#[test]
fn kinds_and_scopes() {
    let provider = Provider::new();
    let at_jwt = r#"{"alg":"ES256","kid":"ec","typ":"at+jwt"}"#;
    let cases: Vec<(&str, &str, Value, &str)> = vec![
        ("Dex's access token", HEADER, json!({ "nonce": "n" }), "id-token ?"),
        ("an ID token", HEADER, json!({ "at_hash": "a" }), "id-token ?"),
        ("Keycloak's ID token", HEADER, json!({ "typ": "ID", "at_hash": "a" }), "id-token ?"),
        (
            "Keycloak's access token",
            HEADER,
            json!({ "typ": "Bearer", "azp": "spa", "scope": "openid b" }),
            "user-access-token openid b",
        ),
        (
            "an older one, with nonce",
            HEADER,
            json!({ "typ": "Bearer", "nonce": "n", "scope": "b" }),
            "user-access-token b",
        ),
        ("Keycloak's refresh token", HEADER, json!({ "typ": "Refresh", "scope": "b" }), "user-token-type"),
        ("typ is a list", HEADER, json!({ "typ": ["Bearer"] }), "user-token-claim"),
        ("Auth0's access token", HEADER, json!({ "scope": "a b", "azp": "spa" }), "user-access-token a b"),
        ("Entra's access token", HEADER, json!({ "scp": "a b" }), "user-access-token a b"),
        ("Okta's, Hydra's", HEADER, json!({ "scp": ["a", "b"] }), "user-access-token a b"),
        ("both, and the same", HEADER, json!({ "scp": ["b", "a"], "scope": "a b" }), "user-access-token a b"),
        ("both, and different", HEADER, json!({ "scp": ["a"], "scope": "a b" }), "user-token-claim"),
        ("at+jwt with none", at_jwt, json!({}), "user-access-token ?"),
        ("at+jwt with an empty one", at_jwt, json!({ "scope": "" }), "user-access-token "),
        ("at+jwt with one", at_jwt, json!({ "scope": "photo.read" }), "user-access-token photo.read"),
        ("at+jwt that says it is an ID token", at_jwt, json!({ "typ": "ID" }), "user-token-type"),
        ("at+jwt with at_hash", at_jwt, json!({ "at_hash": "a" }), "user-token-type"),
        ("at_hash and a scope", HEADER, json!({ "at_hash": "a", "scope": "a" }), "user-token-type"),
        ("two blanks", at_jwt, json!({ "scope": "a  b" }), "user-token-claim"),
        ("a blank before", at_jwt, json!({ "scope": " a" }), "user-token-claim"),
        ("a quote", at_jwt, json!({ "scope": "a\"b" }), "user-token-claim"),
        ("a number", at_jwt, json!({ "scope": 1 }), "user-token-claim"),
        ("scope is a list", at_jwt, json!({ "scope": ["a"] }), "user-token-claim"),
        ("scp of numbers", at_jwt, json!({ "scp": [1] }), "user-token-claim"),
        ("scp with a blank inside a word", at_jwt, json!({ "scp": ["a b"] }), "user-token-claim"),
    ];
    for (what, header, changes, expected) in cases {
        assert_eq!(said(provider.verify(header, &with(&changes))), expected, "{what}");
    }
    let of_length = |length: usize| said(provider.verify(at_jwt, &with(&json!({ "scope": "a".repeat(length) }))));
    assert_eq!(of_length(2048).len(), "user-access-token ".len() + 2048);
    assert_eq!(of_length(2049), "user-token-claim");
}

#[test]
fn roles_by_the_issuers_claim() {
    let many = |count: usize| (0..count).map(|at| format!("r{at}")).collect::<Vec<_>>();
    let not_names = |count: usize| vec!["Domain Users"; count];
    type Row<'a> = (&'a str, Option<&'a str>, Value, Result<usize, ()>);
    let cases: Vec<Row<'_>> = vec![
        ("none asked for", None, json!({ "groups": ["a"] }), Ok(0)),
        ("not there", Some("groups"), json!({}), Ok(0)),
        ("a list", Some("groups"), json!({ "groups": ["a", "b", "a"] }), Ok(2)),
        ("a text", Some("groups"), json!({ "groups": "a" }), Ok(1)),
        ("by URL", Some("https://a/roles"), json!({ "https://a/roles": ["a"] }), Ok(1)),
        ("nested", Some("/realm_access/roles"), json!({ "realm_access": { "roles": ["a"] } }), Ok(1)),
        ("nested in nothing", Some("/realm_access/roles"), json!({ "realm_access": ["roles"] }), Ok(0)),
        ("escaped", Some("/a~1b/c~0d"), json!({ "a/b": { "c~d": ["a"] } }), Ok(1)),
        ("an object", Some("groups"), json!({ "groups": { "a": true } }), Err(())),
        ("a number within", Some("groups"), json!({ "groups": ["a", 1] }), Err(())),
        ("null", Some("groups"), json!({ "groups": null }), Err(())),
        ("64", Some("groups"), json!({ "groups": many(64) }), Ok(64)),
        ("65", Some("groups"), json!({ "groups": many(65) }), Err(())),
        ("512 that are no roles", Some("groups"), json!({ "groups": not_names(300) }), Ok(0)),
        ("T-30 513 entries", Some("groups"), json!({ "groups": vec!["a"; 513] }), Err(())),
    ];
    for (what, claim, changes, expected) in cases {
        let provider = Provider::with_roles(claim);
        let found = provider.verify(HEADER, &with(&changes));
        let found = found.map(|user| user.roles().iter().count()).map_err(|error| {
            assert_eq!(error.code(), "user-token-claim", "{what}");
        });
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn signatures_and_whose_key_it_is() {
    let provider = Provider::new();
    let token = provider.token(HEADER, &claims().to_string());
    assert_eq!(said(verify(&token, &provider.issuers, NOW)), "id-token ?");
    for (what, token) in [
        ("another issuer's key under the same kid", token_of(&provider.other, HEADER, &claims().to_string())),
        ("nobody's key", token_of(&Key::p256(), HEADER, &claims().to_string())),
        ("none", format!("{}.", token.rsplit_once('.').unwrap().0)),
    ] {
        assert_eq!(said(verify(&token, &provider.issuers, NOW)), "user-token-signature", "{what}");
    }
    let input = SigningInput::new(Algorithm::Rs256, "rsa", claims().as_object().unwrap());
    let signature = sign(&provider.rsa, Algorithm::Rs256, input.as_bytes());
    assert_eq!(said(verify(&input.with_signature(&signature), &provider.issuers, NOW)), "id-token ?");
    // One key, one algorithm: PS256 is none of the issuer's; nor, where it is one, this key's.
    let input = SigningInput::new(Algorithm::Ps256, "rsa", claims().as_object().unwrap());
    let signature = sign(&provider.rsa, Algorithm::Ps256, input.as_bytes());
    let token = input.with_signature(&signature);
    let found = verify(&token, &provider.issuers, NOW);
    assert!(matches!(found, Err(UserTokenError::AlgorithmNotOfIssuer { .. })), "{found:?}");
    let both = issuer_of(&[Algorithm::Rs256, Algorithm::Ps256], "corp", URL, &[("rsa", &provider.rsa)], None);
    let found = verify(&token, &UserIssuers::new(vec![both]).unwrap(), NOW);
    assert!(matches!(found, Err(UserTokenError::AlgorithmNotOfKey { .. })), "{found:?}");
    let token = provider.token(HEADER, &claims().to_string());
    assert_eq!(said(verify(&token, &UserIssuers::default(), NOW)), "user-token-issuer");
    let long = format!("{token}{}", "A".repeat(8193 - token.len()));
    assert_eq!(said(verify(&long, &provider.issuers, NOW)), "user-token-malformed");
}

/// Trap 10: the four kinds of signed tokens, each shown to each verification, all under one key that every one of them trusts.
#[test]
fn trap_10_no_kind_of_token_is_taken_for_another() {
    let provider = Provider::new();
    let now = NOW.unix_seconds();
    let authority = JwtAuthority::new("ec", &provider.ec.spki()).unwrap();
    let bundles: BundleSet =
        TrustBundle::new::<&[u8]>(domain("example.org"), [], [authority.clone()], None, None).unwrap().into();
    let mint = |token_type: &str, claims: Value| {
        let header = json!({ "alg": "ES256", "kid": "ec", "typ": token_type }).to_string();
        provider.token(&header, &claims.to_string())
    };
    let svid = json!({ "iss": URL, "sub": ID, "aud": AUDIENCE, "iat": now, "exp": now + 300 });
    let access = json!({
        "iss": URL, "sub": ID, "client_id": ID, "aud": AUDIENCE, "iat": now, "exp": now + 300, "jti": "1", "scope": "a"
    });
    let txn = json!({
        "sub": "corp:charlie", "aud": "example.org", "iat": now, "exp": now + 300, "txn": "t", "scope": "a", "req_wl": ID
    });
    let user_access = with(&json!({ "client_id": "spa", "jti": "1", "scope": "a" }));
    let tokens = [
        ("a user's", mint("JWT", claims())),
        ("a user's access token", mint("at+jwt", user_access)),
        ("a JWT-SVID", mint("JWT", svid)),
        ("an access token of ours", mint("at+jwt", access)),
        ("a transaction token", mint(txn_token::TYPE, txn)),
    ];
    let own = access_token::Issuer { name: URL, trust_domain: &domain("example.org"), key: &authority };
    for (which, token) in &tokens {
        let compact = Compact::parse(token).unwrap();
        let taken = [
            verify(token, &provider.issuers, NOW).is_ok(),
            UnverifiedJwt::parse(token).and_then(|svid| svid.verify(&[AUDIENCE], &bundles, NOW)).is_ok(),
            access_token::verify(&compact, &own, &[AUDIENCE.into()], NOW).is_ok(),
            txn_token::verify(token, &compact, &authority, &domain("example.org"), NOW).is_ok(),
        ];
        let expected = match *which {
            "a JWT-SVID" => [false, true, false, false],
            "an access token of ours" => [false, false, true, false],
            "a transaction token" => [false, false, false, true],
            _ => [true, false, false, false],
        };
        assert_eq!(taken, expected, "{which}");
    }
    assert!(matches!(
        verify(&tokens[2].1, &provider.issuers, NOW),
        Err(UserTokenError::Subject { reason: UserIdError::Service })
    ));
    assert!(SpiffeId::parse(verify(&tokens[0].1, &provider.issuers, NOW).unwrap().user().as_str()).is_err());
}

/// `jsonwebtoken` as oracle: whatever is taken here, it takes too, with its own checks on.
fn oracle(token: &str, key: &Key) -> bool {
    let spki = key.spki();
    let point = &spki[spki.len() - 65..];
    let coordinate = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
    let key = jsonwebtoken::DecodingKey::from_ec_components(&coordinate(&point[1..33]), &coordinate(&point[33..]));
    let mut checks = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    (checks.leeway, checks.validate_exp) = (0, false);
    checks.set_audience(&[AUDIENCE, "photo-cli"]);
    checks.set_issuer(&[URL]);
    checks.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    jsonwebtoken::decode::<serde_json::Value>(token, &key.unwrap(), &checks).is_ok()
}

/// Making its RSA key takes longer than all that it is asked.
static PROVIDER: std::sync::LazyLock<Provider> = std::sync::LazyLock::new(Provider::new);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn what_is_taken_the_oracle_takes(
        claim in prop::sample::select(vec!["iss", "sub", "aud", "exp", "iat", "nbf", "azp", "scope", "groups", "typ", "cnf"]),
        value in prop::sample::select(vec![
            json!(URL), json!("charlie"), json!(AUDIENCE), json!([AUDIENCE]), json!([AUDIENCE, "x"]), json!("Bearer"), json!(0),
            json!(NOW.unix_seconds()), json!(at(300).unix_seconds()), json!(1.5), json!(null), json!({}), json!([]), json!("a b"),
        ]),
        flip in prop::option::weighted(0.3, 0_usize..400),
    ) {
        let provider = &*PROVIDER;
        let mut token = provider.token(HEADER, &with(&json!({ claim: value })).to_string()).into_bytes();
        if let Some(at) = flip.filter(|at| *at < token.len()) {
            token[at] = if token[at] == b'A' { b'B' } else { b'A' };
        }
        let token = String::from_utf8(token).unwrap();
        if verify(&token, &provider.issuers, NOW).is_ok() {
            prop_assert!(oracle(&token, &provider.ec), "{}", token);
        }
    }

    #[test]
    fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..600)) {
        crate::fuzzing::issuer_keys(&data);
        crate::fuzzing::user_token_claims(&data);
    }
}
