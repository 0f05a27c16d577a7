//! Reading the log: the newest first, filtered, a page at a time.

use std::sync::Arc;

use bonafide_verifier::clock::Timestamp;
use serde_json::Value;

use super::Kind;
use crate::store::{Reader, TxError};

/// Which records to show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Not older than this.
    pub(crate) since: Option<Timestamp>,
    /// Of these kinds; none: all.
    pub(crate) kinds: Vec<Kind>,
    /// About that node.
    pub(crate) node: Option<String>,
    /// About that SPIFFE ID.
    pub(crate) spiffe_id: Option<String>,
    /// Older than this record: the last of the page before.
    pub(crate) before: Option<u64>,
    /// At most this many.
    pub(crate) limit: u32,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) at: Timestamp,
    pub(crate) kind: String,
    /// JSON, as it was hashed.
    pub(crate) body: String,
}

/// Records, the newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// Where to go on: [`Filter::before`]. None: there are no more.
    pub(crate) next: Option<u64>,
}

/// One page. Looks at no more than 100,000 records, so that it always comes back soon; a page may hold fewer than asked for,
/// or none, and still have a next one.
pub(crate) fn page(reader: &Reader<'_>, filter: &Filter) -> Result<Page, TxError> {
    let chain: Arc<str> = reader.trust_domain()?.audit_chain;
    let mut page = Page::default();
    let mut before = filter.before.unwrap_or(u64::MAX);
    let limit = usize::try_from(filter.limit.clamp(1, MOST)).unwrap_or(1);
    for _ in 0..(SCANNED / CHUNK) {
        let rows = reader.records_before(&chain, before, CHUNK)?;
        let last = rows.len() < usize::try_from(CHUNK).unwrap_or(0);
        for row in rows {
            before = row.seq;
            // Records follow the clock, which can go back a little, or be set back by an operator's word.
            if filter.since.is_some_and(|since| row.at.saturating_add(SLACK) < since) {
                return Ok(page);
            }
            if filter.matches(&row.kind, row.at, &row.body) {
                page.entries.push(Entry { seq: row.seq, at: row.at, kind: row.kind, body: row.body });
                if page.entries.len() == limit {
                    page.next = Some(before);
                    return Ok(page);
                }
            }
        }
        if last {
            return Ok(page);
        }
    }
    page.next = Some(before);
    Ok(page)
}

/// When the last SVID ends that a service has, or that the services on a node have, by what was issued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LastExpiry {
    /// The latest end that was found; none: all have ended.
    pub(crate) at: Option<Timestamp>,
    /// Whether everything was looked at that may count; else there may be a later one.
    pub(crate) is_complete: bool,
}

/// See [`LastExpiry`]. `about` names the service or the node, and since when what was issued may still be valid. A node's own SVID
/// does not count: no policy takes it for a service.
pub(crate) fn last_expiry(reader: &Reader<'_>, about: Filter, now: Timestamp) -> Result<LastExpiry, TxError> {
    let page = page(reader, &Filter { kinds: vec![Kind::X509Issued, Kind::JwtIssued], limit: MOST, ..about })?;
    let end = |entry: &Entry| {
        let body: Value = serde_json::from_str(&entry.body).ok()?;
        let of_service = body.get("svid").and_then(Value::as_str) == Some("service");
        let not_after = Timestamp::from_unix_millis(body.get("not_after").and_then(Value::as_i64)?);
        (of_service && now < not_after).then_some(not_after)
    };
    Ok(LastExpiry { at: page.entries.iter().filter_map(end).max(), is_complete: page.next.is_none() })
}

impl Filter {
    fn matches(&self, kind: &str, at: Timestamp, body: &str) -> bool {
        if self.since.is_some_and(|since| at < since) {
            return false;
        }
        if !self.kinds.is_empty() && !self.kinds.iter().any(|wanted| wanted.as_str() == kind) {
            return false;
        }
        // The text first: reading JSON is the slow part.
        let field = |name: &str, wanted: &Option<String>| match wanted {
            None => true,
            Some(wanted) => {
                body.contains(wanted.as_str())
                    && serde_json::from_str::<Value>(body)
                        .is_ok_and(|body| body.get(name).and_then(Value::as_str) == Some(wanted))
            }
        };
        field("node", &self.node) && field("spiffe_id", &self.spiffe_id)
    }
}

const MOST: u32 = 10_000;
const CHUNK: u32 = 500;
const SCANNED: u32 = 100_000;
const SLACK: std::time::Duration = std::time::Duration::from_secs(600);
