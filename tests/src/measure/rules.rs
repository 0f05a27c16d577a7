//! Policies of any size, made so that a request finds as many rules as is wished.

use std::fmt::Write as _;

use bonafide_verifier::{
    clock::{Clock as _, SystemClock},
    policy::Policy,
    spiffe::TrustDomain,
};

/// The most rules for one route and caller in [`policy`].
pub const ALIKE: usize = 8;

/// The trust domain of all callers.
pub fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

/// The caller of a group of rules.
pub fn caller(group: usize) -> String {
    format!("/team{}/service{group}", group % 7)
}

/// A request that a group of rules is about.
pub fn operation(group: usize) -> String {
    format!("GET /v1/things{group}/42/parts")
}

/// How the group's rules name it.
pub fn route(group: usize) -> String {
    format!("GET /v1/things{group}/{{id}}/parts")
}

/// So many rules, `alike` of them for each route and caller.
pub fn source(rules: usize, alike: usize) -> String {
    let mut text = String::from("version = 1\n");
    for rule in 0..rules {
        let group = rule / alike;
        let (caller, route) = (caller(group), route(group));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "[[allow]]\nname = \"rule {rule}\"\ncallers = [\"{caller}\"]\nhttp = [\"{route}\"]");
    }
    text
}

/// The same, compiled.
pub fn policy(source: &str) -> Policy {
    Policy::parse(source, &trust_domain(), SystemClock.now()).expect("a policy").policy
}
