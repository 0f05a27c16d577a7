//! The keys that sign: the root, which is in the bundle; below it this process's issuing authority; the JWT authority;
//! the token authority.
//!
//! [`certificate`] makes their certificates, [`keystore`] keeps their keys in files beside the database, [`rotation`] says
//! what is due and does it, [`signing`] is what issuance holds. Rows of authorities stay for good: the heads of the audit log
//! are verified against them.

mod certificate;
pub(crate) mod keystore;
pub(crate) mod rotation;
mod signing;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    spiffe::{JwtAuthority as BundleKey, TrustBundle, TrustDomain},
};
use tokio::sync::watch;

use self::keystore::{KeyFileError, KeyStore};
pub(crate) use self::{
    certificate::{CertificateError, NewAuthority, new_issuing, new_jwt, new_root, new_token},
    signing::{AuthorityKey, Issuing, JwtAuthority, Root, Signing, SigningError},
};
use crate::{
    audit::{HeadSigner, sha256},
    registry::Registry,
    store::{Store, StoreError},
};

/// What an authority signs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum AuthorityKind {
    /// Issuing authorities; in the bundle.
    Root,
    /// X.509-SVIDs.
    Issuing,
    /// JWT-SVIDs; in the bundle.
    Jwt,
    /// Transaction tokens, access tokens, and what agents may sign. Never in the bundle: what it signs proves no SVID.
    Token,
}

impl AuthorityKind {
    /// As in the database and in listings.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuing => "issuing",
            Self::Jwt => "jwt",
            Self::Token => "token",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Root, Self::Issuing, Self::Jwt, Self::Token].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A key that signs, or did: its row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Authority {
    /// Root and issuing: hex of the subject key identifier; JWT and token: the `kid`.
    pub(crate) id: Arc<str>,
    pub(crate) kind: AuthorityKind,
    /// DER; none for JWT and token.
    pub(crate) certificate: Option<Arc<[u8]>>,
    /// SubjectPublicKeyInfo DER.
    pub(crate) public_key: Arc<[u8]>,
    pub(crate) not_before: Timestamp,
    /// No document that it signed is valid after this.
    pub(crate) not_after: Timestamp,
    pub(crate) published_at: Timestamp,
    /// Planned first use.
    pub(crate) active_from: Timestamp,
    pub(crate) activated_at: Option<Timestamp>,
    pub(crate) retired_at: Option<Timestamp>,
    /// Planned: the last document it signed has expired.
    pub(crate) withdraw_at: Option<Timestamp>,
    pub(crate) withdrawn_at: Option<Timestamp>,
}

/// Where an authority is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AuthorityState {
    /// Known to those who verify, not used yet.
    Prepared,
    /// Signs.
    Active,
    /// Signs no more; what it signed may still be valid.
    Retired,
    /// Nothing it signed is valid any more.
    Withdrawn,
}

impl AuthorityState {
    /// As in listings.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl Authority {
    /// Where it is in its life.
    pub(crate) fn state(&self) -> AuthorityState {
        match (self.activated_at, self.retired_at, self.withdrawn_at) {
            (_, _, Some(_)) => AuthorityState::Withdrawn,
            (_, Some(_), None) => AuthorityState::Retired,
            (Some(_), None, None) => AuthorityState::Active,
            (None, None, None) => AuthorityState::Prepared,
        }
    }

    /// Its planned time of use.
    pub(crate) fn life(&self) -> Duration {
        self.not_after.since(self.active_from)
    }
}

/// How long authorities live. Checked by the settings; the shortest is two minutes, so that a rotation can be watched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Lifetimes {
    pub(crate) root: Duration,
    pub(crate) issuing: Duration,
    /// Of JWT and token authorities.
    pub(crate) jwt: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self { root: 3650 * DAY, issuing: 7 * DAY, jwt: 7 * DAY }
    }
}

/// Why there are no authorities to sign with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AuthorityError {
    /// A key file is not as it must be.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The database did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row that must be there is not, or is not what we wrote.
    #[error("the database has no usable {kind} authority: {problem}; restore a backup")]
    Missing { kind: &'static str, problem: String },
    /// The root is over, or not begun.
    #[error("the root is valid from {not_before} to {not_after}, and it is {now}; check the clock")]
    RootNotValid { not_before: Timestamp, not_after: Timestamp, now: Timestamp },
    /// The row of the trust domain names another root.
    #[error("the root in the database has the hash {found}, expected {expected}; restore a backup")]
    OtherRoot { found: String, expected: String },
}

/// The authorities of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Authorities {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    trust_domain: TrustDomain,
    store: Store,
    registry: Registry,
    keystore: KeyStore,
    lifetimes: Lifetimes,
    clock: Arc<dyn Clock>,
    root: Arc<Root>,
    state: ArcSwap<State>,
    /// Of those that sign or will sign.
    keys: Mutex<HashMap<Arc<str>, AuthorityKey>>,
    changes: watch::Sender<u64>,
    /// Why the last change of authorities failed.
    failure: ArcSwapOption<String>,
    /// One rotation at a time: the driver and an operator's word.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    rows: Vec<Authority>,
    signing: Arc<Signing>,
    /// SHA-256 of the public keys of all authorities there ever were.
    keys: HashSet<[u8; 32]>,
}

impl Authorities {
    /// Loads the keys of the authorities in `rows`. Which of them are due to change is [`Self::rotate_due`]'s part.
    ///
    /// # Errors
    /// [`AuthorityError`] names the file or the row.
    pub(crate) fn load(
        store: Store,
        registry: Registry,
        keystore: KeyStore,
        rows: Vec<Authority>,
        root_hash: [u8; 32],
        lifetimes: Lifetimes,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        let trust_domain = registry.trust_domain().clone();
        let root_row = live(&rows, AuthorityKind::Root)?;
        let root = Arc::new(Root::new(root_row, keystore.load(root_row)?)?);
        if root.hash() != &root_hash {
            let hex = |hash: &[u8]| data_encoding::HEXLOWER.encode(hash);
            return Err(AuthorityError::OtherRoot { found: hex(root.hash()), expected: hex(&root_hash) });
        }
        let now = clock.now();
        if now >= root_row.not_after || now < root_row.not_before {
            let (not_before, not_after) = (root_row.not_before, root_row.not_after);
            return Err(AuthorityError::RootNotValid { not_before, not_after, now });
        }
        let mut keys = HashMap::new();
        for row in rows.iter().filter(|row| row.kind != AuthorityKind::Root) {
            if matches!(row.state(), AuthorityState::Prepared | AuthorityState::Active) {
                keys.insert(row.id.clone(), keystore.load(row)?);
            }
        }
        let signing = Arc::new(signing(&rows, &keys, &root)?);
        store.sign_heads_with(signing.issuing.head_signer());
        let (changes, _) = watch::channel(1);
        let state = ArcSwap::from_pointee(State::new(rows, signing));
        Ok(Self {
            inner: Arc::new(Inner {
                trust_domain,
                store,
                registry,
                keystore,
                lifetimes,
                clock,
                root,
                state,
                keys: Mutex::new(keys),
                changes,
                failure: ArcSwapOption::empty(),
                turn: tokio::sync::Mutex::new(()),
            }),
        })
    }

    /// What signs now.
    pub(crate) fn current(&self) -> Arc<Signing> {
        self.inner.state.load().signing.clone()
    }

    /// The trust domain's bundle: its roots and its JWT authorities.
    #[cfg(test)]
    pub(crate) fn bundle(&self) -> Arc<TrustBundle> {
        self.inner.registry.load().bundle().clone()
    }

    /// All authorities there ever were, the oldest first.
    pub(crate) fn list(&self) -> Vec<Authority> {
        self.inner.state.load().rows.clone()
    }

    /// The keys by which what the token service signs is verified: of the next, the current and the retired token authorities, until the
    /// last token of each has ended.
    pub(crate) fn token_keys(&self) -> Vec<BundleKey> {
        let state = self.inner.state.load();
        let live = |row: &&Authority| row.kind == AuthorityKind::Token && row.state() != AuthorityState::Withdrawn;
        // INVARIANT: keys in rows are ours, and were read before.
        state.rows.iter().filter(live).filter_map(|row| BundleKey::new(&row.id, &row.public_key).ok()).collect()
    }

    /// Tells when [`Self::current`], [`Self::bundle`] or [`Self::list`] changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Whether a public key, given by SHA-256 of its SubjectPublicKeyInfo, is or was one of an authority.
    pub(crate) fn is_authority_key(&self, key: &[u8; 32]) -> bool {
        self.inner.state.load().keys.contains(key)
    }

    /// Why authorities could not be changed when that was tried last.
    pub(crate) fn failure(&self) -> Option<Arc<String>> {
        self.inner.failure.load_full()
    }

    /// The root.
    #[cfg(test)]
    pub(crate) fn root(&self) -> &Arc<Root> {
        &self.inner.root
    }

    /// Deletes key files that no authority needs: of the retired, and what a killed rotation left.
    pub(crate) fn sweep_keys(&self) {
        let keep: HashSet<Arc<str>> = self
            .inner
            .state
            .load()
            .rows
            .iter()
            .filter(|row| match row.kind {
                AuthorityKind::Root => row.state() != AuthorityState::Withdrawn,
                AuthorityKind::Issuing | AuthorityKind::Jwt | AuthorityKind::Token => {
                    matches!(row.state(), AuthorityState::Prepared | AuthorityState::Active)
                }
            })
            .map(|row| row.id.clone())
            .collect();
        self.inner.keystore.sweep(&keep);
        self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| keep.contains(id));
    }
}

impl State {
    fn new(rows: Vec<Authority>, signing: Arc<Signing>) -> Self {
        let keys = rows.iter().map(|row| sha256(&row.public_key)).collect();
        Self { rows, signing, keys }
    }
}

/// The bundle that these authorities make.
///
/// # Errors
/// A row that holds no such key.
pub(crate) fn bundle(
    trust_domain: &TrustDomain,
    rows: &[Authority],
    sequence: u64,
) -> Result<TrustBundle, AuthorityError> {
    let in_bundle = |kind: AuthorityKind| {
        rows.iter().filter(move |row| row.kind == kind && row.state() != AuthorityState::Withdrawn)
    };
    let problem = |kind: AuthorityKind, problem: String| AuthorityError::Missing { kind: kind.as_str(), problem };
    let roots: Vec<&[u8]> = in_bundle(AuthorityKind::Root).filter_map(|row| row.certificate.as_deref()).collect();
    let jwt = in_bundle(AuthorityKind::Jwt)
        .map(|row| BundleKey::new(&row.id, &row.public_key))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| problem(AuthorityKind::Jwt, error.to_string()))?;
    TrustBundle::new(trust_domain.clone(), roots, jwt, Some(sequence), Some(REFRESH_HINT))
        .map_err(|error| problem(AuthorityKind::Root, error.to_string()))
}

/// The authority of that kind which signs, else the one that will: the newest.
fn live(rows: &[Authority], kind: AuthorityKind) -> Result<&Authority, AuthorityError> {
    let newest = |state: AuthorityState| {
        rows.iter()
            .filter(|row| row.kind == kind && row.state() == state)
            .max_by_key(|row| (row.activated_at, row.published_at))
    };
    newest(AuthorityState::Active)
        .ok_or_else(|| AuthorityError::Missing { kind: kind.as_str(), problem: "none is active".to_owned() })
}

fn signing(
    rows: &[Authority],
    keys: &HashMap<Arc<str>, AuthorityKey>,
    root: &Arc<Root>,
) -> Result<Signing, AuthorityError> {
    let key_of = |row: &Authority| {
        keys.get(&row.id).cloned().ok_or_else(|| AuthorityError::Missing {
            kind: row.kind.as_str(),
            problem: format!("the key of `{}` is not loaded", row.id),
        })
    };
    let (issuing, jwt) = (live(rows, AuthorityKind::Issuing)?, live(rows, AuthorityKind::Jwt)?);
    let token = live(rows, AuthorityKind::Token)?;
    Ok(Signing {
        issuing: Arc::new(Issuing::new(issuing, key_of(issuing)?, root)?),
        jwt: Arc::new(JwtAuthority::new(jwt, key_of(jwt)?)),
        token: Arc::new(JwtAuthority::new(token, key_of(token)?)),
        root: root.clone(),
    })
}

/// How often those who poll should look: nobody must, nodes are told.
const REFRESH_HINT: Duration = Duration::from_secs(300);

impl From<&Issuing> for HeadSigner {
    fn from(issuing: &Issuing) -> Self {
        issuing.head_signer()
    }
}
