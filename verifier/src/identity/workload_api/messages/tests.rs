use std::collections::HashMap;

use super::*;
use crate::tls::fixtures::{Authority, START, after};

fn entry(authority: &Authority, path: &str, seconds: u64) -> X509svid {
    let svid = authority.svid(path, seconds);
    X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.chain_der_concatenated(),
        x509_svid_key: svid.expose_secret().to_vec(),
        bundle: authority.root_der(),
        hint: String::new(),
    }
}

fn response(svids: Vec<X509svid>) -> X509svidResponse {
    X509svidResponse { svids, crl: vec![b"ignored (A-32)".to_vec()], federated_bundles: HashMap::new() }
}

fn read(response: X509svidResponse) -> X509State {
    x509(response, &Pick::Default, None, START).unwrap()
}

fn path(state: &X509State) -> Option<&str> {
    state.svid.as_ref().map(|svid| svid.id().path())
}

#[test]
fn wapi_35_the_first_is_the_default_and_others_can_be_picked() {
    let authority = Authority::new("example.org");
    let mut entries = vec![entry(&authority, "/a", 60), entry(&authority, "/b", 60), entry(&authority, "/c", 60)];
    entries[1].hint = "internal".to_owned();
    entries[2].hint = "internal".to_owned(); // WAPI-18: the first with the hint counts.
    let picked = |pick: &Pick| {
        let state = x509(response(entries.clone()), pick, None, START).unwrap();
        path(&state).map(str::to_owned)
    };
    assert_eq!(picked(&Pick::Default).as_deref(), Some("/a"));
    assert_eq!(picked(&Pick::Hint("internal".to_owned())).as_deref(), Some("/b"));
    assert_eq!(picked(&Pick::Hint("other".to_owned())), None);
    assert_eq!(picked(&Pick::Id(authority.id("/c"))).as_deref(), Some("/c"));
    assert_eq!(picked(&Pick::Id(authority.id("/d"))), None);
}

#[test]
fn wapi_11_a_message_without_a_mandatory_field_is_dropped() {
    let authority = Authority::new("example.org");
    type Empty = fn(&mut X509svid);
    let cases: [(&str, Empty); 4] = [
        ("spiffe_id", |entry| entry.spiffe_id.clear()),
        ("x509_svid", |entry| entry.x509_svid.clear()),
        ("x509_svid_key", |entry| entry.x509_svid_key.clear()),
        ("bundle", |entry| entry.bundle.clear()),
    ];
    for (field, empty) in cases {
        let mut bad = entry(&authority, "/b", 60);
        empty(&mut bad);
        let message = response(vec![entry(&authority, "/a", 60), bad]);
        assert_eq!(
            x509(message, &Pick::Default, None, START).map(drop),
            Err(MessageError::MissingField { field }),
            "{field}"
        );
    }
}

#[test]
fn wapi_08_09_what_is_not_listed_is_gone() {
    let authority = Authority::new("example.org");
    let last = authority.svid("/a", 60);
    let empty = x509(response(Vec::new()), &Pick::Default, Some(&last), START).unwrap();
    assert!(empty.svid.is_none() && empty.bundles.is_empty());
    let other = x509(response(vec![entry(&authority, "/b", 60)]), &Pick::Id(authority.id("/a")), Some(&last), START);
    assert!(other.unwrap().svid.is_none());
}

#[test]
fn a_35_bundles_count_also_beside_an_svid_that_is_bad() {
    let (authority, foreign) = (Authority::new("example.org"), Authority::new("example.com"));
    let last = authority.svid("/a", 60);
    type Spoil = fn(&mut X509svid, &Authority);
    let cases: [(&str, Spoil); 5] = [
        ("junk instead of the chain", |entry, _| entry.x509_svid = b"junk".to_vec()),
        ("junk instead of the key", |entry, _| entry.x509_svid_key = b"junk".to_vec()),
        ("another's key", |entry, authority| {
            entry.x509_svid_key = authority.svid("/a", 60).expose_secret().to_vec();
        }),
        ("another's chain", |entry, authority| {
            let other = authority.svid("/x", 60);
            entry.x509_svid = other.chain_der_concatenated();
            entry.x509_svid_key = other.expose_secret().to_vec();
        }),
        ("expired", |entry, authority| {
            let old = authority.svid_between("/a", START.saturating_sub(std::time::Duration::from_secs(60)), START);
            entry.x509_svid = old.chain_der_concatenated();
            entry.x509_svid_key = old.expose_secret().to_vec();
        }),
    ];
    for (what, spoil) in cases {
        let mut bad = entry(&authority, "/a", 60);
        spoil(&mut bad, &authority);
        let mut message = response(vec![bad]);
        message.federated_bundles.insert("spiffe://example.com".to_owned(), foreign.root_der());
        let state = x509(message.clone(), &Pick::Default, Some(&last), START).unwrap();
        assert_eq!(state.svid.as_ref().map(X509Svid::serial), Some(last.serial()), "{what}: the last good one stays");
        assert_eq!((state.bundles.len(), state.problems.len()), (2, 1), "{what}");
        let other = authority.svid("/other", 60);
        let state = x509(message, &Pick::Default, Some(&other), START).unwrap();
        assert!(state.svid.is_none(), "{what}: one of another identity does not stay");
    }
}

#[test]
fn an_unusable_default_does_not_make_another_the_default() {
    let authority = Authority::new("example.org");
    let mut first = entry(&authority, "/a", 60);
    first.x509_svid = b"junk".to_vec();
    let state = read(response(vec![first, entry(&authority, "/b", 60)]));
    assert!(state.svid.is_none());
    // Nor does one that names nobody: the second identity is somebody else.
    let nobody = X509svid { spiffe_id: "spiffe://Example.org/a".to_owned(), ..entry(&authority, "/a", 60) };
    let state = read(response(vec![nobody, entry(&authority, "/b", 60)]));
    assert!(state.svid.is_none(), "WAPI-35");
    assert_eq!((state.bundles.len(), state.problems.len()), (1, 2));
}

#[test]
fn a_34_the_own_bundle_wins_over_a_foreign_one_of_its_name() {
    let (authority, stranger) = (Authority::new("example.org"), Authority::new("example.org"));
    let mut message = response(vec![entry(&authority, "/a", 60)]);
    message.federated_bundles.insert("spiffe://example.org".to_owned(), stranger.root_der());
    let state = read(message);
    let [root] = state.bundles[&authority.trust_domain].x509_authorities() else { panic!("one root") };
    assert_eq!(root.der(), authority.root_der());
}

#[test]
fn foreign_bundles_are_named_by_trust_domain() {
    let (authority, foreign) = (Authority::new("example.org"), Authority::new("example.com"));
    for (name, taken) in [
        ("spiffe://example.com", true),
        ("example.com", true),
        ("spiffe://EXAMPLE.com", false),
        ("", false),
        ("spiffe://example.com/", false),
    ] {
        let mut message = response(vec![entry(&authority, "/a", 60)]);
        message.federated_bundles.insert(name.to_owned(), foreign.root_der());
        let state = read(message);
        assert_eq!(state.bundles.contains_key(&foreign.trust_domain), taken, "{name}");
        assert_eq!(state.problems.is_empty(), taken, "{name}");
        assert_eq!(path(&state), Some("/a"), "{name}");
    }
}

#[test]
fn wapi_13_each_kind_of_bundle_serves_its_own_kind() {
    let (authority, foreign) = (Authority::new("example.org"), Authority::new("example.com"));
    let jwks = br#"{"keys":[{"kty":"EC","kid":"k1","crv":"P-256",
        "x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;
    let names = [authority.trust_domain.clone(), foreign.trust_domain.clone()];
    let bundles = names.iter().map(|name| (format!("spiffe://{name}"), jwks.to_vec())).collect();
    let (jwt, problems) = jwt(JwtBundlesResponse { bundles }).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let x509 = read(response(vec![entry(&authority, "/a", 60)])).bundles;
    let merged = merged(&x509, &jwt);
    let count = |name| merged.get(name).map(|bundle| (bundle.x509_authorities().len(), bundle.jwt_authorities().len()));
    assert_eq!((count(&names[0]), count(&names[1])), (Some((1, 1)), Some((0, 1))));
    assert_eq!(super::merged(&x509, &Bundles::new()).get(&names[0]).unwrap().jwt_authorities().len(), 0);
}

#[test]
fn one_bad_jwt_bundle_does_not_take_the_others_with_it() {
    let good = br#"{"keys":[]}"#.to_vec();
    let bundles = HashMap::from([
        ("spiffe://example.org".to_owned(), good),
        ("spiffe://example.com".to_owned(), b"junk".to_vec()),
        ("://".to_owned(), b"{}".to_vec()),
    ]);
    let (bundles, problems) = jwt(JwtBundlesResponse { bundles }).unwrap();
    assert_eq!((bundles.len(), problems.len()), (1, 2));
}

#[test]
fn t_08_the_number_of_entries_is_bounded() {
    let message = |count: usize| {
        let names = (0..count).map(|number| (format!("spiffe://td{number}"), Vec::new())).collect();
        X509svidResponse { svids: Vec::new(), crl: Vec::new(), federated_bundles: names }
    };
    assert!(x509(message(1024), &Pick::Default, None, after(0)).is_ok());
    for count in [1025, 102_400] {
        let refused = x509(message(count), &Pick::Default, None, after(0)).map(drop);
        assert_eq!(refused, Err(MessageError::TooManyEntries { count }));
    }
}
