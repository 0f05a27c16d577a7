//! `bonafide-ca node`: invite, list, show, remove.

mod invite;
mod list;
mod remove;
mod show;

use std::collections::BTreeMap;

use bonafide_ca_api::generated::admin;
use clap::Subcommand;
use serde::Serialize;

pub(super) use self::list::all_nodes;
use super::{Failure, output};

/// Invite, list, show and remove nodes
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    Invite(invite::Invite),
    List(list::List),
    Show(show::Show),
    Remove(remove::Remove),
}

impl Node {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Invite(invite) => invite.run(),
            Self::List(list) => list.run(),
            Self::Show(show) => show.run(),
            Self::Remove(remove) => remove.run(),
        }
    }
}

/// A node as JSON shows it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) joined_at: Option<String>,
    pub(super) last_seen: Option<String>,
    pub(super) connected: bool,
    pub(super) connected_since: Option<String>,
    pub(super) replaced_streams: u32,
    pub(super) replaced_stream_address: Option<String>,
    pub(super) address: String,
    pub(super) acknowledged_epoch: String,
    pub(super) acknowledged_version: u64,
    pub(super) refused_update: Option<String>,
    pub(super) agent_version: String,
    pub(super) clock_offset_ms: i64,
    pub(super) stale_key_attempts: u32,
    pub(super) stale_key_last_at: Option<String>,
    pub(super) stale_key_last_address: Option<String>,
    pub(super) key_sha256: String,
    pub(super) key_pending: bool,
    pub(super) services: u32,
    pub(super) invitation: Option<ShownInvitation>,
}

/// The open invitation of a node as JSON shows it.
#[derive(Debug, Serialize)]
pub(super) struct ShownInvitation {
    pub(super) created_at: Option<String>,
    pub(super) expires_at: Option<String>,
    pub(super) bound_at: Option<String>,
    pub(super) bound_from: Option<String>,
    pub(super) replaces: bool,
}

impl From<&admin::Node> for Shown {
    fn from(node: &admin::Node) -> Self {
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            name: node.name.clone(),
            state: node.state.clone(),
            labels: node.labels.clone().into_iter().collect(),
            joined_at: output::time(node.joined_at_ms),
            last_seen: output::time(node.last_seen_ms),
            connected: node.connected,
            connected_since: output::time(node.connected_since_ms),
            replaced_streams: node.replaced_streams,
            replaced_stream_address: text(&node.replaced_stream_address),
            address: node.address.clone(),
            acknowledged_epoch: node.acknowledged_epoch.clone(),
            acknowledged_version: node.acknowledged_version,
            refused_update: text(&node.refused_update),
            agent_version: node.agent_version.clone(),
            clock_offset_ms: node.clock_offset_ms,
            stale_key_attempts: node.stale_key_attempts,
            stale_key_last_at: output::time(node.stale_key_last_ms),
            stale_key_last_address: text(&node.stale_key_last_address),
            key_sha256: node.key_fingerprint.clone(),
            key_pending: node.key_pending,
            services: node.services,
            invitation: node.invitation.as_ref().map(|invitation| ShownInvitation {
                created_at: output::time(invitation.created_at_ms),
                expires_at: output::time(invitation.expires_at_ms),
                bound_at: output::time(invitation.bound_at_ms),
                bound_from: text(&invitation.bound_from),
                replaces: invitation.replaces,
            }),
        }
    }
}

impl Shown {
    /// `group=web,zone=b`.
    pub(super) fn labels(&self) -> String {
        self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    }

    /// What an operator should look at.
    pub(super) fn notes(&self) -> String {
        let mut notes = Vec::new();
        if self.stale_key_attempts > 0 {
            notes.push(format!("older key used {} times: a copy of its disk is in use", self.stale_key_attempts));
        }
        if self.replaced_streams >= COPIES_NOTE {
            let from = self.replaced_stream_address.as_deref().unwrap_or("unknown");
            notes.push(format!(
                "its stream was replaced {} times, last from {from}: two copies of its state may be running",
                self.replaced_streams
            ));
        }
        if let Some(reason) = &self.refused_update {
            notes.push(format!("refused an update: {reason}"));
        }
        if self.connected && self.clock_offset_ms.abs() >= CLOCK_NOTE_MS {
            let sign = if self.clock_offset_ms > 0 { "ahead of" } else { "behind" };
            notes.push(format!("its clock is {} s {sign} the CA's", self.clock_offset_ms.abs() / 1000));
        }
        if let Some(invitation) = &self.invitation {
            let expires = invitation.expires_at.as_deref().unwrap_or("never");
            notes.push(match &invitation.bound_at {
                None => format!("invitation open until {expires}"),
                Some(at) => format!("invitation redeemed at {at}, not synced yet"),
            });
        }
        notes.join("; ")
    }
}

const CLOCK_NOTE_MS: i64 = 10_000;
/// A lost connection makes one or two; two agents that fight over a key, ever more.
const COPIES_NOTE: u32 = 5;
