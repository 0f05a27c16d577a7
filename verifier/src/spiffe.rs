//! SPIFFE IDs, trust domains, trust bundles.
