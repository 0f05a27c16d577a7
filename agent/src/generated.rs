//! What `generate-protos` made of the protos in the verifier. The wire types, and nothing more.
#![expect(unreachable_pub, reason = "generated code")]

/// The SPIFFE Workload API, server side.
pub mod workload {
    include!("generated/workload.rs");
    /// The compiled descriptor set of `workload.proto`.
    pub const DESCRIPTORS: &[u8] = include_bytes!("generated/workload.bin");
}

/// The node-local services.
pub mod local {
    include!("generated/local.rs");
    /// The compiled descriptor set of `local.proto`.
    pub const DESCRIPTORS: &[u8] = include_bytes!("generated/local.bin");
}

/// Transaction tokens.
pub mod tokens {
    include!("generated/tokens.rs");
    /// The compiled descriptor set of `tokens.proto`.
    pub const DESCRIPTORS: &[u8] = include_bytes!("generated/tokens.bin");
}
