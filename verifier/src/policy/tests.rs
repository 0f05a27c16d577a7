use super::*;
use crate::{
    caller::{Proof, RoleName, Roles},
    spiffe::{SpiffeId, TrustDomain},
    user::{Facts as Presented, PresentedUser, UserId},
};

pub(super) const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_424_400);

pub(super) fn example() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(super) fn policy(text: &str) -> Policy {
    let text = format!("version = 1\n{text}");
    Policy::parse(&text, &example(), NOW).unwrap_or_else(|errors| panic!("{errors}\n{text}")).policy
}

pub(super) fn caller(path: &str, kind: ProofKind) -> Caller {
    let id = if path.starts_with('/') { format!("spiffe://example.org{path}") } else { path.to_owned() };
    let proof = Proof { kind, key_id: "k1".into() };
    Caller::new(SpiffeId::parse(&id).unwrap(), proof, Timestamp::MAX)
}

/// A user who calls with no service in front.
fn person(id: &str, granted: &[&str], scope: Option<&str>) -> Caller {
    Caller::of_user(PresentedUser::new(Presented {
        id: UserId::parse(id).unwrap(),
        roles: roles(granted),
        scope: scope.map(Into::into),
        kind: ProofKind::IdToken,
        key_id: "k".into(),
        token_id: None,
        valid_until: Timestamp::MAX,
    }))
}

fn ask_as(policy: &Policy, caller: &Caller, operation: &str) -> Decision {
    let user = caller.presented_user().map(User::from);
    let operation = Operation::parse(operation).unwrap();
    policy.decide(&Access { caller, user, operation, facts: None, at: NOW })
}

pub(super) fn roles(names: &[&str]) -> Roles {
    names.iter().map(|name| RoleName::parse(name).unwrap()).collect()
}

pub(super) fn ask(policy: &Policy, caller: &Caller, operation: &str) -> Decision {
    let operation = Operation::parse(operation).unwrap();
    policy.decide(&Access { caller, user: None, operation, facts: None, at: NOW })
}

fn name(policy: &Policy, decision: &Decision) -> String {
    decision.rule.and_then(|id| policy.rule(id)).map_or_else(String::new, |rule| rule.name().to_owned())
}

/// The file of the issue, as it was proposed.
pub(super) const PROPOSED: &str = r#"
[accept]
api-key = { until = 2027-03-31 }
[roles]
admin = ["/ops/console", "spiffe://partner.example/ops"]
[[allow]]
name    = "exporters read their limits"
callers = ["/export", "/batch/*", "role:reader"]
http    = ["GET /v1/config/{key}", "GET /v1/watch"]
grpc    = ["config.v1.Config/Get"]
proof   = "api-key"
limit   = "100/s burst 200"
[[allow]]
name    = "admins"
callers = ["role:admin"]
http    = ["* /v1/**"]
[[deny]]
name    = "nothing from the old batch host"
callers = ["/batch/legacy"]
"#;

#[test]
fn callers_and_operations() {
    let policy = policy(PROPOSED);
    let x509 = ProofKind::X509Svid;
    let cases: &[(&str, &str, Effect, &str)] = &[
        ("/export", "GET /v1/config/x", Effect::Allow, "exporters read their limits"),
        ("/export", "HEAD /v1/config/x", Effect::Allow, "exporters read their limits"),
        ("/export", "POST /v1/config/x", Effect::Deny(Why::NoRule), ""),
        ("/export", "GET /v1/config/x/y", Effect::Deny(Why::NoRule), ""),
        ("/export", "GET /v1/config", Effect::Deny(Why::NoRule), ""),
        ("/export", "config.v1.Config/Get", Effect::Allow, "exporters read their limits"),
        ("/export", "config.v1.Config/Set", Effect::Deny(Why::NoRule), ""),
        ("/export2", "GET /v1/watch", Effect::Deny(Why::NoRule), ""),
        ("/batch/a", "GET /v1/watch", Effect::Allow, "exporters read their limits"),
        ("/batch/a/b", "GET /v1/watch", Effect::Deny(Why::NoRule), ""),
        ("/batch", "GET /v1/watch", Effect::Deny(Why::NoRule), ""),
        ("/batch/legacy", "GET /v1/watch", Effect::Deny(Why::DenyRule), "nothing from the old batch host"),
        ("/batch/legacy", "GET /elsewhere", Effect::Deny(Why::DenyRule), "nothing from the old batch host"),
        ("/ops/console", "DELETE /v1/config/x", Effect::Allow, "admins"),
        ("/ops/console", "GET /v1", Effect::Deny(Why::NoRule), ""),
        // T-25: the same path in another trust domain is another caller.
        ("spiffe://partner.example/ops", "GET /v1/x", Effect::Allow, "admins"),
        ("spiffe://partner.example/export", "GET /v1/watch", Effect::Deny(Why::NoRule), ""),
        ("spiffe://partner.example/ops/console", "GET /v1/x", Effect::Deny(Why::NoRule), ""),
    ];
    for (from, operation, effect, by) in cases {
        let decision = ask(&policy, &caller(from, x509), operation);
        assert_eq!((decision.effect, name(&policy, &decision).as_str()), (*effect, *by), "{from} {operation}");
    }
}

#[test]
fn proofs_and_dates() {
    let policy = policy(PROPOSED);
    let at = |kind, operation, at| {
        let caller = caller("/export", kind).with_roles(roles(&["admin"]), None);
        let operation = Operation::parse(operation).unwrap();
        policy.decide(&Access { caller: &caller, user: None, operation, facts: None, at }).effect
    };
    // 2027-04-01T00:00:00Z: the day named is the last one.
    let end = Timestamp::from_unix_seconds(1_806_537_600);
    let last = Timestamp::from_unix_millis(end.unix_millis() - 1);
    assert_eq!(policy.accepts(ProofKind::ApiKey), Some(end));
    assert_eq!(at(ProofKind::ApiKey, "GET /v1/watch", last), Effect::Allow);
    assert_eq!(at(ProofKind::ApiKey, "GET /v1/watch", end), Effect::Deny(Why::CredentialNoLongerAccepted));
    assert_eq!(at(ProofKind::SharedSecret, "GET /v1/watch", last), Effect::Deny(Why::CredentialNotAccepted));
    assert_eq!(at(ProofKind::ApiKey, "GET /v1/other", last), Effect::Deny(Why::ProofTooWeak));
    for kind in [ProofKind::X509Svid, ProofKind::JwtSvid, ProofKind::AccessToken] {
        assert_eq!(at(kind, "GET /v1/other", end), Effect::Allow, "{kind}");
    }
}

#[test]
fn roles_granted_and_asserted() {
    let policy = policy(
        "[roles]\nreader = [\"/a\"]\n\
         [[allow]]\nname = \"read\"\ncallers = [\"role:reader\"]\nhttp = [\"GET /x\"]\n\
         [[allow]]\nname = \"all\"\ncallers = [\"/**\"]\nhttp = [\"GET /y\"]\n\
         [[deny]]\nname = \"no\"\ncallers = [\"role:suspended\"]\n",
    );
    let reader = || roles(&["reader"]);
    let none = || roles(&[]);
    let cases: &[(&str, Roles, Option<Roles>, &str, Effect)] = &[
        ("/a", none(), None, "GET /x", Effect::Allow),
        ("/b", none(), None, "GET /x", Effect::Deny(Why::NoRule)),
        ("/b", reader(), None, "GET /x", Effect::Allow),
        ("/b", reader(), Some(reader()), "GET /x", Effect::Allow),
        ("/b", none(), Some(reader()), "GET /x", Effect::Deny(Why::NoRule)),
        ("/b", reader(), Some(none()), "GET /x", Effect::Deny(Why::NoRule)),
        ("/a", none(), Some(none()), "GET /x", Effect::Deny(Why::NoRule)),
        // What is granted is denied, whatever the credential asserts.
        ("/a", roles(&["suspended"]), Some(none()), "GET /y", Effect::Deny(Why::DenyRule)),
        ("/a", none(), Some(roles(&["suspended"])), "GET /y", Effect::Allow),
    ];
    for (from, granted, asserted, operation, effect) in cases {
        let caller = caller(from, ProofKind::SharedSecret);
        let caller = Caller::new(
            caller.service().unwrap().clone(),
            Proof { kind: ProofKind::X509Svid, key_id: "1".into() },
            Timestamp::MAX,
        )
        .with_roles(granted.clone(), asserted.clone());
        assert_eq!(ask(&policy, &caller, operation).effect, *effect, "{from} {granted:?} {asserted:?} {operation}");
    }
}

/// T-20, T-25: a user is named by `users` and a service by `callers`, also where a role has one name for both.
#[test]
fn users_who_call_are_no_services_and_services_no_users() {
    let policy = policy(
        "[roles]\neditor = [\"/ops\", \"corp:charlie\"]\nstaff = [\"corp:*\"]\nreader = []\n\
         [[allow]]\nname = \"both\"\ncallers = [\"/export\", \"role:reader\"]\nusers = [\"corp\"]\nhttp = [\"GET /both\"]\n\
         [[allow]]\nname = \"services\"\ncallers = [\"/**\", \"role:editor\"]\nhttp = [\"GET /services\"]\n\
         [[allow]]\nname = \"users\"\nusers = [\"home:jane\", \"role:editor\"]\nhttp = [\"GET /users\", \"GET /denied\"]\n\
         [[allow]]\nname = \"staff\"\nusers = [\"role:staff\"]\nhttp = [\"GET /staff\"]\nscope = \"read\"\n\
         [[allow]]\nname = \"for a user\"\ncallers = [\"/export\"]\nusers = [\"corp\"]\nhttp = [\"GET /required\"]\nuser = \"required\"\n\
         [[deny]]\nname = \"not jane\"\nusers = [\"home:jane\"]\nhttp = [\"GET /denied\"]\n\
         [[deny]]\nname = \"of services\"\ncallers = [\"/**\"]\nhttp = [\"GET /users\"]\n\
         [[deny]]\nname = \"bad scope\"\nhttp = [\"GET /staff\"]\nscope = \"bad\"\n",
    );
    let no_rule = Effect::Deny(Why::NoRule);
    let service = |path| caller(path, ProofKind::X509Svid);
    let user = |id| person(id, &[], Some("read"));
    let cases = [
        (service("/export"), "GET /both", Effect::Allow),
        (user("corp:charlie"), "GET /both", Effect::Allow),
        (user("home:charlie"), "GET /both", no_rule),
        // A provider's group has the name of a role of services.
        (person("home:charlie", &["reader"], None), "GET /both", no_rule),
        (service("/a").with_roles(roles(&["reader"]), None), "GET /both", Effect::Allow),
        (service("/a"), "GET /services", Effect::Allow),
        (user("corp:charlie"), "GET /services", no_rule),
        (person("corp:a", &["editor"], None), "GET /services", no_rule),
        (user("home:jane"), "GET /users", Effect::Allow),
        (user("home:john"), "GET /users", no_rule),
        (user("corp:charlie"), "GET /users", Effect::Allow),
        (person("home:john", &["editor"], None), "GET /users", Effect::Allow),
        (service("/ops"), "GET /users", Effect::Deny(Why::DenyRule)),
        (user("home:jane"), "GET /denied", Effect::Deny(Why::DenyRule)),
        (user("corp:charlie"), "GET /denied", Effect::Allow),
        (user("corp:charlie"), "GET /staff", Effect::Allow),
        // Unknown is not unlimited: no for the allow rule, and yes for the deny rule.
        (person("corp:charlie", &[], None), "GET /staff", Effect::Deny(Why::DenyRule)),
        (person("corp:charlie", &[], Some("write")), "GET /staff", Effect::Deny(Why::ScopeTooSmall)),
        (person("corp:charlie", &[], Some("read bad")), "GET /staff", Effect::Deny(Why::DenyRule)),
        (user("home:charlie"), "GET /staff", no_rule),
        (user("corp:charlie"), "GET /required", Effect::Allow),
        (service("/export"), "GET /required", Effect::Deny(Why::UserRequired)),
        (
            service("/export").acting_for(user("corp:charlie").presented_user().unwrap().clone()),
            "GET /required",
            Effect::Allow,
        ),
        // The service calls, so that the users of the rule are not its.
        (service("/a").acting_for(user("corp:charlie").presented_user().unwrap().clone()), "GET /required", no_rule),
    ];
    for (caller, operation, effect) in cases {
        assert_eq!(ask_as(&policy, &caller, operation).effect, effect, "{} {operation}", caller.id());
    }
}

#[test]
fn what_users_can_be_written_as() {
    let rule = |rest: &str| format!("version = 1\n[[allow]]\nname = \"a\"\nhttp = [\"GET /\"]\n{rest}\n");
    for (text, code) in [
        (rule("users = [\"/photo\"]"), "wrong-user"),
        (rule("users = [\"spiffe://example.org/photo\"]"), "wrong-user"),
        (rule("users = [\"corp:spiffe://example.org/photo\"]"), "wrong-user"),
        (rule("users = [\"Corp:charlie\"]"), "wrong-user"),
        (rule("users = [\"corp:\"]"), "wrong-user"),
        (rule("users = [\"role:No\"]"), "wrong-user"),
        (rule("users = []"), "never-matches"),
        (rule("callers = [\"corp:charlie\"]"), "wrong-caller"),
        (rule("users = [\"corp\"]\nproof = \"x509\""), "never-matches"),
        (rule("users = [\"corp\"]\nuser = \"forbidden\""), "never-matches"),
        (rule(""), "no-callers"),
        ("version = 1\n[roles]\na = [\"corp\"]\n".to_owned(), "wrong-caller"),
        ("version = 1\n[roles]\na = [\"corp:\"]\n".to_owned(), "wrong-user"),
    ] {
        let errors = refused(&text);
        assert!(errors.findings().iter().any(|finding| finding.code == code), "{text}: {errors}");
    }
    for text in [
        rule("users = [\"corp\", \"home:*\", \"corp:a b\", \"corp:x:y\"]"),
        rule("callers = [\"/a\"]\nusers = [\"corp\"]\nproof = \"x509\""),
    ] {
        assert!(Policy::parse(&text, &example(), NOW).is_ok(), "{text}");
    }
}

#[test]
fn tests_and_explanations_know_users_from_services() {
    let text = "version = 1\n[[allow]]\nname = \"people\"\nusers = [\"corp\"]\nhttp = [\"GET /x\"]\nscope = \"read\"\n\
         [[case]]\ncaller = \"corp:charlie\"\nscope = \"read\"\nop = \"GET /x\"\nexpect = \"allow\"\n\
         [[case]]\ncaller = \"corp:charlie\"\nop = \"GET /x\"\nproof = \"session\"\nexpect = \"deny\"\n\
         [[case]]\ncaller = \"/photo\"\nuser = \"corp:charlie\"\nscope = \"read\"\nop = \"GET /x\"\nexpect = \"deny\"\n";
    let policy = Policy::parse(text, &example(), NOW).unwrap().policy;
    let results = policy.test(text, &example(), NOW).unwrap();
    assert!(results.iter().all(|result| result.passed), "{results:?}");
    let told: Vec<_> = results.iter().map(|result| result.explanation.to_string()).collect();
    assert!(told[1].contains("the user's scope is `(unknown)`, the rule asks for `read`"), "{}", told[1]);
    assert!(
        told[2].contains("the caller `spiffe://example.org/photo` calls, and the rule is for users"),
        "{}",
        told[2]
    );
    for (change, with) in [
        ("proof = \"session\"", "proof = \"x509\""),
        ("proof = \"session\"", "user = \"corp:jane\""),
        ("user = \"corp:charlie\"\n", ""),
    ] {
        let errors = policy.test(&text.replacen(change, with, 1), &example(), NOW).unwrap_err();
        assert!(errors.findings().iter().all(|finding| finding.code == "wrong-case"), "{errors}");
    }
}

#[test]
fn patterns_never_match_under_bonafide() {
    let policy = policy(
        "[[allow]]\nname = \"all\"\ncallers = [\"/**\", \"/*\", \"/*/node/*\"]\nhttp = [\"GET /x\"]\n\
         [[allow]]\nname = \"ca\"\ncallers = [\"/bonafide/ca\"]\nhttp = [\"GET /x\"]\n",
    );
    let allowed = |path| ask(&policy, &caller(path, ProofKind::X509Svid), "GET /x").effect == Effect::Allow;
    assert!(allowed("/a/b") && allowed("/bonafide2") && allowed("/bonafide/ca"));
    assert!(!allowed("/bonafide/node/n1") && !allowed("/bonafide"));
}

#[test]
fn users_and_scopes() {
    let policy = policy(
        "[[allow]]\nname = \"user\"\ncallers = [\"/a\"]\nhttp = [\"GET /user\"]\nuser = \"required\"\n\
         [[allow]]\nname = \"scope\"\ncallers = [\"/a\"]\nhttp = [\"GET /scope\", \"GET /not\"]\nscope = \"p.read p.write\"\n\
         [[allow]]\nname = \"none\"\ncallers = [\"/a\"]\nhttp = [\"GET /none\"]\nuser = \"forbidden\"\n\
         [[deny]]\nname = \"not\"\nhttp = [\"GET /not\"]\nscope = \"bad\"\n",
    );
    let john = |scope| Some(User { sub: "john", scope: Some(scope) });
    for (user, operation, effect) in [
        (None, "GET /user", Effect::Deny(Why::UserRequired)),
        (john(""), "GET /user", Effect::Allow),
        (None, "GET /scope", Effect::Deny(Why::UserRequired)),
        (john("p.read"), "GET /scope", Effect::Deny(Why::ScopeTooSmall)),
        (john("p.read p.write2"), "GET /scope", Effect::Deny(Why::ScopeTooSmall)),
        (john("x p.write p.read"), "GET /scope", Effect::Allow),
        (None, "GET /none", Effect::Allow),
        (john(""), "GET /none", Effect::Deny(Why::UserForbidden)),
        (john("p.read p.write"), "GET /not", Effect::Allow),
        (john("p.read p.write bad"), "GET /not", Effect::Deny(Why::DenyRule)),
        // A scope that cannot be known is "yes" for a deny rule.
        (None, "GET /not", Effect::Deny(Why::DenyRule)),
    ] {
        let caller = caller("/a", ProofKind::X509Svid);
        let access =
            Access { caller: &caller, user, operation: Operation::parse(operation).unwrap(), facts: None, at: NOW };
        assert_eq!(policy.decide(&access).effect, effect, "{user:?} {operation}");
    }
}

#[test]
fn rules_in_shadow_mode_change_no_answer() {
    let policy = policy(
        "[[allow]]\nname = \"live\"\ncallers = [\"/a\"]\nhttp = [\"GET /x\"]\n\
         [[deny]]\nname = \"soon\"\nmode = \"shadow\"\naudit = true\nhttp = [\"GET /x\"]\n\
         [[allow]]\nname = \"later\"\nmode = \"shadow\"\ncallers = [\"/a\"]\nhttp = [\"GET /y\"]\n",
    );
    let caller = caller("/a", ProofKind::X509Svid);
    let decision = ask(&policy, &caller, "GET /x");
    assert_eq!((decision.effect, decision.audit), (Effect::Allow, true));
    let shadow = decision.shadow.unwrap();
    assert_eq!((shadow.effect, shadow.rule.map(RuleId::index)), (Effect::Deny(Why::DenyRule), Some(1)));
    let decision = ask(&policy, &caller, "GET /y");
    assert_eq!(decision.effect, Effect::Deny(Why::NoRule));
    assert_eq!(decision.shadow.map(|shadow| shadow.effect), Some(Effect::Allow));
}

#[test]
fn a_path_that_is_a_literal_once_decoded_is_denied() {
    let policy = policy(
        "[[allow]]\nname = \"any\"\ncallers = [\"/a\"]\nhttp = [\"GET /{x}\"]\n\
         [[deny]]\nname = \"one\"\nhttp = [\"GET /a:b\"]\n",
    );
    let caller = caller("/a", ProofKind::X509Svid);
    for (operation, effect) in [
        ("GET /a:b", Effect::Deny(Why::DenyRule)),
        ("GET /a%3ab", Effect::Deny(Why::AmbiguousPath)),
        ("GET /a%3Ab", Effect::Deny(Why::AmbiguousPath)),
        ("GET /a%3Ac", Effect::Allow),
    ] {
        assert_eq!(ask(&policy, &caller, operation).effect, effect, "{operation}");
    }
}

fn refused(text: &str) -> PolicyErrors {
    match Policy::parse(text, &example(), NOW) {
        Ok(loaded) => panic!("{text}: {loaded:?}"),
        Err(errors) => errors,
    }
}

#[test]
fn t_27_what_is_not_understood_is_refused_with_its_place() {
    let rule = "version = 1\n[[allow]]\nname = \"a\"\ncallers = [\"/a\"]\nhttp = [\"GET /x\"]\n";
    let with = |line: &str| format!("{rule}{line}\n");
    type Row<'a> = (&'a str, &'a str, (usize, usize), Option<&'a str>);
    let cases: &[Row<'_>] = &[
        ("", "no-version", (1, 1), Some("version = 1")),
        ("version = 2", "unknown-version", (1, 11), Some("newer program")),
        ("version = 1\nversion = 1", "syntax", (2, 1), None),
        ("version = 1\nallow_all = true", "unknown-key", (2, 1), None),
        ("version = 1\n[acept]", "unknown-key", (2, 2), Some("`accept`")),
        (&with("caller = [\"/b\"]"), "unknown-key", (6, 1), Some("`callers`")),
        (&with("headers = { x = \"y\" }"), "unknown-key", (6, 1), None),
        (&with("proof = \"jwt\""), "unknown-value", (6, 9), None),
        (&with("proof = 3"), "wrong-type", (6, 9), None),
        (&with("user = \"present\""), "unknown-value", (6, 8), None),
        (&with("scope = [\"a\", \"b\"]"), "wrong-type", (6, 9), Some("write two rules")),
        (&with("scope = \"a  b\""), "wrong-scope", (6, 9), None),
        (&with("limit = \"100\""), "wrong-limit", (6, 9), None),
        (&with("limit = \"0/s\""), "wrong-limit", (6, 9), None),
        (&with("weaker-than = \"x509\""), "not-in-allow", (6, 1), Some("`proof`")),
        (&with("user = \"forbidden\"\nscope = \"a\""), "never-matches", (2, 1), None),
        (&with("mode = \"shadwo\""), "unknown-value", (6, 8), Some("`shadow`")),
        (&with("audit = \"yes\""), "wrong-type", (6, 9), None),
        (&with("via = [\"role:a\"]"), "wrong-caller", (6, 8), None),
        (&with("[[deny]]\nname = \"a\""), "twice", (6, 1), None),
        (&with("[[deny]]\nname = \"d\"\ncallers = []"), "never-matches", (6, 1), Some("leave the key out")),
        (&with("[[deny]]\nname = \"d\"\nproof = \"x509\""), "not-in-deny", (8, 1), Some("weaker-than")),
        (&with("[[deny]]\nname = \"d\"\nuser = \"required\""), "unknown-value", (8, 8), None),
        (&with("[[deny]]\nname = \"d\"\nlimit = \"1/s\""), "not-in-deny", (8, 1), None),
        ("version = 1\n[[allow]]\nname = \"a\"\nhttp = [\"GET /x\"]", "no-callers", (2, 1), None),
        ("version = 1\n[[allow]]\nname = \"a\"\ncallers = [\"/a\"]", "no-operations", (2, 1), None),
        ("version = 1\n[[allow]]\ncallers = [\"/a\"]\nhttp = [\"GET /x\"]", "no-name", (2, 1), None),
        ("version = 1\n[accept]\njwt-svid = { until = 2027-01-01 }", "always-accepted", (3, 1), None),
        ("version = 1\n[accept]\napi-key = true", "wrong-type", (3, 11), Some("until = 2027-03-31")),
        ("version = 1\n[accept]\napi-key = {}", "no-date", (3, 11), None),
        ("version = 1\n[accept]\napi-key = { until = 2027-03-31T10:00:00 }", "wrong-date", (3, 21), None),
        ("version = 1\n[accept]\napi-key = { until = \"2027-03-31\" }", "wrong-type", (3, 21), None),
        ("version = 1\n[roles]\nReader = []", "wrong-role", (3, 1), None),
        ("version = 1\n[roles]\na = [\"role:b\"]", "wrong-caller", (3, 6), None),
        ("version = 1\n[roles]\na = [\"/bonafide/*\"]", "wrong-caller", (3, 6), None),
        ("version = 1\n[roles]\na = [\"spiffe://example.org\"]", "wrong-caller", (3, 6), None),
        ("version = 1\n[roles]\na = [\"photo\"]", "wrong-caller", (3, 6), Some("`/path`")),
        ("version = 1\n[roles]\na = [\"/x*\"]", "wrong-caller", (3, 6), None),
    ];
    for (text, code, place, suggestion) in cases {
        let errors = refused(text);
        let found = errors.findings().iter().find(|finding| finding.code == *code);
        let Some(found) = found else { panic!("{text}: {errors}") };
        assert_eq!((found.line, found.column), *place, "{text}: {errors}");
        if let Some(part) = suggestion {
            assert!(found.suggestion.as_ref().is_some_and(|text| text.contains(part)), "{text}: {errors}");
        }
        assert!(!found.to_string().contains('\n'), "{errors}");
    }
}

#[test]
fn warnings_come_before_the_day() {
    let codes = |text: &str, at| {
        let loaded = Policy::parse(text, &example(), at).unwrap();
        loaded.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>()
    };
    let text = format!("version = 1\n{PROPOSED}");
    let end = Timestamp::from_unix_seconds(1_806_537_600);
    let before = |days: u64| end.saturating_sub(std::time::Duration::from_secs(days * 24 * 3600));
    assert_eq!(codes(&text, before(31)), ["unknown-role"]);
    assert_eq!(codes(&text, before(30)), ["accept-ends-soon", "unknown-role"]);
    assert_eq!(codes(&text, end), ["accept-ended", "unknown-role"]);
    let without = text.replace("[accept]\napi-key = { until = 2027-03-31 }", "");
    let mut codes = codes(&without, end);
    codes.sort_unstable();
    assert_eq!(codes, ["not-accepted", "unknown-role"]);
}

#[test]
fn explanations_name_the_nearest_rule() {
    let policy = policy(PROPOSED);
    let explain = |from: &str, kind, operation: &str| {
        let caller = caller(from, kind);
        let operation = Operation::parse(operation).unwrap();
        policy.explain(&Access { caller: &caller, user: None, operation, facts: None, at: NOW }).to_string()
    };
    let x509 = ProofKind::X509Svid;
    assert_eq!(explain("/export", x509, "GET /v1/watch"), "allow by the rule `exporters read their limits`");
    assert_eq!(
        explain("/export", x509, "PUT /v1/watch"),
        "deny (no-rule)\nnearest: `exporters read their limits`, but the method is PUT, the rule has `GET /v1/watch`"
    );
    assert_eq!(
        explain("/ops/console", ProofKind::ApiKey, "GET /v1/x"),
        "deny (proof-too-weak)\nnearest: `admins`, but the proof is `api-key`, the rule takes `jwt-svid` and stronger"
    );
    assert_eq!(
        explain("/batch/legacy", x509, "GET /v1/watch"),
        "deny (deny-rule) by the rule `nothing from the old batch host`\n\
         matching: exporters read their limits, nothing from the old batch host"
    );
}

#[cfg(feature = "cedar")]
#[test]
fn conditions_wait_for_facts() {
    let policy = policy(
        "[[allow]]\nname = \"owners\"\ncallers = [\"/photo\"]\nhttp = [\"PUT /v1/images/{id}\"]\nuser = \"required\"\n\
         scope = \"photo.write\"\nwhen = \"resource.owner == user.sub\"\n\
         [[allow]]\nname = \"own\"\ncallers = [\"/photo\"]\nhttp = [\"GET /v1/users/{sub}\"]\nwhen = \"params.sub == user.sub\"\n\
         [[allow]]\nname = \"all\"\ncallers = [\"/all\"]\nhttp = [\"GET /v1/**\"]\n\
         [[deny]]\nname = \"locked\"\nhttp = [\"GET /v1/locked\"]\nwhen = \"resource.locked\"\n",
    );
    let facts = |facts: Facts| Some(facts);
    let (none, john) = (None, Some(User { sub: "john", scope: Some("photo.write") }));
    let owner = |name: &str| facts(Facts::default().with("owner", name));
    type Row<'a> = (&'a str, Option<User<'a>>, &'a str, Option<Facts>, Effect);
    let cases: &[Row<'_>] = &[
        ("/photo", john, "PUT /v1/images/1", None, Effect::AllowIfSecondStage),
        ("/photo", john, "PUT /v1/images/1", owner("john"), Effect::Allow),
        ("/photo", john, "PUT /v1/images/1", owner("jane"), Effect::Deny(Why::ConditionFalse)),
        ("/photo", john, "PUT /v1/images/1", facts(Facts::default()), Effect::Deny(Why::ConditionError)),
        ("/photo", none, "PUT /v1/images/1", None, Effect::Deny(Why::UserRequired)),
        ("/photo", john, "GET /v1/users/john", None, Effect::Allow),
        ("/photo", john, "GET /v1/users/jo%20hn", None, Effect::Deny(Why::ConditionFalse)),
        ("/photo", none, "GET /v1/users/john", None, Effect::Deny(Why::ConditionError)),
        // A deny rule that waits: the handler is asked, and an error then denies.
        ("/all", none, "GET /v1/locked", None, Effect::AllowIfSecondStage),
        ("/all", none, "GET /v1/locked", facts(Facts::default().with("locked", false)), Effect::Allow),
        ("/all", none, "GET /v1/locked", facts(Facts::default().with("locked", true)), Effect::Deny(Why::DenyRule)),
        ("/all", none, "GET /v1/locked", facts(Facts::default()), Effect::Deny(Why::DenyRule)),
        ("/other", none, "GET /v1/locked", None, Effect::Deny(Why::NoRule)),
    ];
    for (from, user, operation, facts, effect) in cases {
        let caller = caller(from, ProofKind::X509Svid);
        let operation = Operation::parse(operation).unwrap();
        let access = Access { caller: &caller, user: *user, operation, facts: facts.as_ref(), at: NOW };
        assert_eq!(policy.decide(&access).effect, *effect, "{from} {operation} {facts:?}");
    }
}

#[cfg(feature = "cedar")]
#[test]
fn conditions_that_are_none() {
    for (when, code) in [
        ("resource.owner == ", "wrong-condition"),
        ("true }; permit(principal, action, resource); //", "unknown-name"),
        ("principal == caller.id", "unknown-name"),
        ("context.at > 0", "unknown-name"),
        ("caller.secret == 1", "unknown-name"),
        ("params.other == 1", "unknown-name"),
        ("\\\"open", "wrong-condition"),
        ("User::\\\"a\\\" == 1", "unknown-name"),
        (&"(".repeat(33), "too-large"),
        (&" ".repeat(2049), "too-large"),
    ] {
        let errors = refused(&format!(
            "version = 1\n[[allow]]\nname = \"a\"\ncallers = [\"/a\"]\nhttp = [\"GET /{{x}}\"]\nwhen = \"{when}\""
        ));
        assert!(errors.findings().iter().any(|finding| finding.code == code), "{when}: {errors}");
    }
}

#[test]
fn cases_pass_and_fail_with_what_differs() {
    let text = format!(
        "version = 1\n{PROPOSED}\n[[case]]\nname = \"reads\"\ncaller = \"/export\"\nop = \"GET /v1/config/x\"\nproof = \"api-key\"\n\
         expect = \"allow\"\nrule = \"exporters read their limits\"\n\
         [[case]]\ncaller = \"/x\"\nroles = [\"reader\"]\nop = \"GET /v1/watch\"\nexpect = \"deny\"\n"
    );
    let policy = Policy::parse(&text, &example(), NOW).unwrap().policy;
    let results = policy.test(&text, &example(), NOW).unwrap();
    assert_eq!(results.iter().map(|result| result.passed).collect::<Vec<_>>(), [true, false]);
    assert_eq!(results[1].found, "allow by `exporters read their limits`");
    assert_eq!(results[1].expected, "deny");
    let errors = policy.test(&text.replace("op = \"GET /v1/watch\"", "opp = \"x\""), &example(), NOW).unwrap_err();
    assert!(errors.to_string().contains("did you mean `op`?"), "{errors}");
}

#[test]
fn rules_that_another_makes_needless() {
    let rule = |kind: &str, name: &str, rest: &str| format!("[[{kind}]]\nname = \"{name}\"\n{rest}\n");
    let found = |text: &str| {
        let loaded = Policy::parse(&format!("version = 1\n{text}"), &example(), NOW).unwrap();
        loaded.warnings.iter().map(|warning| (warning.code, warning.line)).collect::<Vec<_>>()
    };
    let wide = rule("allow", "wide", "callers = [\"/a/**\"]\nhttp = [\"* /x/**\"]");
    let narrow =
        |more: &str| rule("allow", "narrow", &format!("callers = [\"/a/b\"]\nhttp = [\"GET /x/{{id}}\"]\n{more}"));
    let deny = rule("deny", "no", "callers = [\"/a/*\"]");
    for (text, expected) in [
        (format!("{wide}{}", narrow("")), vec![("shadowed", 6)]),
        (format!("{}{wide}", narrow("")), vec![("shadowed", 2)]),
        (format!("{}{wide}", narrow("limit = \"1/s\"")), vec![]),
        (format!("{wide}{}", narrow("limit = \"1/s\"")), vec![("shadowed", 6)]),
        (format!("{wide}{}", narrow("audit = true")), vec![]),
        (format!("{wide}{}", narrow("mode = \"shadow\"")), vec![]),
        (format!("{wide}{}", narrow("proof = \"x509\"")), vec![("shadowed", 6)]),
        (format!("{}{deny}", narrow("")), vec![("never-matches", 2)]),
        (format!("{wide}{deny}"), vec![]),
        (format!("{wide}{}", wide.replace("wide", "again")), vec![("shadowed", 6)]),
        (format!("{wide}{}", narrow("").replace("/a/b", "/b")), vec![]),
        (format!("{wide}{}", narrow("").replace("/x/{id}", "/x")), vec![]),
    ] {
        assert_eq!(found(&text), expected, "{text}");
    }
}
