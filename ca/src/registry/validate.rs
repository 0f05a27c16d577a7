//! What a service must be before it is written. Plain functions; what needs other rows is in `services`.

use std::time::Duration;

use bonafide_ca_api::{Placement, Selector, SelectorKind};
use bonafide_verifier::spiffe::{SpiffeId, TrustDomain};

use super::{Edge, Rules, ServiceError};

/// The SPIFFE ID for `photo`, `/photo` or `spiffe://example.org/photo`.
pub(super) fn spiffe_id(trust_domain: &TrustDomain, given: &str) -> Result<SpiffeId, ServiceError> {
    let path = match given.strip_prefix("spiffe://") {
        None => given.strip_prefix('/').unwrap_or(given),
        Some(rest) => match rest.split_once('/') {
            Some((name, path)) if name == trust_domain.as_str() => path,
            None if rest == trust_domain.as_str() => "",
            _ => {
                return Err(ServiceError::TrustDomain {
                    given: shortened(given),
                    trust_domain: trust_domain.as_str().to_owned(),
                });
            }
        },
    };
    if path.is_empty() {
        return Err(ServiceError::NoPath);
    }
    let id = SpiffeId::new(trust_domain, &format!("/{path}"))
        .map_err(|reason| ServiceError::Path { path: shortened(path), reason })?;
    if id.is_reserved() { Err(ServiceError::Reserved { path: shortened(path) }) } else { Ok(id) }
}

/// Sorted, without duplicates, with a user, and such that a process can match.
pub(super) fn selectors(mut selectors: Vec<Selector>) -> Result<Vec<Selector>, ServiceError> {
    selectors.sort_unstable();
    selectors.dedup();
    if selectors.is_empty() {
        return Err(ServiceError::NoSelector);
    }
    too_many("selectors", selectors.len(), Selector::MAX_COUNT)?;
    too_many("bytes of selectors", selectors.iter().map(|one| one.value().len()).sum(), SELECTOR_BYTES)?;
    if !selectors.iter().any(Selector::is_user) {
        return Err(ServiceError::NoUser);
    }
    let contradiction = selectors
        .iter()
        .zip(selectors.iter().skip(1))
        .find(|(a, b)| a.kind() == b.kind() && a.kind() != SelectorKind::UnixSupplementaryGid);
    match contradiction {
        Some((a, b)) => Err(ServiceError::Contradiction { first: a.to_string(), second: b.to_string() }),
        None => Ok(selectors),
    }
}

/// Sorted, without duplicates, at least one.
pub(super) fn placements(mut placements: Vec<Placement>) -> Result<Vec<Placement>, ServiceError> {
    placements.sort_unstable();
    placements.dedup();
    if placements.is_empty() {
        return Err(ServiceError::NoPlacement);
    }
    too_many("`--on`", placements.len(), Placement::MAX_COUNT)?;
    if placements.len() > 1 && placements.contains(&Placement::Any) {
        return Err(ServiceError::AnyAndMore);
    }
    Ok(placements)
}

/// Whole seconds between the shortest leaf and a third of the authority's life.
pub(super) fn lifetime(kind: &'static str, ttl: Duration, rules: &Rules) -> Result<Duration, ServiceError> {
    let longest = if kind == X509 { rules.longest_x509 } else { rules.longest_jwt };
    let (ttl, shortest, longest) = (ttl.as_secs(), rules.shortest_leaf.as_secs(), longest.as_secs());
    if ttl < shortest || ttl > longest {
        return Err(ServiceError::Lifetime { kind, ttl, shortest, longest });
    }
    Ok(Duration::from_secs(ttl))
}

/// The default, but never more than is allowed.
pub(super) fn default_lifetime(kind: &'static str, rules: &Rules) -> Duration {
    if kind == X509 { rules.x509_ttl.min(rules.longest_x509) } else { rules.jwt_ttl.min(rules.longest_jwt) }
}

/// DNS names as RFC 1123 has them, lower case, without wildcards, each once, in the order given.
pub(super) fn dns_names(names: Vec<String>, limit: usize) -> Result<Vec<String>, ServiceError> {
    too_many("DNS names", names.len(), limit)?;
    let mut checked: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        match dns_problem(&name) {
            Some(problem) => return Err(ServiceError::DnsName { name: shortened(&name), problem }),
            None if checked.contains(&name) => {}
            None => checked.push(name),
        }
    }
    Ok(checked)
}

/// What keeps a text from being a DNS name in a certificate.
pub(crate) fn dns_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > 253 {
        return Some("it is longer than 253 bytes");
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("write it in lower case");
    }
    if name.contains('*') {
        return Some("wildcards are not issued");
    }
    let mut last = "";
    for label in name.split('.') {
        if label.is_empty() {
            return Some("it has an empty label (a leading, trailing or double dot)");
        }
        if label.len() > 63 {
            return Some("a label is longer than 63 bytes");
        }
        if !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            return Some("labels have only a-z, 0-9 and `-`");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("a label starts or ends with `-`");
        }
        last = label;
    }
    // Parsers that try addresses first would read it as one.
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some("it ends in a number, like an address");
    }
    None
}

/// At most 1,024 bytes, no control characters.
pub(super) fn hint(hint: &str) -> Result<(), ServiceError> {
    if hint.len() > HINT_LIMIT {
        return Err(ServiceError::HintLength { length: hint.len(), limit: HINT_LIMIT });
    }
    match hint.char_indices().find(|(_, character)| character.is_control()) {
        Some((at, _)) => Err(ServiceError::HintCharacter { at }),
        None => Ok(()),
    }
}

/// Both sorted, without duplicates; no scope is no edge.
pub(super) fn edge(mut scopes: Vec<String>, mut issuers: Vec<String>) -> Result<Option<Edge>, ServiceError> {
    for list in [&mut scopes, &mut issuers] {
        list.sort_unstable();
        list.dedup();
    }
    too_many("scopes of an edge", scopes.len(), EDGE_SCOPES)?;
    too_many("issuers of an edge", issuers.len(), EDGE_ISSUERS)?;
    if let Some(scope) = scopes.iter().find(|scope| !is_scope(scope)) {
        return Err(ServiceError::EdgeScope { scope: shortened(scope), limit: EDGE_SCOPE_BYTES });
    }
    if let Some(name) = issuers.iter().find(|name| !is_issuer_name(name)) {
        return Err(ServiceError::EdgeIssuer { name: shortened(name) });
    }
    match (scopes.is_empty(), issuers.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => Err(ServiceError::EdgeWithoutScope),
        (false, _) => Ok(Some(Edge { scopes, issuers })),
    }
}

/// A word as OAuth has them (RFC 6749 §3.3).
fn is_scope(word: &str) -> bool {
    (1..=EDGE_SCOPE_BYTES).contains(&word.len())
        && word.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'))
}

/// As an issuer of users is named: `corp`. `spiffe` would make users look like services.
fn is_issuer_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name != "spiffe"
}

fn too_many(what: &'static str, count: usize, limit: usize) -> Result<(), ServiceError> {
    if count > limit { Err(ServiceError::TooMany { what, count, limit }) } else { Ok(()) }
}

fn shortened(text: &str) -> String {
    let start: String = text.chars().take(100).collect();
    start.escape_debug().to_string()
}

/// The two kinds of lifetime, as messages name them.
pub(super) const X509: &str = "X.509-SVID";
pub(super) const JWT: &str = "JWT-SVID";
const HINT_LIMIT: usize = 1024;
/// A scope claim has 1,024 bytes at most: all words of an edge fit in one.
const EDGE_SCOPES: usize = 16;
const EDGE_SCOPE_BYTES: usize = 63;
const EDGE_ISSUERS: usize = 16;
/// No stored value is longer than 64 KiB (T-33).
const SELECTOR_BYTES: usize = 32 << 10;
