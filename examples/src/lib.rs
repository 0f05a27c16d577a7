//! What the quickstart and the tests need to run the real programs: [`programs`] builds them and says where they are,
//! [`process`] starts them and waits for what they print. The example programs themselves use neither.

pub mod process;
pub mod programs;
