//! Writes the fuzz targets: `cargo run --bin fuzz-targets`.

use std::fs;

use bonafide_tests::{fuzz_targets, repository};

fn main() -> anyhow::Result<()> {
    let root = repository::root();
    for (path, content) in fuzz_targets::generated(&root)? {
        let path = root.join(path);
        if fs::read_to_string(&path).ok().as_deref() != Some(&content) {
            fs::create_dir_all(path.parent().unwrap_or(&root))?;
            fs::write(&path, content)?;
            println!("{}", path.display());
        }
    }
    for path in fuzz_targets::leftovers(&root)? {
        fs::remove_file(&path)?;
        println!("{} removed", path.display());
    }
    Ok(())
}
