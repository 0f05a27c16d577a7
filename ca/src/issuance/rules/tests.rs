//! Each rule broken at least once, on bytes that are right in everything else.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};

use super::*;
use crate::issuance::{
    public_key::PublicKey,
    tbs::{self, TbsBuilder},
};
use bonafide_verifier::spiffe::{SpiffeId, TrustDomain};

const AT: Timestamp = Timestamp::from_unix_seconds(1_790_000_000);
const TTL: Duration = Duration::from_secs(3600);
const SERIAL: [u8; 16] = [0x41; 16];

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// An authority, as its certificate tells.
fn issuer_with(change: impl FnOnce(&mut CertificateParams)) -> IssuerFacts {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "issuing 1");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
    parameters.not_before = time::OffsetDateTime::from_unix_timestamp(AT.unix_seconds() - 86_400).unwrap();
    parameters.not_after = time::OffsetDateTime::from_unix_timestamp(AT.unix_seconds() + 7 * 86_400).unwrap();
    change(&mut parameters);
    let certificate = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
    IssuerFacts::from_certificate(certificate.der(), &trust_domain()).unwrap()
}

fn issuer() -> IssuerFacts {
    issuer_with(|_| ())
}

fn key() -> PublicKey {
    PublicKey::parse(&KeyPair::generate().unwrap().subject_public_key_info()).unwrap()
}

fn request_for(id: &str, dns_names: &[&str]) -> LeafRequest {
    let dns_names = dns_names.iter().map(|name| (*name).to_owned()).collect();
    LeafRequest::service(SpiffeId::parse(id).unwrap(), dns_names, TTL, key())
}

fn request() -> LeafRequest {
    request_for("spiffe://example.org/photo", &["photo.example.org"])
}

/// A leaf that was asked for, and how it came out.
struct Case {
    request: LeafRequest,
    issuer: IssuerFacts,
    validity: Validity,
    at: Timestamp,
    bytes: Vec<u8>,
}

impl Case {
    fn of(request: LeafRequest) -> Self {
        let issuer = issuer();
        let validity = Validity::of(TTL, AT, &issuer).unwrap();
        let bytes = TbsBuilder::new(&issuer).unwrap().build(&request, validity, SERIAL).unwrap();
        Self { request, issuer, validity, at: AT, bytes }
    }

    fn good() -> Self {
        Self::of(request())
    }

    /// Built with other parameters than those that were asked for.
    fn flawed(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut case = Self::good();
        let mut parameters = tbs::parameters(&case.request, case.validity, SERIAL).unwrap();
        change(&mut parameters);
        case.bytes = TbsBuilder::new(&case.issuer).unwrap().encode(&parameters, case.request.public_key()).unwrap();
        case
    }

    /// Built right, then changed: `from` stands in the bytes once.
    fn patched(from: &[u8], to: &[u8]) -> Self {
        let mut case = Self::good();
        let found: Vec<usize> = (0..case.bytes.len()).filter(|at| case.bytes[*at..].starts_with(from)).collect();
        assert_eq!(found.len(), 1, "{from:02x?} stands there once");
        case.bytes.splice(found[0]..found[0] + from.len(), to.iter().copied());
        case
    }

    fn check(&self) -> Result<(), RuleViolation> {
        check(&self.bytes, &self.request, self.validity, &SERIAL, &self.issuer, self.at)
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn oid_of(extension: u64) -> [u64; 4] {
    [2, 5, 29, extension]
}

fn custom(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

#[test]
fn a_right_leaf_breaks_no_rule() {
    Case::good().check().unwrap();
    Case::of(request_for("spiffe://example.org/photo", &[])).check().unwrap();
    Case::of(request_for("spiffe://example.org/a/b/c", &["a.example.org", "b", "1.x-y.z"])).check().unwrap();
}

/// No extension but the known ones: nothing else can decide about rights, no role and no group (ID-26, ID-29).
#[test]
fn every_rule_is_broken_by_what_it_forbids() {
    let with = |change: fn(&mut Case)| {
        let mut case = Case::good();
        change(&mut case);
        case
    };
    let names: Vec<String> = (0..60).map(|n| format!("{n}.{}", ["abcdefgh"; 18].join("."))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let many: Vec<String> = (0..65).map(|n| format!("n{n}.example.org")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();

    let cases: Vec<(&str, &str, Case)> = vec![
        // Is it a TBSCertificate at all?
        ("readable", "empty", with(|case| case.bytes.clear())),
        ("readable", "a byte behind", with(|case| case.bytes.push(0))),
        ("readable", "cut", with(|case| case.bytes.truncate(100))),
        ("size", "T-06 many long names", Case::of(request_for("spiffe://example.org/photo", &names))),
        ("version", "v2", Case::patched(&[0xa0, 3, 2, 1, 2], &[0xa0, 3, 2, 1, 1])),
        (
            "serial-number",
            "negative",
            with(|case| {
                let at = case.bytes.windows(16).position(|bytes| bytes == SERIAL).unwrap();
                case.bytes[at] = 0xc1;
            }),
        ),
        (
            "serial-number",
            "21 bytes",
            Case::flawed(|leaf| leaf.serial_number = Some(SerialNumber::from_slice(&[0x41; 21]))),
        ),
        (
            "serial-number",
            "15 bytes",
            Case::flawed(|leaf| leaf.serial_number = Some(SerialNumber::from_slice(&[0x41; 15]))),
        ),
        ("serial-number", "zero", Case::flawed(|leaf| leaf.serial_number = Some(SerialNumber::from_slice(&[0])))),
        (
            "serial-number",
            "low first byte",
            Case::flawed(|leaf| {
                let mut serial = SERIAL;
                serial[0] = 0x3f;
                leaf.serial_number = Some(SerialNumber::from_slice(&serial));
            }),
        ),
        (
            "serial-number",
            "another one than was asked for and is recorded",
            Case::flawed(|leaf| leaf.serial_number = Some(SerialNumber::from_slice(&[0x42; 16]))),
        ),
        (
            "signature-algorithm",
            "ecdsa-with-SHA384",
            Case::patched(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]),
        ),
        (
            "issuer-name",
            "another authority's",
            with(|case| {
                case.issuer = issuer_with(|ca| ca.distinguished_name.push(DnType::OrganizationName, "else"));
            }),
        ),
        ("validity", "ends later than meant", Case::flawed(|leaf| leaf.not_after += time::Duration::SECOND)),
        ("validity", "ends earlier than meant", Case::flawed(|leaf| leaf.not_after -= time::Duration::SECOND)),
        ("validity", "backdated more than meant", Case::flawed(|leaf| leaf.not_before -= time::Duration::SECOND)),
        (
            "validity",
            "not yet valid",
            with(|case| case.at = case.validity.not_before.saturating_sub(Duration::from_secs(1))),
        ),
        ("validity", "no longer valid", with(|case| case.at = case.validity.not_after)),
        ("validity", "longer than the lifetime", with(|case| case.at = AT.saturating_sub(Duration::from_secs(1)))),
        (
            "validity",
            "outlives its authority",
            with(|case| {
                case.issuer = issuer_with(|ca| {
                    ca.not_after = time::OffsetDateTime::from_unix_timestamp(AT.unix_seconds() + 3599).unwrap()
                });
            }),
        ),
        (
            "validity",
            "begins before its authority",
            with(|case| {
                case.issuer = issuer_with(|ca| {
                    ca.not_before = time::OffsetDateTime::from_unix_timestamp(AT.unix_seconds() - 299).unwrap()
                });
            }),
        ),
        (
            "subject",
            "X509-06 a common name",
            Case::flawed(|leaf| leaf.distinguished_name.push(DnType::CommonName, "photo")),
        ),
        (
            "public-key",
            "another key",
            with(|case| {
                let parameters = tbs::parameters(&case.request, case.validity, SERIAL).unwrap();
                case.bytes = TbsBuilder::new(&case.issuer).unwrap().encode(&parameters, &key()).unwrap();
            }),
        ),
        (
            "extensions",
            "no authority key identifier",
            Case::flawed(|leaf| leaf.use_authority_key_identifier_extension = false),
        ),
        ("extensions", "X509-18 no key usage", Case::flawed(|leaf| leaf.key_usages.clear())),
        ("extensions", "X509-26 no extended key usage", Case::flawed(|leaf| leaf.extended_key_usages.clear())),
        ("extensions", "no basic constraints", Case::flawed(|leaf| leaf.is_ca = IsCa::NoCa)),
        ("extensions", "X509-01 no names", Case::flawed(|leaf| leaf.subject_alt_names.clear())),
        (
            "extensions",
            "a foreign one",
            Case::flawed(|leaf| leaf.custom_extensions.push(custom(&[1, 3, 6, 1, 4, 1, 65980, 1], &[5, 0], false))),
        ),
        (
            "extensions",
            "certificate policies",
            Case::flawed(|leaf| leaf.custom_extensions.push(custom(&oid_of(32), &[0x30, 0], false))),
        ),
        (
            "extensions",
            "key usage twice",
            Case::flawed(|leaf| leaf.custom_extensions.push(custom(&oid_of(15), &[3, 2, 7, 0x80], true))),
        ),
        ("readable", "FALSE is written", Case::patched(&[0x55, 0x1d, 0x0f, 1, 1, 0xff], &[0x55, 0x1d, 0x0f, 1, 1, 0])),
        (
            "extensions",
            "X509-07 names not critical",
            Case::flawed(|leaf| {
                leaf.subject_alt_names.clear();
                leaf.custom_extensions.push(custom(&oid_of(17), &[0x30, 0], false));
            }),
        ),
        (
            "extensions",
            "X509-19 key usage not critical",
            Case::flawed(|leaf| {
                leaf.key_usages.clear();
                leaf.custom_extensions.push(custom(&oid_of(15), &[3, 2, 7, 0x80], false));
            }),
        ),
        (
            "extensions",
            "extended key usage critical",
            Case::flawed(|leaf| {
                leaf.extended_key_usages.clear();
                leaf.custom_extensions.push(custom(&oid_of(37), &[0x30, 0], true));
            }),
        ),
        (
            "basic-constraints",
            "X509-16 an authority",
            Case::flawed(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "key-usage",
            "X509-24 keyCertSign, too",
            Case::flawed(|leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
        ("key-usage", "X509-25 cRLSign, too", Case::flawed(|leaf| leaf.key_usages.push(KeyUsagePurpose::CrlSign))),
        (
            "key-usage",
            "X509-22 keyAgreement alone",
            Case::flawed(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ),
        (
            "key-usage",
            "T-15 no bit",
            Case::flawed(|leaf| {
                leaf.key_usages.clear();
                leaf.custom_extensions.push(custom(&oid_of(15), &[3, 1, 0], true));
            }),
        ),
        ("extended-key-usage", "X509-28 server alone", Case::flawed(|leaf| leaf.extended_key_usages.truncate(1))),
        ("extended-key-usage", "X509-28 client alone", Case::flawed(|leaf| drop(leaf.extended_key_usages.remove(0)))),
        (
            "extended-key-usage",
            "one more",
            Case::flawed(|leaf| leaf.extended_key_usages.push(ExtendedKeyUsagePurpose::Any)),
        ),
        (
            "extended-key-usage",
            "T-15 empty",
            Case::flawed(|leaf| {
                leaf.extended_key_usages.clear();
                leaf.custom_extensions.push(custom(&oid_of(37), &[0x30, 0], false));
            }),
        ),
        (
            "subject-alternative-name",
            "X509-01 two URIs",
            Case::flawed(|leaf| leaf.subject_alt_names.push(uri("spiffe://example.org/b"))),
        ),
        (
            "subject-alternative-name",
            "another URI",
            Case::flawed(|leaf| leaf.subject_alt_names[0] = uri("spiffe://example.org/phot")),
        ),
        ("subject-alternative-name", "no URI", Case::flawed(|leaf| drop(leaf.subject_alt_names.remove(0)))),
        (
            "subject-alternative-name",
            "the URI as DNS name",
            Case::flawed(|leaf| leaf.subject_alt_names[0] = dns("spiffe://example.org/photo")),
        ),
        (
            "subject-alternative-name",
            "another DNS name",
            Case::flawed(|leaf| leaf.subject_alt_names[1] = dns("photo.example.com")),
        ),
        (
            "subject-alternative-name",
            "one DNS name more",
            Case::flawed(|leaf| leaf.subject_alt_names.push(dns("b.example.org"))),
        ),
        ("subject-alternative-name", "one DNS name less", Case::flawed(|leaf| leaf.subject_alt_names.truncate(1))),
        (
            "subject-alternative-name",
            "an address",
            Case::flawed(|leaf| leaf.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()))),
        ),
        (
            "subject-alternative-name",
            "a mailbox",
            Case::flawed(|leaf| leaf.subject_alt_names.push(SanType::Rfc822Name("a@example.org".try_into().unwrap()))),
        ),
        (
            "subject-alternative-name",
            "T-15 empty",
            Case::flawed(|leaf| {
                leaf.subject_alt_names.clear();
                leaf.custom_extensions.push(custom(&oid_of(17), &[0x30, 0], true));
            }),
        ),
        (
            "subject-alternative-name",
            "T-45 an entry that cannot be read",
            Case::flawed(|leaf| {
                leaf.subject_alt_names.clear();
                let mut names = vec![0x30, 0x1e, 0x86, 26];
                names.extend_from_slice(b"spiffe://example.org/photo");
                names.extend_from_slice(&[0x86, 0]);
                leaf.custom_extensions.push(custom(&oid_of(17), &names, true));
            }),
        ),
        ("spiffe-id", "ID-20 another trust domain", Case::of(request_for("spiffe://example.com/photo", &[]))),
        ("spiffe-id", "X509-05 no path", Case::of(request_for("spiffe://example.org", &[]))),
        ("spiffe-id", "the CA's own, for a service", Case::of(request_for("spiffe://example.org/bonafide/ca", &[]))),
        ("spiffe-id", "a node's, for a service", Case::of(request_for("spiffe://example.org/bonafide/node/n1", &[]))),
        ("spiffe-id", "anything reserved, for a service", Case::of(request_for("spiffe://example.org/bonafide", &[]))),
        ("dns-names", "65 names", Case::of(request_for("spiffe://example.org/photo", &many))),
        ("dns-names", "a wildcard", Case::of(request_for("spiffe://example.org/photo", &["*.example.org"]))),
        ("dns-names", "a trailing dot", Case::of(request_for("spiffe://example.org/photo", &["example.org."]))),
        ("dns-names", "upper case", Case::of(request_for("spiffe://example.org/photo", &["Example.org"]))),
        ("dns-names", "an empty name", Case::of(request_for("spiffe://example.org/photo", &[""]))),
        ("dns-names", "an empty label", Case::of(request_for("spiffe://example.org/photo", &["a..b"]))),
        ("dns-names", "a dash at the end", Case::of(request_for("spiffe://example.org/photo", &["a-.b"]))),
        (
            "key-identifiers",
            "another authority's",
            with(|case| {
                case.issuer = issuer_with(|ca| ca.key_identifier_method = KeyIdMethod::PreSpecified(vec![8; 20]));
            }),
        ),
        (
            "key-identifiers",
            "another key's",
            Case::flawed(|leaf| leaf.key_identifier_method = KeyIdMethod::PreSpecified(vec![9; 20])),
        ),
        (
            "key-identifiers",
            "T-15 empty",
            Case::flawed(|leaf| leaf.key_identifier_method = KeyIdMethod::PreSpecified(vec![])),
        ),
    ];
    let mut broken = std::collections::BTreeSet::<&str>::new();
    for (rule, flaw, case) in &cases {
        match case.check() {
            Err(violation) => assert_eq!(violation.rule, *rule, "{flaw}: {violation}"),
            Ok(()) => panic!("{rule}: {flaw} breaks no rule"),
        }
        broken.insert(rule);
    }
    for rule in RULES {
        assert!(broken.contains(rule.name), "no case breaks `{}`", rule.name);
        assert!(!rule.source.is_empty(), "`{}` has no source", rule.name);
    }
}

#[test]
fn the_verifier_reads_what_rcgen_wrote() {
    let case = Case::good();
    check_as_verifier(&case.bytes, &case.request).unwrap();
    let other = Case::flawed(|leaf| leaf.subject_alt_names[0] = uri("spiffe://example.org/other"));
    for (flaw, bytes) in [
        ("another ID", other.bytes),
        ("X509-16 an authority", Case::flawed(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)).bytes),
        ("X509-22 no key usage", Case::flawed(|leaf| leaf.key_usages.clear()).bytes),
        ("nothing", vec![]),
    ] {
        let violation = check_as_verifier(&bytes, &case.request).unwrap_err();
        assert_eq!(violation.rule, "verifier-profile", "{flaw}");
    }
}

#[test]
fn a_time_in_the_wrong_type_for_its_year_is_refused() {
    // RFC 5280 §4.1.2.5: GeneralizedTime before 2050.
    let mut case = Case::good();
    let at = case.bytes.windows(2).position(|bytes| bytes == [0x17, 0x0d]).unwrap();
    case.bytes.splice(at..at + 2, [0x18, 0x0f, b'2', b'0']);
    case.bytes[at - 1] += 2;
    assert_eq!(case.bytes[..2], [0x30, 0x82]);
    let length = u16::from_be_bytes([case.bytes[2], case.bytes[3]]) + 2;
    case.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    assert_eq!(case.check().unwrap_err().rule, "validity");
}

/// No bit of what is signed can change unseen.
/// (ID-25)
#[test]
fn x509_01_every_flipped_bit_is_found() {
    let mut case = Case::good();
    for at in 0..case.bytes.len() {
        for bit in 0..8 {
            case.bytes[at] ^= 1 << bit;
            let verdict = case.check();
            case.bytes[at] ^= 1 << bit;
            assert!(verdict.is_err(), "bit {bit} of byte {at} changed unseen");
        }
    }
    case.check().unwrap();
}

#[test]
fn nodes_and_the_ca_have_their_own_part_of_the_path() {
    let node = bonafide_ca_api::NodeName::parse("n1").unwrap();
    let case = Case::of(LeafRequest::node(&trust_domain(), &node, TTL, key()));
    case.check().unwrap();
    assert_eq!(case.request.spiffe_id().as_str(), "spiffe://example.org/bonafide/node/n1");
    let own = crate::issuance::OwnKey::generate().unwrap();
    let case = Case::of(LeafRequest::own(&trust_domain(), Vec::new(), TTL, &own));
    case.check().unwrap();
    assert_eq!(case.request.spiffe_id().as_str(), "spiffe://example.org/bonafide/ca");
    let other: TrustDomain = TrustDomain::parse("example.com").unwrap();
    assert_eq!(Case::of(LeafRequest::node(&other, &node, TTL, key())).check().unwrap_err().rule, "spiffe-id");
}

#[test]
fn the_validity_of_a_leaf() {
    let issuer = issuer();
    let seconds = Duration::from_secs;
    type Case = (&'static str, Duration, Timestamp, Option<(Duration, Duration)>);
    let cases: &[Case] = &[
        ("an hour, backdated 5 min", seconds(3600), AT, Some((seconds(300), seconds(3600)))),
        ("a tenth of a short one", seconds(100), AT, Some((seconds(10), seconds(100)))),
        ("the shortest", seconds(10), AT, Some((seconds(1), seconds(10)))),
        ("no further than the authority", seconds(30 * 86_400), AT, Some((seconds(300), seconds(7 * 86_400)))),
        ("the authority has ended", seconds(3600), issuer.not_after(), None),
        ("the authority has not begun", seconds(3600), issuer.not_before().saturating_sub(seconds(1)), None),
    ];
    for (what, ttl, at, expected) in cases {
        let expected = expected.map(|(before, after)| Validity {
            not_before: at.saturating_sub(before),
            not_after: at.saturating_add(after),
        });
        assert_eq!(Validity::of(*ttl, *at, &issuer), expected, "{what}");
    }
    // Whole seconds, and never a moment longer than was asked.
    let odd = Timestamp::from_unix_millis(AT.unix_millis() + 999);
    let validity = Validity::of(seconds(10), odd, &issuer).unwrap();
    assert_eq!(validity.not_after, AT.saturating_add(seconds(10)));
    assert!(validity.not_before <= odd);
}

proptest::proptest! {
    /// Bytes that nobody built: no rule panics on them, and none lets them pass.
    #[test]
    fn foreign_bytes_never_pass(cut in 0usize..500, junk: Vec<u8>) {
        let mut case = Case::good();
        case.bytes.truncate(cut);
        case.bytes.extend_from_slice(&junk);
        let good = case.bytes.len() == Case::good().bytes.len() && junk.is_empty();
        proptest::prop_assert!(good || case.check().is_err());
    }
}
