//! Users' tokens whose key is not known here, though their issuer is: whoever can find the key out is asked before the request is decided.

use std::{fmt, sync::Arc};

use super::{Authenticators, Found, HeaderView, headers::AUTHORIZATION, headers::Authorization};
use crate::{
    jwt::{Compact, MAX_TOKEN_BYTES, user_token},
    txn_tokens::LookUp,
    user::IssuerName,
};

/// Looks up keys of known issuers of users that are not known here. Whoever does it bounds how many at once, how long, and how often an issuer is
/// asked again.
pub trait FindUserKey: fmt::Debug + Send + Sync {
    /// Begins to look for a key; when it is over, the authenticators have been given what came of it. Nothing if it is not worth a look.
    fn find(&self, issuer: &IssuerName, key_id: &str) -> Option<LookUp>;
}

impl Authenticators {
    /// Has keys of issuers that are not known looked up by this one from now on, and by none before it.
    pub fn look_up_user_keys_with(&self, finder: Arc<dyn FindUserKey>) {
        self.0.finder.store(Some(Arc::new(finder)));
    }

    /// To be waited for before a request with these headers is decided, if it carries the token of a known issuer's user with a key that is not known and
    /// may be somewhere. The authorization layer does.
    #[must_use]
    pub fn look_up(&self, headers: &dyn HeaderView) -> Option<LookUp> {
        let finder = self.0.finder.load();
        let finder = finder.as_ref()?;
        let Found::Once(value) = headers.find(AUTHORIZATION) else { return None };
        let Ok(Authorization::Bearer(token)) = Authorization::parse(value) else { return None };
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let compact = Compact::parse_tolerating(token).ok()?;
        let key_id = compact.key_id().ok()??;
        let keys = self.0.keys.load();
        if keys.user_issuers.iter().all(|issuer| issuer.has_key(key_id)) {
            return None;
        }
        let issuer = user_token::claimed_issuer(&compact, &keys.user_issuers).ok()??;
        if issuer.has_key(key_id) { None } else { finder.find(issuer.name(), key_id) }
    }
}
