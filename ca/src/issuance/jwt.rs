//! JWT-SVIDs: ES256, header `alg kid typ`, claims `sub aud exp iat`, and nothing else (JWT-SVID §2, §3).
//!
//! The same steps as for certificates: [`prepare`] writes the signing input and checks what it wrote, [`CheckedJwt::sign`]
//! signs it, [`UnreleasedJwt::release`] lets the token go against the proof of its record.

use std::{fmt, sync::Arc, time::Duration};

use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_ca_api::NodeName;
use bonafide_verifier::{clock::Timestamp, spiffe::SpiffeId};
use serde::{Deserialize, Serialize};

use super::{IssueError, sha256};
use crate::{
    audit::{JwtIssued, Record, Who},
    authority::Signing,
    store::Recorded,
};

/// The audiences of a JWT-SVID: at least one, few, short. [`Audiences::parse`] is the only way to get them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Audiences(Vec<String>);

impl Audiences {
    /// The most audiences that one token may have.
    pub(crate) const MAX_COUNT: usize = 16;
    /// The most bytes that one audience may have.
    pub(crate) const MAX_LENGTH: usize = 256;

    /// # Errors
    /// None, too many, one that is empty, too long, or has a control character.
    pub(crate) fn parse(audiences: Vec<String>) -> Result<Self, AudienceError> {
        if audiences.is_empty() || audiences.len() > Self::MAX_COUNT {
            return Err(AudienceError::Count { found: audiences.len() });
        }
        for (at, audience) in audiences.iter().enumerate() {
            if audience.is_empty() || audience.len() > Self::MAX_LENGTH {
                return Err(AudienceError::Length { at, found: audience.len() });
            }
            if audience.chars().any(char::is_control) {
                return Err(AudienceError::Control { at });
            }
        }
        Ok(Self(audiences))
    }
}

/// Why audiences are not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum AudienceError {
    #[error("{found} audiences; a token has 1 to {}", Audiences::MAX_COUNT)]
    Count { found: usize },
    #[error("audience {at} has {found} bytes; each has 1 to {}", Audiences::MAX_LENGTH)]
    Length { at: usize, found: usize },
    #[error("audience {at} has a control character")]
    Control { at: usize },
}

/// A token to be issued; all but the audiences comes from the registry.
#[derive(Debug)]
pub(crate) struct JwtRequest {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) audiences: Audiences,
    pub(crate) ttl: Duration,
}

/// A signing input that was checked. Not `Clone`: one check pays for one signature.
pub(crate) struct CheckedJwt {
    input: String,
    hash: [u8; 32],
    request: JwtRequest,
    issued_at: Timestamp,
    not_after: Timestamp,
    signing: Arc<Signing>,
}

/// Writes the signing input of a token and checks what it wrote. Touches no key.
///
/// # Errors
/// The authority has no life left, or what was written is not what was meant.
pub(crate) fn prepare(request: JwtRequest, signing: Arc<Signing>, at: Timestamp) -> Result<CheckedJwt, IssueError> {
    let authority_end = signing.jwt.not_after();
    let issued_at = Timestamp::from_unix_seconds(at.unix_millis().div_euclid(1000));
    // The authority is withdrawn that long after its last signature: a longer token would outlive its key.
    let ttl = request.ttl.min(signing.jwt.longest_token());
    let not_after = at.saturating_add(ttl).min(authority_end);
    let not_after = Timestamp::from_unix_seconds(not_after.unix_millis().div_euclid(1000));
    if not_after <= at {
        return Err(IssueError::AuthorityTooShort { not_after: authority_end, at });
    }
    let header = Header { alg: ALGORITHM.into(), kid: signing.jwt.kid().into(), typ: TYPE.into() };
    let claims = Claims {
        aud: request.audiences.0.clone(),
        exp: not_after.unix_seconds(),
        iat: issued_at.unix_seconds(),
        sub: request.spiffe_id.as_str().into(),
    };
    let input = format!("{}.{}", encode(&header)?, encode(&claims)?);
    check(&input, &header, &claims)?;
    Ok(CheckedJwt { hash: sha256(input.as_bytes()), input, request, issued_at, not_after, signing })
}

impl CheckedJwt {
    /// The record of this issuance, to be made durable before the token is released.
    pub(crate) fn record(&self, who: &Who, node: &NodeName) -> Record {
        Record::jwt_issued(&JwtIssued {
            who,
            node,
            spiffe_id: &self.request.spiffe_id,
            kid: self.signing.jwt.kid(),
            tbs_hash: &self.hash,
            audience: &self.request.audiences.0,
            issued_at: self.issued_at,
            not_after: self.not_after,
        })
    }

    /// Signs the checked input: ES256, the signature as r and s side by side (RFC 7518 §3.4).
    ///
    /// # Errors
    /// The key does not sign.
    pub(crate) fn sign(self) -> Result<UnreleasedJwt, IssueError> {
        let signature = self.signing.jwt.sign(self.input.as_bytes()).map_err(|source| IssueError::Sign { source })?;
        if signature.len() != ES256_SIGNATURE {
            return Err(IssueError::ReadAgain);
        }
        Ok(UnreleasedJwt {
            hash: self.hash,
            issued: IssuedJwt {
                token: format!("{}.{}", self.input, Base64UrlUnpadded::encode_string(&signature)),
                not_after: self.not_after,
            },
        })
    }
}

impl fmt::Debug for CheckedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedJwt({})", self.request.spiffe_id)
    }
}

/// A signed token whose record may not be durable yet. It shows nothing.
pub(crate) struct UnreleasedJwt {
    hash: [u8; 32],
    issued: IssuedJwt,
}

impl UnreleasedJwt {
    /// Lets the token go, against the proof that the record of exactly this signing input is durable.
    ///
    /// # Errors
    /// The proof is of another record.
    pub(crate) fn release(self, recorded: Recorded) -> Result<IssuedJwt, IssueError> {
        if !recorded.covers(&self.hash) {
            return Err(IssueError::ForeignRecord);
        }
        Ok(self.issued)
    }
}

impl fmt::Debug for UnreleasedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnreleasedJwt(..)")
    }
}

/// A token that may be handed out. A bearer token: its `Debug` does not show it.
pub(crate) struct IssuedJwt {
    token: String,
    not_after: Timestamp,
}

impl IssuedJwt {
    /// The token, JWS compact serialization.
    pub(crate) fn into_token(self) -> String {
        self.token
    }

    /// Its `exp`.
    pub(crate) fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

impl fmt::Debug for IssuedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuedJwt(until {})", self.not_after)
    }
}

#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    sub: String,
}

fn encode(part: &impl Serialize) -> Result<String, IssueError> {
    let json = serde_json::to_vec(part).map_err(|error| IssueError::Jwt { finding: error.to_string() })?;
    Ok(Base64UrlUnpadded::encode_string(&json))
}

/// Reads the signing input again: two parts, each with exactly the members that were meant, and their values.
fn check(input: &str, header: &Header, claims: &Claims) -> Result<(), IssueError> {
    let differs = |finding: &str| IssueError::Jwt { finding: finding.to_owned() };
    let decode = |part: &str| Base64UrlUnpadded::decode_vec(part).map_err(|_| differs("a part is not base64url"));
    let (first, second) = input.split_once('.').ok_or_else(|| differs("there is no dot"))?;
    let read: Header = serde_json::from_slice(&decode(first)?).map_err(|_| differs("the header cannot be read"))?;
    if read != *header {
        return Err(differs("the header says something else"));
    }
    let read: Claims = serde_json::from_slice(&decode(second)?).map_err(|_| differs("the claims cannot be read"))?;
    if read != *claims {
        return Err(differs("the claims say something else"));
    }
    if claims.aud.is_empty() || claims.exp <= claims.iat {
        return Err(differs("no audience, or no lifetime"));
    }
    Ok(())
}

const ALGORITHM: &str = "ES256";
const TYPE: &str = "JWT";
const ES256_SIGNATURE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_that_are_taken_and_that_are_not() {
        let long = |length: usize| "a".repeat(length);
        let cases: Vec<(&str, Vec<String>, Result<(), AudienceError>)> = vec![
            ("one", vec!["spiffe://example.org/db".into()], Ok(())),
            ("most", vec![long(256); 16], Ok(())),
            ("none (JWT-10)", vec![], Err(AudienceError::Count { found: 0 })),
            ("one too many", vec![long(1); 17], Err(AudienceError::Count { found: 17 })),
            ("a hundred times too many", vec![long(1); 1600], Err(AudienceError::Count { found: 1600 })),
            ("empty", vec![long(1), String::new()], Err(AudienceError::Length { at: 1, found: 0 })),
            ("too long", vec![long(257)], Err(AudienceError::Length { at: 0, found: 257 })),
            ("bytes, not characters", vec!["ä".repeat(129)], Err(AudienceError::Length { at: 0, found: 258 })),
            ("line feed (T-31)", vec!["a\nb".into()], Err(AudienceError::Control { at: 0 })),
            ("NUL", vec!["\0".into()], Err(AudienceError::Control { at: 0 })),
        ];
        for (what, audiences, expected) in cases {
            assert_eq!(Audiences::parse(audiences).map(|_| ()), expected, "{what}");
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let header = || Header { alg: "ES256".into(), kid: "k".into(), typ: "JWT".into() };
        let claims = || Claims { aud: vec!["a".into()], exp: 2, iat: 1, sub: "spiffe://example.org/a".into() };
        let good = format!("{}.{}", encode(&header()).unwrap(), encode(&claims()).unwrap());
        check(&good, &header(), &claims()).unwrap();
        let extra = Base64UrlUnpadded::encode_string(br#"{"alg":"ES256","kid":"k","typ":"JWT","jku":"x"}"#);
        let claims_part = encode(&claims()).unwrap();
        for (flaw, input) in [
            ("no dot", good.replace('.', "")),
            ("a foreign header member (JWT-02)", format!("{extra}.{claims_part}")),
            ("another key id", format!("{}.{claims_part}", encode(&Header { kid: "l".into(), ..header() }).unwrap())),
            (
                "another subject",
                format!("{}.{}", encode(&header()).unwrap(), encode(&Claims { sub: "b".into(), ..claims() }).unwrap()),
            ),
            ("no claims", format!("{}.", encode(&header()).unwrap())),
        ] {
            assert!(matches!(check(&input, &header(), &claims()), Err(IssueError::Jwt { .. })), "{flaw}");
        }
        let eternal = Claims { exp: 1, ..claims() };
        let input = format!("{}.{}", encode(&header()).unwrap(), encode(&eternal).unwrap());
        assert!(check(&input, &header(), &eternal).is_err(), "JWT-15: no lifetime");
    }
}
