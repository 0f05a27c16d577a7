//! Callers as a server knows them, each proven by a JWT-SVID of a trust domain that is made for it.

use std::sync::Arc;

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use bonafide_verifier::{
    authenticate::{AddressRate, Authenticators, Found, HeaderView, Presented},
    caller::Caller,
    clock::{Clock as _, SystemClock},
    identity::Identity,
    jwt::{Algorithm, SigningInput},
    spiffe::{JwtAuthority, TrustBundle, TrustDomain},
};

const SERVICE: &str = "spiffe://example.org/config";

/// An authority and a server that believes it.
pub struct Callers {
    key: EcdsaKeyPair,
    authenticators: Authenticators,
}

impl Callers {
    /// A new one, of `example.org`.
    pub fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let spki = key.public_key().as_der().expect("a public key");
        let domain = TrustDomain::parse("example.org").expect("a trust domain");
        let authority = JwtAuthority::new("jwt-1", spki.as_ref()).expect("a key");
        let bundle = TrustBundle::new::<&[u8]>(domain.clone(), [], [authority], None, None).expect("a bundle");
        let (identity, publisher) = Identity::published(Arc::new(SystemClock));
        publisher.publish(None, bundle.into());
        let authenticators = Authenticators::builder(domain, identity)
            .audience(SERVICE)
            .jwt_svids()
            .address_rate(AddressRate { per_second: u32::MAX, burst: u32::MAX })
            .build()
            .expect("authenticators");
        Self { key, authenticators }
    }

    /// The caller with this path.
    pub fn caller(&self, path: &str) -> Caller {
        let at = SystemClock.now();
        let claims = serde_json::json!({
            "sub": format!("spiffe://example.org{path}"), "aud": [SERVICE], "exp": at.unix_seconds() + 3000,
            "iat": at.unix_seconds(),
        });
        let input = SigningInput::new(Algorithm::Es256, "jwt-1", claims.as_object().expect("an object"));
        let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
        let value = format!("Bearer {}", input.with_signature(signature.as_ref()));
        let presented =
            Presented { connection: None, session: None, headers: &Authorization(value.as_bytes()), address: None, at };
        self.authenticators.authenticate(&presented).expect("a good token").expect("a caller")
    }
}

impl Default for Callers {
    fn default() -> Self {
        Self::new()
    }
}

struct Authorization<'v>(&'v [u8]);

impl HeaderView for Authorization<'_> {
    fn find(&self, name: &str) -> Found<'_> {
        if name == "authorization" { Found::Once(self.0) } else { Found::Absent }
    }
}
