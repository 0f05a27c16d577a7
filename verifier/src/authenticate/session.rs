//! A user whom the program itself has logged in.

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

use crate::user::PresentedUser;
#[cfg(feature = "jwt")]
use crate::{caller::ProofKind, clock::Timestamp, jwt::user_token::VerifiedUser, user::Facts};

/// A user with a session of the host program's own: it has verified an ID token at the login, keeps a session, and has found the request to be
/// of it. Put into the request's extensions before the authorization layer sees it; no header ever makes one, and only what an issuer has signed
/// can begin one. Taken where [`Builder::sessions`](super::Builder::sessions) says so. Cloning is cheap.
///
/// That the request is of the session (its cookie), and meant by the user (a CSRF token on what changes something), is the program's to check.
#[derive(Clone)]
pub struct SessionUser(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    user: PresentedUser,
    token: Option<Token>,
}

/// What can be exchanged for a transaction token.
#[derive(Clone)]
struct Token {
    text: Zeroizing<String>,
    #[cfg_attr(not(all(feature = "tower", feature = "tokio")), allow(dead_code, reason = "the edge layer asks"))]
    kind: ProofKindOfToken,
}

/// An ID token or an access token.
#[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "only tokens begin a session"))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ProofKindOfToken {
    Id,
    Access,
}

impl SessionUser {
    /// A session of this user, which ends at `ends_at` whatever the token that began it says.
    #[cfg(feature = "jwt")]
    #[must_use]
    pub fn new(user: &VerifiedUser, ends_at: Timestamp) -> Self {
        let user = PresentedUser::new(Facts {
            id: user.user().clone(),
            roles: user.roles().clone(),
            scope: user.scope().map(Into::into),
            kind: ProofKind::Session,
            key_id: user.key_id().into(),
            token_id: user.token_id().map(Into::into),
            valid_until: ends_at,
        });
        Self(Arc::new(Inner { user, token: None }))
    }

    /// With the token that an edge exchanges for the session's requests: one of the same user, and not expired, or the exchange is refused.
    #[cfg(feature = "jwt")]
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>, kind: crate::jwt::user_token::UserTokenKind) -> Self {
        use crate::jwt::user_token::UserTokenKind;
        let kind = match kind {
            UserTokenKind::IdToken => ProofKindOfToken::Id,
            UserTokenKind::AccessToken => ProofKindOfToken::Access,
        };
        let token = Token { text: Zeroizing::new(token.into()), kind };
        self.0 = Arc::new(Inner { user: self.0.user.clone(), token: Some(token) });
        self
    }

    /// Who.
    #[must_use]
    pub fn user(&self) -> &PresentedUser {
        &self.0.user
    }

    #[cfg_attr(not(all(feature = "tower", feature = "tokio")), allow(dead_code, reason = "the edge layer asks"))]
    pub(crate) fn token(&self) -> Option<(&str, ProofKindOfToken)> {
        self.0.token.as_ref().map(|token| (token.text.as_str(), token.kind))
    }
}

impl fmt::Debug for SessionUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionUser")
            .field("user", &self.0.user)
            .field("has_token", &self.0.token.is_some())
            .finish_non_exhaustive()
    }
}
