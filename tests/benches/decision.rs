//! What does a decision cost, and does it matter how many rules there are? Our engine and Cedar's authorizer, on the same policy (ours,
//! translated) and the same requests, everything prepared for both. At most 8 rules are for one route and caller; in the worst case all are.
//! And what does it take to read a large policy, and to hold it?

use std::{hint::black_box, str::FromStr as _};

use bonafide_tests::measure::{
    self, Figure, Goal, Pair,
    allocations::{self, Counting},
    callers::Callers,
    rules::{self, ALIKE},
};
use bonafide_verifier::{
    caller::Caller,
    clock::{Clock as _, SystemClock, Timestamp},
    policy::{Access, Effect, Operation},
};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request, RestrictedExpression as Value,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Groups of rules that are asked in turn.
const ASKED: usize = 16;

fn main() {
    let callers = Callers::new();
    let rounds = measure::rounds(400);
    measure::heading("decisions, processor time, the least of many short runs");
    let mut at_hundred = None;
    for count in [10, 100, 1_000, 10_000] {
        let pair = decisions(&callers, count, ALIKE, rounds);
        let name = format!("decision/{count}-rules");
        Figure::paired(&name, pair, "ns", Goal::AtMost(100.0)).print();
        if count == 100 {
            at_hundred = Some(pair);
        }
    }
    if let Some(pair) = at_hundred {
        // At least 50 times as fast.
        Figure::paired("decision/100-rules-beside-cedar", pair, "ns", Goal::RatioAtMost(0.02)).print();
    }
    for count in [10, 100, 1_000, 10_000] {
        let pair = decisions(&callers, count, count, rounds.div_ceil(10));
        Figure::paired(&format!("decision/{count}-rules-that-all-match"), pair, "ns", Goal::None).print();
    }

    measure::heading("a policy of 10,000 rules");
    let source = rules::source(10_000, ALIKE);
    let load = || measure::cpu_micros(|| drop(black_box(rules::policy(&source)))) / 1e3;
    let loading = (0..measure::rounds(30)).map(|_| load()).fold(f64::INFINITY, f64::min);
    Figure::alone("policy/load-10000-rules", loading, "ms", Goal::AtMost(100.0)).print();
    let before = allocations::held();
    let policy = rules::policy(&source);
    let held = (allocations::held() - before) as f64 / f64::from(1 << 20);
    Figure::alone("policy/memory-of-10000-rules", held, "MiB", Goal::AtMost(20.0)).print();
    drop(policy);
}

/// One decision of ours and one of Cedar's, in nanoseconds.
fn decisions(callers: &Callers, count: usize, alike: usize, rounds: usize) -> Pair {
    let policy = rules::policy(&rules::source(count, alike));
    let groups = count.div_ceil(alike);
    let asked: Vec<_> = (0..ASKED).map(|number| number * groups.div_ceil(ASKED) % groups).collect();
    let now = SystemClock.now();

    let requests: Vec<_> =
        asked.iter().map(|group| (callers.caller(&rules::caller(*group)), rules::operation(*group))).collect();
    let accesses: Vec<_> = requests
        .iter()
        .map(|(caller, operation)| {
            let operation = Operation::parse(operation).expect("an operation");
            Access { caller, user: None, operation, facts: None, at: now }
        })
        .collect();
    let ours = || {
        let times = 8;
        let micros = measure::cpu_micros(|| {
            for access in std::iter::repeat_n(&accesses, times).flatten() {
                assert_eq!(black_box(policy.decide(black_box(access))).effect, Effect::Allow);
            }
        });
        micros * 1e3 / (times * accesses.len()) as f64
    };

    let set = PolicySet::from_str(&policy.to_cedar(false)).expect("Cedar's policies");
    let (authorizer, entities) = (Authorizer::new(), Entities::empty());
    let theirs: Vec<_> = asked
        .iter()
        .zip(&requests)
        .map(|(group, (caller, _))| cedar_request(caller, &rules::route(*group), now))
        .collect();
    let cedars = || {
        let micros = measure::cpu_micros(|| {
            for request in &theirs {
                let answer = black_box(authorizer.is_authorized(request, &set, &entities));
                assert_eq!(answer.decision(), Decision::Allow);
            }
        });
        micros * 1e3 / theirs.len() as f64
    };
    // Cedar walks through all policies: milliseconds for the largest.
    let shared = (20_000 / count).clamp(2, rounds);
    let both = measure::least(shared, ours, cedars);
    let alone = (shared..rounds).map(|_| ours()).fold(both.value, f64::min);
    Pair { value: alone, baseline: both.baseline, ratio: alone / both.baseline }
}

/// What the translated policy asks of a request.
fn cedar_request(caller: &Caller, route: &str, now: Timestamp) -> Request {
    let text = |text: &str| Value::new_string(text.to_owned());
    let none = || Value::new_set([]);
    let pairs = [
        ("caller_id", text(caller.id().as_str())),
        ("patterns", none()),
        ("granted", none()),
        ("proof", text(caller.proof().kind.as_str())),
        ("strength", Value::new_long(2)),
        ("at", Value::new_long(now.unix_millis())),
        ("valid_until", Value::new_long(caller.valid_until().unix_millis())),
        ("via_patterns", none()),
        ("routes", Value::new_set([text(route)])),
        ("ambiguous", Value::new_bool(false)),
    ];
    let context = Context::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value))).expect("a context");
    let nobody = || EntityUid::from_str("Nobody::\"nobody\"").expect("an entity");
    Request::new(nobody(), nobody(), nobody(), context, None).expect("a request")
}
