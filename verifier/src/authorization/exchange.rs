//! What the edge layer asks before a request is decided: whose token is to be exchanged, whether that is not too often, and by what the answer is verified.

use std::time::Duration;

use super::{Attempt, Authorization};
use crate::{
    caller::CallerId,
    limits::Counted,
    policy::{Access, Effect, Limit, User},
    txn_tokens::TxnTokens,
    user::PresentedUser,
};

impl Authorization {
    /// The user whom the edge layer is to exchange for a transaction token with this scope, before the request is decided: the one whom its own credential
    /// names, if the request will then be allowed, as far as can be told. Records nothing.
    pub(crate) fn to_be_exchanged(
        &self,
        attempt: &Attempt<'_>,
        scope: impl Fn(&PresentedUser) -> String,
    ) -> Option<(PresentedUser, String)> {
        let caller = self.0.authenticators.foresee(&attempt.presented)?;
        let presented = caller.presented_user()?;
        if self.on_behalf_of(&attempt.presented, &caller).is_err() {
            return None;
        }
        let active = self.0.policy.load_full()?;
        let scope = scope(presented);
        let user = Some(User { sub: presented.id().as_str(), scope: Some(&scope) });
        let (operation, at) = (attempt.operation, attempt.presented.at);
        let decision = active.policy.decide(&Access { caller: &caller, user, operation, facts: None, at });
        (!matches!(decision.effect, Effect::Deny(_))).then(|| (presented.clone(), scope))
    }

    /// What transaction tokens are verified by, and the service that asks for them.
    pub(crate) fn txn_tokens(&self) -> Option<&TxnTokens> {
        self.0.users.as_ref()
    }

    /// Counts one exchange for a user: what is minted for somebody is bounded, whatever the rules say. Gives the wait when it is one too many.
    pub(crate) fn count_exchange(&self, user: &PresentedUser, limit: Limit) -> Result<(), Duration> {
        let caller = CallerId::User(user.id().clone());
        let counted = Counted { rule: "", caller: Some(&caller), user: None };
        self.0.limits.take(&counted, limit).map_err(|full| full.retry_after)
    }
}
