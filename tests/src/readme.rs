//! The blocks of code in documents, for the tests that run and compare them.

use std::{io::Write, path::Path, process::Command, time::Duration};

use bonafide_examples::process::Process;

/// One fenced block.
#[derive(Debug)]
pub struct Block {
    /// What stands behind the opening fence.
    pub language: String,
    /// The comment right before it, if any: `<!-- from examples/src/bin/photo.rs -->`.
    pub source: Option<String>,
    /// Its lines.
    pub text: String,
}

/// All fenced blocks of a Markdown text, in order.
pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut source = None;
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let mut text = String::new();
            for line in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                text.push_str(line);
                text.push('\n');
            }
            blocks.push(Block { language: language.to_owned(), source: source.take(), text });
        } else if !line.trim().is_empty() {
            let comment = line.strip_prefix("<!-- from ").and_then(|rest| rest.strip_suffix(" -->"));
            source = comment.map(str::to_owned);
        }
    }
    blocks
}

/// Long enough to compile everything in release, when nobody has yet.
const COMPILING: Duration = Duration::from_secs(1800);

/// Types blocks into one shell as a reader would, who goes on to the next block when one is through and what it started says `ready`; and
/// gives what all of it printed. The shell ends at the first command that fails.
///
/// # Panics
/// When one does, or does not end.
pub fn type_in<'b>(name: &str, folder: &Path, blocks: impl IntoIterator<Item = &'b Block>) -> Vec<String> {
    // Each block is read whole.
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c"]);
    bash.arg(r#"while IFS= read -r -d "" block; do eval "$block" </dev/null; echo "== block done"; done; echo "== all done""#);
    bash.current_dir(folder).env_remove("SPIFFE_ENDPOINT_SOCKET");
    let (mut shell, mut input) = Process::start_with_input(name, &mut bash).expect("bash starts");
    let (mut done, mut ready) = (0, 0);
    for block in blocks {
        input.write_all(block.text.as_bytes()).and_then(|()| input.write_all(&[0])).expect("the shell reads");
        input.flush().expect("the shell reads");
        done += 1;
        ready += usize::from(block.text.trim_end().ends_with('&'));
        let (mut found_done, mut found_ready) = (0, 0);
        let waited = shell.wait_for("come to the block's end", COMPILING, |line| {
            found_done += usize::from(line == "== block done");
            found_ready += usize::from(
                line.starts_with("ready ") && line.contains("trust-domain=")
                    || line.starts_with("ready socket=")
                    || line.starts_with("ready listen=127.0.0.1:8544")
                    || line.starts_with("ready listen=127.0.0.1:94")
                    || line.starts_with("ready issuer=")
                    || line == "ready",
            );
            (found_done >= done && found_ready >= ready).then_some(())
        });
        waited.unwrap_or_else(|error| panic!("{}\n{error}", block.text));
    }
    drop(input);
    let status = shell.ended(Duration::from_secs(60)).expect("the shell ends");
    assert!(status.success(), "{status}: {:#?}", shell.printed());
    shell.printed()
}
