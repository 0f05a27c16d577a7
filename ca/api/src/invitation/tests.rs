use super::*;

fn invitation() -> Invitation {
    Invitation::new(
        vec![CaAddress::parse("ca.example.org:8443").unwrap(), CaAddress::parse("[2001:db8::1]:8443").unwrap()],
        TrustDomain::parse("example.org").unwrap(),
        [7; 32],
        InvitationSecret::from_slice(&[0xAB; 32]).unwrap(),
        Timestamp::from_unix_millis(1_800_000_000_123),
    )
    .unwrap()
}

fn text() -> String {
    invitation().expose_secret_string().to_string()
}

/// A payload with a right checksum around any `body`.
fn sealed(body: &[u8]) -> String {
    let length = u16::try_from(body.len() + CHECKSUM).unwrap();
    let mut payload = head_for(length).to_vec();
    payload.extend_from_slice(body);
    let checksum = checksum_of(&payload);
    payload.extend_from_slice(&checksum);
    format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&payload))
}

fn body(trust_domain: &str, addresses: &[&str]) -> Vec<u8> {
    let mut body = 1_800_000_000_123_i64.to_be_bytes().to_vec();
    body.extend_from_slice(&[7; 64]);
    push_short(&mut body, trust_domain);
    body.push(u8::try_from(addresses.len()).unwrap());
    addresses.iter().for_each(|address| push_short(&mut body, address));
    body
}

fn error_of(text: &str) -> InvitationError {
    Invitation::parse(text).unwrap_err()
}

#[test]
fn prints_what_parses_back() {
    let parsed = Invitation::parse(&text()).unwrap();
    let made = invitation();
    assert_eq!(parsed.addresses(), made.addresses());
    assert_eq!(parsed.trust_domain(), made.trust_domain());
    assert_eq!(parsed.root_sha256(), made.root_sha256());
    assert_eq!(parsed.secret().expose_secret(), made.secret().expose_secret());
    assert_eq!(parsed.expires_at(), made.expires_at());
}

#[test]
fn longest_invitation_fits() {
    let label = "a".repeat(63);
    let host = format!("{label}.{label}.{label}.{}:65535", "a".repeat(57));
    let address = CaAddress::parse(&host).unwrap();
    let made = Invitation::new(
        vec![address; 8],
        TrustDomain::parse(&"a".repeat(255)).unwrap(),
        [7; 32],
        InvitationSecret::generate().unwrap(),
        Timestamp::from_unix_millis(0),
    )
    .unwrap();
    let text = made.expose_secret_string();
    assert!(text.len() < Invitation::MAX_LENGTH);
    assert_eq!(Invitation::parse(&text).unwrap().addresses(), made.addresses());
}

#[test]
fn truncated_at_each_character_is_said_so() {
    let text = text();
    for end in 1..text.len() {
        let error = error_of(&text[..end]);
        assert!(matches!(error, InvitationError::Truncated { missing } if missing > 0), "{end}: {error}");
        if end >= PREFIX.len() + 4 {
            assert_eq!(error, InvitationError::Truncated { missing: text.len() - end });
        }
    }
    assert_eq!(error_of(""), InvitationError::Empty);
}

#[test]
fn any_one_changed_character_is_mistyped_and_never_expired_or_cut() {
    let text = text();
    for at in PREFIX.len()..text.len() {
        for other in "AZaz09-_".chars() {
            let mut changed: Vec<char> = text.chars().collect();
            if changed[at] == other {
                continue;
            }
            changed[at] = other;
            let error = error_of(&changed.into_iter().collect::<String>());
            assert_eq!(error, InvitationError::Mistyped, "position {at}, `{other}`");
        }
    }
}

#[test]
fn changed_prefix_is_no_invitation() {
    let text = text();
    for at in 0..PREFIX.len() {
        let mut changed = text.clone().into_bytes();
        changed[at] = b'x';
        let error = error_of(std::str::from_utf8(&changed).unwrap());
        assert_eq!(error, InvitationError::NotAnInvitation, "position {at}");
    }
}

#[test]
fn wraps_blanks_and_quotes_do_not_matter() {
    let text = text();
    let wrapped: String =
        text.as_bytes().chunks(20).map(|line| format!("  {}\r\n\t", std::str::from_utf8(line).unwrap())).collect();
    for variant in [
        format!("\"{text}\""),
        format!("'{text}'\n"),
        format!("`{text}`"),
        format!("\u{201c}{text}\u{201d}"),
        format!(" \u{a0}{text}\n"),
        wrapped,
    ] {
        assert!(Invitation::parse(&variant).is_ok(), "{variant:?}");
    }
}

#[test]
fn each_way_to_be_wrong_has_its_error() {
    let text = text();
    let payload_of = |trust_domain: &str, addresses: &[&str]| sealed(&body(trust_domain, addresses));
    let count = |count| InvitationError::AddressCount { count, limit: 8 };
    let cases: &[(&str, String, InvitationError)] = &[
        ("blank", " \n".into(), InvitationError::Empty),
        ("two glued", format!("{text}{text}"), InvitationError::Two),
        ("two lines", format!("{text}\n{text}\n"), InvitationError::Two),
        ("other version", text.replacen("bonafide1_", "bonafide2_", 1), InvitationError::Version { version: 2 }),
        ("upper case", text.to_uppercase(), InvitationError::CaseChanged),
        ("something else", "spiffe://example.org/a".into(), InvitationError::NotAnInvitation),
        ("half quoted", format!("\"{text}"), InvitationError::NotAnInvitation),
        ("a full stop after it", format!("{text}."), InvitationError::Character { at: text.len() }),
        ("more after it", format!("{text}AB"), InvitationError::Trailing { extra: 2 }),
        ("padding", format!("{text}="), InvitationError::Character { at: text.len() }),
        ("other alphabet", text.replacen('_', "/", 1), InvitationError::NotAnInvitation),
        ("1 MiB", "b".repeat(1 << 20), InvitationError::TooLong { length: 1 << 20, limit: 8192 }),
        ("empty content", sealed(&[]), InvitationError::Malformed),
        ("no address", payload_of("example.org", &[]), count(0)),
        ("nine addresses", payload_of("example.org", &["a:1"; 9]), count(9)),
        ("port 0", payload_of("example.org", &["a:0"]), InvitationError::Address(CaAddressError::PortZero)),
        (
            "unspecified address",
            payload_of("example.org", &["0.0.0.0:1"]),
            InvitationError::Address(CaAddressError::Unspecified { host: "0.0.0.0".into() }),
        ),
        (
            "international name",
            payload_of("example.org", &["bücher:1"]),
            InvitationError::Address(CaAddressError::Host { host: "bücher".into() }),
        ),
        (
            "more after the content",
            sealed(&[body("example.org", &["a:1"]), vec![0]].concat()),
            InvitationError::Malformed,
        ),
    ];
    for (what, input, expected) in cases {
        assert_eq!(error_of(input), *expected, "{what}");
    }
    for trust_domain in ["", "Example.org", "example.org/a", "\x1b[2J"] {
        let error = error_of(&payload_of(trust_domain, &["a:1"]));
        assert!(matches!(error, InvitationError::TrustDomain { .. }), "{trust_domain:?}: {error}");
        assert!(!error.to_string().contains('\x1b'), "T-31: {error:?}");
    }
}

#[test]
fn expiry_is_the_reader_s_to_check() {
    let invitation = Invitation::parse(&text()).unwrap();
    let end = invitation.expires_at().unix_millis();
    assert_eq!(invitation.check_expiry(Timestamp::from_unix_millis(end - 1)), Ok(()));
    let expired = InvitationError::Expired { expired_at: invitation.expires_at() };
    assert_eq!(invitation.check_expiry(Timestamp::from_unix_millis(end)), Err(expired));
}

/// T-12: neither `Debug` nor any error shows the secret, in any of the forms it could take.
#[test]
fn nothing_shows_the_secret() {
    let made = invitation();
    let text = text();
    let debug = format!("{made:?} {made:#?} {:?}", made.secret());
    for form in ["abab", "ABAB", "171", "q6ur", &text[PREFIX.len()..]] {
        assert!(!debug.contains(form), "{debug}");
    }
    for end in 0..text.len() {
        let error = error_of(&text[..end]);
        assert!(!format!("{error:?} {error}").contains("q6ur"));
    }
}

#[test]
fn secrets_are_random_and_hashed() {
    let (one, two) = (InvitationSecret::generate().unwrap(), InvitationSecret::generate().unwrap());
    assert_ne!(one.expose_secret(), two.expose_secret());
    assert_ne!(one.hash(), *one.expose_secret());
    assert!(InvitationSecret::from_slice(&[0; 31]).is_none());
    assert!(InvitationSecret::from_slice(&[0; 33]).is_none());
}
