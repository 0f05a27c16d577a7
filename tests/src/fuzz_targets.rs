//! The fuzz targets: for each property in a crate's `fuzzing` module, a target of `tests/fuzz` and a row in the table
//! by which the seeds are run as ordinary tests. `cargo run --bin fuzz-targets` writes both, a test compares.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Folder of the sources, name of the crate in code, short name in targets.
const CRATES: [(&str, &str, &str); 4] = [
    ("verifier", "bonafide_verifier", "verifier"),
    ("ca/api", "bonafide_ca_api", "ca_api"),
    ("ca", "bonafide_ca", "ca"),
    ("agent", "bonafide_agent", "agent"),
];

/// Where the targets are, from the repository's root.
pub const FOLDER: &str = "tests/fuzz";

/// What is generated: path from the root, content.
///
/// # Errors
/// A source file that cannot be read.
pub fn generated(root: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    let mut manifest = MANIFEST.to_owned();
    let mut table = TABLE.to_owned();
    let mut dependencies = String::new();
    for (folder, name, short) in CRATES {
        let source = fs::read_to_string(root.join(folder).join("src/fuzzing.rs"))?;
        let package = name.replace('_', "-");
        let features = if short == "verifier" { ", features = [\"workload-api\", \"serve\"]" } else { "" };
        dependencies.push_str(&format!("{package} = {{ path = \"../../{folder}\"{features} }}\n"));
        for property in properties(&source) {
            let target = format!("{short}_{property}");
            table.push_str(&format!("    (\"{target}\", {name}::fuzzing::{property}),\n"));
            manifest.push_str(&format!(
                "\n[[bin]]\nname = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"\ntest = false\ndoc = false\nbench = false\n"
            ));
            files.insert(
                Path::new(FOLDER).join("fuzz_targets").join(format!("{target}.rs")),
                format!(
                    "// Written by `cargo run --bin fuzz-targets`.\n#![no_main]\n\nlibfuzzer_sys::fuzz_target!(|data: &[u8]| {name}::fuzzing::{property}(data));\n"
                ),
            );
        }
    }
    table.push_str("];\n");
    files.insert(Path::new(FOLDER).join("Cargo.toml"), manifest.replace("DEPENDENCIES\n", &dependencies));
    files.insert(PathBuf::from("tests/tests/repository/fuzz_table.rs"), table);
    Ok(files)
}

/// Target files that are there and should not be.
///
/// # Errors
/// A folder that cannot be read.
pub fn leftovers(root: &Path) -> io::Result<Vec<PathBuf>> {
    let wanted = generated(root)?;
    let found = crate::repository::files(&root.join(FOLDER).join("fuzz_targets"), "rs")?;
    Ok(found.into_iter().filter(|path| !path.strip_prefix(root).is_ok_and(|path| wanted.contains_key(path))).collect())
}

/// The names of the public functions over bytes.
fn properties(source: &str) -> Vec<&str> {
    let functions = source.lines().filter_map(|line| line.strip_prefix("pub fn "));
    functions.filter_map(|rest| rest.split_once("(data: &[u8])")).map(|(name, _)| name).collect()
}

const MANIFEST: &str = r#"# Written by `cargo run --bin fuzz-targets`. A workspace of its own: libFuzzer has a licence of its own, and the
# sanitizers want cmake. With a nightly toolchain and cargo-fuzz, from the repository's root:
#   cargo +nightly fuzz run --fuzz-dir tests/fuzz verifier_spiffe_id tests/fuzz/seeds/verifier_spiffe_id

[workspace]

[package]
name = "bonafide-fuzz"
version = "0.0.0"
edition = "2024"
license = "Apache-2.0"
publish = false

[package.metadata]
cargo-fuzz = true

[dependencies]
DEPENDENCIES
libfuzzer-sys = "0.4"
"#;

const TABLE: &str =
    "//! Written by `cargo run --bin fuzz-targets`: every property over bytes, by the name of its fuzz target.

pub(crate) type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: &[Target] = &[
";
