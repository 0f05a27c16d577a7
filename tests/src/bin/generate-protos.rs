//! Writes the code that is made from the proto files: `cargo run --bin generate-protos`.

use bonafide_tests::{generated_code, repository};

fn main() -> anyhow::Result<()> {
    for path in generated_code::generate(&repository::root(), false)? {
        println!("{path}");
    }
    Ok(())
}
