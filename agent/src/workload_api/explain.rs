//! Tells a process without an identity what it is told, and the operator why: the asker learns its own facts, a reference and
//! the command to run; the log has the same reference with the nearest service, what differs and the command that mends it.

use std::{path::Path, time::Duration};

use bonafide_ca_api::{Reason, refusal};
use quick_cache::sync::Cache;
use tonic::Status;
use tracing::warn;

use crate::{
    attest::{Credentials, Difference, ExecutableIdentity, Facts, nearest_miss, registration},
    view::{Position, View},
};

/// Remembers what was told to whom, so that a process that asks in a loop is told the same and logged once a while: anew when
/// what is registered has changed, since the nearest service may be another one then.
#[derive(Debug)]
pub(crate) struct Explainer {
    whoami: String,
    told: Cache<Asker, Told>,
}

/// What two refusals have in common to be one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Asker {
    uid: u32,
    gid: u32,
    executable: Option<ExecutableIdentity>,
}

#[derive(Clone, Debug)]
struct Told {
    reference: String,
    /// On the boot clock.
    at: Duration,
    /// What was registered.
    position: Option<Position>,
}

impl Explainer {
    pub(crate) fn new(socket: &Path) -> Explainer {
        let mut whoami = "bonafide-agent whoami".to_owned();
        if socket != Path::new(crate::settings::DEFAULT_SOCKET) {
            whoami.push_str(&format!(" --socket {}", socket.display()));
        }
        Explainer { whoami, told: Cache::new(ASKERS) }
    }

    /// For a process that no service matches. `facts` should be complete, for the log.
    pub(crate) fn no_identity(&self, view: &View, facts: &Facts, node: Option<&str>, boot: Duration) -> Status {
        let reference = self.reference(view, facts, node, boot);
        let message = format!(
            "no service on this node matches this process ({}); reference {reference}; as root, `{} --pid {}` says what is missing",
            facts.summary(),
            self.whoami,
            facts.pid
        );
        refusal(Reason::NoIdentity, message, None)
    }

    /// The reference under which the log explains the refusal; logs it if that has not been done lately.
    pub(crate) fn reference(&self, view: &View, facts: &Facts, node: Option<&str>, boot: Duration) -> String {
        let asker = Asker { uid: facts.uid, gid: facts.gid, executable: facts.executable };
        if let Some(told) = self.told.get(&asker)
            && boot < told.at + TOLD_FOR
            && told.position.as_ref() == view.position()
        {
            return told.reference;
        }
        let reference = new_reference();
        let position = view.position().cloned();
        self.told.insert(asker, Told { reference: reference.clone(), at: boot, position });
        let (nearest, differs, command) = match nearest_miss(view, facts) {
            Some(miss) => {
                let differs: Vec<String> = miss.differences.iter().map(difference).collect();
                (miss.service.spiffe_id.to_string(), differs.join("; "), miss.command)
            }
            None => ("none".to_owned(), "no service is registered for this node".to_owned(), registration(facts, node)),
        };
        warn!(
            reference, process = %facts.summary(), nearest, differs, command, notes = %facts.notes.join("; "),
            "no service matches this process"
        );
        reference
    }
}

/// One difference, for people.
pub(crate) fn difference(difference: &Difference) -> String {
    let found: Vec<String> = difference.found.iter().map(ToString::to_string).collect();
    let found = if found.is_empty() { "nothing of the kind".to_owned() } else { found.join(", ") };
    format!("wanted {}, found {found}", difference.wanted)
}

/// Root and the agent's own user may ask about others and about the agent.
pub(crate) fn is_operator(who: Credentials) -> bool {
    who.uid == 0 || who.uid == rustix::process::geteuid().as_raw()
}

fn new_reference() -> String {
    let mut bytes = [0; 5];
    // No secret, just a word to search for.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    data_encoding::BASE32_NOPAD.encode(&bytes)
}

/// Askers remembered; the least recent is forgotten.
const ASKERS: usize = 1024;
const TOLD_FOR: Duration = Duration::from_secs(60);
