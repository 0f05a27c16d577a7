//! Patterns of SPIFFE IDs: `spiffe://example.org/a/*/b`, `spiffe://example.org/a/**`. One parser and one matcher for whom a
//! connection may be with ([`crate::tls::PeerSet`]) and for the callers of a policy's rules.

use std::fmt;

use super::{RESERVED_SEGMENT, SpiffeId, SpiffeIdError, TrustDomain};

/// IDs of one trust domain. `*` is one whole segment of the path, a last `**` one or more. Never an ID under `/bonafide`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pattern {
    trust_domain: TrustDomain,
    segments: Vec<Segment>,
    /// Ends in `**`: one or more further segments.
    open_ended: bool,
}

/// One segment of a pattern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Segment {
    Literal(String),
    Any,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error("{0}")]
    Syntax(SpiffeIdError),
    #[error("`*` stands for one whole segment, `**` for the rest and only at the end")]
    Wildcard,
    #[error("IDs under `/{RESERVED_SEGMENT}` are named literally, never by a pattern")]
    Reserved,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let rest = text.strip_prefix("spiffe://").unwrap_or(text);
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        if name.contains('*') {
            return Err(PatternError::Wildcard);
        }
        // Everything but the wildcards must be a SPIFFE ID, so let that parser judge the text with stand-ins for them.
        let stand_in = text.replace("**", "x").replace('*', "x");
        let trust_domain = SpiffeId::parse(&stand_in).map_err(PatternError::Syntax)?.trust_domain().clone();
        let mut segments: Vec<&str> = path.split('/').collect();
        let open_ended = segments.last() == Some(&"**");
        if open_ended {
            segments.pop();
        }
        if segments.first() == Some(&RESERVED_SEGMENT) {
            return Err(PatternError::Reserved);
        }
        let segments = segments
            .into_iter()
            .map(|segment| match segment {
                "*" => Ok(Segment::Any),
                text if text.contains('*') => Err(PatternError::Wildcard),
                text => Ok(Segment::Literal(text.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { trust_domain, segments, open_ended })
    }

    pub(crate) fn contains(&self, id: &SpiffeId) -> bool {
        if self.trust_domain != *id.trust_domain() || id.path().is_empty() || id.is_reserved() {
            return false;
        }
        let mut given = id.segments();
        let matched = self.segments.iter().all(|expected| match (expected, given.next()) {
            (_, None) => false,
            (Segment::Any, Some(_)) => true,
            (Segment::Literal(expected), Some(segment)) => expected == segment,
        });
        matched && given.next().is_some() == self.open_ended
    }

    /// Whether every ID of the other is one of this.
    #[cfg_attr(not(feature = "policy-file"), allow(dead_code, reason = "policies compare patterns"))]
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let pairs = self.segments.iter().zip(&other.segments);
        let fits = |(own, other): (&Segment, &Segment)| matches!(own, Segment::Any) || own == other;
        let (own, others) = (self.segments.len(), other.segments.len());
        let lengths = if self.open_ended {
            others > own || (others == own && other.open_ended)
        } else {
            others == own && !other.open_ended
        };
        self.trust_domain == other.trust_domain && lengths && pairs.into_iter().all(fits)
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(crate) fn is_open_ended(&self) -> bool {
        self.open_ended
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        if self.open_ended { f.write_str("/**") } else { Ok(()) }
    }
}
