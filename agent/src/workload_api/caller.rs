//! The process that makes a call: attested anew whenever something is about to be sent to it.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bonafide_ca_api::{Reason, refusal};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::{Shared, gate::Call};
use crate::{
    attest::{ExecutableIdentity, Facts, Needs, Peer, PeerError, matching},
    view::{Service, View},
};

/// A call, and what its stream is bound to.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) shared: Arc<Shared>,
    call: Call,
    /// What the process executed when the call began (W-01).
    executable: Option<ExecutableIdentity>,
}

/// The services of who made a connection, as was found out last, for calls that follow each other on it closely.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Option<Look>>);

#[derive(Debug)]
struct Look {
    /// When it began, on the boot clock.
    at: Duration,
    /// In which they were found; an idle connection does not keep it.
    view: Weak<View>,
    services: Arc<[Arc<Service>]>,
}

impl Recent {
    /// What was found, if that is young enough and nothing has changed in the view.
    fn get(&self, view: &Arc<View>, now: Duration, most: Duration) -> Option<Arc<[Arc<Service>]>> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let look = recent.as_ref()?;
        let counts = now.saturating_sub(look.at) < most && std::ptr::eq(look.view.as_ptr(), Arc::as_ptr(view));
        counts.then(|| Arc::clone(&look.services))
    }

    fn put(&self, look: Option<Look>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = look;
    }
}

/// Who the caller is at this moment.
#[derive(Debug)]
pub(crate) struct Identified {
    pub(crate) view: Arc<View>,
    pub(crate) facts: Facts,
    /// The default identity first; never empty.
    pub(crate) services: Vec<Arc<Service>>,
}

impl Identified {
    /// Whether one of `before` is missing only because something did not answer when the process was looked at. That is no
    /// reason to take it back, nor to send anything.
    pub(crate) fn may_have_lost(&self, before: &[Arc<Service>]) -> bool {
        let missing = |service: &&Arc<Service>| !self.services.iter().any(|now| now.id == service.id);
        self.facts.unsure && before.iter().filter(missing).any(|service| self.view.service(&service.id).is_some())
    }
}

impl Caller {
    pub(crate) fn of<T>(request: &Request<T>, shared: &Arc<Shared>) -> Result<Caller, Status> {
        let call = request.extensions().get::<Call>().cloned().ok_or_else(|| {
            refusal(Reason::Internal, "a call that did not pass the gate; this is a fault of the agent", None)
        })?;
        Ok(Caller { shared: shared.clone(), call, executable: None })
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.call.connection.peer
    }

    /// The caller's facts, of now. What it executes must be what it executed before.
    pub(crate) async fn attest(&mut self, view: &View) -> Result<Facts, Status> {
        let facts = self.shared.attestor.attest(self.peer(), view).await.map_err(|error| refused(&error))?;
        match (self.executable, facts.executable) {
            (Some(before), Some(now)) if before != now => {
                let message = "the process runs another executable than when this stream began; connect again";
                Err(refusal(Reason::ExecutableChanged, message, None))
            }
            // A file system that does not answer now says nothing against the process, but nothing for it either: paths and
            // hashes are unknown in these facts.
            (Some(_), _) => Ok(facts),
            (None, now) => {
                self.executable = now;
                Ok(facts)
            }
        }
    }

    /// Who the caller is in the view of this moment; `services` is empty where it is nobody.
    pub(crate) async fn identify_now(&mut self) -> Result<Identified, Status> {
        let view = self.shared.parts.views.snapshot();
        let facts = self.attest(&view).await?;
        let services = matching(&view, &facts);
        Ok(Identified { view, facts, services })
    }

    /// The same for a stream that goes on. An agent that has run out of descriptors or memory cannot look, so it sends nothing until
    /// it can (F-19); that is no reason to take anything back.
    pub(crate) async fn identify_when_possible(&mut self, stop: &CancellationToken) -> Result<Identified, Status> {
        loop {
            match self.identify_now().await {
                // No refusal of a process has this code.
                Err(status) if status.code() == Code::Unavailable => self.shared.clone().look_again(stop).await?,
                known => return known,
            }
        }
    }

    /// Who the caller is. Waits a bounded time for a service that is registered a moment later, and for the agent's
    /// first state.
    pub(crate) async fn identify(&mut self) -> Result<Identified, Status> {
        let mut changes = self.shared.parts.views.changes();
        let limit = self.shared.parts.limits.wait_for_service;
        let waiting = async {
            loop {
                changes.borrow_and_update();
                let identified = self.identify_now().await?;
                if !identified.services.is_empty() {
                    return Ok(identified);
                }
                let unsure = identified.facts.unsure;
                let parts = &self.shared.parts;
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { std::future::pending().await },
                    () = self.peer().ended() => {}
                    () = parts.clock.sleep_for(parts.limits.look_again), if unsure => {}
                }
            }
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(identified) => identified,
            Err(_) => Err(self.refuse().await),
        }
    }

    /// The caller's services, default first, now or a moment ago ([`Limits::look_stands`](super::Limits)), for what is asked for again and again: looking at a process
    /// costs several times what is then done for it. Whoever answers makes sure that it is alive.
    pub(crate) async fn recent_services(&mut self) -> Result<Arc<[Arc<Service>]>, Status> {
        let connection = Arc::clone(&self.call.connection);
        let parts = &self.shared.parts;
        let (view, at) = (parts.views.snapshot(), parts.clock.boot());
        if let Some(services) = connection.recent.get(&view, at, parts.limits.look_stands) {
            return Ok(services);
        }
        let identified = self.identify().await?;
        let services: Arc<[_]> = identified.services.into();
        let look = Look { at, view: Arc::downgrade(&identified.view), services: Arc::clone(&services) };
        connection.recent.put((!identified.facts.unsure).then_some(look));
        Ok(services)
    }

    /// What a caller without an identity is told.
    async fn refuse(&self) -> Status {
        let view = self.shared.parts.views.snapshot();
        if view.position().is_none() {
            let message = "the agent has no state from its CA yet; ask again in a moment";
            return refusal(Reason::AgentNotReady, message, None);
        }
        // The log shall name everything that differs, so what was not needed to say no is found out now.
        let complete = self.shared.attestor.attest_with(self.peer(), Needs::ALL).await;
        match complete {
            Ok(facts) => self.explain(&view, &facts),
            Err(error) => refused(&error),
        }
    }

    fn explain(&self, view: &View, facts: &Facts) -> Status {
        let parts = &self.shared.parts;
        self.shared.explainer.no_identity(view, facts, parts.node.name().as_deref(), parts.clock.boot())
    }

    /// What a stream ends with whose caller has no identity any more (WAPI-20).
    pub(crate) fn redacted(&self, identified: &Identified) -> Status {
        self.explain(&identified.view, &identified.facts)
    }
}

/// Why a process cannot be attested, to itself.
pub(crate) fn refused(error: &PeerError) -> Status {
    refusal(error.reason(), error.to_string(), None)
}
