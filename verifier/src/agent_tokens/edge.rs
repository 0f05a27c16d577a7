//! What an edge needs of the agent: the exchange of users' tokens, and the issuers of users with the keys of the day.

use std::{
    future::Future,
    sync::{Arc, Weak},
};

use zeroize::Zeroizing;

use super::{
    AgentTokens, ExchangeRefused, Shared, SubjectTokenType, WantedToken,
    look::{Look, Looks, carry_out},
};
use crate::{
    authenticate::{Authenticators, AuthenticatorsError},
    clock::{Clock, Timestamp},
    http::edge::{Exchanger, Exchanging, NotExchanged, Wanted},
    jwt::user_token::UserTokenKind,
    user::IssuerName,
};
use tokio::task::JoinSet;

impl Exchanger for AgentTokens {
    fn exchange<'e>(&'e self, wanted: &'e Wanted) -> Exchanging<'e> {
        Box::pin(async move {
            let kind = match wanted.kind {
                UserTokenKind::IdToken => SubjectTokenType::IdToken,
                UserTokenKind::AccessToken => SubjectTokenType::AccessToken,
            };
            let asked = WantedToken {
                scope: wanted.scope.clone(),
                details: wanted.details.clone(),
                context: wanted.context.clone(),
                spiffe_id: wanted.service.clone(),
            };
            match AgentTokens::exchange(self, &wanted.subject_token, kind, &asked).await {
                Ok(token) => Ok(Zeroizing::new(token.expose_token().to_owned())),
                Err(refused) => Err(not_exchanged(&refused)),
            }
        })
    }
}

/// Whose fault it is, by the agent's stable words.
fn not_exchanged(refused: &ExchangeRefused) -> NotExchanged {
    let reason = refused.to_string();
    match refused {
        ExchangeRefused::Refused { code, .. }
            if code.starts_with("user-token-") || code.starts_with("subject-token-") =>
        {
            NotExchanged::Subject { reason }
        }
        ExchangeRefused::Refused { .. } => NotExchanged::Refused { reason },
        ExchangeRefused::Unavailable { .. } | ExchangeRefused::NoAnswer { .. } | ExchangeRefused::NoSvid => {
            NotExchanged::Unavailable { reason }
        }
    }
}

impl AgentTokens {
    /// Gives these issuers of users, with their keys as they are now, to the authenticators of an edge, and again whenever the agent tells of a change: for
    /// as long as the future is polled, or until the last clone of this is gone. Where the authenticators take access tokens, so with the token service's keys.
    ///
    /// The issuers are named, since a role in `users` counts whichever issuer says that somebody has it: a server takes the word of those alone whom it was
    /// meant for. One that the trust domain does not know, or no longer, has no users here.
    ///
    /// A token of a known issuer's user whose key is not known has the agent ask that issuer, before the request is decided: once for all that come
    /// meanwhile, for at most five seconds, and not again for ten.
    pub fn supply(
        &self,
        authenticators: Authenticators,
        issuers: Vec<IssuerName>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (shared, mut changes) = (Arc::downgrade(&self.shared), self.changes());
        let (finder, mut wanted) = Looks::new(Weak::clone(&shared));
        authenticators.look_up_user_keys_with(finder);
        async move {
            // At most one for each issuer.
            let mut looks: JoinSet<Look> = JoinSet::new();
            loop {
                changes.borrow_and_update();
                let Some(given) = give(&shared, &authenticators, &issuers) else { return };
                if let Err(error) = given.outcome {
                    tracing::error!(%error, "keys that the agent told of cannot be used; the earlier ones stay");
                }
                let changed = loop {
                    tokio::select! {
                        // First, so that a look is over only when what came of it is given.
                        biased;
                        changed = changes.changed() => break changed,
                        // Keys that an issuer has not renewed for too long count no more, whether or not anybody says so.
                        () = given.clock.sleep_until(given.until) => break Ok(()),
                        Some(over) = looks.join_next() => drop(over),
                        Some(look) = wanted.recv() => { looks.spawn(carry_out(Weak::clone(&shared), look)); }
                    }
                };
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// What authenticators were given.
struct Given {
    outcome: Result<(), AuthenticatorsError>,
    clock: Arc<dyn Clock>,
    /// When some of it counts no more.
    until: Timestamp,
}

fn give(shared: &Weak<Shared>, authenticators: &Authenticators, issuers: &[IssuerName]) -> Option<Given> {
    let shared = shared.upgrade()?;
    let (told, now) = (shared.users.load(), shared.clock.now());
    let (clock, until) = (Arc::clone(&shared.clock), told.until(now));
    let of_users = authenticators.replace_user_issuers(told.at(now).only(issuers));
    if !authenticators.takes_access_tokens() {
        return Some(Given { outcome: of_users, clock, until });
    }
    let keys = authenticators.replace_access_token_keys(shared.service_keys.load().to_vec());
    Some(Given { outcome: of_users.and(keys), clock, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_a_refusal_is() {
        let refused = |code: &str| ExchangeRefused::Refused { code: code.into(), message: "m".into() };
        for code in ["user-token-expired", "subject-token-expired", "user-token-signature"] {
            assert!(matches!(not_exchanged(&refused(code)), NotExchanged::Subject { .. }), "{code}");
        }
        for code in ["scope-wider", "issuer-not-allowed", "not-an-edge", "no-identity"] {
            assert!(matches!(not_exchanged(&refused(code)), NotExchanged::Refused { .. }), "{code}");
        }
        let away = ExchangeRefused::Unavailable { code: "no-delegation".into(), message: "m".into() };
        assert!(matches!(not_exchanged(&away), NotExchanged::Unavailable { .. }));
    }
}
