//! What does it cost to know the caller behind a token? An HS256 token and a JWT-SVID (ES256), each first seen and seen before,
//! through `Authenticators` with every kind of credential, against the bare check of the same signature over the same bytes with a
//! prepared key. First seen means another token each time, none of which the cache has.

use std::{hint::black_box, sync::Arc, time::Duration};

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_tests::measure::{self, Figure, Goal};
use bonafide_verifier::{
    authenticate::{AddressRate, Authenticators, Found, HeaderView, Presented},
    caller::Roles,
    clock::{Clock, SystemClock, Timestamp},
    identity::Identity,
    jwt::{Algorithm, Claimed, SigningInput, mint_shared_secret_token},
    key_records::KeyRecords,
    shared_secret::SharedSecret,
    spiffe::{JwtAuthority, TrustBundle, TrustDomain},
};

/// Tokens in one measurement.
const BATCH: usize = 512;
const SERVICE: &str = "spiffe://example.org/config";
const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

fn main() {
    measure::heading("the caller behind a token, processor time");
    let now = SystemClock.now();
    let rounds = measure::rounds(60);
    let secret = SharedSecret::parse(SECRET).expect("a secret");
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let spki = key.public_key().as_der().expect("a public key");

    let hs256 = tokens(rounds, |number| shared_secret_token(&secret, number, now));
    let prepared = hmac::Key::new(hmac::HMAC_SHA256, &Base64UrlUnpadded::decode_vec(SECRET).expect("base64url"));
    let bare = |(input, tag): &(&str, Vec<u8>)| hmac::verify(&prepared, input.as_bytes(), tag).is_ok();
    figures("hs256", &hs256, rounds, &service(spki.as_ref()), now, bare, Goal::AtMost(2.0));

    let es256 = tokens(rounds, |number| jwt_svid(&key, number, now));
    let prepared = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, spki.as_ref()).expect("a public key");
    let bare = |(input, signature): &(&str, Vec<u8>)| prepared.verify_sig(input.as_bytes(), signature).is_ok();
    figures("es256", &es256, rounds, &service(spki.as_ref()), now, bare, Goal::RatioAtMost(1.1));
}

/// First seen, and seen before.
fn figures(
    name: &str,
    tokens: &[String],
    rounds: usize,
    service: &Authenticators,
    now: Timestamp,
    bare: impl Fn(&(&str, Vec<u8>)) -> bool,
    first_goal: Goal,
) {
    let signed: Vec<_> = tokens.iter().take(BATCH).map(|token| parts(token)).collect();
    let baseline =
        || measure::cpu_micros(|| signed.iter().for_each(|parts| assert!(black_box(bare(parts))))) / BATCH as f64;
    let values: Vec<_> = tokens.iter().map(|token| format!("Bearer {token}")).collect();
    let ask = |values: &[String]| {
        let all = || values.iter().for_each(|value| assert!(black_box(is_caller(service, value, now))));
        measure::cpu_micros(all) / values.len() as f64
    };
    let mut batches = values.chunks_exact(BATCH).cycle();
    // Each batch once, so that each of its tokens is seen for the first time.
    let first = measure::paired(rounds, || ask(batches.next().unwrap_or_default()), baseline);
    Figure::paired(&format!("authenticate/{name}-first-seen"), first, "us", first_goal).print();
    let again = values.get(..BATCH).unwrap_or_default();
    // Once without the clock: the baseline takes milliseconds, after which nothing of ours is in the processor's caches.
    let seen = || {
        ask(again);
        ask(again)
    };
    let before = measure::paired(rounds, seen, baseline);
    Figure::paired(&format!("authenticate/{name}-seen-before"), before, "us", Goal::AtMost(0.4)).print();
}

fn tokens(rounds: usize, make: impl Fn(usize) -> String) -> Vec<String> {
    (0..(rounds + 2) * BATCH).map(make).collect()
}

fn service(spki: &[u8]) -> Authenticators {
    let domain = TrustDomain::parse("example.org").expect("a trust domain");
    let authority = JwtAuthority::new("jwt-1", spki).expect("a key");
    let bundle = TrustBundle::new::<&[u8]>(domain.clone(), [], [authority], None, None).expect("a bundle");
    let (identity, publisher) = Identity::published(Arc::new(SystemClock));
    publisher.publish(None, bundle.into());
    let records = format!(
        "version = 1\n[[key]]\nid = \"export\"\nkind = \"shared-secret\"\nowner = \"spiffe://example.org/export\"\n\
         audience = \"{SERVICE}\"\nroles = [\"reader\"]\nexpires = 2099-01-01T00:00:00Z\n\
         [[key.secret]]\nid = \"export.1\"\nvalue = \"{SECRET}\"\ncreated = 2026-01-01T00:00:00Z\n"
    );
    Authenticators::builder(domain.clone(), identity)
        .audience(SERVICE)
        .x509()
        .jwt_svids()
        .key_records(KeyRecords::parse(&records, &domain).expect("records"))
        .address_rate(AddressRate { per_second: u32::MAX, burst: u32::MAX })
        .build()
        .expect("authenticators")
}

struct Authorization<'v>(&'v [u8]);

impl HeaderView for Authorization<'_> {
    fn find(&self, name: &str) -> Found<'_> {
        if name == "authorization" { Found::Once(self.0) } else { Found::Absent }
    }
}

fn is_caller(service: &Authenticators, value: &str, at: Timestamp) -> bool {
    let headers = Authorization(value.as_bytes());
    let presented = Presented { connection: None, session: None, headers: &headers, address: None, at };
    service.authenticate(&presented).is_ok_and(|caller| caller.is_some())
}

fn shared_secret_token(secret: &SharedSecret, _number: usize, now: Timestamp) -> String {
    let roles = Roles::default();
    let (key_id, subject, lifetime) = ("export.1", "spiffe://example.org/export", Duration::from_secs(590));
    let claimed = Claimed { key_id, subject, audience: SERVICE, roles: &roles, lifetime };
    mint_shared_secret_token(secret, &claimed, now).expect("a token").to_string()
}

fn jwt_svid(key: &EcdsaKeyPair, number: usize, now: Timestamp) -> String {
    let claims = serde_json::json!({
        "sub": "spiffe://example.org/export", "aud": [SERVICE], "exp": now.unix_seconds() + 600, "iat": now.unix_seconds(), "jti": number.to_string(),
    });
    let input = SigningInput::new(Algorithm::Es256, "jwt-1", claims.as_object().expect("an object"));
    let signature = key.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
    input.with_signature(signature.as_ref())
}

/// What is signed, and the signature.
fn parts(token: &str) -> (&str, Vec<u8>) {
    let (input, signature) = token.rsplit_once('.').expect("three parts");
    (input, Base64UrlUnpadded::decode_vec(signature).expect("base64url"))
}
