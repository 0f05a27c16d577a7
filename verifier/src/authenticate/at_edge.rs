//! Users' own credentials at an edge: who calls with one, for whom a service acts with one, and which requests are from outside.

#[cfg(feature = "jwt")]
use std::sync::{Arc, PoisonError};

use super::{Accepted, AuthenticateError, Authenticators, Presented, passed_on};
#[cfg(feature = "jwt")]
use super::{AuthenticatorsError, Keys, builder};
use crate::caller::Caller;
#[cfg(feature = "jwt")]
use crate::jwt::user_issuers::UserIssuers;
#[cfg(all(feature = "tower", feature = "tokio"))]
use crate::x509::VerifiedPeer;

impl Authenticators {
    /// Takes other issuers of users, or other keys of theirs, from now on. What was verified under the earlier ones is verified again.
    ///
    /// # Errors
    /// When one is the own token service; the earlier ones stay.
    #[cfg(feature = "jwt")]
    pub fn replace_user_issuers(&self, user_issuers: UserIssuers) -> Result<(), AuthenticatorsError> {
        let _one_at_a_time = self.0.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        builder::check_user_issuers(&user_issuers, self.0.token_issuer.as_deref())?;
        let earlier = self.0.keys.load_full();
        self.0.keys.store(Arc::new(Keys {
            version: earlier.version.wrapping_add(1),
            records: earlier.records.clone(),
            of_token_service: earlier.of_token_service.clone(),
            user_issuers,
        }));
        Ok(())
    }

    /// Whether access tokens of the own token service are taken.
    #[cfg(all(feature = "workload-api", feature = "tower"))]
    pub(crate) fn takes_access_tokens(&self) -> bool {
        self.0.token_issuer.is_some()
    }

    /// Whether a connection is from inside: of a service of the own trust domain that is no proxy, which passes on what strangers say.
    #[cfg(all(feature = "tower", feature = "tokio"))]
    pub(crate) fn is_inside(&self, peer: &VerifiedPeer) -> bool {
        self.0.x509 && peer.id().trust_domain() == &self.0.trust_domain && !self.0.via.contains(peer.id())
    }

    /// Who calls, without a trace of it: for what is done before the request is decided. None also for credentials that are bad, which are refused then.
    #[cfg(all(feature = "jwt", feature = "tower", feature = "tokio"))]
    pub(crate) fn foresee(&self, presented: &Presented<'_>) -> Option<Caller> {
        self.accept(presented).ok().flatten().map(|accepted| accepted.caller)
    }

    /// Who calls when a request carries a user's own credential.
    pub(super) fn with_user(
        &self,
        connection: Option<Accepted>,
        others: [Option<Accepted>; 2],
        user: Accepted,
    ) -> Result<Accepted, AuthenticateError> {
        let other = others.into_iter().flatten().next();
        if let Some(connection) = &connection
            && let Some(proxy) = self.proxy(&connection.caller)
        {
            return passed_on(&connection.caller, proxy, [Some(user), other]);
        }
        match (connection, other) {
            (_, Some(other)) => Err(AuthenticateError::CallersDisagree {
                one: other.caller.id().clone(),
                other: user.caller.id().clone(),
            }),
            (None, None) => Ok(user),
            (Some(service), None) => Ok(match user.caller.presented_user() {
                Some(user) => Accepted { caller: service.caller.acting_for(user.clone()), ..service },
                None => service,
            }),
        }
    }

    pub(super) fn of_session(&self, presented: &Presented<'_>) -> Result<Option<Accepted>, AuthenticateError> {
        let Some(session) = presented.session else { return Ok(None) };
        if !self.0.takes_sessions {
            return Err(AuthenticateError::SessionNotTaken);
        }
        let ended_at = session.user().valid_until();
        if presented.at >= ended_at {
            return Err(AuthenticateError::SessionEnded { ended_at, now: presented.at });
        }
        Ok(Some(Accepted::without_record(Caller::of_user(session.user().clone()))))
    }
}
