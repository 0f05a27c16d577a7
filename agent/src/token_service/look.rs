//! A token of a user names a key that is not known here: the CA asks its issuer, and this waits a moment for what comes of it. At most once a minute for
//! each issuer: so often does the CA look, and tokens with made-up keys must not cost more.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bonafide_verifier::{clock::Timestamp, user::IssuerName};
use tokio::{sync::watch, time::timeout};
use tracing::debug;

use super::TokenService;

/// The latest look at each issuer.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<HashMap<IssuerName, Look>>);

#[derive(Debug)]
struct Look {
    /// When it began, on the boot clock.
    at: Duration,
    /// What came of it.
    found: watch::Receiver<Option<bool>>,
}

/// What there is to do for one who asks.
enum Turn {
    Looks(watch::Sender<Option<bool>>),
    Waits(watch::Receiver<Option<bool>>),
}

impl Looks {
    fn turn(&self, issuer: &IssuerName, now: Duration) -> Option<Turn> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounded by the issuers that are registered: for others this is not asked.
        looks.retain(|_, look| now.saturating_sub(look.at) < BETWEEN);
        match looks.get(issuer) {
            Some(look) => look.found.borrow().is_none().then(|| Turn::Waits(look.found.clone())),
            None => {
                let (sender, found) = watch::channel(None);
                looks.insert(issuer.clone(), Look { at: now, found });
                Some(Turn::Looks(sender))
            }
        }
    }
}

impl TokenService {
    /// The same for a service that verifies users' tokens itself.
    pub(crate) async fn look_at_issuer(&self, issuer: &IssuerName) -> bool {
        let now = self.0.parts.clock.now();
        let is_registered = self.believed(now).keys.issuers().iter().any(|known| known.name == issuer.as_str());
        is_registered && self.look_at(issuer, now).await
    }

    /// Has the CA look at an issuer's keys; whether it did because of this, or while this waited for another who asked.
    pub(super) async fn look_at(&self, issuer: &IssuerName, now: Timestamp) -> bool {
        let mut found = match self.0.looks.turn(issuer, self.0.parts.clock.boot()) {
            None => return false,
            Some(Turn::Waits(found)) => found,
            Some(Turn::Looks(sender)) => {
                let (found, service, issuer) = (sender.subscribe(), self.clone(), issuer.clone());
                // By itself: who asked first may give up while others wait.
                tokio::spawn(async move { sender.send_replace(Some(service.ask(&issuer, now).await)) });
                found
            }
        };
        found.wait_for(Option::is_some).await.is_ok_and(|found| *found == Some(true))
    }

    async fn ask(&self, issuer: &IssuerName, now: Timestamp) -> bool {
        let shared = &self.0;
        let generation = self.believed(now).generation;
        let mut views = shared.parts.views.changes();
        views.borrow_and_update();
        match shared.parts.ca.look_at_issuer(issuer.as_str()).await {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                debug!(issuer = %issuer, error = %error, "the CA did not look at an issuer's keys");
                return false;
            }
        }
        // The keys come by the stream, in a moment: before this answer or just after it.
        let told = async {
            while self.believed(now).generation == generation && views.changed().await.is_ok() {
                self.believe(shared.parts.views.snapshot().token_keys());
            }
        };
        let _ = timeout(KEYS_COME_WITHIN, told).await;
        true
    }
}

const BETWEEN: Duration = Duration::from_secs(60);
/// How long an answer of the CA is waited for to arrive by the stream, too.
const KEYS_COME_WITHIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_looks_and_the_others_wait_or_go_without() {
        let looks = Looks::default();
        let [corp, other] = ["corp", "other"].map(|name| IssuerName::parse(name).unwrap());
        let at = Duration::from_secs;
        let Some(Turn::Looks(first)) = looks.turn(&corp, at(100)) else { panic!("the first looks") };
        let Some(Turn::Waits(waits)) = looks.turn(&corp, at(101)) else { panic!("the second waits") };
        assert!(matches!(looks.turn(&other, at(101)), Some(Turn::Looks(_))), "another issuer is another matter");
        first.send_replace(Some(true));
        assert_eq!(*waits.borrow(), Some(true));
        drop(first);
        assert!(looks.turn(&corp, at(159)).is_none(), "not again within a minute");
        assert!(matches!(looks.turn(&corp, at(160)), Some(Turn::Looks(_))));
    }
}
