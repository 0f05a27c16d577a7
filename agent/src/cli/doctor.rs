//! `doctor`: looks for what keeps this node or its workloads from working, each finding with what mends it.
//!
//! It works with everything broken: no agent, no CA, an unreadable directory are findings, not errors of this command.

use std::{
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bonafide_ca_api::ca_id;
use bonafide_verifier::{
    clock::{Clock, SystemClock, Timestamp},
    spiffe::{BundleSet, TrustBundle},
    x509::{PresentedChain, verify},
};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::{
    Failure, inspect,
    output::{OutputArguments, printable, when},
    socket::SocketArguments,
    status,
};
use crate::{
    attest::Binding,
    membership::svid_in_use,
    node_state::{self, NodeState, key::sha256},
    node_status::describe_offset,
    runtime_state::RuntimeState,
    settings::DEFAULT_DATA,
    state_file::StateError,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    socket: SocketArguments,

    /// The agent's data directory, for root and the agent's own user.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,

    /// The agent's directory for keys that survive its restart.
    #[arg(long, value_name = "DIR", default_value = crate::settings::DEFAULT_RUNTIME_DIR)]
    runtime_dir: PathBuf,

    #[command(flatten)]
    output: OutputArguments,
}

/// One thing looked at. The code is stable.
struct Finding {
    code: &'static str,
    state: Verdict,
    what: String,
    mend: String,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Verdict {
    Good,
    Warning,
    Bad,
    /// Could not be looked at by this user.
    Unknown,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut findings = vec![kernel()];
    let node = node(&arguments.data, &mut findings);
    findings.push(runtime_dir(&arguments.runtime_dir));
    let socket = arguments.socket.path()?;
    findings.push(socket_file(&socket));
    agent(&arguments.socket, &mut findings);
    if let Some(node) = &node {
        ca(node, &mut findings);
    }
    arguments.output.print(|| text(&findings), || json(&findings))?;
    if findings.iter().any(|finding| finding.state == Verdict::Bad) { Err(Failure::FailedAndSaid) } else { Ok(()) }
}

fn kernel() -> Finding {
    match Binding::detect(false) {
        Ok(Binding::PeerPidfd) => good("BF0101", "the kernel names the process that connects (SO_PEERPIDFD)"),
        Ok(Binding::UserOnly | Binding::ByPid) => warning(
            "BF0101",
            "the kernel does not name the process that connects (SO_PEERPIDFD, Linux 6.5): only uid and gid are attested",
            "services with unix:path or unix:sha256 need a newer kernel, or `run --attest-by-pid`, which is racy",
        ),
        Err(error) => bad("BF0101", format!("Unix sockets do not work: {error}"), ""),
    }
}

fn node(data: &Path, findings: &mut Vec<Finding>) -> Option<NodeState> {
    let place = data.display();
    let state = match node_state::peek_node(data) {
        Ok(Some(state)) => state,
        Ok(None) => {
            findings.push(bad(
                "BF0201",
                format!("no node has joined by `{place}`"),
                "bonafide-ca node invite NAME (where the CA runs), then bonafide-agent run --join STRING",
            ));
            return None;
        }
        Err(StateError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            findings.push(bad(
                "BF0201",
                format!("there is no `{place}`: no agent has run with it"),
                "give `--data` as for `run`; for a new node: bonafide-agent run --join STRING",
            ));
            return None;
        }
        Err(StateError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            findings.push(unknown("BF0201", format!("`{place}` is not this user's to look at"), "run doctor as root"));
            return None;
        }
        Err(StateError::WrongOwner { owner, .. }) => {
            findings.push(unknown("BF0201", format!("`{place}` belongs to uid {owner}"), "run doctor as that user"));
            return None;
        }
        Err(error) => {
            findings.push(bad("BF0201", error.to_string(), ""));
            return None;
        }
    };
    if !state.has_joined() {
        findings.push(bad(
            "BF0201",
            format!("this node has begun to join `{}` and not finished", state.trust_domain),
            "start the agent; if the invitation has expired, with a new one",
        ));
        return Some(state);
    }
    let now = SystemClock.now();
    match svid_in_use(&state) {
        Some(svid) if now < svid.not_before() => findings.push(bad(
            "BF0202",
            format!("{}: its SVID is not valid before {}", svid.id(), when(svid.not_before(), now)),
            "this node's clock is behind; set it right",
        )),
        Some(svid) if svid.not_after() <= now => findings.push(warning(
            "BF0202",
            format!("{}: its SVID ended at {}", svid.id(), when(svid.not_after(), now)),
            "a running agent gets a new one by itself, for 30 days after it was last connected",
        )),
        Some(svid) => {
            findings.push(good("BF0202", format!("{}, SVID until {}", svid.id(), when(svid.not_after(), now))));
        }
        None => findings.push(bad("BF0202", "the node's SVID cannot be read", "join again with a new invitation")),
    }
    Some(state)
}

fn runtime_dir(path: &Path) -> Finding {
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.uid() != rustix::process::geteuid().as_raw()) {
        return unknown("BF0301", format!("`{}` is not this user's to look at", path.display()), "run doctor as root");
    }
    match RuntimeState::examine(path) {
        Ok(()) => {
            good("BF0301", format!("`{}` is memory: workload keys survive a restart of the agent", path.display()))
        }
        Err(why) => warning("BF0301", format!("workload keys do not survive a restart of the agent: {why}"), ""),
    }
}

fn socket_file(path: &Path) -> Finding {
    let place = path.display();
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return bad("BF0401", format!("`{place}`: {error}"), "is the agent running, and is this its `--socket`?");
        }
    };
    if !metadata.file_type().is_socket() {
        return bad("BF0401", format!("`{place}` is not a socket"), "move it away and start the agent");
    }
    if metadata.mode() & 0o666 != 0o666 {
        return warning(
            "BF0401",
            format!("`{place}` has mode {:04o}: not every workload can connect", metadata.mode() & 0o7777),
            format!("chmod 666 {place}"),
        );
    }
    let closed = path.ancestors().skip(1).find(|directory| std::fs::metadata(directory).is_ok_and(is_closed));
    if let Some(closed) = closed {
        let closed = closed.display();
        return warning(
            "BF0401",
            format!("`{closed}` is closed to other users: their workloads do not get to `{place}`"),
            format!("chmod o+x {closed}"),
        );
    }
    good("BF0401", format!("`{place}` is there for every user"))
}

/// Whether others may not go through this directory.
fn is_closed(directory: std::fs::Metadata) -> bool {
    directory.mode() & 0o001 == 0
}

fn agent(socket: &SocketArguments, findings: &mut Vec<Finding>) {
    let answer = match status::ask(socket) {
        Ok(answer) => answer,
        Err(Failure::Refused(why)) => {
            findings.push(unknown(
                "BF0402",
                format!("the agent answers; its status is not this user's to see: {why}"),
                "run doctor as root",
            ));
            return;
        }
        Err(failure) => {
            findings.push(bad("BF0402", failure.to_string(), ""));
            return;
        }
    };
    findings.push(good("BF0402", format!("the agent answers, version {}", printable(&answer.version))));
    for part in &answer.health {
        let what = format!("{} {}: {}", printable(&part.part), printable(&part.state), printable(&part.reason));
        match part.state.as_str() {
            "ready" => {}
            "degraded" => findings.push(warning("BF0403", what, "")),
            _ => findings.push(bad("BF0403", what, "")),
        }
    }
    if let Some(held) = &answer.held {
        findings.push(bad(
            "BF0404",
            format!("epoch {} takes {} services of this node away", printable(&held.epoch), held.services_removed),
            format!("if the CA was restored on purpose: bonafide-agent accept-epoch {}", printable(&held.epoch)),
        ));
    }
    if answer.clock_offset_ms.unsigned_abs() >= 10_000 {
        findings.push(warning("BF0405", describe_offset(answer.clock_offset_ms), "timedatectl status"));
    }
    // What a part says of itself is not said again.
    for note in answer.notes.iter().filter(|note| answer.health.iter().all(|part| part.reason != **note)) {
        findings.push(warning("BF0406", printable(note), ""));
    }
}

fn ca(node: &NodeState, findings: &mut Vec<Finding>) {
    let mut reached = 0;
    for address in &node.addresses {
        match inspect::presented(address, inspect::DEADLINE) {
            Ok(presented) => match is_our_ca(node, &presented, SystemClock.now()) {
                Ok(()) => {
                    reached += 1;
                    findings.push(good("BF0501", format!("the CA answers at `{address}`")));
                }
                Err(why) => findings.push(bad(
                    "BF0502",
                    format!("what answers at `{address}` is not the CA of `{}`: {why}", node.trust_domain),
                    "find out what answers there; the agent does not talk to it",
                )),
            },
            Err(failure) => findings.push(warning("BF0501", failure.to_string(), "")),
        }
    }
    if reached == 0 {
        findings.push(bad(
            "BF0503",
            "no CA can be reached: what is held is served until it expires",
            "is `bonafide-ca run` running, and the way there open?",
        ));
    }
}

/// What the agent asks of whoever answers at the CA's address, too: this root, the CA's name below it, and its key.
fn is_our_ca(node: &NodeState, presented: &inspect::Presented, at: Timestamp) -> Result<(), String> {
    let root = presented.chain.last().filter(|root| sha256(root) == node.root_sha256);
    let root = root.ok_or_else(|| format!("it shows another root than {}", HEXLOWER.encode(&node.root_sha256)))?;
    let bundle = TrustBundle::parse_der(node.trust_domain.clone(), root).map_err(|error| error.to_string())?;
    let bundles = BundleSet::empty().with(Arc::new(bundle));
    let verified = PresentedChain::leaf_first(&presented.chain).and_then(|chain| verify(&chain, &bundles, at));
    let peer = verified.map_err(|error| error.to_string())?;
    let expected = ca_id(&node.trust_domain);
    if *peer.id() != expected {
        return Err(format!("it is `{}`, not `{expected}`", peer.id()));
    }
    match &presented.unproved {
        None => Ok(()),
        Some(why) => Err(format!("it did not prove that it has the key of the certificate it shows: {why}")),
    }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        text.push_str(&format!("{:8} {}  {}\n", finding.state.name(), finding.code, finding.what));
        if !finding.mend.is_empty() {
            text.push_str(&format!("{:17}-> {}\n", "", finding.mend));
        }
    }
    let bad = findings.iter().filter(|finding| finding.state == Verdict::Bad).count();
    let warnings = findings.iter().filter(|finding| finding.state == Verdict::Warning).count();
    text.push_str(&format!("{bad} bad, {warnings} warnings\n"));
    text
}

fn json(findings: &[Finding]) -> Value {
    let list: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({ "code": finding.code, "state": finding.state.name(), "what": finding.what, "mend": finding.mend })
        })
        .collect();
    json!({ "findings": list })
}

fn good(code: &'static str, what: impl Into<String>) -> Finding {
    Finding { code, state: Verdict::Good, what: what.into(), mend: String::new() }
}

fn warning(code: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { code, state: Verdict::Warning, what: what.into(), mend: mend.into() }
}

fn bad(code: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { code, state: Verdict::Bad, what: what.into(), mend: mend.into() }
}

fn unknown(code: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { code, state: Verdict::Unknown, what: what.into(), mend: mend.into() }
}

#[cfg(test)]
mod tests;
