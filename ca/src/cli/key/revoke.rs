//! `bonafide-ca key revoke ID`.

use bonafide_verifier::key_records::{KeyRecords, Secrets};
use clap::Args;
use serde::Serialize;

use super::{In, file::KeyFile};
use crate::cli::Failure;
use crate::cli::output::Output;

/// Revoke a record with all its keys, or one key of it
///
/// The service refuses the key as soon as it has read the file again, which is within seconds.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca key revoke export-3f9a1c --file keys.toml
  bonafide-ca key revoke export-3f9a1c.1 --file keys.toml")]
pub(crate) struct Revoke {
    /// The ID of a record, or of one of its keys
    id: String,
    #[command(flatten)]
    records: In,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Revoked {
    revoked: Vec<String>,
    /// Keys of the record that stay.
    left: Vec<String>,
}

impl Revoke {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let file = KeyFile::open(&self.records.file)?;
        let Some(earlier) = file.records() else { return Err(unknown(&self.id)) };
        let mut records = earlier.records().to_vec();
        let names = |index: usize| -> Vec<String> {
            let record = earlier.records().get(index);
            record.into_iter().flat_map(|record| record.keys()).map(|(key_id, _)| key_id.to_string()).collect()
        };
        let whole = records.iter().position(|record| *record.id == *self.id);
        let of_key = || records.iter().position(|record| record.keys().any(|(key_id, _)| **key_id == *self.id));
        let Some(index) = whole.or_else(of_key) else { return Err(unknown(&self.id)) };
        let (revoked, left): (Vec<_>, Vec<_>) =
            names(index).into_iter().partition(|key_id| whole.is_some() || *key_id == self.id);
        if left.is_empty() {
            records.remove(index);
        } else if let Some(record) = records.get_mut(index) {
            match &mut record.secrets {
                Secrets::Shared(secrets) => secrets.retain(|keyed| *keyed.key_id != *self.id),
                Secrets::ApiKey(secrets) => secrets.retain(|keyed| *keyed.key_id != *self.id),
            }
        }
        let records = KeyRecords::new(earlier.trust_domain().clone(), records)
            .map_err(|(_, flaw)| Failure::Failed(flaw.to_string()))?;
        file.replace(&records)?;
        self.output.print(&Revoked { revoked, left }, |revoked| {
            let left = match revoked.left.first() {
                Some(left) => format!("; `{left}` is still good"),
                None => String::new(),
            };
            format!("revoked {}{left}", revoked.revoked.join(" and "))
        })
    }
}

pub(super) fn unknown(id: &str) -> Failure {
    Failure::Refused {
        message: format!(
            "no record and no key `{}` is in the file; `bonafide-ca key list` shows them",
            id.escape_debug()
        ),
        code: "not-found".to_owned(),
    }
}
