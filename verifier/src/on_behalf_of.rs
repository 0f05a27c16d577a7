//! The user, or the starting workload, that a request is made for.
//!
//! Comes from a verified transaction token and from nowhere else, and is never the caller: that somebody acts for Charlie says nothing
//! about who acts.

use std::{fmt, sync::Arc};

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{clock::Timestamp, spiffe::SpiffeId};

/// For whom, in which transaction and what for. Cloning is cheap. Holds the token itself, to pass it on; `Debug` shows neither that
/// nor what it says of the user.
#[derive(Clone)]
pub struct OnBehalfOf(Arc<Facts>);

/// What a verified token says.
#[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "only tokens make one"))]
pub(crate) struct Facts {
    pub(crate) sub: Box<str>,
    pub(crate) txn: Box<str>,
    pub(crate) scope: Box<str>,
    pub(crate) requester: SpiffeId,
    pub(crate) earlier_requesters: Vec<SpiffeId>,
    pub(crate) tctx: Map<String, Value>,
    pub(crate) rctx: Map<String, Value>,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) valid_until: Timestamp,
    pub(crate) key_id: Box<str>,
    pub(crate) token: Zeroizing<String>,
}

impl OnBehalfOf {
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "only tokens make one"))]
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(facts))
    }

    /// Who: `sub`, unique within the trust domain.
    #[must_use]
    pub fn sub(&self) -> &str {
        &self.0.sub
    }

    /// The transaction: `txn`, the same at every service that the request passes through.
    #[must_use]
    pub fn txn(&self) -> &str {
        &self.0.txn
    }

    /// What for: words with blanks between.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.0.scope
    }

    /// Whether every one of these words is in the scope.
    #[must_use]
    pub fn has_scope(&self, words: &str) -> bool {
        words.split_ascii_whitespace().all(|wanted| self.scope().split_ascii_whitespace().any(|word| word == wanted))
    }

    /// The workload that asked for the token: `req_wl`.
    #[must_use]
    pub fn requester(&self) -> &SpiffeId {
        &self.0.requester
    }

    /// Who asked for the tokens that this one has replaced, the latest first: `act`. For records; decide by [`OnBehalfOf::requester`].
    #[must_use]
    pub fn earlier_requesters(&self) -> &[SpiffeId] {
        &self.0.earlier_requesters
    }

    /// Facts of the transaction that stay as they are: `tctx`. Empty when there are none.
    #[must_use]
    pub fn tctx(&self) -> &Map<String, Value> {
        &self.0.tctx
    }

    /// Where the request came from: `rctx`. May hold what is personal. Empty when there is nothing.
    #[must_use]
    pub fn rctx(&self) -> &Map<String, Value> {
        &self.0.rctx
    }

    /// `iat`.
    #[must_use]
    pub fn issued_at(&self) -> Timestamp {
        self.0.issued_at
    }

    /// `exp`, to the second.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.0.expires_at
    }

    /// Until when it counts, leeway included.
    #[must_use]
    pub fn valid_until(&self) -> Timestamp {
        self.0.valid_until
    }

    /// The key that signed the token.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.0.key_id
    }

    /// The token, to pass on unchanged to services of the own trust domain. A secret as long as it is valid.
    #[must_use]
    pub fn expose_token(&self) -> &str {
        &self.0.token
    }
}

impl fmt::Debug for OnBehalfOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnBehalfOf").field("txn", &self.0.txn).field("scope", &self.0.scope).finish_non_exhaustive()
    }
}
