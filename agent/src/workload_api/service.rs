//! The RPCs of the SPIFFE Workload API, by name.

use std::{pin::Pin, sync::Arc};

use bonafide_ca_api::{Reason, refusal};
use futures_core::Stream;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    Shared,
    bundles::{self, BundleMap, Profile},
    caller::Caller,
    jwt, x509,
};
use crate::generated::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::SpiffeWorkloadApi,
};

/// Answers workloads.
#[derive(Debug)]
pub(crate) struct WorkloadApi {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl WorkloadApi {
    pub(crate) fn new(shared: Arc<Shared>, stop: CancellationToken) -> WorkloadApi {
        WorkloadApi { shared, stop }
    }

    async fn bundles<R, T>(
        &self,
        request: Request<R>,
        profile: Profile,
        answer: fn(BundleMap) -> T,
    ) -> Result<Response<Answers<T>>, Status>
    where
        T: Send + 'static,
    {
        let caller = Caller::of(&request, &self.shared)?;
        let (first, rest) = bundles::stream(caller, profile, self.stop.clone()).await?;
        let answers = tokio_stream::once(Ok(first)).chain(rest).map(move |bundles| bundles.map(answer));
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<WitsvidResponse>;
    type FetchWITBundlesStream = Answers<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let caller = Caller::of(&request, &self.shared)?;
        let (first, rest) = x509::stream(caller, self.stop.clone()).await?;
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(rest))))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let answer =
            |bundles: BundleMap| X509BundlesResponse { crl: Vec::new(), bundles: bundles.into_iter().collect() };
        self.bundles(request, Profile::X509, answer).await
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let caller = Caller::of(&request, &self.shared)?;
        jwt::fetch(caller, request.into_inner()).await.map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let answer = |bundles: BundleMap| JwtBundlesResponse { bundles: bundles.into_iter().collect() };
        self.bundles(request, Profile::Jwt, answer).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let caller = Caller::of(&request, &self.shared)?;
        jwt::validate(caller, request.into_inner()).await.map(Response::new)
    }

    async fn fetch_witsvid(&self, _: Request<WitsvidRequest>) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(no_wit())
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(no_wit())
    }
}

/// WAPI-32.
fn no_wit() -> Status {
    refusal(Reason::ProfileNotServed, "this agent does not serve the WIT-SVID profile", None)
}
