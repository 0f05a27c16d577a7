//! `bonafide-ca audit export`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::ShownHead;
use crate::audit::{Head, verify_file};
use crate::cli::{At, Failure, output};

/// Print every record as a line of JSON, the oldest first, and at the end the head
///
/// The log is verified first: what does not hold is not exported. The last line, `{"head": …}`, is what `audit verify --head`
/// takes. Works with the CA up or down.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca audit export > audit.jsonl
  bonafide-ca audit export --after 1000 >> audit.jsonl
  bonafide-ca audit export --head-only > head.json")]
pub(crate) struct Export {
    /// Only records after this one
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// The head alone
    #[arg(long)]
    head_only: bool,
    #[command(flatten)]
    at: At,
}

impl Export {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let database = super::open(&self.at.data)?;
        let unreadable = |error| Failure::Failed(format!("the audit log cannot be read: {error}"));
        let head = verify_file(&database, None).map_err(super::no_verdict)?.head;
        let mut after = self.after;
        while !self.head_only && after < head.seq {
            let chunk = database.read(|reader| reader.records_after(&head.chain, after, CHUNK)).map_err(unreadable)?;
            let mut lines = String::new();
            let before = after;
            for (row, hash) in chunk.iter().filter(|(row, _)| row.seq <= head.seq) {
                after = row.seq;
                // The body is JSON already, exactly the bytes that were hashed.
                let hash = data_encoding::HEXLOWER.encode(hash);
                let (at, kind) = (json!(row.at.to_string()), json!(row.kind));
                let (seq, at_ms, body) = (row.seq, row.at.unix_millis(), &row.body);
                // Writing to a `String` does not fail.
                let _ = writeln!(
                    lines,
                    r#"{{"seq":{seq},"at":{at},"at_ms":{at_ms},"kind":{kind},"hash":"{hash}","body":{body}}}"#
                );
            }
            if after == before {
                break;
            }
            output::print_bytes(lines.as_bytes())?;
        }
        output::print(&head_line(&head))
    }
}

fn head_line(head: &Head) -> String {
    json!({ "head": ShownHead::from(head) }).to_string()
}

const CHUNK: u32 = 1000;
