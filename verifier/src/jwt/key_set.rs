//! The keys of a token service as everybody may read them (RFC 7517 §5).

use serde_json::{Value, json};

use super::Algorithm;
use crate::spiffe::JwtAuthority;

/// A JWK Set of keys that sign tokens. An elliptic curve's key says its one algorithm; RSA keys sign with several.
#[must_use]
pub fn to_jwks<'k>(keys: impl IntoIterator<Item = &'k JwtAuthority>) -> String {
    let keys = keys.into_iter().map(|key| {
        let mut jwk = key.public_key().to_jwk();
        jwk.insert("use".into(), "sig".into());
        jwk.insert("kid".into(), key.key_id().into());
        let of_curve = [Algorithm::Es256, Algorithm::Es384, Algorithm::Es512];
        if let Some(algorithm) = of_curve.into_iter().find(|algorithm| algorithm.fits(key.public_key())) {
            jwk.insert("alg".into(), algorithm.name().into());
        }
        Value::Object(jwk)
    });
    json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{jwt::user_issuers::IssuerKeys, x509::fixtures::Key};

    #[test]
    fn keys_that_are_written_are_read_by_others() {
        let authority = |key_id: &str, key: &Key| JwtAuthority::new(key_id, &key.spki()).unwrap();
        let jwks = to_jwks(&[authority("a", &Key::p256()), authority("b", &Key::p384())]);
        let read = IssuerKeys::parse_jwks(jwks.as_bytes()).unwrap();
        assert_eq!((read.key_ids().collect::<Vec<_>>(), read.skipped().len()), (vec!["a", "b"], 0));
        for (part, count) in [(r#""alg":"ES256""#, 1), (r#""alg":"ES384""#, 1), (r#""use":"sig""#, 2), (r#""d":"#, 0)] {
            assert_eq!(jwks.matches(part).count(), count, "{part}");
        }
        assert_eq!(to_jwks(&[]), r#"{"keys":[]}"#);
    }
}
