//! The code that the README and the guides show is code that compiles.

use std::fs;

use bonafide_tests::{readme, repository};

#[test]
fn rust_code_in_documents_stands_in_the_examples() {
    let root = repository::root();
    for (document, least) in [("README.md", 2), ("examples/MIGRATE.md", 2)] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let blocks = readme::blocks(&text);
        let rust: Vec<_> = blocks.iter().filter(|block| block.language == "rust").collect();
        assert!(rust.len() >= least, "{document} shows how it is done");
        for block in rust {
            let source = block.source.as_ref().expect("`<!-- from FILE -->` stands before each block of Rust");
            let code = fs::read_to_string(root.join(source)).unwrap();
            assert!(code.contains(&block.text), "{document}: not as in {source}:\n{}", block.text);
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = repository::root();
    for document in repository::files(&root, "md").unwrap() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || link.contains("://") {
                continue;
            }
            assert!(document.parent().unwrap().join(file).exists(), "{}: {link}", document.display());
        }
    }
}
