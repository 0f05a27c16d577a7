//! What a policy means, said in Cedar: the definition of its semantics, and the oracle of its tests (T-28).
//!
//! Two things Cedar cannot say are facts of the request: which patterns match its caller and which operations match its path, each by the
//! slow and obvious matchers. And Cedar passes over a `forbid` that fails: whoever evaluates this takes such a failure as a denial.

use std::fmt::Write as _;

use super::{
    Policy,
    compile::Compiled,
    condition,
    operation::OperationPattern,
    syntax::{At, CallerPattern, Mode, Rule, RuleEffect, UserPattern, UserRule},
};
use crate::{
    caller::{ProofKind, RoleName},
    clock::Timestamp,
};

impl Policy {
    /// The policy as Cedar's policies over one `context`: what is enforced, or with `shadow` what would be if every rule were.
    ///
    /// The context has `caller_id`, `patterns` (of callers) and `routes` that match, `granted` and perhaps `asserted` roles, `proof` and
    /// `strength` (0 for an API key to 3 for an X.509-SVID), perhaps `via` and `via_patterns`, perhaps `user`, `at` and `valid_until`
    /// in milliseconds, `ambiguous`, and for conditions `caller`, `params_of` and `resource`. Where a user calls with no service in front,
    /// `caller_user`, `caller_issuer` and `granted_user` say who, and `caller_id`, `patterns` and `granted` are empty; where a service calls,
    /// it is the other way round. A `forbid` that fails to evaluate denies.
    #[must_use]
    pub fn to_cedar(&self, shadow: bool) -> String {
        let compiled = &*self.0;
        let mut out = String::new();
        let mut forbid = |id: &str, when: &str| {
            // Writing to a `String` cannot fail.
            let _ = writeln!(out, "@id({id:?}) forbid(principal, action, resource) when {{ {when} }};");
        };
        for kind in ProofKind::ALL {
            match compiled.accept.until(kind) {
                None => forbid("not accepted", &format!("context.proof == {:?}", kind.as_str())),
                Some(Timestamp::MAX) => {}
                Some(until) => forbid(
                    "no longer accepted",
                    &format!("context.proof == {:?} && context.at >= {}", kind.as_str(), until.unix_millis()),
                ),
            }
        }
        forbid("expired", "context.at > context.valid_until");
        forbid("ambiguous path", "context.ambiguous");
        for rule in compiled.rules.iter().filter(|rule| shadow || rule.mode == Mode::Enforce) {
            for condition in conditions(compiled, rule) {
                let effect = if rule.effect == RuleEffect::Allow { "permit" } else { "forbid" };
                let _ = writeln!(
                    out,
                    "@id({}) {effect}(principal, action, resource) when {{ {condition} }};",
                    quoted(&rule.name)
                );
            }
        }
        out
    }
}

/// What a rule asks for, as expressions of which one must hold: several when its condition is about the variables of several paths.
fn conditions(compiled: &Compiled, rule: &Rule) -> Vec<String> {
    let mut asked = Vec::new();
    let denies = rule.effect == RuleEffect::Deny;
    if !rule.takes_every_caller() {
        let callers = rule.callers.iter().map(|caller| names(compiled, &caller.value, denies));
        let users = rule.users.iter().map(|user| names_user(compiled, &user.value));
        asked.push(any(callers.chain(users)));
    }
    if denies {
        asked.extend(rule.weaker_than.map(|kind| format!("context.strength < {}", strength(kind))));
    } else {
        asked.push(format!("context.strength >= {}", strength(rule.proof)));
    }
    if !rule.via.is_empty() {
        asked.push(any(rule.via.iter().map(|via| match via {
            CallerPattern::Direct => "!(context has via)".to_owned(),
            CallerPattern::Id(id) => format!("(context has via && context.via == {})", quoted(id.as_str())),
            other => format!("context.via_patterns.contains({})", quoted(&other.to_string())),
        })));
    }
    match rule.user {
        UserRule::Any => {}
        UserRule::Present => asked.push("context has user".to_owned()),
        UserRule::Absent => asked.push("!(context has user)".to_owned()),
    }
    if let Some(scope) = &rule.scope {
        let words = scope.split(' ').map(|word| format!("context.user.scope.contains({})", quoted(word)));
        let all = words.collect::<Vec<_>>().join(" && ");
        asked.push(if denies {
            format!("(!(context has user) || !(context.user has scope) || ({all}))")
        } else {
            format!("(context has user && context.user has scope && {all})")
        });
    }
    let routes = |routes: &[At<OperationPattern>]| {
        any(routes.iter().map(|route| format!("context.routes.contains({})", quoted(&route_text(&route.value)))))
    };
    match &rule.when {
        None => {
            if !rule.takes_every_operation() {
                asked.push(routes(&rule.operations));
            }
            vec![asked.join(" && ")]
        }
        Some(_) if rule.takes_every_operation() => vec![with_when(&asked, rule, None)],
        Some(_) => {
            let one = |route: &At<OperationPattern>| {
                let mut asked = asked.clone();
                asked.push(routes(std::slice::from_ref(route)));
                with_when(&asked, rule, Some(&route.value))
            };
            rule.operations.iter().map(one).collect()
        }
    }
    .into_iter()
    .map(|asked| if asked.is_empty() { "true".to_owned() } else { asked })
    .collect()
}

fn with_when(asked: &[String], rule: &Rule, route: Option<&OperationPattern>) -> String {
    let params =
        route.map_or_else(|| "params".to_owned(), |route| format!("params_of[{}]", quoted(&route_text(route))));
    let when = rule.when.as_ref().map(condition::Condition::text).unwrap_or_default();
    let when = condition::in_cedar(when, &params);
    [asked, &[format!("({when})")]].concat().join(" && ")
}

fn any(parts: impl Iterator<Item = String>) -> String {
    format!("({})", parts.collect::<Vec<_>>().join(" || "))
}

fn names(compiled: &Compiled, caller: &CallerPattern, denies: bool) -> String {
    match caller {
        CallerPattern::Id(id) => format!("context.caller_id == {}", quoted(id.as_str())),
        CallerPattern::Pattern(pattern) => format!("context.patterns.contains({})", quoted(&pattern.to_string())),
        CallerPattern::Role(role) if denies => granted(compiled, role),
        CallerPattern::Role(role) => format!(
            "({} && (!(context has asserted) || context.asserted.contains({})))",
            granted(compiled, role),
            quoted(role.as_str())
        ),
        CallerPattern::Direct => "false".to_owned(),
    }
}

fn names_user(compiled: &Compiled, user: &UserPattern) -> String {
    match user {
        UserPattern::Id(id) => format!("context.caller_user == {}", quoted(id.as_str())),
        UserPattern::Issuer(issuer) => format!("context.caller_issuer == {}", quoted(issuer.as_str())),
        UserPattern::Role(role) => {
            let claimed = format!("context.granted_user.contains({})", quoted(role.as_str()));
            let members = compiled.roles.iter().filter(|known| known.name == *role).flat_map(|role| &role.users);
            any(std::iter::once(claimed).chain(members.map(|member| names_user(compiled, &member.value))))
        }
    }
}

fn granted(compiled: &Compiled, role: &RoleName) -> String {
    let record = format!("context.granted.contains({})", quoted(role.as_str()));
    let members = compiled.roles.iter().filter(|known| known.name == *role).flat_map(|role| &role.members);
    any(std::iter::once(record).chain(members.map(|member| names(compiled, &member.value, true))))
}

/// How an operation is called in `routes`.
pub(super) fn route_text(route: &OperationPattern) -> String {
    match route {
        OperationPattern::Http { .. } => route.to_string(),
        OperationPattern::Grpc { .. } => format!("grpc {route}"),
        OperationPattern::App { .. } => format!("app {route}"),
    }
}

pub(super) fn strength(kind: ProofKind) -> u8 {
    match kind {
        ProofKind::X509Svid => 3,
        ProofKind::JwtSvid
        | ProofKind::AccessToken
        | ProofKind::IdToken
        | ProofKind::UserAccessToken
        | ProofKind::Session => 2,
        ProofKind::SharedSecret => 1,
        ProofKind::ApiKey => 0,
    }
}

/// A text as Cedar writes it.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|character| match character {
            '"' => vec!['\\', '"'],
            '\\' => vec!['\\', '\\'],
            other => vec![other],
        })
        .collect();
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests;
