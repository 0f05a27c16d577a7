//! Looks at every part of the running CA, at each change that matters and every few seconds.

use std::sync::Arc;
use std::time::Duration;

use bonafide_verifier::clock::{Clock, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{Health, Part, State};
use crate::authority::{Authorities, Authority, AuthorityState};
use crate::clock_guard::ClockGuard;
use crate::local_socket::SocketFile;
use crate::node_api::NodeApi;
use crate::store::{Disk, Store};
use crate::token_service::TokenService;
use crate::user_issuers::IssuerKeeper;

/// What is looked at.
pub(crate) struct Monitor {
    pub(crate) health: Health,
    pub(crate) store: Store,
    pub(crate) authorities: Authorities,
    pub(crate) clock_guard: ClockGuard,
    pub(crate) node_api: Arc<NodeApi>,
    pub(crate) admin_socket: SocketFile,
    pub(crate) token_service: Option<TokenService>,
    pub(crate) issuers: IssuerKeeper,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Monitor {
    /// Keeps [`Health`] true until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut identity = self.node_api.identity_changes();
        let mut authorities = self.authorities.changes();
        loop {
            self.look();
            tokio::select! {
                () = stop.cancelled() => return,
                _ = identity.next() => {}
                Ok(()) = authorities.changed() => {}
                () = self.clock.sleep_for(PERIOD) => {}
            }
        }
    }

    fn look(&self) {
        let set = |part, (state, reason): (State, String)| self.health.set(part, state, reason);
        let now = self.clock.now();
        let (disk, failed) = self.store.health();
        set(Part::Store, self.store_state(failed));
        set(Part::Disk, disk_state(&disk));
        set(
            Part::Clock,
            self.clock_guard.check().map_or_else(|refusal| (State::Unready, refusal.to_string()), |_| ready()),
        );
        set(Part::Authorities, self.authorities_state(now));
        set(
            Part::NodeListener,
            self.node_api.identity_ready(now).map_or_else(|reason| (State::Unready, reason), |()| ready()),
        );
        let admin = if self.admin_socket.is_in_place() {
            ready()
        } else {
            let path = self.admin_socket.path().display();
            (State::Degraded, format!("`{path}` was removed or replaced; restart the CA to take commands again"))
        };
        set(Part::AdminListener, admin);
        // The policy of the token endpoint denies by its absence; nodes and their services go on.
        let tokens = self.token_service.as_ref().map_or(Ok(()), TokenService::policy_ready);
        set(Part::TokenEndpoint, tokens.map_or_else(|reason| (State::Degraded, reason), |()| ready()));
        let issuers = self.issuers.troubled();
        set(Part::UserIssuers, issuers.map_or_else(ready, |reason| (State::Degraded, reason)));
    }
}

impl Monitor {
    /// A rotation that fails is told while there is still time.
    fn authorities_state(&self, now: Timestamp) -> (State, String) {
        match (authorities_state(&self.authorities.list(), now), self.authorities.failure()) {
            ((State::Ready, _), Some(failure)) => {
                (State::Degraded, format!("authorities could not be changed: {failure}"))
            }
            ((state, reason), Some(failure)) => (state, format!("{reason}: {failure}")),
            (state, None) => state,
        }
    }

    /// A file that was removed under us still takes writes, which nobody will find again.
    fn store_state(&self, failed: Option<Arc<str>>) -> (State, String) {
        let path = self.store.path();
        match failed {
            Some(reason) => (State::Unready, reason.to_string()),
            None if !path.exists() => {
                (State::Unready, format!("`{}` was removed; stop the CA and restore a backup", path.display()))
            }
            None => ready(),
        }
    }
}

fn ready() -> (State, String) {
    (State::Ready, String::new())
}

fn disk_state(disk: &Disk) -> (State, String) {
    match disk {
        Disk::Enough => ready(),
        Disk::Low { free, threshold } => {
            let text = format!(
                "{} MiB are free for the database, less than {} MiB; free some before issuance must stop",
                free >> 20,
                threshold >> 20
            );
            (State::Degraded, text)
        }
        Disk::Exhausted { free, threshold } => {
            let text = format!(
                "{} MiB are free for the database, less than {} MiB: nothing is issued until some are freed",
                free >> 20,
                threshold >> 20
            );
            (State::Unready, text)
        }
    }
}

/// The worst of what signs: expired, or so far in its life that its successor should have taken over.
fn authorities_state(authorities: &[Authority], now: Timestamp) -> (State, String) {
    let active = authorities.iter().filter(|authority| authority.state() == AuthorityState::Active);
    active
        .map(|authority| one_authority(authority, now))
        .max_by_key(|(state, _)| *state)
        .unwrap_or_else(|| (State::Unready, "no authority is active".to_owned()))
}

fn one_authority(authority: &Authority, now: Timestamp) -> (State, String) {
    use crate::authority::AuthorityKind;
    let (kind, end) = (authority.kind.as_str(), authority.not_after);
    let left = end.since(now);
    // A successor takes over after three sevenths of the life; a root has none by itself.
    let share = match authority.kind {
        AuthorityKind::Root => 10,
        AuthorityKind::Issuing | AuthorityKind::Jwt | AuthorityKind::Token => 2,
    };
    if left.is_zero() {
        (State::Unready, format!("the {kind} authority expired at {end}"))
    } else if left < authority.life() / share {
        (State::Degraded, format!("the {kind} authority expires at {end} and has no active successor yet"))
    } else {
        ready()
    }
}

const PERIOD: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use bonafide_verifier::clock::Timestamp;

    use super::*;
    use crate::authority::AuthorityKind;

    fn authority(kind: AuthorityKind, from: i64, to: i64) -> Authority {
        let at = Timestamp::from_unix_seconds;
        Authority {
            id: "a".into(),
            kind,
            certificate: None,
            public_key: Arc::from([]),
            not_before: at(from),
            not_after: at(to),
            published_at: at(from),
            active_from: at(from),
            activated_at: Some(at(from)),
            retired_at: None,
            withdraw_at: None,
            withdrawn_at: None,
        }
    }

    #[test]
    fn authorities_are_degraded_before_they_are_unready() {
        let all = [authority(AuthorityKind::Root, 0, 10_000), authority(AuthorityKind::Issuing, 0, 1000)];
        for (now, expected) in [(0, State::Ready), (500, State::Ready), (501, State::Degraded), (1000, State::Unready)]
        {
            assert_eq!(authorities_state(&all, Timestamp::from_unix_seconds(now)).0, expected, "{now}");
        }
        for (now, expected) in [(9000, State::Ready), (9001, State::Degraded), (10_000, State::Unready)] {
            assert_eq!(authorities_state(&all[..1], Timestamp::from_unix_seconds(now)).0, expected, "{now}");
        }
        assert_eq!(authorities_state(&[], Timestamp::from_unix_seconds(0)).0, State::Unready);
    }
}
