use super::*;
use crate::{
    caller::{Proof, RoleName, Roles},
    spiffe::{SpiffeId, TrustDomain},
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
        let caller =
            Caller::new(caller.id().clone(), Proof { kind: ProofKind::X509Svid, key_id: "1".into() }, Timestamp::MAX)
                .with_roles(granted.clone(), asserted.clone());
        assert_eq!(ask(&policy, &caller, operation).effect, *effect, "{from} {granted:?} {asserted:?} {operation}");
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
    let john = |scope| Some(User { sub: "john", scope });
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
