//! Users by name: who is meant by an issuer's word and the issuer's own subject.
//!
//! A user is never a service: no text is both a [`UserId`] and a SPIFFE ID.

use std::{fmt, sync::Arc};

use crate::{
    caller::{ProofKind, Roles},
    clock::Timestamp,
};

/// The short name under which an issuer of users is known in the trust domain: 1 to 32 bytes of `[a-z0-9-]`, the first a letter, and
/// neither `spiffe` nor `role`, so that nobody's name begins as a SPIFFE ID or a policy's role does.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IssuerName(Arc<str>);

/// Why a text is no issuer's name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{}` is no issuer's name: 1 to {} characters of a-z, 0-9 and `-` are, the first a letter, and neither `spiffe` nor `role`", .name.escape_debug(), IssuerName::MAX_BYTES)]
pub struct IssuerNameError {
    name: String,
}

impl IssuerName {
    /// The longest name.
    pub const MAX_BYTES: usize = 32;

    /// Reads a name.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(name: &str) -> Result<Self, IssuerNameError> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if starts && name.len() <= Self::MAX_BYTES && name.bytes().all(allowed) && !matches!(name, "spiffe" | "role") {
            Ok(Self(name.into()))
        } else {
            Err(IssuerNameError { name: name.chars().take(Self::MAX_BYTES + 1).collect() })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IssuerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One user: the issuer's name and the subject by which that issuer knows them, written `corp:248289761001`. Unique within the trust
/// domain, whatever subjects two issuers give. Cloning is cheap.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UserId {
    // INVARIANT: `NAME:SUBJECT`, both as `parse` takes them.
    text: Arc<str>,
    issuer: IssuerName,
}

/// Why a text names no user.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UserIdError {
    /// Nothing between issuer and subject.
    #[error("a user is written `ISSUER:SUBJECT`, and there is no `:` in it")]
    NoColon,
    /// An issuer that can be none.
    #[error(transparent)]
    Issuer(#[from] IssuerNameError),
    /// A subject that can be none.
    #[error("a subject has 1 to {} visible ASCII characters, blanks only between them", UserId::MAX_SUBJECT_BYTES)]
    Subject,
    /// A subject that reads as a service's ID.
    #[error("a subject that begins with `spiffe:` is no user's; services prove their own IDs")]
    Service,
}

impl UserId {
    /// The longest subject (OpenID Connect Core §2).
    pub const MAX_SUBJECT_BYTES: usize = 255;

    /// The user whom this issuer knows as `subject`.
    ///
    /// # Errors
    /// When nobody can be named so.
    pub fn new(issuer: IssuerName, subject: &str) -> Result<Self, UserIdError> {
        let visible = (1..=Self::MAX_SUBJECT_BYTES).contains(&subject.len())
            && subject.bytes().all(|byte| matches!(byte, b' '..=b'~'))
            && subject.trim_matches(' ').len() == subject.len();
        if !visible {
            return Err(UserIdError::Subject);
        }
        if subject.get(..7).is_some_and(|begin| begin.eq_ignore_ascii_case("spiffe:")) {
            return Err(UserIdError::Service);
        }
        Ok(Self { text: format!("{issuer}:{subject}").into(), issuer })
    }

    /// Reads `ISSUER:SUBJECT`.
    ///
    /// # Errors
    /// When it names nobody.
    pub fn parse(text: &str) -> Result<Self, UserIdError> {
        let (issuer, subject) = text.split_once(':').ok_or(UserIdError::NoColon)?;
        Self::new(IssuerName::parse(issuer)?, subject)
    }

    /// Who says so.
    #[must_use]
    pub fn issuer(&self) -> &IssuerName {
        &self.issuer
    }

    /// The issuer's own word for the user.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.text.get(self.issuer.as_str().len() + 1..).unwrap_or_default()
    }

    /// `ISSUER:SUBJECT`, as in policies, records and the `sub` of transaction tokens.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({:?})", &*self.text)
    }
}

/// The user whom a request's own credential names, at a service that takes users' credentials: not yet a transaction's, and of no service's
/// word. Cloning is cheap; holds no secret, and `Debug` does not show who it is.
#[derive(Clone, Eq, PartialEq)]
pub struct PresentedUser(Arc<Facts>);

#[derive(Eq, PartialEq)]
pub(crate) struct Facts {
    pub(crate) id: UserId,
    pub(crate) roles: Roles,
    pub(crate) scope: Option<Box<str>>,
    pub(crate) kind: ProofKind,
    pub(crate) key_id: Arc<str>,
    pub(crate) token_id: Option<Arc<str>>,
    pub(crate) valid_until: Timestamp,
}

impl PresentedUser {
    #[cfg_attr(
        not(any(feature = "jwt", feature = "policy-file")),
        allow(dead_code, reason = "tokens name users, and policies ask about them")
    )]
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(facts))
    }

    /// Who.
    #[must_use]
    pub fn id(&self) -> &UserId {
        &self.0.id
    }

    /// The roles that the issuer says they have.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.0.roles
    }

    /// What for, if the credential says so. None is unknown, which is not unlimited.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.0.scope.as_deref()
    }

    /// The kind of the credential.
    #[must_use]
    pub fn kind(&self) -> ProofKind {
        self.0.kind
    }

    /// The key that signed it.
    #[must_use]
    pub fn key_id(&self) -> &Arc<str> {
        &self.0.key_id
    }

    /// The ID of the token (`jti`), if it has one.
    #[must_use]
    pub fn token_id(&self) -> Option<&Arc<str>> {
        self.0.token_id.as_ref()
    }

    /// Until when it counts, leeway included.
    #[must_use]
    pub fn valid_until(&self) -> Timestamp {
        self.0.valid_until
    }
}

impl fmt::Debug for PresentedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresentedUser")
            .field("issuer", self.0.id.issuer())
            .field("kind", &self.0.kind)
            .field("valid_until", &self.0.valid_until)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spiffe::SpiffeId;

    #[test]
    fn names_of_issuers() {
        for (name, valid) in [
            ("corp", true),
            ("a", true),
            ("a-9", true),
            ("spiffe", false),
            ("spiffes", true),
            ("role", false),
            ("", false),
            ("9a", false),
            ("-a", false),
            ("Corp", false),
            ("a_b", false),
            ("a:b", false),
            (&"a".repeat(32), true),
            (&"a".repeat(33), false),
        ] {
            assert_eq!(IssuerName::parse(name).is_ok(), valid, "{name}");
        }
    }

    #[test]
    fn users_read_back_and_none_is_a_service() {
        for (text, expected) in [
            ("corp:charlie", Ok("charlie")),
            ("corp:uid=charlie, ou=people", Ok("uid=charlie, ou=people")),
            ("corp:a:b", Ok("a:b")),
            ("corp", Err(UserIdError::NoColon)),
            ("corp:", Err(UserIdError::Subject)),
            ("corp: charlie", Err(UserIdError::Subject)),
            ("corp:charlie ", Err(UserIdError::Subject)),
            ("corp:char\u{7f}lie", Err(UserIdError::Subject)),
            ("corp:zoë", Err(UserIdError::Subject)),
            ("corp:spiffe://example.org/photo", Err(UserIdError::Service)),
            ("corp:SPIFFE://example.org/photo", Err(UserIdError::Service)),
            ("spiffe://example.org/photo", Err(UserIdError::Issuer(IssuerNameError { name: "spiffe".into() }))),
        ] {
            let found = UserId::parse(text);
            assert_eq!(found.as_ref().map(UserId::subject), expected.as_ref().copied(), "{text}");
            if let Ok(user) = found {
                assert_eq!((user.as_str(), user.to_string().as_str()), (text, text));
                assert!(SpiffeId::parse(text).is_err());
            }
        }
        let of_length = |length: usize| UserId::parse(&format!("corp:{}", "a".repeat(length)));
        assert!(of_length(255).is_ok() && of_length(256) == Err(UserIdError::Subject));
    }
}
