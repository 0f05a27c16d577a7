//! Issuers of users: added and removed by an administrator, their keys replaced by what was fetched.

use std::{convert::Infallible, sync::Arc};

use bonafide_verifier::{
    jwt::user_issuers::{IssuerKeys, IssuerKeysError, UserIssuer, UserIssuerError, UserIssuerSettings, UserIssuers},
    user::IssuerName,
};
use data_encoding::HEXLOWER;
use serde::Serialize;

use super::{Change, HeldKeys, Issuer, KeySource, Registry, What};
use crate::{
    audit::{Kind, Record, Who, sha256},
    store::{Abort, Tx, TxError, WriteError},
};

/// The longest PEM text of roots that is kept.
pub(crate) const MAX_ROOTS: usize = 64 * 1024;

/// The largest key set that is kept, as it is written here: those of all issuers fit into one message to a node.
const MAX_KEY_SET: usize = 32 * 1024;

/// What an administrator asks for.
#[derive(Clone, Debug)]
pub(crate) struct NewIssuer {
    pub(crate) settings: UserIssuerSettings,
    /// PEM; none: the roots of the system.
    pub(crate) roots: Option<String>,
    /// A key set of its own; then nothing is fetched.
    pub(crate) jwks: Option<Vec<u8>>,
}

/// Why an issuer was not added, removed or given keys.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum IssuerError {
    /// No such issuer.
    #[error("there is no issuer `{name}`; `bonafide-ca issuer list` shows all")]
    Unknown { name: String },
    /// The name is taken.
    #[error("the issuer `{name}` is registered already; to change it, remove it and add it again")]
    Exists { name: IssuerName },
    /// Two names for one issuer.
    #[error("the issuer `{other}` has the URL `{url}`; a user has one name")]
    UrlTaken { other: IssuerName, url: String },
    /// Settings that an issuer cannot have.
    #[error(transparent)]
    Settings(#[from] UserIssuerError),
    /// The file with keys.
    #[error("the key set of `--jwks-file`: {0}")]
    Jwks(IssuerKeysError),
    /// Keys, and none of the algorithms given.
    #[error("no key for the algorithms {algorithms} of the issuer `{name}` is in its key set; see `--algorithm`")]
    NoUsableKey { name: IssuerName, algorithms: String },
    /// The file with roots.
    #[error("`--ca-file`: {problem}")]
    Roots { problem: String },
    /// More keys than nodes are told.
    #[error("the key set of the issuer `{name}` has {bytes} bytes without what is not used, at most {limit} are kept")]
    KeySet { name: IssuerName, bytes: usize, limit: usize },
    /// No more issuers.
    #[error("there are {limit} issuers, which is the limit; remove some with `bonafide-ca issuer remove NAME`")]
    TooMany { limit: usize },
}

impl NewIssuer {
    /// Checks all that can be checked without asking the issuer.
    fn checked(self, at: bonafide_verifier::clock::Timestamp) -> Result<Issuer, IssuerError> {
        let roots = self.roots.map(Arc::<str>::from);
        if let Some(pem) = &roots {
            if pem.len() > MAX_ROOTS {
                return Err(IssuerError::Roots {
                    problem: format!("{} bytes, at most {MAX_ROOTS} are kept", pem.len()),
                });
            }
            crate::user_issuers::roots_of_pem(pem).map_err(|problem| IssuerError::Roots { problem })?;
        }
        let keys = self.jwks.map(|jwks| IssuerKeys::parse_jwks(&jwks)).transpose().map_err(IssuerError::Jwks)?;
        let source = if keys.is_some() { KeySource::File } else { KeySource::Fetched };
        let usable = UserIssuer::new(self.settings.clone(), keys.as_ref().unwrap_or(&IssuerKeys::default()))?;
        if let Some(keys) = &keys {
            check_size(&self.settings.name, keys)?;
        }
        if source == KeySource::File && usable.key_count() == 0 {
            return Err(no_usable_key(&self.settings));
        }
        Ok(Issuer {
            settings: self.settings,
            roots,
            source,
            keys: keys.map(|keys| HeldKeys { keys, at }),
            created_at: at,
            updated_at: at,
        })
    }
}

fn check_size(name: &IssuerName, keys: &IssuerKeys) -> Result<(), IssuerError> {
    let bytes = keys.to_jwks().len();
    if bytes > MAX_KEY_SET {
        return Err(IssuerError::KeySet { name: name.clone(), bytes, limit: MAX_KEY_SET });
    }
    Ok(())
}

/// None of the keys fits what the issuer may sign with.
pub(crate) fn no_usable_key(settings: &UserIssuerSettings) -> IssuerError {
    let algorithms = settings.algorithms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    IssuerError::NoUsableKey { name: settings.name.clone(), algorithms }
}

impl Registry {
    /// Registers an issuer. Its keys, unless they are given, are fetched next.
    pub(crate) async fn add_issuer(&self, new: NewIssuer, who: Who) -> Result<Arc<Issuer>, WriteError<IssuerError>> {
        let mut issuer = new.checked(self.inner.clock.now()).map_err(WriteError::Refused)?;
        let registry = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let issuers = tx.issuers()?;
                if issuers.iter().any(|other| other.name() == issuer.name()) {
                    return Err(Abort::Refused(IssuerError::Exists { name: issuer.name().clone() }));
                }
                if let Some(other) = issuers.iter().find(|other| other.settings.url == issuer.settings.url) {
                    let (other, url) = (other.name().clone(), issuer.settings.url.clone());
                    return Err(Abort::Refused(IssuerError::UrlTaken { other, url }));
                }
                if issuers.len() >= UserIssuers::MOST {
                    return Err(Abort::Refused(IssuerError::TooMany { limit: UserIssuers::MOST }));
                }
                (issuer.created_at, issuer.updated_at) = (tx.at(), tx.at());
                tx.insert_issuer(&issuer)?;
                tx.record(&Record::change(Kind::IssuerAdded, &who, Body::of(&issuer)))?;
                Ok(registry.publish_issuer(tx, issuer)?)
            })
            .await
    }

    /// Removes an issuer: its users are nobody's from now on.
    pub(crate) async fn remove_issuer(&self, name: &str, who: Who) -> Result<Arc<Issuer>, WriteError<IssuerError>> {
        let (registry, name) = (self.clone(), name.to_owned());
        self.inner
            .store
            .write(move |tx| {
                let Some(issuer) = tx.issuer(&name)? else { return Err(unknown(&name)) };
                tx.delete_issuer(&name)?;
                tx.record(&Record::change(Kind::IssuerRemoved, &who, Body::of(&issuer)))?;
                let issuer = Arc::new(issuer);
                let what = What::Issuer { name: issuer.name().clone(), after: None };
                registry.publish_with(tx, Change { version: None, what });
                registry.tell_nodes(tx)?;
                Ok(issuer)
            })
            .await
    }

    /// Takes the keys that an issuer has now. Other keys than before are recorded; the same ones are young again.
    pub(crate) async fn set_issuer_keys(
        &self,
        name: &IssuerName,
        keys: IssuerKeys,
        who: Who,
    ) -> Result<Arc<Issuer>, WriteError<IssuerError>> {
        check_size(name, &keys).map_err(WriteError::Refused)?;
        let (registry, name) = (self.clone(), name.clone());
        self.inner
            .store
            .write(move |tx| {
                // Removed while its keys were under way.
                let Some(mut issuer) = tx.issuer(name.as_str())? else { return Err(unknown(name.as_str())) };
                let changed = issuer.keys.as_ref().is_none_or(|held| held.keys.to_jwks() != keys.to_jwks());
                issuer.keys = Some(HeldKeys { keys, at: tx.at() });
                issuer.updated_at = tx.at();
                tx.set_issuer_keys(&issuer)?;
                if changed {
                    tx.record(&Record::change(Kind::IssuerKeysChanged, &who, Body::of(&issuer)))?;
                }
                Ok(registry.publish_issuer(tx, issuer)?)
            })
            .await
    }

    /// Has nodes forget keys that have become too old since.
    pub(crate) async fn withdraw_old_keys(&self) -> Result<(), WriteError<Infallible>> {
        let registry = self.clone();
        self.inner.store.write(move |tx| Ok(registry.tell_nodes(tx)?)).await
    }

    fn publish_issuer(&self, tx: &mut Tx<'_>, issuer: Issuer) -> Result<Arc<Issuer>, TxError> {
        let issuer = Arc::new(issuer);
        let what = What::Issuer { name: issuer.name().clone(), after: Some(issuer.clone()) };
        self.publish_with(tx, Change { version: None, what });
        self.tell_nodes(tx)?;
        Ok(issuer)
    }

    /// Has nodes told of the issuers as this transaction leaves them. The same keys at another time are no news to them.
    fn tell_nodes(&self, tx: &mut Tx<'_>) -> Result<(), TxError> {
        let now = tx.at();
        let issuers = tx.issuers()?.iter().map(|issuer| issuer.to_wire(now)).collect();
        self.publish_user_issuers(tx, issuers)
    }
}

fn unknown(name: &str) -> Abort<IssuerError> {
    Abort::Refused(IssuerError::Unknown { name: name.chars().take(64).collect::<String>().escape_debug().to_string() })
}

/// What the records of an issuer say.
#[derive(Serialize)]
struct Body<'a> {
    issuer: &'a str,
    url: &'a str,
    audiences: &'a [String],
    algorithms: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles_claim: Option<&'a str>,
    /// SHA-256 of the PEM text of its roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    roots: Option<String>,
    keys: Vec<&'a str>,
    /// SHA-256 of the key set.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks: Option<String>,
}

impl<'a> Body<'a> {
    fn of(issuer: &'a Issuer) -> Self {
        let hash = |text: &str| HEXLOWER.encode(&sha256(text.as_bytes()));
        let settings = &issuer.settings;
        Self {
            issuer: settings.name.as_str(),
            url: &settings.url,
            audiences: &settings.audiences,
            algorithms: settings.algorithms.iter().map(|algorithm| algorithm.name()).collect(),
            roles_claim: settings.roles_claim.as_deref(),
            roots: issuer.roots.as_deref().map(hash),
            keys: issuer.keys.iter().flat_map(|held| held.keys.key_ids()).collect(),
            jwks: issuer.keys.as_ref().map(|held| hash(&held.keys.to_jwks())),
        }
    }
}
