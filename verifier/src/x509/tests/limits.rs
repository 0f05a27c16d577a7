//! What costs much is refused early; what costs much and is right is remembered.

use super::*;

#[test]
fn t_06_bounds_come_before_everything() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let chain = realm.chain(|_| {});
    let padded = |count: usize| {
        let mut chain = chain.clone();
        chain.extend((2..count).map(|n| CertificateDer::from(vec![n as u8; 16])));
        verdict(&chain, &bundles, NOW).map(drop)
    };
    assert_eq!(padded(8), Ok(()));
    assert_eq!(padded(9), Err(VerifyError::TooManyCertificates { count: 9 }));
    assert_eq!(padded(100), Err(VerifyError::TooManyCertificates { count: 100 }));
    let own: usize = chain.iter().map(|certificate| certificate.len()).sum();
    let filled = |bytes: usize| {
        let mut chain = chain.clone();
        chain.push(vec![0; bytes - own].into());
        verdict(&chain, &bundles, NOW).map(drop)
    };
    assert_eq!(filled(16 * 1024), Ok(()));
    assert_eq!(filled(16 * 1024 + 1), Err(VerifyError::ChainTooLarge { bytes: 16 * 1024 + 1 }));
    assert_eq!(filled(100 * 16 * 1024), Err(VerifyError::ChainTooLarge { bytes: 100 * 16 * 1024 }));
    let huge =
        realm.chain(|r| r.extensions.push(Extension { oid: vec![0x2a], critical: false, value: vec![0; 16 * 1024] }));
    assert!(matches!(verdict(&huge, &bundles, NOW), Err(VerifyError::ChainTooLarge { .. })));
    let many_names: Vec<_> = std::iter::once(uri(ID)).chain((0..10_000).map(|n| dns(&format!("n{n}")))).collect();
    let many = realm.chain(|r| {
        r.set(names(&many_names));
    });
    assert!(matches!(verdict(&many, &bundles, NOW), Err(VerifyError::ChainTooLarge { .. })));
}

#[test]
fn t_06_look_alikes_cost_little() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let leaf = realm.issuing.leaf(ID, &realm.key);
    let with = |intermediates: Vec<CertificateDer<'static>>| {
        verdict(&[vec![leaf.clone()], intermediates].concat(), &bundles, NOW).map(drop)
    };
    let alike = |issuer: &str, subject: &str| {
        realm.root.intermediate_with("example.org", subject, Key::p256(), |r| r.issuer = name(issuer)).der
    };
    let issuing = "example.org issuing";
    let seven = |one: &dyn Fn() -> CertificateDer<'static>| (0..7).map(|_| one()).collect::<Vec<_>>();
    let too_many = Err(VerifyError::LookAlikes { count: 7 });
    // All of the issuing authority's name, below the root; below each other; below nobody; all the root's namesakes.
    assert_eq!(with(seven(&|| alike("example.org root", issuing))), too_many);
    assert_eq!(with(seven(&|| alike(issuing, issuing))), too_many);
    assert_eq!(with(seven(&|| alike("nobody", issuing))), too_many);
    assert_eq!(with(seven(&|| alike("example.org root", "example.org root"))), too_many);
    // As many as are allowed, in a ring, and the true one at last.
    let ring = [("a", issuing), ("b", "a"), (issuing, "b"), ("a", issuing), ("b", "a")];
    let mut ring: Vec<_> = ring.iter().map(|(issuer, subject)| alike(issuer, subject)).collect();
    ring.push(realm.issuing.der.clone());
    assert_eq!(with(ring), Ok(()));
    let three = [alike("nobody", issuing), alike("example.org root", issuing), realm.issuing.der.clone()];
    assert_eq!(with(three.to_vec()), Ok(()));
    let mut four = three.to_vec();
    four.push(alike("nobody", issuing));
    assert_eq!(with(four), Err(VerifyError::LookAlikes { count: 4 }));
}

#[test]
fn t_44_many_roots_of_one_name() {
    let key = Key::p256();
    let roots: Vec<_> = (0..150).map(|_| Authority::root_with("example.org", "root", Key::p256(), |_| {})).collect();
    let bundles: BundleSet = bundle_of("example.org", &roots.iter().map(|root| &root.der).collect::<Vec<_>>()).into();
    for last in [&roots[0], &roots[149]] {
        let peer = verdict(&[last.leaf(ID, &key)], &bundles, NOW).unwrap();
        assert_eq!(peer.authority_sha256(), &sha256(&last.der));
        let issuing = last.intermediate("example.org");
        verdict(&[issuing.leaf(ID, &key), issuing.der.clone()], &bundles, NOW).unwrap();
        // Nothing says which of the 150 keys it is.
        let unnamed = last.leaf_with(ID, &key, |r| {
            r.without(AUTHORITY_KEY);
        });
        let peer = verdict(&[unnamed], &bundles, NOW).unwrap();
        assert_eq!(peer.authority_sha256(), &sha256(&last.der));
    }
    let stranger = Authority::root_with("example.org", "root", Key::p256(), |_| {});
    assert_eq!(
        verdict(&[stranger.leaf(ID, &key)], &bundles, NOW),
        Err(VerifyError::UnknownAuthority { trust_domain: domain("example.org") })
    );
    let unnamed = stranger.leaf_with(ID, &key, |r| {
        r.without(AUTHORITY_KEY);
    });
    assert_eq!(verdict(&[unnamed], &bundles, NOW), Err(VerifyError::BadSignature));
}

#[test]
fn a_hit_looks_at_the_time_again_and_a_new_generation_at_everything() {
    let realm = Realm::new("example.org");
    let (chain, bundles) = (realm.chain(|_| {}), realm.bundles());
    let presented = PresentedChain::leaf_first(&chain).unwrap();
    let cache = VerifiedChains::new(16);
    cache.verify(&presented, 1, &bundles, NOW).unwrap();
    // Within the generation even without the bundles: that shows that it was a hit.
    cache.verify(&presented, 1, &BundleSet::empty(), NOW).unwrap();
    for (what, now) in [("after its end", at(3601)), ("before its begin", at(-61))] {
        assert_eq!(cache.verify(&presented, 1, &bundles, now), verify(&presented, &bundles, now), "{what}");
    }
    assert!(cache.verify(&presented, 2, &BundleSet::empty(), NOW).is_err(), "the root has left the bundle");
    assert_eq!(cache.len(), 1);
    cache.clear();
    assert!(cache.verify(&presented, 1, &BundleSet::empty(), NOW).is_err());
}

#[test]
fn the_cache_is_bounded_and_keyed_by_every_byte() {
    let realm = Realm::new("example.org");
    let bundles = realm.bundles();
    let cache = VerifiedChains::new(8);
    let leaf = realm.issuing.leaf(ID, &realm.key);
    for n in 0..64_u8 {
        let chain = [leaf.clone(), realm.issuing.der.clone(), vec![n].into()];
        cache.verify(&PresentedChain::leaf_first(&chain).unwrap(), 1, &bundles, NOW).unwrap();
    }
    assert!(cache.len() <= 16, "{} chains", cache.len());
    // The same bytes, divided in another way, are another chain.
    let cache = VerifiedChains::new(8);
    for tail in [vec![vec![1, 2].into(), vec![3].into()], vec![vec![1].into(), vec![2, 3].into()]] {
        let chain: Vec<CertificateDer<'_>> = [vec![leaf.clone(), realm.issuing.der.clone()], tail].concat();
        cache.verify(&PresentedChain::leaf_first(&chain).unwrap(), 1, &bundles, NOW).unwrap();
    }
    assert_eq!(cache.len(), 2);
}
