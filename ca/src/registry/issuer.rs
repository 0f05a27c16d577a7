//! An issuer of users: an OpenID Connect provider whose word about users is believed.

use std::{sync::Arc, time::Duration};

use bonafide_ca_api::generated::node as wire;
use bonafide_verifier::{
    clock::Timestamp,
    jwt::user_issuers::{IssuerKeys, UserIssuer, UserIssuerError, UserIssuerSettings},
    user::IssuerName,
};

/// Keys that could not be fetched again for that long are believed no more: a provider that is down for longer has perhaps
/// withdrawn them. Shorter outages are survived.
pub(super) const KEYS_LAST: Duration = Duration::from_secs(24 * 60 * 60);

/// What an administrator registered, with the keys of the day.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Issuer {
    pub(crate) settings: UserIssuerSettings,
    /// The roots of its TLS certificates, PEM; none: those of the system.
    pub(crate) roots: Option<Arc<str>>,
    pub(crate) source: KeySource,
    pub(crate) keys: Option<HeldKeys>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// Where its keys come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum KeySource {
    /// From the issuer itself, again and again.
    Fetched,
    /// From a file that an administrator gave; nothing is fetched, and they do not age.
    File,
}

/// Keys, and when they were the issuer's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeldKeys {
    pub(crate) keys: IssuerKeys,
    pub(crate) at: Timestamp,
}

impl Issuer {
    /// Its name here.
    pub(crate) fn name(&self) -> &IssuerName {
        &self.settings.name
    }

    /// Until when its keys count; none when they do not age, or when there are none.
    pub(crate) fn keys_until(&self) -> Option<Timestamp> {
        let fetched = self.keys.as_ref().filter(|_| self.source == KeySource::Fetched);
        fetched.map(|held| held.at.saturating_add(KEYS_LAST))
    }

    /// The issuer as verifiers know it, at a time: without keys that are too old.
    ///
    /// # Errors
    /// Settings that an issuer cannot have; they are checked before they are stored.
    pub(crate) fn believed_at(&self, now: Timestamp) -> Result<UserIssuer, UserIssuerError> {
        let none = IssuerKeys::default();
        let fresh = self.keys_until().is_none_or(|until| now < until);
        let keys = self.keys.as_ref().filter(|_| fresh).map_or(&none, |held| &held.keys);
        UserIssuer::new(self.settings.clone(), keys)
    }

    /// As nodes are told of it: as long as its keys are not too old, with them.
    pub(crate) fn to_wire(&self, now: Timestamp) -> wire::UserIssuer {
        let fresh = self.keys_until().is_none_or(|until| now < until);
        let jwks = self.keys.as_ref().filter(|_| fresh).map(|held| held.keys.to_jwks().into_bytes());
        wire::UserIssuer {
            name: self.settings.name.to_string(),
            url: self.settings.url.clone(),
            audiences: self.settings.audiences.clone(),
            algorithms: self.settings.algorithms.iter().map(ToString::to_string).collect(),
            roles_claim: self.settings.roles_claim.clone().unwrap_or_default(),
            jwks: jwks.unwrap_or_default(),
            keys_until_ms: self.keys_until().map_or(0, Timestamp::unix_millis),
        }
    }
}
