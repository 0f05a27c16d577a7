//! What `generate-protos` made of `proto/`. The wire types, and nothing more.
#![expect(missing_docs, reason = "generated code")]

/// The node API: agent to CA.
pub mod node {
    include!("generated/node.rs");
    /// The compiled descriptor set of `node.proto`.
    pub const DESCRIPTORS: &[u8] = include_bytes!("generated/node.bin");
}

/// The admin API: commands to CA, on a Unix socket.
pub mod admin {
    include!("generated/admin.rs");
    /// The compiled descriptor set of `admin.proto`.
    pub const DESCRIPTORS: &[u8] = include_bytes!("generated/admin.bin");
}
