//! Has the agent ask an issuer of users for its keys, because a user's token names one that is not known here: the issuer may have changed its keys a
//! moment ago. Once, for all requests that wait for it, and not again for a while: tokens with made-up keys cost next to nothing.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::debug;

use super::Shared;
use crate::{
    authenticate::FindUserKey, generated::tokens::LookAtIssuerRequest, identity::workload_api::with_header,
    jwt::user_issuers::UserIssuers, txn_tokens::LookUp, user::IssuerName,
};

/// Begins looks; who supplies the authenticators with keys carries them out. At a bound nothing is looked at, and the token is refused by what is known.
pub(super) struct Looks {
    shared: Weak<Shared>,
    begun: Mutex<HashMap<IssuerName, Begun>>,
    wanted: mpsc::Sender<Look>,
}

/// The latest look at an issuer.
struct Begun {
    /// On the boot clock.
    at: Duration,
    /// Closed when it is over.
    over: watch::Receiver<()>,
    /// One for each request that waits, and one.
    waiting: Arc<()>,
}

/// A look that is wanted. Dropped, it is over.
pub(super) struct Look {
    issuer: IssuerName,
    key_id: Box<str>,
    _over: watch::Sender<()>,
}

impl Looks {
    /// Between the beginnings of two looks at one issuer. The agent itself asks at most once a minute, for all of its services together.
    const BETWEEN: Duration = Duration::from_secs(10);
    /// How long one may take, the issuer's own answer included.
    const LONGEST: Duration = Duration::from_secs(5);
    /// Requests that wait for one issuer's answer; further ones are decided by what is known.
    const MOST_WAITING: usize = 1024;

    /// What begins looks, and what is to be carried out.
    pub(super) fn new(shared: Weak<Shared>) -> (Arc<Self>, mpsc::Receiver<Look>) {
        let (wanted, looks) = mpsc::channel(UserIssuers::MOST);
        (Arc::new(Self { shared, begun: Mutex::default(), wanted }), looks)
    }
}

impl FindUserKey for Looks {
    fn find(&self, issuer: &IssuerName, key_id: &str) -> Option<LookUp> {
        let now = self.shared.upgrade()?.clock.boot();
        // One insertion is one step.
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = |one: &Begun| one.over.has_changed().is_ok();
        match begun.get(issuer) {
            Some(one) if under_way(one) => {
                let room = Arc::strong_count(&one.waiting) <= Self::MOST_WAITING;
                return room.then(|| waits(one));
            }
            Some(one) if now.saturating_sub(one.at) < Self::BETWEEN => return None,
            Some(_) | None => {}
        }
        let (sender, over) = watch::channel(());
        self.wanted.try_send(Look { issuer: issuer.clone(), key_id: key_id.into(), _over: sender }).ok()?;
        // As many as there are issuers: for no other name is anything looked for.
        begun.retain(|_, one| under_way(one) || now.saturating_sub(one.at) < Self::BETWEEN);
        let one = Begun { at: now, over, waiting: Arc::default() };
        let waiting = waits(&one);
        begun.insert(issuer.clone(), one);
        Some(waiting)
    }
}

fn waits(one: &Begun) -> LookUp {
    let (mut over, waiting) = (one.over.clone(), Arc::clone(&one.waiting));
    Box::pin(async move {
        // Longer than the look itself, in case that nobody carries it out.
        let _ = timeout(Looks::LONGEST * 2, over.changed()).await;
        drop(waiting);
    })
}

impl fmt::Debug for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").finish_non_exhaustive()
    }
}

/// Carries a look out: until the agent has told of the key, or it is clear that it will not. The look is given back, to be dropped when the authenticators
/// have what came of it.
pub(super) async fn carry_out(shared: Weak<Shared>, look: Look) -> Look {
    let looking = async {
        let Some(this) = shared.upgrade() else { return false };
        let request = with_header(LookAtIssuerRequest { issuer: look.issuer.to_string() });
        let (mut client, mut changes) = (this.client.clone(), this.changes.subscribe());
        drop(this);
        match client.look_at_issuer(request).await {
            Ok(answer) if answer.get_ref().looked => {}
            Ok(_) => return false,
            Err(status) => {
                debug!(issuer = %look.issuer, error = ?status.message(), "the agent did not look at an issuer's keys");
                return false;
            }
        }
        // The keys come by the stream, before this answer or just after it.
        loop {
            changes.borrow_and_update();
            let Some(this) = shared.upgrade() else { return false };
            let told = this.users.load().at(this.clock.now());
            if told.named(look.issuer.as_str()).is_some_and(|issuer| issuer.has_key(&look.key_id)) {
                return true;
            }
            drop(this);
            if !matches!(timeout(KEYS_COME_WITHIN, changes.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    };
    if timeout(Looks::LONGEST, looking).await != Ok(true) {
        debug!(issuer = %look.issuer, "a user's token has a key that its issuer does not have");
    }
    look
}

/// After the agent has its answer.
const KEYS_COME_WITHIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::{
        agent_tokens::AgentTokens,
        clock::{ManualClock, Timestamp},
        identity::workload_api::{Endpoint, WorkloadApi},
        spiffe::TrustDomain,
    };

    #[tokio::test]
    async fn one_look_at_a_time_and_not_again_for_a_while() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
        let api = WorkloadApi::at(Endpoint::Unix("/nothing/here".into()));
        let (tokens, _driver) = AgentTokens::connect(&api, TrustDomain::parse("example.org").unwrap(), clock.clone());
        let (looks, mut wanted) = Looks::new(Arc::downgrade(&tokens.shared));
        let [corp, other] = ["corp", "other"].map(|name| IssuerName::parse(name).unwrap());
        let mut first = looks.find(&corp, "k2").unwrap();
        let mut second = looks.find(&corp, "k3").unwrap();
        let look = wanted.try_recv().unwrap();
        assert_eq!((look.issuer.as_str(), &*look.key_id, wanted.try_recv().is_err()), ("corp", "k2", true));
        assert!(looks.find(&other, "k").is_some() && wanted.try_recv().is_ok(), "another issuer is another matter");
        let is_over = |look: &mut LookUp| look.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!is_over(&mut first) && !is_over(&mut second));
        drop(look);
        assert!(is_over(&mut first) && is_over(&mut second));
        clock.advance(Looks::BETWEEN - Duration::from_millis(1));
        assert!(looks.find(&corp, "k2").is_none(), "not again for a while");
        clock.advance(Duration::from_millis(1));
        let again = looks.find(&corp, "k2").unwrap();
        let look = wanted.try_recv().unwrap();
        // Many wait, but not without bound.
        let waiting: Vec<_> = std::iter::from_fn(|| looks.find(&corp, "k2")).take(Looks::MOST_WAITING + 1).collect();
        assert_eq!(waiting.len() + 1, Looks::MOST_WAITING);
        drop((waiting, again));
        assert!(looks.find(&corp, "k2").is_some());
        // An agent that is not there ends a look, too.
        drop(carry_out(Arc::downgrade(&tokens.shared), look).await);
        // Where nobody carries looks out, none begins.
        drop(wanted);
        clock.advance(Looks::BETWEEN);
        assert!(looks.find(&corp, "k2").is_none());
    }
}
