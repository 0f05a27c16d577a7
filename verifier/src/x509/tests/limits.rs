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

/// Whoever is on the way counts, wherever the flaw is: each certificate of a chain broken in turn, with and without the cache,
/// beside bundles of other trust domains.
#[test]
fn id_20_x509_36_a_path_that_leaves_the_trust_domain_and_comes_back_is_refused() {
    let (ours, theirs) = (Realm::new("example.org"), Realm::new("example.com"));
    let both: BundleSet = [bundle_of("example.org", &[&ours.root.der]), bundle_of("example.com", &[&theirs.root.der])]
        .into_iter()
        .map(std::sync::Arc::new)
        .collect();
    // Their authority, certified by our root under their name: it is not ours to sign with.
    let across = ours.root.intermediate_with("example.com", "across", Key::p256(), |_| {});
    let below = across.intermediate_with("example.org", "below", Key::p256(), |_| {});
    let chain = [below.leaf(ID, &ours.key), below.der.clone(), across.der.clone()];
    let foreign = ProfileError::ForeignAuthority { found: "example.com".into(), expected: domain("example.org") };
    assert_eq!(verdict(&chain, &both, NOW), Err(intermediate_flaw(2, foreign)));
    // Our root under their name in their bundle's place: the leaf's own trust domain decides.
    let chain = [theirs.issuing.leaf("spiffe://example.com/photo", &ours.key), theirs.issuing.der.clone()];
    assert_eq!(verdict(&chain, &both, NOW).unwrap().authority_sha256(), &sha256(&theirs.root.der));
    let chain = [ours.issuing.leaf("spiffe://example.com/photo", &ours.key), ours.issuing.der.clone()];
    let foreign = ProfileError::ForeignAuthority { found: "example.org".into(), expected: domain("example.com") };
    assert_eq!(verdict(&chain, &both, NOW), Err(intermediate_flaw(1, foreign)), "T-25");
}

/// A leaf that is itself in the bundle, a root that comes as an intermediate, chains that go round.
#[test]
fn x509_30_paths_without_an_authority_above_them() {
    let realm = Realm::new("example.org");
    let leaf = realm.issuing.leaf(ID, &realm.key);
    let refused = TrustBundle::new(domain("example.org"), [&leaf], [], None, None);
    assert!(refused.is_err(), "a leaf is no root");
    let pem = crate::spiffe::pem("CERTIFICATE", &leaf);
    let skipping = TrustBundle::parse_pem(domain("example.org"), pem.as_bytes()).unwrap();
    assert_eq!(skipping.skipped().len(), 1);
    let none = Err(VerifyError::NoAuthorities { trust_domain: domain("example.org") });
    assert_eq!(verdict(from_ref(&leaf), &skipping.into(), NOW), none);
    // Signed by itself, with the root's name.
    let own = Key::p256();
    let mut recipe = Recipe::leaf(ID, &own);
    recipe.issuer = realm.root.name.clone();
    let selfish = recipe.signed_by(&own);
    assert_eq!(verdict(from_ref(&selfish), &realm.bundles(), NOW), Err(VerifyError::BadSignature));
    // A forged root of the right name, sent along.
    let forged = Authority::root("example.org");
    let chain = [forged.leaf(ID, &own), forged.der.clone()];
    assert!(verdict(&chain, &realm.bundles(), NOW).is_err());
    let issuing = forged.intermediate("example.org");
    let chain = [issuing.leaf(ID, &own), issuing.der.clone(), forged.der.clone(), realm.root.der.clone()];
    assert!(verdict(&chain, &realm.bundles(), NOW).is_err());
    // A root in the bundle may come along, and its issuing authority may be in the bundle itself (X509-41).
    let inside = bundle_of("example.org", &[&realm.issuing.der]).into();
    let chain = [leaf.clone(), realm.issuing.der.clone(), realm.root.der.clone()];
    assert_eq!(verdict(&chain, &inside, NOW).unwrap().authority_sha256(), &sha256(&realm.issuing.der));
}

/// What a stranger's chain costs at most, when it is made of keys that are slow to verify and of names that lead everywhere.
#[cfg(feature = "tokio")]
#[test]
fn t_06_the_most_expensive_chain_of_a_stranger_stays_cheap() {
    let root = Authority::root("example.org");
    let bundles: BundleSet = bundle_of("example.org", &[&root.der]).into();
    let names = ["a", "b", "c"];
    // All of them claim to be signed by the root or by each other, with keys of their own.
    let made: Vec<_> = (0..7)
        .map(|n| {
            let key = Key::p521();
            let mut recipe = Recipe::authority("example.org", names[n % 3], &key);
            recipe.issuer = if n < 3 { root.name.clone() } else { name(names[(n + 1) % 3]) };
            Authority { der: recipe.signed_by(&key), name: recipe.subject, key }
        })
        .collect();
    let leaf = Key::p521();
    let mut chain = vec![made[0].leaf(ID, &leaf)];
    chain.extend(made.iter().map(|authority| authority.der.clone()));
    let started = processor_time();
    for _ in 0..10 {
        assert!(verify_chain(&chain, &bundles, NOW).is_err());
    }
    let each = (processor_time() - started) / 10;
    assert!(each < std::time::Duration::from_millis(250), "{each:?} of this thread for one chain");
}

/// The processor time of this thread.
#[cfg(feature = "tokio")]
fn processor_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    std::time::Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}
