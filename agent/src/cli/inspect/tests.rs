use super::*;

#[test]
fn times_are_rfc_3339_or_seconds() {
    assert_eq!(parse_time("1800000000"), Ok(Timestamp::from_unix_seconds(1_800_000_000)));
    assert_eq!(parse_time("2027-01-15T08:00:00Z"), Ok(Timestamp::from_unix_seconds(1_800_000_000)));
    assert_eq!(parse_time("2027-01-15T09:00:00+01:00"), Ok(Timestamp::from_unix_seconds(1_800_000_000)));
    for wrong in ["", "tomorrow", "2027-01-15", "2027-01-15T08:00:00"] {
        assert!(parse_time(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_nothing_we_know_is_refused_by_code() {
    let judge = Judge { bundles: None, audience: vec![], at: Timestamp::from_unix_seconds(1_800_000_000) };
    let cases: &[(&[u8], &str, &str)] = &[
        (b"", "unknown", "unknown-format"),
        (b"hello", "unknown", "unknown-format"),
        (b"\xff\xfe\x00", "unknown", "unknown-format"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x509-chain", "malformed-certificate"),
        (b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "x509-chain", "malformed-certificate"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "x509-chain", "no-certificate"),
        (b"\x30\x82\xff\xff", "x509-chain", "malformed-certificate"),
        (b"\x30\x00", "x509-chain", "malformed-certificate"),
        (b"{", "spiffe-bundle", "bundle-not-json"),
        (b"{}", "spiffe-bundle", "bundle-without-keys"),
        (b"eyJ9.x.y", "jwt-svid", "bad-token-json"),
    ];
    for (bytes, kind, reason) in cases {
        let report = examine(bytes, &judge);
        let shown = json(&report);
        assert_eq!(
            (report.kind, shown["reason"].as_str()),
            (*kind, Some(*reason)),
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
        assert_eq!(shown["verdict"], "refused");
        assert!(!text(&report).contains('\x1b'));
    }
}
