//! `bonafide-ca audit list`.

use bonafide_verifier::clock::{Clock as _, SystemClock, Timestamp};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::audit::{Entry, Filter, Kind, page};
use crate::cli::output::{self, Output};
use crate::cli::{At, Failure};
use crate::settings::duration;

/// List records, the newest first
///
/// Works with the CA up or down.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca audit list --limit 20
  bonafide-ca audit list --kind node-joined --kind node-removed --since 7d
  bonafide-ca audit list --spiffe-id spiffe://example.org/photo --output json")]
pub(crate) struct List {
    /// Only records of this kind, for example `service-added`; may be repeated
    #[arg(long = "kind", value_name = "KIND", value_parser = parse_kind)]
    kinds: Vec<Kind>,
    /// Only records about this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only records about this SPIFFE ID
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Only records from then on: a time as `2026-11-23T10:00:00Z`, or how long ago, as `7d`
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// At most this many
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Listing {
    records: Vec<Record>,
}

#[derive(Serialize)]
struct Record {
    seq: u64,
    at: String,
    kind: String,
    body: Value,
}

impl List {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let database = super::open(&self.at.data)?;
        let mut filter = Filter {
            since: self.since,
            kinds: self.kinds,
            node: self.node,
            spiffe_id: self.spiffe_id,
            before: None,
            limit: 0,
        };
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut records = Vec::new();
        loop {
            filter.limit = u32::try_from(limit - records.len()).unwrap_or(u32::MAX);
            let page = database
                .read(|reader| page(reader, &filter))
                .map_err(|error| Failure::Failed(format!("the audit log cannot be read: {error}")))?;
            records.extend(page.entries.into_iter().map(Record::from));
            filter.before = page.next;
            if page.next.is_none() || records.len() >= limit {
                break;
            }
        }
        self.output.print(&Listing { records }, |listing| {
            let rows = listing.records.iter().map(|record| {
                vec![
                    record.seq.to_string(),
                    record.at.clone(),
                    record.kind.clone(),
                    record.body.get("who").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    summary(&record.body),
                ]
            });
            output::table(&["SEQ", "TIME", "KIND", "WHO", "WHAT"], rows)
        })
    }
}

impl From<Entry> for Record {
    fn from(entry: Entry) -> Self {
        // A body that is no JSON was not written by us; `audit verify` says so.
        let body = serde_json::from_str(&entry.body).unwrap_or(Value::String(entry.body));
        Self { seq: entry.seq, at: entry.at.to_string(), kind: entry.kind, body }
    }
}

/// What it is about, in a line: whom, then how it differs from others.
fn summary(body: &Value) -> String {
    let Value::Object(fields) = body else { return body.to_string() };
    // What an agent's record says of a token that it has minted stands in the CA's.
    let fields = fields.get("token").and_then(Value::as_object).unwrap_or(fields);
    let first = ["spiffe_id", "node", "authority", "name", "epoch", "url", "sub", "scope", "id", "txn"];
    let then = ["serial", "selectors", "on", "placements", "kind", "reason", "expires_at", "key", "from"];
    let shown = first.into_iter().chain(then).filter_map(|name| {
        let value = fields.get(name)?;
        let text = match value {
            Value::String(text) => text.chars().take(64).collect(),
            other => other.to_string().chars().take(120).collect::<String>(),
        };
        Some(if name == "spiffe_id" { text } else { format!("{name}={text}") })
    });
    shown.take(4).collect::<Vec<_>>().join(" ")
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::parse(text).ok_or_else(|| {
        let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("there are {}", kinds.join(", "))
    })
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = duration::parse(text) {
        return Ok(SystemClock.now().saturating_sub(ago));
    }
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "give a time as `2026-11-23T10:00:00Z`, or how long ago, as `7d` or `1h30m`".to_owned())?;
    Ok(Timestamp::from_unix_seconds(at.unix_timestamp()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_record_is_about_in_a_line() {
        for (body, expected) in [
            (
                json!({ "who": "uid 0", "spiffe_id": "spiffe://example.org/a", "serial": "1f" }),
                "spiffe://example.org/a serial=1f",
            ),
            (
                json!({ "who": "service", "token": "at+jwt", "sub": "spiffe://example.org/a", "scope": "a b", "id": "1" }),
                "sub=spiffe://example.org/a scope=a b id=1",
            ),
            (
                json!({ "node": "n1", "seq": 1, "token": { "txn": "t", "sub": "corp:c", "scope": "a", "key_id": "k" } }),
                "sub=corp:c scope=a txn=t",
            ),
            (json!({ "issuer": "corp", "url": "https://login.example.com" }), "url=https://login.example.com"),
            (json!({ "x": 1 }), ""),
        ] {
            assert_eq!(summary(&body), expected);
        }
    }
}
