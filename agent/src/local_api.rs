//! Our node-local services, beside the Workload API on the same socket: who am I, how is this agent.

use std::{fmt, sync::Arc};

use bonafide_ca_api::{Reason, refusal};
use bonafide_verifier::clock::Timestamp;
use tonic::{Request, Response, Status};

use crate::{
    attest::{Needs, Peer, matching, nearest_miss, registration},
    generated::local::{
        AcceptEpochRequest, AcceptEpochResponse, HealthPart, HeldEpoch, Match, NearestMiss, Process,
        SelectorDifference, StatusRequest, StatusResponse, TokenService, WhoAmIRequest, WhoAmIResponse,
        local_server::Local,
    },
    health::PartHealth,
    node_status::NodeStatus,
    renewal::Boxed,
    token_service::TokenStatus,
    workload_api::{Call, Shared, is_operator, refused},
};

/// What the node side of the agent tells of itself, and the one thing an operator may tell it.
pub(crate) trait NodeControl: fmt::Debug + Send + Sync {
    /// The name under which this node joined.
    fn name(&self) -> Option<String>;

    /// Node, CA, position and health; `services` are filled in by the caller, and its notes added.
    fn status(&self) -> StatusResponse;

    /// Takes a held epoch as the new truth. The error says, in one line, why not.
    fn accept_epoch<'a>(&'a self, epoch: &'a str) -> Boxed<'a, Result<(), String>>;
}

impl NodeControl for NodeStatus {
    fn name(&self) -> Option<String> {
        let node = self.read().node?;
        bonafide_ca_api::node_name_of(&node).map(|name| name.to_string())
    }

    fn status(&self) -> StatusResponse {
        let facts = self.read();
        let millis = |at: Option<Timestamp>| at.map_or(0, Timestamp::unix_millis);
        let health = |part: PartHealth| HealthPart {
            part: part.part.name().to_owned(),
            state: part.state.name().to_owned(),
            reason: part.reason,
        };
        StatusResponse {
            version: facts.version.to_owned(),
            trust_domain: facts.trust_domain.to_string(),
            node: facts.node.map(|node| node.to_string()).unwrap_or_default(),
            node_not_after_ms: millis(facts.node_not_after),
            ca_address: facts.ca.as_ref().map(|ca| ca.address.clone()).unwrap_or_default(),
            connected_since_ms: millis(facts.ca.map(|ca| ca.since)),
            epoch: facts.position.as_ref().map(|position| position.epoch.to_string()).unwrap_or_default(),
            registry_version: facts.position.map_or(0, |position| position.version),
            held: facts.held.map(|held| HeldEpoch {
                epoch: held.epoch.to_string(),
                services_removed: held.services_removed as u64,
            }),
            services: Vec::new(),
            health: facts.health.into_iter().map(health).collect(),
            notes: facts.notes,
            clock_offset_ms: facts.clock_offset_ms.unwrap_or(0),
            bundle_sequence: facts.bundle_sequence.unwrap_or(0),
            token_service: None,
        }
    }

    fn accept_epoch<'a>(&'a self, epoch: &'a str) -> Boxed<'a, Result<(), String>> {
        Box::pin(async move { NodeStatus::accept_epoch(self, epoch).await.map_err(|error| error.to_string()) })
    }
}

/// Answers processes about themselves, and operators about the agent.
#[derive(Debug)]
pub(crate) struct LocalApi {
    shared: Arc<Shared>,
}

impl LocalApi {
    pub(crate) fn new(shared: Arc<Shared>) -> LocalApi {
        LocalApi { shared }
    }

    /// The facts of `peer`, and what they make of it. `tell_all`: the asker may know of others' services.
    async fn who_is(&self, peer: &Peer, tell_all: bool) -> Result<WhoAmIResponse, Status> {
        let parts = &self.shared.parts;
        let facts = self.shared.attestor.attest_with(peer, Needs::ALL).await.map_err(|error| refused(&error))?;
        let view = parts.views.snapshot();
        let now = parts.clock.now();
        let services = matching(&view, &facts);
        let mut answer = WhoAmIResponse {
            process: Some(Process {
                pid: facts.pid,
                uid: facts.uid,
                gid: facts.gid,
                user: facts.user.as_deref().unwrap_or_default().to_owned(),
                path: facts.shown_path.clone().unwrap_or_default(),
            }),
            selectors: facts.selectors().iter().map(ToString::to_string).collect(),
            services: Vec::new(),
            nearest_miss: None,
            notes: facts.notes.clone(),
            reference: String::new(),
        };
        for service in &services {
            let svid = parts.cache.slot(service).usable(service, now);
            answer.services.push(Match {
                spiffe_id: service.spiffe_id.to_string(),
                selectors: service.selectors.iter().map(ToString::to_string).collect(),
                hint: service.hint.clone(),
                not_after_ms: svid.map_or(0, |svid| svid.not_after().unix_millis()),
            });
        }
        if view.position().is_none() {
            answer.notes.push("the agent has no state from its CA yet".to_owned());
        } else if services.is_empty() {
            let node = parts.node.name();
            answer.reference = self.shared.explainer.reference(&view, &facts, node.as_deref(), parts.clock.boot());
            if tell_all {
                answer.nearest_miss = Some(match nearest_miss(&view, &facts) {
                    Some(miss) => NearestMiss {
                        spiffe_id: miss.service.spiffe_id.to_string(),
                        differences: miss.differences.iter().map(to_difference).collect(),
                        command: miss.command,
                    },
                    None => NearestMiss {
                        spiffe_id: String::new(),
                        differences: Vec::new(),
                        command: registration(&facts, node.as_deref()),
                    },
                });
            }
        }
        Ok(answer)
    }

    fn operator<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let call = call(request)?;
        // The user of now must be the one of then, here as everywhere.
        if let Some(process) = call.connection.peer.process() {
            call.connection.peer.status(process).map_err(|error| refused(&error))?;
        }
        call.connection.peer.check_alive().map_err(|error| refused(&error))?;
        if is_operator(call.connection.peer.credentials()) {
            return Ok(());
        }
        Err(refusal(Reason::NotOperator, "only root and the agent's own user may ask this", None))
    }
}

#[tonic::async_trait]
impl Local for LocalApi {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let call = call(&request)?;
        let own = &call.connection.peer;
        let pid = request.get_ref().pid;
        if pid < 0 {
            return Err(refusal(Reason::RequestInvalid, format!("`pid` is {pid}; a process has a positive one"), None));
        }
        if pid == 0 || pid == own.credentials().pid {
            let tell_all = is_operator(own.credentials());
            return self.who_is(own, tell_all).await.map(Response::new);
        }
        self.operator(&request)?;
        let peer = Peer::named(pid).map_err(|error| refused(&error))?;
        self.who_is(&peer, true).await.map(Response::new)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.operator(&request)?;
        let parts = &self.shared.parts;
        let mut status = parts.node.status();
        status.services = parts.cache.status(&parts.views.snapshot());
        status.notes.extend(self.shared.notes.iter().cloned());
        let tokens = parts.tokens.status();
        status.token_service = (tokens != TokenStatus::default()).then(|| TokenService {
            key_id: tokens.key_id.unwrap_or_default(),
            expires_at_ms: tokens.expires_at.map_or(0, Timestamp::unix_millis),
            edges: tokens.edges,
            log_waiting: tokens.log.as_ref().map_or(0, |log| log.waiting),
            log_bytes: tokens.log.as_ref().map_or(0, |log| log.bytes),
        });
        Ok(Response::new(status))
    }

    async fn accept_epoch(
        &self,
        request: Request<AcceptEpochRequest>,
    ) -> Result<Response<AcceptEpochResponse>, Status> {
        self.operator(&request)?;
        let epoch = &request.get_ref().epoch;
        if epoch.is_empty() {
            return Err(refusal(Reason::RequestInvalid, "`epoch` is missing", None));
        }
        match self.shared.parts.node.accept_epoch(epoch).await {
            Ok(()) => Ok(Response::new(AcceptEpochResponse {})),
            Err(why) => Err(refusal(Reason::EpochNotHeld, why, None)),
        }
    }
}

fn call<T>(request: &Request<T>) -> Result<Call, Status> {
    request.extensions().get::<Call>().cloned().ok_or_else(|| {
        refusal(Reason::Internal, "a call that did not pass the gate; this is a fault of the agent", None)
    })
}

fn to_difference(difference: &crate::attest::Difference) -> SelectorDifference {
    let found: Vec<String> = difference.found.iter().map(ToString::to_string).collect();
    SelectorDifference { wanted: difference.wanted.to_string(), found: found.join(", ") }
}
