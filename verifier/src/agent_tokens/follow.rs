//! Follows the agent's stream of token keys, for as long as there is any use in it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::Shared;
use crate::{
    clock::Timestamp,
    generated::tokens::{UserIssuer as SentIssuer, WatchKeysRequest, WatchKeysResponse},
    identity::workload_api::{Ended, Retry, WorkloadApiOptions, with_header},
    jwt::{
        Algorithm, LEEWAY,
        delegation::Delegation,
        user_issuers::{IssuerKeys, UserIssuer, UserIssuerSettings, UserIssuers},
    },
    spiffe::JwtAuthority,
    txn_tokens::TxnKey,
    user::IssuerName,
};

/// What the agent told.
#[derive(Debug, Default)]
pub(super) struct State(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    service: Vec<JwtAuthority>,
    delegations: BTreeMap<String, Delegation>,
}

pub(super) async fn run(options: WorkloadApiOptions, shared: Weak<Shared>, state: Arc<State>) -> Ended {
    let mut retry = Retry::new(&options);
    loop {
        let Some(this) = shared.upgrade() else { return std::future::pending().await };
        let (mut client, clock) = (this.client.clone(), Arc::clone(&this.clock));
        // Nothing here keeps it alive: the last user's clone ends the stream.
        drop(this);
        retry.starts(clock.as_ref());
        let status = match client.watch_keys(with_header(WatchKeysRequest {})).await {
            Err(status) => status,
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            retry.works();
                            let Some(this) = shared.upgrade() else { return std::future::pending().await };
                            state.take(message, &this);
                        }
                        Ok(None) => break Status::unavailable("the stream was ended"),
                        Err(status) => break status,
                    }
                }
            }
        };
        let message: String = status.message().chars().take(1024).collect();
        match status.code() {
            Code::InvalidArgument => return Ended::InvalidArgument { message },
            Code::Unimplemented => return Ended::Unimplemented { message },
            Code::PermissionDenied => {
                warn!(error = ?message, "the agent refuses us its token keys; what it told before is dropped");
                if let Some(this) = shared.upgrade() {
                    state.take(
                        WatchKeysResponse { whole: true, issuers: Some(Default::default()), ..Default::default() },
                        &this,
                    );
                }
            }
            code => info!(?code, error = ?message, "the agent's token service is not there; what it told is kept"),
        }
        retry.wait(clock.as_ref()).await;
    }
}

impl State {
    fn take(&self, message: WatchKeysResponse, shared: &Shared) {
        // Held over the publication, so that a key that is looked up does not publish past a message.
        let mut held = self.lock();
        if message.whole {
            *held = Held::default();
        }
        if let Some(sent) = &message.service {
            let key = |key_id: &str, spki: &[u8]| match JwtAuthority::new(key_id, spki) {
                Ok(key) => Some(key),
                Err(error) => {
                    warn!(%error, "the agent told a key of the token service that cannot be used");
                    None
                }
            };
            held.service = sent.keys.iter().filter_map(|sent| key(&sent.key_id, &sent.public_key)).collect();
        }
        for key_id in &message.ended {
            held.delegations.remove(key_id);
        }
        for statement in &message.delegations {
            held.add(statement, shared);
        }
        // What has ended by its time nobody need take away.
        let now = shared.clock.now();
        held.delegations.retain(|_, one| now < one.expires_at.saturating_add(LEEWAY));
        held.publish(shared);
        if let Some(sent) = &message.issuers {
            shared.users.store(Arc::new(Told::new(&sent.issuers)));
        }
        drop(held);
        shared.changes.send_modify(|changes| *changes += 1);
    }

    /// Takes a key that was looked up; whether it is one.
    pub(super) fn add_service(&self, key_id: &str, spki: &[u8], shared: &Shared) -> bool {
        let mut held = self.lock();
        let Ok(key) = JwtAuthority::new(key_id, spki) else { return false };
        if held.service.iter().all(|known| known.key_id() != key_id) {
            held.service.push(key);
            held.publish(shared);
        }
        true
    }

    /// Takes a delegation that was looked up; whether it is one that can be verified.
    pub(super) fn add_delegation(&self, statement: &str, shared: &Shared) -> bool {
        let mut held = self.lock();
        let taken = held.add(statement, shared);
        held.publish(shared);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Each change is whole by itself: what a panicking thread left is a state that was told.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn add(&mut self, statement: &str, shared: &Shared) -> bool {
        match Delegation::verify(statement, &self.service, &shared.trust_domain) {
            Ok(delegation) => {
                self.delegations.insert(delegation.key.key_id().to_owned(), delegation);
                true
            }
            // It allows nothing; the others are good all the same.
            Err(error) => {
                warn!(%error, "the agent told a delegation that cannot be used; tokens signed under it are refused");
                false
            }
        }
    }

    fn publish(&self, shared: &Shared) {
        shared.service_keys.store(Arc::new(self.service.clone()));
        // Of two keys with one name the token service's counts.
        let agents =
            self.delegations.values().filter(|one| self.service.iter().all(|key| key.key_id() != one.key.key_id()));
        let keys = self.service.iter().cloned().map(TxnKey::Service).chain(agents.cloned().map(TxnKey::Agent));
        match shared.txn_tokens.replace(keys.collect()) {
            Ok(()) => debug!(delegations = self.delegations.len(), "token keys from the agent"),
            Err(error) => warn!(%error, "the agent's token keys cannot be used together; the earlier ones stay"),
        }
    }
}

/// The issuers of users, each with the end of its keys.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<(UserIssuer, Timestamp)>);

impl Told {
    /// One that cannot be used is left out: its users are refused, the others' are not.
    fn new(sent: &[SentIssuer]) -> Self {
        let mut issuers = Vec::new();
        for one in sent {
            let until = match one.keys_until_ms {
                0 => Timestamp::MAX,
                until => Timestamp::from_unix_millis(until),
            };
            match user_issuer(one) {
                Ok(issuer) => issuers.push((issuer, until)),
                Err(error) => warn!(issuer = ?one.name, error, "the agent told an issuer of users that cannot be used"),
            }
        }
        Self(issuers)
    }

    /// When the next of those that count now count no more.
    #[cfg(feature = "tower")]
    pub(super) fn until(&self, now: Timestamp) -> Timestamp {
        self.0.iter().map(|(_, until)| *until).filter(|until| now < *until).min().unwrap_or(Timestamp::MAX)
    }

    /// Those whose keys count at this time.
    pub(super) fn at(&self, now: Timestamp) -> UserIssuers {
        let count = self.0.iter().filter(|(_, until)| now < *until).map(|(issuer, _)| issuer.clone());
        UserIssuers::new(count.collect()).unwrap_or_else(|error| {
            warn!(%error, "the issuers of users cannot be used together; no user's token is taken");
            UserIssuers::default()
        })
    }
}

fn user_issuer(sent: &SentIssuer) -> Result<UserIssuer, String> {
    let algorithm = |name: &String| {
        Algorithm::from_name(name).ok_or_else(|| format!("the algorithm `{}` is not known", name.escape_debug()))
    };
    let settings = UserIssuerSettings {
        name: IssuerName::parse(&sent.name).map_err(|error| error.to_string())?,
        url: sent.url.clone(),
        audiences: sent.audiences.clone(),
        algorithms: sent.algorithms.iter().map(algorithm).collect::<Result<_, _>>()?,
        roles_claim: (!sent.roles_claim.is_empty()).then(|| sent.roles_claim.clone()),
    };
    let keys = match sent.jwks.as_slice() {
        [] => IssuerKeys::default(),
        jwks => IssuerKeys::parse_jwks(jwks).map_err(|error| error.to_string())?,
    };
    UserIssuer::new(settings, &keys).map_err(|error| error.to_string())
}
