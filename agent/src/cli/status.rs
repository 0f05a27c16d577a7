//! `status`: how the agent is.

use bonafide_verifier::clock::{Clock, SystemClock, Timestamp};
use serde_json::{Value, json};

use super::{
    Failure,
    output::{OutputArguments, printable, table, time_json, when},
    socket::{SocketArguments, refused},
};
use crate::{
    generated::local::{StatusRequest, StatusResponse, local_client::LocalClient},
    node_status::describe_offset,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,

    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let answer = ask(&arguments.socket)?;
    let now = SystemClock.now();
    arguments.output.print(|| text(&answer, now), || json(&answer))
}

/// Asks the agent for its status.
pub(super) fn ask(socket: &SocketArguments) -> Result<StatusResponse, Failure> {
    socket.ask(async |channel| {
        let answer = LocalClient::new(channel).status(StatusRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| refused(&status))
    })
}

fn text(answer: &StatusResponse, now: Timestamp) -> String {
    let mut rows = Vec::new();
    let node = if answer.node.is_empty() {
        format!("not a member of `{}`", printable(&answer.trust_domain))
    } else {
        let until = Timestamp::from_unix_millis(answer.node_not_after_ms);
        format!("{}  (SVID until {})", printable(&answer.node), when(until, now))
    };
    rows.push(("node", node));
    let ca = if answer.ca_address.is_empty() {
        "not connected".to_owned()
    } else {
        let since = Timestamp::from_unix_millis(answer.connected_since_ms);
        format!("{}, connected since {}", printable(&answer.ca_address), when(since, now))
    };
    rows.push(("ca", ca));
    if answer.clock_offset_ms.unsigned_abs() >= 1000 {
        rows.push(("clock", describe_offset(answer.clock_offset_ms)));
    }
    let position = if answer.epoch.is_empty() {
        "nothing applied yet".to_owned()
    } else {
        format!(
            "version {} of epoch {}, bundle sequence {}",
            answer.registry_version,
            printable(&answer.epoch),
            answer.bundle_sequence
        )
    };
    rows.push(("registry", position));
    if let Some(held) = &answer.held {
        rows.push((
            "held",
            format!(
                "epoch {} takes {} services of this node away; if the CA was restored on purpose: \
                 bonafide-agent accept-epoch {}",
                printable(&held.epoch),
                held.services_removed,
                printable(&held.epoch)
            ),
        ));
    }
    if answer.services.is_empty() {
        rows.push(("services", "none".to_owned()));
    }
    for (index, service) in answer.services.iter().enumerate() {
        let svid = match service.not_after_ms {
            0 => "no SVID".to_owned(),
            millis => format!("SVID until {}", when(Timestamp::from_unix_millis(millis), now)),
        };
        let streams = match service.streams {
            0 => String::new(),
            1 => ", 1 stream".to_owned(),
            many => format!(", {many} streams"),
        };
        let failed =
            if service.last_error.is_empty() { String::new() } else { format!("; {}", printable(&service.last_error)) };
        rows.push((
            if index == 0 { "services" } else { "" },
            format!("{}  ({svid}{streams}{failed})", printable(&service.spiffe_id)),
        ));
    }
    if let Some(tokens) = &answer.token_service {
        let delegation = if tokens.key_id.is_empty() {
            "no delegation".to_owned()
        } else {
            let until = when(Timestamp::from_unix_millis(tokens.expires_at_ms), now);
            let edges: Vec<_> = tokens.edges.iter().map(|edge| printable(edge)).collect();
            format!("delegated until {until} for {}", edges.join(", "))
        };
        rows.push(("tokens", format!("{delegation}; {} records wait for the CA", tokens.log_waiting)));
    }
    for (index, part) in answer.health.iter().enumerate() {
        let reason = if part.reason.is_empty() { String::new() } else { format!(": {}", printable(&part.reason)) };
        rows.push((if index == 0 { "health" } else { "" }, format!("{} {}{reason}", part.part, part.state)));
    }
    for (index, note) in answer.notes.iter().enumerate() {
        rows.push((if index == 0 { "notes" } else { "" }, printable(note)));
    }
    rows.push(("version", printable(&answer.version)));
    table(&rows)
}

fn json(answer: &StatusResponse) -> Value {
    json!({
        "version": answer.version,
        "trust_domain": answer.trust_domain,
        "node": answer.node,
        "node_not_after": time_json(answer.node_not_after_ms),
        "ca_address": answer.ca_address,
        "connected_since": time_json(answer.connected_since_ms),
        "clock_offset_ms": answer.clock_offset_ms,
        "epoch": answer.epoch,
        "registry_version": answer.registry_version,
        "bundle_sequence": answer.bundle_sequence,
        "held": answer.held.as_ref().map(|held| json!({
            "epoch": held.epoch, "services_removed": held.services_removed,
        })),
        "services": answer.services.iter().map(|service| json!({
            "spiffe_id": service.spiffe_id,
            "not_after": time_json(service.not_after_ms),
            "renew_at": time_json(service.renew_at_ms),
            "streams": service.streams,
            "last_error": service.last_error,
        })).collect::<Vec<_>>(),
        "token_service": answer.token_service.as_ref().map(|tokens| json!({
            "key_id": tokens.key_id,
            "expires_at": time_json(tokens.expires_at_ms),
            "edges": tokens.edges,
            "log_waiting": tokens.log_waiting,
            "log_bytes": tokens.log_bytes,
        })),
        "health": answer.health.iter().map(|part| json!({
            "part": part.part, "state": part.state, "reason": part.reason,
        })).collect::<Vec<_>>(),
        "notes": answer.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::local::{HealthPart, HeldEpoch, ServiceStatus, TokenService};

    #[test]
    fn what_people_read() {
        let answer = StatusResponse {
            version: "0.1.0".into(),
            trust_domain: "example.org".into(),
            node: "spiffe://example.org/bonafide/node/n1".into(),
            node_not_after_ms: 1_000_060_000,
            ca_address: String::new(),
            epoch: "e1".into(),
            registry_version: 7,
            bundle_sequence: 3,
            held: Some(HeldEpoch { epoch: "e2".into(), services_removed: 2 }),
            services: vec![ServiceStatus {
                spiffe_id: "spiffe://example.org/a".into(),
                not_after_ms: 1_000_010_000,
                renew_at_ms: 0,
                streams: 2,
                last_error: "no connection".into(),
            }],
            health: vec![HealthPart { part: "sync".into(), state: "degraded".into(), reason: "held".into() }],
            notes: vec!["swap is on".into()],
            clock_offset_ms: -42_000,
            token_service: Some(TokenService {
                key_id: "k".into(),
                expires_at_ms: 1_000_010_000,
                edges: vec!["spiffe://example.org/a".into()],
                log_waiting: 3,
                log_bytes: 900,
            }),
            ..StatusResponse::default()
        };
        let expected = "\
node      spiffe://example.org/bonafide/node/n1  (SVID until 1970-01-12T13:47:40Z (in 60 s))
ca        not connected
clock     this node's clock is 42 s ahead of the CA's; set the wrong one of the two, or certificates count as expired or not yet valid
registry  version 7 of epoch e1, bundle sequence 3
held      epoch e2 takes 2 services of this node away; if the CA was restored on purpose: bonafide-agent accept-epoch e2
services  spiffe://example.org/a  (SVID until 1970-01-12T13:46:50Z (in 10 s), 2 streams; no connection)
tokens    delegated until 1970-01-12T13:46:50Z (in 10 s) for spiffe://example.org/a; 3 records wait for the CA
health    sync degraded: held
notes     swap is on
version   0.1.0
";
        assert_eq!(text(&answer, Timestamp::from_unix_seconds(1_000_000)), expected);
        assert_eq!(json(&answer)["connected_since"], Value::Null);
    }
}
