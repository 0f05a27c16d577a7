//! Why a request is allowed or denied, rule by rule, for a person. Slow and obvious.

use std::fmt;

use super::{
    Access, Decision, Effect, Policy, Why,
    compile::Compiled,
    condition::Condition,
    decide::{Verdict, judge_rest, names_operation},
    operation::{Operation, OperationPattern},
    syntax::{CallerPattern, Mode, Rule, RuleEffect, UserPattern, UserRule},
};
use crate::{
    caller::{Caller, CallerId},
    spiffe::SpiffeId,
};

/// An answer, and what led to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// The answer, as [`Policy::decide`] gives it.
    pub decision: Decision,
    /// The name of the rule that decided.
    pub rule: Option<String>,
    /// Every rule that matches in everything, in the order of the file.
    pub matching: Vec<String>,
    /// For a denial that no deny rule made: the allow rules that came nearest, at most three, and what differed.
    pub nearest: Vec<NearRule>,
    /// For a denial before any rule was looked at: what speaks against the credential or the path.
    pub before_rules: Option<String>,
}

/// A rule that does not match, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NearRule {
    /// Its name.
    pub rule: String,
    /// What would have to be otherwise, each in a sentence.
    pub differences: Vec<String>,
}

impl Policy {
    /// Why [`Policy::decide`] answers as it does.
    #[must_use]
    pub fn explain(&self, access: &Access<'_>) -> Explanation {
        let compiled = &*self.0;
        let decision = compiled.decide(access);
        let mut near = Vec::new();
        let mut matching = Vec::new();
        for rule in &compiled.rules {
            let differences = differences(compiled, rule, access);
            if differences.is_empty() {
                let mode = if rule.mode == Mode::Shadow { " (in shadow mode)" } else { "" };
                matching.push(format!("{}{mode}", rule.name));
            } else if rule.effect == RuleEffect::Allow && rule.mode == Mode::Enforce {
                near.push((differences, &rule.name));
            }
        }
        let weight = |(differences, _): &(Vec<(usize, String)>, &String)| {
            differences.iter().map(|(weight, _)| weight).sum::<usize>()
        };
        let least = near.iter().map(weight).min().unwrap_or(0);
        let before_rules = match decision.effect {
            Effect::Deny(why) => before_rules(compiled, access, why),
            Effect::Allow | Effect::AllowIfSecondStage => None,
        };
        let told = matches!(decision.effect, Effect::Deny(why) if why != Why::DenyRule) && before_rules.is_none();
        let nearest = near.into_iter().filter(|near| told && weight(near) == least).take(3);
        Explanation {
            decision,
            rule: decision.rule.and_then(|id| self.rule(id)).map(|rule| rule.name().to_owned()),
            matching,
            before_rules,
            nearest: nearest
                .map(|(differences, rule)| NearRule {
                    rule: rule.clone(),
                    differences: differences.into_iter().map(|(_, text)| text).collect(),
                })
                .collect(),
        }
    }
}

/// What a request is denied for whatever the rules say, in a sentence.
fn before_rules(compiled: &Compiled, access: &Access<'_>, why: Why) -> Option<String> {
    let kind = access.caller.proof().kind;
    let until = compiled.accept.until(kind);
    match why {
        Why::CredentialNotAccepted => {
            Some(format!("the file accepts no `{kind}`; `[accept]` would have to name it, `{kind} = {{ until = … }}`"))
        }
        Why::CredentialNoLongerAccepted => {
            until.map(|until| format!("the file accepts no `{kind}` since {until}; see `[accept]`"))
        }
        Why::CredentialExpired => Some(format!("the credential ended at {}", access.caller.valid_until())),
        Why::AmbiguousPath => Some("the path, decoded, is one that a rule names literally".to_owned()),
        Why::NoRule
        | Why::DenyRule
        | Why::ProofTooWeak
        | Why::WrongProxy
        | Why::UserRequired
        | Why::UserForbidden
        | Why::ScopeTooSmall
        | Why::ConditionFalse
        | Why::ConditionError => None,
    }
}

/// What of a rule does not fit, and how much it weighs against calling the rule near.
fn differences(compiled: &Compiled, rule: &Rule, access: &Access<'_>) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let denies = rule.effect == RuleEffect::Deny;
    let caller = access.caller;
    if !names(compiled, rule, caller, denies) {
        let unasserted = rule.callers.iter().find(|own| names_caller(compiled, &own.value, caller, true));
        found.push((
            4,
            match unasserted {
                Some(role) => format!("`{}` is granted but the credential does not assert it", role.value),
                None => caller_difference(rule, caller),
            },
        ));
    }
    if !names_operation(rule, &access.operation) {
        found.push(operation_difference(rule, &access.operation));
    }
    if !denies && caller.proof().kind.strength() < rule.strength() {
        found
            .push((1, format!("the proof is `{}`, the rule takes `{}` and stronger", caller.proof().kind, rule.proof)));
    }
    if !found.is_empty() {
        return found;
    }
    match judge_rest(rule, access) {
        Verdict::Yes | Verdict::Later => {}
        Verdict::No(why) => found.push((1, refused(rule, access, why))),
    }
    found
}

fn refused(rule: &Rule, access: &Access<'_>, why: Why) -> String {
    let when = rule.when.as_ref().map(Condition::text).unwrap_or_default();
    match why {
        Why::WrongProxy => {
            let via = access.caller.via().map_or_else(|| "came directly".to_owned(), |via| format!("came via `{via}`"));
            format!("the request {via}, the rule wants it via {}", few(rule.via.iter()))
        }
        Why::UserRequired => "there is no user".to_owned(),
        Why::UserForbidden => "there is a user".to_owned(),
        Why::ScopeTooSmall => format!(
            "the user's scope is `{}`, the rule asks for `{}`",
            access.user.and_then(|user| user.scope).unwrap_or("(unknown)"),
            rule.scope.as_deref().unwrap_or_default()
        ),
        Why::ConditionFalse => format!("the condition `{when}` does not hold"),
        Why::ConditionError => {
            let missing =
                if rule.user == UserRule::Any && access.user.is_none() { ", and there is no user" } else { "" };
            format!("the condition `{when}` cannot be evaluated{missing}")
        }
        Why::NoRule
        | Why::DenyRule
        | Why::CredentialNotAccepted
        | Why::CredentialNoLongerAccepted
        | Why::CredentialExpired
        | Why::ProofTooWeak
        | Why::AmbiguousPath => "the rule is for weaker proofs".to_owned(),
    }
}

fn operation_difference(rule: &Rule, operation: &Operation<'_>) -> (usize, String) {
    if let Operation::Http { method, path } = operation {
        let same_path = rule.operations.iter().find(|own| match &own.value {
            OperationPattern::Http { template, .. } => template.matches(path, |a, b| a == b),
            OperationPattern::Grpc { .. } | OperationPattern::App { .. } => false,
        });
        if let Some(own) = same_path {
            return (2, format!("the method is {method}, the rule has `{}`", own.value));
        }
    }
    (5, format!("`{operation}` is none of {}", few(rule.operations.iter().map(|own| &own.value))))
}

fn caller_difference(rule: &Rule, caller: &Caller) -> String {
    let (kind, named) = match caller.id() {
        CallerId::Service(_) => ("caller", rule.callers.iter().map(|own| own.value.to_string()).collect::<Vec<_>>()),
        CallerId::User(_) => ("user", rule.users.iter().map(|own| own.value.to_string()).collect::<Vec<_>>()),
    };
    if named.is_empty() {
        let other = if kind == "user" { "services" } else { "users" };
        return format!("the {kind} `{}` calls, and the rule is for {other}", caller.id());
    }
    format!("the {kind} `{}` is none of {}", caller.id(), few(named.iter()))
}

/// Whether a rule names a caller, a service or a user. Slow and obvious.
pub(super) fn names(compiled: &Compiled, rule: &Rule, caller: &Caller, granted: bool) -> bool {
    rule.takes_every_caller()
        || rule.callers.iter().any(|own| names_caller(compiled, &own.value, caller, granted))
        || rule.users.iter().any(|own| names_user(compiled, &own.value, caller))
}

/// Whether a user who calls is one of these.
fn names_user(compiled: &Compiled, own: &UserPattern, caller: &Caller) -> bool {
    let Some(user) = caller.user() else { return false };
    let is = |own: &UserPattern| match own {
        UserPattern::Id(id) => id == user,
        UserPattern::Issuer(issuer) => issuer == user.issuer(),
        UserPattern::Role(_) => false,
    };
    match own {
        UserPattern::Role(role) => {
            let mut members = compiled.roles.iter().filter(|known| known.name == *role).flat_map(|role| &role.users);
            caller.granted_roles().contains(role) || members.any(|member| is(&member.value))
        }
        other => is(other),
    }
}

/// Whether a service that calls is one of these. `granted`: by what is granted alone, as deny rules look at it.
pub(super) fn names_caller(compiled: &Compiled, own: &CallerPattern, caller: &Caller, granted: bool) -> bool {
    let Some(service) = caller.service() else { return false };
    let is = |own: &CallerPattern, id: &SpiffeId| match own {
        CallerPattern::Id(own) => own == id,
        CallerPattern::Pattern(pattern) => pattern.contains(id),
        CallerPattern::Role(_) | CallerPattern::Direct => false,
    };
    match own {
        CallerPattern::Role(role) => {
            let mut members = compiled.roles.iter().filter(|known| known.name == *role).flat_map(|role| &role.members);
            let has = caller.granted_roles().contains(role) || members.any(|member| is(&member.value, service));
            has && (granted || caller.asserted_roles().is_none_or(|asserted| asserted.contains(role)))
        }
        other => is(other, service),
    }
}

/// The first few of a list.
fn few<T: fmt::Display>(all: impl ExactSizeIterator<Item = T>) -> String {
    let count = all.len();
    let shown: Vec<_> = all.take(5).map(|one| format!("`{one}`")).collect();
    let more = if count > 5 { format!(" and {} more", count - 5) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Several lines, for a terminal.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.decision.effect.as_str())?;
        if let Effect::Deny(why) = self.decision.effect {
            write!(f, " ({})", why.code())?;
        }
        let decided = !matches!(self.decision.effect, Effect::Deny(why) if why != Why::DenyRule);
        if let Some(rule) = self.rule.as_ref().filter(|_| decided) {
            write!(f, " by the rule `{rule}`")?;
        }
        if self.decision.effect == Effect::AllowIfSecondStage {
            f.write_str("; the handler must ask again with what it knows about the resource")?;
        }
        if let Some(told) = &self.before_rules {
            write!(f, "\n{told}")?;
        }
        for near in &self.nearest {
            write!(f, "\nnearest: `{}`, but {}", near.rule, near.differences.join(", and "))?;
        }
        if self.matching.len() > 1 || (self.before_rules.is_some() && !self.matching.is_empty()) {
            write!(f, "\nmatching: {}", self.matching.join(", "))?;
        }
        if let Some(shadow) = self.decision.shadow {
            write!(f, "\nwith the rules in shadow mode enforced: {}", shadow.effect.as_str())?;
        }
        Ok(())
    }
}
