//! Whether the key behind a caller is one still: for what lasts longer than a request.

use super::Authenticators;
#[cfg(feature = "jwt")]
use super::Keys;
#[cfg(feature = "jwt")]
use crate::user::PresentedUser;
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
        #[cfg(feature = "jwt")]
        if !caller.presented_user().is_none_or(|user| is_still_of_its_issuer(user, &keys)) {
            return false;
        }
        match proof.kind {
            // Of users it has just been asked; a session is the program's own.
            ProofKind::X509Svid | ProofKind::IdToken | ProofKind::UserAccessToken | ProofKind::Session => true,
            ProofKind::ApiKey | ProofKind::SharedSecret => {
                let record = keys.records.named(&proof.key_id).map(|named| match named {
                    Named::Shared(entry) => entry.record,
                    Named::ApiKey(entry) => entry.record,
                });
                record.is_some_and(|record| Some(&record.owner) == caller.service())
            }
            #[cfg(feature = "jwt")]
            ProofKind::AccessToken => keys.of_token_service.iter().any(|key| *key.key_id() == *proof.key_id),
            #[cfg(feature = "jwt")]
            ProofKind::JwtSvid => {
                let snapshot = self.0.identity.snapshot();
                let bundle = caller.service().and_then(|id| snapshot.bundles().get(id.trust_domain()));
                bundle.is_some_and(|bundle| bundle.jwt_authority(&proof.key_id).is_some())
            }
            #[cfg(not(feature = "jwt"))]
            ProofKind::AccessToken | ProofKind::JwtSvid => false,
        }
    }
}

/// Whether the issuer of a user's token still has the key that signed it. A session has no such key.
#[cfg(feature = "jwt")]
fn is_still_of_its_issuer(user: &PresentedUser, keys: &Keys) -> bool {
    match user.kind() {
        ProofKind::IdToken | ProofKind::UserAccessToken => {
            let issuer = keys.user_issuers.named(user.id().issuer().as_str());
            issuer.is_some_and(|issuer| issuer.has_key(user.key_id()))
        }
        ProofKind::X509Svid
        | ProofKind::JwtSvid
        | ProofKind::AccessToken
        | ProofKind::SharedSecret
        | ProofKind::ApiKey
        | ProofKind::Session => true,
    }
}
