//! Writes the generated parts of `tests/CONTRACT.md`: `cargo run --bin contract`.

use std::fs;

use bonafide_examples::programs;
use bonafide_tests::{contract, repository};

fn main() -> anyhow::Result<()> {
    let path = repository::root().join(contract::FILE);
    let document = fs::read_to_string(&path)?;
    let written = contract::with_generated(&document, &contract::parts(&programs::build()?));
    if written != document {
        fs::write(&path, written)?;
        println!("{}", contract::FILE);
    }
    Ok(())
}
