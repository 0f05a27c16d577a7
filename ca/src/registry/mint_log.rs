//! What nodes have minted under their delegations: their logs, followed record by record into the audit log.
//!
//! A node sends its log in stretches, each from where the last one ended. The chain is what makes a stretch that is missing, changed or
//! cut off show: that is recorded and alarmed, and the log is followed on from there, since not to collect any more would hide what comes.

use bonafide_ca_api::{MintChain, NodeName};
use bonafide_verifier::clock::Timestamp;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::Registry;
use crate::{
    audit::{Kind, Record, Who},
    store::{Abort, WriteError},
};

/// How far a node's log has been followed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct MintLog {
    pub(crate) node: NodeName,
    pub(crate) place: MintChain,
    pub(crate) collected_at: Timestamp,
}

/// A stretch of a node's log whose own chain holds.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) log: String,
    /// Before its first record.
    pub(crate) previous: [u8; 32],
    /// In their order, without gaps, at least one.
    pub(crate) records: Vec<Mint>,
}

/// One minted token, as the node recorded it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mint {
    pub(crate) seq: u64,
    pub(crate) at_ms: i64,
    /// A JSON object.
    pub(crate) body: String,
    /// The chain's, after this record.
    pub(crate) hash: [u8; 32],
}

/// What came of a stretch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Collected {
    /// Up to here the node may forget.
    pub(crate) seq: u64,
    /// Records that were new.
    pub(crate) new: u64,
    /// What is wrong with the log, if anything.
    pub(crate) alarm: Option<MintAlarm>,
}

/// The log is not the one that was followed until now.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum MintAlarm {
    /// Records are missing.
    #[error("records {from} to {to} of the log `{log}` were never sent: what the node minted there is not known")]
    Gap { log: String, from: u64, to: u64 },
    /// A record that was collected has another content now.
    #[error(
        "record {seq} of the log `{log}` is not the one that was collected: the log was changed, or there are two of them"
    )]
    Forked { log: String, seq: u64 },
    /// Another log in the place of one that was followed.
    #[error(
        "the node goes on with another log, `{log}`; what the earlier one, `{earlier}`, had beyond record {seq} is not known"
    )]
    OtherLog { log: String, earlier: String, seq: u64 },
}

impl MintAlarm {
    /// As in the record of it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Gap { .. } => "gap",
            Self::Forked { .. } => "forked",
            Self::OtherLog { .. } => "other-log",
        }
    }
}

impl Registry {
    /// Writes what is new of a stretch into the audit log, one record for each token and one for the whole. The same stretch again
    /// changes nothing.
    pub(crate) async fn collect_mints(
        &self,
        node: NodeName,
        stretch: Stretch,
    ) -> Result<Collected, WriteError<std::convert::Infallible>> {
        self.inner
            .store
            .write(move |tx| {
                let who = Who::Node(node.clone());
                let known = tx.mint_log(&node)?.map(|log| log.place);
                let decided = decide(&node, known.as_ref(), &stretch);
                if let Some(alarm) = &decided.alarm {
                    let body = json!({ "node": node.as_str(), "log": stretch.log, "reason": alarm.code(), "detail": alarm.to_string() });
                    tx.record(&Record::change(Kind::MintLogBroken, &who, body))?;
                }
                let new = stretch.records.get(decided.from..).unwrap_or_default();
                for mint in new {
                    let detail: Value = serde_json::from_str(&mint.body).unwrap_or(Value::Null);
                    let body = json!({ "node": node.as_str(), "seq": mint.seq, "at": mint.at_ms, "token": detail });
                    tx.record(&Record::change(Kind::TokenMinted, &who, body))?;
                }
                let (Some(first), Some(last)) = (new.first(), new.last()) else {
                    return Ok(Collected { seq: known.map_or(0, |place| place.seq), new: 0, alarm: decided.alarm });
                };
                let body = json!({
                    "node": node.as_str(), "log": stretch.log, "from": first.seq, "to": last.seq,
                    "hash": HEXLOWER.encode(&last.hash),
                });
                tx.record(&Record::change(Kind::MintsCollected, &who, body))?;
                let place = MintChain { log: stretch.log.clone(), seq: last.seq, hash: last.hash };
                let seq = place.seq;
                tx.put_mint_log(&MintLog { node, place, collected_at: tx.at() })?;
                Ok::<_, Abort<std::convert::Infallible>>(Collected { seq, new: new.len() as u64, alarm: decided.alarm })
            })
            .await
    }
}

/// What of a stretch is new, and what is wrong with it.
#[derive(Debug, Eq, PartialEq)]
struct Decided {
    /// The first record that is new; as many as there are: none is.
    from: usize,
    alarm: Option<MintAlarm>,
}

fn decide(node: &NodeName, known: Option<&MintChain>, stretch: &Stretch) -> Decided {
    let (log, first) = (&stretch.log, stretch.records.first().map_or(1, |mint| mint.seq));
    let begin = MintChain::begin(node, log);
    let (place, other) = match known {
        Some(known) if known.log == *log => (known, None),
        Some(known) => {
            let alarm = MintAlarm::OtherLog { log: log.clone(), earlier: known.log.clone(), seq: known.seq };
            (&begin, Some(alarm))
        }
        None => (&begin, None),
    };
    if first > place.seq + 1 {
        let gap = MintAlarm::Gap { log: log.clone(), from: place.seq + 1, to: first - 1 };
        return Decided { from: 0, alarm: Some(other.unwrap_or(gap)) };
    }
    // The hash that the stretch has at the place that is known: before its first record, or behind one of them.
    let skipped = usize::try_from(place.seq + 1 - first).unwrap_or(usize::MAX);
    let there = match skipped.checked_sub(1) {
        None => Some(stretch.previous),
        Some(last) => stretch.records.get(last).map(|mint| mint.hash),
    };
    match there {
        Some(hash) if hash == place.hash => Decided { from: skipped, alarm: other },
        Some(_) => {
            let forked = MintAlarm::Forked { log: log.clone(), seq: place.seq };
            Decided { from: skipped, alarm: Some(other.unwrap_or(forked)) }
        }
        // All of it lies before the place that is known: an older message once more.
        None => Decided { from: stretch.records.len(), alarm: other },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeName {
        NodeName::parse("web-1").unwrap()
    }

    /// The log from one record to another, whose bodies say `word`.
    fn stretch(log: &str, word: &str, from: u64, to: u64) -> Stretch {
        let mut chain = MintChain::begin(&node(), log);
        let mut previous = chain.hash;
        let mut records = Vec::new();
        for seq in 1..=to {
            if seq == from {
                previous = chain.hash;
            }
            let body = format!("{{\"txn\":\"{word}-{seq}\"}}");
            chain.advance(7, body.as_bytes());
            if seq >= from {
                records.push(Mint { seq, at_ms: 7, body, hash: chain.hash });
            }
        }
        Stretch { log: log.into(), previous, records }
    }

    fn place(log: &str, word: &str, seq: u64) -> MintChain {
        let hash =
            stretch(log, word, 1, seq).records.last().map_or(MintChain::begin(&node(), log).hash, |mint| mint.hash);
        MintChain { log: log.into(), seq, hash }
    }

    #[test]
    fn a_log_is_followed_and_what_is_missing_or_changed_shows() {
        /// What is known, what comes, the first record that is new, and the alarm.
        type Row = (&'static str, Option<MintChain>, Stretch, usize, Option<&'static str>);
        let cases: Vec<Row> = vec![
            ("a first stretch", None, stretch("l", "a", 1, 3), 0, None),
            ("the next one", Some(place("l", "a", 3)), stretch("l", "a", 4, 6), 0, None),
            ("the same again", Some(place("l", "a", 6)), stretch("l", "a", 4, 6), 3, None),
            ("an older one again", Some(place("l", "a", 6)), stretch("l", "a", 1, 3), 3, None),
            ("overlapping", Some(place("l", "a", 4)), stretch("l", "a", 3, 6), 2, None),
            ("from its beginning after a lost answer", Some(place("l", "a", 2)), stretch("l", "a", 1, 6), 2, None),
            ("a gap", Some(place("l", "a", 3)), stretch("l", "a", 6, 8), 0, Some("gap")),
            ("no beginning", None, stretch("l", "a", 3, 4), 0, Some("gap")),
            ("another content", Some(place("l", "a", 3)), stretch("l", "b", 4, 6), 0, Some("forked")),
            ("another content behind", Some(place("l", "a", 3)), stretch("l", "b", 2, 6), 2, Some("forked")),
            ("another log", Some(place("l", "a", 3)), stretch("m", "a", 1, 2), 0, Some("other-log")),
            ("another log in its middle", Some(place("l", "a", 3)), stretch("m", "a", 4, 5), 0, Some("other-log")),
        ];
        for (name, known, stretch, from, alarm) in cases {
            let decided = decide(&node(), known.as_ref(), &stretch);
            assert_eq!((decided.from, decided.alarm.as_ref().map(MintAlarm::code)), (from, alarm), "{name}");
        }
    }
}
