//! The compiled engine and Cedar's, on random policies and requests.

use std::{collections::hash_map::RandomState, hash::BuildHasher as _, str::FromStr as _};

use cedar_policy::{
    Authorizer, Context, Decision, Effect as CedarEffect, Entities, EntityUid, PolicySet, Request,
    RestrictedExpression as Value,
};

use super::*;
use crate::{
    caller::{Caller, CallerId, Proof, Roles},
    policy::{
        Access, Effect, Facts, Operation, User,
        operation::CanonicalPath,
        tests::{NOW, example, roles},
    },
    spiffe::SpiffeId,
    user::{Facts as Presented, PresentedUser, UserId},
};

/// A small generator: what it makes has to be the same again for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// One to three of them, each once, as a list of TOML.
    fn list(&mut self, from: &[&str]) -> String {
        let mut picked: Vec<_> = (0..=self.below(3)).map(|_| self.pick(from)).collect();
        picked.sort_unstable();
        picked.dedup();
        format!("{picked:?}")
    }
}

const CALLERS: &[&str] = &[
    "/a",
    "/b",
    "/a/b",
    "/*",
    "/**",
    "/a/*",
    "/a/**",
    "/*/b",
    "/bonafide/ca",
    "role:r1",
    "role:r2",
    "role:r3",
    "spiffe://partner.example/a",
    "spiffe://partner.example/**",
];
/// T-20: roles of the same names as those of services.
const USERS: &[&str] = &["corp", "corp:john", "corp:jane", "home:john", "home:*", "role:r1", "role:r2", "role:r3"];
const MEMBERS: &[&str] =
    &["/a", "/a/*", "/bonafide/ca", "spiffe://partner.example/*", "corp:john", "home:*", "corp:jane"];
const PEOPLE: &[&str] = &["corp:john", "corp:jane", "home:john", "home:jane", "corp:spiffe"];
const IDS: &[&str] = &[
    "spiffe://example.org/a",
    "spiffe://example.org/b",
    "spiffe://example.org/a/b",
    "spiffe://example.org/a/b/c",
    "spiffe://example.org/c",
    "spiffe://example.org/bonafide/ca",
    "spiffe://example.org/bonafide/node/b",
    "spiffe://partner.example/a",
    "spiffe://partner.example/a/b",
];
const HTTP: &[&str] = &[
    "GET /",
    "GET /x",
    "GET /x/{id}",
    "* /x/*",
    "GET /x/y",
    "* /**",
    "PUT /x/**",
    "GET /{a}/y",
    "GET /x:y",
    "* /{a}",
    "GET /x/{id}/z",
    "DELETE /{a}/{b}/**",
];
const GRPC: &[&str] = &["a.S/M", "a.S/*", "a.T/M"];
const APP: &[&str] = &["do /x/{id}", "do /**", "undo /x"];
const OPERATIONS: &[&str] = &[
    "GET /",
    "GET /x",
    "HEAD /x",
    "PUT /x",
    "GET /x/y",
    "PUT /x/y",
    "GET /x/z",
    "GET /q",
    "GET /q/y",
    "GET /x/y/z",
    "DELETE /x/y/z",
    "GET /x:y",
    "GET /x%3ay",
    "GET /x/%3Ay",
    "a.S/M",
    "a.S/N",
    "a.T/M",
    "a.U/M",
    "app do /x/1",
    "app undo /x",
    "app do /y",
    "app redo /x",
];
const PROOFS: &[&str] = &["x509", "jwt-svid", "access-token", "shared-secret", "api-key"];
const WHEN: &[&str] = &[
    "caller.proof == \"x509\"",
    "user.sub == \"john\"",
    "user.scope.contains(\"s1\") || caller.path like \"/a*\"",
    "resource.owner == user.sub",
    "resource has public && resource.public",
    "caller has via && caller.roles.contains(\"r1\")",
    "caller has issuer && caller.issuer == \"corp\"",
    "caller.subject == \"john\"",
    "1 + 9223372036854775807 > 0",
    "caller.path",
];

fn random_policy(random: &mut Random) -> String {
    let mut text = String::from("version = 1\n[accept]\n");
    for kind in ["shared-secret", "api-key"] {
        match random.below(3) {
            0 => text.push_str(&format!("{kind} = {{ until = 2026-12-31 }}\n")),
            1 => text.push_str(&format!("{kind} = {{ until = 2026-01-31 }}\n")),
            _ => {}
        }
    }
    text.push_str("[roles]\n");
    for role in ["r1", "r2", "r3"] {
        let members = if random.one_in(3) { "[]".to_owned() } else { random.list(MEMBERS) };
        text.push_str(&format!("{role} = {members}\n"));
    }
    for number in 0..3 + random.below(8) {
        let denies = random.one_in(6);
        text.push_str(&format!("[[{}]]\nname = \"rule {number}\"\n", if denies { "deny" } else { "allow" }));
        let users_alone = random.one_in(4);
        if !users_alone && (!denies || !random.one_in(3)) {
            text.push_str(&format!("callers = {}\n", random.list(CALLERS)));
        }
        if users_alone || random.one_in(3) {
            text.push_str(&format!("users = {}\n", random.list(USERS)));
        }
        let everything = denies && random.one_in(4);
        let (mut any_http, kind) = (false, random.below(6));
        if !everything {
            match kind {
                0 => text.push_str(&format!("grpc = {}\n", random.list(GRPC))),
                1 => text.push_str(&format!("app = {}\n", random.list(APP))),
                2 => text.push_str(&format!("grpc = {}\nhttp = {}\n", random.list(GRPC), random.list(HTTP))),
                _ if random.one_in(3) => {
                    any_http = true;
                    text.push_str("http = [\"GET /x/{id}\", \"PUT /{id}/y\"]\n");
                }
                _ => text.push_str(&format!("http = {}\n", random.list(HTTP))),
            }
        }
        if random.one_in(2) {
            let key = if denies { "weaker-than" } else { "proof" };
            let proof = match (denies, users_alone) {
                (true, _) => random.pick(&PROOFS[..4]),
                // No user has a proof as strong as a certificate, and a rule that asks for it is refused.
                (false, true) => random.pick(&PROOFS[1..]),
                (false, false) => random.pick(PROOFS),
            };
            text.push_str(&format!("{key} = {proof:?}\n"));
        }
        let scope = random.one_in(4);
        if scope {
            text.push_str(&format!("scope = {:?}\n", random.pick(&["s1", "s2", "s1 s2"])));
        }
        if random.one_in(4) {
            let word = match (denies, scope || random.one_in(2)) {
                (true, true) => "present",
                (true, false) => "absent",
                (false, false) if !users_alone => "forbidden",
                (false, _) => "required",
            };
            text.push_str(&format!("user = {word:?}\n"));
        }
        if random.one_in(6) {
            text.push_str(&format!("via = {}\n", random.list(&["direct", "/edge", "/e/*"])));
        }
        if random.one_in(4) {
            let when = if any_http && random.one_in(2) { "params.id == \"y\"" } else { random.pick(WHEN) };
            text.push_str(&format!("when = '{when}'\n"));
        }
        if random.one_in(6) {
            text.push_str("mode = \"shadow\"\n");
        }
    }
    text
}

/// Everything a request has, as owned values.
#[derive(Debug)]
struct Asked {
    caller: Caller,
    user: Option<(String, Option<String>)>,
    operation: &'static str,
    facts: Facts,
    at: Timestamp,
}

fn random_request(random: &mut Random) -> Asked {
    // Most requests get past what is not about rules, or no rule would be looked at.
    let of_services: Vec<_> = ProofKind::ALL.into_iter().filter(|kind| !kind.is_of_users()).collect();
    let kind = if random.one_in(2) { ProofKind::X509Svid } else { of_services[random.below(of_services.len())] };
    let id = SpiffeId::parse(random.pick(IDS)).unwrap();
    let until = if random.one_in(40) { NOW.saturating_sub(std::time::Duration::from_secs(1)) } else { Timestamp::MAX };
    let mut caller = Caller::new(id, Proof { kind, key_id: "k".into() }, until);
    let some = |random: &mut Random| -> Roles {
        let names: Vec<&str> = ["r1", "r2", "r3", "other"].into_iter().filter(|_| random.one_in(2)).collect();
        roles(&names)
    };
    let granted = if random.one_in(2) { some(random) } else { Roles::default() };
    let asserted = random.one_in(3).then(|| some(random));
    let presents = random.one_in(3).then(|| {
        let of_users: Vec<_> = ProofKind::ALL.into_iter().filter(|kind| kind.is_of_users()).collect();
        PresentedUser::new(Presented {
            id: UserId::parse(random.pick(PEOPLE)).unwrap(),
            roles: granted.clone(),
            scope: [None, Some(""), Some("s1"), Some("s2 s1")][random.below(4)].map(Into::into),
            kind: of_users[random.below(of_users.len())],
            key_id: "k".into(),
            token_id: None,
            valid_until: until,
        })
    });
    caller = match &presents {
        Some(user) if !random.one_in(4) => Caller::of_user(user.clone()),
        Some(user) => caller.with_roles(granted, asserted).acting_for(user.clone()),
        None => caller.with_roles(granted, asserted),
    };
    if random.one_in(3) {
        let via = random.pick(&["spiffe://example.org/edge", "spiffe://example.org/e/1", "spiffe://example.org/x"]);
        caller = caller.with_via(SpiffeId::parse(via).unwrap());
    }
    let user = match &presents {
        Some(user) => Some((user.id().as_str().to_owned(), user.scope().map(str::to_owned))),
        None => random.one_in(2).then(|| {
            let sub = if random.one_in(2) { "john" } else { "jane" };
            (sub.to_owned(), Some(["", "s1", "s2 s1", "s11"][random.below(4)].to_owned()))
        }),
    };
    let mut facts = Facts::default();
    if random.one_in(2) {
        facts = facts.with("owner", "john");
    }
    if random.one_in(2) {
        facts = facts.with("public", random.one_in(2));
    }
    let operation = OPERATIONS[random.below(OPERATIONS.len())];
    let at = if random.one_in(8) { Timestamp::from_unix_seconds(1_830_000_000) } else { NOW };
    Asked { caller, user, operation, facts, at }
}

fn text(text: &str) -> Value {
    Value::new_string(text.to_owned())
}

fn record<const N: usize>(pairs: [(&str, Value); N]) -> Vec<(String, Value)> {
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The request as Cedar is told of it.
fn context(policy: &Policy, asked: &Asked, operation: &Operation<'_>) -> Context {
    let Asked { caller, user, facts, at, .. } = asked;
    let rules = &policy.0.rules;
    let set = |roles: &Roles| Value::new_set(roles.iter().map(|role| text(role.as_str())));
    let members = policy.0.roles.iter().flat_map(|role| &role.members);
    let matching = |id: &SpiffeId, patterns: &mut dyn Iterator<Item = &CallerPattern>| {
        let matching =
            patterns.filter(|pattern| matches!(pattern, CallerPattern::Pattern(pattern) if pattern.contains(id)));
        Value::new_set(matching.map(|pattern| text(&pattern.to_string())).collect::<Vec<_>>())
    };
    let mut callers = rules.iter().flat_map(|rule| &rule.callers).chain(members).map(|caller| &caller.value);
    let operations = || rules.iter().flat_map(|rule| &rule.operations).map(|operation| &operation.value);
    let routes: Vec<_> = operations().filter(|own| own.matches(operation, |a, b| a == b)).collect();
    let path: Option<&CanonicalPath<'_>> = match operation {
        Operation::Http { path, .. } => Some(path),
        Operation::App { resource, .. } => Some(resource),
        Operation::Grpc { .. } => None,
    };
    let params = routes.iter().map(|route| {
        let values = route.template().into_iter().flat_map(|template| template.values(path.unwrap()));
        let values = values.map(|(name, value)| (name.to_owned(), text(&value)));
        (route_text(route), Value::new_record(values).unwrap())
    });
    let params: std::collections::BTreeMap<_, _> = params.collect();
    let via_patterns = match caller.via() {
        Some(via) => matching(via, &mut rules.iter().flat_map(|rule| &rule.via)),
        None => Value::new_set([]),
    };
    let none = Roles::default();
    let (service, person, granted, granted_user) = match caller.id() {
        CallerId::Service(id) => (Some(id), None, caller.granted_roles(), &none),
        CallerId::User(id) => (None, Some(id), &none, caller.granted_roles()),
    };
    let mut of_caller = record([("proof", text(caller.proof().kind.as_str())), ("roles", set(caller.granted_roles()))]);
    of_caller.extend(service.map(|id| ("path".to_owned(), text(id.path()))));
    of_caller.extend(
        person
            .into_iter()
            .flat_map(|id| record([("issuer", text(id.issuer().as_str())), ("subject", text(id.subject()))])),
    );
    let patterns = service.map_or_else(|| Value::new_set([]), |id| matching(id, &mut callers));
    let mut pairs = record([
        ("caller_id", text(service.map_or("", SpiffeId::as_str))),
        ("caller_user", text(person.map_or("", UserId::as_str))),
        ("caller_issuer", text(person.map_or("", |id| id.issuer().as_str()))),
        ("patterns", patterns),
        ("granted", set(granted)),
        ("granted_user", set(granted_user)),
        ("proof", text(caller.proof().kind.as_str())),
        ("strength", Value::new_long(strength(caller.proof().kind).into())),
        ("at", Value::new_long(at.unix_millis())),
        ("valid_until", Value::new_long(caller.valid_until().unix_millis())),
        ("via_patterns", via_patterns),
        ("routes", Value::new_set(routes.iter().map(|route| text(&route_text(route))))),
        ("ambiguous", Value::new_bool(operations().any(|own| own.is_ambiguous(operation)))),
        ("params_of", Value::new_record(params).unwrap()),
    ]);
    pairs.extend(caller.asserted_roles().map(|asserted| ("asserted".to_owned(), set(asserted))));
    if let Some(via) = caller.via() {
        pairs.push(("via".to_owned(), text(via.as_str())));
        of_caller.push(("via".to_owned(), text(via.as_str())));
    }
    if let Some((sub, scope)) = user {
        let mut of_user = record([("sub", text(sub))]);
        let scope = scope.as_ref().map(|scope| Value::new_set(scope.split_ascii_whitespace().map(text)));
        of_user.extend(scope.map(|scope| ("scope".to_owned(), scope)));
        pairs.push(("user".to_owned(), Value::new_record(of_user).unwrap()));
    }
    let facts = facts.iter().map(|(name, fact)| match fact {
        crate::policy::Fact::Bool(value) => (name.to_owned(), Value::new_bool(*value)),
        crate::policy::Fact::Text(value) => (name.to_owned(), text(value)),
        other => panic!("{other:?}"),
    });
    pairs.push(("resource".to_owned(), Value::new_record(facts).unwrap()));
    pairs.push(("caller".to_owned(), Value::new_record(of_caller).unwrap()));
    Context::from_pairs(pairs).unwrap()
}

/// What Cedar says. A `forbid` that fails denies.
fn oracle(policies: &PolicySet, context: Context) -> bool {
    let nobody = || EntityUid::from_str("Nobody::\"nobody\"").unwrap();
    let request = Request::new(nobody(), nobody(), nobody(), context, None).unwrap();
    let answer = Authorizer::new().is_authorized(&request, policies, &Entities::empty());
    let failed = answer.diagnostics().errors().any(|error| {
        let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
        policies.policy(error.policy_id()).is_none_or(|policy| policy.effect() == CedarEffect::Forbid)
    });
    answer.decision() == Decision::Allow && !failed
}

const POLICIES: usize = 1000;
const REQUESTS: usize = 110;

#[test]
fn t_28_the_compiled_engine_and_cedar_agree() {
    let seed = std::env::var("POLICY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("POLICY_SEED={seed}");
    let mut random = Random(seed);
    let (mut cases, mut allowed) = (0, 0);
    for _ in 0..POLICIES {
        let source = random_policy(&mut random);
        let policy =
            Policy::parse(&source, &example(), NOW).unwrap_or_else(|errors| panic!("{errors}\n{source}")).policy;
        let sets = [false, true].map(|shadow| {
            let cedar = policy.to_cedar(shadow);
            PolicySet::from_str(&cedar).unwrap_or_else(|error| panic!("{error}\n{source}\n{cedar}"))
        });
        for _ in 0..REQUESTS {
            let asked = random_request(&mut random);
            let operation = Operation::parse(asked.operation).unwrap();
            let user = asked.user.as_ref().map(|(sub, scope)| User { sub, scope: scope.as_deref() });
            let access = Access { caller: &asked.caller, user, operation, facts: Some(&asked.facts), at: asked.at };
            let decision = policy.decide(&access);
            let live = oracle(&sets[0], context(&policy, &asked, &operation));
            let tell = || format!("POLICY_SEED={seed}\n{source}\n{asked:?}\n{decision:?}");
            assert_eq!(decision.effect == Effect::Allow, live, "{}", tell());
            if policy.0.any_shadow {
                let shadow = decision.shadow.map_or(decision.effect, |shadow| shadow.effect);
                let expected = oracle(&sets[1], context(&policy, &asked, &operation));
                assert_eq!(shadow == Effect::Allow, expected, "of the candidate: {}", tell());
            }
            cases += 1;
            allowed += usize::from(live);
        }
    }
    println!("{cases} cases, {allowed} allowed");
    assert!(cases >= 100_000 && allowed * 20 > cases, "{allowed} of {cases} allowed: the cases are too dull");
}
