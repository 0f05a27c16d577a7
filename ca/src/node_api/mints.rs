//! What a node has minted since the last time: checked record by record against the chain of its log, then written into the audit log.

use bonafide_ca_api::{
    MintChain, Reason,
    generated::node::{CollectMintsRequest, CollectMintsResponse},
};
use tracing::{debug, error};

use super::{NodeApi, peer::NodeCaller, refuse::Refused};
use crate::{
    registry::{Mint, Stretch},
    store::WriteError,
};

/// Takes a stretch of the log.
///
/// # Errors
/// Its records do not follow one another, there are more than a node may send now, or they could not be written.
pub(super) async fn collect(
    api: &NodeApi,
    caller: &NodeCaller,
    request: CollectMintsRequest,
) -> Result<CollectMintsResponse, Refused> {
    let stretch = read(request)?;
    let wanted = stretch.records.len();
    let snapshot = api.registry.load();
    let is_edge = snapshot.services_of(caller.node_in(&snapshot)?).iter().any(|service| service.edge.is_some());
    let taken = api.quota.mints(caller.name(), is_edge, wanted, api.clock.boot());
    if taken.granted < wanted {
        return Err(Refused::for_now(
            Reason::Quota,
            format!("{wanted} records of minted tokens are more than this node may send now"),
            taken.retry_after.max(LEAST_PAUSE),
        ));
    }
    let collected = match api.registry.collect_mints(caller.name().clone(), stretch).await {
        Ok(collected) => collected,
        Err(WriteError::Refused(never)) => match never {},
        Err(WriteError::Store(fault)) => return Err(fault.into()),
    };
    if let Some(alarm) = &collected.alarm {
        error!(node = %caller.name(), reason = alarm.code(), error = %alarm, "the mint log of a node is not whole");
    }
    api.metrics.minted(collected.new, collected.alarm.is_some());
    debug!(node = %caller.name(), seq = collected.seq, records = collected.new, "collected what a node minted");
    Ok(CollectMintsResponse { collected: collected.seq })
}

/// The records with the hashes that the chain gives them, if they are such as an agent writes.
pub(super) fn read(request: CollectMintsRequest) -> Result<Stretch, Refused> {
    let invalid = |what: String| Refused::because(Reason::MintLogInvalid, what);
    let log = request.log;
    let is_name = (1..=MOST_NAME).contains(&log.len()) && log.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_name {
        return Err(invalid(format!("the log's name is not 1 to {MOST_NAME} printable characters")));
    }
    let previous: [u8; 32] =
        request.previous.as_slice().try_into().map_err(|_| invalid("the hash before it has not 32 bytes".into()))?;
    let count = request.records.len();
    let Some(first) = request.records.first().map(|record| record.seq).filter(|seq| *seq > 0) else {
        return Err(invalid("it has no record, or one before the first".into()));
    };
    if count > MintChain::MOST_RECORDS {
        return Err(invalid(format!("{count} records, at most {} in one request", MintChain::MOST_RECORDS)));
    }
    let mut chain = MintChain { log, seq: first - 1, hash: previous };
    let mut records = Vec::with_capacity(count);
    for record in request.records {
        if record.body.len() > MintChain::MOST_BODY {
            return Err(invalid(format!("record {} has {} bytes", record.seq, record.body.len())));
        }
        chain.advance(record.at_ms, &record.body);
        if record.seq != chain.seq {
            return Err(invalid(format!("record {} stands where {} belongs", record.seq, chain.seq)));
        }
        let body = String::from_utf8(record.body).ok().filter(|body| is_object(body));
        let body = body.ok_or_else(|| invalid(format!("record {} is no JSON object", record.seq)))?;
        records.push(Mint { seq: record.seq, at_ms: record.at_ms, body, hash: chain.hash });
    }
    Ok(Stretch { log: chain.log, previous, records })
}

fn is_object(body: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(body).is_ok()
}

/// A UUID has 36.
const MOST_NAME: usize = 64;
const LEAST_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
