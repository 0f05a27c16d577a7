//! The wire contract of the CA: node API, admin API, and the words both sides share.

#[doc(hidden)]
pub mod fuzzing;
pub mod generated;
