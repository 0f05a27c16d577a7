//! Valid now, for as long as was asked, within the life of the authority, in the form that the year demands.

use bonafide_verifier::clock::Timestamp;
use x509_parser::time::ASN1Time;

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule =
    Rule { name: "validity", source: "RFC 5280 §4.1.2.5; a leaf never outlives its authority", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let validity = candidate.tbs.validity();
    for time in [validity.not_before, validity.not_after] {
        // Through 2049 UTCTime, from 2050 GeneralizedTime.
        if time.is_utctime() != (time.to_datetime().year() < 2050) {
            return Err(format!("{time} has the wrong ASN.1 type for its year"));
        }
    }
    let not_before = timestamp(validity.not_before);
    let not_after = timestamp(validity.not_after);
    if not_before != candidate.validity.not_before || not_after != candidate.validity.not_after {
        return Err(format!(
            "{not_before} to {not_after}, must be {} to {}",
            candidate.validity.not_before, candidate.validity.not_after
        ));
    }
    if not_before > candidate.at || not_after <= candidate.at {
        return Err(format!("{not_before} to {not_after} does not hold at {}", candidate.at));
    }
    let ttl = candidate.request.ttl();
    if not_after > candidate.at.saturating_add(ttl) {
        return Err(format!("{not_after} is more than {ttl:?} away"));
    }
    if not_before < candidate.issuer.not_before() || not_after > candidate.issuer.not_after() {
        return Err(format!(
            "{not_before} to {not_after} is not within the authority's {} to {}",
            candidate.issuer.not_before(),
            candidate.issuer.not_after()
        ));
    }
    Ok(())
}

fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp::from_unix_seconds(time.timestamp())
}
