//! A Workload API client for tests that can also do what no decent client does.

use std::{path::Path, time::Duration};

use prost::Message;
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
}

pub(crate) const X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
pub(crate) const X509_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchX509Bundles";
pub(crate) const JWT_SVID: &str = "/SpiffeWorkloadAPI/FetchJWTSVID";
pub(crate) const JWT_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchJWTBundles";
pub(crate) const VALIDATE: &str = "/SpiffeWorkloadAPI/ValidateJWTSVID";
pub(crate) const WIT_SVID: &str = "/SpiffeWorkloadAPI/FetchWITSVID";
pub(crate) const WIT_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchWITBundles";
pub(crate) const WHO_AM_I: &str = "/bonafide.local.v1.Local/WhoAmI";
pub(crate) const EXCHANGE: &str = "/bonafide.tokens.v1.Tokens/Exchange";
pub(crate) const WATCH_KEYS: &str = "/bonafide.tokens.v1.Tokens/WatchKeys";
pub(crate) const FIND_KEY: &str = "/bonafide.tokens.v1.Tokens/FindKey";
pub(crate) const LOOK_AT_ISSUER: &str = "/bonafide.tokens.v1.Tokens/LookAtIssuer";
pub(crate) const STATUS: &str = "/bonafide.local.v1.Local/Status";
pub(crate) const ACCEPT_EPOCH: &str = "/bonafide.local.v1.Local/AcceptEpoch";
pub(crate) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
pub(crate) const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

impl Client {
    pub(crate) async fn connect(socket: &Path) -> Client {
        let endpoint = Endpoint::try_from(format!("unix:{}", socket.display())).unwrap();
        Client { channel: endpoint.connect().await.unwrap() }
    }

    /// A request with the security header, as every decent client sends it.
    pub(crate) fn request<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
        request
    }

    pub(crate) async fn unary<Q, A>(&self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.unary_request(path, Client::request(message)).await
    }

    pub(crate) async fn unary_request<Q, A>(&self, path: &'static str, request: Request<Q>) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let path = PathAndQuery::from_static(path);
        grpc.unary(request, path, ProstCodec::<Q, A>::default()).await.map(Response::into_inner)
    }

    pub(crate) async fn stream<Q, A>(&self, path: &'static str, message: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.stream_request(path, Client::request(message)).await
    }

    pub(crate) async fn stream_request<Q, A>(
        &self,
        path: &'static str,
        request: Request<Q>,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let path = PathAndQuery::from_static(path);
        grpc.server_streaming(request, path, ProstCodec::<Q, A>::default()).await.map(Response::into_inner)
    }
}

/// The next message of a stream, or the status it ended with. A stream that says nothing fails the test.
pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let next = tokio::time::timeout(Duration::from_secs(20), stream.message()).await.expect("the stream says nothing");
    next.transpose().unwrap_or_else(|| Err(Status::ok("ended")))
}
