//! The body of a kept SVID: first what it is bound to, then the rest, which is not looked at before the first holds.

use bonafide_verifier::{clock::Timestamp, spiffe::SpiffeId};
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use super::KeptSvid;

#[derive(Clone, PartialEq, Message)]
struct Bound {
    #[prost(string, tag = "1")]
    boot_id: String,
    #[prost(bytes = "vec", tag = "2")]
    node_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    svid: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredSvid {
    #[prost(string, tag = "1")]
    service_id: String,
    #[prost(bytes = "vec", tag = "2")]
    service_digest: Vec<u8>,
    #[prost(string, tag = "3")]
    spiffe_id: String,
    #[prost(bytes = "vec", repeated, tag = "4")]
    chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "5")]
    key_pkcs8: Vec<u8>,
    #[prost(int64, tag = "6")]
    not_before_ms: i64,
    #[prost(int64, tag = "7")]
    not_after_ms: i64,
    #[prost(int64, tag = "8")]
    renew_at_ms: i64,
}

pub(crate) fn encode(svid: &KeptSvid, boot_id: &str, node_key: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let mut stored = StoredSvid {
        service_id: svid.service_id.to_string(),
        service_digest: svid.service_digest.to_vec(),
        spiffe_id: svid.spiffe_id.as_str().to_owned(),
        chain: svid.chain.clone(),
        key_pkcs8: svid.key_pkcs8.to_vec(),
        not_before_ms: svid.not_before.unix_millis(),
        not_after_ms: svid.not_after.unix_millis(),
        renew_at_ms: svid.renew_at.unix_millis(),
    };
    let bound = Bound { boot_id: boot_id.to_owned(), node_key: node_key.to_vec(), svid: stored.encode_to_vec() };
    stored.key_pkcs8.zeroize();
    enclose(bound)
}

/// The same content, bound to another node key.
pub(crate) fn rebind(body: &[u8], node_key: &[u8; 32]) -> Option<Zeroizing<Vec<u8>>> {
    let bound = Bound::decode(body).ok()?;
    Some(enclose(Bound { node_key: node_key.to_vec(), ..bound }))
}

/// The SVID in these bytes, once `admit` has taken the boot id and node key it is bound to.
pub(crate) fn decode(
    body: &[u8],
    admit: impl FnOnce(&str, &[u8; 32]) -> Result<(), &'static str>,
) -> Result<KeptSvid, String> {
    let mut bound = Bound::decode(body).map_err(|error| format!("the content does not decode: {error}"))?;
    let inner = Zeroizing::new(std::mem::take(&mut bound.svid));
    let node_key = <&[u8; 32]>::try_from(bound.node_key.as_slice()).map_err(|_| "it is bound to no node key")?;
    admit(&bound.boot_id, node_key)?;
    let mut stored =
        StoredSvid::decode(inner.as_slice()).map_err(|error| format!("the SVID does not decode: {error}"))?;
    let key_pkcs8 = Zeroizing::new(std::mem::take(&mut stored.key_pkcs8));
    Ok(KeptSvid {
        service_id: stored.service_id.into(),
        service_digest: stored.service_digest.try_into().map_err(|_| "it names no service")?,
        spiffe_id: SpiffeId::parse(&stored.spiffe_id).map_err(|error| error.to_string())?,
        chain: stored.chain,
        key_pkcs8,
        not_before: Timestamp::from_unix_millis(stored.not_before_ms),
        not_after: Timestamp::from_unix_millis(stored.not_after_ms),
        renew_at: Timestamp::from_unix_millis(stored.renew_at_ms),
    })
}

fn enclose(mut bound: Bound) -> Zeroizing<Vec<u8>> {
    let bytes = Zeroizing::new(bound.encode_to_vec());
    bound.svid.zeroize();
    bytes
}
