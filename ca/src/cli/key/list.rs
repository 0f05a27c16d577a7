//! `bonafide-ca key list`.

use bonafide_verifier::{
    clock::{Clock as _, SystemClock, Timestamp},
    key_records::{KeyRecord, KeyRecords},
};
use clap::Args;
use serde::Serialize;

use super::{In, file::records_in, output};
use crate::cli::Failure;
use crate::cli::output::Output;

/// List the key records of a file; no secret is shown
///
/// When a key was last used is known by the service that takes it.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  bonafide-ca key list --file keys.toml\n  bonafide-ca key list --file keys.toml --output json"
)]
pub(crate) struct List {
    #[command(flatten)]
    records: In,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Listing {
    keys: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    kind: &'static str,
    owner: String,
    audience: String,
    roles: Vec<String>,
    keys: Vec<ShownKey>,
    expires_at: String,
    expired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_lifetime_s: Option<u64>,
}

#[derive(Serialize)]
struct ShownKey {
    key_id: String,
    created_at: String,
}

impl Shown {
    fn of(record: &KeyRecord, now: Timestamp) -> Self {
        let shared = record.kind() == bonafide_verifier::key_records::KeyKind::SharedSecret;
        let key = |(key_id, created_at): (&std::sync::Arc<str>, Timestamp)| ShownKey {
            key_id: key_id.to_string(),
            created_at: created_at.to_string(),
        };
        Self {
            id: record.id.to_string(),
            kind: record.kind().as_str(),
            owner: record.owner.to_string(),
            audience: record.audience.to_string(),
            roles: record.roles.iter().map(ToString::to_string).collect(),
            keys: record.keys().map(key).collect(),
            expires_at: record.expires_at.to_string(),
            expired: record.has_expired(now),
            max_lifetime_s: shared.then_some(record.most_lifetime.as_secs()),
        }
    }
}

impl List {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let records = records_in(&self.records.file)?;
        let now = SystemClock.now();
        let records = records.as_ref().map(KeyRecords::records).unwrap_or_default();
        let keys = records.iter().map(|record| Shown::of(record, now)).collect();
        self.output.print(&Listing { keys }, |listing| {
            if listing.keys.is_empty() {
                return "no keys; create one with `bonafide-ca key create`".to_owned();
            }
            let rows = listing.keys.iter().map(|shown| {
                let keys: Vec<_> = shown.keys.iter().map(|key| key.key_id.as_str()).collect();
                let ended = if shown.expired { " (ended)" } else { "" };
                vec![
                    shown.id.clone(),
                    shown.kind.to_owned(),
                    shown.owner.clone(),
                    shown.audience.clone(),
                    shown.roles.join(" "),
                    keys.join(" "),
                    format!("{}{ended}", shown.expires_at),
                ]
            });
            output::table(&["ID", "KIND", "OWNER", "AUDIENCE", "ROLES", "KEYS", "UNTIL"], rows)
        })
    }
}
