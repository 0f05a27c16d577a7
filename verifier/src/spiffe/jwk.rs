//! Public keys, as SubjectPublicKeyInfo and as JWK (RFC 7517, RFC 7518 §6).

use std::fmt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaPublicKeyComponents};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Map, Value};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// An elliptic curve of RFC 7518 §6.2.1.1.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Curve {
    /// NIST P-256, secp256r1.
    P256,
    /// NIST P-384, secp384r1.
    P384,
    /// NIST P-521, secp521r1.
    P521,
}

impl Curve {
    /// `P-256`, as in a JWK's `crv`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of a coordinate.
    #[must_use]
    pub fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::P256, Self::P384, Self::P521].into_iter().find(|curve| curve.name() == name)
    }

    pub(crate) fn from_oid(oid: &[u8]) -> Option<Self> {
        match oid {
            // 1.2.840.10045.3.1.7
            [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] => Some(Self::P256),
            // 1.3.132.0.34, 1.3.132.0.35
            [0x2b, 0x81, 0x04, 0x00, 0x22] => Some(Self::P384),
            [0x2b, 0x81, 0x04, 0x00, 0x23] => Some(Self::P521),
            _ => None,
        }
    }

    /// The algorithm of the curve in JWS (RFC 7518 §3.4). Reading a point with it checks that the point is on the curve.
    fn algorithm(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::P521 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

/// The smallest RSA modulus that is taken, in bits.
pub(crate) const RSA_MIN_BITS: usize = 2048;
/// The largest, in bits: verification takes time with the square of it.
pub(crate) const RSA_MAX_BITS: usize = 8192;

/// A public key that signs documents: EC on P-256, P-384 or P-521 with the point on the curve, RSA of 2048 to 8192 bits,
/// or Ed25519 (which signs certificates, but no JWT-SVIDs).
///
/// Two keys are equal exactly if their SubjectPublicKeyInfo is.
#[derive(Clone)]
pub struct PublicKey {
    kind: Kind,
    // INVARIANT: the canonical DER of `kind`.
    spki: Box<[u8]>,
}

#[derive(Clone)]
pub(crate) enum Kind {
    /// `point` is uncompressed: 4, x, y.
    Ec {
        curve: Curve,
        point: Box<[u8]>,
        /// For the one algorithm of the curve: to take the key apart again costs a tenth of verifying with it.
        #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "tokens are verified with it"))]
        parsed: ParsedPublicKey,
    },
    /// Big-endian, no leading zero.
    Rsa {
        n: Box<[u8]>,
        e: Box<[u8]>,
    },
    Ed25519 {
        point: Box<[u8]>,
    },
}

/// Why a public key is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// The bytes are not a SubjectPublicKeyInfo.
    #[error("not a SubjectPublicKeyInfo in DER")]
    Malformed,
    /// Neither EC on a named curve, nor RSA, nor Ed25519.
    #[error("keys of the type `{}` are not supported", kind.escape_default())]
    Unsupported {
        /// `kty`, `crv` or algorithm identifier.
        kind: String,
    },
    /// A member that a JWK of this type must have is absent, or is not a string.
    #[error("the member `{member}` is missing or not a string")]
    Member {
        /// Its name.
        member: &'static str,
    },
    /// A member of a JWK is not base64url without padding.
    #[error("the member `{member}` is not base64url without padding")]
    Base64 {
        /// Its name.
        member: &'static str,
    },
    /// A coordinate has the wrong length, the point is compressed, at infinity, or not on the curve.
    #[error("not an uncompressed point on {}", curve.name())]
    Point {
        /// The curve it should be on.
        curve: Curve,
    },
    /// Ed25519 with something else than 32 bytes.
    #[error("not an Ed25519 public key")]
    Ed25519,
    /// RSA with a modulus too small or too large, or with leading zeros.
    #[error(
        "an RSA modulus must have {} to {} bits and no leading zero, this one has {bits}",
        RSA_MIN_BITS,
        RSA_MAX_BITS
    )]
    RsaModulus {
        /// Bits found.
        bits: usize,
    },
    /// RSA with an exponent that is even, 1, or larger than 33 bits.
    #[error("an RSA exponent must be odd, at least 3 and have at most 33 bits")]
    RsaExponent,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    ///
    /// # Errors
    /// See [`PublicKeyError`].
    pub fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| PublicKeyError::Malformed)?;
        let key = Self::from_parsed_spki(&spki)?;
        // Also refuses bytes after the end, and encodings that DER does not allow.
        if rest.is_empty() && *key.spki == *der { Ok(key) } else { Err(PublicKeyError::Malformed) }
    }

    /// The same, when the certificate around it is parsed already.
    pub(crate) fn from_parsed_spki(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, PublicKeyError> {
        match classify(spki)? {
            Classified::Ec(curve) => Self::ec(curve, &spki.subject_public_key.data),
            Classified::Rsa { .. } => match spki.parsed() {
                Ok(ParsedKey::RSA(rsa)) => Self::rsa(unsigned(rsa.modulus), unsigned(rsa.exponent)),
                _ => Err(PublicKeyError::Malformed),
            },
            Classified::Ed25519 => Self::ed25519(&spki.subject_public_key.data),
        }
    }

    /// Reads the key of a JWK; `use`, `kid` and the like are not looked at.
    pub(crate) fn from_jwk(jwk: &Map<String, Value>) -> Result<Self, PublicKeyError> {
        let text =
            |member: &'static str| jwk.get(member).and_then(Value::as_str).ok_or(PublicKeyError::Member { member });
        let bytes = |member: &'static str| {
            Base64UrlUnpadded::decode_vec(text(member)?).map_err(|_| PublicKeyError::Base64 { member })
        };
        let curve_of =
            |name: &str| Curve::from_name(name).ok_or_else(|| PublicKeyError::Unsupported { kind: shortened(name) });
        match text("kty")? {
            "EC" => {
                let curve = curve_of(text("crv")?)?;
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != curve.coordinate_bytes() || y.len() != curve.coordinate_bytes() {
                    return Err(PublicKeyError::Point { curve });
                }
                Self::ec(curve, &[&[4], x.as_slice(), y.as_slice()].concat())
            }
            "RSA" => Self::rsa(&bytes("n")?, &bytes("e")?),
            "OKP" => match text("crv")? {
                "Ed25519" => Self::ed25519(&bytes("x")?),
                other => Err(PublicKeyError::Unsupported { kind: shortened(other) }),
            },
            other => Err(PublicKeyError::Unsupported { kind: shortened(other) }),
        }
    }

    fn ec(curve: Curve, point: &[u8]) -> Result<Self, PublicKeyError> {
        let wrong = || PublicKeyError::Point { curve };
        if point.len() != 1 + 2 * curve.coordinate_bytes() || point.first() != Some(&4) {
            return Err(wrong());
        }
        let parsed = ParsedPublicKey::new(curve.algorithm(), point).map_err(|_| wrong())?;
        let spki = der_of(&parsed).ok_or_else(wrong)?;
        Ok(Self { spki, kind: Kind::Ec { curve, point: point.into(), parsed } })
    }

    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, PublicKeyError> {
        check_rsa(n, e)?;
        let bits = rsa_bits(n);
        let spki = der_of(&RsaPublicKeyComponents { n, e }).ok_or(PublicKeyError::RsaModulus { bits })?;
        Ok(Self { spki, kind: Kind::Rsa { n: n.into(), e: e.into() } })
    }

    fn ed25519(point: &[u8]) -> Result<Self, PublicKeyError> {
        if point.len() != 32 {
            return Err(PublicKeyError::Ed25519);
        }
        let parsed = ParsedPublicKey::new(&signature::ED25519, point).map_err(|_| PublicKeyError::Ed25519)?;
        Ok(Self { spki: der_of(&parsed).ok_or(PublicKeyError::Ed25519)?, kind: Kind::Ed25519 { point: point.into() } })
    }

    /// The SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// `EC P-256`, `RSA 2048`, `Ed25519`: for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Ec { curve, .. } => format!("EC {}", curve.name()),
            Kind::Rsa { n, .. } => format!("RSA {}", rsa_bits(n)),
            Kind::Ed25519 { .. } => "Ed25519".into(),
        }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The members of a JWK that hold the key: `kty` and what belongs to it.
    pub(crate) fn to_jwk(&self) -> Map<String, Value> {
        let text = |bytes: &[u8]| Value::String(Base64UrlUnpadded::encode_string(bytes));
        let mut jwk = Map::new();
        let mut set = |member: &str, value: Value| jwk.insert(member.into(), value);
        match &self.kind {
            Kind::Ec { curve, point, .. } => {
                let (x, y) = point.get(1..).unwrap_or_default().split_at(curve.coordinate_bytes());
                set("kty", "EC".into());
                set("crv", curve.name().into());
                set("x", text(x));
                set("y", text(y));
            }
            Kind::Rsa { n, e } => {
                set("kty", "RSA".into());
                set("n", text(n));
                set("e", text(e));
            }
            Kind::Ed25519 { point } => {
                set("kty", "OKP".into());
                set("crv", "Ed25519".into());
                set("x", text(point));
            }
        }
        jwk
    }
}

/// What a SubjectPublicKeyInfo holds, by its identifiers and sizes alone: cheap, and enough for a profile rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Classified {
    Ec(Curve),
    Rsa { bits: usize },
    Ed25519,
}

/// Checks the type and size of a key, but not that a point is on its curve: whoever uses the key does.
pub(crate) fn classify(spki: &SubjectPublicKeyInfo<'_>) -> Result<Classified, PublicKeyError> {
    let key = &spki.subject_public_key;
    if key.unused_bits != 0 {
        return Err(PublicKeyError::Malformed);
    }
    match spki.algorithm.algorithm.as_bytes() {
        EC_PUBLIC_KEY => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            let Some(curve) = curve.and_then(|oid| Curve::from_oid(oid.as_bytes())) else {
                return Err(PublicKeyError::Unsupported { kind: "EC on another curve".into() });
            };
            if key.data.len() != 1 + 2 * curve.coordinate_bytes() || key.data.first() != Some(&4) {
                return Err(PublicKeyError::Point { curve });
            }
            Ok(Classified::Ec(curve))
        }
        RSA_ENCRYPTION => match spki.parsed() {
            Ok(ParsedKey::RSA(rsa)) => {
                check_rsa(unsigned(rsa.modulus), unsigned(rsa.exponent))?;
                Ok(Classified::Rsa { bits: rsa_bits(unsigned(rsa.modulus)) })
            }
            _ => Err(PublicKeyError::Malformed),
        },
        ED25519 if spki.algorithm.parameters.is_some() || key.data.len() != 32 => Err(PublicKeyError::Ed25519),
        ED25519 => Ok(Classified::Ed25519),
        _ => Err(PublicKeyError::Unsupported { kind: spki.algorithm.algorithm.to_id_string() }),
    }
}

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]; // 1.2.840.10045.2.1
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]; // 1.2.840.113549.1.1.1
const ED25519: &[u8] = &[0x2b, 0x65, 0x70]; // 1.3.101.112

fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), PublicKeyError> {
    let bits = rsa_bits(n);
    if n.first() == Some(&0) || !(RSA_MIN_BITS..=RSA_MAX_BITS).contains(&bits) || n.last().is_some_and(|b| b % 2 == 0) {
        return Err(PublicKeyError::RsaModulus { bits });
    }
    let odd = e.last().is_some_and(|byte| byte % 2 == 1);
    if !odd || e.first() == Some(&0) || e == [1] || rsa_bits(e) > 33 {
        return Err(PublicKeyError::RsaExponent);
    }
    Ok(())
}

fn rsa_bits(number: &[u8]) -> usize {
    match number {
        [] => 0,
        [first, rest @ ..] => rest.len() * 8 + (8 - first.leading_zeros() as usize),
    }
}

/// An ASN.1 INTEGER that is positive begins with a zero where its first bit is set.
fn unsigned(integer: &[u8]) -> &[u8] {
    match integer {
        [0, rest @ ..] if rest.first().is_some_and(|byte| byte & 0x80 != 0) => rest,
        _ => integer,
    }
}

fn der_of<K: AsDer<PublicKeyX509Der<'static>>>(key: &K) -> Option<Box<[u8]>> {
    key.as_der().ok().map(|der| der.as_ref().into())
}

fn shortened(text: &str) -> String {
    text.chars().take(32).collect()
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.describe())
    }
}
