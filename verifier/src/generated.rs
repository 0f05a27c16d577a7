//! What `generate-protos` made of `proto/`. The wire types, and nothing more.
#![expect(unreachable_pub, reason = "generated code")]

/// The SPIFFE Workload API, client side.
pub mod workload {
    include!("generated/workload.rs");
}

/// Transaction tokens from the agent, client side.
pub mod tokens {
    include!("generated/tokens.rs");
}
