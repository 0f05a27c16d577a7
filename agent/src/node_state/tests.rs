use super::*;

fn state() -> NodeState {
    NodeState {
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        root_sha256: [7; 32],
        addresses: ["ca.example.org:8443", "[2001:db8::1]:8443"].map(|text| CaAddress::parse(text).unwrap()).to_vec(),
        invitation: Some(Zeroizing::new("bonafide1…".into())),
        redeemed: Some([9; 32]),
        current: HeldKey { key: NodeKey::generate().unwrap(), chain: vec![vec![1, 2], vec![3]] },
        pending: Some(HeldKey::bare(NodeKey::generate().unwrap())),
        replaced: Some([8; 32]),
        bundle: Some(b"{\"keys\":[]}".to_vec()),
    }
}

#[test]
fn a_state_comes_back_as_it_was_written() {
    let temp = tempfile::tempdir().unwrap();
    let data = DataDir::open(&temp.path().join("data")).unwrap();
    assert!(data.load_node().unwrap().is_none());
    let before = state();
    data.store_node(&before).unwrap();
    let after = data.load_node().unwrap().unwrap();
    assert_eq!(after.trust_domain, before.trust_domain);
    assert_eq!(after.root_sha256, before.root_sha256);
    assert_eq!(after.addresses, before.addresses);
    assert_eq!(after.invitation, before.invitation);
    assert_eq!(after.redeemed, before.redeemed);
    assert_eq!(after.current.key.expose_secret(), before.current.key.expose_secret());
    assert_eq!(after.current.chain, before.current.chain);
    let (after_pending, before_pending) = (after.pending.unwrap(), before.pending.unwrap());
    assert_eq!(after_pending.key.expose_secret(), before_pending.key.expose_secret());
    assert!(after_pending.chain.is_empty());
    assert_eq!((after.bundle, after.replaced), (before.bundle, before.replaced));
    data.store_view(b"view").unwrap();
    assert_eq!(data.load_view().unwrap().unwrap(), b"view");
    data.forget_node().unwrap();
    assert!(data.load_node().unwrap().is_none() && data.load_view().unwrap().is_none());
}

/// F-14: cut at each byte, each bit flipped; refused by name, and the file is as it was.
#[test]
fn f_14_no_cut_and_no_flipped_bit_is_believed_or_overwritten() {
    let temp = tempfile::tempdir().unwrap();
    let data = DataDir::open(&temp.path().join("data")).unwrap();
    data.store_node(&state()).unwrap();
    let path = data.path().join("node");
    let good = std::fs::read(&path).unwrap();
    // In place, so that mode and owner stay.
    let check = |bytes: &[u8], what: String| {
        std::fs::write(&path, bytes).unwrap();
        let error = data.load_node().expect_err(&what);
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()), "{what}: {text}");
        assert!(text.contains("join again with a new"), "{what}: {text}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}");
    };
    for end in 0..good.len() {
        check(&good[..end], format!("cut at {end}"));
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        check(&bytes, format!("bit {} of byte {at}", at % 8));
    }
}

#[test]
fn f_14_a_body_with_the_right_hash_is_still_checked() {
    let path = Path::new("/node");
    let good = stored::encode_node(&state());
    assert!(stored::decode_node(&good).is_ok());
    for end in 0..good.len() {
        let _ = stored::decode_node(&good[..end]); // must not panic
    }
    let error = damaged(path, b"head body", b"body", stored::decode_node(b"").unwrap_err(), &NODE_KIND);
    assert!(error.to_string().starts_with("`/node` is damaged at byte 5: its trust domain"), "{error}");
}
