//! The stream of a caller's X.509-SVIDs (Workload API §5.2.1).

use std::{collections::HashMap, sync::Arc};

use bonafide_ca_api::{Reason, refusal};
use bonafide_verifier::spiffe::{SpiffeId, TrustBundle};
use tokio::sync::watch;
use tonic::Status;

use super::{
    caller::{Caller, Identified},
    unfold::{Unfold, unfold},
};
use crate::{
    attest::{Needs, matching},
    generated::workload::{X509svid, X509svidResponse},
    svid_cache::{Watcher, WorkloadSvid},
    view::{Service, View},
};

pub(crate) type X509Stream = Unfold<Option<Session>, Result<X509svidResponse, Status>>;

/// One stream.
pub(crate) struct Session {
    caller: Caller,
    views: watch::Receiver<u64>,
    svids: watch::Receiver<u64>,
    stop: tokio_util::sync::CancellationToken,
    watchers: Vec<Watcher>,
    sent: Option<Sent>,
}

/// What the caller has, to tell whether there is anything new.
struct Sent {
    identified: Identified,
    svids: Vec<Granted>,
    bundles: Bundles,
}

type Granted = (Arc<Service>, Arc<WorkloadSvid>);

/// The bundles in an answer: the own trust domain's, and the others.
struct Bundles {
    own: Arc<TrustBundle>,
    foreign: Vec<Arc<TrustBundle>>,
}

/// Waits for the first message, so that a refusal is the answer to the call itself, then streams.
pub(crate) async fn stream(
    caller: Caller,
    stop: tokio_util::sync::CancellationToken,
) -> Result<(X509svidResponse, X509Stream), Status> {
    let parts = &caller.shared.parts;
    let (views, svids) = (parts.views.changes(), parts.cache.changes());
    let mut session = Session { caller, views, svids, stop, watchers: Vec::new(), sent: None };
    let first = session.first().await?;
    Ok((first, unfold(Some(session), |session| Box::pin(step(session)))))
}

async fn step(session: Option<Session>) -> Option<(Result<X509svidResponse, Status>, Option<Session>)> {
    let mut session = session?;
    Some(match session.next().await {
        Ok(message) => (Ok(message), Some(session)),
        // The status ends the stream.
        Err(status) => (Err(status), None),
    })
}

impl Session {
    /// At once, or as soon as the default identity's SVID is there (WAPI-06).
    async fn first(&mut self) -> Result<X509svidResponse, Status> {
        self.mark_seen();
        let mut identified = self.caller.identify().await?;
        let limit = self.caller.shared.parts.limits.wait_for_svid;
        let waiting = async {
            loop {
                let granted = self.granted(&identified);
                let known = |service: &Arc<Service>| {
                    granted.iter().any(|(given, _)| given.id == service.id)
                        || self.caller.shared.parts.cache.slot(service).failure().is_some()
                };
                if self.has_default(&identified) && identified.services.iter().all(known) {
                    return Ok(());
                }
                self.changed().await?;
                self.mark_seen();
                identified = self.caller.identify().await?;
            }
        };
        let all_there = tokio::time::timeout(limit, waiting).await;
        match all_there {
            Ok(Ok(())) => {}
            Ok(Err(status)) => return Err(status),
            // The default identity must be there: no other may be taken for it.
            Err(_) if self.has_default(&identified) => identified = self.caller.identify().await?,
            Err(_) => return Err(self.not_issued(&identified)),
        }
        let granted = self.granted(&identified);
        if granted.is_empty() {
            return Err(self.not_issued(&identified));
        }
        self.message(identified, granted)
    }

    /// The next message that says something new.
    async fn next(&mut self) -> Result<X509svidResponse, Status> {
        loop {
            self.mark_seen();
            match self.outdated() {
                News::None => {
                    self.changed().await?;
                    continue;
                }
                News::Bundles => self.caller.shared.clone().spread(&self.stop).await?,
                News::Identity => {}
            }
            self.mark_seen();
            let identified = self.caller.identify_when_possible(&self.stop).await?;
            if self.sent.as_ref().is_some_and(|sent| identified.may_have_lost(&sent.identified.services)) {
                self.caller.shared.clone().look_again(&self.stop).await?;
                continue;
            }
            if identified.services.is_empty() {
                return Err(self.caller.redacted(&identified));
            }
            let granted = self.granted(&identified);
            // An SVID that expired without a renewal: the caller sees that itself. To say nothing is not to take it back.
            let default_is_there = granted.first().is_some_and(|(service, _)| {
                identified.services.first().is_some_and(|first| Arc::ptr_eq(first, service))
            });
            if !default_is_there {
                self.sent = None;
                self.changed().await?;
                continue;
            }
            return self.message(identified, granted);
        }
    }

    fn mark_seen(&mut self) {
        self.views.borrow_and_update();
        self.svids.borrow_and_update();
    }

    /// Waits for anything that could change what the caller has.
    async fn changed(&mut self) -> Result<(), Status> {
        tokio::select! {
            changed = self.views.changed() => changed.map_err(|_| stopping()),
            changed = self.svids.changed() => changed.map_err(|_| stopping()),
            // The look at the facts that follows says so.
            () = self.caller.peer().ended() => {
                Err(super::caller::refused(&crate::attest::PeerError::Ended { pid: self.caller.peer().credentials().pid }))
            }
            () = self.stop.cancelled() => Err(stopping()),
        }
    }

    /// Whether there may be something new, told without a look at the process.
    fn outdated(&self) -> News {
        let Some(sent) = &self.sent else { return News::Identity };
        let parts = &self.caller.shared.parts;
        let view = parts.views.snapshot();
        let facts = &sent.identified.facts;
        if !facts.needs.cover(Needs::of(&view, facts.uid, facts.user.as_deref())) {
            return News::Identity;
        }
        let services = matching(&view, facts);
        let same_services = services.len() == sent.identified.services.len()
            && services.iter().zip(&sent.identified.services).all(|(now, before)| now == before);
        let now = parts.clock.now();
        let svids: Vec<_> =
            services.iter().filter_map(|service| parts.cache.slot(service).usable(service, now)).collect();
        let same_svids = svids.len() == sent.svids.len()
            && svids.iter().zip(&sent.svids).all(|(now, (_, before))| Arc::ptr_eq(now, before));
        if !same_services || !same_svids {
            return News::Identity;
        }
        match bundles(&view) {
            Some(bundles) if bundles.same(&sent.bundles) => News::None,
            _ => News::Bundles,
        }
    }

    /// What there is of the caller's identities, in their order.
    fn granted(&mut self, identified: &Identified) -> Vec<Granted> {
        let cache = &self.caller.shared.parts.cache;
        let watched =
            |watcher: &Watcher| identified.services.iter().any(|service| service.id == *watcher.slot().service_id());
        self.watchers.retain(watched);
        for service in &identified.services {
            if !self.watchers.iter().any(|watcher| *watcher.slot().service_id() == service.id) {
                self.watchers.push(cache.watch(service));
            }
        }
        identified.services.iter().filter_map(|service| Some((service.clone(), cache.ask(service)?))).collect()
    }

    fn has_default(&self, identified: &Identified) -> bool {
        let parts = &self.caller.shared.parts;
        let default = identified.services.first();
        default.is_some_and(|service| parts.cache.slot(service).usable(service, parts.clock.now()).is_some())
    }

    fn not_issued(&self, identified: &Identified) -> Status {
        not_issued(&self.caller, identified.services.first())
    }

    fn message(&mut self, identified: Identified, granted: Vec<Granted>) -> Result<X509svidResponse, Status> {
        let Some(bundles) = bundles(&identified.view) else {
            return Err(refusal(
                Reason::AgentNotReady,
                "the agent has no trust bundle yet; ask again in a moment",
                None,
            ));
        };
        let own = bundles.own.x509_der_concatenated();
        let mut hints = Hints::default();
        let svids = granted
            .iter()
            .map(|(service, svid)| X509svid {
                spiffe_id: svid.spiffe_id().to_string(),
                x509_svid: svid.chain_der().to_vec(),
                x509_svid_key: svid.expose_secret().to_vec(),
                bundle: own.clone(),
                hint: hints.unique(&service.hint),
            })
            .collect();
        let foreign = |bundle: &Arc<TrustBundle>| (id_of(bundle), bundle.x509_der_concatenated());
        let message = X509svidResponse {
            svids,
            crl: Vec::new(),
            federated_bundles: bundles.foreign.iter().map(foreign).collect::<HashMap<_, _>>(),
        };
        self.sent = Some(Sent { identified, svids: granted, bundles });
        Ok(message)
    }
}

enum News {
    None,
    Bundles,
    Identity,
}

/// What the agent says when the CA has not issued what the caller may have. Its own services are no secret to it.
pub(crate) fn not_issued(caller: &Caller, service: Option<&Arc<Service>>) -> Status {
    let Some(service) = service else {
        return refusal(Reason::NotIssued, "the CA has not issued an SVID yet; ask again in a moment", None);
    };
    let failure = caller.shared.parts.cache.slot(service).failure();
    let why = failure.map_or_else(|| "it has not answered yet".to_owned(), |failure| failure.message.clone());
    refusal(Reason::NotIssued, format!("the CA has not issued an SVID for `{}`: {why}", service.spiffe_id), None)
}

/// A stream ends when the agent stops; the client comes back to the next one.
pub(crate) fn stopping() -> Status {
    refusal(Reason::Stopping, "the agent is stopping; connect again", None)
}

/// X.509 bundles by what an answer may hold: the own one always, others only with authorities in them, and the own one never
/// among the others.
fn bundles(view: &View) -> Option<Bundles> {
    let own = view.bundles().get(view.trust_domain())?.clone();
    let foreign = view
        .bundles()
        .iter()
        .filter(|bundle| bundle.trust_domain() != view.trust_domain() && !bundle.x509_authorities().is_empty());
    Some(Bundles { foreign: foreign.cloned().collect(), own })
}

impl Bundles {
    fn same(&self, other: &Bundles) -> bool {
        let same = |a: &Arc<TrustBundle>, b: &Arc<TrustBundle>| {
            Arc::ptr_eq(a, b)
                || a.trust_domain() == b.trust_domain() && a.x509_der_concatenated() == b.x509_der_concatenated()
        };
        same(&self.own, &other.own)
            && self.foreign.len() == other.foreign.len()
            && self.foreign.iter().zip(&other.foreign).all(|(a, b)| same(a, b))
    }
}

/// The key of a bundle in an answer: the SPIFFE ID of its trust domain.
pub(crate) fn id_of(bundle: &TrustBundle) -> String {
    SpiffeId::of_trust_domain(bundle.trust_domain()).to_string()
}

/// Hints are unique within an answer, the first keeps it (WAPI-17), and no longer than clients must take (WAPI-36).
#[derive(Default)]
pub(crate) struct Hints(Vec<String>);

impl Hints {
    pub(crate) fn unique(&mut self, hint: &str) -> String {
        if hint.is_empty() || hint.len() > LONGEST_HINT || self.0.iter().any(|given| given == hint) {
            return String::new();
        }
        self.0.push(hint.to_owned());
        hint.to_owned()
    }
}

const LONGEST_HINT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wapi_17_and_36_hints() {
        let mut hints = Hints::default();
        let long = "x".repeat(LONGEST_HINT + 1);
        let cases: &[(&str, &str, &str)] = &[
            ("WAPI-17 first", "internal", "internal"),
            ("WAPI-17 again", "internal", ""),
            ("WAPI-17 another", "external", "external"),
            ("WAPI-17 empty ones may repeat", "", ""),
            ("WAPI-36 longest", &long[1..], &long[1..]),
            ("WAPI-36 too long", &long, ""),
        ];
        for (requirement, hint, expected) in cases {
            assert_eq!(hints.unique(hint), *expected, "{requirement}");
        }
    }
}
