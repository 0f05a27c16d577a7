//! From claims to a token that may leave: signed by the token authority, and recorded before it is handed out.

use bonafide_verifier::{
    clock::Timestamp,
    jwt::{JwtError, SigningInput},
    spiffe::SpiffeId,
};

use super::refusal::TokenRefusal;
use crate::{
    audit::{Record, TokenIssued, Who, sha256},
    authority::{Authorities, Signing},
    issuance::{IssueError, Issuer},
    store::Store,
};

/// What the record of a token says beside its hash.
pub(super) struct About<'a> {
    pub(super) requester: &'a SpiffeId,
    /// `txntoken+jwt` or `at+jwt`.
    pub(super) token_type: &'static str,
    /// The kind of subject token, or how a client proved itself.
    pub(super) by: &'static str,
    pub(super) sub: &'a str,
    /// `txn` or `jti`.
    pub(super) id: &'a str,
    pub(super) scope: &'a str,
    pub(super) audience: &'a [String],
    pub(super) issued_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

/// Signs and records. Cheap to clone.
#[derive(Clone)]
pub(super) struct Minter {
    pub(super) issuer: Issuer,
    pub(super) authorities: Authorities,
    pub(super) store: Store,
}

/// The key of a moment and the time at which it may sign.
pub(super) struct Turn {
    signing: std::sync::Arc<Signing>,
    now: Timestamp,
}

impl Turn {
    /// Now, by a clock that is trusted.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// The `kid`.
    pub(super) fn key_id(&self) -> &str {
        self.signing.token.kid()
    }

    /// The longest life of what is signed now: the key is withdrawn that long after its last signature.
    pub(super) fn longest(&self) -> std::time::Duration {
        let left = self.signing.token.not_after().since(self.now);
        self.signing.token.longest_token().min(left)
    }
}

impl Minter {
    /// # Errors
    /// The clock cannot be trusted, or the authority has no life left.
    pub(super) fn turn(&self) -> Result<Turn, TokenRefusal> {
        let now = self.issuer.time()?;
        let signing = self.authorities.current();
        let not_after = signing.token.not_after();
        if not_after <= now {
            return Err(IssueError::AuthorityTooShort { not_after, at: now }.into());
        }
        Ok(Turn { signing, now })
    }

    /// The token, once its record is durable.
    pub(super) async fn mint(
        &self,
        turn: &Turn,
        input: Result<SigningInput, JwtError>,
        about: &About<'_>,
    ) -> Result<String, TokenRefusal> {
        let input = input.map_err(TokenRefusal::Claims)?;
        let signature = turn.signing.token.sign(input.as_bytes()).map_err(|source| IssueError::Sign { source })?;
        if signature.len() != ES256_SIGNATURE {
            return Err(IssueError::ReadAgain.into());
        }
        let token = input.with_signature(&signature);
        let hash = sha256(token.as_bytes());
        let record = Record::token_issued(&TokenIssued {
            who: &Who::Service(about.requester.clone()),
            token_type: about.token_type,
            by: about.by,
            sub: about.sub,
            id: about.id,
            scope: about.scope,
            audience: about.audience,
            kid: turn.key_id(),
            token_hash: &hash,
            issued_at: about.issued_at,
            not_after: about.expires_at,
        });
        let recorded = self.store.record_group(vec![record]).await.map_err(IssueError::Store)?;
        match recorded.first() {
            Some(recorded) if recorded.covers(&hash) => Ok(token),
            _ => Err(IssueError::ForeignRecord.into()),
        }
    }
}

const ES256_SIGNATURE: usize = 64;
