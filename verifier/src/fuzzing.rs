//! Properties of everything that parses what a stranger sends, as plain functions over bytes.
//!
//! The property tests and the fuzz targets call the same functions. Each panics when its property does not hold, and
//! none may panic otherwise, whatever the bytes.

use crate::spiffe::{SpiffeId, TrustDomain};

/// What parses prints as it was, is made of the parts it says, and is in the alphabet.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(id) = SpiffeId::parse(text) else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(SpiffeId::new(id.trust_domain(), id.path()).as_ref(), Ok(&id));
    assert_eq!(TrustDomain::parse(id.trust_domain().as_str()).as_ref(), Ok(id.trust_domain()));
    assert!(text.len() <= SpiffeId::MAX_LENGTH && text.is_ascii());
    assert!(!text.ends_with('/') && !text.contains("/../") && !text.contains('%'));
    assert!(id.segments().all(|segment| !segment.is_empty() && segment != "." && segment != ".."));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spiffe_id_of_any_bytes(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            super::spiffe_id(&data);
        }

        #[test]
        fn spiffe_id_of_nearly_right_text(text in "(spiffe|SPIFFE|http):?/?/?[a-z0-9.A_%@:-]{0,12}(/[a-zA-Z.%_ -]{0,4}){0,4}[?#/]?") {
            super::spiffe_id(text.as_bytes());
        }
    }
}
