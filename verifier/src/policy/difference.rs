//! What another policy would answer otherwise: which caller may do what only in one of the two.

use std::collections::{BTreeSet, HashSet};

use super::{
    Access, Decision, Effect, Method, Operation, Policy, User,
    decide::names_operation,
    explain::names,
    operation::{OperationPattern, Piece, Template},
    syntax::{At, CallerPattern, Rule, UserPattern, UserRule},
};
use crate::{
    caller::{Caller, CallerId, Proof, ProofKind, RoleName, Roles},
    clock::Timestamp,
    spiffe::{Pattern, Segment, SpiffeId, TrustDomain},
    user::{Facts, IssuerName, PresentedUser, UserId},
};

/// One answer that changed. Where a rule has a pattern or a variable, `any` stands for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// Who asks: a service or a user by its ID, and with `+role:…` a role that its record grants, or a user's issuer says.
    pub caller: String,
    /// With which kinds of credentials the answers differ in this way.
    pub proofs: Vec<ProofKind>,
    /// The user's scope; `None` without a user, and where a user who calls has a token that does not say.
    pub scope: Option<String>,
    /// What is asked.
    pub operation: String,
    /// The answer of the old policy, and its rule.
    pub before: String,
    /// The answer of the new one.
    pub after: String,
}

/// What two policies answer differently.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Differences {
    /// The answers that changed, of one representative for each pattern and variable.
    pub changes: Vec<Difference>,
    /// How many questions both were asked.
    pub asked: usize,
    /// Whether everything was asked that rules of either tell apart; with very large policies it is not.
    pub complete: bool,
}

/// The most pairs of a caller and an operation that are looked at.
const MOST_PAIRS: usize = 2_000_000;
/// The most changes that are told.
const MOST_CHANGES: usize = 10_000;
/// What stands for whatever one segment.
const ANY: &str = "any";

impl Policy {
    /// What `new` answers otherwise at this time, in the first stage. Conditions are asked without facts.
    #[must_use]
    pub fn differences(&self, new: &Self, trust_domain: &TrustDomain, at: Timestamp) -> Differences {
        let both = [self, new];
        let changed = Changed::between(self, new);
        let callers = callers(&both, trust_domain);
        let rules = || both.iter().flat_map(|policy| policy.0.rules.iter());
        let operations: BTreeSet<String> =
            rules().flat_map(|rule| &rule.operations).flat_map(|operation| examples(&operation.value)).collect();
        // Where no rule looks at a user, one more would only be told twice.
        let looks = |rule: &Rule| rule.user != UserRule::Any || rule.scope.is_some() || rule.when.is_some();
        let some_user = rules().any(looks).then(|| Some(String::new()));
        let scopes: BTreeSet<Option<String>> =
            rules().map(|rule| rule.scope.clone()).chain([None]).chain(some_user).collect();
        let mut found = Differences { complete: true, ..Differences::default() };
        let mut pairs = 0;
        for (who, id, roles) in &callers {
            for operation in &operations {
                pairs += 1;
                if pairs > MOST_PAIRS || found.changes.len() >= MOST_CHANGES {
                    found.complete = false;
                    return found;
                }
                let Ok(operation) = Operation::parse(operation) else { continue };
                let of_users = id.user().is_some();
                let first = if of_users { ProofKind::IdToken } else { ProofKind::X509Svid };
                if !changed.concerns(&both, &asking(id, roles, first, None), &operation) {
                    continue;
                }
                for scope in &scopes {
                    for kind in ProofKind::ALL.into_iter().filter(|kind| kind.is_of_users() == of_users) {
                        let caller = asking(id, roles, kind, scope.as_deref());
                        let user = match caller.presented_user() {
                            Some(user) => Some(User::from(user)),
                            None => scope.as_deref().map(|scope| User { sub: ANY, scope: Some(scope) }),
                        };
                        let access = Access { caller: &caller, user, operation, facts: None, at };
                        let (before, after) = (self.decide(&access), new.decide(&access));
                        found.asked += 1;
                        if before.effect.as_str() != after.effect.as_str() {
                            let change = Difference {
                                caller: who.clone(),
                                proofs: vec![kind],
                                scope: scope.clone(),
                                operation: operation.to_string(),
                                before: self.told(&before),
                                after: new.told(&after),
                            };
                            found.add(change);
                        }
                    }
                }
            }
        }
        found
    }

    fn told(&self, decision: &Decision) -> String {
        let rule = decision.rule.and_then(|id| self.rule(id)).map(|rule| rule.name());
        match (decision.effect, rule) {
            (Effect::Deny(why), _) => format!("deny ({})", why.code()),
            (effect @ (Effect::Allow | Effect::AllowIfSecondStage), Some(rule)) => {
                format!("{} by `{rule}`", effect.as_str())
            }
            (effect @ (Effect::Allow | Effect::AllowIfSecondStage), None) => effect.as_str().to_owned(),
        }
    }
}

impl Differences {
    /// Changes that differ in the proof alone are one.
    fn add(&mut self, change: Difference) {
        let same = self.changes.iter_mut().rev().take(ProofKind::ALL.len()).find(|known| {
            (&known.caller, &known.scope, &known.operation, &known.before, &known.after)
                == (&change.caller, &change.scope, &change.operation, &change.before, &change.after)
        });
        match same {
            Some(known) => known.proofs.extend(change.proofs),
            None => self.changes.push(change),
        }
    }
}

/// Rules that only one of the two has, by place.
struct Changed {
    everything: bool,
    rules: [Vec<usize>; 2],
}

impl Changed {
    fn between(old: &Policy, new: &Policy) -> Self {
        let keys = |policy: &Policy| policy.0.rules.iter().map(key).collect::<Vec<_>>();
        let (of_old, of_new) = (keys(old), keys(new));
        let only = |keys: &[String], others: &[String]| {
            let others: HashSet<&String> = others.iter().collect();
            keys.iter().enumerate().filter(|(_, key)| !others.contains(key)).map(|(place, _)| place).collect()
        };
        let roles = |policy: &Policy| {
            let of_role = |role: &super::syntax::Role| (role.name.clone(), texts(&role.members), texts(&role.users));
            policy.0.roles.iter().map(of_role).collect::<BTreeSet<_>>()
        };
        Self {
            everything: old.0.accept != new.0.accept || roles(old) != roles(new),
            rules: [only(&of_old, &of_new), only(&of_new, &of_old)],
        }
    }

    /// Whether a rule that changed names both: what no such rule names is answered as before.
    fn concerns(&self, both: &[&Policy; 2], caller: &Caller, operation: &Operation<'_>) -> bool {
        self.everything
            || both.iter().zip(&self.rules).any(|(policy, changed)| {
                let mut rules = changed.iter().filter_map(|place| policy.0.rules.get(*place));
                rules.any(|rule| names_operation(rule, operation) && names(&policy.0, rule, caller, true))
            })
    }
}

/// A caller that asks.
fn asking(id: &CallerId, roles: &RolesInOrder, kind: ProofKind, scope: Option<&str>) -> Caller {
    let key_id = "a question".into();
    match id {
        CallerId::Service(id) => {
            let caller = Caller::new(id.clone(), Proof { kind, key_id }, Timestamp::MAX);
            caller.with_roles(roles.0.clone(), None)
        }
        CallerId::User(id) => Caller::of_user(PresentedUser::new(Facts {
            id: id.clone(),
            roles: roles.0.clone(),
            scope: scope.map(Into::into),
            kind,
            key_id,
            token_id: None,
            valid_until: Timestamp::MAX,
        })),
    }
}

fn texts<T: std::fmt::Display>(callers: &[At<T>]) -> BTreeSet<String> {
    callers.iter().map(|caller| caller.value.to_string()).collect()
}

/// All that a rule says, without its place.
fn key(rule: &Rule) -> String {
    let operations: Vec<_> = rule.operations.iter().map(|operation| operation.value.clone()).collect();
    let when = rule.when.as_ref().map(super::condition::Condition::text);
    let asked = (rule.effect, rule.mode, texts(&rule.callers), operations, rule.proof.strength(), rule.weaker_than);
    format!("{asked:?} {:?} {:?} {:?} {:?} {when:?}", texts(&rule.users), rule.via, rule.user, rule.scope)
}

/// One caller for everything that a rule or a role names.
fn callers(both: &[&Policy; 2], trust_domain: &TrustDomain) -> BTreeSet<(String, CallerId, RolesInOrder)> {
    let mut callers = BTreeSet::new();
    let mut put = |id: CallerId, role: Option<&RoleName>| {
        let who = role.map_or_else(|| id.to_string(), |role| format!("{id} +role:{role}"));
        callers.insert((who, id, RolesInOrder(role.cloned().into_iter().collect())));
    };
    let user = |issuer: Option<IssuerName>| issuer.and_then(|issuer| UserId::new(issuer, ANY).ok()).map(CallerId::User);
    let some_user = user(IssuerName::parse(ANY).ok());
    for policy in both {
        let members = policy.0.roles.iter().flat_map(|role| &role.users);
        for named in policy.0.rules.iter().flat_map(|rule| &rule.users).chain(members) {
            some_user.iter().for_each(|id| put(id.clone(), None));
            match &named.value {
                UserPattern::Id(id) => put(CallerId::User(id.clone()), None),
                UserPattern::Issuer(issuer) => user(Some(issuer.clone())).into_iter().for_each(|id| put(id, None)),
                UserPattern::Role(role) => some_user.iter().for_each(|id| put(id.clone(), Some(role))),
            }
        }
    }
    let mut add = |id: SpiffeId, role: Option<&RoleName>| put(CallerId::Service(id), role);
    let stranger = SpiffeId::new(trust_domain, &format!("/{ANY}")).ok();
    stranger.iter().for_each(|id| add(id.clone(), None));
    for policy in both {
        let members = policy.0.roles.iter().flat_map(|role| &role.members);
        for caller in policy.0.rules.iter().flat_map(|rule| &rule.callers).chain(members) {
            match &caller.value {
                CallerPattern::Id(id) => add(id.clone(), None),
                CallerPattern::Pattern(pattern) => example(pattern).into_iter().for_each(|id| add(id, None)),
                CallerPattern::Role(role) => stranger.iter().for_each(|id| add(id.clone(), Some(role))),
                CallerPattern::Direct => {}
            }
        }
    }
    callers
}

/// Roles that a set of callers can be sorted by: there is at most one.
#[derive(Clone, Debug, Eq, PartialEq)]
struct RolesInOrder(Roles);

impl std::ops::Deref for RolesInOrder {
    type Target = Roles;

    fn deref(&self) -> &Roles {
        &self.0
    }
}

impl Ord for RolesInOrder {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.iter().cmp(other.0.iter())
    }
}

impl PartialOrd for RolesInOrder {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

fn example(pattern: &Pattern) -> Option<SpiffeId> {
    let segments = pattern.segments().iter().map(|segment| match segment {
        Segment::Literal(text) => text.as_str(),
        Segment::Any => ANY,
    });
    let segments = segments.chain(pattern.is_open_ended().then_some(ANY));
    let path: String = segments.map(|segment| format!("/{segment}")).collect();
    SpiffeId::new(pattern.trust_domain(), &path).ok()
}

/// One operation for everything that a rule's operation tells apart.
fn examples(operation: &OperationPattern) -> Vec<String> {
    let path = |template: &Template| {
        let segments = template.pieces().iter().map(|piece| match piece {
            Piece::Literal(text) => format!("/{text}"),
            Piece::One(_) | Piece::Rest => format!("/{ANY}"),
        });
        let path: String = segments.collect();
        if path.is_empty() { "/".to_owned() } else { path }
    };
    match operation {
        OperationPattern::Http { method: Some(method), template } => vec![format!("{method} {}", path(template))],
        OperationPattern::Http { method: None, template } => {
            let methods = Method::ALL.into_iter().filter(|method| *method != Method::Head);
            methods.map(|method| format!("{method} {}", path(template))).collect()
        }
        OperationPattern::Grpc { service, method } => {
            vec![format!("{service}/{}", method.as_deref().unwrap_or("Any"))]
        }
        OperationPattern::App { action, template } => vec![format!("app {action} {}", path(template))],
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::{NOW, PROPOSED, example as domain, policy};

    #[test]
    fn users_who_may_more_are_told_as_users() {
        let old = policy("[[allow]]\nname = \"a\"\ncallers = [\"/a\"]\nhttp = [\"GET /x\"]\n");
        let new = policy(
            "[[allow]]\nname = \"a\"\ncallers = [\"/a\"]\nusers = [\"corp\", \"role:editor\"]\nhttp = [\"GET /x\"]\n",
        );
        let found = old.differences(&new, &domain(), NOW);
        let who: std::collections::BTreeSet<_> = found.changes.iter().map(|change| change.caller.as_str()).collect();
        assert_eq!(who.into_iter().collect::<Vec<_>>(), ["any:any +role:editor", "corp:any"]);
        assert!(found.changes.iter().all(|change| change.proofs.iter().all(|kind| kind.is_of_users())));
        assert!(found.complete && new.differences(&new, &domain(), NOW).changes.is_empty());
    }

    #[test]
    fn where_no_rule_looks_at_a_user_each_change_is_told_once() {
        let of =
            |more: &str| policy(&format!("[[allow]]\nname = \"a\"\ncallers = [\"/a\"]\nhttp = [\"GET /x\"{more}]\n"));
        let found = of("").differences(&of(", \"GET /y\""), &domain(), NOW);
        let told: Vec<_> = found.changes.iter().map(|change| (change.operation.as_str(), &change.scope)).collect();
        assert_eq!(told, [("GET /y", &None)]);
    }

    #[test]
    fn pairs_that_changed() {
        let old = policy(PROPOSED);
        assert!(old.differences(&old, &domain(), NOW).changes.is_empty());
        let new = policy(&PROPOSED.replace("\"GET /v1/watch\"", "\"POST /v1/watch\""));
        let found = old.differences(&new, &domain(), NOW);
        let told: Vec<_> = found
            .changes
            .iter()
            .filter(|change| change.caller.ends_with("/export") && change.scope.is_none())
            .map(|change| {
                (change.operation.as_str(), change.before.as_str(), change.after.as_str(), change.proofs.len())
            })
            .collect();
        // The shared secret is accepted by neither.
        assert_eq!(
            told,
            [
                ("GET /v1/watch", "allow by `exporters read their limits`", "deny (no-rule)", 4),
                ("POST /v1/watch", "deny (no-rule)", "allow by `exporters read their limits`", 4),
            ]
        );
        assert!(found.complete && found.changes.iter().all(|change| !change.caller.contains("legacy")));
    }
}
