//! Whom a connection may be with.

use std::{fmt, sync::Arc};

use crate::spiffe::{Pattern, PatternError, RESERVED_SEGMENT, SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};

/// The SPIFFE IDs that a client expects of its server, or that a server takes as callers.
///
/// Never empty, and never everyone: a set names IDs, patterns within one trust domain, or whole trust domains.
/// No pattern and no whole trust domain contains an ID under `/bonafide`; only its literal ID does.
///
/// ```
/// use bonafide_verifier::{spiffe::SpiffeId, tls::PeerSet};
///
/// let callers = PeerSet::parse(["spiffe://example.org/photo", "spiffe://example.org/batch/*"])?;
/// assert!(callers.contains(&SpiffeId::parse("spiffe://example.org/batch/nightly")?));
/// assert!(!callers.contains(&SpiffeId::parse("spiffe://example.org/batch/nightly/x")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PeerSet {
    // INVARIANT: not empty.
    entries: Arc<[Entry]>,
}

/// A set of IDs that changes while it is in use, such as a registry's names. Asked at every handshake.
pub trait Members: fmt::Debug + Send + Sync {
    /// Whether this literal ID is in the set now.
    fn contains(&self, id: &SpiffeId) -> bool;
}

#[derive(Clone, Debug)]
enum Entry {
    Id(SpiffeId),
    TrustDomain(TrustDomain),
    Pattern(Pattern),
    Members(Arc<dyn Members>),
}

/// Why a text names no set of peers.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerSetError {
    /// No entry at all.
    #[error("no peer is named; name at least one SPIFFE ID, pattern or trust domain")]
    Empty,
    /// A SPIFFE ID that cannot be a peer's.
    #[error("`{id}` has no path; only workloads are peers, and their SPIFFE IDs have one")]
    NoPath {
        /// The ID.
        id: String,
    },
    /// An entry that is no SPIFFE ID and no pattern.
    #[error("`{entry}` is no SPIFFE ID and no pattern of one: {source}")]
    Syntax {
        /// The text.
        entry: String,
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// A trust domain that is none.
    #[error("`{entry}`: {source}")]
    TrustDomain {
        /// The text.
        entry: String,
        /// What is wrong with it.
        source: TrustDomainError,
    },
    /// `*` within a segment, or `**` before the end.
    #[error("`{entry}`: `*` stands for one whole segment, `**` for the rest and only at the end")]
    Wildcard {
        /// The text.
        entry: String,
    },
    /// A pattern under `/bonafide`.
    #[error("`{entry}`: IDs under `/{RESERVED_SEGMENT}` are named literally, never by a pattern")]
    Reserved {
        /// The text.
        entry: String,
    },
}

impl PeerSet {
    /// Exactly this ID.
    #[must_use]
    pub fn id(id: SpiffeId) -> Self {
        Self::one(Entry::Id(id))
    }

    /// Exactly these IDs.
    ///
    /// # Errors
    /// When there is none.
    pub fn ids(ids: impl IntoIterator<Item = SpiffeId>) -> Result<Self, PeerSetError> {
        Self::of(ids.into_iter().map(Entry::Id).collect())
    }

    /// Any workload of a trust domain, except those under `/bonafide`.
    #[must_use]
    pub fn any_of(trust_domain: TrustDomain) -> Self {
        Self::one(Entry::TrustDomain(trust_domain))
    }

    /// A set that changes while it is in use. It holds literal IDs, so it may hold ones under `/bonafide`.
    #[must_use]
    pub fn members(members: Arc<dyn Members>) -> Self {
        Self::one(Entry::Members(members))
    }

    /// From text, as it stands in settings: SPIFFE IDs; patterns, in which `*` is one whole segment of the path and a last `**`
    /// one or more; `spiffe://example.org/**` is any workload of that trust domain.
    ///
    /// # Errors
    /// At the first entry that is none of these, and when there is no entry.
    pub fn parse<T: AsRef<str>>(entries: impl IntoIterator<Item = T>) -> Result<Self, PeerSetError> {
        Self::of(entries.into_iter().map(|entry| Entry::parse(entry.as_ref())).collect::<Result<_, _>>()?)
    }

    /// The peers of both sets.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { entries: self.entries.iter().chain(other.entries.iter()).cloned().collect() }
    }

    /// Whether a connection with `id` is wanted.
    #[must_use]
    pub fn contains(&self, id: &SpiffeId) -> bool {
        self.entries.iter().any(|entry| entry.contains(id))
    }

    /// The trust domain that all of them are of; none when there are several, or when the set changes.
    #[must_use]
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        let mut names = self.entries.iter().map(|entry| match entry {
            Entry::Id(id) => Some(id.trust_domain()),
            Entry::TrustDomain(name) => Some(name),
            Entry::Pattern(pattern) => Some(pattern.trust_domain()),
            Entry::Members(_) => None,
        });
        let first = names.next().flatten()?;
        names.all(|name| name == Some(first)).then_some(first)
    }

    fn one(entry: Entry) -> Self {
        Self { entries: Arc::from([entry]) }
    }

    fn of(entries: Vec<Entry>) -> Result<Self, PeerSetError> {
        if entries.is_empty() {
            return Err(PeerSetError::Empty);
        }
        if let Some(Entry::Id(id)) = entries.iter().find(|entry| matches!(entry, Entry::Id(id) if id.path().is_empty()))
        {
            return Err(PeerSetError::NoPath { id: id.to_string() });
        }
        Ok(Self { entries: entries.into() })
    }
}

/// As it would be written in settings.
impl fmt::Display for PeerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.entries.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match entry {
                Entry::Id(id) => write!(f, "{separator}{id}")?,
                Entry::TrustDomain(name) => write!(f, "{separator}spiffe://{name}/**")?,
                Entry::Pattern(pattern) => write!(f, "{separator}{pattern}")?,
                Entry::Members(members) => write!(f, "{separator}{members:?}")?,
            }
        }
        Ok(())
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self, PeerSetError> {
        if !text.contains('*') {
            return SpiffeId::parse(text)
                .map(Self::Id)
                .map_err(|source| PeerSetError::Syntax { entry: text.to_owned(), source });
        }
        let entry = text.to_owned();
        match Pattern::parse(text) {
            Ok(pattern) if pattern.segments().is_empty() && pattern.is_open_ended() => {
                Ok(Self::TrustDomain(pattern.trust_domain().clone()))
            }
            Ok(pattern) => Ok(Self::Pattern(pattern)),
            Err(PatternError::Syntax(source)) => Err(PeerSetError::Syntax { entry, source }),
            Err(PatternError::Wildcard) => Err(PeerSetError::Wildcard { entry }),
            Err(PatternError::Reserved) => Err(PeerSetError::Reserved { entry }),
        }
    }

    fn contains(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Id(expected) => expected == id,
            Self::TrustDomain(expected) => expected == id.trust_domain() && !id.path().is_empty() && !id.is_reserved(),
            Self::Pattern(pattern) => pattern.contains(id),
            Self::Members(members) => members.contains(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    #[test]
    fn what_a_set_contains() {
        let cases: &[(&str, &str, bool)] = &[
            ("spiffe://example.org/photo", "spiffe://example.org/photo", true),
            ("spiffe://example.org/photo", "spiffe://example.org/photo2", false),
            ("spiffe://example.org/photo", "spiffe://example.org/photo/a", false),
            ("spiffe://example.org/photo", "spiffe://example.com/photo", false), // T-25
            ("spiffe://example.org/a/*", "spiffe://example.org/a/b", true),
            ("spiffe://example.org/a/*", "spiffe://example.org/a", false),
            ("spiffe://example.org/a/*", "spiffe://example.org/a/b/c", false),
            ("spiffe://example.org/a/*", "spiffe://example.com/a/b", false), // T-25
            ("spiffe://example.org/*/b", "spiffe://example.org/a/b", true),
            ("spiffe://example.org/*/b", "spiffe://example.org/a/c", false),
            ("spiffe://example.org/a/**", "spiffe://example.org/a/b", true),
            ("spiffe://example.org/a/**", "spiffe://example.org/a/b/c", true),
            ("spiffe://example.org/a/**", "spiffe://example.org/a", false),
            ("spiffe://example.org/a/**", "spiffe://example.org/ab/c", false),
            ("spiffe://example.org/*/b/**", "spiffe://example.org/a/b/c", true),
            ("spiffe://example.org/**", "spiffe://example.org/a", true),
            ("spiffe://example.org/**", "spiffe://example.org/a/b", true),
            ("spiffe://example.org/**", "spiffe://example.org", false),
            ("spiffe://example.org/**", "spiffe://example.org/bonafide/ca", false),
            ("spiffe://example.org/*/ca", "spiffe://example.org/bonafide/ca", false),
            ("spiffe://example.org/*/**", "spiffe://example.org/bonafide/node/a", false),
            ("spiffe://example.org/*", "spiffe://example.org/bonafide", false),
            ("spiffe://example.org/*", "spiffe://example.org/bonafide2", true),
            ("spiffe://example.org/bonafide/ca", "spiffe://example.org/bonafide/ca", true),
        ];
        for (set, peer, contained) in cases {
            assert_eq!(PeerSet::parse([set]).unwrap().contains(&id(peer)), *contained, "{set} and {peer}");
        }
    }

    #[test]
    fn what_names_no_set() {
        let wildcard = |entry: &str| PeerSetError::Wildcard { entry: entry.to_owned() };
        let cases = [
            ("spiffe://example.org", PeerSetError::NoPath { id: "spiffe://example.org".to_owned() }),
            ("spiffe://example.org/a*", wildcard("spiffe://example.org/a*")),
            ("spiffe://example.org/**/a", wildcard("spiffe://example.org/**/a")),
            ("spiffe://example.org/a/***", wildcard("spiffe://example.org/a/***")),
            ("spiffe://*/a", wildcard("spiffe://*/a")),
            ("spiffe://*.example.org/**", wildcard("spiffe://*.example.org/**")),
            ("*", wildcard("*")),
            ("**", wildcard("**")),
            (
                "spiffe://example.org/bonafide/**",
                PeerSetError::Reserved { entry: "spiffe://example.org/bonafide/**".to_owned() },
            ),
            (
                "spiffe://example.org/bonafide/node/*",
                PeerSetError::Reserved { entry: "spiffe://example.org/bonafide/node/*".to_owned() },
            ),
            (
                "spiffe://example.org//*",
                PeerSetError::Syntax {
                    entry: "spiffe://example.org//*".to_owned(),
                    source: SpiffeIdError::EmptySegment { at: 21 },
                },
            ),
        ];
        for (text, error) in cases {
            assert_eq!(PeerSet::parse([text]).map(drop), Err(error), "{text}");
        }
        assert_eq!(PeerSet::parse::<&str>([]).map(drop), Err(PeerSetError::Empty));
        assert_eq!(PeerSet::ids([]).map(drop), Err(PeerSetError::Empty));
    }

    #[test]
    fn sets_are_joined_and_printed_as_written() {
        let texts = ["spiffe://example.org/a", "spiffe://example.org/b/*/c/**", "spiffe://example.com/**"];
        let set = PeerSet::parse(&texts[..2]).unwrap().or(PeerSet::parse(&texts[2..]).unwrap());
        assert!(set.contains(&id("spiffe://example.com/x")) && set.contains(&id("spiffe://example.org/a")));
        assert_eq!(set.to_string(), texts.join(", "));
    }

    #[test]
    fn members_are_asked_each_time() {
        #[derive(Debug)]
        struct Only(SpiffeId);
        impl Members for Only {
            fn contains(&self, id: &SpiffeId) -> bool {
                *id == self.0
            }
        }
        let node = id("spiffe://example.org/bonafide/node/web-1");
        let set = PeerSet::members(Arc::new(Only(node.clone())));
        assert!(set.contains(&node) && !set.contains(&id("spiffe://example.org/bonafide/node/web-2")));
    }
}
