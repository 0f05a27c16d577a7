//! The key set of an issuer of users (RFC 7517), as it is published for everybody.
//!
//! Strict about the document, lenient about its keys: providers publish keys for other purposes and of kinds that nobody here knows, and
//! those never take the others with them. A private or a shared key in what everybody can read refuses all of it.

use serde_json::{Map, Value, json};

use super::PinnedKey;
use crate::{
    jwt::{Algorithm, cut},
    spiffe::{JsonError, MAX_KEY_ID_BYTES, PRIVATE_JWK_MEMBERS, PublicKey, PublicKeyError},
    strict_json,
};

/// The public keys of one issuer. Cheap enough to clone: at most [`IssuerKeys::MOST`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IssuerKeys {
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
}

#[derive(Clone, Debug, PartialEq)]
struct Key {
    key_id: Box<str>,
    key: PublicKey,
    /// What the key says it signs with.
    algorithm: Option<Algorithm>,
}

/// A key that stood in the document and is not used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SkippedKey {
    /// Its place, counted from 0.
    pub entry: usize,
    /// Why.
    pub reason: IssuerKeyError,
}

/// Why a key set cannot be read as a whole.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerKeysError {
    /// More bytes than are read.
    #[error("the key set has {bytes} bytes, at most {} are accepted", IssuerKeys::MAX_BYTES)]
    TooLarge {
        /// Found.
        bytes: usize,
    },
    /// Not JSON, or a member twice, or nested too deeply.
    #[error("the key set is not acceptable JSON: {reason}")]
    Json {
        /// What is wrong.
        reason: JsonError,
    },
    /// Not an object with an array `keys`.
    #[error("the key set is not an object with an array `keys`")]
    NoKeys,
    /// More keys than are looked at.
    #[error("the key set has {count} keys, at most {} are accepted", IssuerKeys::MOST)]
    TooMany {
        /// Found.
        count: usize,
    },
    /// A key that can sign, in what everybody may read.
    #[error(
        "entry {entry} of the key set holds a secret (`{}`): refused as a whole; that key is no longer secret, tell the issuer", member.escape_default()
    )]
    Private {
        /// Counted from 0.
        entry: usize,
        /// The member.
        member: String,
    },
}

/// Why one key is not used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerKeyError {
    /// Not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// `use` or `key_ops` say that it is for something else.
    #[error("not for signatures")]
    NotForSignatures,
    /// No `kid`, an empty or a long one: tokens could not name it.
    #[error("no `kid` of 1 to {MAX_KEY_ID_BYTES} bytes")]
    KeyId,
    /// One `kid` at two keys that are not one and the same.
    #[error("another key has the `kid` `{}`, too", .key_id.escape_default())]
    KeyIdTwice {
        /// The `kid`, cut to 64 characters.
        key_id: String,
    },
    /// `alg` is none of those that sign user tokens.
    #[error("the algorithm `{}` is not accepted", .found.escape_default())]
    Algorithm {
        /// What it says, cut to 64 characters.
        found: String,
    },
    /// `alg` is for keys of another kind.
    #[error("the key is {key}, which does not sign with {algorithm}")]
    OtherAlgorithm {
        /// What it says.
        algorithm: Algorithm,
        /// What the key is.
        key: String,
    },
    /// Of a kind that signs no tokens, or broken.
    #[error("{0}")]
    Key(#[from] PublicKeyError),
}

/// An array of objects with arrays: 3. The rest is for members that others may define.
const MAX_DEPTH: usize = 16;

impl IssuerKeys {
    /// The largest document that is read, in bytes.
    pub const MAX_BYTES: usize = 256 * 1024;
    /// The most keys in one.
    pub const MOST: usize = 256;

    /// Reads a JWK Set. Of its keys those are kept that verify signatures of the nine algorithms and have a `kid`.
    ///
    /// # Errors
    /// When the document is none, too large, or holds a secret.
    pub fn parse_jwks(document: &[u8]) -> Result<Self, IssuerKeysError> {
        if document.len() > Self::MAX_BYTES {
            return Err(IssuerKeysError::TooLarge { bytes: document.len() });
        }
        let document = strict_json::parse(document, MAX_DEPTH).map_err(|reason| IssuerKeysError::Json { reason })?;
        let entries = document.get("keys").and_then(Value::as_array).ok_or(IssuerKeysError::NoKeys)?;
        if entries.len() > Self::MOST {
            return Err(IssuerKeysError::TooMany { count: entries.len() });
        }
        // Also in keys that would be skipped: whoever published them must hear of it.
        for (entry, value) in entries.iter().enumerate() {
            let mut members = value.as_object().into_iter().flat_map(Map::keys);
            if let Some(member) = members.find(|member| PRIVATE_JWK_MEMBERS.contains(&member.as_str())) {
                return Err(IssuerKeysError::Private { entry, member: member.clone() });
            }
        }
        let mut set = Self::default();
        let mut twice = Vec::new();
        for (entry, value) in entries.iter().enumerate() {
            match read(value) {
                Ok(key) => match set.keys.iter().find(|earlier| earlier.key_id == key.key_id) {
                    None => set.keys.push(key),
                    Some(earlier) if *earlier == key => {}
                    Some(_) => {
                        let reason = IssuerKeyError::KeyIdTwice { key_id: cut(&key.key_id) };
                        set.skipped.push(SkippedKey { entry, reason });
                        twice.push(key.key_id);
                    }
                },
                Err(reason) => set.skipped.push(SkippedKey { entry, reason }),
            }
        }
        // Nobody can tell which of the two is meant, so neither is.
        set.keys.retain(|key| !twice.contains(&key.key_id));
        Ok(set)
    }

    /// The keys as a JWK Set that reads back as the same: what is stored and handed on, in place of whatever the issuer wrote.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        let keys = self.keys.iter().map(|key| {
            let mut jwk = key.key.to_jwk();
            jwk.insert("use".into(), "sig".into());
            jwk.insert("kid".into(), (*key.key_id).into());
            if let Some(algorithm) = key.algorithm {
                jwk.insert("alg".into(), algorithm.name().into());
            }
            Value::Object(jwk)
        });
        json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
    }

    /// The `kid`s of the keys that are kept.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| &*key.key_id)
    }

    /// What stood in the document and is not used, and why.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Each key with the one algorithm that it signs with: its own, if that is among these, else the first of these that fits it.
    pub(super) fn pinned(&self, algorithms: &[Algorithm]) -> Vec<PinnedKey> {
        let of_key = |key: &Key| match key.algorithm {
            Some(own) => algorithms.iter().copied().find(|algorithm| *algorithm == own),
            None => algorithms.iter().copied().find(|algorithm| algorithm.fits(&key.key)),
        };
        let pin = |key: &Key| {
            let algorithm = of_key(key)?;
            Some(PinnedKey { key_id: key.key_id.clone(), key: key.key.clone(), algorithm })
        };
        self.keys.iter().filter_map(pin).collect()
    }
}

fn read(value: &Value) -> Result<Key, IssuerKeyError> {
    let jwk = value.as_object().ok_or(IssuerKeyError::NotAnObject)?;
    let operations = |value: &Value| {
        value.as_array().is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
    };
    if jwk.get("use").is_some_and(|found| found != "sig") || jwk.get("key_ops").is_some_and(|found| !operations(found))
    {
        return Err(IssuerKeyError::NotForSignatures);
    }
    let key_id = jwk.get("kid").and_then(Value::as_str).ok_or(IssuerKeyError::KeyId)?;
    if !(1..=MAX_KEY_ID_BYTES).contains(&key_id.len()) {
        return Err(IssuerKeyError::KeyId);
    }
    let key = PublicKey::from_jwk(jwk)?;
    let algorithm = match jwk.get("alg") {
        None => None,
        Some(found) => {
            let found = found.as_str().unwrap_or_default();
            let algorithm =
                Algorithm::from_name(found).ok_or_else(|| IssuerKeyError::Algorithm { found: cut(found) })?;
            if !algorithm.fits(&key) {
                return Err(IssuerKeyError::OtherAlgorithm { algorithm, key: key.describe() });
            }
            Some(algorithm)
        }
    };
    Ok(Key { key_id: key_id.into(), key, algorithm })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::fixtures::Key as Pair;

    fn jwk(key: &Pair, change: impl FnOnce(&mut Map<String, Value>)) -> Value {
        let mut jwk = PublicKey::from_spki(&key.spki()).unwrap().to_jwk();
        jwk.insert("kid".into(), "k".into());
        change(&mut jwk);
        Value::Object(jwk)
    }

    fn read_all(keys: &[Value]) -> Result<IssuerKeys, IssuerKeysError> {
        IssuerKeys::parse_jwks(json!({ "keys": keys }).to_string().as_bytes())
    }

    /// T-10, A-18: what providers publish beside the keys that count.
    #[test]
    fn one_key_by_what_is_right_or_wrong_with_it() {
        let (ec, rsa) = (Pair::p256(), Pair::rsa2048());
        let set = |member: &'static str, value: Value| {
            move |jwk: &mut Map<String, Value>| {
                jwk.insert(member.into(), value);
            }
        };
        let not = |found: &str| Err(IssuerKeyError::Algorithm { found: found.into() });
        let cases: Vec<(&str, Value, Result<(), IssuerKeyError>)> = vec![
            ("bare", jwk(&ec, |_| {}), Ok(())),
            ("with all that Entra adds", jwk(&rsa, set("x5c", json!(["MII"]))), Ok(())),
            ("use sig", jwk(&ec, set("use", "sig".into())), Ok(())),
            ("use enc", jwk(&ec, set("use", "enc".into())), Err(IssuerKeyError::NotForSignatures)),
            ("a JWT-SVID's", jwk(&ec, set("use", "jwt-svid".into())), Err(IssuerKeyError::NotForSignatures)),
            ("use is a list", jwk(&ec, set("use", json!(["sig"]))), Err(IssuerKeyError::NotForSignatures)),
            ("key_ops", jwk(&ec, set("key_ops", json!(["verify"]))), Ok(())),
            ("key_ops encrypt", jwk(&ec, set("key_ops", json!(["encrypt"]))), Err(IssuerKeyError::NotForSignatures)),
            ("alg", jwk(&ec, set("alg", "ES256".into())), Ok(())),
            ("alg RSA-OAEP", jwk(&rsa, set("alg", "RSA-OAEP".into())), not("RSA-OAEP")),
            ("alg none", jwk(&rsa, set("alg", "none".into())), not("none")),
            ("alg HS256", jwk(&rsa, set("alg", "HS256".into())), not("HS256")),
            ("alg is null", jwk(&rsa, set("alg", Value::Null)), not("")),
            (
                "alg of another kind",
                jwk(&rsa, set("alg", "ES256".into())),
                Err(IssuerKeyError::OtherAlgorithm { algorithm: Algorithm::Es256, key: "RSA 2048".into() }),
            ),
            ("no kid", jwk(&ec, |jwk| drop(jwk.remove("kid"))), Err(IssuerKeyError::KeyId)),
            ("empty kid", jwk(&ec, set("kid", "".into())), Err(IssuerKeyError::KeyId)),
            ("long kid", jwk(&ec, set("kid", "k".repeat(257).into())), Err(IssuerKeyError::KeyId)),
            (
                "unknown kty",
                json!({ "kty": "AKP", "kid": "k", "pub": "AA" }),
                Err(PublicKeyError::Unsupported { kind: "AKP".into() }.into()),
            ),
            ("no object", json!("key"), Err(IssuerKeyError::NotAnObject)),
        ];
        for (what, value, expected) in cases {
            let good = jwk(&ec, set("kid", "good".into()));
            let set = read_all(&[value, good]).unwrap();
            let ids: Vec<_> = set.key_ids().collect();
            match expected {
                Ok(()) => assert_eq!((ids, set.skipped()), (vec!["k", "good"], [].as_slice()), "{what}"),
                Err(reason) => {
                    assert_eq!((ids, set.skipped()), (vec!["good"], &[SkippedKey { entry: 0, reason }][..]), "{what}");
                }
            }
            assert_eq!(IssuerKeys::parse_jwks(set.to_jwks().as_bytes()).unwrap().keys, set.keys, "{what}");
        }
    }

    #[test]
    fn secrets_in_public_refuse_all_of_it() {
        let ec = Pair::p256();
        for (what, key, member) in [
            ("a private key", jwk(&ec, |jwk| drop(jwk.insert("d".into(), "AA".into()))), "d"),
            ("a shared one", json!({ "kty": "oct", "kid": "k", "k": "AA" }), "k"),
        ] {
            let found = read_all(&[jwk(&ec, |_| {}), key]);
            assert_eq!(found, Err(IssuerKeysError::Private { entry: 1, member: member.into() }), "{what}");
        }
    }

    #[test]
    fn one_kid_for_two_keys_names_neither_and_the_same_twice_is_one() {
        let (one, other) = (Pair::p256(), Pair::p256());
        let third = |jwk: &mut Map<String, Value>| drop(jwk.insert("kid".into(), "third".into()));
        let set = read_all(&[jwk(&one, |_| {}), jwk(&other, |_| {}), jwk(&other, third)]).unwrap();
        assert_eq!(set.key_ids().collect::<Vec<_>>(), ["third"]);
        let set = read_all(&[jwk(&one, |_| {}), jwk(&one, |_| {})]).unwrap();
        assert_eq!((set.key_ids().count(), set.skipped().len()), (1, 0));
    }

    #[test]
    fn documents_are_bounded_and_read_without_pity() {
        for (document, expected) in [
            (&b"{}"[..], IssuerKeysError::NoKeys),
            (b"{\"keys\":{}}", IssuerKeysError::NoKeys),
            (b"[]", IssuerKeysError::NoKeys),
            (
                b"{\"keys\":[],\"keys\":[]}",
                IssuerKeysError::Json { reason: JsonError::DuplicateMember { member: "keys".into() } },
            ),
            (b"<html>", IssuerKeysError::Json { reason: JsonError::Syntax { line: 1, column: 1 } }),
        ] {
            assert_eq!(IssuerKeys::parse_jwks(document), Err(expected));
        }
        let of_size = |bytes: usize| {
            let text = r#"{"keys":[]}"#;
            IssuerKeys::parse_jwks(format!("{text}{}", " ".repeat(bytes - text.len())).as_bytes())
        };
        assert!(of_size(IssuerKeys::MAX_BYTES).is_ok());
        assert_eq!(of_size(256 * 1024 + 1), Err(IssuerKeysError::TooLarge { bytes: 262_145 }));
        let of_count = |count: usize| read_all(&vec![json!({}); count]);
        assert_eq!(of_count(256).unwrap().skipped().len(), 256);
        assert_eq!(of_count(257), Err(IssuerKeysError::TooMany { count: 257 }));
    }

    /// RFC 8725 §3.1: one key, one algorithm; never one that the issuer's settings do not name.
    #[test]
    fn each_key_is_pinned_to_one_algorithm() {
        use Algorithm::{Es256, Es384, Ps256, Rs256, Rs512};
        let alg = |name: &'static str| move |jwk: &mut Map<String, Value>| drop(jwk.insert("alg".into(), name.into()));
        let (ec, rsa) = (Pair::p256(), Pair::rsa2048());
        let plain = |key| jwk(key, |_| {});
        for (what, key, settings, expected) in [
            ("the first that fits", plain(&rsa), &[Es256, Rs256, Ps256][..], Some(Rs256)),
            ("the order counts", plain(&rsa), &[Ps256, Rs256], Some(Ps256)),
            ("its curve's alone", plain(&ec), &[Es384, Es256], Some(Es256)),
            ("none fits", plain(&ec), &[Rs256], None),
            ("its own", jwk(&rsa, alg("PS256")), &[Rs256, Ps256], Some(Ps256)),
            ("its own, which is not taken", jwk(&rsa, alg("RS512")), &[Rs256], None),
            ("its own alone", jwk(&rsa, alg("RS512")), &[Rs512], Some(Rs512)),
        ] {
            let pinned = read_all(&[key]).unwrap().pinned(settings);
            assert_eq!(pinned.first().map(|key| key.algorithm), expected, "{what}");
        }
    }
}
