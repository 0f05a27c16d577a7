//! Tokens in `authorization: Bearer`: which kind one is, and who is behind it.

use std::sync::Arc;

use super::{
    Accepted, Authenticators, Keys, Presented,
    error::AuthenticateError,
    verified_tokens::{TokenName, VerifiedToken},
};
use crate::{
    caller::{Caller, Proof, ProofKind},
    clock::Timestamp,
    identity::Snapshot,
    jwt::{
        Algorithm, Compact, JwtError, LEEWAY, MAX_TOKEN_BYTES, UnverifiedJwt,
        access_token::{self, Issuer},
        shared_secret,
        user_token::{self, UserTokenError, UserTokenKind},
    },
    key_records::Named,
    spiffe::JwtAuthority,
    user::{Facts, PresentedUser},
};

impl Authenticators {
    pub(super) fn of_bearer(&self, token: &str, presented: &Presented<'_>) -> Result<Accepted, AuthenticateError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLarge { bytes: token.len() }.into());
        }
        let keys = self.0.keys.load();
        let name = TokenName::new(token, self.0.identity.generation(), keys.version);
        let verified = match self.0.tokens.find(&name, presented.at) {
            Some(verified) => verified,
            None => {
                self.0.addresses.admit(presented.address, presented.at)?;
                let snapshot = self.0.identity.snapshot();
                let verified = self.verify(token, &keys, &snapshot, presented.at)?;
                let name = name.under_bundles(snapshot.generation());
                self.0.tokens.remember(name, verified.clone());
                verified
            }
        };
        // Users' tokens are for many requests.
        let token_until = verified.caller.service().map(|_| verified.caller.valid_until());
        Ok(Accepted { caller: verified.caller, used: verified.used, token_until })
    }

    fn verify(
        &self,
        token: &str,
        keys: &Keys,
        snapshot: &Snapshot,
        at: Timestamp,
    ) -> Result<VerifiedToken, AuthenticateError> {
        let compact = Compact::parse_tolerating(token)?;
        // What an issuer of users calls its keys is no affair of ours; its URL is its own, and what it signs is about users alone.
        if user_token::claimed_issuer(&compact, &keys.user_issuers)?.is_some() {
            return self.of_user(&compact, keys, at);
        }
        compact.tolerate_nothing()?;
        let Some(key_id) = compact.key_id()? else { return self.without_key_id(&compact, keys, at) };
        let record = keys.records.named(key_id);
        let access_token_key = keys.of_token_service.iter().find(|key| key.key_id() == key_id);
        // The names of the own trust domain's authorities. What a foreign one calls its keys is no affair of ours.
        let bundle = snapshot.bundles().get(&self.0.trust_domain).filter(|_| self.0.jwt_svids);
        let authority = bundle.and_then(|bundle| bundle.jwt_authority(key_id));
        match (record, access_token_key, authority) {
            (Some(Named::Shared(entry)), None, None) => {
                let verified = shared_secret::verify(&compact, entry, &self.0.audiences, at)?;
                Ok(of_shared_secret(verified))
            }
            (None, Some(key), None) => self.of_access_token(&compact, key, at),
            // No key of ours, and not even signed as a JWT-SVID is.
            (None, None, None) if Algorithm::from_name(compact.algorithm()?).is_none() => {
                Err(JwtError::NoKey { key_id: cut(key_id) }.into())
            }
            (None, None, _) if self.0.jwt_svids => self.of_jwt_svid(&compact, snapshot, at),
            // An API key's ID is no name of a key that signs.
            (Some(Named::ApiKey(_)) | None, None, None) => Err(self.unknown(&compact, key_id)),
            _ => Err(AuthenticateError::AmbiguousKey { key_id: cut(key_id) }),
        }
    }

    /// A token of nobody that is known here.
    fn unknown(&self, compact: &Compact<'_>, key_id: &str) -> AuthenticateError {
        let no_key = JwtError::NoKey { key_id: cut(key_id) };
        if !self.0.takes_users {
            return no_key.into();
        }
        let claims = compact.claims();
        match claims.as_ref().map(|claims| claims.get("iss").and_then(serde_json::Value::as_str)) {
            Ok(Some(url)) if Some(url) != self.0.token_issuer.as_deref() => {
                UserTokenError::UnknownIssuer { url: cut(url) }.into()
            }
            Ok(_) => no_key.into(),
            Err(error) => error.clone().into(),
        }
    }

    /// A user's own token.
    fn of_user(&self, compact: &Compact<'_>, keys: &Keys, at: Timestamp) -> Result<VerifiedToken, AuthenticateError> {
        let verified = user_token::verify_compact(compact, &keys.user_issuers, at)?;
        let user = PresentedUser::new(Facts {
            id: verified.user().clone(),
            roles: verified.roles().clone(),
            scope: verified.scope().map(Into::into),
            kind: match verified.kind() {
                UserTokenKind::IdToken => ProofKind::IdToken,
                UserTokenKind::AccessToken => ProofKind::UserAccessToken,
            },
            key_id: verified.key_id().into(),
            token_id: verified.token_id().map(Into::into),
            valid_until: verified.expires_at().saturating_add(LEEWAY),
        });
        Ok(VerifiedToken {
            caller: Caller::of_user(user),
            from: verified.valid_from(),
            until: verified.expires_at(),
            used: None,
        })
    }

    /// Only HS256 tokens lack a `kid`: their unverified `sub` picks the one record it belongs to, and nothing else.
    fn without_key_id(
        &self,
        compact: &Compact<'_>,
        keys: &Keys,
        at: Timestamp,
    ) -> Result<VerifiedToken, AuthenticateError> {
        let missing = || JwtError::Header { member: "kid" };
        if compact.algorithm()? != shared_secret::ALGORITHM {
            return Err(missing().into());
        }
        let claims = compact.claims()?;
        let subject = claims.get("sub").and_then(serde_json::Value::as_str).ok_or_else(missing)?;
        let mut refused = missing();
        for entry in keys.records.of_subject(subject) {
            match shared_secret::verify(compact, entry, &self.0.audiences, at) {
                Ok(verified) => return Ok(of_shared_secret(verified)),
                Err(error) => refused = error,
            }
        }
        Err(refused.into())
    }

    fn of_access_token(
        &self,
        compact: &Compact<'_>,
        key: &JwtAuthority,
        at: Timestamp,
    ) -> Result<VerifiedToken, AuthenticateError> {
        let name = self.0.token_issuer.as_deref().unwrap_or_default();
        let issuer = Issuer { name, trust_domain: &self.0.trust_domain, key };
        let verified = access_token::verify(compact, &issuer, &self.0.audiences, at)?;
        let proof = Proof { kind: ProofKind::AccessToken, key_id: key.key_id().into() };
        Ok(VerifiedToken {
            caller: Caller::new(verified.client, proof, verified.expires_at.saturating_add(LEEWAY))
                .with_token_id(Some(verified.token_id.into())),
            from: verified.from,
            until: verified.expires_at,
            used: None,
        })
    }

    fn of_jwt_svid(
        &self,
        compact: &Compact<'_>,
        snapshot: &Snapshot,
        at: Timestamp,
    ) -> Result<VerifiedToken, AuthenticateError> {
        let audiences: Vec<&str> = self.0.audiences.iter().map(String::as_str).collect();
        let unverified = UnverifiedJwt::read(compact)?;
        let from = unverified.valid_from();
        let svid = unverified.verify(&audiences, snapshot.bundles(), at)?;
        let proof = Proof { kind: ProofKind::JwtSvid, key_id: svid.key_id().into() };
        let token_id = svid.claims().get("jti").and_then(serde_json::Value::as_str).map(Into::into);
        Ok(VerifiedToken {
            caller: Caller::new(svid.id().clone(), proof, svid.expires_at().saturating_add(LEEWAY))
                .with_token_id(token_id),
            from,
            until: svid.expires_at(),
            used: None,
        })
    }
}

fn of_shared_secret(verified: shared_secret::Verified<'_>) -> VerifiedToken {
    let record = verified.entry.record;
    let proof = Proof { kind: ProofKind::SharedSecret, key_id: Arc::clone(&verified.entry.keyed.key_id) };
    let valid_until = verified.expires_at.saturating_add(LEEWAY).min(record.expires_at);
    let caller = Caller::new(record.owner.clone(), proof, valid_until).with_token_id(verified.token_id.map(Into::into));
    VerifiedToken {
        caller: caller.with_roles(record.roles.clone(), Some(verified.roles)),
        from: verified.from,
        until: verified.expires_at.min(record.expires_at),
        used: Some(Arc::clone(verified.entry.used)),
    }
}

fn cut(text: &str) -> String {
    crate::jwt::cut(text)
}
