use std::sync::Arc;

use super::*;
use crate::view;

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// A root of its own each time it is asked for another name.
fn root(name: &str) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.subject_alt_names =
        vec![rcgen::SanType::URI(rcgen::string::Ia5String::try_from("spiffe://example.org").unwrap())];
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

fn bundle(roots: &[&Vec<u8>], sequence: u64) -> node::TrustBundle {
    let bundle =
        TrustBundle::new(trust_domain(), roots.iter().map(|root| root.as_slice()), [], Some(sequence), None).unwrap();
    node::TrustBundle { trust_domain: "example.org".into(), spiffe_json: bundle.to_spiffe_json().into() }
}

fn service(id: &str, version: u64) -> node::Service {
    node::Service {
        id: id.into(),
        version,
        spiffe_id: format!("spiffe://example.org/{id}"),
        selectors: vec!["unix:uid:1000".into()],
        x509_ttl_s: 3600,
        jwt_ttl_s: 300,
        dns_names: vec![],
        hint: String::new(),
        edge_scopes: Vec::new(),
        edge_issuers: Vec::new(),
    }
}

fn whole(epoch: &str, version: u64, services: &[&str], bundle: node::TrustBundle) -> node::SyncResponse {
    node::SyncResponse {
        position: Some(node::Position { epoch: epoch.into(), version }),
        whole: true,
        services: services.iter().map(|id| service(id, version)).collect(),
        removed: vec![],
        bundles: vec![bundle],
        now_ms: 0,
        token_keys: None,
    }
}

fn delta(epoch: &str, version: u64) -> node::SyncResponse {
    node::SyncResponse {
        position: Some(node::Position { epoch: epoch.into(), version }),
        whole: false,
        services: vec![],
        removed: vec![],
        bundles: vec![],
        now_ms: 0,
        token_keys: None,
    }
}

fn applied(view: &View, update: &node::SyncResponse) -> View {
    match judge(view, None, update).unwrap() {
        Verdict::Apply(view) => view,
        Verdict::Hold(held) => panic!("{held:?}"),
    }
}

fn ids(view: &View) -> Vec<&str> {
    let mut ids: Vec<&str> = view.services().iter().map(|service| &*service.id).collect();
    ids.sort_unstable();
    ids
}

struct Fixture {
    root: Vec<u8>,
    /// Epoch `e`, version 5, services `a` and `b`, bundle sequence 3.
    view: View,
}

fn fixture() -> Fixture {
    let root = root("one");
    let first = whole("e", 5, &["a", "b"], bundle(&[&root], 3));
    Fixture { view: applied(&View::empty(trust_domain()), &first), root }
}

#[test]
fn updates_are_applied_in_order_with_tombstones() {
    let Fixture { root, view } = fixture();
    assert_eq!((ids(&view), view.position().unwrap().version), (vec!["a", "b"], 5));
    let change = node::SyncResponse { services: vec![service("c", 6)], removed: vec!["a".into()], ..delta("e", 6) };
    let next = applied(&view, &change);
    assert_eq!((ids(&next), next.position().unwrap().version), (vec!["b", "c"], 6));
    let shorter = applied(&next, &whole("e", 7, &["c"], bundle(&[&root], 3)));
    assert_eq!(ids(&shorter), ["c"], "the whole state: what it does not list is gone");
    let same = applied(&shorter, &delta("e", 7));
    assert_eq!(ids(&same), ["c"], "nothing new is an update, too");
    let unknown = applied(&shorter, &node::SyncResponse { removed: vec!["never".into()], ..delta("e", 8) });
    assert_eq!(ids(&unknown), ["c"], "a tombstone of what is not held");
}

///
#[test]
fn what_goes_back_is_refused() {
    let Fixture { root, view } = fixture();
    let lowered = judge(&view, None, &whole("e", 4, &["a", "b"], bundle(&[&root], 3))).unwrap_err();
    assert!(matches!(lowered, UpdateError::VersionLowered { offered: 4, held: 5, .. }), "{lowered}");
    let other = self::root("two");
    let cases = [
        ("a lower sequence", bundle(&[&root], 2), true),
        ("the same sequence, other keys", bundle(&[&other], 3), true),
        ("the same sequence, the same keys", bundle(&[&root], 3), false),
        ("a higher sequence, other keys", bundle(&[&root, &other], 4), false),
    ];
    for (name, bundle, refused) in cases {
        let update = node::SyncResponse { bundles: vec![bundle], ..delta("e", 6) };
        let judged = judge(&view, None, &update);
        assert_eq!(judged.is_err(), refused, "{name}: {judged:?}");
        if let Err(error) = judged {
            assert_eq!(error.reason(), Reason::BundleSequenceLowered, "{name}");
        }
    }
    // In a new epoch no less: a restored CA's bundle must have moved on.
    let restored = judge(&view, Some("f"), &whole("f", 1, &["a", "b"], bundle(&[&root], 2)));
    assert!(matches!(restored, Err(UpdateError::BundleSequenceLowered { .. })));
}

#[test]
fn i7_a_new_epoch_that_takes_services_away_is_held() {
    let Fixture { root, view } = fixture();
    let removes = whole("f", 1, &["b", "c"], bundle(&[&root], 4));
    match judge(&view, None, &removes).unwrap() {
        Verdict::Hold(held) => assert_eq!(held, Held { epoch: "f".into(), services_removed: 1 }),
        Verdict::Apply(_) => panic!("applied"),
    }
    let by_tombstone = node::SyncResponse { removed: vec!["a".into()], ..delta("f", 1) };
    assert!(matches!(judge(&view, None, &by_tombstone), Ok(Verdict::Hold(_))));
    assert!(matches!(judge(&view, Some("g"), &removes), Ok(Verdict::Hold(_))), "another epoch was accepted");
    match judge(&view, Some("f"), &removes).unwrap() {
        Verdict::Apply(view) => assert_eq!(ids(&view), ["b", "c"]),
        Verdict::Hold(_) => panic!("held"),
    }
    // A version below the old epoch's is fine: versions count within an epoch.
    let keeps = applied(&view, &whole("f", 1, &["a", "b", "c"], bundle(&[&root], 4)));
    assert_eq!(keeps.position().unwrap().version, 1);
}

#[test]
fn a_malformed_update_is_refused_whole() {
    let Fixture { root, view } = fixture();
    let with = |change: &dyn Fn(&mut node::Service)| {
        let mut service = service("c", 6);
        change(&mut service);
        node::SyncResponse { services: vec![service], ..delta("e", 6) }
    };
    let no_position = node::SyncResponse { position: None, ..delta("e", 6) };
    let cases: Vec<(&str, node::SyncResponse)> = vec![
        ("no position", no_position),
        ("empty epoch", delta("", 6)),
        ("long epoch", delta(&"e".repeat(65), 6)),
        ("control character in the epoch", delta("e\x1b", 6)),
        ("empty id", with(&|service| service.id.clear())),
        ("long id", with(&|service| service.id = "i".repeat(129))),
        ("no SPIFFE ID", with(&|service| service.spiffe_id = "https://example.org/c".into())),
        ("another trust domain", with(&|service| service.spiffe_id = "spiffe://other.org/c".into())),
        ("the reserved segment", with(&|service| service.spiffe_id = "spiffe://example.org/bonafide/ca".into())),
        ("no path", with(&|service| service.spiffe_id = "spiffe://example.org".into())),
        ("no user", with(&|service| service.selectors = vec!["unix:gid:1".into()])),
        ("no selector", with(&|service| service.selectors.clear())),
        ("a selector of no form", with(&|service| service.selectors.push("uid".into()))),
        ("too many selectors", with(&|service| service.selectors = vec!["unix:uid:1".into(); 33])),
        ("X.509 lifetime 0", with(&|service| service.x509_ttl_s = 0)),
        ("JWT lifetime 0", with(&|service| service.jwt_ttl_s = 0)),
        ("WAPI-36 a long hint", with(&|service| service.hint = "h".repeat(1025))),
        ("a service twice", node::SyncResponse { services: vec![service("c", 6), service("c", 6)], ..delta("e", 6) }),
        (
            "a service and its tombstone",
            node::SyncResponse { services: vec![service("c", 6)], removed: vec!["c".into()], ..delta("e", 6) },
        ),
        (
            "a tombstone in the whole state",
            node::SyncResponse { removed: vec!["a".into()], ..whole("e", 6, &["b"], bundle(&[&root], 3)) },
        ),
        ("no own bundle", node::SyncResponse { bundles: vec![], ..whole("e", 6, &["a", "b"], bundle(&[&root], 3)) }),
        ("an own bundle without roots", whole("e", 6, &["a", "b"], bundle(&[], 4))),
        (
            "a bundle that is no bundle",
            node::SyncResponse {
                bundles: vec![node::TrustBundle { trust_domain: "example.org".into(), spiffe_json: b"{".to_vec() }],
                ..delta("e", 6)
            },
        ),
        (
            "two bundles of one trust domain",
            node::SyncResponse { bundles: vec![bundle(&[&root], 3), bundle(&[&root], 3)], ..delta("e", 6) },
        ),
    ];
    for (name, update) in cases {
        let error = judge(&view, None, &update).expect_err(name);
        assert_eq!(error.reason(), Reason::UpdateUnreadable, "{name}: {error}");
        assert!(!error.to_string().contains('\x1b'), "T-31 {name}");
    }
}

#[test]
fn a_selector_of_a_newer_ca_gives_the_service_to_nobody_and_keeps_the_rest() {
    let Fixture { view, .. } = fixture();
    let mut newer = service("a", 6);
    newer.selectors.push("tpm:ek:0123".into());
    let next = applied(&view, &node::SyncResponse { services: vec![newer], ..delta("e", 6) });
    assert_eq!(ids(&next), ["b"]);
}

#[test]
fn t_38_a_view_comes_back_from_its_whole_state() {
    let Fixture { view, .. } = fixture();
    let mut all = service("c", 9);
    (all.x509_ttl_s, all.jwt_ttl_s, all.hint) = (11, 12, "hint".into());
    all.selectors = vec!["unix:uid:1".into(), "unix:path:/bin/c".into()];
    all.dns_names = vec!["c.example.org".into(), "d.example.org".into()];
    let view = applied(&view, &node::SyncResponse { services: vec![all], ..delta("e", 9) });
    let again = applied(&View::empty(trust_domain()), &super::whole(&view));
    assert_eq!(again.position(), view.position());
    assert_eq!(again.services(), view.services());
    assert!(again.bundles().get(&trust_domain()).unwrap().same_keys(view.bundles().get(&trust_domain()).unwrap()));
    let digests =
        |view: &View| view.services().iter().map(|service: &Arc<view::Service>| service.digest()).collect::<Vec<_>>();
    assert_eq!(digests(&again), digests(&view), "kept SVIDs still belong to these services");
}
