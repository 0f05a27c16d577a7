//! Every property over bytes has its fuzz target, and holds for the seeds.

use std::fs;

use bonafide_tests::{fuzz_targets, repository};

use crate::fuzz_table::TARGETS;

#[test]
fn every_property_over_bytes_has_its_fuzz_target() {
    let root = repository::root();
    for (path, expected) in fuzz_targets::generated(&root).unwrap() {
        let found = fs::read_to_string(root.join(&path)).unwrap_or_default();
        assert_eq!(found, expected, "{} is stale; run `cargo run --bin fuzz-targets`", path.display());
    }
    assert_eq!(fuzz_targets::leftovers(&root).unwrap(), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn properties_hold_for_the_seeds_of_fuzzing() {
    let seeds = repository::root().join(fuzz_targets::FOLDER).join("seeds");
    for (target, property) in TARGETS {
        property(b"");
        let folder = fs::read_dir(seeds.join(target)).unwrap_or_else(|_| panic!("{target} has no seeds"));
        for seed in folder {
            property(&fs::read(seed.unwrap().path()).unwrap());
        }
    }
    for folder in fs::read_dir(seeds).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|(target, _)| **target == name), "seeds of no target: {name}");
    }
}
