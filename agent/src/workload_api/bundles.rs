//! The streams of trust bundles: X.509 authorities for X.509-SVIDs, JWT keys for JWT-SVIDs, nothing else in either (WAPI-13, -26).
//! The own trust domain's is always among them (WAPI-21). Who has no identity on this node gets none (WAPI-19).

use std::{collections::BTreeMap, sync::Arc};

use bonafide_ca_api::{Reason, refusal};
use bonafide_verifier::spiffe::TrustBundle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    caller::{Caller, Identified, refused},
    unfold::{Unfold, unfold},
    x509::{id_of, stopping},
};
use crate::{
    attest::{Needs, PeerError, matching},
    view::View,
};

/// Bundles by the SPIFFE ID of their trust domain.
pub(crate) type BundleMap = BTreeMap<String, Vec<u8>>;
pub(crate) type BundleStream = Unfold<Option<Session>, Result<BundleMap, Status>>;

/// Which keys are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    X509,
    Jwt,
}

/// One stream.
pub(crate) struct Session {
    caller: Caller,
    profile: Profile,
    views: watch::Receiver<u64>,
    stop: CancellationToken,
    sent: Option<(Identified, BundleMap)>,
}

/// Waits for the first message, so that a refusal is the answer to the call itself, then streams.
pub(crate) async fn stream(
    caller: Caller,
    profile: Profile,
    stop: CancellationToken,
) -> Result<(BundleMap, BundleStream), Status> {
    let views = caller.shared.parts.views.changes();
    let mut session = Session { caller, profile, views, stop, sent: None };
    session.views.borrow_and_update();
    let identified = session.caller.identify().await?;
    let first = session.message(identified)?;
    Ok((first, unfold(Some(session), |session| Box::pin(step(session)))))
}

async fn step(session: Option<Session>) -> Option<(Result<BundleMap, Status>, Option<Session>)> {
    let mut session = session?;
    Some(match session.next().await {
        Ok(message) => (Ok(message), Some(session)),
        Err(status) => (Err(status), None),
    })
}

impl Session {
    async fn next(&mut self) -> Result<BundleMap, Status> {
        while !self.is_outdated() {
            self.changed().await?;
        }
        let shared = self.caller.shared.clone();
        shared.spread(&self.stop).await?;
        self.views.borrow_and_update();
        let mut identified = self.caller.identify_when_possible(&self.stop).await?;
        while self.sent.as_ref().is_some_and(|(sent, _)| identified.may_have_lost(&sent.services)) {
            shared.look_again(&self.stop).await?;
            identified = self.caller.identify_when_possible(&self.stop).await?;
        }
        if identified.services.is_empty() {
            return Err(self.caller.redacted(&identified));
        }
        self.message(identified)
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
        !covered || matching(&view, facts).is_empty() || self.profile.bundles(&view).as_ref() != Some(sent)
    }

    fn message(&mut self, identified: Identified) -> Result<BundleMap, Status> {
        let Some(bundles) = self.profile.bundles(&identified.view) else {
            return Err(refusal(
                Reason::AgentNotReady,
                "the agent has no trust bundle yet; ask again in a moment",
                None,
            ));
        };
        self.sent = Some((identified, bundles.clone()));
        Ok(bundles)
    }
}

impl Profile {
    /// All bundles of this profile; `None` as long as the own one is not there. A foreign trust domain without keys for
    /// the profile does not take part in it (JWT-25).
    fn bundles(self, view: &View) -> Option<BundleMap> {
        view.bundles().get(view.trust_domain())?;
        let wanted = |bundle: &&Arc<TrustBundle>| bundle.trust_domain() == view.trust_domain() || self.has_keys(bundle);
        Some(view.bundles().iter().filter(wanted).map(|bundle| (id_of(bundle), self.encode(bundle))).collect())
    }

    fn has_keys(self, bundle: &TrustBundle) -> bool {
        match self {
            Profile::X509 => !bundle.x509_authorities().is_empty(),
            Profile::Jwt => !bundle.jwt_authorities().is_empty(),
        }
    }

    fn encode(self, bundle: &TrustBundle) -> Vec<u8> {
        match self {
            Profile::X509 => bundle.x509_der_concatenated(),
            Profile::Jwt => bundle.to_jwks().into_bytes(),
        }
    }
}
