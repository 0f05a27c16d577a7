//! The pipeline on a real store: what is released, what is recorded, and what never gets out.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bonafide_ca_api::NodeName;
use bonafide_verifier::{
    clock::{Clock, ManualClock, Timestamp},
    spiffe::{SpiffeId, TrustDomain},
};
use rcgen::{KeyPair, PublicKeyData};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{jwt::Audiences, *};
use crate::{
    audit::{self, Filter, Kind},
    authority::Lifetimes,
    data_dir::{self, Opened},
    registry::Rules,
    store,
};

const START: Timestamp = Timestamp::from_unix_seconds(1_790_000_000);

struct Bench {
    clock: ManualClock,
    opened: Opened,
    issuer: Issuer,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(START);
        let options = data_dir::Options {
            directory: directory.path().join("ca"),
            trust_domain: Some(TrustDomain::parse("example.org").unwrap()),
            expect_root: None,
            accept_clock: false,
            lifetimes: Lifetimes::default(),
            rules: Rules::default(),
            store: store::Limits::default(),
        };
        let opened = data_dir::open_or_create(options, Arc::new(clock.clone())).await.unwrap();
        let issuer = Issuer::new(
            opened.trust_domain.clone(),
            opened.store.clone(),
            opened.authorities.clone(),
            opened.clock_guard.clone(),
        );
        Self { clock, opened, issuer, _directory: directory }
    }

    async fn issue(&self, requests: Vec<LeafRequest>) -> Result<Vec<Result<IssuedSvid, IssueError>>, IssueError> {
        let node = NodeName::parse("n1").unwrap();
        let who = Who::Node(node.clone());
        self.issuer.issue(Recipient { who: &who, node: Some(&node) }, requests).await
    }

    async fn bodies(&self, kind: Kind) -> Vec<String> {
        let filter = Filter { kinds: vec![kind], limit: 1000, ..Filter::default() };
        let page = self.opened.store.read(move |reader| Ok(audit::list::page(reader, &filter).unwrap())).await.unwrap();
        page.entries.into_iter().map(|entry| entry.body.to_string()).collect()
    }

    fn checked(&self) -> CheckedTbs {
        let authority = self.issuer.authority().unwrap();
        let builder = TbsBuilder::new(authority.facts()).unwrap();
        prepare(&builder, request("photo"), &authority, self.clock.now()).unwrap()
    }

    fn recipient() -> Recipient<'static> {
        Recipient { who: &Who::Ca, node: None }
    }
}

fn key() -> PublicKey {
    PublicKey::parse(&KeyPair::generate().unwrap().subject_public_key_info()).unwrap()
}

fn request(path: &str) -> LeafRequest {
    request_with(path, &[])
}

fn request_with(path: &str, dns_names: &[&str]) -> LeafRequest {
    let id = SpiffeId::parse(&format!("spiffe://example.org/{path}")).unwrap();
    let dns_names = dns_names.iter().map(|name| (*name).to_owned()).collect();
    LeafRequest::service(id, dns_names, Duration::from_secs(3600), key())
}

#[tokio::test]
async fn what_is_released_is_what_was_recorded() {
    let bench = Bench::new().await;
    let requests = (0..40).map(|n| request(&format!("s{n}"))).collect();
    let issued = bench.issue(requests).await.unwrap();
    let bodies = bench.bodies(Kind::X509Issued).await;
    let mut serials = HashSet::new();
    for (n, svid) in issued.into_iter().enumerate() {
        let der = svid.unwrap().into_certificate();
        let (rest, certificate) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let tbs = data_encoding::HEXLOWER.encode(&sha256(certificate.tbs_certificate.as_ref()));
        let body = bodies.iter().find(|body| body.contains(&tbs)).expect("I1: the record of exactly these bytes");
        for part in [format!("spiffe://example.org/s{n}\""), data_encoding::HEXLOWER.encode(certificate.raw_serial())] {
            assert!(body.contains(&part), "{body} lacks {part}");
        }
        assert!(serials.insert(certificate.raw_serial().to_vec()), "I2: no serial twice");
        let authority = bench.issuer.authority().unwrap();
        let (_, issuing) = X509Certificate::from_der(authority.facts().certificate()).unwrap();
        let issuing = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            &issuing.public_key().subject_public_key.data,
        );
        issuing.verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data).unwrap();
    }
}

#[tokio::test]
async fn the_proof_of_another_record_releases_nothing() {
    let bench = Bench::new().await;
    let (first, second) = (bench.checked(), bench.checked());
    let records = vec![first.record(Bench::recipient()), second.record(Bench::recipient())];
    let mut recorded = bench.opened.store.record_group(records).await.unwrap();
    let first = first.sign().unwrap();
    let proof_of_second = recorded.pop().unwrap();
    assert!(matches!(first.release(proof_of_second), Err(IssueError::ForeignRecord)));
    let proof_of_first = recorded.pop().unwrap();
    assert!(matches!(second.sign().unwrap().release(proof_of_first), Err(IssueError::ForeignRecord)));
}

#[tokio::test]
async fn nothing_shows_the_bytes_before_the_release() {
    let bench = Bench::new().await;
    let checked = bench.checked();
    assert_eq!(format!("{checked:?}"), "CheckedTbs(spiffe://example.org/photo)");
    assert_eq!(format!("{:?}", checked.sign().unwrap()), "UnreleasedSvid(..)");
}

#[tokio::test]
async fn without_a_durable_record_nothing_is_released() {
    let bench = Bench::new().await;
    bench.opened.store.close().await;
    let refused = bench.issue(vec![request("photo")]).await.unwrap_err();
    assert!(matches!(refused, IssueError::Store(StoreError::Closed)), "{refused:?}");
    assert!(!refused.is_ours());
}

#[tokio::test]
async fn one_item_that_breaks_a_rule_stops_only_itself() {
    let bench = Bench::new().await;
    for count in [1, 3, 30] {
        for broken in [0, count / 2, count - 1] {
            let requests = (0..count)
                .map(|n| if n == broken { request_with("bad", &["*.example.org"]) } else { request("good") })
                .collect();
            let issued = bench.issue(requests).await.unwrap();
            for (n, result) in issued.iter().enumerate() {
                match result {
                    Err(IssueError::Rule(violation)) => assert_eq!((n, violation.rule), (broken, "dns-names")),
                    other => assert!(n != broken && other.is_ok(), "{n}: {other:?}"),
                }
            }
        }
    }
    assert!(bench.bodies(Kind::X509Issued).await.iter().all(|body| !body.contains("/bad")), "nothing to record");
    assert!(bench.issue(vec![]).await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_outlives_the_authority_that_signed_it() {
    let bench = Bench::new().await;
    let end = bench.opened.authorities.current().issuing.not_after();
    // In steps that the clock guard follows, without the rotation that would come long before.
    bench.clock.advance(end.since(START) - Duration::from_secs(10));
    let issued = bench.issue(vec![request("photo")]).await.unwrap().remove(0).unwrap();
    assert_eq!(issued.validity().not_after, end);
    bench.clock.advance(Duration::from_secs(10));
    let refused = bench.issue(vec![request("photo")]).await.unwrap().remove(0).unwrap_err();
    assert!(matches!(refused, IssueError::AuthorityTooShort { .. }), "{refused:?}");
    let token = || jwt::JwtRequest {
        spiffe_id: SpiffeId::parse("spiffe://example.org/photo").unwrap(),
        audiences: Audiences::parse(vec!["a".into()]).unwrap(),
        ttl: Duration::from_secs(300),
    };
    let node = NodeName::parse("n1").unwrap();
    let jwt_end = bench.opened.authorities.current().jwt.not_after();
    let now = bench.clock.now();
    let token_refused = bench.issuer.issue_jwt(&Who::Ca, &node, token()).await;
    match token_refused {
        Ok(token) => assert!(token.not_after() <= jwt_end),
        Err(refused) => assert!(jwt_end <= now && matches!(refused, IssueError::AuthorityTooShort { .. })),
    }
}

#[tokio::test]
async fn a_token_never_lives_longer_than_its_key_is_published_for() {
    let bench = Bench::new().await;
    let longest = bench.opened.authorities.current().jwt.longest_token();
    let request = jwt::JwtRequest {
        spiffe_id: SpiffeId::parse("spiffe://example.org/photo").unwrap(),
        audiences: Audiences::parse(vec!["a".into()]).unwrap(),
        ttl: longest + Duration::from_secs(3600),
    };
    let issued = bench.issuer.issue_jwt(&Who::Ca, &NodeName::parse("n1").unwrap(), request).await.unwrap();
    assert!(issued.not_after() <= START.saturating_add(longest));
    assert!(!format!("{issued:?}").contains("eyJ"), "T-12: a token is not shown");
}

#[tokio::test]
async fn the_clock_is_asked_each_time() {
    let bench = Bench::new().await;
    bench.clock.jump_wall(-180_000);
    assert!(matches!(bench.issue(vec![request("photo")]).await, Err(IssueError::Clock(_))));
    assert!(bench.bodies(Kind::X509Issued).await.is_empty());
    bench.clock.jump_wall(180_000);
    bench.issue(vec![request("photo")]).await.unwrap().remove(0).unwrap();
}

#[tokio::test]
async fn a_failed_signature_or_a_changed_byte_is_found_when_the_certificate_is_read_again() {
    let bench = Bench::new().await;
    let checked = bench.checked();
    let (bytes, signature) = (checked.bytes.clone(), vec![0x30, 6, 2, 1, 1, 2, 1, 1]);
    let good = sign::assemble(&bytes, &signature);
    sign::read_again(&good, &bytes, &signature).unwrap();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        // Bits of tags and lengths that another reading would forgive are found by the comparison of the content.
        let verdict = sign::read_again(&changed, &bytes, &signature);
        assert!(verdict.is_err(), "byte {at} changed unseen");
    }
    assert!(sign::read_again(&[good.as_slice(), &[0]].concat(), &bytes, &signature).is_err(), "a byte behind");
    assert!(sign::read_again(&good, &bytes, &[0x30, 0]).is_err(), "another signature");
}

/// A frame saves work and changes nothing: but for its five values a leaf from a frame is the leaf that rcgen writes.
#[tokio::test]
async fn a_leaf_from_a_frame_is_what_rcgen_would_write() {
    let bench = Bench::new().await;
    let authority = bench.issuer.authority().unwrap();
    let builder = TbsBuilder::new(authority.facts()).unwrap();
    for dns_names in [&[][..], &["a.example.org"], &["a.example.org", "b.example.org"]] {
        let first = prepare(&builder, request_with("photo", dns_names), &authority, bench.clock.now()).unwrap();
        assert_eq!(first.bytes, builder.build(&first.request, first.validity, first.serial).unwrap());
        bench.clock.advance(Duration::from_secs(86_399));
        let again = prepare(&builder, request_with("photo", dns_names), &authority, bench.clock.now()).unwrap();
        let framed = authority.frames().fill(&again.request, again.validity, &again.serial).expect("a frame");
        assert_eq!(again.bytes, framed);
        assert_eq!(again.bytes, builder.build(&again.request, again.validity, again.serial).unwrap());
        assert_ne!((first.serial, first.hash), (again.serial, again.hash));
    }
    assert!(authority.frames().fill(&request("other"), bench.checked().validity, &[0x41; 16]).is_none());
    // A year that UTCTime cannot hold does not fit into a frame.
    let far = Timestamp::from_unix_seconds(2_600_000_000);
    let validity = Validity { not_before: far, not_after: far };
    assert!(authority.frames().fill(&request("photo"), validity, &[0x41; 16]).is_none());
}
