//! Whom a subject token is about.

use bonafide_verifier::{
    clock::Timestamp,
    jwt::{
        self_signed,
        user_issuers::UserIssuers,
        user_token::{self, UserTokenKind, VerifiedUser},
    },
    on_behalf_of::OnBehalfOf,
    spiffe::{PublicKey, SpiffeId, TrustDomain},
    txn_tokens::TxnTokens,
    user::{IssuerName, UserId},
};

use super::ExchangeError;

/// What kind of token a requester shows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SubjectTokenType {
    /// An ID token of a user.
    IdToken,
    /// An access token of a user.
    AccessToken,
    /// What a service has signed about itself.
    SelfSigned,
    /// A transaction token, to be replaced.
    TxnToken,
}

impl SubjectTokenType {
    /// All of them. Refresh tokens, unsigned JSON and everything else are refused.
    pub const ALL: [Self; 4] = [Self::IdToken, Self::AccessToken, Self::SelfSigned, Self::TxnToken];

    /// As in `subject_token_type`.
    #[must_use]
    pub fn urn(self) -> &'static str {
        match self {
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
            Self::SelfSigned => "urn:ietf:params:oauth:token-type:self_signed",
            Self::TxnToken => super::TXN_TOKEN_TYPE,
        }
    }

    /// The word for it in policies, records and `rctx`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::IdToken => "id_token",
            Self::AccessToken => "access_token",
            Self::SelfSigned => "self_signed",
            Self::TxnToken => "txn_token",
        }
    }

    /// Reads a `subject_token_type`.
    ///
    /// # Errors
    /// When it is none that is taken.
    pub fn parse(urn: &str) -> Result<Self, ExchangeError> {
        let unsupported = || ExchangeError::UnsupportedTokenType { found: urn.chars().take(128).collect() };
        Self::ALL.into_iter().find(|kind| kind.urn() == urn).ok_or_else(unsupported)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Requester<'r> {
    /// Its ID, proved.
    pub id: &'r SpiffeId,
    /// The public keys of its SVIDs: those that sign about itself. Empty when it proved itself without one.
    pub keys: &'r [PublicKey],
}

/// By whose word subject tokens are believed.
#[derive(Clone, Copy, Debug)]
pub struct Believed<'b> {
    /// The own trust domain.
    pub trust_domain: &'b TrustDomain,
    /// Of users.
    pub users: &'b UserIssuers,
    /// Of transactions.
    pub txn_tokens: &'b TxnTokens,
}

/// Whom a token is about, verified. Only [`Subject::verify`] makes one. Cheap to clone, so that it can be remembered while it lasts.
#[derive(Clone, Debug)]
pub struct Subject(Proof);

#[derive(Clone, Debug)]
enum Proof {
    User { user: VerifiedUser, kind: SubjectTokenType },
    Own { id: SpiffeId, expires_at: Timestamp },
    Earlier(OnBehalfOf),
}

impl Subject {
    /// Verifies a subject token of that type, shown by that requester.
    ///
    /// # Errors
    /// When it is not good, or is of another type than it is said to be.
    pub fn verify(
        token: &str,
        kind: SubjectTokenType,
        requester: &Requester<'_>,
        believed: &Believed<'_>,
        now: Timestamp,
    ) -> Result<Self, ExchangeError> {
        let proof = match kind {
            SubjectTokenType::IdToken | SubjectTokenType::AccessToken => {
                let user = user_token::verify(token, believed.users, now)?;
                let found = match user.kind() {
                    UserTokenKind::IdToken => SubjectTokenType::IdToken,
                    UserTokenKind::AccessToken => SubjectTokenType::AccessToken,
                };
                if found != kind {
                    return Err(ExchangeError::OtherType { said: kind.word(), found: found.word() });
                }
                Proof::User { user, kind }
            }
            SubjectTokenType::SelfSigned => {
                let verified = self_signed::verify(token, requester.id, requester.keys, believed.trust_domain, now)
                    .map_err(ExchangeError::SelfSigned)?;
                Proof::Own { id: requester.id.clone(), expires_at: verified.expires_at() }
            }
            SubjectTokenType::TxnToken => Proof::Earlier(believed.txn_tokens.verify(token, now)?),
        };
        let subject = Self(proof);
        subject.check_not_expired(now)?;
        Ok(subject)
    }

    /// The kind of token that says so.
    #[must_use]
    pub fn kind(&self) -> SubjectTokenType {
        match &self.0 {
            Proof::User { kind, .. } => *kind,
            Proof::Own { .. } => SubjectTokenType::SelfSigned,
            Proof::Earlier(_) => SubjectTokenType::TxnToken,
        }
    }

    /// Who, as in `sub`: `ISSUER:SUBJECT` of a user, the SPIFFE ID of a service.
    #[must_use]
    pub fn sub(&self) -> &str {
        match &self.0 {
            Proof::User { user, .. } => user.user().as_str(),
            Proof::Own { id, .. } => id.as_str(),
            Proof::Earlier(earlier) => earlier.sub(),
        }
    }

    /// Whose user it is; none for a service.
    #[must_use]
    pub fn issuer(&self) -> Option<IssuerName> {
        match &self.0 {
            Proof::User { user, .. } => Some(user.user().issuer().clone()),
            Proof::Own { .. } => None,
            // A service's ID has no issuer's name before it: `spiffe` is none.
            Proof::Earlier(earlier) => UserId::parse(earlier.sub()).ok().map(|user| user.issuer().clone()),
        }
    }

    /// The scope that its token says, if it says one.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        match &self.0 {
            Proof::User { user, .. } => user.scope(),
            Proof::Own { .. } => None,
            Proof::Earlier(earlier) => Some(earlier.scope()),
        }
    }

    /// When its token ends, to the second.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        match &self.0 {
            Proof::User { user, .. } => user.expires_at(),
            Proof::Own { expires_at, .. } => *expires_at,
            Proof::Earlier(earlier) => earlier.expires_at(),
        }
    }

    /// The user's token, when it is one.
    #[must_use]
    pub fn user(&self) -> Option<&VerifiedUser> {
        match &self.0 {
            Proof::User { user, .. } => Some(user),
            Proof::Own { .. } | Proof::Earlier(_) => None,
        }
    }

    /// Whether what was found out about a user's token before still holds: it has begun and has not ended. Of others nothing is remembered.
    #[must_use]
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.user().is_some_and(|user| user.valid_from() <= now) && now < self.expires_at()
    }

    /// The transaction that goes on, if one does.
    #[must_use]
    pub fn earlier(&self) -> Option<&OnBehalfOf> {
        match &self.0 {
            Proof::Earlier(earlier) => Some(earlier),
            Proof::User { .. } | Proof::Own { .. } => None,
        }
    }

    /// Leeway lets a verifier accept what has just ended; nothing new is made of it.
    pub(super) fn check_not_expired(&self, now: Timestamp) -> Result<(), ExchangeError> {
        let expires_at = self.expires_at();
        if now < expires_at { Ok(()) } else { Err(ExchangeError::Expired { expires_at, now }) }
    }
}
