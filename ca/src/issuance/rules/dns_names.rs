//! A DNS name is a host name in lower case: no wildcard, no trailing dot, nothing to parse twice.

use super::{Candidate, Finding, Rule};

pub(super) const RULE: Rule =
    Rule { name: "dns-names", source: "RFC 5280 §4.2.1.6, RFC 1034 §3.5, RFC 1123 §2.1", check };

const MAX_NAMES: usize = 64;
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let names = candidate.request.dns_names();
    if names.len() > MAX_NAMES {
        return Err(format!("{} DNS names, at most {MAX_NAMES} are allowed", names.len()));
    }
    match names.iter().find(|name| !is_host_name(name)) {
        None => Ok(()),
        Some(name) => Err(format!("`{}` is no host name", name.escape_default())),
    }
}

fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= MAX_NAME && name.split('.').all(label)
}
