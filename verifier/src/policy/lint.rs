//! What is no mistake in the language, and probably not meant.

use std::{collections::HashMap, time::Duration};

use super::{
    compile::parts,
    finding::Findings,
    syntax::{CallerPattern, File, Mode, Rule, RuleEffect, UserPattern, UserRule},
    trie::TrieBuilder,
};
use crate::{
    caller::{ProofKind, Strength},
    clock::Timestamp,
};

/// How long before the end of an `[accept]` date the warnings begin.
pub(super) const NOTICE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Credentials that are soon, or no longer, accepted, and rules that take what the file does not.
pub(super) fn dates(file: &File, at: Timestamp, findings: &mut Findings) {
    for kind in [ProofKind::SharedSecret, ProofKind::ApiKey] {
        let place = file.accept.place(kind);
        match file.accept.until(kind) {
            Some(until) if at >= until => {
                findings
                    .warning(&place, "accept-ended", format!("`{kind}` has not been accepted since {until}"))
                    .suggest("remove the line, and raise the `proof` of the rules that still take it");
            }
            Some(until) if at >= until.saturating_sub(NOTICE) => {
                findings
                    .warning(&place, "accept-ends-soon", format!("`{kind}` is refused from {until} on"))
                    .suggest("see in the records who still uses it");
            }
            Some(_) => {}
            None => {
                let taker = file.rules.iter().find(|rule| {
                    rule.effect == RuleEffect::Allow && rule.mode == Mode::Enforce && rule.strength() == kind.strength()
                });
                let stronger = kind.strength() == Strength::ApiKey && file.accept.shared_secret.is_some();
                if let Some(rule) = taker {
                    let mut message =
                        format!("the rule `{}` takes `{kind}`, the file does not accept any", rule.name.escape_debug());
                    if stronger {
                        message.push_str(" (only `shared-secret`)");
                    }
                    findings
                        .warning(&rule.span, "not-accepted", message)
                        .suggest(format!("add `{kind} = {{ until = … }}` to `[accept]`, or raise the rule's `proof`"));
                }
            }
        }
    }
}

/// The most rules that one rule is compared with: those for the same route, in the order of the file.
const MOST_COMPARED: usize = 64;

/// Rules that another one makes needless, and allow rules that a deny rule always beats.
pub(super) fn shadowed(file: &File, findings: &mut Findings) {
    let mut trie = TrieBuilder::new();
    let mut by_route: HashMap<u32, Vec<usize>> = HashMap::new();
    let mut of_everything = Vec::new();
    for (place, rule) in file.rules.iter().enumerate() {
        if rule.takes_every_operation() {
            of_everything.push(place);
        }
        for operation in &rule.operations {
            let of_route = by_route.entry(trie.leaf(parts(&operation.value))).or_default();
            if of_route.len() < MOST_COMPARED {
                of_route.push(place);
            }
        }
    }
    let trie = trie.build();
    for (place, rule) in file.rules.iter().enumerate().filter(|(_, rule)| rule.mode == Mode::Enforce) {
        let mut others: Vec<usize> = of_everything.iter().copied().take(MOST_COMPARED).collect();
        if let Some(operation) = rule.operations.first() {
            trie.covering(&parts(&operation.value), &mut |leaf| {
                others.extend(by_route.get(&leaf).into_iter().flatten())
            });
        }
        others.sort_unstable();
        others.dedup();
        let others = others.into_iter().filter(|other| *other != place).take(MOST_COMPARED);
        for (other, by) in others.filter_map(|other| file.rules.get(other).map(|by| (other, by))) {
            if !covers(by, rule) {
                continue;
            }
            let (name, by_name) = (rule.name.escape_debug(), by.name.escape_debug());
            if by.effect != rule.effect {
                findings
                    .warning(
                        &rule.span,
                        "never-matches",
                        format!("the rule `{name}` never allows anything: `{by_name}` denies all of it"),
                    )
                    .suggest("narrow the one or remove the other");
                break;
            }
            // A rule before a wider one may be there for its limit or its records.
            let wanted = !rule.limits.is_empty() || rule.audit;
            if (other < place && (!rule.audit || by.audit)) || (!wanted && !covers(rule, by)) {
                let word = rule.effect.as_str();
                findings
                    .warning(
                        &rule.span,
                        "shadowed",
                        format!("the rule `{name}` changes nothing: `{by_name}` does {word} all of it"),
                    )
                    .suggest("remove it, or narrow the other");
                break;
            }
        }
    }
}

/// Whether whatever `rule` matches, `by` matches too, and decides: it denies, or both allow.
fn covers(by: &Rule, rule: &Rule) -> bool {
    let decides = by.effect == RuleEffect::Deny || rule.effect == RuleEffect::Allow;
    let callers = by.takes_every_caller()
        || (!rule.takes_every_caller()
            && rule.callers.iter().all(|one| by.callers.iter().any(|own| covers_caller(&own.value, &one.value)))
            && rule.users.iter().all(|one| by.users.iter().any(|own| covers_user(&own.value, &one.value))));
    let operations = by.takes_every_operation()
        || (!rule.takes_every_operation()
            && rule.operations.iter().all(|one| by.operations.iter().any(|own| own.value.covers(&one.value))));
    let proof = match by.effect {
        RuleEffect::Allow => by.strength() <= rule.strength(),
        RuleEffect::Deny => by.weaker_than.is_none(),
    };
    decides
        && by.mode == Mode::Enforce
        && by.when.is_none()
        && proof
        && (by.via.is_empty() || by.via == rule.via)
        && (by.user == UserRule::Any || by.user == rule.user)
        && (by.scope.is_none() || (by.scope == rule.scope && by.effect == rule.effect))
        && callers
        && operations
}

fn covers_user(by: &UserPattern, user: &UserPattern) -> bool {
    match (by, user) {
        (UserPattern::Issuer(issuer), UserPattern::Id(id)) => issuer == id.issuer(),
        (by, user) => by == user,
    }
}

fn covers_caller(by: &CallerPattern, caller: &CallerPattern) -> bool {
    match (by, caller) {
        (CallerPattern::Pattern(by), CallerPattern::Id(id)) => by.contains(id),
        (CallerPattern::Pattern(by), CallerPattern::Pattern(pattern)) => by.covers(pattern),
        (by, caller) => by == caller,
    }
}
