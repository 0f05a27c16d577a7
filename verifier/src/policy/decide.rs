//! The answer to one request.

use super::{
    Access, Decision, Effect, RuleId, Shadow, User, Why,
    compile::{Check, Compiled, EVERY},
    condition::Outcome,
    operation::Operation,
    syntax::{CallerPattern, Rule, RuleEffect, UserRule},
    trie::NONE,
};
use crate::{
    caller::{Caller, Strength},
    clock::Timestamp,
    spiffe::SpiffeId,
};

/// What of a caller is kept on the stack; more goes to the heap.
const INLINE: usize = 12;

impl Compiled {
    pub(super) fn decide(&self, access: &Access<'_>) -> Decision {
        let denied = |why| Decision { effect: Effect::Deny(why), rule: None, audit: false, shadow: None };
        if let Some(why) = self.refuse_credential(access.caller, access.at) {
            return denied(why);
        }
        let names = Names::of(self, access.caller);
        let mut live = Tally::default();
        let mut candidate = Tally::default();
        let mut ambiguous = false;
        let strength = access.caller.proof().kind.strength();
        self.routes.of(&access.operation, &mut |route, decoded| {
            if decoded {
                ambiguous = true;
                return;
            }
            names.each(|caller, counts| {
                for check in self.by_pair.get(route, caller) {
                    if !check.denies && !counts {
                        continue;
                    }
                    let verdict = self.judge(check, strength, access);
                    if !check.shadow {
                        live.count(check, verdict);
                    }
                    if self.any_shadow {
                        candidate.count(check, verdict);
                    }
                }
            });
        });
        if ambiguous {
            return denied(Why::AmbiguousPath);
        }
        let (effect, rule) = live.answer();
        let mut decision = Decision { effect, rule, audit: live.audit, shadow: None };
        if self.any_shadow {
            let (shadow, by) = candidate.answer();
            decision.shadow = (shadow != effect).then_some(Shadow { effect: shadow, rule: by });
            decision.audit |= decision.shadow.is_some() && candidate.audit;
        }
        decision
    }

    /// What speaks against a credential, whatever it is for.
    pub(super) fn refuse_credential(&self, caller: &Caller, at: Timestamp) -> Option<Why> {
        match self.accept.until(caller.proof().kind) {
            None => return Some(Why::CredentialNotAccepted),
            Some(until) if at >= until => return Some(Why::CredentialNoLongerAccepted),
            Some(_) => {}
        }
        (at > caller.valid_until()).then_some(Why::CredentialExpired)
    }

    #[inline]
    fn judge(&self, check: &Check, strength: Strength, access: &Access<'_>) -> Verdict {
        if !check.denies && strength < check.strength {
            return Verdict::No(Why::ProofTooWeak);
        }
        if !check.more {
            return Verdict::Yes;
        }
        match self.rules.get(usize::try_from(check.place).unwrap_or(usize::MAX)) {
            Some(rule) => judge_rest(rule, access),
            None => Verdict::No(Why::NoRule),
        }
    }
}

/// What a rule that matches caller, operation and proof says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Yes,
    /// A condition waits for facts.
    Later,
    No(Why),
}

/// Proxy, user, scope and condition, in this order: cheap before dear.
pub(super) fn judge_rest(rule: &Rule, access: &Access<'_>) -> Verdict {
    let denies = rule.effect == RuleEffect::Deny;
    if let Some(enough) = rule.weaker_than
        && access.caller.proof().kind.strength() >= enough.strength()
    {
        return Verdict::No(Why::NoRule);
    }
    if !comes_via(rule, access.caller.via()) {
        return Verdict::No(Why::WrongProxy);
    }
    match (rule.user, access.user) {
        (UserRule::Present, None) => return Verdict::No(Why::UserRequired),
        (UserRule::Absent, Some(_)) => return Verdict::No(Why::UserForbidden),
        (UserRule::Any | UserRule::Present | UserRule::Absent, _) => {}
    }
    if let Some(scope) = &rule.scope {
        match access.user {
            // A scope that cannot be known: "no" for an allow rule, "yes" for a deny rule.
            None if !denies => return Verdict::No(Why::UserRequired),
            Some(User { scope: None, .. }) if denies => {}
            Some(user) if !user.has_scope(scope) => return Verdict::No(Why::ScopeTooSmall),
            None | Some(_) => {}
        }
    }
    match &rule.when {
        None => Verdict::Yes,
        Some(when) if when.needs_facts() && access.facts.is_none() => Verdict::Later,
        Some(when) => match when.evaluate(rule, access) {
            Outcome::True => Verdict::Yes,
            Outcome::False => Verdict::No(Why::ConditionFalse),
            Outcome::Error if denies => Verdict::Yes,
            Outcome::Error => Verdict::No(Why::ConditionError),
        },
    }
}

/// Whether the request came the way that the rule names.
fn comes_via(rule: &Rule, via: Option<&SpiffeId>) -> bool {
    rule.via.is_empty()
        || rule.via.iter().any(|named| match (named, via) {
            (CallerPattern::Direct, None) => true,
            (CallerPattern::Id(id), Some(via)) => id == via,
            (CallerPattern::Pattern(pattern), Some(via)) => pattern.contains(via),
            (CallerPattern::Role(_), _) | (_, None) | (CallerPattern::Direct, Some(_)) => false,
        })
}

/// What has been found so far. Places are the smallest, so that the order in which rules are met does not show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    deny: u32,
    deny_later: u32,
    allow: u32,
    allow_later: u32,
    nearest: (u8, u32, Why),
    audit: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            deny: NONE,
            deny_later: NONE,
            allow: NONE,
            allow_later: NONE,
            nearest: (0, NONE, Why::NoRule),
            audit: false,
        }
    }
}

impl Tally {
    #[inline]
    fn count(&mut self, check: &Check, verdict: Verdict) {
        let place = check.place;
        let smaller = |best: &mut u32| *best = (*best).min(place);
        match (check.denies, verdict) {
            (true, Verdict::Yes) => smaller(&mut self.deny),
            (true, Verdict::Later) => smaller(&mut self.deny_later),
            (true, Verdict::No(_)) => return,
            (false, Verdict::Yes) => smaller(&mut self.allow),
            (false, Verdict::Later) => smaller(&mut self.allow_later),
            (false, Verdict::No(why)) => {
                let (far, nearest, _) = self.nearest;
                let this = progress(why);
                if this > far || (this == far && place < nearest) {
                    self.nearest = (this, place, why);
                }
                return;
            }
        }
        self.audit |= check.audit;
    }

    fn answer(&self) -> (Effect, Option<RuleId>) {
        let by = |place| Some(RuleId(place));
        if self.deny != NONE {
            (Effect::Deny(Why::DenyRule), by(self.deny))
        } else if self.allow != NONE {
            let waits = self.deny_later != NONE;
            (if waits { Effect::AllowIfSecondStage } else { Effect::Allow }, by(self.allow))
        } else if self.allow_later != NONE {
            (Effect::AllowIfSecondStage, by(self.allow_later))
        } else {
            let (_, place, why) = self.nearest;
            (Effect::Deny(why), (place != NONE).then_some(RuleId(place)))
        }
    }
}

/// How far a rule came before it said no.
fn progress(why: Why) -> u8 {
    match why {
        Why::NoRule
        | Why::DenyRule
        | Why::CredentialNotAccepted
        | Why::CredentialNoLongerAccepted
        | Why::CredentialExpired
        | Why::AmbiguousPath => 0,
        Why::ProofTooWeak => 1,
        Why::WrongProxy => 2,
        Why::UserRequired | Why::UserForbidden => 3,
        Why::ScopeTooSmall => 4,
        Why::ConditionFalse | Why::ConditionError => 5,
    }
}

/// What names the caller: a number, and whether it counts for allow rules.
struct Names {
    inline: [(u32, bool); INLINE],
    length: usize,
    more: Vec<(u32, bool)>,
}

impl Names {
    fn of(compiled: &Compiled, caller: &Caller) -> Self {
        let everybody = usize::from(compiled.for_everybody);
        let mut names = Self { inline: [(EVERY, true); INLINE], length: everybody, more: Vec::new() };
        compiled.callers.of(caller, &mut |number, counts| match names.inline.get_mut(names.length) {
            Some(free) => {
                *free = (number, counts);
                names.length += 1;
            }
            None => names.more.push((number, counts)),
        });
        names
    }

    fn each(&self, mut visit: impl FnMut(u32, bool)) {
        for (number, counts) in self.inline.iter().take(self.length).chain(&self.more) {
            visit(*number, *counts);
        }
    }
}

/// Whether a rule names an operation. Slow and obvious.
pub(super) fn names_operation(rule: &Rule, operation: &Operation<'_>) -> bool {
    rule.takes_every_operation() || rule.operations.iter().any(|own| own.value.matches(operation, |a, b| a == b))
}
