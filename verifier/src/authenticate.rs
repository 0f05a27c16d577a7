//! From what a request carries to its [`Caller`]: one place for every kind of credential.
//!
//! The outcome is one of three. *Absent*: no credential, `Ok(None)`. A *caller*. *Bad*: an error, which is a refusal whatever else
//! the request carries; a good credential never makes up for a bad one, and nothing is tried twice.
//!
//! - Kinds are told apart by the key that a credential names, never by trying: its `kid` is that of a key record, of a key
//!   for access tokens, or of a JWT authority, and of one alone.
//! - Two credentials that name two callers are refused. Of two that name one, the stronger counts, and the roles come from it alone.
//! - Behind a proxy that is named with [`Builder::via`], the request's one bearer credential says who the caller is.
//! - At an edge ([`Builder::users_from`], [`Builder::sessions`]) a request may carry a user's own credential. Alone it makes the user the caller.
//!   Beside a service's X.509-SVID the service is the caller and acts for that user. Beside any other credential it is refused.
//! - Audiences are the names that the server was given, never what the request calls it.
//!
//! ```
//! use bonafide_verifier::{authenticate::Authenticators, identity::Identity, key_records::KeyRecords, spiffe::TrustDomain};
//!
//! # fn of(identity: Identity, records: KeyRecords) -> Result<(), Box<dyn std::error::Error>> {
//! let authenticators = Authenticators::builder(TrustDomain::parse("example.org")?, identity)
//!     .audience("spiffe://example.org/config")
//!     .x509()
//!     .key_records(records)
//!     .api_key_header("x-api-key")
//!     .build()?;
//! # Ok(())
//! # }
//! ```

mod address_limit;
mod at_edge;
#[cfg(feature = "jwt")]
mod bearer;
mod builder;
mod error;
mod headers;
mod session;
mod single_use;
mod still_known;
#[cfg(feature = "jwt")]
mod unknown_key;
#[cfg(feature = "jwt")]
mod verified_tokens;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
#[cfg(feature = "jwt")]
use arc_swap::ArcSwapOption;

#[cfg(feature = "jwt")]
pub use self::unknown_key::FindUserKey;
use self::{
    address_limit::AddressLimit,
    headers::{AUTHORIZATION, Authorization, text},
    single_use::SingleUse,
};
pub use self::{
    address_limit::AddressRate,
    builder::Builder,
    error::{AuthenticateError, AuthenticatorsError, Refusal},
    headers::{Found, HeaderView, NoHeaders},
    session::SessionUser,
};
#[cfg(all(feature = "tower", feature = "tokio"))]
pub(crate) use self::{headers::bearer_token, session::ProofKindOfToken};
use crate::{
    api_key::{self, ApiKeyError},
    caller::{Caller, Proof, ProofKind},
    clock::Timestamp,
    identity::Identity,
    key_records::{KeyRecords, KeyUse, Named, Use},
    spiffe::{SpiffeId, TrustDomain},
    x509::VerifiedPeer,
};
#[cfg(feature = "jwt")]
use crate::{jwt::user_issuers::UserIssuers, spiffe::JwtAuthority};

/// What a request carries. Nothing of it is believed yet, but the peer of the connection, whom the handshake verified.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// Who is at the other end of the connection, if it proved itself.
    pub connection: Option<&'a VerifiedPeer>,
    /// The user of the program's own session, if it has found the request to be of one.
    pub session: Option<&'a SessionUser>,
    /// The headers, or [`NoHeaders`].
    pub headers: &'a dyn HeaderView,
    /// Where the connection comes from: for the limit that stands before signature checks. All without one share one.
    pub address: Option<IpAddr>,
    /// The time.
    pub at: Timestamp,
}

/// What turns requests into callers, for one service. Cheap to clone; clones are the same. CPU alone, never waits.
#[derive(Clone)]
pub struct Authenticators(Arc<Shared>);

struct Shared {
    trust_domain: TrustDomain,
    identity: Identity,
    audiences: Vec<String>,
    x509: bool,
    #[cfg(feature = "jwt")]
    jwt_svids: bool,
    #[cfg(feature = "jwt")]
    token_issuer: Option<String>,
    takes_keys: bool,
    #[cfg(feature = "jwt")]
    takes_users: bool,
    #[cfg(feature = "jwt")]
    finder: ArcSwapOption<Arc<dyn FindUserKey>>,
    takes_sessions: bool,
    api_key_header: Option<String>,
    via: Vec<SpiffeId>,
    keys: ArcSwap<Keys>,
    replacing: Mutex<()>,
    #[cfg(feature = "jwt")]
    tokens: verified_tokens::VerifiedTokens,
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "only tokens have IDs"))]
    single_use: Option<SingleUse>,
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "it stands before signature checks"))]
    addresses: AddressLimit,
}

/// The keys that are known beside the trust bundles; swapped whole.
struct Keys {
    /// Another for each change.
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "it names what the cache of tokens holds"))]
    version: u64,
    records: KeyRecords,
    #[cfg(feature = "jwt")]
    of_token_service: Vec<JwtAuthority>,
    #[cfg(feature = "jwt")]
    user_issuers: UserIssuers,
}

/// A credential that is good, and what is to be done once the request has a caller.
struct Accepted {
    caller: Caller,
    used: Option<Arc<Use>>,
    /// Until when a token could be shown again; none for what is no token. A proxy's own end does not shorten it.
    #[cfg(feature = "jwt")]
    token_until: Option<Timestamp>,
}

impl Authenticators {
    /// Authenticators for a service of this trust domain, which verifies with the bundles of this identity.
    pub fn builder(trust_domain: TrustDomain, identity: Identity) -> Builder {
        Builder::new(trust_domain, identity)
    }

    /// Who calls; none when the request carries no credential.
    ///
    /// Where only X.509-SVIDs are taken, the header `authorization` belongs to the service and is not looked at. Else it is
    /// a credential of the caller, and what is not understood in it is refused.
    ///
    /// # Errors
    /// When any credential in the request is bad, when they contradict each other, or when there is no way to tell.
    pub fn authenticate(&self, presented: &Presented<'_>) -> Result<Option<Caller>, AuthenticateError> {
        let Some(accepted) = self.accept(presented)? else { return Ok(None) };
        #[cfg(feature = "jwt")]
        if let (Some(single_use), Some(until)) = (&self.0.single_use, accepted.token_until) {
            single_use.take(&accepted.caller, until, presented.at)?;
        }
        if let Some(used) = &accepted.used {
            used.record(presented.at);
        }
        Ok(Some(accepted.caller))
    }

    /// The same without a trace of it: no token is used up, and no use of a key counted.
    fn accept(&self, presented: &Presented<'_>) -> Result<Option<Accepted>, AuthenticateError> {
        let connection = self.of_connection(presented)?;
        let [bearer, key] = [self.of_authorization(presented)?, self.of_api_key_header(presented)?];
        let session = self.of_session(presented)?;
        let (user, bearer) = match bearer {
            Some(accepted) if accepted.caller.user().is_some() => (Some(accepted), None),
            bearer => (None, bearer),
        };
        let user = match (user, session) {
            (Some(_), Some(_)) => return Err(AuthenticateError::UsersDisagree),
            (user, session) => user.or(session),
        };
        let bearers = [bearer, key];
        if let Some(user) = user {
            return self.with_user(connection, bearers, user).map(Some);
        }
        if let Some(connection) = &connection
            && let Some(proxy) = self.proxy(&connection.caller)
        {
            return passed_on(&connection.caller, proxy, bearers).map(Some);
        }
        let [one, other] = bearers;
        stronger(connection, stronger(one, other)?)
    }

    /// The own trust domain, of which all owners of keys are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// Whether any key in use is an API key.
    #[cfg_attr(not(feature = "tower"), allow(dead_code, reason = "the layer's refusals say it"))]
    pub(crate) fn takes_api_keys(&self) -> bool {
        self.0.takes_keys && self.0.keys.load().records.any_api_key()
    }

    /// The key records in use.
    #[must_use]
    pub fn key_records(&self) -> KeyRecords {
        self.0.keys.load().records.clone()
    }

    /// How often each key was used, and when last: who still uses an old one.
    #[must_use]
    pub fn key_uses(&self) -> Vec<KeyUse> {
        self.0.keys.load().records.uses().collect()
    }

    /// Takes other key records from now on. What was verified under the earlier ones is verified again.
    ///
    /// # Errors
    /// When they cannot be told apart from the other keys, or are of another trust domain; the earlier ones stay.
    pub fn replace_key_records(&self, records: KeyRecords) -> Result<(), AuthenticatorsError> {
        let _one_at_a_time = self.0.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.0.keys.load_full();
        builder::check_keys(&self.0.rules(), &records, &keys)?;
        self.0.keys.store(Arc::new(Keys {
            version: keys.version.wrapping_add(1),
            records: records.with_uses_of(&keys.records),
            #[cfg(feature = "jwt")]
            of_token_service: keys.of_token_service.clone(),
            #[cfg(feature = "jwt")]
            user_issuers: keys.user_issuers.clone(),
        }));
        Ok(())
    }

    /// Takes other keys of the own token service from now on.
    ///
    /// # Errors
    /// When they cannot be told apart from the other keys; the earlier ones stay.
    #[cfg(feature = "jwt")]
    pub fn replace_access_token_keys(&self, of_token_service: Vec<JwtAuthority>) -> Result<(), AuthenticatorsError> {
        let _one_at_a_time = self.0.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = self.0.keys.load_full();
        let keys = Keys {
            version: earlier.version.wrapping_add(1),
            records: earlier.records.clone(),
            of_token_service,
            user_issuers: earlier.user_issuers.clone(),
        };
        builder::check_keys(&self.0.rules(), &keys.records, &keys)?;
        self.0.keys.store(Arc::new(keys));
        Ok(())
    }

    /// The trusted proxy that this is, if it is one.
    fn proxy(&self, caller: &Caller) -> Option<&SpiffeId> {
        let id = caller.service()?;
        self.0.via.iter().find(|proxy| *proxy == id)
    }

    fn of_connection(&self, presented: &Presented<'_>) -> Result<Option<Accepted>, AuthenticateError> {
        let Some(peer) = presented.connection.filter(|_| self.0.x509) else { return Ok(None) };
        if !peer.is_valid_at(presented.at) {
            return Err(AuthenticateError::CertificateExpired {
                id: peer.id().clone(),
                not_before: peer.not_before(),
                not_after: peer.not_after(),
                now: presented.at,
            });
        }
        let caller = peer.caller(|peer| {
            let proof = Proof { kind: ProofKind::X509Svid, key_id: peer.serial().to_hex() };
            Caller::new(peer.id().clone(), proof, peer.not_after())
        });
        Ok(Some(Accepted::without_record(caller.clone())))
    }

    fn of_authorization(&self, presented: &Presented<'_>) -> Result<Option<Accepted>, AuthenticateError> {
        if !self.0.takes_bearers() {
            return Ok(None);
        }
        let Some(value) = once(presented, AUTHORIZATION)? else { return Ok(None) };
        match Authorization::parse(value)? {
            Authorization::ApiKey(key) if self.0.takes_keys => self.of_api_key(key, presented.at).map(Some),
            Authorization::ApiKey(_) => Err(AuthenticateError::KindNotTaken { kind: "API keys" }),
            #[cfg(feature = "jwt")]
            Authorization::Bearer(token) => self.of_bearer(token, presented).map(Some),
            #[cfg(not(feature = "jwt"))]
            Authorization::Bearer(_) => Err(AuthenticateError::KindNotTaken { kind: "tokens" }),
        }
    }

    fn of_api_key_header(&self, presented: &Presented<'_>) -> Result<Option<Accepted>, AuthenticateError> {
        let Some(name) = self.0.api_key_header.as_deref() else { return Ok(None) };
        let Some(value) = once(presented, name)? else { return Ok(None) };
        self.of_api_key(text(value, name)?, presented.at).map(Some)
    }

    fn of_api_key(&self, key: &str, now: Timestamp) -> Result<Accepted, AuthenticateError> {
        let (key_id, secret) = api_key::split(key)?;
        let keys = self.0.keys.load();
        let entry = match keys.records.named(key_id) {
            Some(Named::ApiKey(entry)) => entry,
            Some(Named::Shared(_)) | None => {
                return Err(ApiKeyError::Unknown { key_id: key_id.chars().take(64).collect() }.into());
            }
        };
        let key_id = || key_id.to_owned();
        if !entry.keyed.secret.is_of(secret) {
            return Err(ApiKeyError::WrongSecret { key_id: key_id() }.into());
        }
        let record = entry.record;
        if record.has_expired(now) {
            return Err(ApiKeyError::Expired { key_id: key_id(), expires_at: record.expires_at, now }.into());
        }
        if !self.0.is_own_audience(&record.audience) {
            return Err(ApiKeyError::Audience { key_id: key_id() }.into());
        }
        let proof = Proof { kind: ProofKind::ApiKey, key_id: Arc::clone(&entry.keyed.key_id) };
        let caller = Caller::new(record.owner.clone(), proof, record.expires_at).with_roles(record.roles.clone(), None);
        Ok(Accepted { used: Some(Arc::clone(entry.used)), ..Accepted::without_record(caller) })
    }
}

impl Shared {
    fn is_own_audience(&self, audience: &str) -> bool {
        self.audiences.iter().any(|own| own == audience)
    }

    #[cfg(feature = "jwt")]
    fn takes_bearers(&self) -> bool {
        self.takes_keys || self.jwt_svids || self.token_issuer.is_some() || self.takes_users
    }

    #[cfg(not(feature = "jwt"))]
    fn takes_bearers(&self) -> bool {
        self.takes_keys
    }

    fn rules(&self) -> builder::KeyRules<'_> {
        builder::KeyRules {
            trust_domain: &self.trust_domain,
            identity: &self.identity,
            #[cfg(feature = "jwt")]
            jwt_svids: self.jwt_svids,
        }
    }
}

impl Accepted {
    fn without_record(caller: Caller) -> Self {
        Self {
            caller,
            used: None,
            #[cfg(feature = "jwt")]
            token_until: None,
        }
    }
}

fn once<'p>(presented: &Presented<'p>, name: &str) -> Result<Option<&'p [u8]>, AuthenticateError> {
    match presented.headers.find(name) {
        Found::Absent => Ok(None),
        Found::Once(value) => Ok(Some(value)),
        Found::Several => Err(AuthenticateError::DuplicateHeader { name: name.to_owned() }),
    }
}

/// The caller of a request that a trusted proxy passed on: that of its one bearer credential.
fn passed_on(proxy: &Caller, id: &SpiffeId, bearers: [Option<Accepted>; 2]) -> Result<Accepted, AuthenticateError> {
    let wrong = |count| AuthenticateError::ViaCredentials { proxy: id.clone(), count };
    match bearers {
        [Some(accepted), None] | [None, Some(accepted)] => {
            let caller = accepted.caller.clone().until(proxy.valid_until()).with_via(id.clone());
            Ok(Accepted { caller, ..accepted })
        }
        [None, None] => Err(wrong(0)),
        [Some(_), Some(_)] => Err(wrong(2)),
    }
}

/// Of two credentials of one caller the stronger, and nothing of the other.
fn stronger(one: Option<Accepted>, other: Option<Accepted>) -> Result<Option<Accepted>, AuthenticateError> {
    let (one, other) = match (one, other) {
        (Some(one), Some(other)) => (one, other),
        (one, other) => return Ok(one.or(other)),
    };
    if one.caller.id() != other.caller.id() {
        return Err(AuthenticateError::CallersDisagree {
            one: one.caller.id().clone(),
            other: other.caller.id().clone(),
        });
    }
    let strength = |accepted: &Accepted| accepted.caller.proof().kind.strength();
    match strength(&one).cmp(&strength(&other)) {
        std::cmp::Ordering::Greater => Ok(Some(one)),
        std::cmp::Ordering::Less => Ok(Some(other)),
        std::cmp::Ordering::Equal => Err(AuthenticateError::CredentialsAlike { id: one.caller.id().clone() }),
    }
}

impl fmt::Debug for Authenticators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticators")
            .field("trust_domain", &self.0.trust_domain)
            .field("audiences", &self.0.audiences)
            .field("x509", &self.0.x509)
            .field("key_records", &self.0.keys.load().records)
            .field("via", &self.0.via)
            .finish_non_exhaustive()
    }
}
