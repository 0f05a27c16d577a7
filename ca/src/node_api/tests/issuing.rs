//! X.509-SVIDs and JWT-SVIDs over the node API.

use std::time::Duration;

use bonafide_ca_api::{
    Reason,
    generated::node::{IssueJwtRequest, IssueX509Request, X509Item, x509_result},
};
use bonafide_verifier::{spiffe::BundleSet, tls::Peer};
use rcgen::KeyPair;
use x509_parser::prelude::FromDer;

use super::rig::{ADMIN, Issued, Rig, TestNode, bundle_of, code, name, new_spki, reason, spki};
use crate::{
    audit::Kind,
    node_api::{Limits, issue, peer::Caller, rpc::Rpc},
    registry::ServiceUpdate,
};

fn refused(issued: &Issued) -> &str {
    &issued.as_ref().unwrap_err().reason
}

#[tokio::test]
async fn a_batch_is_issued_in_its_order_and_each_is_recorded() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[("group", "web")]).await;
    let services =
        [rig.service("a", &["n1"]).await, rig.service("b", &["group=web"]).await, rig.service("c", &["any"]).await];
    let before = rig.records(Kind::X509Issued).await;
    let keys: Vec<Vec<u8>> = (0..30).map(|_| new_spki()).collect();
    let items: Vec<_> = keys.iter().enumerate().map(|(n, key)| (services[n % 3].id.to_string(), key.clone())).collect();
    let issued = node.issue(items).await.unwrap();
    assert_eq!(issued.len(), 30);
    let mut serials = std::collections::HashSet::new();
    for (n, chain) in issued.iter().enumerate() {
        let verified = rig.verify(chain.as_ref().unwrap());
        assert_eq!(verified.id(), &services[n % 3].spiffe_id);
        assert_eq!(verified.spki_sha256(), &crate::issuance::KeyHash::of(&keys[n]).0);
        assert!(serials.insert(verified.serial().as_bytes().to_vec()), "I2: no serial twice");
    }
    assert_eq!(rig.records(Kind::X509Issued).await, before + 30);
    rig.finish().await;
}

/// T-36: a batch of which one item is forbidden: exactly that one is refused, wherever it stands.
#[tokio::test]
async fn t_36_exactly_the_forbidden_item_is_refused() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let mine = rig.service("mine", &["n1"]).await;
    rig.node("n2", &[]).await;
    let theirs = rig.service("theirs", &["n2"]).await;
    for forbidden in 0..8 {
        let items = (0..8).map(|n| (if n == forbidden { &theirs } else { &mine }.id.to_string(), new_spki())).collect();
        let issued = node.issue(items).await.unwrap();
        for (n, result) in issued.iter().enumerate() {
            if n == forbidden {
                assert_eq!(refused(result), Reason::ServiceNotHeld.code());
            } else {
                assert_eq!(rig.verify(result.as_ref().unwrap()).id(), &mine.spiffe_id);
            }
        }
    }
    rig.finish().await;
}

/// T-16: what a node may not hold looks like what there is not.
#[tokio::test]
async fn t_16_another_nodes_service_and_none_at_all_are_refused_alike() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[("group", "web")]).await;
    rig.node("n2", &[]).await;
    let theirs = rig.service("theirs", &["n2"]).await;
    let labelled = rig.service("labelled", &["group=db"]).await;
    let ids = [
        theirs.id.to_string(),
        labelled.id.to_string(),
        uuid::Uuid::now_v7().to_string(),
        String::new(),
        "/theirs".into(),
    ];
    let issued = node.issue(ids.iter().map(|id| (id.clone(), new_spki())).collect()).await.unwrap();
    let first = issued[0].as_ref().unwrap_err().clone();
    assert_eq!(first.reason, Reason::ServiceNotHeld.code());
    for result in &issued {
        assert_eq!(result.as_ref().unwrap_err(), &first);
    }
    let mut messages = std::collections::HashSet::new();
    for service_id in ids {
        let request = IssueJwtRequest { service_id, audience: vec!["a".into()] };
        let status = node.client.issue_jwt(request).await.unwrap_err();
        assert_eq!(reason(&status), Reason::ServiceNotHeld);
        messages.insert((code(&status), status.message().to_owned()));
    }
    assert_eq!(messages.len(), 1);
    rig.finish().await;
}

#[tokio::test]
async fn keys_are_refused_one_by_one() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let other = rig.node("n2", &[]).await;
    let service = rig.service("a", &["n1"]).await;
    let twice = new_spki();
    let root_key = {
        let (_, root) =
            x509_parser::certificate::X509Certificate::from_der(rig.opened.authorities.root().certificate()).unwrap();
        root.public_key().raw.to_vec()
    };
    let off_the_curve = {
        let mut key = new_spki();
        key[90] ^= 1;
        key
    };
    let cases: Vec<(&str, Vec<u8>, Option<Reason>)> = vec![
        ("good", new_spki(), None),
        ("first of two", twice.clone(), None),
        ("second of two", twice, Some(Reason::KeyDuplicate)),
        ("its own node's", spki(&node.key), Some(Reason::KeyReserved)),
        ("another node's", spki(&other.key), Some(Reason::KeyReserved)),
        ("the root's", root_key, Some(Reason::KeyReserved)),
        ("off the curve", off_the_curve, Some(Reason::KeyInvalid)),
        ("empty", vec![], Some(Reason::KeyInvalid)),
        ("P-384", spki(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap()), Some(Reason::KeyInvalid)),
        ("good again", new_spki(), None),
    ];
    let issued = node.issue(cases.iter().map(|case| (service.id.to_string(), case.1.clone())).collect()).await.unwrap();
    for ((what, _, expected), result) in cases.iter().zip(&issued) {
        match expected {
            None => drop(rig.verify(result.as_ref().unwrap())),
            Some(reason) => assert_eq!(refused(result), reason.code(), "{what}"),
        }
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_node_has_its_share_and_the_rest_of_a_batch_a_hint() {
    let mut limits = Limits::default();
    limits.quota.x509_per_lifetime = 4;
    limits.quota.x509_at_once = 0;
    let rig = Rig::start_with(limits).await;
    let mut node = rig.node("n1", &[]).await;
    let service = rig.service_with("a", &["n1"], Duration::from_secs(100)).await;
    let items = |count: usize| (0..count).map(|_| (service.id.to_string(), new_spki())).collect::<Vec<_>>();
    let issued = node.issue(items(6)).await.unwrap();
    assert!(issued[..4].iter().all(Result::is_ok));
    for result in &issued[4..] {
        let refusal = result.as_ref().unwrap_err();
        assert_eq!((refusal.reason.as_str(), refusal.retry_after_ms), (Reason::Quota.code(), 25_000));
    }
    rig.clock.advance(Duration::from_secs(25));
    let issued = node.issue(items(2)).await.unwrap();
    assert_eq!(issued.iter().filter(|result| result.is_ok()).count(), 1);
    // What is refused for another reason takes nothing from the share.
    rig.clock.advance(Duration::from_secs(25));
    let mut bad_first = vec![("nothing".to_owned(), new_spki())];
    bad_first.extend(items(1));
    let issued = node.issue(bad_first).await.unwrap();
    assert_eq!(refused(&issued[0]), Reason::ServiceNotHeld.code());
    issued[1].as_ref().unwrap();
    rig.finish().await;
}

#[tokio::test]
async fn a_batch_has_a_bound() {
    let limits = Limits { batch: 8, ..Limits::default() };
    let rig = Rig::start_with(limits).await;
    let mut node = rig.node("n1", &[]).await;
    let service = rig.service("a", &["n1"]).await;
    let items = |count: usize| (0..count).map(|_| (service.id.to_string(), new_spki())).collect::<Vec<_>>();
    assert!(node.issue(items(8)).await.unwrap().iter().all(Result::is_ok));
    assert_eq!(reason(&node.issue(items(9)).await.unwrap_err()), Reason::BatchTooLarge);
    assert!(node.issue(vec![]).await.unwrap().is_empty());
    rig.finish().await;
}

/// (JWT-17)
#[tokio::test]
async fn a_jwt_svid_verifies_and_is_recorded() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let service = rig.service("a", &["n1"]).await;
    let request = IssueJwtRequest {
        service_id: service.id.to_string(),
        audience: vec!["spiffe://example.org/db".into(), "other".into()],
    };
    let issued = node.client.issue_jwt(request).await.unwrap().into_inner();
    assert_eq!(issued.not_after_ms, super::rig::START.unix_millis() + 300_000);
    let parts: Vec<&str> = issued.token.split('.').collect();
    let decode = |part: &str| -> serde_json::Value {
        use base64ct::{Base64UrlUnpadded, Encoding};
        serde_json::from_slice(&Base64UrlUnpadded::decode_vec(part).unwrap()).unwrap()
    };
    let header = decode(parts[0]);
    let kid = rig.opened.authorities.current().jwt.kid().to_owned();
    assert_eq!(header, serde_json::json!({ "alg": "ES256", "kid": kid, "typ": "JWT" }), "JWT-02");
    let seconds = super::rig::START.unix_seconds();
    let claims = serde_json::json!({
        "sub": "spiffe://example.org/a", "aud": ["spiffe://example.org/db", "other"], "iat": seconds, "exp": seconds + 300,
    });
    assert_eq!(decode(parts[1]), claims, "JWT-09, JWT-10, JWT-15");
    // The signature, by the key in the bundle that the node was given.
    let bundle = bundle_of(&node.credential);
    let authority = bundle.jwt_authority(&kid).unwrap();
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED,
        &authority.public_key().spki()[26..],
    );
    use base64ct::{Base64UrlUnpadded, Encoding};
    let signature = Base64UrlUnpadded::decode_vec(parts[2]).unwrap();
    key.verify(format!("{}.{}", parts[0], parts[1]).as_bytes(), &signature).unwrap();
    assert!(BundleSet::empty().is_empty());
    assert_eq!(rig.records(Kind::JwtIssued).await, 1);

    for (what, audience) in [
        ("JWT-10 none", vec![]),
        ("17", vec!["a".to_owned(); 17]),
        ("empty", vec![String::new()]),
        ("257 bytes", vec!["a".repeat(257)]),
        ("control", vec!["a\u{7}".into()]),
    ] {
        let request = IssueJwtRequest { service_id: service.id.to_string(), audience };
        let refused = node.client.issue_jwt(request).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::AudienceInvalid, "{what}");
    }
    assert_eq!(rig.records(Kind::JwtIssued).await, 1);
    rig.finish().await;
}

#[tokio::test]
async fn from_its_removal_a_node_gets_nothing() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let service = rig.service("a", &["any"]).await;
    node.issue(vec![(service.id.to_string(), new_spki())]).await.unwrap();
    rig.opened.registry.remove_node(name("n1"), ADMIN).await.unwrap();
    let refused = node.issue(vec![(service.id.to_string(), new_spki())]).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::NodeRemoved);
    assert!(refused.message().contains("bonafide-ca node invite n1"), "{}", refused.message());
    // A new connection with the SVID that it still has is refused as well.
    let svid = node.svid();
    let mut again = TestNode { client: rig.with_svid(svid).await, ..node };
    assert_eq!(reason(&again.issue(vec![]).await.unwrap_err()), Reason::NodeRemoved);
    rig.finish().await;
}

#[tokio::test]
async fn a_service_that_moves_away_is_no_longer_issued() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    rig.node("n2", &[]).await;
    let service = rig.service("a", &["n1"]).await;
    let update = ServiceUpdate {
        placements: Some(vec![bonafide_ca_api::Placement::parse("n2").unwrap()]),
        ..ServiceUpdate::default()
    };
    rig.opened.registry.update_service("a".into(), update, ADMIN).await.unwrap();
    let issued = node.issue(vec![(service.id.to_string(), new_spki())]).await.unwrap();
    assert_eq!(refused(&issued[0]), Reason::ServiceNotHeld.code());
    rig.finish().await;
}

#[tokio::test]
async fn nothing_is_signed_while_the_clock_is_doubted() {
    let rig = Rig::start().await;
    let mut node = rig.node("n1", &[]).await;
    let service = rig.service("a", &["n1"]).await;
    for jump in [-180_000, 700_000] {
        rig.clock.jump_wall(jump);
        let refused = node.issue(vec![(service.id.to_string(), new_spki())]).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::ClockUntrusted);
        assert!(!refused.message().contains("2026"), "no internals on the wire: {}", refused.message());
        rig.clock.jump_wall(-jump);
    }
    assert!(node.issue(vec![(service.id.to_string(), new_spki())]).await.unwrap()[0].is_ok());
    rig.finish().await;
}

/// A call that was let in and then took its time was once decided by what its node had been when it came.
#[tokio::test]
async fn t_05_a_slow_call_is_decided_by_what_its_node_is_now() {
    let rig = Rig::start().await;
    let node = rig.node("n1", &[("group", "web")]).await;
    let service = rig.service("a", &["group=web"]).await;
    let peer = Peer::Svid(rig.verify(&node.credential.chain));
    let remote = "192.0.2.1:1".parse().unwrap();
    let Caller::Node(caller) = rig.api.authenticate(Rpc::IssueX509, &peer, remote).await.unwrap() else {
        panic!("a node's SVID makes a node");
    };
    let x509 = async || {
        let items = vec![X509Item { service_id: service.id.to_string(), public_key: new_spki() }];
        let mut issued =
            issue::x509(&rig.api, &caller, IssueX509Request { items }).await.map_err(|told| told.reason)?;
        Ok::<_, Reason>(match issued.results.pop().unwrap().result.unwrap() {
            x509_result::Result::Leaf(_) => None,
            x509_result::Result::Refusal(refusal) => Some(refusal.reason),
        })
    };
    let jwt = async || {
        let request = IssueJwtRequest { service_id: service.id.to_string(), audience: vec!["b".into()] };
        issue::jwt(&rig.api, &caller, request).await.map(drop).map_err(|told| told.reason)
    };
    assert_eq!((x509().await, jwt().await), (Ok(None), Ok(())));
    // The same machine with the same key, by the operator's word in another group.
    let secret = rig.invite("n1", &[("group", "db")], true).await;
    rig.join(&node.key, &secret).await.unwrap();
    let not_held = Reason::ServiceNotHeld;
    assert_eq!((x509().await, jwt().await), (Ok(Some(not_held.code().to_owned())), Err(not_held)));
    rig.opened.registry.remove_node(name("n1"), ADMIN).await.unwrap();
    assert_eq!((x509().await, jwt().await), (Err(Reason::NodeRemoved), Err(Reason::NodeRemoved)));
    rig.finish().await;
}
