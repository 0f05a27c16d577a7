//! Who may do what: the policy of one service.
//!
//! A policy is a TOML file that is read once, checked strictly and compiled into an immutable snapshot. [`Policy::decide`] is then a pure
//! function over a [`Caller`], perhaps a [`User`], an [`Operation`] and a time. Its rules, in ten lines:
//!
//! - What no `[[allow]]` rule allows is denied; there is no switch for that.
//! - A `[[deny]]` rule that matches wins over every allow rule. The order of rules never matters for the answer.
//! - A rule matches when each of its keys does; in a list one entry is enough. Allow rules name callers and operations; in a deny rule
//!   what is left out is everything.
//! - `callers` are services, `users` are users who call with no service in front; one of the two is enough, and neither names the other's
//!   kind: a role in `callers` is one of services, a role in `users` one of users. A rule with one of them alone is not for the other kind.
//! - An allow rule takes `proof = "jwt-svid"` and stronger unless it names a weaker one, and no rule takes an API key or a token
//!   under a shared secret in a file whose `[accept]` does not, or no longer does.
//! - Roles are those that the key's record or the policy grants. Allow rules look at those that the credential asserts as well, if it
//!   asserts any; deny rules do not.
//! - `*` is one whole segment, `**` one or more; no pattern ever matches a caller under `/bonafide`.
//! - What is missing (a user where a rule looks at one) is "no" for an allow rule and "yes" for a deny rule.
//! - A condition (`when`) that fails to evaluate is "no" for an allow rule and "yes" for a deny rule.
//! - Conditions about `resource` wait for the handler's facts: the answer until then is [`Effect::AllowIfSecondStage`].
//! - Rules in shadow mode change no answer; [`Decision::shadow`] tells what they would have changed.

mod cases;
#[cfg(feature = "cedar")]
mod cedar;
mod compile;
mod condition;
mod decide;
mod difference;
mod explain;
mod facts;
mod finding;
mod lint;
mod operation;
mod syntax;
mod trie;

use std::{fmt, sync::Arc};

pub use self::cases::{CallerText, CaseResult, Query, QueryError};
pub use self::{
    difference::{Difference, Differences},
    explain::{Explanation, NearRule},
    facts::{Fact, Facts},
    finding::{Finding, PolicyErrors, Severity},
    operation::{CanonicalPath, Method, Operation, OperationError, PathError},
    syntax::{Limit, LimitBy, LimitPer, Mode, RuleEffect},
};
use crate::{
    caller::{Caller, ProofKind},
    clock::Timestamp,
    user::PresentedUser,
};

/// A compiled policy. Immutable; cloning is cheap.
#[derive(Clone)]
pub struct Policy(Arc<compile::Compiled>);

/// A policy, and what its author should look at.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What is no error but probably not meant.
    pub warnings: Vec<Finding>,
}

/// The SHA-256 of a policy's text.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct PolicyVersion([u8; 32]);

impl PolicyVersion {
    /// The whole hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The first twelve hexadecimal digits.
impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicyVersion({self})")
    }
}

impl Policy {
    /// The largest policy file, in bytes.
    pub const MAX_BYTES: usize = 16 << 20;
    /// The most rules.
    pub const MAX_RULES: usize = 50_000;

    /// The SHA-256 of the text that it was read from.
    #[must_use]
    pub fn version(&self) -> &PolicyVersion {
        &self.0.version
    }

    /// Whether the file is to decide, or only to be tried beside the one that does. [`Policy::decide`] answers the same either way: whoever
    /// loads policies must not let a file in shadow mode decide.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    /// The answer to a request. Default deny, deny wins, an error denies. No clock, no IO; no allocation but for conditions.
    #[must_use]
    pub fn decide(&self, access: &Access<'_>) -> Decision {
        self.0.decide(access)
    }

    /// The rules, in the order of the file.
    pub fn rules(&self) -> impl Iterator<Item = RuleView<'_>> {
        self.0.rules.iter().enumerate().map(|(index, rule)| RuleView { id: RuleId::at(index), rule })
    }

    /// One of this policy's rules. `None` when the ID comes from another policy.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<RuleView<'_>> {
        self.0.rules.get(id.index()).map(|rule| RuleView { id, rule })
    }

    /// Until when the file takes a kind of credential: `None` when it does not at all, [`Timestamp::MAX`] when it always does.
    #[must_use]
    pub fn accepts(&self, kind: ProofKind) -> Option<Timestamp> {
        self.0.accept.until(kind)
    }

    /// The kinds of credentials that the file takes for 30 days more at most, or took once, each with its end.
    pub fn ending(&self, at: Timestamp) -> impl Iterator<Item = (ProofKind, Timestamp)> {
        let until = |kind| self.accepts(kind).map(|until| (kind, until));
        ProofKind::ALL.into_iter().filter_map(until).filter(move |(_, until)| at >= until.saturating_sub(lint::NOTICE))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({}, {} rules)", self.0.version, self.0.rules.len())
    }
}

/// A request, as far as a policy looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// Who calls.
    pub caller: &'a Caller,
    /// On whose behalf, if a verified token says so.
    pub user: Option<User<'a>>,
    /// What it wants.
    pub operation: Operation<'a>,
    /// What the handler knows about the thing that is asked for: `None` in the first stage, before the handler runs. With facts (also
    /// none at all: [`Facts::default`]) nothing waits any more.
    pub facts: Option<&'a Facts>,
    /// Now.
    pub at: Timestamp,
}

/// The person that a request is made for: the one who calls, or for whom a service calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct User<'a> {
    /// Who.
    pub sub: &'a str,
    /// What for: words with blanks between, as in a token's `scope`. None is unknown, which is not unlimited: "no" for an allow rule that asks for a
    /// scope, "yes" for a deny rule.
    pub scope: Option<&'a str>,
}

/// The user whom a request's own credential names.
impl<'u> From<&'u PresentedUser> for User<'u> {
    fn from(user: &'u PresentedUser) -> Self {
        Self { sub: user.id().as_str(), scope: user.scope() }
    }
}

impl User<'_> {
    /// Whether it is known that every one of the words is in its scope.
    #[must_use]
    pub fn has_scope(&self, words: &str) -> bool {
        let Some(scope) = self.scope else { return false };
        words.split_ascii_whitespace().all(|wanted| scope.split_ascii_whitespace().any(|word| word == wanted))
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Allowed or not.
    pub effect: Effect,
    /// The rule that decided: of several the first in the file. For a denial by no rule, the one that came nearest, if one matched caller and
    /// operation.
    pub rule: Option<RuleId>,
    /// A rule that matched wants a record of every decision.
    pub audit: bool,
    /// What the answer would be if the rules in shadow mode were enforced, when that is another one.
    pub shadow: Option<Shadow>,
}

/// The answer of a candidate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shadow {
    /// Allowed or not.
    pub effect: Effect,
    /// By which rule.
    pub rule: Option<RuleId>,
}

/// Whether a request may go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It may.
    Allow,
    /// The handler may look, and must ask again with facts before it does or tells anything.
    AllowIfSecondStage,
    /// It may not.
    Deny(Why),
}

impl Effect {
    /// The word for it in records and test files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::AllowIfSecondStage => "second-stage",
            Self::Deny(_) => "deny",
        }
    }
}

/// Why a request may not go on. For records; the caller is not told.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Why {
    /// No allow rule matches caller and operation.
    NoRule,
    /// A deny rule matches.
    DenyRule,
    /// The file has never taken this kind of credential.
    CredentialNotAccepted,
    /// The file took this kind of credential until a date that has passed.
    CredentialNoLongerAccepted,
    /// The caller's credential has ended.
    CredentialExpired,
    /// An allow rule matches but asks for a stronger proof.
    ProofTooWeak,
    /// An allow rule matches but not for callers that come through this proxy, or through none.
    WrongProxy,
    /// An allow rule matches but asks for a user.
    UserRequired,
    /// An allow rule matches but only without a user.
    UserForbidden,
    /// An allow rule matches but asks for more scope.
    ScopeTooSmall,
    /// An allow rule matches but its condition does not hold.
    ConditionFalse,
    /// An allow rule matches but its condition failed to evaluate.
    ConditionError,
    /// The path, decoded, is one that a rule names literally. Programs disagree on whether the two are the same.
    AmbiguousPath,
}

impl Why {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::NoRule,
        Self::DenyRule,
        Self::CredentialNotAccepted,
        Self::CredentialNoLongerAccepted,
        Self::CredentialExpired,
        Self::ProofTooWeak,
        Self::WrongProxy,
        Self::UserRequired,
        Self::UserForbidden,
        Self::ScopeTooSmall,
        Self::ConditionFalse,
        Self::ConditionError,
        Self::AmbiguousPath,
    ];

    /// A stable word for records and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoRule => "no-rule",
            Self::DenyRule => "deny-rule",
            Self::CredentialNotAccepted => "credential-not-accepted",
            Self::CredentialNoLongerAccepted => "credential-no-longer-accepted",
            Self::CredentialExpired => "credential-expired",
            Self::ProofTooWeak => "proof-too-weak",
            Self::WrongProxy => "wrong-proxy",
            Self::UserRequired => "user-required",
            Self::UserForbidden => "user-forbidden",
            Self::ScopeTooSmall => "scope-too-small",
            Self::ConditionFalse => "condition-false",
            Self::ConditionError => "condition-error",
            Self::AmbiguousPath => "ambiguous-path",
        }
    }
}

/// Which rule of a policy: its place in the file, from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleId(u32);

impl RuleId {
    fn at(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Its place in [`Policy::rules`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A rule, to be shown.
#[derive(Clone, Copy)]
pub struct RuleView<'a> {
    id: RuleId,
    rule: &'a syntax::Rule,
}

impl<'a> RuleView<'a> {
    /// Which.
    #[must_use]
    pub fn id(&self) -> RuleId {
        self.id
    }

    /// Its name, which no other rule of the policy has.
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.rule.name
    }

    /// Whether it allows or denies.
    #[must_use]
    pub fn effect(&self) -> RuleEffect {
        self.rule.effect
    }

    /// Whether it is enforced.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.rule.mode
    }

    /// How often it may be used.
    #[must_use]
    pub fn limits(&self) -> &'a [Limit] {
        &self.rule.limits
    }

    /// Whether every decision of it is to be recorded.
    #[must_use]
    pub fn audit(&self) -> bool {
        self.rule.audit
    }

    /// Whether it asks for a user.
    #[must_use]
    pub fn requires_user(&self) -> bool {
        self.rule.user == syntax::UserRule::Present
    }

    /// Whether its condition waits for the handler's facts.
    #[must_use]
    pub fn needs_facts(&self) -> bool {
        self.rule.when.as_ref().is_some_and(condition::Condition::needs_facts)
    }

    /// Whether some request of this method to a route could be one of its operations. `route` is the template that a router knows:
    /// `/v1/config/{key}`, `/files/{*rest}`.
    #[must_use]
    pub fn covers_http(&self, method: Method, route: &str) -> bool {
        compile::covers_http(self.rule, method, route)
    }

    /// Whether some call of this gRPC method could be one of its operations.
    #[must_use]
    pub fn covers_grpc(&self, service: &str, method: &str) -> bool {
        let operation = Operation::Grpc { service, method };
        self.rule.takes_every_operation()
            || self.rule.operations.iter().any(|o| o.value.matches(&operation, |a, b| a == b))
    }
}

impl fmt::Debug for RuleView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RuleView({}, {:?})", self.id.0, self.rule.name)
    }
}

impl Policy {
    /// Reads and compiles a policy file. `trust_domain` is the service's own: paths such as `/photo` are of it. `at` is now, for dates that have
    /// passed or are near.
    ///
    /// ```
    /// use bonafide_verifier::{clock::Timestamp, policy::Policy, spiffe::TrustDomain};
    ///
    /// let text = r#"
    /// version = 1
    /// [[allow]]
    /// name    = "exporters read their limits"
    /// callers = ["/export", "/batch/*"]
    /// http    = ["GET /v1/config/{key}"]
    /// "#;
    /// let loaded = Policy::parse(text, &TrustDomain::parse("example.org")?, Timestamp::from_unix_seconds(1_795_424_400))?;
    /// assert!(loaded.warnings.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Everything that is wrong with the text, each with its place.
    pub fn parse(text: &str, trust_domain: &crate::spiffe::TrustDomain, at: Timestamp) -> Result<Loaded, PolicyErrors> {
        let mut findings = finding::Findings::default();
        let (file, _) = syntax::read(text, trust_domain, &mut findings);
        lint::dates(&file, at, &mut findings);
        // Rules that were not read in whole would be taken for wider ones.
        if !findings.has_errors() {
            lint::shadowed(&file, &mut findings);
        }
        let mut policy = None;
        if !findings.has_errors() {
            match compile::Compiled::new(version_of(text), file) {
                Some(compiled) => policy = Some(Self(Arc::new(compiled))),
                None => {
                    let message =
                        format!("the rules name more than {} pairs of a caller and an operation", compile::MAX_PAIRS);
                    findings.error(&(0..0), "too-large", message).suggest("name callers by roles or patterns");
                }
            }
        }
        let warnings = findings.finish(text)?;
        match policy {
            Some(policy) => Ok(Loaded { policy, warnings }),
            // Not reached: without a policy there was an error.
            None => Err(PolicyErrors::default()),
        }
    }
}

fn version_of(text: &str) -> PolicyVersion {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut version = [0; 32];
    for (to, from) in version.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    PolicyVersion(version)
}

#[cfg(test)]
mod tests;
