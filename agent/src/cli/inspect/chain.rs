//! Certificates: a chain with a leaf, or roots.

use bonafide_verifier::{
    clock::Timestamp,
    spiffe::PublicKey,
    x509::{self, CertificateView, GeneralName, PresentedChain, chain_from_pem, split_der},
};
use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::{Judge, Report, Verdict, bundle};
use crate::node_state::key::sha256;

pub(super) fn examine_pem(pem: &[u8], judge: &Judge) -> Report {
    match chain_from_pem(pem) {
        Ok(chain) if !chain.is_empty() => examine(&chain, judge),
        Ok(_) => refused("no-certificate", "there is no certificate in this PEM text".into()),
        Err(section) => refused("malformed-certificate", format!("section {} of the PEM text is broken", section + 1)),
    }
}

pub(super) fn examine_der(der: &[u8], judge: &Judge) -> Report {
    match split_der(der) {
        Ok(parts) => {
            let chain: Vec<CertificateDer<'static>> =
                parts.into_iter().map(|part| CertificateDer::from(part.to_vec())).collect();
            examine(&chain, judge)
        }
        Err(at) => refused("malformed-certificate", format!("the bytes from offset {at} are not DER")),
    }
}

/// Shows each certificate, and what the verifier says of the whole.
pub(super) fn examine(chain: &[CertificateDer<'_>], judge: &Judge) -> Report {
    let all_authorities = chain.iter().all(|der| CertificateView::parse(der).is_ok_and(|view| view.is_ca()));
    if all_authorities {
        return bundle::examine_roots(chain, judge);
    }
    let mut report = Report { kind: "x509-chain", ..Report::default() };
    let mut certificates = Vec::new();
    for (index, der) in chain.iter().enumerate() {
        let name = if index == 0 { "leaf" } else { "with" };
        let (line, more, value) = describe(der, judge.at);
        report.rows.push((name, line));
        report.rows.extend(more.into_iter().map(|line| ("", line)));
        certificates.push(value);
    }
    report.json.insert("certificates".into(), Value::Array(certificates));
    if let Some(Ok(view)) = chain.first().map(|leaf| CertificateView::parse(leaf)) {
        let spiffe_id = view.names().and_then(|names| names.first_uri()).map(str::to_owned);
        report.json.insert("spiffe_id".into(), spiffe_id.into());
    }
    report.verdict = verdict(chain, judge);
    report
}

fn verdict(chain: &[CertificateDer<'_>], judge: &Judge) -> Option<Verdict> {
    let Some(bundles) = &judge.bundles else {
        // Without bundles there is no verdict, but what does not parse is no certificate.
        return chain.iter().find_map(|der| match CertificateView::parse(der) {
            Ok(_) => None,
            Err(flaw) => Some(Verdict::refused(flaw.code(), flaw)),
        });
    };
    let verified = PresentedChain::leaf_first(chain).and_then(|chain| x509::verify(&chain, bundles, judge.at));
    Some(match verified {
        Ok(peer) => Verdict::Accepted {
            rows: vec![("identity", peer.id().to_string()), ("until", peer.not_after().to_string())],
        },
        Err(error) => Verdict::refused(error.code(), error),
    })
}

fn describe(der: &CertificateDer<'_>, at: Timestamp) -> (String, Vec<String>, Value) {
    let fingerprint = HEXLOWER.encode(&sha256(der));
    let view = match CertificateView::parse(der) {
        Ok(view) => view,
        Err(flaw) => {
            let line = format!("cannot be read: {flaw}");
            return (line, vec![], json!({ "sha256": fingerprint, "error": flaw.to_string(), "reason": flaw.code() }));
        }
    };
    let names: Vec<String> = view.names().map(|names| names.names().map(name).collect()).unwrap_or_default();
    let uri = view.names().and_then(|names| names.first_uri());
    let key = PublicKey::from_spki(view.spki()).map_or_else(|flaw| format!("unusable: {flaw}"), |key| key.describe());
    let state = if at < view.not_before() {
        "not yet valid"
    } else if at >= view.not_after() {
        "expired"
    } else {
        "valid at this time"
    };
    let kind = if view.is_ca() { "signing certificate" } else { "certificate" };
    let line = uri.map_or_else(|| format!("{kind} without a URI name"), str::to_owned);
    let mut more = vec![
        format!("{} to {} ({state})", view.not_before(), view.not_after()),
        format!("{kind}, serial {}, {key}", HEXLOWER.encode(view.serial())),
    ];
    let others: Vec<&String> =
        names.iter().filter(|name| uri.is_none_or(|uri| **name != format!("URI:{uri}"))).collect();
    if !others.is_empty() {
        more.push(others.into_iter().cloned().collect::<Vec<_>>().join(", "));
    }
    let value = json!({
        "spiffe_id": uri,
        "names": names,
        "signing": view.is_ca(),
        "path_length": view.path_length(),
        "serial": HEXLOWER.encode(view.serial()),
        "not_before": view.not_before().to_string(),
        "not_after": view.not_after().to_string(),
        "key": key,
        "subject_key_id": view.subject_key_id().map(|id| HEXLOWER.encode(id)),
        "authority_key_id": view.authority_key_id().map(|id| HEXLOWER.encode(id)),
        "sha256": fingerprint,
    });
    (line, more, value)
}

fn name(name: GeneralName<'_>) -> String {
    match name {
        GeneralName::Uri(uri) => format!("URI:{uri}"),
        GeneralName::Dns(dns) => format!("DNS:{dns}"),
        other => format!("{other:?}"),
    }
}

fn refused(reason: &str, message: String) -> Report {
    Report { kind: "x509-chain", verdict: Some(Verdict::refused(reason, message)), ..Report::default() }
}
