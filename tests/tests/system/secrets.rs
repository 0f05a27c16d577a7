//! T-12: everything is done once with logs at their fullest, and then no secret is in anything that was written.

use std::{fs, path::Path, str::FromStr};

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use bonafide_ca_api::Invitation;
use bonafide_tests::site::{Site, eventually};
use data_encoding::{HEXLOWER, HEXUPPER};

use crate::programs::Shop;

#[test]
fn t12_no_secret_in_any_log_metric_or_database() {
    let mut site = Site::new();
    site.environment = vec![("BONAFIDE_LOG_LEVEL".to_owned(), "trace".to_owned())];
    site.start_ca();
    let invitation = site.invite("n1");
    let mut node = site.node("n1");
    node.join(&invitation);
    let shop = Shop::open(&site, &node, "10s");
    shop.call().unwrap();
    site.add_program("hand", &site.programs.agent, &["--on", "n1"]);
    let folder = node.path("fetched");
    node.agent(&["fetch", "x509", "--write", folder.to_str().unwrap()]).success();
    let token = node.agent(&["fetch", "jwt", "--audience", "photo"]).success().stdout.trim().to_owned();
    node.agent(&["whoami"]).success();
    node.agent(&["status"]).success();

    let mut secrets = vec![("the invitation", invitation.clone().into_bytes())];
    let parsed = Invitation::from_str(&invitation).unwrap();
    add_binary(&mut secrets, "the invitation's secret", parsed.secret().expose_secret());
    secrets.push(("a JWT-SVID's signature", token.rsplit('.').next().unwrap().as_bytes().to_vec()));
    for (name, key) in
        key_files(&folder).into_iter().chain(key_files(&site.path("ca"))).chain(key_files(&node.path("data")))
    {
        for line in key.lines().filter(|line| !line.starts_with("-----") && line.len() >= 40) {
            secrets.push((name, line.as_bytes().to_vec()));
        }
        let der = Base64::decode_vec(&key.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
        // The scalar of a P-256 key, as PKCS #8 and SEC 1 hold it.
        let at = der.windows(2).position(|pair| pair == [0x04, 0x20]).expect("a P-256 key");
        add_binary(&mut secrets, name, &der[at + 2..at + 34]);
    }
    assert!(secrets.iter().filter(|(name, _)| name.contains("key")).count() >= 6, "keys were found to look for");

    // What the processes said, what they keep, what they tell of themselves.
    let mut places = vec![
        ("the CA's log".to_owned(), site.ca.as_ref().unwrap().printed().join("\n").into_bytes()),
        ("the agent's log".to_owned(), node.agent.as_ref().unwrap().printed().join("\n").into_bytes()),
        ("photo's output".to_owned(), shop.photo.printed().join("\n").into_bytes()),
        ("web's output".to_owned(), shop.web.printed().join("\n").into_bytes()),
        ("audit list".to_owned(), site.ca(&["audit", "list", "--output", "json"]).success().stdout.into_bytes()),
        ("node list".to_owned(), site.ca(&["node", "list", "--output", "json"]).success().stdout.into_bytes()),
        ("agent status".to_owned(), node.agent(&["status", "--output", "json"]).success().stdout.into_bytes()),
    ];
    site.stop_ca();
    node.stop();
    for folder in [site.path("ca"), node.path("data")] {
        collect(&folder, &mut places);
    }
    for (place, content) in &places {
        for (name, secret) in &secrets {
            let found = content.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{name} is in {place}");
        }
    }
    // The search itself works: a log at its fullest names the service.
    for (place, log) in &places[..2] {
        assert!(log.windows(5).any(|window| window == b"TRACE"), "{place} is at its fullest");
    }
    let log = &places[1].1;
    let named = b"spiffe://example.org/hand";
    eventually("the log says something", || log.windows(named.len()).any(|window| window == named).then_some(()));
}

fn add_binary(secrets: &mut Vec<(&'static str, Vec<u8>)>, name: &'static str, bytes: &[u8]) {
    secrets.push((name, bytes.to_vec()));
    secrets.push((name, HEXLOWER.encode(bytes).into_bytes()));
    secrets.push((name, HEXUPPER.encode(bytes).into_bytes()));
    secrets.push((name, Base64::encode_string(bytes).trim_end_matches('=').as_bytes().to_vec()));
    secrets.push((name, Base64UrlUnpadded::encode_string(bytes).into_bytes()));
    // As `Debug` prints bytes.
    let listed = format!("{bytes:?}");
    secrets.push((name, listed.trim_matches(['[', ']']).as_bytes().to_vec()));
}

fn key_files(folder: &Path) -> Vec<(&'static str, String)> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            keys.extend(key_files(&entry.path()));
        } else if let Ok(text) = fs::read_to_string(entry.path())
            && text.contains("PRIVATE KEY-----")
        {
            keys.push(("a private key", text));
        }
    }
    keys
}

/// Every file but those that hold a key on purpose.
fn collect(folder: &Path, places: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            collect(&path, places);
        } else if kind.is_file() {
            let content = fs::read(&path).unwrap();
            if !content.windows(16).any(|window| window == b"PRIVATE KEY-----") {
                places.push((path.display().to_string(), content));
            }
        }
    }
}
