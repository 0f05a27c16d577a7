//! Who calls what: decisions added up by caller, proof and route, in bounded memory.
//!
//! Served where the host program says, by `EdgesReport` for one; nothing listens by itself. It answers the question of each migration: who still uses an
//! API key?

use std::{
    array,
    collections::{HashMap, hash_map::Entry},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use foldhash::quality::RandomState;
use serde::Serialize;

use super::{Outcome, Record, RecordSink};
use crate::{
    caller::{Caller, CallerId, ProofKind},
    clock::Timestamp,
};

/// Decisions added up. Cheap to clone.
///
/// Keeps at most [`Edges::MOST`] edges. What comes after that is counted in [`Edges::beyond`] and not kept: callers are
/// authenticated and routes declared, so that a stranger cannot fill it (`T-29`). Users who call are one caller for each issuer, `corp:*`: they are
/// many, and who of them did what is in the records.
#[derive(Clone, Debug)]
pub struct Edges(Arc<Kept>);

/// Every request adds to it: requests on several cores seldom meet at one part.
#[derive(Debug)]
struct Kept {
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
    /// In all parts.
    edges: AtomicUsize,
    beyond: AtomicU64,
}

/// By a keyed hash of what the edge is told apart by, so that looking one up allocates nothing. Nobody outside can make two meet;
/// if two did, the later would be counted as beyond.
type Part = HashMap<u64, (EdgeKey, Counts), RandomState>;

const PARTS: usize = 16;

impl Default for Edges {
    fn default() -> Self {
        Self(Arc::new(Kept {
            parts: array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
            edges: AtomicUsize::new(0),
            beyond: AtomicU64::new(0),
        }))
    }
}

impl Kept {
    /// The part of this hash, by bits that no table of it looks at first.
    fn part(&self, hash: u64) -> Option<MutexGuard<'_, Part>> {
        let place = usize::try_from(hash >> 32).unwrap_or_default() % PARTS;
        self.parts.get(place).map(|part| part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is room for one more; it is taken.
    fn takes_one_more(&self) -> bool {
        let one_more = |edges| (edges < Edges::MOST).then_some(edges + 1);
        self.edges.try_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }
}

/// What an edge is told apart by.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct EdgeKey {
    /// Who calls: a service's SPIFFE ID, or `ISSUER:*` for the users of an issuer.
    pub caller: String,
    /// Which kind of credential proved it.
    pub proof: &'static str,
    /// What: method and route, as in the record.
    pub operation: String,
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    allowed: u64,
    refused: u64,
    first_seen: Timestamp,
    last_seen: Timestamp,
}

/// One caller's use of one route with one kind of credential.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Edge {
    /// Of whom and what.
    #[serde(flatten)]
    pub key: EdgeKey,
    /// How often it was allowed.
    pub allowed: u64,
    /// How often it was refused, for whatever reason.
    pub refused: u64,
    /// First decision.
    #[serde(serialize_with = "as_text")]
    pub first_seen: Timestamp,
    /// Last decision.
    #[serde(serialize_with = "as_text")]
    pub last_seen: Timestamp,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

impl Edges {
    /// The most edges that are kept.
    pub const MOST: usize = 10_000;

    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All edges, sorted by caller, proof and operation.
    #[must_use]
    pub fn list(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        for part in &self.0.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            edges.extend(part.values().map(|(key, counts)| Edge {
                key: key.clone(),
                allowed: counts.allowed,
                refused: counts.refused,
                first_seen: counts.first_seen,
                last_seen: counts.last_seen,
            }));
        }
        edges.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        edges
    }

    /// The callers that used a credential weaker than a JWT-SVID since `since`, with the kind.
    #[must_use]
    pub fn old_credentials(&self, since: Timestamp) -> Vec<Edge> {
        let old = [ProofKind::ApiKey.as_str(), ProofKind::SharedSecret.as_str()];
        let mut edges = self.list();
        edges.retain(|edge| old.contains(&edge.key.proof) && edge.last_seen >= since);
        edges
    }

    /// Decisions that belong to no edge since there were too many.
    #[must_use]
    pub fn beyond(&self) -> u64 {
        self.0.beyond.load(Ordering::Relaxed)
    }

    /// Adds one decision. Requests that nobody proved to have sent are no edge.
    pub(crate) fn add(&self, record: &Record<'_>) {
        let Some(caller) = record.caller else { return };
        let (id, proof) = (Who::of(caller), caller.proof().kind.as_str());
        let hash = self.0.hasher.hash_one((id, proof, record.operation));
        let Some(mut part) = self.0.part(hash) else { return };
        let known = match part.entry(hash) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(free) if self.0.takes_one_more() => {
                let key = EdgeKey { caller: id.name(), proof, operation: record.operation.to_string() };
                let counts = Counts { allowed: 0, refused: 0, first_seen: record.at, last_seen: record.at };
                Some(free.insert((key, counts)))
            }
            Entry::Vacant(_) => None,
        };
        let Some((_, counts)) = known.filter(|(key, _)| id.is(&key.caller) && key.proof == proof) else {
            self.0.beyond.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let count = if record.outcome == Outcome::Allowed { &mut counts.allowed } else { &mut counts.refused };
        *count = count.saturating_add(1);
        counts.last_seen = counts.last_seen.max(record.at);
    }
}

/// Who an edge is of, without a text of its own.
#[derive(Clone, Copy, Hash)]
enum Who<'c> {
    Service(&'c str),
    UsersOf(&'c str),
}

impl<'c> Who<'c> {
    fn of(caller: &'c Caller) -> Self {
        match caller.id() {
            CallerId::Service(id) => Self::Service(id.as_str()),
            CallerId::User(id) => Self::UsersOf(id.issuer().as_str()),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Service(id) => id.to_owned(),
            Self::UsersOf(issuer) => format!("{issuer}:*"),
        }
    }

    fn is(self, name: &str) -> bool {
        match self {
            Self::Service(id) => id == name,
            Self::UsersOf(issuer) => name.strip_suffix(":*") == Some(issuer),
        }
    }
}

impl RecordSink for Edges {
    fn record(&self, record: &Record<'_>) {
        self.add(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        caller::{Caller, Proof, Roles},
        record::RecordedOperation,
        spiffe::SpiffeId,
        user::{Facts, PresentedUser, UserId},
    };

    fn caller(path: &str, kind: ProofKind) -> Caller {
        let id = SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap();
        Caller::new(id, Proof { kind, key_id: "k".into() }, Timestamp::MAX)
    }

    fn decide(edges: &Edges, caller: Option<&Caller>, route: &str, outcome: Outcome, second: i64) {
        let operation = RecordedOperation::Http { method: "GET", route };
        let mut record = Record::new(Timestamp::from_unix_seconds(second), operation, outcome, "");
        record.caller = caller;
        edges.record(&record);
    }

    #[test]
    fn the_report_says_who_still_uses_an_old_credential() {
        let edges = Edges::new();
        let (old, new) = (caller("/export", ProofKind::ApiKey), caller("/export", ProofKind::X509Svid));
        decide(&edges, Some(&old), "/a", Outcome::Allowed, 10);
        decide(&edges, Some(&old), "/a", Outcome::Denied, 20);
        decide(&edges, Some(&new), "/a", Outcome::Allowed, 30);
        decide(&edges, None, "/a", Outcome::Unauthenticated, 40);
        let list = edges.list();
        assert_eq!(list.len(), 2);
        let since = |second| edges.old_credentials(Timestamp::from_unix_seconds(second));
        assert_eq!(since(0), [list[0].clone()]);
        assert_eq!((list[0].allowed, list[0].refused), (1, 1));
        assert_eq!(since(21), []);
        let written = serde_json::to_value(&list[0]).unwrap();
        assert_eq!(written["proof"], "api-key");
        assert_eq!(written["operation"], "GET /a");
        assert_eq!(written["last_seen"], "1970-01-01T00:00:20Z");
    }

    #[test]
    fn t_29_users_are_one_caller_for_each_issuer() {
        let edges = Edges::new();
        for index in 0..Edges::MOST + 5 {
            let user = PresentedUser::new(Facts {
                id: UserId::parse(&format!("corp:{index}")).unwrap(),
                roles: Roles::default(),
                scope: None,
                kind: ProofKind::IdToken,
                key_id: "k".into(),
                token_id: None,
                valid_until: Timestamp::MAX,
            });
            decide(&edges, Some(&Caller::of_user(user)), "/a", Outcome::Allowed, 1);
        }
        let list = edges.list();
        assert_eq!((list.len(), edges.beyond()), (1, 0));
        assert_eq!((list[0].key.caller.as_str(), list[0].key.proof), ("corp:*", "id-token"));
        assert_eq!(list[0].allowed, u64::try_from(Edges::MOST + 5).unwrap());
    }

    #[test]
    fn t_29_edges_are_bounded() {
        let edges = Edges::new();
        for index in 0..Edges::MOST + 5 {
            let caller = caller(&format!("/s{index}"), ProofKind::JwtSvid);
            decide(&edges, Some(&caller), "/a", Outcome::Allowed, 1);
        }
        assert_eq!(edges.list().len(), Edges::MOST);
        assert_eq!(edges.beyond(), 5);
        // Those that are known go on being counted.
        decide(&edges, Some(&caller("/s0", ProofKind::JwtSvid)), "/a", Outcome::Allowed, 2);
        assert_eq!(edges.beyond(), 5);
    }
}
