//! The policy file: strict TOML into typed rules, each with its place in the text.
//!
//! A key that is not known here is an error: a newer policy must not lose a condition in an older verifier (T-27).

mod read;

use std::{fmt, num::NonZeroU32, ops::Range};

pub(super) use self::read::{read, start_of};
use super::{condition::Condition, operation::OperationPattern};
use crate::{
    caller::{ProofKind, RoleName, Strength},
    clock::Timestamp,
    spiffe::{Pattern, SpiffeId},
    user::{IssuerName, UserId},
};

/// Whether something is enforced.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// It decides.
    #[default]
    Enforce,
    /// It is only tried beside what decides.
    Shadow,
}

/// What a rule is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleEffect {
    /// It allows what it matches.
    Allow,
    /// It denies what it matches.
    Deny,
}

impl RuleEffect {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// How often something may be done: `100/s burst 200 per caller`. Parsed here and enforced by the limits of the service.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Limit {
    /// So often.
    pub count: NonZeroU32,
    /// In this time.
    pub per: LimitPer,
    /// So many at once; `count` when the file does not say.
    pub burst: NonZeroU32,
    /// Whose requests are counted together.
    pub by: LimitBy,
}

/// The time of a limit.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LimitPer {
    /// `/s`.
    Second,
    /// `/min`.
    Minute,
    /// `/h`.
    Hour,
    /// `/day`: a quota, which survives a restart.
    Day,
}

/// Whose requests a limit counts together, the fewest first.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum LimitBy {
    /// Those of one caller for one user.
    User,
    /// Those of one caller.
    #[default]
    Caller,
    /// All that the rule allows.
    Rule,
}

impl Limit {
    /// Reads `COUNT/UNIT [burst COUNT] [per caller|user|rule]`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (count, unit) = words.next()?.split_once('/')?;
        let count: NonZeroU32 = number(count)?;
        let per = match unit {
            "s" => LimitPer::Second,
            "min" => LimitPer::Minute,
            "h" => LimitPer::Hour,
            "day" => LimitPer::Day,
            _ => return None,
        };
        let mut limit = Self { count, per, burst: count, by: LimitBy::default() };
        let mut next = words.next();
        if next == Some("burst") {
            // A quota has no burst: the whole day's may be used at once.
            limit.burst = number(words.next()?).filter(|_| per != LimitPer::Day)?;
            next = words.next();
        }
        if next == Some("per") {
            limit.by = match words.next()? {
                "caller" => LimitBy::Caller,
                "user" => LimitBy::User,
                "rule" => LimitBy::Rule,
                _ => return None,
            };
            next = words.next();
        }
        next.is_none().then_some(limit)
    }
}

fn number(text: &str) -> Option<NonZeroU32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            LimitPer::Second => "s",
            LimitPer::Minute => "min",
            LimitPer::Hour => "h",
            LimitPer::Day => "day",
        };
        write!(f, "{}/{per}", self.count)?;
        if self.burst != self.count {
            write!(f, " burst {}", self.burst)?;
        }
        f.write_str(match self.by {
            LimitBy::Caller => "",
            LimitBy::User => " per user",
            LimitBy::Rule => " per rule",
        })
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// Whom a rule, a role or a list of proxies names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum CallerPattern {
    Id(SpiffeId),
    Pattern(Pattern),
    Role(RoleName),
    /// In `via` alone: no proxy.
    Direct,
}

/// As it stands in a policy, with whole IDs.
impl fmt::Display for CallerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Pattern(pattern) => write!(f, "{pattern}"),
            Self::Role(role) => write!(f, "role:{role}"),
            Self::Direct => f.write_str("direct"),
        }
    }
}

/// Which users a rule or a role names. A service is never one of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum UserPattern {
    Id(UserId),
    /// Everybody whom this issuer knows.
    Issuer(IssuerName),
    Role(RoleName),
}

/// As it stands in a policy.
impl fmt::Display for UserPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Issuer(issuer) => write!(f, "{issuer}:*"),
            Self::Role(role) => write!(f, "role:{role}"),
        }
    }
}

/// What a rule wants of the user.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum UserRule {
    #[default]
    Any,
    /// `required` in an allow rule, `present` in a deny rule.
    Present,
    /// `forbidden` in an allow rule, `absent` in a deny rule.
    Absent,
}

/// One `[[allow]]` or `[[deny]]`.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) effect: RuleEffect,
    pub(super) mode: Mode,
    /// Services. With `users` empty in a deny rule: everybody.
    pub(super) callers: Vec<At<CallerPattern>>,
    /// Users who call with no service in front.
    pub(super) users: Vec<At<UserPattern>>,
    /// Empty in a deny rule: everything.
    pub(super) operations: Vec<At<OperationPattern>>,
    /// Of an allow rule: the weakest proof taken. The kind is kept for printing.
    pub(super) proof: ProofKind,
    /// Of a deny rule: only callers whose proof is weaker than this.
    pub(super) weaker_than: Option<ProofKind>,
    /// Empty: whichever way the request came.
    pub(super) via: Vec<CallerPattern>,
    pub(super) user: UserRule,
    /// Words with blanks between, all of them wanted.
    pub(super) scope: Option<String>,
    pub(super) when: Option<Condition>,
    pub(super) limits: Vec<Limit>,
    pub(super) audit: bool,
    /// Where the rule begins.
    pub(super) span: Range<usize>,
}

impl Rule {
    pub(super) fn takes_every_operation(&self) -> bool {
        self.effect == RuleEffect::Deny && self.operations.is_empty()
    }

    pub(super) fn takes_every_caller(&self) -> bool {
        self.effect == RuleEffect::Deny && self.callers.is_empty() && self.users.is_empty()
    }
}

/// Until when the kinds of credentials are taken that are not always taken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Accept {
    pub(super) shared_secret: Option<Timestamp>,
    pub(super) api_key: Option<Timestamp>,
    /// Where in the text each of the two stands, if it does.
    pub(super) shared_secret_at: usize,
    pub(super) api_key_at: usize,
}

impl Accept {
    /// The first moment at which the kind is refused, [`Timestamp::MAX`] if there is none.
    pub(super) fn until(&self, kind: ProofKind) -> Option<Timestamp> {
        match kind {
            ProofKind::X509Svid
            | ProofKind::JwtSvid
            | ProofKind::AccessToken
            | ProofKind::IdToken
            | ProofKind::UserAccessToken
            | ProofKind::Session => Some(Timestamp::MAX),
            ProofKind::SharedSecret => self.shared_secret,
            ProofKind::ApiKey => self.api_key,
        }
    }

    /// Where in the text that is said.
    pub(super) fn place(&self, kind: ProofKind) -> Range<usize> {
        let at = match kind {
            ProofKind::X509Svid
            | ProofKind::JwtSvid
            | ProofKind::AccessToken
            | ProofKind::IdToken
            | ProofKind::UserAccessToken
            | ProofKind::Session => 0,
            ProofKind::SharedSecret => self.shared_secret_at,
            ProofKind::ApiKey => self.api_key_at,
        };
        at..at
    }
}

/// A policy file, read.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) mode: Mode,
    pub(super) accept: Accept,
    pub(super) roles: Vec<Role>,
    /// In the order of the file.
    pub(super) rules: Vec<Rule>,
}

/// A role that the policy knows, and to whom it gives it.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) name: RoleName,
    /// Services that have it.
    pub(super) members: Vec<At<CallerPattern>>,
    /// Users who have it. It is theirs in `users` alone, as the services' is in `callers` alone.
    pub(super) users: Vec<At<UserPattern>>,
}

/// The strength that a rule takes when it names none.
pub(super) const DEFAULT_PROOF: ProofKind = ProofKind::JwtSvid;

/// So that a rule's strength is found in one place.
impl Rule {
    pub(super) fn strength(&self) -> Strength {
        self.proof.strength()
    }
}
