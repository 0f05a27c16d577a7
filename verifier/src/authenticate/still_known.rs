//! Whether the key behind a caller is one still: for what lasts longer than a request.

use super::Authenticators;
use crate::{
    caller::{Caller, ProofKind},
    key_records::Named,
};

impl Authenticators {
    /// Whether the key that proved a caller is still among the keys that are taken, for the same caller: an API key that was revoked, or a
    /// signing key that was withdrawn, ends what was begun with it. When the credential itself ends is the caller's
    /// [`valid_until`](Caller::valid_until); an X.509-SVID ends with its connection, which sees to that itself.
    #[must_use]
    pub fn still_knows(&self, caller: &Caller) -> bool {
        let proof = caller.proof();
        let keys = self.0.keys.load();
        match proof.kind {
            ProofKind::X509Svid => true,
            ProofKind::ApiKey | ProofKind::SharedSecret => {
                let record = keys.records.named(&proof.key_id).map(|named| match named {
                    Named::Shared(entry) => entry.record,
                    Named::ApiKey(entry) => entry.record,
                });
                record.is_some_and(|record| record.owner == *caller.id())
            }
            #[cfg(feature = "jwt")]
            ProofKind::AccessToken => keys.of_token_service.iter().any(|key| *key.key_id() == *proof.key_id),
            #[cfg(feature = "jwt")]
            ProofKind::JwtSvid => {
                let snapshot = self.0.identity.snapshot();
                let bundle = snapshot.bundles().get(caller.id().trust_domain());
                bundle.is_some_and(|bundle| bundle.jwt_authority(&proof.key_id).is_some())
            }
            #[cfg(not(feature = "jwt"))]
            ProofKind::AccessToken | ProofKind::JwtSvid => false,
        }
    }
}
