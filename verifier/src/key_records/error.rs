//! Why a file of key records is not taken.

use std::fmt;

use crate::{
    caller::{RoleNameError, Roles},
    shared_secret::SharedSecretError,
    spiffe::{SpiffeId, SpiffeIdError, TrustDomain},
};

/// A place in a text, from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

impl Position {
    #[cfg(feature = "policy-file")]
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a file of key records is not taken, and where in it. Holds no secret, and no text of which one could be a part.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{at}: {flaw}")]
pub struct KeyRecordsError {
    /// Where.
    pub at: Position,
    /// What.
    pub flaw: KeyRecordFlaw,
}

/// What is wrong with a record, or with the file of them.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRecordFlaw {
    /// More bytes than [`super::MAX_FILE_BYTES`].
    #[error("the file has {bytes} bytes, at most {} are read", super::MAX_FILE_BYTES)]
    TooLarge {
        /// Found.
        bytes: usize,
    },
    /// Not TOML.
    #[error("not valid TOML")]
    Syntax,
    /// A member that no reader of this version knows: what it means could be a restriction (T-27).
    #[error("unknown member `{}`", .member.escape_default())]
    UnknownMember {
        /// Its name, cut to 64 characters.
        member: String,
    },
    /// A member that must be there.
    #[error("`{member}` is missing")]
    Missing {
        /// Its name.
        member: &'static str,
    },
    /// A member of the wrong type.
    #[error("`{member}` is not {expected}")]
    Type {
        /// Its name.
        member: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A version that this program does not know.
    #[error("the file's version is not 1; it was written for another version of Bonafide")]
    Version,
    /// More records than [`super::MAX_RECORDS`].
    #[error("more than {} records", super::MAX_RECORDS)]
    TooMany,
    /// An ID of a record that is none.
    #[error("`{}` is no ID of a record: 1 to {} characters of letters, digits, `.`, `_` and `-` are", .id.escape_default(), super::MAX_RECORD_ID_BYTES)]
    Id {
        /// The text, cut to 64 characters.
        id: String,
    },
    /// Two records of one ID.
    #[error("the record `{id}` stands there twice")]
    IdTwice {
        /// The ID.
        id: String,
    },
    /// An ID of a key that does not begin with its record's.
    #[error("`{}` is no ID of a key of this record: the record's ID, a dot and a number is", .key_id.escape_default())]
    KeyId {
        /// The text, cut to 64 characters.
        key_id: String,
    },
    /// Two keys of one ID: they could not be told apart.
    #[error("two keys have the ID `{key_id}`")]
    KeyIdTwice {
        /// The ID.
        key_id: String,
    },
    /// A kind of keys that is none.
    #[error("`kind` is neither `shared-secret` nor `api-key`")]
    Kind,
    /// An owner that is no SPIFFE ID.
    #[error("`owner` is not a SPIFFE ID: {error}")]
    Owner {
        /// The rule it breaks.
        error: SpiffeIdError,
    },
    /// Nobody of another trust domain proves itself by a key of ours.
    #[error("`{owner}` is not of the trust domain `{trust_domain}`; keys are for callers of the own trust domain")]
    OwnerOfOtherTrustDomain {
        /// The owner.
        owner: SpiffeId,
        /// The own trust domain.
        trust_domain: TrustDomain,
    },
    /// A trust domain itself calls nobody.
    #[error("`{owner}` has no path, so it is nobody's identity")]
    OwnerWithoutPath {
        /// The owner.
        owner: SpiffeId,
    },
    /// What is Bonafide's own proves itself by certificates alone.
    #[error("`{owner}` is one of Bonafide's own IDs, which no key can prove")]
    ReservedOwner {
        /// The owner.
        owner: SpiffeId,
    },
    /// An audience or a subject that no token could name.
    #[error(
        "`{member}` has {bytes} bytes or control characters; 1 to {} bytes without any are possible",
        super::MAX_NAME_BYTES
    )]
    Name {
        /// Which.
        member: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A role that is none.
    #[error(transparent)]
    Role(#[from] RoleNameError),
    /// More roles than a caller can have.
    #[error("the record grants {count} roles, at most {} are possible", Roles::MOST)]
    TooManyRoles {
        /// Found.
        count: usize,
    },
    /// A lifetime that no token may have.
    #[error("tokens would live up to {seconds} s; 1 to {} s are possible", super::MOST_LIFETIME.as_secs())]
    Lifetime {
        /// Found.
        seconds: u64,
    },
    /// None, or more than two.
    #[error("the record has {count} secrets; it has 1, or 2 while one takes the other's place")]
    Secrets {
        /// Found.
        count: usize,
    },
    /// A shared secret that is none.
    #[error(transparent)]
    Secret(#[from] SharedSecretError),
    /// A wrapped secret, and no key to open it with.
    #[error("the secret is wrapped, and the file names no `wrapping-key` to open it with")]
    NoWrappingKey,
    /// A wrapped secret that the key does not open: it was wrapped under another one, for another key ID, or is damaged.
    #[error("`wrapped` does not open with the file's wrapping key; if that key was lost, create new keys")]
    Wrapped,
    /// The hash of an API key's secret that is none.
    #[error("`sha256` is not 64 hexadecimal digits in lower case")]
    Hash,
}
