//! Conditions by Cedar's evaluator.

use std::str::FromStr;

use cedar_policy::{
    Context, Entities, EntityUid, EvalResult, Expression, Request, RestrictedExpression as Value, eval_expression,
};

use super::{Condition, Outcome};
use crate::{
    caller::CallerId,
    policy::{
        Access, Fact, Facts,
        operation::{Operation, Template},
        syntax::Rule,
    },
};

/// An expression, and nothing else than one.
pub(super) fn parse(text: &str) -> Result<Expression, String> {
    Expression::from_str(text).map_err(|errors| {
        let text = errors.to_string();
        text.split('\n').collect::<Vec<_>>().join(", ")
    })
}

pub(super) fn evaluate(condition: &Condition, rule: &Rule, access: &Access<'_>) -> Outcome {
    let path = match &access.operation {
        Operation::Http { path, .. } => Some(path),
        Operation::App { resource, .. } => Some(resource),
        Operation::Grpc { .. } => None,
    };
    let Some(path) = path.filter(|_| condition.uses.params) else { return once(condition, access, None) };
    let mut outcome = Outcome::False;
    let matching = rule.operations.iter().map(|own| &own.value);
    for own in matching.filter(|own| own.matches(&access.operation, |a, b| a == b)) {
        let Some(template) = own.template() else { continue };
        match once(condition, access, Some((template, path))) {
            Outcome::True => return Outcome::True,
            Outcome::Error => outcome = Outcome::Error,
            Outcome::False => {}
        }
    }
    outcome
}

fn once(
    condition: &Condition,
    access: &Access<'_>,
    params: Option<(&Template, &crate::policy::CanonicalPath<'_>)>,
) -> Outcome {
    let answer = context(condition, access, params).and_then(|context| {
        let request = Request::new(nobody()?, nobody()?, nobody()?, context, None).ok()?;
        eval_expression(&request, &Entities::empty(), &condition.expression).ok()
    });
    match answer {
        Some(EvalResult::Bool(true)) => Outcome::True,
        Some(EvalResult::Bool(false)) => Outcome::False,
        _ => Outcome::Error,
    }
}

/// Conditions are about records alone; Cedar wants to be told of three entities all the same.
fn nobody() -> Option<EntityUid> {
    EntityUid::from_str(r#"Nobody::"nobody""#).ok()
}

fn text(text: &str) -> Value {
    Value::new_string(text.to_owned())
}

fn record(pairs: Vec<(String, Value)>) -> Option<Value> {
    Value::new_record(pairs).ok()
}

fn context(
    condition: &Condition,
    access: &Access<'_>,
    params: Option<(&Template, &crate::policy::CanonicalPath<'_>)>,
) -> Option<Context> {
    let mut pairs = Vec::with_capacity(4);
    if condition.uses.caller {
        pairs.push(("caller".to_owned(), caller(access)?));
    }
    if condition.uses.user
        && let Some(user) = access.user
    {
        let mut of_user = vec![("sub".to_owned(), text(user.sub))];
        // One that is not known is not there, so that a condition about it fails.
        let scope = user.scope.map(|scope| Value::new_set(scope.split_ascii_whitespace().map(text)));
        of_user.extend(scope.map(|scope| ("scope".to_owned(), scope)));
        pairs.push(("user".to_owned(), record(of_user)?));
    }
    if let Some((template, path)) = params {
        let values = template.values(path).map(|(name, value)| (name.to_owned(), text(&value)));
        pairs.push(("params".to_owned(), record(values.collect())?));
    }
    if let Some(facts) = access.facts.filter(|_| condition.uses.resource) {
        pairs.push(("resource".to_owned(), resource(facts)?));
    }
    Context::from_pairs(pairs).ok()
}

fn caller(access: &Access<'_>) -> Option<Value> {
    let caller = access.caller;
    let roles = |roles: &crate::caller::Roles| Value::new_set(roles.iter().map(|role| text(role.as_str())));
    let who = match caller.id() {
        CallerId::Service(id) => {
            [("id", id.as_str()), ("path", id.path()), ("trust_domain", id.trust_domain().as_str())]
        }
        CallerId::User(id) => [("user", id.as_str()), ("issuer", id.issuer().as_str()), ("subject", id.subject())],
    };
    let mut pairs: Vec<_> = who.map(|(name, value)| (name.to_owned(), text(value))).into();
    pairs.extend([
        ("roles".to_owned(), roles(caller.granted_roles())),
        ("proof".to_owned(), text(caller.proof().kind.as_str())),
    ]);
    pairs.extend(caller.asserted_roles().map(|asserted| ("asserted".to_owned(), roles(asserted))));
    pairs.extend(caller.via().map(|via| ("via".to_owned(), text(via.as_str()))));
    record(pairs)
}

fn resource(facts: &Facts) -> Option<Value> {
    if facts.are_too_many() {
        return None;
    }
    let value = |fact: &Fact| match fact {
        Fact::Bool(value) => Value::new_bool(*value),
        Fact::Integer(value) => Value::new_long(*value),
        Fact::Text(value) => text(value),
        Fact::Texts(values) => Value::new_set(values.iter().map(|value| text(value))),
    };
    record(facts.iter().map(|(name, fact)| (name.to_owned(), value(fact))).collect())
}
