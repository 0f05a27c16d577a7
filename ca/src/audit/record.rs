//! One record: what happened and who did it, as JSON that is hashed byte for byte.

use std::{fmt, net::SocketAddr};

use aws_lc_rs::digest::{SHA256, digest};
use bonafide_ca_api::NodeName;
use bonafide_verifier::{clock::Timestamp, spiffe::SpiffeId};
use data_encoding::HEXLOWER;
use serde::{Serialize, Serializer};

use super::Kind;

/// Who did it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    /// The CA by itself: rotation, its own certificate, start.
    Ca,
    /// A user of the admin socket, as the kernel named it.
    Admin {
        /// The peer's user id.
        uid: u32,
        /// Its name, where the system knows one.
        user: Option<String>,
    },
    /// A node, by its SVID or by the key in its row.
    Node(NodeName),
    /// A service, by its SVID.
    Service(SpiffeId),
    /// A peer that has proved a key and nothing else.
    Key {
        /// SHA-256 of its SubjectPublicKeyInfo.
        key: [u8; 32],
        /// Where it came from.
        from: SocketAddr,
    },
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ca => f.write_str("ca"),
            Self::Admin { uid, user: Some(user) } => write!(f, "uid {uid} ({})", user.escape_debug()),
            Self::Admin { uid, user: None } => write!(f, "uid {uid}"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Service(id) => write!(f, "service {id}"),
            Self::Key { key, from } => write!(f, "key {} from {from}", HEXLOWER.encode(key)),
        }
    }
}

impl Serialize for Who {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whom an SVID stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SvidKind {
    /// A registered service.
    Service,
    /// A node.
    Node,
    /// The CA itself.
    Ca,
}

/// An X.509-SVID that is about to be released.
#[derive(Debug)]
pub(crate) struct X509Issued<'a> {
    pub(crate) who: &'a Who,
    /// The node it goes to; none for the CA's own.
    pub(crate) node: Option<&'a NodeName>,
    pub(crate) kind: SvidKind,
    pub(crate) spiffe_id: &'a SpiffeId,
    /// Big-endian, as in the certificate.
    pub(crate) serial: &'a [u8],
    /// SHA-256 of the subject's SubjectPublicKeyInfo.
    pub(crate) key_hash: &'a [u8; 32],
    /// SHA-256 of the to-be-signed bytes.
    pub(crate) tbs_hash: &'a [u8; 32],
    /// The issuing authority's id.
    pub(crate) issuer: &'a str,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) dns_names: &'a [String],
}

/// A JWT-SVID that is about to be released.
#[derive(Debug)]
pub(crate) struct JwtIssued<'a> {
    pub(crate) who: &'a Who,
    pub(crate) node: &'a NodeName,
    pub(crate) spiffe_id: &'a SpiffeId,
    /// The JWT authority's id.
    pub(crate) kid: &'a str,
    /// SHA-256 of the signing input: header, dot, payload.
    pub(crate) tbs_hash: &'a [u8; 32],
    pub(crate) audience: &'a [String],
    pub(crate) issued_at: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// A token of the token service that is about to be released. The token itself is in no record.
#[derive(Debug)]
pub(crate) struct TokenIssued<'a> {
    pub(crate) who: &'a Who,
    /// Its `typ`.
    pub(crate) token_type: &'static str,
    /// By which kind of subject token or credential.
    pub(crate) by: &'static str,
    pub(crate) sub: &'a str,
    /// `txn` or `jti`.
    pub(crate) id: &'a str,
    pub(crate) scope: &'a str,
    pub(crate) audience: &'a [String],
    /// The token authority's id.
    pub(crate) kid: &'a str,
    /// SHA-256 of the token.
    pub(crate) token_hash: &'a [u8; 32],
    pub(crate) issued_at: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// A record that waits to be written. Its place in the chain is decided by the store.
#[derive(Debug)]
pub(crate) struct Record {
    kind: Kind,
    body: String,
    subject: [u8; 32],
}

impl Record {
    /// The record of an X.509-SVID. Its proof covers the to-be-signed bytes.
    pub(crate) fn x509_issued(issued: &X509Issued<'_>) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            who: &'a Who,
            #[serde(skip_serializing_if = "Option::is_none")]
            node: Option<&'a str>,
            svid: SvidKind,
            spiffe_id: &'a str,
            serial: Hex<'a>,
            key: Hex<'a>,
            tbs: Hex<'a>,
            issuer: &'a str,
            not_before: i64,
            not_after: i64,
            dns_names: &'a [String],
        }
        let body = Body {
            who: issued.who,
            node: issued.node.map(NodeName::as_str),
            svid: issued.kind,
            spiffe_id: issued.spiffe_id.as_str(),
            serial: Hex(issued.serial),
            key: Hex(issued.key_hash),
            tbs: Hex(issued.tbs_hash),
            issuer: issued.issuer,
            not_before: issued.not_before.unix_millis(),
            not_after: issued.not_after.unix_millis(),
            dns_names: issued.dns_names,
        };
        Self { kind: Kind::X509Issued, body: json(&body), subject: *issued.tbs_hash }
    }

    /// The record of a JWT-SVID. Its proof covers the signing input.
    pub(crate) fn jwt_issued(issued: &JwtIssued<'_>) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            who: &'a Who,
            node: &'a str,
            svid: SvidKind,
            spiffe_id: &'a str,
            issuer: &'a str,
            tbs: Hex<'a>,
            audience: &'a [String],
            not_before: i64,
            not_after: i64,
        }
        let body = Body {
            who: issued.who,
            node: issued.node.as_str(),
            svid: SvidKind::Service,
            spiffe_id: issued.spiffe_id.as_str(),
            issuer: issued.kid,
            tbs: Hex(issued.tbs_hash),
            audience: issued.audience,
            not_before: issued.issued_at.unix_millis(),
            not_after: issued.not_after.unix_millis(),
        };
        Self { kind: Kind::JwtIssued, body: json(&body), subject: *issued.tbs_hash }
    }

    /// The record of a token. Its proof covers the token.
    pub(crate) fn token_issued(issued: &TokenIssued<'_>) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            who: &'a Who,
            token: &'a str,
            by: &'a str,
            sub: &'a str,
            id: &'a str,
            scope: &'a str,
            audience: &'a [String],
            issuer: &'a str,
            sha256: Hex<'a>,
            not_before: i64,
            not_after: i64,
        }
        let body = Body {
            who: issued.who,
            token: issued.token_type,
            by: issued.by,
            sub: issued.sub,
            id: issued.id,
            scope: issued.scope,
            audience: issued.audience,
            issuer: issued.kid,
            sha256: Hex(issued.token_hash),
            not_before: issued.issued_at.unix_millis(),
            not_after: issued.not_after.unix_millis(),
        };
        Self { kind: Kind::TokenIssued, body: json(&body), subject: *issued.token_hash }
    }

    /// The record of a change. `body` serialises to a JSON object; `who` is put in front of its fields.
    pub(crate) fn change(kind: Kind, who: &Who, body: impl Serialize) -> Self {
        #[derive(Serialize)]
        struct Body<'a, B> {
            who: &'a Who,
            #[serde(flatten)]
            body: B,
        }
        let body = json(&Body { who, body });
        let subject = sha256(body.as_bytes());
        Self { kind, body, subject }
    }

    /// What it tells of.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The JSON that is written.
    pub(crate) fn body(&self) -> &str {
        &self.body
    }

    /// What the proof of this record covers: the hash of the to-be-signed bytes, for a change that of the body.
    pub(crate) fn subject(&self) -> &[u8; 32] {
        &self.subject
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Bytes in lower-case hexadecimal.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}", HexDigits(self.0)))
    }
}

struct HexDigits<'a>(&'a [u8]);

impl fmt::Display for HexDigits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        for bytes in self.0.chunks(32) {
            if let Some(digits) = digits.get_mut(..bytes.len() * 2) {
                HEXLOWER.encode_mut(bytes, digits);
                f.write_str(std::str::from_utf8(digits).unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

fn json(body: &impl Serialize) -> String {
    let mut out = Vec::with_capacity(USUAL_BODY);
    // Strings, numbers and lists of strings: serialisation into memory cannot fail for these.
    match serde_json::to_writer(&mut out, body) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        Err(error) => serde_json::json!({ "unserialisable": error.to_string() }).to_string(),
    }
}

const USUAL_BODY: usize = 640;
