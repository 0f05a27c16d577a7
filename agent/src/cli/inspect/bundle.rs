//! Trust bundles: in SPIFFE JSON, or roots in PEM or DER.

use bonafide_verifier::{
    spiffe::{SpiffeId, TrustBundle, TrustDomain},
    x509::{CertificateView, PresentedChain, verify},
};
use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::{Judge, Report, Verdict};

pub(super) fn examine_json(document: &[u8]) -> Report {
    let roots = roots_of(document);
    let Some(trust_domain) = trust_domain_of(roots.iter().map(Vec::as_slice)) else { return Report::default() };
    match TrustBundle::parse_spiffe_json(trust_domain, document) {
        Ok(bundle) => show(&bundle, "spiffe-bundle"),
        Err(error) => {
            Report { kind: "spiffe-bundle", verdict: Some(Verdict::refused(error.code(), error)), ..Report::default() }
        }
    }
}

/// Roots: a bundle, or the upper part of a chain. With bundles the question is whether these roots are in them.
pub(super) fn examine_roots(chain: &[CertificateDer<'_>], judge: &Judge) -> Report {
    let roots = chain.iter().map(|certificate| certificate.as_ref());
    let Some(trust_domain) = trust_domain_of(roots) else { return Report::default() };
    let der: Vec<u8> = chain.iter().flat_map(|certificate| certificate.iter().copied()).collect();
    let bundle = match TrustBundle::parse_der(trust_domain, &der) {
        Ok(bundle) => bundle,
        Err(error) => {
            return Report {
                kind: "x509-authorities",
                verdict: Some(Verdict::refused(error.code(), error)),
                ..Report::default()
            };
        }
    };
    let mut report = show(&bundle, "x509-authorities");
    if let Some(bundles) = &judge.bundles {
        let presented = PresentedChain::leaf_first(chain);
        let verified = presented.and_then(|chain| verify(&chain, bundles, judge.at).map(drop));
        // A signing certificate is never an identity: the verifier says so, by its rule.
        if let Err(error) = verified {
            report.verdict = Some(Verdict::refused(error.code(), error));
        }
    }
    report
}

/// Which trust domain it is of, a bundle does not say; its roots do, for the most part.
fn trust_domain_of<'a>(roots: impl Iterator<Item = &'a [u8]>) -> Option<TrustDomain> {
    let named = |root: &[u8]| {
        let view = CertificateView::parse(root).ok()?;
        let id = SpiffeId::parse(view.names()?.first_uri()?).ok()?;
        Some(id.trust_domain().clone())
    };
    let mut roots = roots;
    roots.find_map(named).or_else(|| TrustDomain::parse(SOME).ok())
}

/// The certificates in a SPIFFE bundle, read loosely: only to learn its trust domain.
fn roots_of(document: &[u8]) -> Vec<Vec<u8>> {
    let Ok(value) = serde_json::from_slice::<Value>(document) else { return Vec::new() };
    let keys = value.get("keys").and_then(Value::as_array).into_iter().flatten();
    keys.filter_map(|key| key.get("x5c")?.get(0)?.as_str())
        .filter_map(|text| data_encoding::BASE64.decode(text.as_bytes()).ok())
        .collect()
}

fn show(bundle: &TrustBundle, kind: &'static str) -> Report {
    let mut report = Report { kind, ..Report::default() };
    let named = bundle.trust_domain().as_str() != SOME;
    if named {
        report.rows.push(("domain", bundle.trust_domain().to_string()));
    }
    report.json.insert("trust_domain".into(), named.then(|| bundle.trust_domain().as_str()).into());
    if let Some(sequence) = bundle.sequence() {
        report.rows.push(("sequence", sequence.to_string()));
    }
    if let Some(hint) = bundle.refresh_hint() {
        report.rows.push(("refresh", format!("every {} s", hint.as_secs())));
    }
    let mut x509 = Vec::new();
    for authority in bundle.x509_authorities() {
        let hash = HEXLOWER.encode(authority.sha256());
        let key = authority.public_key().describe();
        report.rows.push(("x509 root", hash.clone()));
        report.rows.push(("", format!("{} to {}, {key}", authority.not_before(), authority.not_after())));
        x509.push(json!({
            "sha256": hash,
            "not_before": authority.not_before().to_string(),
            "not_after": authority.not_after().to_string(),
            "key": key,
        }));
    }
    let mut jwt = Vec::new();
    for authority in bundle.jwt_authorities() {
        let key = authority.public_key().describe();
        report.rows.push(("jwt key", format!("{}, {key}", authority.key_id())));
        jwt.push(json!({ "kid": authority.key_id(), "key": key }));
    }
    let mut skipped = Vec::new();
    for entry in bundle.skipped() {
        report.rows.push(("skipped", format!("entry {}: {}", entry.entry, entry.reason)));
        skipped
            .push(json!({ "entry": entry.entry, "reason": entry.reason.code(), "message": entry.reason.to_string() }));
    }
    report.json.insert("sequence".into(), bundle.sequence().into());
    report.json.insert("refresh_hint_s".into(), bundle.refresh_hint().map(|hint| hint.as_secs()).into());
    report.json.insert("x509_authorities".into(), Value::Array(x509));
    report.json.insert("jwt_authorities".into(), Value::Array(jwt));
    report.json.insert("skipped".into(), Value::Array(skipped));
    // It reads as a bundle, which proves nothing: anybody can make one.
    report
}

/// Stands for the trust domain of a bundle whose roots name none.
const SOME: &str = "unnamed.invalid";
