//! Which requests have which caller, by requirement.

mod bearers;
mod together;
mod users;

use std::{net::IpAddr, sync::Arc, time::Duration};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Value, json};

use super::*;
use crate::{
    caller::{RoleName, Roles},
    clock::ManualClock,
    identity::Publisher,
    jwt::JwtError,
    spiffe::{BundleSet, TrustBundle},
    x509::fixtures::{Authority, Key, NOW, at, domain, verify_chain},
};

const OWN: &str = "spiffe://example.org/config";
const ISSUER: &str = "https://tokens.example.org";

/// The secrets of the records below, as bytes.
const EXPORT_1: &[u8] = b"0123456789abcdef0123456789abcdef";
const EXPORT_2: &[u8] = b"fedcba9876543210fedcba9876543210";
const OTHER: &[u8] = b"another secret of 32 bytes, yes.";

const API_SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// A service with every kind of credential, and all the keys that callers have.
struct World {
    authenticators: Authenticators,
    publisher: Publisher,
    root: Authority,
    jwt: Key,
    foreign: Key,
    token_service: Key,
}

fn records_text() -> String {
    let secret = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
    let hash = crate::x509::Hex(crate::api_key::SecretHash::of(API_SECRET).as_bytes()).to_string();
    let api_key = |id: &str, owner: &str, audience: &str, expires: &str| {
        format!(
            r#"
            [[key]]
            id = "{id}"
            kind = "api-key"
            owner = "spiffe://example.org{owner}"
            audience = "{audience}"
            roles = ["reader"]
            expires = {expires}
            [[key.secret]]
            id = "{id}.1"
            sha256 = "{hash}"
            created = 2026-01-01T00:00:00Z
            "#
        )
    };
    let shared = |id: &str, owner: &str, more: &str, secrets: &[(&str, &[u8])]| {
        let secrets: String = secrets
            .iter()
            .map(|(number, bytes)| {
                let value = secret(bytes);
                format!("[[key.secret]]\nid = \"{id}.{number}\"\nvalue = \"{value}\"\ncreated = 2026-01-01T00:00:00Z\n")
            })
            .collect();
        format!(
            "[[key]]\nid = \"{id}\"\nkind = \"shared-secret\"\nowner = \"spiffe://example.org{owner}\"\n\
             roles = [\"reader\", \"writer\"]\nexpires = 2027-01-01T00:00:00Z\n{more}\n{secrets}"
        )
    };
    let audience = format!("audience = \"{OWN}\"");
    [
        "version = 1\n".to_owned(),
        shared("export", "/export", &format!("{audience}\nsubject = \"export\""), &[("1", EXPORT_1), ("2", EXPORT_2)]),
        shared("elsewhere", "/export", "audience = \"spiffe://example.org/other\"", &[("1", OTHER)]),
        shared("short", "/short", &format!("{audience}\nmax-lifetime-s = 60"), &[("1", OTHER)]),
        shared("twin-a", "/twin", &format!("{audience}\nsubject = \"twin\""), &[("1", EXPORT_1)]),
        shared("twin-b", "/twin", &format!("{audience}\nsubject = \"twin\""), &[("1", EXPORT_2)]),
        api_key("legacy", "/export", OWN, "2027-01-01T00:00:00Z"),
        api_key("legacy-b", "/export", OWN, "2027-01-01T00:00:00Z"),
        api_key("ended", "/export", OWN, "2026-11-23T09:00:00Z"),
        api_key("not-ours", "/export", "spiffe://example.org/other", "2027-01-01T00:00:00Z"),
    ]
    .concat()
}

fn records() -> KeyRecords {
    KeyRecords::parse(&records_text(), &domain("example.org")).unwrap()
}

fn authority(key_id: &str, key: &Key) -> JwtAuthority {
    JwtAuthority::new(key_id, &key.spki()).unwrap()
}

fn bundles(jwt: &Key, foreign: &Key) -> BundleSet {
    let bundle = |name: &str, keys: Vec<JwtAuthority>| {
        Arc::new(TrustBundle::new::<&[u8]>(domain(name), [], keys, None, None).unwrap())
    };
    // The foreign trust domain calls its keys what it likes, also by the names of ours.
    let foreign = vec![authority("foreign", foreign), authority("export.1", foreign), authority("at-1", foreign)];
    [bundle("example.org", vec![authority("jwt-1", jwt)]), bundle("example.com", foreign)].into_iter().collect()
}

impl World {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(change: impl FnOnce(Builder) -> Builder) -> Self {
        let (jwt, foreign, token_service) = (Key::p256(), Key::p256(), Key::p256());
        let (identity, publisher) = Identity::published(Arc::new(ManualClock::at(NOW)));
        publisher.publish(None, bundles(&jwt, &foreign));
        let builder = Authenticators::builder(domain("example.org"), identity)
            .audience(OWN)
            .x509()
            .jwt_svids()
            .key_records(records())
            .api_key_header("x-api-key")
            .access_tokens(ISSUER, vec![authority("at-1", &token_service)])
            .via([id("/edge")]);
        let authenticators = change(builder).build().unwrap();
        Self { authenticators, publisher, root: Authority::root("example.org"), jwt, foreign, token_service }
    }

    fn peer(&self, path: &str) -> VerifiedPeer {
        let chain = [self.root.leaf(id(path).as_str(), &Key::p256())];
        let bundles = crate::x509::fixtures::bundle_of("example.org", &[&self.root.der]).into();
        verify_chain(&chain, &bundles, NOW).unwrap()
    }

    fn ask(
        &self,
        connection: Option<&VerifiedPeer>,
        headers: &[(&str, &[u8])],
    ) -> Result<Option<Caller>, AuthenticateError> {
        self.ask_at(connection, headers, NOW)
    }

    fn ask_at(
        &self,
        connection: Option<&VerifiedPeer>,
        headers: &[(&str, &[u8])],
        at: Timestamp,
    ) -> Result<Option<Caller>, AuthenticateError> {
        let headers = Headers(headers);
        self.authenticators.authenticate(&Presented { connection, session: None, headers: &headers, address: None, at })
    }

    /// The caller of a request with this token alone.
    fn bearer(&self, token: &str) -> Result<Caller, AuthenticateError> {
        self.bearer_at(token, NOW)
    }

    fn bearer_at(&self, token: &str, at: Timestamp) -> Result<Caller, AuthenticateError> {
        self.ask_at(None, &[("authorization", bearer(token).as_bytes())], at).map(Option::unwrap)
    }

    fn svid(&self) -> String {
        let header = json!({ "alg": "ES256", "kid": "jwt-1", "typ": "JWT" });
        es256(
            &self.jwt,
            &header,
            &json!({ "sub": "spiffe://example.org/export", "aud": [OWN], "exp": exp(300), "jti": "s1" }),
        )
    }

    fn access_token(&self) -> String {
        es256(&self.token_service, &access_header(), &access_claims())
    }
}

/// `dyn HeaderView` wants a sized value.
struct Headers<'h>(&'h [(&'h str, &'h [u8])]);

impl HeaderView for Headers<'_> {
    fn find(&self, name: &str) -> Found<'_> {
        self.0.find(name)
    }
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn exp(seconds: i64) -> i64 {
    at(seconds).unix_seconds()
}

fn roles(names: &[&str]) -> Roles {
    names.iter().map(|name| RoleName::parse(name).unwrap()).collect()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn api_key(id: &str) -> String {
    format!("{id}.1.{API_SECRET}")
}

fn encode(text: &str) -> String {
    Base64UrlUnpadded::encode_string(text.as_bytes())
}

fn es256(key: &Key, header: &Value, claims: &Value) -> String {
    let input = format!("{}.{}", encode(&header.to_string()), encode(&claims.to_string()));
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8()).unwrap();
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    format!("{input}.{}", Base64UrlUnpadded::encode_string(signature.as_ref()))
}

/// A token of these two texts, whatever they are, under this secret.
fn hs256_of(secret: &[u8], header: &str, claims: &str) -> String {
    let input = format!("{}.{}", encode(header), encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
    format!("{input}.{}", Base64UrlUnpadded::encode_string(tag.as_ref()))
}

fn hs_header(key_id: &str) -> String {
    json!({ "alg": "HS256", "kid": key_id, "typ": "JWT" }).to_string()
}

fn hs_claims() -> Value {
    json!({ "sub": "export", "aud": OWN, "exp": exp(300), "roles": ["reader"] })
}

fn hs256() -> String {
    hs256_of(EXPORT_1, &hs_header("export.1"), &hs_claims().to_string())
}

fn access_header() -> Value {
    json!({ "alg": "ES256", "kid": "at-1", "typ": "at+jwt" })
}

fn access_claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "spiffe://example.org/export", "client_id": "spiffe://example.org/export", "aud": OWN,
        "exp": exp(300), "iat": exp(0), "jti": "a1",
    })
}

#[test]
fn each_kind_of_credential_is_a_caller() {
    let world = World::new();
    let peer = world.peer("/export");
    let token = |kind: ProofKind, key_id: &str| Proof { kind, key_id: key_id.into() };
    let key = api_key("legacy");
    type Headers<'h> = Vec<(&'static str, &'h [u8])>;
    let (svid, hs, access, scheme) =
        (bearer(&world.svid()), bearer(&hs256()), bearer(&world.access_token()), format!("ApiKey {key}"));
    let api = token(ProofKind::ApiKey, "legacy.1");
    let serial = peer.serial().to_string();
    let ends = at(330);
    let year = Timestamp::from_unix_seconds(1_798_761_600);
    let cases: Vec<(Option<&VerifiedPeer>, Headers<'_>, Proof, Timestamp)> = vec![
        (Some(&peer), vec![], token(ProofKind::X509Svid, &serial), peer.not_after()),
        (None, vec![("Authorization", svid.as_bytes())], token(ProofKind::JwtSvid, "jwt-1"), ends),
        (None, vec![("authorization", hs.as_bytes())], token(ProofKind::SharedSecret, "export.1"), ends),
        (None, vec![("authorization", access.as_bytes())], token(ProofKind::AccessToken, "at-1"), ends),
        (None, vec![("authorization", scheme.as_bytes())], api.clone(), year),
        (None, vec![("X-API-Key", key.as_bytes())], api, year),
    ];
    for (connection, headers, proof, until) in cases {
        // Twice: verified, and remembered.
        for _ in 0..2 {
            let caller = world.ask(connection, &headers).unwrap().unwrap();
            assert_eq!((caller.service(), caller.proof(), caller.via()), (Some(&id("/export")), &proof, None));
            assert_eq!(caller.valid_until(), until, "{}", proof.kind);
            let granted = match proof.kind {
                ProofKind::SharedSecret => roles(&["reader", "writer"]),
                ProofKind::ApiKey => roles(&["reader"]),
                _ => roles(&[]),
            };
            assert_eq!(*caller.granted_roles(), granted, "{}", proof.kind);
            let asserted = (proof.kind == ProofKind::SharedSecret).then(|| roles(&["reader"]));
            assert_eq!(caller.asserted_roles(), asserted.as_ref());
        }
    }
    assert_eq!(world.ask(None, &[]), Ok(None));
}

#[test]
fn what_cannot_be_put_together() {
    type E = AuthenticatorsError;
    let jwt = Key::p256();
    let fresh = || {
        let (identity, publisher) = Identity::published(Arc::new(ManualClock::at(NOW)));
        publisher.publish(None, bundles(&jwt, &Key::p256()));
        Authenticators::builder(domain("example.org"), identity)
    };
    let edge = || [id("/edge")];
    let twice = |one, other, key_id: &str| E::KeyIdTwice { key_id: key_id.into(), one, other };
    let cases = [
        ("nothing", fresh(), E::None),
        ("no audience", fresh().jwt_svids(), E::NoAudience { kind: "JWT-SVIDs" }),
        ("no audience for keys", fresh().x509().key_records(records()), E::NoAudience { kind: "keys" }),
        ("empty audience", fresh().audience("").jwt_svids(), E::Audience { bytes: 0, most: 2048 }),
        ("via without x509", fresh().audience(OWN).jwt_svids().via(edge()), E::ViaWithoutX509),
        ("via without bearers", fresh().x509().via(edge()), E::ViaWithoutBearer),
        ("header without keys", fresh().x509().api_key_header("x-api-key"), E::HeaderWithoutRecords),
        (
            "a header with a meaning",
            fresh().audience(OWN).key_records(records()).api_key_header("authorization"),
            E::ApiKeyHeader { name: "authorization".into() },
        ),
        (
            "a header in upper case",
            fresh().audience(OWN).key_records(records()).api_key_header("X-Api-Key"),
            E::ApiKeyHeader { name: "X-Api-Key".into() },
        ),
        (
            "records of another trust domain",
            fresh().audience(OWN).key_records(KeyRecords::empty(domain("example.com"))),
            E::TrustDomain { records: "example.com".into(), own: "example.org".into() },
        ),
        (
            "one kid of a record and of the token service",
            fresh()
                .audience(OWN)
                .key_records(records())
                .access_tokens(ISSUER, vec![authority("export.1", &Key::p256())]),
            twice("a key record", "a key of the token service", "export.1"),
        ),
        (
            "one kid of the token service and of an authority",
            fresh().audience(OWN).jwt_svids().access_tokens(ISSUER, vec![authority("jwt-1", &Key::p256())]),
            twice("a key of the token service", "a JWT authority of the trust domain", "jwt-1"),
        ),
        ("no issuer", fresh().audience(OWN).access_tokens("", vec![]), E::Issuer { bytes: 0, most: 2048 }),
    ];
    for (what, builder, error) in cases {
        assert_eq!(builder.build().map(drop), Err(error), "{what}");
    }
}

#[test]
fn every_code_is_listed_once_and_the_texts_are_of_one_line() {
    let mut codes: Vec<_> = [AuthenticateError::CODES, crate::api_key::ApiKeyError::CODES, JwtError::CODES].concat();
    let count = codes.len();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), count);
    let errors = [
        AuthenticateError::DuplicateHeader { name: "authorization".into() },
        AuthenticateError::Scheme,
        AuthenticateError::NoTokenId,
        AuthenticateError::TooManyTokens { most: 1 },
        AuthenticateError::AddressLimit { retry_after: Duration::from_secs(1) },
    ];
    for error in errors {
        assert!(AuthenticateError::CODES.contains(&error.code()));
        assert!(!error.to_string().contains('\n') && !error.to_string().ends_with('.'));
    }
}
