//! The methods of the node API, as tonic wants them: each takes its caller from the [gate](super::gate) and hands on to the
//! file that does it.

use std::{future::Future, sync::Arc};

use bonafide_ca_api::generated::node::{
    CollectMintsRequest, CollectMintsResponse, DelegateRequest, DelegateResponse, IssueJwtRequest, IssueJwtResponse,
    IssueX509Request, IssueX509Response, JoinRequest, JoinResponse, LookAtIssuerRequest, LookAtIssuerResponse,
    RecoverRequest, RecoverResponse, RenewRequest, RenewResponse, SyncRequest, node_api_server::NodeApi as Contract,
};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{
    NodeApi, delegate, issue, join, look_at_issuer, mints,
    peer::{Caller, KeyCaller, NodeCaller},
    recover,
    refuse::Refused,
    renew,
    sync::{self, SyncStream},
};

/// The contract, implemented.
pub(super) struct Methods {
    api: Arc<NodeApi>,
}

impl Methods {
    pub(super) fn new(api: Arc<NodeApi>) -> Self {
        Self { api }
    }

    /// Waits for the answer, and counts a refusal. How long that may take, the gate says.
    async fn answer<T>(&self, work: impl Future<Output = Result<T, Refused>>) -> Result<Response<T>, Status> {
        work.await.map(Response::new).map_err(|refused| {
            self.api.note_refusal(refused.reason);
            refused.into()
        })
    }
}

#[async_trait]
impl Contract for Methods {
    type SyncStream = SyncStream;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let caller = key_caller(&request)?;
        self.answer(join::join(&self.api, &caller, request.into_inner())).await
    }

    async fn recover(&self, request: Request<RecoverRequest>) -> Result<Response<RecoverResponse>, Status> {
        let caller = key_caller(&request)?;
        self.answer(recover::recover(&self.api, &caller, request.into_inner())).await
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let caller = node_caller(&request)?;
        self.answer(renew::renew(&self.api, &caller, request.into_inner())).await
    }

    async fn sync(&self, request: Request<Streaming<SyncRequest>>) -> Result<Response<SyncStream>, Status> {
        let caller = node_caller(&request)?;
        self.answer(sync::open(&self.api, caller, request.into_inner())).await
    }

    async fn issue_x509(&self, request: Request<IssueX509Request>) -> Result<Response<IssueX509Response>, Status> {
        let caller = node_caller(&request)?;
        self.answer(issue::x509(&self.api, &caller, request.into_inner())).await
    }

    async fn issue_jwt(&self, request: Request<IssueJwtRequest>) -> Result<Response<IssueJwtResponse>, Status> {
        let caller = node_caller(&request)?;
        self.answer(issue::jwt(&self.api, &caller, request.into_inner())).await
    }

    async fn delegate(&self, request: Request<DelegateRequest>) -> Result<Response<DelegateResponse>, Status> {
        let caller = node_caller(&request)?;
        self.answer(delegate::delegate(&self.api, &caller, request.into_inner())).await
    }

    async fn look_at_issuer(
        &self,
        request: Request<LookAtIssuerRequest>,
    ) -> Result<Response<LookAtIssuerResponse>, Status> {
        let caller = node_caller(&request)?;
        self.answer(look_at_issuer::look(&self.api, &caller, request.into_inner())).await
    }

    async fn collect_mints(
        &self,
        request: Request<CollectMintsRequest>,
    ) -> Result<Response<CollectMintsResponse>, Status> {
        let caller = node_caller(&request)?;
        self.answer(mints::collect(&self.api, &caller, request.into_inner())).await
    }
}

/// The caller that the gate attached. Another kind, or none, means that the gate was passed by: nobody is served then.
fn key_caller<T>(request: &Request<T>) -> Result<KeyCaller, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Key(caller)) => Ok(caller.clone()),
        Some(Caller::Node(_)) | None => Err(Refused::internal().into()),
    }
}

fn node_caller<T>(request: &Request<T>) -> Result<NodeCaller, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Node(caller)) => Ok(caller.clone()),
        Some(Caller::Key(_)) | None => Err(Refused::internal().into()),
    }
}
