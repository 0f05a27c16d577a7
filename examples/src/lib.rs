//! What the walk-throughs (quickstart, migrate) and the tests need to run the real programs: [`programs`] builds them and says where
//! they are, [`process`] starts them and waits for what they print, [`demo`] is a trust domain of them. The example programs
//! themselves use none of it.

pub mod demo;
pub mod process;
pub mod programs;
