//! Committed files that a command writes are as that command writes them now.

use std::{collections::BTreeSet, fs};

use bonafide_tests::{generated_code, repository, requirements};

#[test]
fn code_made_from_the_proto_files_is_as_committed() {
    let stale = generated_code::generate(&repository::root(), true).unwrap();
    assert!(stale.is_empty(), "not as generated: {stale:?}; run `cargo run --bin generate-protos`");
}

#[test]
fn the_tests_named_in_the_requirements_are_those_in_the_code() {
    let root = repository::root();
    let document = fs::read_to_string(root.join(requirements::FILE)).unwrap();
    let written = requirements::with_tests(&document, &requirements::scan(&root).unwrap());
    for (line, (found, expected)) in document.lines().zip(written.lines()).enumerate() {
        assert_eq!(found, expected, "line {} is stale; run `cargo run --bin requirements`", line + 1);
    }
    assert_eq!(document.lines().count(), written.lines().count());
}

#[test]
fn every_number_that_a_test_names_is_a_known_requirement() {
    let root = repository::root();
    let document = fs::read_to_string(root.join(requirements::FILE)).unwrap();
    let known: BTreeSet<_> = requirements::rows(&document).into_iter().map(|row| row.number).collect();
    for (number, tests) in requirements::scan(&root).unwrap() {
        assert!(known.contains(&number), "{tests:?} names {number}, which is no requirement");
    }
}
