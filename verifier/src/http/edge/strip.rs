//! What headers only the inside may send: those by which proxies and frameworks tell who somebody is.
//!
//! Nothing in this crate believes one of them; a service behind may. So an edge takes them off whatever comes from outside: from a connection that is not of
//! a service of the own trust domain, or of a proxy that passes on what strangers say. Names are compared without regard to case, and `_` as `-`, since some
//! servers read both as one.

use std::fmt;

use http::{HeaderMap, header::HeaderName};

use super::EdgeError;

/// Headers that are taken off, by their whole names.
pub const HEADERS: &[&str] = &[
    "client-cert",
    "client-cert-chain",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "workload-identity-token",
    "workload-proof-token",
    "x-authenticated-groups",
    "x-authenticated-scope",
    "x-authenticated-userid",
    "x-consumer-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-forwarded-access-token",
    "x-forwarded-client-cert",
    "x-forwarded-client-cert-chain",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-forwarded-user",
];

/// Headers that are taken off, by how their names begin.
pub const PREFIXES: &[&str] = &[
    "x-amzn-oidc-",
    "x-auth-request-",
    "x-client-cert",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-remote-user",
    "x-spiffe",
    "x-ssl-client-",
    "x-user",
    "x-webauth-",
];

const TXN_TOKEN: &str = "txn-token";

/// The lists above, and what a program adds.
#[derive(Clone, Default)]
pub(super) struct Strip {
    more: Vec<String>,
}

impl Strip {
    pub(super) fn add(&mut self, name: String) {
        self.more.push(name);
    }

    pub(super) fn check(&self) -> Result<(), EdgeError> {
        let wrong = self.more.iter().find(|name| HeaderName::from_lowercase(name.as_bytes()).is_err());
        match wrong {
            Some(name) => Err(EdgeError::Header { name: name.chars().take(64).collect() }),
            None => Ok(()),
        }
    }

    /// `txn_token`: also that one.
    pub(super) fn apply(&self, headers: &mut HeaderMap, txn_token: bool) {
        let stripped = |name: &HeaderName| self.names(name.as_str()) || (txn_token && same(name.as_str(), TXN_TOKEN));
        let found: Vec<HeaderName> = headers.keys().filter(|name| stripped(name)).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }

    fn names(&self, name: &str) -> bool {
        HEADERS.iter().any(|known| same(name, known))
            || PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|begin| same(begin, prefix)))
            || self.more.iter().any(|known| same(name, known))
    }
}

fn same(name: &str, known: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.len() == known.len() && name.bytes().map(plain).eq(known.bytes().map(plain))
}

impl fmt::Debug for Strip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.more).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trap 8.
    #[test]
    fn trap_8_names_that_say_who_somebody_is() {
        let mut strip = Strip::default();
        strip.add("x-acme-person".into());
        for (name, gone) in [
            ("x-forwarded-client-cert", true),
            ("X-Forwarded-Client-Cert", true),
            ("x_forwarded_client_cert", true),
            ("x-user", true),
            ("x-user-id", true),
            ("x-users", true),
            ("X_USER_ROLES", true),
            ("x-spiffe-id", true),
            ("x-auth-request-email", true),
            ("remote-user", true),
            ("x-acme-person", true),
            ("x-acme-persons", false),
            ("authorization", false),
            ("cookie", false),
            ("user-agent", false),
            ("x-forwarded-for", false),
            ("x-request-id", false),
            ("traceparent", false),
            ("txn-token", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), "a".parse().unwrap());
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), "b".parse().unwrap());
            strip.apply(&mut headers, false);
            assert_eq!(headers.is_empty(), gone, "{name}");
        }
        let mut headers = HeaderMap::new();
        headers.append("txn-token", "a".parse().unwrap());
        headers.append("txn_token", "b".parse().unwrap());
        strip.apply(&mut headers, true);
        assert!(headers.is_empty());
        assert!(HEADERS.is_sorted() && PREFIXES.is_sorted());
        strip.add("X-Acme".into());
        assert_eq!(strip.check(), Err(EdgeError::Header { name: "X-Acme".into() }));
    }
}
