//! Every `sh` block of the README but `tests/run` itself, from its text, in order, in one shell.

use std::{fs, io::Write, process::Command, time::Duration};

use bonafide_examples::process::Process;
use bonafide_tests::{readme, repository};

/// Long enough to compile everything in release, when nobody has yet.
const COMPILING: Duration = Duration::from_secs(1800);

#[test]
fn what_the_readme_tells_to_type_works() {
    let root = repository::root();
    let text = fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = readme::blocks(&text);
    let blocks: Vec<_> =
        blocks.iter().filter(|block| block.language == "sh" && block.text.trim() != "tests/run").collect();
    assert!(blocks.len() >= 5, "the README has its blocks");

    // Each block is read whole and run in the one shell, which ends at the first command that fails.
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c"]);
    bash.arg(r#"while IFS= read -r -d "" block; do eval "$block" </dev/null; echo "== block done"; done; echo "== all done""#);
    bash.current_dir(root).env_remove("SPIFFE_ENDPOINT_SOCKET");
    let (mut shell, mut input) = Process::start_with_input("README", &mut bash).unwrap();
    let (mut done, mut ready) = (0, 0);
    for block in &blocks {
        input.write_all(block.text.as_bytes()).unwrap();
        input.write_all(&[0]).unwrap();
        input.flush().unwrap();
        done += 1;
        ready += usize::from(block.text.contains(" run ") && block.text.trim_end().ends_with('&'));
        // As a reader would: on to the next block when this one is through, and what it started says `ready`.
        let (mut found_done, mut found_ready) = (0, 0);
        let waited = shell.wait_for("come to the block's end", COMPILING, |line| {
            found_done += usize::from(line == "== block done");
            found_ready += usize::from(
                line.starts_with("ready ") && line.contains("trust-domain=") || line.starts_with("ready socket="),
            );
            (found_done >= done && found_ready >= ready).then_some(())
        });
        waited.unwrap_or_else(|error| panic!("{}\n{error}", block.text));
    }
    drop(input);
    let status = shell.ended(Duration::from_secs(60)).unwrap();
    assert!(status.success(), "{status}: {:#?}", shell.printed());
}
