//! Users' tokens that were verified before: a user's token is shown for request after request, and its signature costs more than all the rest.

use bonafide_ca_api::token_exchange::{Subject, SubjectTokenType};
use bonafide_verifier::clock::Timestamp;
use quick_cache::sync::Cache;

use crate::{audit::sha256, user_issuers::Believed};

/// Remembers users by their tokens, as long as the tokens last and what is believed stays as it was (trap 17). Beyond
/// [`Subjects::MOST`] the least used are forgotten.
pub(super) struct Subjects(Cache<Name, Remembered>);

/// One token, shown as one type.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Name {
    sha256: [u8; 32],
    kind: SubjectTokenType,
}

#[derive(Clone)]
struct Remembered {
    subject: Subject,
    /// What was believed then.
    generation: Option<u64>,
    until: Timestamp,
}

impl Name {
    /// None for tokens that are not a user's: a service's statement is another's with another requester, and transaction tokens are
    /// remembered where they are verified.
    pub(super) fn of(token: &str, kind: SubjectTokenType) -> Option<Self> {
        match kind {
            SubjectTokenType::IdToken | SubjectTokenType::AccessToken => {
                Some(Self { sha256: sha256(token.as_bytes()), kind })
            }
            SubjectTokenType::SelfSigned | SubjectTokenType::TxnToken => None,
        }
    }
}

impl Subjects {
    /// So many tokens, some KiB each.
    const MOST: usize = 4096;

    pub(super) fn new() -> Self {
        Self(Cache::new(Self::MOST))
    }

    /// Whom this token is about, if that was found out under what is believed now and still holds.
    pub(super) fn get(&self, name: Option<Name>, believed: &Believed, now: Timestamp) -> Option<Subject> {
        let found = self.0.get(&name?)?;
        let same = found.generation == believed.generation && found.until == believed.until;
        Some(found.subject).filter(|subject| same && subject.holds_at(now))
    }

    pub(super) fn put(&self, name: Option<Name>, believed: &Believed, subject: &Subject) {
        if let Some(name) = name {
            let (generation, until) = (believed.generation, believed.until);
            self.0.insert(name, Remembered { subject: subject.clone(), generation, until });
        }
    }
}
