//! Compact JWS (RFC 7515 §3.1) with the closed header of JWT-SVID (§2).

use std::fmt;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value, json};

use super::error::{JwtError, Part};
use super::token::MAX_TOKEN_BYTES;
use crate::spiffe::jwk::Kind;
use crate::spiffe::{Curve, PublicKey};
use crate::strict_json::{self, Known, Members};

/// The nine algorithms of JWT-SVID §2.1 (RFC 7518 §3.3 to §3.5; JWT-04, A-17). There is no other, and no `none`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs, reason = "their names say all there is to say")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
    ];

    /// As in the header: `ES256`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// ES* are tied to one curve each (RFC 7518 §3.4).
    pub(super) fn fits(self, key: &PublicKey) -> bool {
        match (self, key.kind()) {
            (Self::Es256, Kind::Ec { curve, .. }) => *curve == Curve::P256,
            (Self::Es384, Kind::Ec { curve, .. }) => *curve == Curve::P384,
            (Self::Es512, Kind::Ec { curve, .. }) => *curve == Curve::P521,
            (Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512, Kind::Rsa { .. }) => {
                true
            }
            _ => false,
        }
    }

    /// ECDSA signatures are r and s, of fixed length, never DER (RFC 7518 §3.4).
    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A compact token whose header is read: it says which key to look for, and nothing else. Every kind of token begins so.
#[derive(Clone)]
pub(crate) struct Compact<'t> {
    // INVARIANT: no members but these, the tolerated ones texts.
    header: Known<5>,
    payload: &'t str,
    signature: &'t str,
    signing_input: &'t str,
}

/// Members of the header that real providers add to users' tokens, and that change nothing: they may be there, and are not looked at.
const TOLERATED: [&str; 2] = ["x5t", "x5t#S256"];
/// Claims are flat, or nearly so.
pub(super) const MAX_DEPTH: usize = 16;
/// What an ES256 signature adds to a signing input, with its dot.
pub(super) const ES256_SIGNATURE_TEXT: usize = 87;

impl<'t> Compact<'t> {
    /// Bounds, form and header, in this order.
    pub(crate) fn parse(token: &'t str) -> Result<Self, JwtError> {
        let compact = Self::parse_tolerating(token)?;
        compact.tolerate_nothing()?;
        Ok(compact)
    }

    /// The same, with `x5t` and `x5t#S256` in the header if they are texts.
    pub(crate) fn parse_tolerating(token: &'t str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLarge { bytes: token.len() });
        }
        // Every byte is looked at, so that many are at once; which one it is matters only where one is odd.
        if !token.bytes().fold(true, |all, byte| all & is_token_byte(byte))
            && let Some((at, byte)) = token.bytes().enumerate().find(|(_, byte)| !is_token_byte(*byte))
        {
            return Err(JwtError::Byte { byte, at });
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::Parts { count: token.split('.').count() });
        };
        let signing_input = token.get(..header.len() + 1 + payload.len()).unwrap_or_default();
        let header = known_object(Part::Header, header, ["alg", "kid", "typ", "x5t", "x5t#S256"])?;
        let no_text = |name: &&str| header.member(name).is_some_and(|value| !value.is_string());
        match header.other.as_deref().or_else(|| TOLERATED.into_iter().find(no_text)) {
            Some(member) => Err(JwtError::HeaderMember { member: cut(member) }),
            None => Ok(Self { header, payload, signature, signing_input }),
        }
    }

    /// No member of the header beside `alg`, `kid` and `typ`.
    pub(crate) fn tolerate_nothing(&self) -> Result<(), JwtError> {
        match TOLERATED.into_iter().find(|name| self.header.member(name).is_some()) {
            Some(member) => Err(JwtError::HeaderMember { member: member.to_owned() }),
            None => Ok(()),
        }
    }

    /// `alg`, whatever it is.
    pub(crate) fn algorithm(&self) -> Result<&str, JwtError> {
        self.text("alg")?.ok_or(JwtError::Header { member: "alg" })
    }

    pub(crate) fn token_type(&self) -> Result<Option<&str>, JwtError> {
        self.text("typ")
    }

    pub(crate) fn key_id(&self) -> Result<Option<&str>, JwtError> {
        match self.text("kid")? {
            Some("") => Err(JwtError::Header { member: "kid" }),
            key_id => Ok(key_id),
        }
    }

    /// What the token says, whoever wrote it.
    pub(crate) fn claims(&self) -> Result<Map<String, Value>, JwtError> {
        object(Part::Claims, self.payload)
    }

    /// The same where it has a closed set of claims.
    pub(super) fn known_claims<const N: usize>(&self, names: [&'static str; N]) -> Result<Known<N>, JwtError> {
        known_object(Part::Claims, self.payload, names)
    }

    pub(crate) fn signature(&self) -> Result<Vec<u8>, JwtError> {
        bytes(Part::Signature, self.signature)
    }

    /// What the signature is over.
    pub(crate) fn signing_input(&self) -> &'t [u8] {
        self.signing_input.as_bytes()
    }

    fn text(&self, member: &'static str) -> Result<Option<&str>, JwtError> {
        match self.header.member(member) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(JwtError::Header { member }),
        }
    }
}

/// A token signed with one of the nine algorithms, taken apart. Its signature is not verified.
#[derive(Clone)]
pub(super) struct Jws<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: String,
    pub(super) payload: Map<String, Value>,
    signing_input: &'t [u8],
    signature: Vec<u8>,
}

impl<'t> Jws<'t> {
    /// `is_type` judges the header's `typ`: each kind of token has its own (RFC 8725 §3.11).
    pub(super) fn read(compact: &Compact<'t>, is_type: impl Fn(Option<&str>) -> bool) -> Result<Self, JwtError> {
        // JWT-18: the header comes first, and with it the algorithm.
        let name = compact.algorithm()?;
        let algorithm = Algorithm::from_name(name).ok_or_else(|| JwtError::Algorithm { found: cut(name) })?;
        let found = compact.token_type()?;
        if !is_type(found) {
            return Err(JwtError::Type { found: cut(found.unwrap_or_default()) });
        }
        let key_id = compact.key_id()?.ok_or(JwtError::Header { member: "kid" })?;
        Ok(Self {
            algorithm,
            key_id: key_id.to_owned(),
            payload: compact.claims()?,
            signing_input: compact.signing_input(),
            signature: compact.signature()?,
        })
    }

    /// Verifies the signature with a key of the right kind.
    pub(super) fn verify(&self, key: &PublicKey) -> Result<(), JwtError> {
        if !self.algorithm.fits(key) {
            return Err(JwtError::OtherAlgorithm { algorithm: self.algorithm, key: key.describe() });
        }
        let verified = match key.kind() {
            // INVARIANT: `fits` has seen to it that it is the algorithm of this curve.
            Kind::Ec { parsed, .. } => parsed.verify_sig(self.signing_input, &self.signature),
            Kind::Rsa { .. } | Kind::Ed25519 { .. } => {
                let key = UnparsedPublicKey::new(self.algorithm.verification(), key.spki());
                key.verify(self.signing_input, &self.signature)
            }
        };
        verified.map_err(|_| JwtError::BadSignature)
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn bytes(part: Part, text: &str) -> Result<Vec<u8>, JwtError> {
    // Not the one for secrets, which takes four times as long: what a token says is no secret from whoever shows it.
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| JwtError::Base64 { part })
}

fn object(part: Part, text: &str) -> Result<Map<String, Value>, JwtError> {
    match strict_json::parse(&bytes(part, text)?, MAX_DEPTH) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(JwtError::NotAnObject { part }),
        Err(reason) => Err(JwtError::Json { part, reason }),
    }
}

fn known_object<const N: usize>(part: Part, text: &str, names: [&'static str; N]) -> Result<Known<N>, JwtError> {
    match strict_json::parse_known(&bytes(part, text)?, MAX_DEPTH, names) {
        Ok(Some(members)) => Ok(members),
        Ok(None) => Err(JwtError::NotAnObject { part }),
        Err(reason) => Err(JwtError::Json { part, reason }),
    }
}

pub(crate) fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

/// What an issuer signs: header and claims, as they will stand in the token. For a CA; this crate signs nothing.
///
/// ```
/// use bonafide_verifier::jwt::{Algorithm, SigningInput};
/// let claims = serde_json::json!({ "sub": "spiffe://example.org/photo", "aud": ["spiffe://example.org/db"], "exp": 1 });
/// let input = SigningInput::new(Algorithm::Es256, "1", claims.as_object().unwrap());
/// # let sign = |_: &[u8]| [0; 64];
/// let token = input.clone().with_signature(&sign(input.as_bytes()));
/// assert_eq!(token.split('.').count(), 3);
/// ```
#[derive(Clone, Debug)]
pub struct SigningInput(String);

impl SigningInput {
    /// The header has `alg`, `kid` and `typ`, as [`super::verify`] takes it (JWT-02, JWT-07, A-10).
    #[must_use]
    pub fn new(algorithm: Algorithm, key_id: &str, claims: &Map<String, Value>) -> Self {
        Self::typed("JWT", algorithm, key_id, claims)
    }

    /// A token of another kind, by its `typ`, such as [`super::txn_token::TYPE`].
    #[must_use]
    pub fn typed(token_type: &str, algorithm: Algorithm, key_id: &str, claims: &Map<String, Value>) -> Self {
        Self::of_text(token_type, algorithm, key_id, &Value::Object(claims.clone()).to_string())
    }

    /// Of claims that are written already: a JSON object.
    pub(super) fn of_text(token_type: &str, algorithm: Algorithm, key_id: &str, claims: &str) -> Self {
        let header = json!({ "alg": algorithm.name(), "kid": key_id, "typ": token_type }).to_string();
        let (header, claims) = (header.as_bytes(), claims.as_bytes());
        let length = [header, claims].map(|part| BASE64URL_NOPAD.encode_len(part.len()) + 1).iter().sum::<usize>();
        let mut input = String::with_capacity(length + ES256_SIGNATURE_TEXT);
        BASE64URL_NOPAD.encode_append(header, &mut input);
        input.push('.');
        BASE64URL_NOPAD.encode_append(claims, &mut input);
        Self(input)
    }

    /// The bytes to sign.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The token. An ECDSA signature is r and s, each as long as the curve's coordinates, not DER.
    #[must_use]
    pub fn with_signature(mut self, signature: &[u8]) -> String {
        self.0.push('.');
        BASE64URL_NOPAD.encode_append(signature, &mut self.0);
        self.0
    }
}
