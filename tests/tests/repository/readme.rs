//! The code that the README shows is code that compiles.

use std::fs;

use bonafide_tests::{readme, repository};

#[test]
fn rust_code_in_the_readme_stands_in_the_examples() {
    let root = repository::root();
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = readme::blocks(&readme);
    let rust: Vec<_> = blocks.iter().filter(|block| block.language == "rust").collect();
    assert!(rust.len() >= 2, "the README shows a server and a client");
    for block in rust {
        let source = block.source.as_ref().expect("`<!-- from FILE -->` stands before each block of Rust");
        let code = fs::read_to_string(root.join(source)).unwrap();
        assert!(code.contains(&block.text), "not as in {source}:\n{}", block.text);
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
