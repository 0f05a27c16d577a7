//! Becoming and staying a node: what is said to the CA with a bare key, and what the CA's answer must be.
//!
//! First contact takes a CA only if its chain ends in the root that the invitation names and it is exactly
//! `spiffe://TD/bonafide/ca`; only then the secret goes out, over a connection whose client certificate is the new node key.
//! When the steps happen and what is written between them is `membership.rs`'s part.

mod credential;
pub(crate) mod plan;

use std::sync::Arc;

use bonafide_ca_api::{
    Invitation, Reason, Refusal,
    generated::node::{JoinRequest, NodeCredential, RecoverRequest, RenewRequest, node_api_client::NodeApiClient},
};
use bonafide_verifier::{
    clock::Clock,
    spiffe::{BundleSet, TrustDomain},
};
use http::Uri;
use tokio::time::timeout;
use tower_service::Service;

pub(crate) use self::{
    credential::{Credential, CredentialError, svid},
    plan::{PlanError, begin, plan},
};
use crate::{
    ca_client::{
        CaClient, CaError, agent_info, classify,
        dial::{DialError, Dialer},
        tls::{self, ConnectorError},
    },
    node_state::key::NodeKey,
};

/// Why a node did not join, recover or renew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// Nothing answered.
    #[error("no CA answers: {0}")]
    Unreachable(String),
    /// Something answered that does not have the invitation's root, or is not the CA.
    #[error(
        "`{address}` is not the CA that the invitation names: {reason}; check the address, and if it is right do not retry: \
         something else answers there"
    )]
    NotOurCa { address: String, reason: String },
    /// The CA said no.
    #[error("the CA refused: {}", advice(.0))]
    Refused(Refusal),
    /// The CA's answer is of no use to this node.
    #[error("the CA's answer cannot be used: {0}")]
    Credential(#[from] CredentialError),
    /// The key cannot be used.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
}

impl JoinError {
    /// Can the same request succeed later, without anyone doing anything here?
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Credential(_) => true,
            Self::Refused(refusal) => refusal.retry_after.is_some() || refusal.reason.is_some_and(passes),
            Self::NotOurCa { .. } | Self::Connector(_) => false,
        }
    }

    /// The reason's code.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Unreachable(_) => "ca-unreachable",
            Self::NotOurCa { .. } => "not-the-ca",
            Self::Refused(refusal) => &refusal.code,
            Self::Credential(_) => "ca-answer-unusable",
            Self::Connector(_) => "key-unusable",
        }
    }
}

/// Conditions of the CA that end by themselves or by its operator's hand.
fn passes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Stopping
            | Reason::Overloaded
            | Reason::ClockUntrusted
            | Reason::StoreUnavailable
            | Reason::DiskFull
            | Reason::Internal
            | Reason::JoinRate
            | Reason::Quota
            | Reason::AuthorityTooShort
    )
}

/// What the CA said, and what to do where it is this side's to do.
pub(crate) fn advice(refusal: &Refusal) -> String {
    let what_to_do = match refusal.reason {
        Some(
            Reason::InvitationExpired | Reason::InvitationUnknown | Reason::InvitationClosed | Reason::InvitationUsed,
        ) => "get a new invitation with `bonafide-ca node invite NAME` and start the agent with it",
        Some(Reason::KeyStale) => {
            "a newer copy of this node's state is in use elsewhere; if this is the one to keep, \
             `bonafide-ca node invite NAME --replace` and start this agent with `--join`"
        }
        Some(Reason::NodeRemoved | Reason::KeyUnknown | Reason::RecoveryTooLate) => {
            "to join again, `bonafide-ca node invite NAME` on the CA and start this agent with `--join`"
        }
        _ => return refusal.to_string(),
    };
    if refusal.message.contains("bonafide-ca node invite") {
        return refusal.to_string();
    }
    format!("{refusal}; {what_to_do}")
}

/// Redeems an invitation for `key`. Asking again with the same key after a lost reply is what the CA expects.
pub(crate) async fn join(
    dialer: &mut Dialer,
    invitation: &Invitation,
    key: &NodeKey,
    clock: &Arc<dyn Clock>,
) -> Result<Credential, JoinError> {
    let connector = tls::first_contact(key, invitation.trust_domain(), *invitation.root_sha256(), Arc::clone(clock))?;
    let secret = invitation.secret().expose_secret().to_vec();
    let answer = over(dialer, &connector, async |mut api| {
        let request = JoinRequest { secret, agent: Some(agent_info(clock.now())) };
        api.join(request).await.map(|answer| answer.into_inner().credential)
    })
    .await?;
    let credential = read(answer, invitation.trust_domain(), key, clock)?;
    credential.check_root(invitation.root_sha256())?;
    Ok(credential)
}

/// Gets a new SVID for a key whose SVID has run out.
pub(crate) async fn recover(
    dialer: &mut Dialer,
    trust_domain: &TrustDomain,
    bundles: BundleSet,
    key: &NodeKey,
    clock: &Arc<dyn Clock>,
) -> Result<Credential, JoinError> {
    let connector = tls::recovery(key, trust_domain, bundles, Arc::clone(clock))?;
    let answer = over(dialer, &connector, async |mut api| {
        let request = RecoverRequest { agent: Some(agent_info(clock.now())) };
        api.recover(request).await.map(|answer| answer.into_inner().credential)
    })
    .await?;
    read(answer, trust_domain, key, clock)
}

/// Has the node's next key certified, over the connection of the moment.
pub(crate) async fn renew(
    client: &CaClient,
    trust_domain: &TrustDomain,
    key: &NodeKey,
    clock: &Arc<dyn Clock>,
) -> Result<Credential, JoinError> {
    let request = RenewRequest { public_key: key.spki().to_vec(), agent: Some(agent_info(clock.now())) };
    let answer = client.renew(request).await.map_err(|error| match error {
        CaError::Refused(refusal) => JoinError::Refused(refusal),
        CaError::NotConnected { .. } | CaError::NoAnswer { .. } | CaError::Broken { .. } | CaError::Unusable { .. } => {
            JoinError::Unreachable(error.to_string())
        }
    })?;
    read(answer.credential, trust_domain, key, clock)
}

fn read(
    answer: Option<NodeCredential>,
    trust_domain: &TrustDomain,
    key: &NodeKey,
    clock: &Arc<dyn Clock>,
) -> Result<Credential, JoinError> {
    let answer = answer.ok_or(CredentialError::Empty)?;
    Ok(Credential::check(&answer, trust_domain, key, clock.now())?)
}

/// One call over a connection of its own.
async fn over<C, T>(
    dialer: &mut Dialer,
    connector: &C,
    call: impl AsyncFnOnce(NodeApiClient<tonic::transport::Channel>) -> Result<T, tonic::Status>,
) -> Result<T, JoinError>
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    Box<dyn std::error::Error + Send + Sync>: From<C::Error> + Send,
{
    let (address, channel) = dialer.dial(connector).await.map_err(not_reached)?;
    let address = address.to_string();
    let waited = dialer.limits().identity;
    let failed = match timeout(waited, call(NodeApiClient::new(channel))).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(status)) => classify(&address, &status),
        Err(_) => CaError::NoAnswer { address: address.clone(), waited },
    };
    Err(match failed {
        CaError::Refused(refusal) => JoinError::Refused(refusal),
        other => {
            dialer.give_up_on(&address);
            JoinError::Unreachable(other.to_string())
        }
    })
}

fn not_reached(error: DialError) -> JoinError {
    match error.impostor() {
        Some(failure) => JoinError::NotOurCa { address: failure.address.to_string(), reason: failure.reason.clone() },
        None => JoinError::Unreachable(error.to_string()),
    }
}
