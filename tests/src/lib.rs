//! What the tests that cross crates share: real processes to test against, and the files in the repository that are
//! generated from the code and compared with it.

pub mod browser;
pub mod contract;
pub mod fuzz_targets;
pub mod generated_code;
pub mod https;
pub mod measure;
pub mod oidc_provider;
pub mod power_cut;
pub mod proxy;
pub mod readme;
pub mod repository;
pub mod requirements;
pub mod site;
