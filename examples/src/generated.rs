//! What `generate-protos` made of `proto/`. The wire types, and nothing more.
#![expect(missing_docs, reason = "generated code")]

/// The settings of services.
pub mod settings {
    include!("generated/settings.rs");
    /// The compiled descriptor set of `settings.proto`.
    pub const DESCRIPTORS: &[u8] = include_bytes!("generated/settings.bin");
}
