//! The hash chain of a node's mint log: the node writes it, the CA follows it.

use aws_lc_rs::digest::{Context, SHA256};

use crate::NodeName;

/// The place in a log that is behind its last record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MintChain {
    /// The log's name, a UUID.
    pub log: String,
    /// Of the last record; 0: none.
    pub seq: u64,
    /// Of the last record; of an empty log, over node and log.
    pub hash: [u8; 32],
}

impl MintChain {
    /// The most bytes of one record's body.
    pub const MOST_BODY: usize = 8 * 1024;
    /// The most records in one message to the CA.
    pub const MOST_RECORDS: usize = 512;

    /// A log that has no record yet.
    #[must_use]
    pub fn begin(node: &NodeName, log: &str) -> Self {
        let hash = hash(&[b"bonafide mint log", node.as_str().as_bytes(), log.as_bytes()]);
        Self { log: log.to_owned(), seq: 0, hash }
    }

    /// Goes on to the next record.
    pub fn advance(&mut self, at_ms: i64, body: &[u8]) {
        self.seq = self.seq.saturating_add(1);
        self.hash = hash(&[&self.hash, self.log.as_bytes(), &self.seq.to_be_bytes(), &at_ms.to_be_bytes(), body]);
    }
}

/// SHA-256 over parts, each with its length.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_record_and_of_its_place_is_in_the_hash() {
        let node = |name: &str| NodeName::parse(name).unwrap();
        let walk = |name: &str, log: &str, records: &[(i64, &str)]| {
            let mut chain = MintChain::begin(&node(name), log);
            records.iter().for_each(|(at, body)| chain.advance(*at, body.as_bytes()));
            chain.hash
        };
        let base = walk("a", "l", &[(1, "x"), (2, "y")]);
        assert_eq!(base, walk("a", "l", &[(1, "x"), (2, "y")]));
        for (change, other) in [
            ("node", walk("b", "l", &[(1, "x"), (2, "y")])),
            ("log", walk("a", "m", &[(1, "x"), (2, "y")])),
            ("a time", walk("a", "l", &[(1, "x"), (3, "y")])),
            ("an earlier body", walk("a", "l", &[(1, "z"), (2, "y")])),
            ("the order", walk("a", "l", &[(2, "y"), (1, "x")])),
            ("one less", walk("a", "l", &[(2, "y")])),
            ("moved between body and body", walk("a", "l", &[(1, "xy"), (2, "")])),
        ] {
            assert_ne!(base, other, "{change}");
        }
    }
}
