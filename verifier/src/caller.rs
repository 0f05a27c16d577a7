//! The authenticated peer of a request, whatever credential proved it.
//!
//! A [`Caller`] comes from an authenticator and from nowhere else. Policy, limits, records and handlers see it and never the
//! credential, so a team moves from API keys to JWTs to mutual TLS without touching a rule.

use std::{fmt, sync::Arc};

use crate::{
    clock::Timestamp,
    spiffe::SpiffeId,
    user::{PresentedUser, UserId},
};

/// Who calls: a service, or at an edge a user; what it may act as, and how it proved that. Cloning is cheap; holds no secret.
///
/// The two are never mistaken for each other: [`Caller::service`] is none for a user and [`Caller::user`] none for a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller(Arc<Facts>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Facts {
    id: CallerId,
    granted: Roles,
    asserted: Option<Roles>,
    proof: Proof,
    token_id: Option<Arc<str>>,
    via: Option<SpiffeId>,
    presents: Option<PresentedUser>,
    valid_until: Timestamp,
}

/// A service or a user.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CallerId {
    /// A service, by its SPIFFE ID.
    Service(SpiffeId),
    /// A user with no service in front, by issuer and subject.
    User(UserId),
}

impl CallerId {
    /// As in records: `spiffe://example.org/photo` for a service, `corp:charlie` for a user. No text is both.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Service(id) => id.as_str(),
            Self::User(id) => id.as_str(),
        }
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> Option<&SpiffeId> {
        match self {
            Self::Service(id) => Some(id),
            Self::User(_) => None,
        }
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(id) => Some(id),
            Self::Service(_) => None,
        }
    }
}

impl fmt::Display for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Caller {
    /// A service without roles of its own: those of the policy's `[roles]` are found by its ID.
    pub(crate) fn new(id: SpiffeId, proof: Proof, valid_until: Timestamp) -> Self {
        Self(Arc::new(Facts {
            id: CallerId::Service(id),
            granted: Roles::default(),
            asserted: None,
            proof,
            token_id: None,
            via: None,
            presents: None,
            valid_until,
        }))
    }

    /// A user with no service in front.
    pub(crate) fn of_user(user: PresentedUser) -> Self {
        Self(Arc::new(Facts {
            id: CallerId::User(user.id().clone()),
            granted: user.roles().clone(),
            asserted: None,
            proof: Proof { kind: user.kind(), key_id: Arc::clone(user.key_id()) },
            token_id: user.token_id().cloned(),
            via: None,
            valid_until: user.valid_until(),
            presents: Some(user),
        }))
    }

    /// A service that shows a user's own credential: it acts for that user.
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "only tokens name users"))]
    #[must_use]
    pub(crate) fn acting_for(self, user: PresentedUser) -> Self {
        self.change(|facts| facts.presents = Some(user))
    }

    /// With the roles that its key's record grants. `asserted` are those its credential claims, if it is of a kind that does:
    /// allow rules then take only what is in both.
    #[must_use]
    pub(crate) fn with_roles(self, granted: Roles, asserted: Option<Roles>) -> Self {
        self.change(|facts| {
            facts.granted = granted;
            facts.asserted = asserted;
        })
    }

    /// By a token with an ID of its own.
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "only tokens have IDs"))]
    #[must_use]
    pub(crate) fn with_token_id(self, token_id: Option<Arc<str>>) -> Self {
        self.change(|facts| facts.token_id = token_id)
    }

    /// Behind a proxy that is trusted to pass requests on.
    #[must_use]
    pub(crate) fn with_via(self, proxy: SpiffeId) -> Self {
        self.change(|facts| facts.via = Some(proxy))
    }

    /// No longer than until then.
    #[must_use]
    pub(crate) fn until(self, end: Timestamp) -> Self {
        self.change(|facts| facts.valid_until = facts.valid_until.min(end))
    }

    fn change(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Who: a service or a user.
    #[must_use]
    pub fn id(&self) -> &CallerId {
        &self.0.id
    }

    /// The service that calls: the SPIFFE ID that it proved itself, or the one that the key's record names as its owner. None when a user calls.
    #[must_use]
    pub fn service(&self) -> Option<&SpiffeId> {
        self.0.id.service()
    }

    /// The user who calls, with no service in front. None when a service calls, also for a user.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.0.id.user()
    }

    /// The user whom the request's own credential names: the caller themself, or the one for whom a service calls.
    #[must_use]
    pub fn presented_user(&self) -> Option<&PresentedUser> {
        self.0.presents.as_ref()
    }

    /// The roles that the record of its key grants, or of a user those that the issuer says. Deny rules look at these, whatever the credential asserts.
    #[must_use]
    pub fn granted_roles(&self) -> &Roles {
        &self.0.granted
    }

    /// The roles that its credential claims, if it is of a kind that does. Worth nothing alone.
    #[must_use]
    pub fn asserted_roles(&self) -> Option<&Roles> {
        self.0.asserted.as_ref()
    }

    /// The ID of the token that proved it (`jti`), if it was a token and had one. Its issuer's own words, of any length that a token can have.
    #[must_use]
    pub fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// How it proved its ID.
    #[must_use]
    pub fn proof(&self) -> &Proof {
        &self.0.proof
    }

    /// The trusted proxy that passed the request on, if one did.
    #[must_use]
    pub fn via(&self) -> Option<&SpiffeId> {
        self.0.via.as_ref()
    }

    /// When its credential ends. No request and no stream is served for it after that.
    #[must_use]
    pub fn valid_until(&self) -> Timestamp {
        self.0.valid_until
    }
}

/// How a caller proved its ID: by which kind of credential, and which one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Proof {
    /// The kind.
    pub kind: ProofKind,
    /// Which: an X.509-SVID's serial number in hexadecimal, or the ID of the key that signed or is the credential. No secret.
    pub key_id: Arc<str>,
}

/// The kinds of credentials.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ProofKind {
    /// An X.509-SVID over mutual TLS.
    X509Svid,
    /// A JWT-SVID.
    JwtSvid,
    /// An `at+jwt` of our own token service.
    AccessToken,
    /// A JWT under a secret that caller and service share (HS256).
    SharedSecret,
    /// An API key.
    ApiKey,
    /// A user's ID token.
    IdToken,
    /// A user's access token, of the issuer that knows the user.
    UserAccessToken,
    /// A user whom the program itself has logged in, by a session of its own.
    Session,
}

/// How much a kind of credential proves. Rules name the weakest that they take.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Strength {
    /// Whoever sees it has it, for as long as the key lives.
    ApiKey,
    /// Whoever verifies it can forge it.
    SharedSecret,
    /// Signed by an authority, but whoever sees it can use it for minutes.
    Token,
    /// The key never leaves the node.
    Key,
}

impl ProofKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::X509Svid,
        Self::JwtSvid,
        Self::AccessToken,
        Self::IdToken,
        Self::UserAccessToken,
        Self::Session,
        Self::SharedSecret,
        Self::ApiKey,
    ];

    /// Whether it proves a user; the others prove services.
    #[must_use]
    pub fn is_of_users(self) -> bool {
        match self {
            Self::IdToken | Self::UserAccessToken | Self::Session => true,
            Self::X509Svid | Self::JwtSvid | Self::AccessToken | Self::SharedSecret | Self::ApiKey => false,
        }
    }

    /// The word for it in policies, records and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X509Svid => "x509",
            Self::JwtSvid => "jwt-svid",
            Self::AccessToken => "access-token",
            Self::SharedSecret => "shared-secret",
            Self::ApiKey => "api-key",
            Self::IdToken => "id-token",
            Self::UserAccessToken => "user-access-token",
            Self::Session => "session",
        }
    }

    /// How much it proves.
    #[must_use]
    pub fn strength(self) -> Strength {
        match self {
            Self::X509Svid => Strength::Key,
            Self::JwtSvid | Self::AccessToken | Self::IdToken | Self::UserAccessToken | Self::Session => {
                Strength::Token
            }
            Self::SharedSecret => Strength::SharedSecret,
            Self::ApiKey => Strength::ApiKey,
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for ProofKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a role: 1 to 64 bytes of `[a-z0-9._-]`, the first a letter. Roles are a service's own words; they are compared
/// byte for byte.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RoleName(Arc<str>);

/// Why a text is no role's name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{}` is no role: 1 to {} characters of a-z, 0-9, `.`, `_` and `-` are, the first a letter", .name.escape_debug(), RoleName::MAX_BYTES)]
pub struct RoleNameError {
    name: String,
}

impl RoleName {
    /// The longest name.
    pub const MAX_BYTES: usize = 64;

    /// Reads a name.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(name: &str) -> Result<Self, RoleNameError> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if starts && name.len() <= Self::MAX_BYTES && name.bytes().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(RoleNameError { name: name.chars().take(Self::MAX_BYTES + 1).collect() })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of roles. At most [`Roles::MOST`], which whoever makes one from input holds to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
// INVARIANT: sorted, each once.
pub struct Roles(Arc<[RoleName]>);

impl Roles {
    /// The most roles that a record grants or a token asserts.
    pub const MOST: usize = 64;

    /// Whether the role is in it.
    #[must_use]
    pub fn contains(&self, role: &RoleName) -> bool {
        self.0.binary_search(role).is_ok()
    }

    /// The roles, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &RoleName> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<RoleName> for Roles {
    fn from_iter<T: IntoIterator<Item = RoleName>>(roles: T) -> Self {
        let mut roles: Vec<_> = roles.into_iter().collect();
        roles.sort_unstable();
        roles.dedup();
        Self(roles.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_roles() {
        for (name, valid) in [
            ("reader", true),
            ("a", true),
            ("a.b_c-9", true),
            ("", false),
            ("9a", false),
            ("Reader", false),
            ("rolé", false),
            ("a b", false),
            (&"a".repeat(64), true),
            (&"a".repeat(65), false),
        ] {
            assert_eq!(RoleName::parse(name).is_ok(), valid, "{name}");
        }
    }

    #[test]
    fn words_of_proofs_are_read_back_and_ordered() {
        for kind in ProofKind::ALL {
            assert_eq!(ProofKind::parse(kind.as_str()), Some(kind));
        }
        let strengths = ProofKind::ALL.map(ProofKind::strength);
        assert!(strengths.is_sorted_by(|a, b| a >= b), "{strengths:?}");
    }

    #[test]
    fn a_set_of_roles_holds_each_once() {
        let role = |name| RoleName::parse(name).unwrap();
        let roles: Roles = ["b", "a", "b"].map(role).into_iter().collect();
        assert_eq!(roles.iter().map(RoleName::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert!(roles.contains(&role("b")) && !roles.contains(&role("c")));
    }
}
