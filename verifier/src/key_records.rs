//! Records of the keys that callers and a service share: whose each is, what it is good for, and until when.
//!
//! A record maps a key to one SPIFFE ID. What an HS256 token or an API key claims counts for nothing beyond it: the caller is the
//! record's owner, its roles are at most the record's. The kinds of credentials are told apart by these records, never by trying.
//!
//! Records come from a file ([`KeyRecords::parse`], `bonafide-ca key` writes it), are checked as a whole and then never change;
//! [`crate::authenticate::Authenticators::replace_key_records`] swaps them.

#[cfg(all(feature = "policy-file", feature = "jwt"))]
mod caller_key;
mod error;
#[cfg(feature = "policy-file")]
mod syntax;
#[cfg(feature = "tokio")]
mod watch;
#[cfg(feature = "policy-file")]
mod wrapping;
#[cfg(feature = "policy-file")]
mod write;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

#[cfg(all(feature = "policy-file", feature = "jwt"))]
pub use self::caller_key::{CallerKey, CallerKeyError, TokenKey};
pub use self::error::{KeyRecordFlaw, KeyRecordsError, Position};
#[cfg(all(feature = "tokio", feature = "policy-file"))]
pub use self::watch::KeyFileHealth;
#[cfg(feature = "tokio")]
pub use self::watch::{KeyFileError, read_key_file};
#[cfg(feature = "policy-file")]
pub use self::wrapping::{Wrapping, WrappingKey};
use crate::{
    api_key::{SecretHash, is_key_id},
    caller::Roles,
    clock::Timestamp,
    shared_secret::SharedSecret,
    spiffe::{SpiffeId, TrustDomain},
};

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
/// The most records in one file.
pub const MAX_RECORDS: usize = 10_000;
/// Secrets of a record that are good at once: the new one and the one it replaces.
pub const MAX_SECRETS: usize = 2;
/// The longest ID of a record, in bytes: the IDs of its secrets are longer by a dot and a number.
pub const MAX_RECORD_ID_BYTES: usize = 48;
/// The longest audience and the longest subject, in bytes.
pub const MAX_NAME_BYTES: usize = 2048;
/// The most that a token under a shared secret may have left to live. Records can only name less.
pub const MOST_LIFETIME: Duration = Duration::from_secs(600);

/// What a key is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyKind {
    /// A secret for HS256 tokens.
    SharedSecret,
    /// An API key.
    ApiKey,
}

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::SharedSecret, Self::ApiKey];

    /// The word for it in files and commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SharedSecret => "shared-secret",
            Self::ApiKey => "api-key",
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One record. [`KeyRecords::new`] judges it; until then nothing is checked.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// Its own name: `[A-Za-z0-9._-]`, at most [`MAX_RECORD_ID_BYTES`].
    pub id: Arc<str>,
    /// The caller that the key proves: of the own trust domain, and not under `/bonafide`.
    pub owner: SpiffeId,
    /// The service that the key is for: one of that service's own audiences.
    pub audience: Arc<str>,
    /// The `sub` of its tokens; the owner's ID unless the file says something else. Of no meaning for API keys.
    pub subject: Arc<str>,
    /// The roles that the caller has; those of a token count as far as they are among them.
    pub roles: Roles,
    /// The most that a token may have left to live, at most [`MOST_LIFETIME`]. Of no meaning for API keys.
    pub most_lifetime: Duration,
    /// When the key ends.
    pub expires_at: Timestamp,
    /// One or two, the newest last.
    pub secrets: Secrets,
}

/// The secrets of a record: all of one kind.
#[derive(Clone, Debug)]
pub enum Secrets {
    /// For HS256 tokens.
    Shared(Vec<Keyed<SharedSecret>>),
    /// Of API keys.
    ApiKey(Vec<Keyed<SecretHash>>),
}

/// A secret and the ID by which credentials name it.
#[derive(Clone, Debug)]
pub struct Keyed<S> {
    /// The `kid` of a token, the first part of an API key: the record's ID, a dot, and a number that grows.
    pub key_id: Arc<str>,
    /// What is to be kept, or SHA-256 of it.
    pub secret: S,
    /// When it was made.
    pub created_at: Timestamp,
}

impl KeyRecord {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match self.secrets {
            Secrets::Shared(_) => KeyKind::SharedSecret,
            Secrets::ApiKey(_) => KeyKind::ApiKey,
        }
    }

    /// The IDs of its secrets and when they were made, the newest last.
    pub fn keys(&self) -> impl Iterator<Item = (&Arc<str>, Timestamp)> {
        let (shared, api_keys) = match &self.secrets {
            Secrets::Shared(secrets) => (secrets.as_slice(), [].as_slice()),
            Secrets::ApiKey(secrets) => ([].as_slice(), secrets.as_slice()),
        };
        let shared = shared.iter().map(|keyed| (&keyed.key_id, keyed.created_at));
        shared.chain(api_keys.iter().map(|keyed| (&keyed.key_id, keyed.created_at)))
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_expired(&self, at: Timestamp) -> bool {
        self.expires_at <= at
    }
}

/// How often a key was used, and when last. Survives a change of the records.
#[derive(Debug, Default)]
pub(crate) struct Use {
    count: AtomicU64,
    /// Unix milliseconds; 0 while it was not.
    last: AtomicI64,
}

impl Use {
    pub(crate) fn record(&self, at: Timestamp) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.last.fetch_max(at.unix_millis(), Ordering::Relaxed);
    }
}

/// What is known of the use of one key since this process started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyUse {
    /// The record.
    pub record_id: Arc<str>,
    /// The key.
    pub key_id: Arc<str>,
    /// Its kind.
    pub kind: KeyKind,
    /// Whose it is.
    pub owner: SpiffeId,
    /// Whether a newer one has taken its place: revoke it once nobody uses it.
    pub replaced: bool,
    /// How many requests it was good for.
    pub count: u64,
    /// The last of them.
    pub last_used_at: Option<Timestamp>,
}

/// All records of a service, checked: no owner of another trust domain or under `/bonafide`, no ID twice. Cloning is cheap.
#[derive(Clone)]
pub struct KeyRecords(Arc<Checked>);

struct Checked {
    trust_domain: TrustDomain,
    records: Vec<KeyRecord>,
    by_key_id: HashMap<Arc<str>, Place>,
    /// Shared secrets alone. None where several records have the subject.
    by_subject: HashMap<Arc<str>, Option<usize>>,
    any_api_key: bool,
}

struct Place {
    record: usize,
    secret: usize,
    used: Arc<Use>,
}

/// One key of a record.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'r, S> {
    pub(crate) record: &'r KeyRecord,
    pub(crate) keyed: &'r Keyed<S>,
    pub(crate) used: &'r Arc<Use>,
}

/// What a `kid` names.
pub(crate) enum Named<'r> {
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "what is in it is looked at for tokens alone"))]
    Shared(Entry<'r, SharedSecret>),
    ApiKey(Entry<'r, SecretHash>),
}

impl KeyRecords {
    /// No record: no key is known.
    #[must_use]
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self(Arc::new(Checked {
            trust_domain,
            records: Vec::new(),
            by_key_id: HashMap::new(),
            by_subject: HashMap::new(),
            any_api_key: false,
        }))
    }

    /// Checks records and takes them.
    ///
    /// # Errors
    /// The first record that cannot be taken, and why.
    pub fn new(
        trust_domain: TrustDomain,
        records: impl IntoIterator<Item = KeyRecord>,
    ) -> Result<Self, (usize, KeyRecordFlaw)> {
        let mut checked = Checked {
            trust_domain,
            records: Vec::new(),
            by_key_id: HashMap::new(),
            by_subject: HashMap::new(),
            any_api_key: false,
        };
        let mut ids = std::collections::HashSet::new();
        for (index, record) in records.into_iter().enumerate() {
            if index == MAX_RECORDS {
                return Err((index, KeyRecordFlaw::TooMany));
            }
            check(&record, &checked.trust_domain).map_err(|flaw| (index, flaw))?;
            if !ids.insert(Arc::clone(&record.id)) {
                return Err((index, KeyRecordFlaw::IdTwice { id: record.id.to_string() }));
            }
            for (secret, (key_id, _)) in record.keys().enumerate() {
                let place = Place { record: index, secret, used: Arc::default() };
                if checked.by_key_id.insert(Arc::clone(key_id), place).is_some() {
                    return Err((index, KeyRecordFlaw::KeyIdTwice { key_id: key_id.to_string() }));
                }
            }
            checked.any_api_key |= record.kind() == KeyKind::ApiKey;
            if record.kind() == KeyKind::SharedSecret {
                let of_subject = checked.by_subject.entry(Arc::clone(&record.subject));
                of_subject.and_modify(|record| *record = None).or_insert(Some(index));
            }
            checked.records.push(record);
        }
        Ok(Self(Arc::new(checked)))
    }

    /// The trust domain of all owners.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The records, in the order of the file.
    #[must_use]
    pub fn records(&self) -> &[KeyRecord] {
        &self.0.records
    }

    /// How often each key was used in this process, and when last: who still uses an old one.
    pub fn uses(&self) -> impl Iterator<Item = KeyUse> {
        self.0.records.iter().flat_map(move |record| {
            let newest = record.keys().last().map(|(key_id, _)| Arc::clone(key_id));
            record.keys().filter_map(move |(key_id, _)| {
                let used = &self.0.by_key_id.get(key_id)?.used;
                let last = used.last.load(Ordering::Relaxed);
                Some(KeyUse {
                    record_id: Arc::clone(&record.id),
                    key_id: Arc::clone(key_id),
                    kind: record.kind(),
                    owner: record.owner.clone(),
                    replaced: Some(key_id) != newest.as_ref(),
                    count: used.count.load(Ordering::Relaxed),
                    last_used_at: (last != 0).then(|| Timestamp::from_unix_millis(last)),
                })
            })
        })
    }

    /// These records, with what was known of the use of keys that both have.
    #[must_use]
    pub(crate) fn with_uses_of(self, earlier: &Self) -> Self {
        let Checked { trust_domain, records, by_key_id, by_subject, any_api_key } = &*self.0;
        let carried = by_key_id.iter().map(|(key_id, place)| {
            let used = earlier.0.by_key_id.get(key_id).map_or(&place.used, |earlier| &earlier.used);
            let place = Place { record: place.record, secret: place.secret, used: Arc::clone(used) };
            (Arc::clone(key_id), place)
        });
        Self(Arc::new(Checked {
            trust_domain: trust_domain.clone(),
            records: records.clone(),
            by_key_id: carried.collect(),
            by_subject: by_subject.clone(),
            any_api_key: *any_api_key,
        }))
    }

    /// Whether any of the keys is an API key.
    #[cfg_attr(not(feature = "tower"), allow(dead_code, reason = "the layer's refusals say it"))]
    pub(crate) fn any_api_key(&self) -> bool {
        self.0.any_api_key
    }

    /// The key of this ID.
    pub(crate) fn named(&self, key_id: &str) -> Option<Named<'_>> {
        let place = self.0.by_key_id.get(key_id)?;
        let record = self.0.records.get(place.record)?;
        let used = &place.used;
        match &record.secrets {
            Secrets::Shared(secrets) => {
                secrets.get(place.secret).map(|keyed| Named::Shared(Entry { record, keyed, used }))
            }
            Secrets::ApiKey(secrets) => {
                secrets.get(place.secret).map(|keyed| Named::ApiKey(Entry { record, keyed, used }))
            }
        }
    }

    /// The shared secrets of the one record for this subject: for tokens without a `kid`. None when several records have it.
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "asked for tokens alone"))]
    pub(crate) fn of_subject(&self, subject: &str) -> impl Iterator<Item = Entry<'_, SharedSecret>> {
        let record = self.0.by_subject.get(subject).copied().flatten().and_then(|index| self.0.records.get(index));
        record.into_iter().flat_map(|record| record.keys()).filter_map(|(key_id, _)| match self.named(key_id) {
            Some(Named::Shared(entry)) => Some(entry),
            Some(Named::ApiKey(_)) | None => None,
        })
    }

    /// The IDs of all keys.
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "asked for tokens alone"))]
    pub(crate) fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.0.by_key_id.keys().map(|key_id| &**key_id)
    }
}

impl fmt::Debug for KeyRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecords")
            .field("trust_domain", &self.0.trust_domain)
            .field("records", &self.0.records.len())
            .finish_non_exhaustive()
    }
}

fn check(record: &KeyRecord, trust_domain: &TrustDomain) -> Result<(), KeyRecordFlaw> {
    if !is_key_id(&record.id) || record.id.len() > MAX_RECORD_ID_BYTES {
        return Err(KeyRecordFlaw::Id { id: record.id.chars().take(64).collect() });
    }
    if record.owner.trust_domain() != trust_domain {
        return Err(KeyRecordFlaw::OwnerOfOtherTrustDomain {
            owner: record.owner.clone(),
            trust_domain: trust_domain.clone(),
        });
    }
    if record.owner.path().is_empty() {
        return Err(KeyRecordFlaw::OwnerWithoutPath { owner: record.owner.clone() });
    }
    if record.owner.is_reserved() {
        return Err(KeyRecordFlaw::ReservedOwner { owner: record.owner.clone() });
    }
    for (member, text) in [("audience", &record.audience), ("subject", &record.subject)] {
        if text.is_empty() || text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
            return Err(KeyRecordFlaw::Name { member, bytes: text.len() });
        }
    }
    if record.roles.iter().count() > Roles::MOST {
        return Err(KeyRecordFlaw::TooManyRoles { count: record.roles.iter().count() });
    }
    if record.most_lifetime.is_zero() || record.most_lifetime > MOST_LIFETIME {
        return Err(KeyRecordFlaw::Lifetime { seconds: record.most_lifetime.as_secs() });
    }
    let count = record.keys().count();
    if count == 0 || count > MAX_SECRETS {
        return Err(KeyRecordFlaw::Secrets { count });
    }
    let prefix = |key_id: &str| {
        let number = key_id.strip_prefix(&*record.id).and_then(|rest| rest.strip_prefix('.'));
        number.is_some_and(|number| number.parse::<u32>().is_ok_and(|parsed| parsed.to_string() == number))
    };
    match record.keys().find(|(key_id, _)| !prefix(key_id)) {
        Some((key_id, _)) => Err(KeyRecordFlaw::KeyId { key_id: key_id.chars().take(64).collect() }),
        None => Ok(()),
    }
}
