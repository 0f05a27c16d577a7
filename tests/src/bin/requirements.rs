//! Writes the column of tests in `tests/REQUIREMENTS.md`: `cargo run --bin requirements`.

use std::fs;

use bonafide_tests::{repository, requirements};

fn main() -> anyhow::Result<()> {
    let root = repository::root();
    let path = root.join(requirements::FILE);
    let document = fs::read_to_string(&path)?;
    let written = requirements::with_tests(&document, &requirements::scan(&root)?);
    if written != document {
        fs::write(&path, written)?;
        println!("{}", requirements::FILE);
    }
    Ok(())
}
