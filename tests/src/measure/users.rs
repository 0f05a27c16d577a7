//! Users of an issuer whose key is made here, and whom the CA is told to believe.

use std::fs;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_verifier::{
    clock::{Clock as _, SystemClock},
    jwt::{Algorithm, SigningInput},
};
use serde_json::{Value, json};

use crate::site::Site;

/// An issuer of ID tokens. It is not asked for its key: the CA gets that from a file.
pub struct Users(EcdsaKeyPair);

/// Its name at the CA.
pub const ISSUER: &str = "corp";
/// What an ID token is, to whoever exchanges one.
pub const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const URL: &str = "https://login.example.com";
const AUDIENCE: &str = "web";
const KEY_ID: &str = "k1";

impl Users {
    /// A new one, which this site's CA believes from now on.
    pub fn of(site: &Site) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let point = pair.public_key().as_ref();
        let half = |from: usize| Base64UrlUnpadded::encode_string(&point[from..from + 32]);
        let key = json!({ "kty": "EC", "crv": "P-256", "kid": KEY_ID, "use": "sig", "x": half(1), "y": half(33) });
        let file = site.path("users.jwks");
        fs::write(&file, json!({ "keys": [key] }).to_string()).expect("a file of keys");
        let file = file.display().to_string();
        site.ca(&["issuer", "add", ISSUER, URL, "--audience", AUDIENCE, "--jwks-file", &file]).success();
        Self(pair)
    }

    /// An ID token that is good for an hour.
    pub fn id_token(&self, subject: &str) -> String {
        let now = SystemClock.now().unix_seconds();
        let claims = json!({
            "iss": URL, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + 3600, "nonce": "n-0S6_WzA2Mj",
            "name": "Charlie Example", "email": "charlie@example.com",
        });
        signed("JWT", KEY_ID, &claims, &self.0)
    }
}

fn signed(kind: &str, key_id: &str, claims: &Value, pair: &EcdsaKeyPair) -> String {
    let input = SigningInput::typed(kind, Algorithm::Es256, key_id, claims.as_object().expect("an object"));
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
    input.with_signature(signature.as_ref())
}
