//! Puts authenticators together, and refuses what could not work or not be told apart.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

#[cfg(feature = "jwt")]
use super::verified_tokens::VerifiedTokens;
use super::{
    AddressRate, Authenticators, Keys, Shared, address_limit::AddressLimit, error::AuthenticatorsError,
    single_use::SingleUse,
};
use crate::{
    identity::Identity,
    key_records::{KeyRecords, MAX_NAME_BYTES},
    spiffe::{SpiffeId, TrustDomain},
};
#[cfg(feature = "jwt")]
use crate::{jwt::user_issuers::UserIssuers, spiffe::JwtAuthority};

/// What kinds of credentials a service takes. See [`Authenticators`].
#[must_use = "nothing is authenticated until `build`"]
pub struct Builder {
    trust_domain: TrustDomain,
    identity: Identity,
    audiences: Vec<String>,
    x509: bool,
    records: Option<KeyRecords>,
    api_key_header: Option<String>,
    via: Vec<SpiffeId>,
    address_rate: AddressRate,
    single_use: Option<usize>,
    #[cfg(feature = "jwt")]
    jwt_svids: bool,
    #[cfg(feature = "jwt")]
    access_tokens: Option<(String, Vec<JwtAuthority>)>,
    #[cfg(feature = "jwt")]
    user_issuers: Option<UserIssuers>,
    sessions: bool,
    #[cfg(feature = "jwt")]
    remembered: usize,
}

impl Builder {
    /// So many verified tokens are remembered: about 600 bytes each.
    pub const VERIFIED_TOKENS: usize = 16_384;

    pub(super) fn new(trust_domain: TrustDomain, identity: Identity) -> Self {
        Self {
            trust_domain,
            identity,
            audiences: Vec::new(),
            x509: false,
            records: None,
            api_key_header: None,
            via: Vec::new(),
            address_rate: AddressRate::default(),
            single_use: None,
            #[cfg(feature = "jwt")]
            jwt_svids: false,
            #[cfg(feature = "jwt")]
            access_tokens: None,
            #[cfg(feature = "jwt")]
            user_issuers: None,
            sessions: false,
            #[cfg(feature = "jwt")]
            remembered: Self::VERIFIED_TOKENS,
        }
    }

    /// A name of this service, usually its SPIFFE ID: tokens and keys for one of its names are taken, and for no other. It is a
    /// setting, and never taken from a request (trap 11). May be called again.
    pub fn audience(mut self, name: impl Into<String>) -> Self {
        self.audiences.push(name.into());
        self
    }

    /// Takes X.509-SVIDs, from the connection.
    pub fn x509(mut self) -> Self {
        self.x509 = true;
        self
    }

    /// Takes JWT-SVIDs, in `authorization: Bearer`.
    #[cfg(feature = "jwt")]
    pub fn jwt_svids(mut self) -> Self {
        self.jwt_svids = true;
        self
    }

    /// Takes what these records are of: HS256 tokens in `authorization: Bearer` (feature `jwt`), API keys in `authorization: ApiKey`.
    pub fn key_records(mut self, records: KeyRecords) -> Self {
        self.records = Some(records);
        self
    }

    /// Takes API keys in a header of this name too, such as `x-api-key`.
    pub fn api_key_header(mut self, name: impl Into<String>) -> Self {
        self.api_key_header = Some(name.into());
        self
    }

    /// Takes access tokens (`at+jwt`) of the own token service: of this issuer, signed with one of these keys.
    #[cfg(feature = "jwt")]
    pub fn access_tokens(mut self, issuer: impl Into<String>, keys: Vec<JwtAuthority>) -> Self {
        self.access_tokens = Some((issuer.into(), keys));
        self
    }

    /// This server is an edge: users call it with no service in front, and services call it with a user's own token. Takes ID tokens and access tokens of
    /// these issuers in `authorization: Bearer`, each for one of its issuer's audiences. The issuers may be none at first; they come with
    /// [`Authenticators::replace_user_issuers`]. [`Builder::single_use`] does not concern users' tokens, which are for many requests.
    #[cfg(feature = "jwt")]
    pub fn users_from(mut self, issuers: UserIssuers) -> Self {
        self.user_issuers = Some(issuers);
        self
    }

    /// This server is an edge whose program logs users in itself: takes the [`SessionUser`](super::SessionUser) that it puts before the authorization.
    pub fn sessions(mut self) -> Self {
        self.sessions = true;
        self
    }

    /// Trusts these to pass on requests of others: the caller is then who the request's one bearer credential says, and the proxy
    /// is its [`crate::caller::Caller::via`]. A request of theirs without such a credential is refused.
    pub fn via(mut self, proxies: impl IntoIterator<Item = SpiffeId>) -> Self {
        self.via.extend(proxies);
        self
    }

    /// How many signatures are checked for one address. Default: [`AddressRate::default`].
    pub fn address_rate(mut self, rate: AddressRate) -> Self {
        self.address_rate = rate;
        self
    }

    /// Takes each token once: it needs a `jti`, and `most` of them are remembered until they expire. When that many are valid at once,
    /// further ones are refused as unavailable; one caller can have a quarter of them. Other credentials are as before.
    #[cfg(feature = "jwt")]
    pub fn single_use(mut self, most: usize) -> Self {
        self.single_use = Some(most);
        self
    }

    /// How many verified tokens are remembered. Default: [`Builder::VERIFIED_TOKENS`].
    #[cfg(feature = "jwt")]
    pub fn remember_tokens(mut self, most: usize) -> Self {
        self.remembered = most;
        self
    }

    /// Checks it all.
    ///
    /// # Errors
    /// When nobody could prove itself, a needed name is missing, or keys could not be told apart.
    pub fn build(self) -> Result<Authenticators, AuthenticatorsError> {
        self.check()?;
        let takes_keys = self.records.is_some();
        #[cfg(feature = "jwt")]
        let (token_issuer, of_token_service) = match self.access_tokens {
            Some((issuer, keys)) => (Some(issuer), keys),
            None => (None, Vec::new()),
        };
        #[cfg(feature = "jwt")]
        let (takes_users, user_issuers) = (self.user_issuers.is_some(), self.user_issuers.unwrap_or_default());
        #[cfg(feature = "jwt")]
        check_user_issuers(&user_issuers, token_issuer.as_deref())?;
        let keys = Keys {
            version: 0,
            records: self.records.unwrap_or_else(|| KeyRecords::empty(self.trust_domain.clone())),
            #[cfg(feature = "jwt")]
            of_token_service,
            #[cfg(feature = "jwt")]
            user_issuers,
        };
        let shared = Shared {
            trust_domain: self.trust_domain,
            identity: self.identity,
            audiences: self.audiences,
            x509: self.x509,
            #[cfg(feature = "jwt")]
            jwt_svids: self.jwt_svids,
            #[cfg(feature = "jwt")]
            token_issuer,
            takes_keys,
            #[cfg(feature = "jwt")]
            takes_users,
            #[cfg(feature = "jwt")]
            finder: arc_swap::ArcSwapOption::empty(),
            takes_sessions: self.sessions,
            api_key_header: self.api_key_header,
            via: self.via,
            keys: ArcSwap::from_pointee(keys),
            replacing: Mutex::new(()),
            #[cfg(feature = "jwt")]
            tokens: VerifiedTokens::new(self.remembered),
            single_use: self.single_use.map(SingleUse::new),
            addresses: AddressLimit::new(self.address_rate),
        };
        let keys = shared.keys.load_full();
        check_keys(&shared.rules(), &keys.records, &keys)?;
        Ok(Authenticators(Arc::new(shared)))
    }

    fn check(&self) -> Result<(), AuthenticatorsError> {
        let bearers = self.bearers();
        match bearers {
            None if !self.x509 && !self.takes_users() => return Err(AuthenticatorsError::None),
            None if !self.via.is_empty() && !self.takes_users() => return Err(AuthenticatorsError::ViaWithoutBearer),
            Some(kind) if self.audiences.is_empty() => return Err(AuthenticatorsError::NoAudience { kind }),
            None | Some(_) => {}
        }
        if !self.x509 && !self.via.is_empty() {
            return Err(AuthenticatorsError::ViaWithoutX509);
        }
        let fits = |text: &str| (1..=MAX_NAME_BYTES).contains(&text.len());
        if let Some(audience) = self.audiences.iter().find(|audience| !fits(audience)) {
            return Err(AuthenticatorsError::Audience { bytes: audience.len(), most: MAX_NAME_BYTES });
        }
        #[cfg(feature = "jwt")]
        if let Some((issuer, _)) = self.access_tokens.as_ref().filter(|(issuer, _)| !fits(issuer)) {
            return Err(AuthenticatorsError::Issuer { bytes: issuer.len(), most: MAX_NAME_BYTES });
        }
        match self.api_key_header.as_deref() {
            Some(_) if self.records.is_none() => Err(AuthenticatorsError::HeaderWithoutRecords),
            Some(name) if !can_carry_a_key(name) => {
                Err(AuthenticatorsError::ApiKeyHeader { name: name.chars().take(64).collect() })
            }
            None | Some(_) => Ok(()),
        }
    }

    #[cfg(feature = "jwt")]
    fn takes_users(&self) -> bool {
        self.sessions || self.user_issuers.is_some()
    }

    #[cfg(not(feature = "jwt"))]
    fn takes_users(&self) -> bool {
        self.sessions
    }

    /// A kind of services' credential that stands in a header, if any is taken. (A user's token is for an audience of its issuer's.)
    fn bearers(&self) -> Option<&'static str> {
        #[cfg(feature = "jwt")]
        if self.jwt_svids {
            return Some("JWT-SVIDs");
        }
        #[cfg(feature = "jwt")]
        if self.access_tokens.is_some() {
            return Some("access tokens");
        }
        self.records.is_some().then_some("keys")
    }
}

/// What the own token service signs is about services, and never about users.
#[cfg(feature = "jwt")]
pub(super) fn check_user_issuers(issuers: &UserIssuers, own: Option<&str>) -> Result<(), AuthenticatorsError> {
    match own.and_then(|own| issuers.of_url(own)) {
        Some(issuer) => Err(AuthenticatorsError::UserIssuerIsOwn { name: issuer.name().clone() }),
        None => Ok(()),
    }
}

/// A header of one's own: those below mean something to servers, proxies and clients.
fn can_carry_a_key(name: &str) -> bool {
    const TAKEN: [&str; 12] = [
        "authorization",
        "proxy-authorization",
        "cookie",
        "host",
        "connection",
        "content-length",
        "content-type",
        "transfer-encoding",
        "te",
        "txn-token",
        "workload-identity-token",
        "workload-proof-token",
    ];
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !TAKEN.contains(&name)
}

/// What keys are to be told apart from.
pub(super) struct KeyRules<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "without tokens no authority signs anything"))]
    pub(super) identity: &'a Identity,
    #[cfg(feature = "jwt")]
    pub(super) jwt_svids: bool,
}

/// No `kid` names two keys, of the records, of the token service and of the own trust domain's JWT authorities.
#[cfg_attr(not(feature = "jwt"), allow(unused_variables, reason = "without tokens no authority signs anything"))]
pub(super) fn check_keys(rules: &KeyRules<'_>, records: &KeyRecords, keys: &Keys) -> Result<(), AuthenticatorsError> {
    if records.trust_domain() != rules.trust_domain {
        return Err(AuthenticatorsError::TrustDomain {
            records: records.trust_domain().to_string(),
            own: rules.trust_domain.to_string(),
        });
    }
    #[cfg(feature = "jwt")]
    {
        const RECORD: &str = "a key record";
        const TOKEN_SERVICE: &str = "a key of the token service";
        const AUTHORITY: &str = "a JWT authority of the trust domain";
        let mut named: std::collections::HashMap<&str, &'static str> =
            records.key_ids().map(|key_id| (key_id, RECORD)).collect();
        let snapshot = rules.identity.snapshot();
        let bundle = snapshot.bundles().get(rules.trust_domain).filter(|_| rules.jwt_svids);
        let authorities = bundle.map(|bundle| bundle.jwt_authorities()).unwrap_or_default();
        let further = keys.of_token_service.iter().map(|key| (key.key_id(), TOKEN_SERVICE));
        for (key_id, other) in further.chain(authorities.iter().map(|key| (key.key_id(), AUTHORITY))) {
            if let Some(one) = named.insert(key_id, other) {
                return Err(AuthenticatorsError::KeyIdTwice { key_id: key_id.chars().take(64).collect(), one, other });
            }
        }
    }
    Ok(())
}
