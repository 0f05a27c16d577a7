//! What holds the repository together: files that are generated from the code are as the code says.

mod dependencies;
mod fuzz;
mod fuzz_table;
mod generated;
mod readme;
