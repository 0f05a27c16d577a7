//! `tests/CONTRACT.md` says what the programs do.

use std::fs;

use bonafide_examples::programs;
use bonafide_tests::{contract, repository};

#[test]
fn the_contract_is_what_the_programs_do() {
    let document = fs::read_to_string(repository::root().join(contract::FILE)).unwrap();
    let parts = contract::parts(&programs::build().unwrap());
    for name in parts.keys() {
        assert!(document.contains(&format!("<!-- generated: {name} -->")), "{name} is missing");
    }
    let written = contract::with_generated(&document, &parts);
    for (found, expected) in document.lines().zip(written.lines()) {
        assert_eq!(found, expected, "tests/CONTRACT.md is stale; run `cargo run --bin contract`");
    }
    assert_eq!(document.lines().count(), written.lines().count());
}
