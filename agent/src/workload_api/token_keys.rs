//! The stream of token keys: all of them first, then what changes. For any process with an identity on this node; without one, none.
//!
//! Nothing is put off here: whoever gets a token under a new delegation must know it by then.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    caller::{Caller, Identified, refused},
    tokens::to_wire,
    unfold::{Unfold, unfold},
    x509::stopping,
};
use crate::{
    attest::{Needs, PeerError, matching},
    generated::tokens::{ServiceKeys, UserIssuer, UserIssuers, WatchKeysResponse},
    view::TokenKeys,
};

pub(crate) type KeyStream = Unfold<Option<Session>, Result<WatchKeysResponse, Status>>;

/// One stream.
pub(crate) struct Session {
    caller: Caller,
    views: watch::Receiver<u64>,
    stop: CancellationToken,
    sent: Option<(Identified, Arc<TokenKeys>)>,
}

/// Waits for the first message, so that a refusal is the answer to the call itself, then streams.
pub(crate) async fn stream(caller: Caller, stop: CancellationToken) -> Result<(WatchKeysResponse, KeyStream), Status> {
    let views = caller.shared.parts.views.changes();
    let mut session = Session { caller, views, stop, sent: None };
    session.views.borrow_and_update();
    let identified = session.caller.identify().await?;
    let first = session.message(identified).unwrap_or_else(|| difference(None, &TokenKeys::default()));
    Ok((first, unfold(Some(session), |session| Box::pin(step(session)))))
}

async fn step(session: Option<Session>) -> Option<(Result<WatchKeysResponse, Status>, Option<Session>)> {
    let mut session = session?;
    Some(match session.next().await {
        Ok(message) => (Ok(message), Some(session)),
        Err(status) => (Err(status), None),
    })
}

impl Session {
    async fn next(&mut self) -> Result<WatchKeysResponse, Status> {
        loop {
            while !self.is_outdated() {
                self.changed().await?;
            }
            self.views.borrow_and_update();
            let mut identified = self.caller.identify_when_possible(&self.stop).await?;
            while self.sent.as_ref().is_some_and(|(sent, _)| identified.may_have_lost(&sent.services)) {
                self.caller.shared.clone().look_again(&self.stop).await?;
                identified = self.caller.identify_when_possible(&self.stop).await?;
            }
            if identified.services.is_empty() {
                return Err(self.caller.redacted(&identified));
            }
            if let Some(message) = self.message(identified) {
                return Ok(message);
            }
        }
    }

    async fn changed(&mut self) -> Result<(), Status> {
        tokio::select! {
            changed = self.views.changed() => changed.map_err(|_| stopping()),
            () = self.caller.peer().ended() => {
                Err(refused(&PeerError::Ended { pid: self.caller.peer().credentials().pid }))
            }
            () = self.stop.cancelled() => Err(stopping()),
        }
    }

    fn is_outdated(&mut self) -> bool {
        self.views.borrow_and_update();
        let Some((identified, sent)) = &self.sent else { return true };
        let view = self.caller.shared.parts.views.snapshot();
        let facts = &identified.facts;
        let covered = facts.needs.cover(Needs::of(&view, facts.uid, facts.user.as_deref()));
        !covered || matching(&view, facts).is_empty() || !Arc::ptr_eq(sent, view.token_keys())
    }

    /// What is new since the last one; nothing if nothing is.
    fn message(&mut self, identified: Identified) -> Option<WatchKeysResponse> {
        let keys = Arc::clone(identified.view.token_keys());
        let before = self.sent.as_ref().map(|(_, sent)| Arc::clone(sent));
        let message = difference(before.as_deref(), &keys);
        let is_new = before.is_none() || message != WatchKeysResponse::default();
        self.sent = Some((identified, keys));
        is_new.then_some(message)
    }
}

fn difference(before: Option<&TokenKeys>, now: &TokenKeys) -> WatchKeysResponse {
    let nothing = TokenKeys::default();
    let held = before.unwrap_or(&nothing);
    let all = before.is_none();
    let is_new = |key_id: &str, statement: &str| held.delegation(key_id).is_none_or(|one| one.statement != statement);
    WatchKeysResponse {
        whole: all,
        service: (all || held.service() != now.service())
            .then(|| ServiceKeys { keys: now.service().iter().map(to_wire).collect() }),
        delegations: now
            .delegations()
            .filter(|one| is_new(one.delegation.key.key_id(), &one.statement))
            .map(|one| one.statement.clone())
            .collect(),
        ended: held
            .delegations()
            .map(|one| one.delegation.key.key_id())
            .filter(|key_id| now.delegation(key_id).is_none())
            .map(str::to_owned)
            .collect(),
        issuers: (all || held.issuers() != now.issuers()).then(|| UserIssuers {
            issuers: now
                .issuers()
                .iter()
                .map(|one| UserIssuer {
                    name: one.name.clone(),
                    url: one.url.clone(),
                    audiences: one.audiences.clone(),
                    algorithms: one.algorithms.clone(),
                    roles_claim: one.roles_claim.clone(),
                    jwks: one.jwks.clone(),
                    keys_until_ms: one.keys_until_ms,
                })
                .collect(),
        }),
    }
}
