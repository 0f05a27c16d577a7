//! The identities under `/bonafide`, which is ours: the CA and its nodes.

use bonafide_verifier::spiffe::{SpiffeId, TrustDomain};

use crate::node_name::NodeName;

/// The first path segment that nothing a user registers can have.
pub const RESERVED_SEGMENT: &str = "bonafide";

/// `spiffe://TD/bonafide/ca`: the CA itself. Only its own process can issue it.
#[must_use]
#[expect(clippy::expect_used, reason = "a constant path of valid segments; a trust domain is at most 255 bytes")]
pub fn ca_id(trust_domain: &TrustDomain) -> SpiffeId {
    SpiffeId::new(trust_domain, "/bonafide/ca").expect("a constant path is valid")
}

/// `spiffe://TD/bonafide/node/NAME`: the agent on a node.
#[must_use]
#[expect(clippy::expect_used, reason = "a node name is a valid segment, and the whole is far below 2,048 bytes")]
pub fn node_id(trust_domain: &TrustDomain, name: &NodeName) -> SpiffeId {
    SpiffeId::new(trust_domain, &format!("{NODE_PREFIX}{name}")).expect("a node name is a valid path segment")
}

/// The node that `id` stands for, if it is the identity of a node. The trust domain is the caller's to compare.
#[must_use]
pub fn node_name_of(id: &SpiffeId) -> Option<NodeName> {
    NodeName::parse(id.path().strip_prefix(NODE_PREFIX)?).ok()
}

const NODE_PREFIX: &str = "/bonafide/node/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_and_back() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let name = NodeName::parse("web-1").unwrap();
        assert_eq!(ca_id(&trust_domain).as_str(), "spiffe://example.org/bonafide/ca");
        assert_eq!(node_id(&trust_domain, &name).as_str(), "spiffe://example.org/bonafide/node/web-1");
        assert!(ca_id(&trust_domain).is_reserved());
        assert_eq!(node_name_of(&node_id(&trust_domain, &name)), Some(name));
        let longest_domain = TrustDomain::parse(&"a".repeat(255)).unwrap();
        let longest_name = NodeName::parse(&"a".repeat(63)).unwrap();
        assert_eq!(node_name_of(&node_id(&longest_domain, &longest_name)), Some(longest_name));
    }

    #[test]
    fn only_nodes_are_nodes() {
        for id in [
            "spiffe://example.org/bonafide/ca",
            "spiffe://example.org/bonafide/node",
            "spiffe://example.org/bonafide/node/Web",
            "spiffe://example.org/bonafide/node/any",
            "spiffe://example.org/bonafide/node/web-1/x",
            "spiffe://example.org/x/bonafide/node/web-1",
            "spiffe://example.org",
        ] {
            assert_eq!(node_name_of(&SpiffeId::parse(id).unwrap()), None, "{id}");
        }
    }
}
