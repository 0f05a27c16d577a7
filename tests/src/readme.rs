//! The README's blocks of code, for the tests that run and compare them.

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
