//! What the tests that cross crates share: real processes to test against, and the files in the repository that are
//! generated from the code and compared with it.

pub mod generated_code;
pub mod repository;
pub mod requirements;
