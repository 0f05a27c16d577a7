//! An edge that has transaction tokens minted by its agent with the least code that can: the wire messages, one call.

use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Request, Status, client::Grpc, metadata::MetadataValue, transport::Channel};
use tonic_prost::ProstCodec;

/// `ExchangeRequest`, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
pub struct Exchange {
    /// The user's token.
    #[prost(string, tag = "1")]
    pub subject_token: String,
    /// What kind of token that is.
    #[prost(string, tag = "2")]
    pub subject_token_type: String,
    /// What for.
    #[prost(string, tag = "3")]
    pub scope: String,
}

/// `ExchangeResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Exchanged {
    /// The transaction token.
    #[prost(string, tag = "1")]
    pub token: String,
    /// When it ends.
    #[prost(int64, tag = "2")]
    pub expires_at_ms: i64,
    /// What for.
    #[prost(string, tag = "3")]
    pub scope: String,
}

/// One exchange over a connection that is there.
///
/// # Errors
/// The agent's refusal.
pub async fn exchange(channel: &Channel, wanted: &Exchange) -> Result<Exchanged, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(wanted.clone());
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let path = PathAndQuery::from_static("/bonafide.tokens.v1.Tokens/Exchange");
    Ok(client.unary(request, path, ProstCodec::<Exchange, Exchanged>::default()).await?.into_inner())
}
