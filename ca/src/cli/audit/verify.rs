//! `bonafide-ca audit verify`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ShownHead;
use crate::audit::{Head, verify_file};
use crate::cli::output::{self, Output};
use crate::cli::{At, Failure};

/// Verify that no record was changed, added or taken away
///
/// Recomputes every hash and checks every signed head against the authorities that the root certified. A tail that was cut off
/// together with its heads shows only against a head that was exported before: give it with `--head`. Works with the CA up or
/// down. Exit code 3 and the first broken record, if the log does not hold.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca audit verify
  bonafide-ca audit export --head-only > head.json; …; bonafide-ca audit verify --head head.json")]
pub(crate) struct Verify {
    /// A head from `audit export`, alone or at the end of an export: the log must contain it
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Verdict {
    records: u64,
    signed_heads: u64,
    head: ShownHead,
}

#[derive(Deserialize)]
struct Line {
    head: ShownHead,
}

impl Verify {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let expected = self.head.as_deref().map(read_head).transpose()?;
        let database = super::open(&self.at.data)?;
        let verified = verify_file(&database, expected).map_err(super::no_verdict)?;
        let verdict =
            Verdict { records: verified.records, signed_heads: verified.heads, head: (&verified.head).into() };
        self.output.print(&verdict, |verdict| {
            format!(
                "the audit log holds: {} records, {} signed heads\n{}",
                verdict.records,
                verdict.signed_heads,
                output::list([("head", format!("record {} {}", verdict.head.seq, verdict.head.hash))])
            )
        })
    }
}

/// The head in the last line of a file.
fn read_head(path: &Path) -> Result<Head, Failure> {
    let shown = path.display();
    let usage = |problem: String| Failure::Usage(format!("--head=`{shown}`: {problem}"));
    let mut file = File::open(path).map_err(|error| usage(format!("cannot be opened: {error}")))?;
    // An export can be long; its head is at its end.
    let length = file.metadata().map_err(|error| usage(error.to_string()))?.len();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(length.saturating_sub(TAIL)))
        .map_err(|error| usage(error.to_string()))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).map_err(|error| usage(format!("cannot be read: {error}")))?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str::<Line>(line).ok().and_then(|line| line.head.to_head()).ok_or_else(|| {
        usage("its last line is no head; make one with `bonafide-ca audit export --head-only`".to_owned())
    })
}

const TAIL: u64 = 4096;
