//! Every `sh` block of the README and of the guides, from their text, in order, each document in one shell.

use std::fs;

use bonafide_tests::{
    readme::{self, Block},
    repository,
};

fn shell_blocks(document: &str) -> Vec<Block> {
    let text = fs::read_to_string(repository::root().join(document)).unwrap();
    readme::blocks(&text).into_iter().filter(|block| block.language == "sh").collect()
}

#[test]
fn what_the_readme_tells_to_type_works() {
    let blocks = shell_blocks("README.md");
    // All but this run itself, and what the guide to migration begins with, too.
    let apart = ["tests/run", "cargo run --release --bin migrate"];
    let blocks: Vec<_> = blocks.iter().filter(|block| !apart.contains(&block.text.trim())).collect();
    assert!(blocks.len() >= 5, "the README has its blocks");
    readme::type_in("README", &repository::root(), blocks);
}

#[test]
fn what_the_guide_of_config_service_tells_to_type_works() {
    let blocks = shell_blocks("examples/config-service/README.md");
    assert!(blocks.len() >= 5, "the guide has its blocks");
    let apart = "cargo run --release --bin config-service-demo";
    let blocks = blocks.iter().filter(|block| block.text.trim() != apart);
    let printed = readme::type_in("config-service", &repository::root(), blocks);
    for rows in ["exported rows=3000 ", "exported rows=5000 "] {
        assert!(printed.iter().any(|line| line.starts_with(rows)), "{rows}: {printed:#?}");
    }
}

/// With a provider that nobody here wrote, from its set-up to the records of all three services.
#[test]
fn what_the_guide_of_photo_chain_tells_to_type_works() {
    let blocks = shell_blocks("examples/photo-chain/README.md");
    assert!(blocks.len() >= 10, "the guide has its blocks");
    let apart = "cargo run --release --bin photo-chain-demo";
    let blocks = blocks.iter().filter(|block| block.text.trim() != apart);
    let printed = readme::type_in("photo-chain", &repository::root(), blocks);
    let record = |user: &str| {
        let user = format!(r#""user":"{user}""#);
        printed.iter().filter(|line| line.contains(&user) && line.contains(r#""transaction":""#)).count()
    };
    assert!(record("corp:u-1002") >= 3 && record("spiffe://example.org/export") >= 3, "{printed:#?}");
}

/// The token service, issuers and edges by hand.
#[test]
fn what_the_guide_to_tokens_tells_to_type_works() {
    let blocks = shell_blocks("examples/TOKENS.md");
    assert!(blocks.len() >= 9, "the guide has its blocks");
    let printed = readme::type_in("TOKENS", &repository::root(), &blocks);
    let tokens = printed.iter().filter(|line| line.contains(r#""token_type":"Bearer""#)).count();
    assert_eq!(tokens, 2, "{printed:#?}");
    assert!(printed.iter().any(|line| line.starts_with("still named by /web")), "{printed:#?}");
}

/// From API keys to mutual TLS by hand, with what each call is answered.
#[test]
fn what_the_guide_to_migration_tells_to_type_works() {
    let blocks = shell_blocks("examples/MIGRATE.md");
    assert!(blocks.len() >= 10, "the guide has its blocks");
    let printed = readme::type_in("MIGRATE", &repository::root(), &blocks);
    // After the walk-through, which has judged itself.
    let by_hand = printed.iter().skip_while(|line| *line != "Summary");
    let mut answers: Vec<_> = by_hand.filter_map(|line| answer(line)).collect();
    answers.dedup();
    // What is asked again until a file has been read may have been answered once more by what was there before.
    answers.retain(|answer| answer != "401 Unauthorized");
    if let Some(nobody) = answers.iter().position(|answer| answer.starts_with("nobody"))
        && answers.get(nobody + 1).is_some_and(|answer| answer == "api-key")
    {
        answers.remove(nobody + 1);
    }
    assert_eq!(
        answers,
        [
            "api-key",
            "shared-secret",
            "jwt-svid",
            "x509",
            "somebody is left",
            "x509",
            "nobody uses an API key or a shared secret",
            "403 Forbidden",
            "a signed token is not enough",
            "403 Forbidden",
            "a JWT-SVID is not enough",
            "x509",
            "no certificate",
        ],
        "{printed:#?}"
    );
}

/// By which proof a call was answered, or with what else; none for lines that say neither.
fn answer(line: &str) -> Option<String> {
    const BEGINNINGS: [&str; 8] =
        ["200 OK {", "401 ", "403 ", "a signed", "a JWT-SVID is", "somebody is", "nobody uses", "no certificate"];
    BEGINNINGS.iter().find(|beginning| line.starts_with(**beginning))?;
    Some(match line.split_once(r#""proof":""#) {
        Some((_, proof)) => proof.split('"').next().unwrap_or_default().to_owned(),
        None => line.split([',', '{']).next().unwrap_or_default().trim().to_owned(),
    })
}
