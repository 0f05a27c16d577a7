//! What is built, and what is not.

use std::{collections::BTreeSet, fs, process::Command};

use bonafide_tests::repository;

/// `cargo tree` of the workspace without its lines: each package of a kind of build once, in this format.
fn tree(arguments: &[&str], format: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["tree", "--workspace", "--prefix", "none", "--locked", "--format", format]).args(arguments);
    let output = command.current_dir(repository::root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().map(|line| line.trim_end_matches(" (*)").trim_end().to_owned()).collect()
}

/// Every package in any kind of build, as `name version`.
fn packages() -> Vec<(String, Vec<u64>)> {
    let tree = tree(&["--all-features", "--target", "all", "-e", "normal,build,dev"], "{p}");
    let packages = tree.iter().filter_map(|line| line.split_once(" v"));
    packages
        .map(|(name, rest)| {
            let version = rest.split([' ', '-', '+']).next().unwrap();
            (name.to_owned(), version.split('.').map(|part| part.parse().unwrap()).collect())
        })
        .collect()
}

/// Each crate compiles once per profile: whatever the programs are built of, `cargo test --workspace --all-features` has
/// built with the same features. Where it has not, `tests/Cargo.toml` has to ask for them.
#[test]
fn programs_are_built_with_the_features_that_tests_are_built_with() {
    let with_features = "{p} {f}";
    let of_tests = tree(&["--all-features", "-e", "normal,build,dev"], with_features);
    let of_programs = tree(&["-e", "normal,build"], with_features);
    assert!(of_programs.len() > 100, "cargo tree lists what is built");
    let twice: Vec<_> = of_programs.difference(&of_tests).collect();
    assert!(twice.is_empty(), "compiled a second time, with other features: {twice:#?}");
}

/// T-35: one TLS stack and one cryptographic library; nothing with a known fault that nobody mends.
#[test]
fn t35_no_second_tls_stack_and_no_unpatched_crate_is_built() {
    let packages = packages();
    assert!(packages.len() > 100, "cargo tree lists what is built");
    for banned in ["ring", "openssl", "openssl-sys", "native-tls", "rsa"] {
        assert!(packages.iter().all(|(name, _)| name != banned), "{banned} is built");
    }
}

/// T-21, T-22, T-30..32: the versions in which the faults of others that we know of are mended, or later ones.
#[test]
fn crates_with_known_faults_are_new_enough() {
    let floors: [(&str, &[u64]); 7] = [
        ("h2", &[0, 4, 16]),
        ("rustls", &[0, 23, 18]),
        ("rustls-webpki", &[0, 103, 13]),
        ("time", &[0, 3, 47]),
        ("bytes", &[1, 11, 1]),
        ("tonic", &[0, 12, 3]),
        ("tracing-subscriber", &[0, 3, 20]),
    ];
    let packages = packages();
    for (name, floor) in floors {
        let found: Vec<_> = packages.iter().filter(|(found, _)| found == name).collect();
        assert!(!found.is_empty(), "{name} is built");
        assert!(found.iter().all(|(_, version)| version.as_slice() >= floor), "{name}: {found:?}");
    }
}

/// T-42: nothing in the repository's scripts is fetched and run unseen, and what they install has a version.
#[test]
fn t42_no_script_is_fetched_and_run() {
    let root = repository::root();
    for script in ["tests/run", ".ci/run"] {
        let text = fs::read_to_string(root.join(script)).unwrap();
        assert!(!text.contains("curl ") && !text.contains("wget "), "{script} fetches something");
    }
    let requirements = fs::read_to_string(root.join("tests/foreign/python/requirements.txt")).unwrap();
    for line in requirements.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.contains("=="), "{line} has no version");
    }
}

/// T-43: who finds a fault knows where to go, which versions count, and how long it takes.
#[test]
fn t43_security_md_names_contact_versions_and_times() {
    let text = fs::read_to_string(repository::root().join("SECURITY.md")).unwrap();
    for part in ["## Reporting", "Report a vulnerability", "## Supported versions", "days"] {
        assert!(text.contains(part), "{part} is missing");
    }
}

/// STAB-02: the edition of the standard that was followed is written down.
#[test]
fn stab_02_the_edition_of_the_standard_is_written_down() {
    let text = fs::read_to_string(repository::root().join("tests/REQUIREMENTS.md")).unwrap();
    assert!(text.contains("665a28f3253e"));
}

/// `unsafe` stays out of everything but the agent, by the workspace's lints.
#[test]
fn unsafe_code_is_forbidden() {
    let root = repository::root();
    let workspace = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"forbid\""));
    for package in ["verifier", "ca", "ca/api"] {
        let manifest = fs::read_to_string(root.join(package).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{package} takes the workspace's lints");
    }
}
