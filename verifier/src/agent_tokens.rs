//! The token service of the trust domain as the agent on the own node offers it: the keys by which transaction tokens and users' tokens are
//! verified, kept up to date, and, for an edge, the exchange of a user's token for a transaction token.
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//! use bonafide_verifier::{
//!     agent_tokens::AgentTokens, clock::SystemClock, identity::workload_api::WorkloadApi, spiffe::TrustDomain,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let api = WorkloadApi::from_env()?;
//! let tokens = AgentTokens::spawn(&api, TrustDomain::parse("example.org")?, Arc::new(SystemClock));
//! tokens.ready(Duration::from_secs(30)).await?;
//! let verifies = tokens.txn_tokens().clone();
//! # drop(verifies);
//! # Ok(()) }
//! ```

#[cfg(feature = "tower")]
mod edge;
mod exchange;
mod find;
mod follow;
#[cfg(feature = "tower")]
mod look;

use std::{
    fmt,
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, task::AbortHandle};
use tonic::transport::Channel;

pub use self::exchange::{ExchangeRefused, ExchangedToken, SubjectTokenType, WantedToken};
use self::find::Finder;
use crate::{
    clock::Clock,
    generated::tokens::tokens_client::TokensClient,
    identity::workload_api::{Ended, WorkloadApi},
    jwt::user_issuers::UserIssuers,
    spiffe::{JwtAuthority, TrustDomain},
    txn_tokens::TxnTokens,
};

/// The agent's token service, followed. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct AgentTokens {
    shared: Arc<Shared>,
    /// Ends the task with the last clone.
    driver: Option<Arc<Driver>>,
}

struct Shared {
    client: TokensClient<Channel>,
    call_deadline: Duration,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    txn_tokens: TxnTokens,
    service_keys: ArcSwap<Vec<JwtAuthority>>,
    users: ArcSwap<follow::Told>,
    /// How often something came.
    changes: watch::Sender<u64>,
    finder: OnceLock<Arc<Finder>>,
}

struct Driver {
    task: AbortHandle,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The agent has told nothing yet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "no token keys from the agent at `{endpoint}` within {waited:?}; is it running, and is this process a registered service?"
)]
pub struct NotReady {
    endpoint: String,
    waited: Duration,
}

impl AgentTokens {
    /// The largest message that is taken: as much as a CA tells its nodes.
    pub const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

    /// Follows the agent at `api`, and the future that does it for as long as it is polled. Without keys at first: wait with
    /// [`AgentTokens::ready`].
    ///
    /// What came is kept over errors. A refusal by the agent (`PermissionDenied`) takes all keys away at once. The future ends only when
    /// there is no use in asking again, and says why.
    pub fn connect(
        api: &WorkloadApi,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> (Self, impl Future<Output = Ended> + Send + 'static) {
        let client = TokensClient::new(api.channel()).max_decoding_message_size(Self::MESSAGE_BYTES);
        let shared = Arc::new(Shared {
            call_deadline: api.options().call_deadline,
            txn_tokens: TxnTokens::empty(trust_domain.clone()),
            service_keys: ArcSwap::default(),
            users: ArcSwap::default(),
            changes: watch::Sender::new(0),
            finder: OnceLock::new(),
            client,
            trust_domain,
            clock,
        });
        let held = Arc::new(follow::State::default());
        let finder = Arc::new(Finder::new(Arc::downgrade(&shared), Arc::clone(&held)));
        shared.txn_tokens.look_up_with(Arc::clone(&finder) as _);
        let _ = shared.finder.set(finder);
        let driver = follow::run(api.options().clone(), Arc::downgrade(&shared), held);
        (Self { shared, driver: None }, driver)
    }

    /// The same, followed by a task of its own, which ends with the last clone.
    #[must_use]
    pub fn spawn(api: &WorkloadApi, trust_domain: TrustDomain, clock: Arc<dyn Clock>) -> Self {
        let (tokens, driver) = Self::connect(api, trust_domain, clock);
        let task = tokio::spawn(async move {
            let ended = driver.await;
            tracing::error!(error = %ended, "no longer following the agent's token keys");
        });
        Self { driver: Some(Arc::new(Driver { task: task.abort_handle() })), ..tokens }
    }

    /// Waits until the agent has told its keys.
    ///
    /// # Errors
    /// When it has not within that time.
    pub async fn ready(&self, within: Duration) -> Result<(), NotReady> {
        let mut changes = self.shared.changes.subscribe();
        let told = tokio::time::timeout(within, changes.wait_for(|changes| *changes > 0)).await;
        match told {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NotReady { endpoint: "the Workload API".into(), waited: within }),
        }
    }

    /// Verifies transaction tokens by the keys of the moment. One whose key is not known here yet is looked up at the agent by the
    /// authorization layer, once, and for a bounded time.
    #[must_use]
    pub fn txn_tokens(&self) -> &TxnTokens {
        &self.shared.txn_tokens
    }

    /// The keys of the token service, by which its access tokens are verified, as they are now.
    #[must_use]
    pub fn service_keys(&self) -> Vec<JwtAuthority> {
        self.shared.service_keys.load().to_vec()
    }

    /// The issuers of users with their keys, as they are now: keys that were not renewed for too long are not among them.
    #[must_use]
    pub fn user_issuers(&self) -> UserIssuers {
        self.shared.users.load().at(self.shared.clock.now())
    }

    /// Tells when keys or issuers have changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

impl fmt::Debug for AgentTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentTokens")
            .field("trust_domain", &self.shared.trust_domain)
            .field("txn_tokens", &self.shared.txn_tokens)
            .field("driven", &self.driver.is_some())
            .finish_non_exhaustive()
    }
}
