//! A workload that speaks to the Workload API with the least code that can: the wire messages, one call. What is measured
//! is then the agent, and not a library around the answer.

use std::path::Path;

use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Request, Status, Streaming, client::Grpc, metadata::MetadataValue, transport::Channel};
use tonic_prost::ProstCodec;

use super::fleet::unix_channel;

/// `X509SVIDRequest`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Ask {}

/// `X509SVIDResponse`, as far as it matters here.
#[derive(Clone, PartialEq, Message)]
pub struct Svids {
    /// The workload's identities.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<Svid>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Message)]
pub struct Svid {
    /// The SPIFFE ID.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The chain, DER.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// The key, PKCS#8.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// The bundle, DER.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// The operator's word for it.
    #[prost(string, tag = "5")]
    pub hint: String,
}

/// Opens a stream of SVIDs on a new connection.
pub async fn fetch(socket: &Path) -> Result<Streaming<Svids>, Status> {
    let channel = unix_channel(socket).await.map_err(|error| Status::unavailable(error.to_string()))?;
    fetch_over(channel).await
}

/// Opens a stream of SVIDs.
pub async fn fetch_over(channel: Channel) -> Result<Streaming<Svids>, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(Ask {});
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
    Ok(client.server_streaming(request, path, ProstCodec::<Ask, Svids>::default()).await?.into_inner())
}

/// The next message of a stream.
///
/// # Errors
/// The stream has ended, or ends with this.
pub async fn next(stream: &mut Streaming<Svids>) -> Result<Svids, Status> {
    stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))
}
