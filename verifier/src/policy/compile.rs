//! A policy as it is asked: rules by what they match, in tables that are made once.
//!
//! A request's operation leads through a trie to the routes that match it, its caller through a table and a trie to what names it (its
//! ID, patterns, roles), and each pair of the two to the rules for exactly that pair. A rule that names another caller or another route
//! is never looked at.

use std::{collections::HashMap, ops::Range};

use super::{
    PolicyVersion,
    operation::{Method, Operation, OperationPattern, Piece, Template},
    syntax::{Accept, At, CallerPattern, File, Mode, Rule, RuleEffect, UserPattern},
    trie::{Below, Lists, NONE, Part, Trie, TrieBuilder, Words, number},
};
use crate::{
    caller::{CallerId, RoleName, Strength},
    spiffe::{Pattern, Segment, SpiffeId},
    user::{IssuerName, UserId},
};

/// The most pairs of a caller and an operation that one policy may name.
pub(super) const MAX_PAIRS: usize = 4_000_000;

/// A policy, compiled.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) version: PolicyVersion,
    pub(super) mode: Mode,
    pub(super) accept: Accept,
    /// In the order of the file.
    pub(super) rules: Box<[Rule]>,
    pub(super) roles: Box<[super::syntax::Role]>,
    pub(super) any_shadow: bool,
    pub(super) callers: CallerIndex,
    pub(super) routes: Routes,
    /// Rules by route and caller, both as numbers.
    pub(super) by_pair: Lists<Check>,
    /// Whether any rule is for whoever calls.
    pub(super) for_everybody: bool,
}

/// What of a rule every decision looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    /// Which rule, in the order of the file.
    pub(super) place: u32,
    pub(super) denies: bool,
    pub(super) shadow: bool,
    pub(super) audit: bool,
    /// There is a user, a scope, a proxy, a condition or a weakest proof of a deny rule to look at in the rule itself.
    pub(super) more: bool,
    pub(super) strength: Strength,
}

/// What names callers, by number: IDs, patterns, issuers, roles; one number for everybody. What names services and what names users are
/// apart: [`SERVICES`], [`USERS`] and [`ISSUERS`] are the first halves of their words.
#[derive(Debug)]
pub(super) struct CallerIndex {
    /// By ID, a service's without its scheme, or issuer: which of `sets`.
    ids: Words,
    patterns: Trie,
    /// By name: which number. A role of services is another one than the role of users by the same name.
    roles: Words,
    /// Numbers of an ID or of a pattern, its own and those of the roles that it is given: where they are in `named`.
    sets: Box<[Range<u32>]>,
    named: Box<[Named]>,
    /// For each leaf of `patterns`, which of `sets`.
    pattern_sets: Box<[u32]>,
    any_roles: bool,
}

/// One thing that names a caller.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) number: u32,
    /// A role: counts for allow rules only if the credential asserts it, where it asserts any.
    pub(super) role: Option<RoleName>,
}

/// Everybody, and everything.
pub(super) const EVERY: u32 = 0;

const SERVICES: u32 = 0;
const USERS: u32 = 1;
const ISSUERS: u32 = 2;

/// Operations by number.
#[derive(Debug)]
pub(super) struct Routes {
    trie: Trie,
    any_every: bool,
    /// Where each kind of operation is in the trie, if any rule is about one.
    http: Option<Below>,
    grpc: Option<Below>,
    app: Option<Below>,
}

/// Methods that rules tell apart.
const METHODS: u32 = 8;

const HTTP: &str = "http";
const GRPC: &str = "grpc";
const APP: &str = "app";

impl Compiled {
    /// `None` when the rules name more pairs than [`MAX_PAIRS`].
    pub(super) fn new(version: PolicyVersion, file: File) -> Option<Self> {
        let pairs: usize = file
            .rules
            .iter()
            .map(|rule| {
                let operations: usize = rule.operations.iter().map(|operation| places(&operation.value).count()).sum();
                (rule.callers.len() + rule.users.len()).max(1).saturating_mul(operations.max(1))
            })
            .fold(0, usize::saturating_add);
        if pairs > MAX_PAIRS {
            return None;
        }
        let mut callers = CallerIndexBuilder::default();
        for role in &file.roles {
            let of_role = callers.role(SERVICES, &role.name);
            for member in &role.members {
                callers.add(&member.value, of_role, Some(&role.name));
            }
            let of_role = callers.role(USERS, &role.name);
            for user in &role.users {
                callers.add_user(&user.value, of_role, Some(&role.name));
            }
        }
        let mut trie = TrieBuilder::new();
        let mut any_every = false;
        let mut for_everybody = false;
        let mut triples = Vec::with_capacity(pairs);
        for (place, rule) in file.rules.iter().enumerate() {
            let named: Vec<u32> = if rule.takes_every_caller() {
                for_everybody = true;
                vec![EVERY]
            } else {
                let mut named: Vec<u32> = rule.callers.iter().map(|caller| callers.of_rule(&caller.value)).collect();
                named.extend(rule.users.iter().map(|user| callers.user_of_rule(&user.value)));
                named
            };
            let mut routes: Vec<u32> = Vec::new();
            if rule.takes_every_operation() {
                any_every = true;
                routes.push(EVERY);
            }
            for operation in &rule.operations {
                let leaf = trie.leaf(parts(&operation.value));
                routes.extend(places(&operation.value).map(|place| route(leaf, place)));
            }
            let pairs = routes.iter().flat_map(|route| named.iter().map(move |caller| (*route, *caller)));
            triples.extend(pairs.map(|(route, caller)| (route, caller, number(place))));
        }
        let trie = trie.build();
        let below = |kind| trie.below(None, kind);
        let (http, grpc, app) = (below(HTTP), below(GRPC), below(APP));
        let rules: Box<[Rule]> = file.rules.into();
        let by_pair = Lists::new(triples, |place| Check::of(place, &rules));
        Some(Self {
            version,
            mode: file.mode,
            accept: file.accept,
            any_shadow: rules.iter().any(|rule| rule.mode == Mode::Shadow),
            rules,
            roles: file.roles.into(),
            callers: callers.build(),
            routes: Routes { trie, any_every, http, grpc, app },
            by_pair,
            for_everybody,
        })
    }
}

impl Check {
    fn of(place: u32, rules: &[Rule]) -> Self {
        // One that were not there would allow nothing.
        let Some(rule) = rules.get(usize::try_from(place).unwrap_or(usize::MAX)) else {
            return Self { place, denies: false, shadow: true, audit: false, more: true, strength: Strength::Key };
        };
        let more = rule.user != super::syntax::UserRule::Any
            || rule.scope.is_some()
            || !rule.via.is_empty()
            || rule.when.is_some()
            || rule.weaker_than.is_some();
        Self {
            place,
            denies: rule.effect == RuleEffect::Deny,
            shadow: rule.mode == Mode::Shadow,
            audit: rule.audit,
            more,
            strength: rule.strength(),
        }
    }
}

/// The number of a leaf under a method. [`EVERY`] is none of these.
fn route(leaf: u32, place: u32) -> u32 {
    leaf.saturating_mul(METHODS).saturating_add(place + 1)
}

/// The methods of an operation by their places.
fn places(operation: &OperationPattern) -> impl Iterator<Item = u32> + use<> {
    match operation {
        OperationPattern::Http { method: Some(method), .. } => method.place()..method.place() + 1,
        OperationPattern::Http { method: None, .. } => 0..Method::Options.place() + 1,
        OperationPattern::Grpc { .. } | OperationPattern::App { .. } => 0..1,
    }
}

/// An operation as the trie holds it.
pub(super) fn parts(operation: &OperationPattern) -> Vec<Part<'_>> {
    match operation {
        OperationPattern::Http { template, .. } => [vec![Part::Literal(HTTP)], pieces(template)].concat(),
        OperationPattern::Grpc { service, method } => {
            let method = method.as_deref().map_or(Part::One, Part::Literal);
            vec![Part::Literal(GRPC), Part::Literal(service), method]
        }
        OperationPattern::App { action, template } => {
            [vec![Part::Literal(APP), Part::Literal(action)], pieces(template)].concat()
        }
    }
}

fn pieces(template: &Template) -> Vec<Part<'_>> {
    let parts = template.pieces().iter().map(|piece| match piece {
        Piece::Literal(text) => Part::Literal(text),
        Piece::One(_) => Part::One,
        Piece::Rest => Part::Rest,
    });
    parts.collect()
}

/// A pattern of IDs as the trie holds it: the trust domain first.
fn pattern_parts(pattern: &Pattern) -> impl Iterator<Item = Part<'_>> {
    let segments = pattern.segments().iter().map(|segment| match segment {
        Segment::Literal(text) => Part::Literal(text),
        Segment::Any => Part::One,
    });
    let first = Part::Literal(pattern.trust_domain().as_str());
    std::iter::once(first).chain(segments).chain(pattern.is_open_ended().then_some(Part::Rest))
}

impl Routes {
    /// Every route that an operation matches, by number, and whether it does so only decoded.
    pub(super) fn of(&self, operation: &Operation<'_>, visit: &mut impl FnMut(u32, bool)) {
        if self.any_every {
            visit(EVERY, false);
        }
        match operation {
            Operation::Http { method, path } => {
                let Some(http) = self.http else { return };
                let place = method.place();
                let mut visit = |leaf, decoded| visit(route(leaf, place), decoded);
                self.trie.walk_below(http, path.rest(), &mut visit);
            }
            Operation::Grpc { service, method } => {
                let Some(service) = self.grpc.and_then(|grpc| self.trie.below(Some(grpc), service)) else { return };
                let mut visit = |leaf, decoded| visit(route(leaf, 0), decoded);
                // As one literal each, whatever is in them.
                if let Some(method) = self.trie.below(Some(service), method) {
                    self.trie.walk_below(method, "", &mut visit);
                }
                if !method.is_empty() && !method.contains('/') {
                    self.trie.walk_one(service, &mut visit);
                }
            }
            Operation::App { action, resource } => {
                let Some(action) = self.app.and_then(|app| self.trie.below(Some(app), action)) else { return };
                let mut visit = |leaf, decoded| visit(route(leaf, 0), decoded);
                self.trie.walk_below(action, resource.rest(), &mut visit);
            }
        }
    }
}

#[derive(Default)]
struct CallerIndexBuilder {
    /// Each with its own number.
    ids: HashMap<SpiffeId, u32>,
    patterns: HashMap<String, (Pattern, u32)>,
    users: HashMap<UserId, u32>,
    issuers: HashMap<IssuerName, u32>,
    /// Of services and of users.
    roles: HashMap<(u32, RoleName), u32>,
    /// What an ID, a pattern or an issuer, by its number, stands for.
    named: HashMap<u32, Vec<Named>>,
    next: u32,
}

impl CallerIndexBuilder {
    fn fresh(&mut self) -> u32 {
        // 0 is EVERY.
        self.next += 1;
        self.next
    }

    fn role(&mut self, of: u32, role: &RoleName) -> u32 {
        let key = (of, role.clone());
        if let Some(known) = self.roles.get(&key) {
            return *known;
        }
        let number = self.fresh();
        self.roles.insert(key, number);
        number
    }

    /// The number of a user, an issuer or a role of users.
    fn user_number(&mut self, user: &UserPattern) -> u32 {
        let known = match user {
            UserPattern::Id(id) => self.users.get(id).copied(),
            UserPattern::Issuer(issuer) => self.issuers.get(issuer).copied(),
            UserPattern::Role(role) => return self.role(USERS, role),
        };
        if let Some(known) = known {
            return known;
        }
        let number = self.fresh();
        match user {
            UserPattern::Id(id) => drop(self.users.insert(id.clone(), number)),
            UserPattern::Issuer(issuer) => drop(self.issuers.insert(issuer.clone(), number)),
            UserPattern::Role(_) => {}
        }
        number
    }

    /// The number of a rule's user.
    fn user_of_rule(&mut self, user: &UserPattern) -> u32 {
        let number = self.user_number(user);
        if !matches!(user, UserPattern::Role(_)) {
            self.add_user(user, number, None);
        }
        number
    }

    /// Whoever is this user is named by `number`.
    fn add_user(&mut self, user: &UserPattern, number: u32, role: Option<&RoleName>) {
        let of_user = self.user_number(user);
        self.name(of_user, number, role);
    }

    fn name(&mut self, of: u32, number: u32, role: Option<&RoleName>) {
        let named = self.named.entry(of).or_default();
        if !named.iter().any(|known| known.number == number) {
            named.push(Named { number, role: role.cloned() });
        }
    }

    /// The number of an ID or a pattern.
    fn number(&mut self, caller: &CallerPattern) -> u32 {
        match caller {
            CallerPattern::Id(id) => {
                if let Some(known) = self.ids.get(id) {
                    return *known;
                }
                let number = self.fresh();
                self.ids.insert(id.clone(), number);
                number
            }
            CallerPattern::Pattern(pattern) => {
                let text = pattern.to_string();
                if let Some((_, known)) = self.patterns.get(&text) {
                    return *known;
                }
                let number = self.fresh();
                self.patterns.insert(text, (pattern.clone(), number));
                number
            }
            CallerPattern::Role(role) => self.role(SERVICES, role),
            CallerPattern::Direct => NONE,
        }
    }

    /// The number of a rule's caller.
    fn of_rule(&mut self, caller: &CallerPattern) -> u32 {
        let number = self.number(caller);
        if !matches!(caller, CallerPattern::Role(_)) {
            self.add(caller, number, None);
        }
        number
    }

    /// Whoever is this caller is named by `number`.
    fn add(&mut self, caller: &CallerPattern, number: u32, role: Option<&RoleName>) {
        let of_caller = self.number(caller);
        self.name(of_caller, number, role);
    }

    fn build(mut self) -> CallerIndex {
        let mut sets: Vec<Range<u32>> = Vec::new();
        let mut all: Vec<Named> = Vec::new();
        let mut keep = |named: Option<Vec<Named>>| {
            let first = number(all.len());
            all.extend(named.unwrap_or_default());
            sets.push(first..number(all.len()));
            number(sets.len() - 1)
        };
        let ids: Vec<(SpiffeId, u32)> =
            self.ids.into_iter().map(|(id, number)| (id, keep(self.named.remove(&number)))).collect();
        let users: Vec<(UserId, u32)> =
            self.users.into_iter().map(|(id, number)| (id, keep(self.named.remove(&number)))).collect();
        let issuers: Vec<(IssuerName, u32)> =
            self.issuers.into_iter().map(|(name, number)| (name, keep(self.named.remove(&number)))).collect();
        let mut trie = TrieBuilder::new();
        let mut pattern_sets = Vec::new();
        for (pattern, number) in self.patterns.into_values() {
            // Leaves are numbered in the order in which they are made, and each pattern has its own.
            trie.leaf(pattern_parts(&pattern));
            pattern_sets.push(keep(self.named.remove(&number)));
        }
        let services = ids.iter().map(|(id, set)| (SERVICES, without_scheme(id), *set));
        let users = users.iter().map(|(id, set)| (USERS, id.as_str(), *set));
        let issuers = issuers.iter().map(|(name, set)| (ISSUERS, name.as_str(), *set));
        let ids: Vec<_> = services.chain(users).chain(issuers).collect();
        let roles: Vec<_> = self.roles.iter().map(|((of, role), number)| (*of, role.as_str(), *number)).collect();
        CallerIndex {
            ids: Words::new(ids.into_iter()),
            patterns: trie.build(),
            any_roles: !roles.is_empty(),
            roles: Words::new(roles.into_iter()),
            sets: sets.into(),
            named: all.into(),
            pattern_sets: pattern_sets.into(),
        }
    }
}

fn without_scheme(id: &SpiffeId) -> &str {
    id.as_str().strip_prefix("spiffe://").unwrap_or_default()
}

impl CallerIndex {
    /// Everything that names the caller, but for [`EVERY`]: a number, and whether it counts for allow rules.
    pub(super) fn of(&self, caller: &crate::caller::Caller, visit: &mut impl FnMut(u32, bool)) {
        let asserted = caller.asserted_roles();
        let counts = |role: &RoleName| asserted.is_none_or(|asserted| asserted.contains(role));
        let index = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let mut set = |set: Option<&u32>| {
            let range = set.and_then(|set| self.sets.get(index(*set)));
            let named = range.and_then(|range| self.named.get(index(range.start)..index(range.end)));
            for named in named.unwrap_or_default() {
                visit(named.number, named.role.as_ref().is_none_or(counts));
            }
        };
        let kind = match caller.id() {
            CallerId::Service(id) => {
                let text = without_scheme(id);
                set(self.ids.get(SERVICES, text.as_bytes()).as_ref());
                if !self.patterns.is_empty() && !id.is_reserved() {
                    self.patterns.walk(text, &mut |leaf, _| {
                        set(self.pattern_sets.get(usize::try_from(leaf).unwrap_or(usize::MAX)));
                    });
                }
                SERVICES
            }
            CallerId::User(id) => {
                set(self.ids.get(USERS, id.as_str().as_bytes()).as_ref());
                set(self.ids.get(ISSUERS, id.issuer().as_str().as_bytes()).as_ref());
                USERS
            }
        };
        if self.any_roles {
            for role in caller.granted_roles().iter() {
                if let Some(number) = self.roles.get(kind, role.as_str().as_bytes()) {
                    visit(number, counts(role));
                }
            }
        }
    }
}

/// Whether some request of this method to a router's route could be one of the rule's operations.
pub(super) fn covers_http(rule: &Rule, method: Method, route: &str) -> bool {
    let route: Vec<&str> = route.split('/').skip(1).filter(|segment| !segment.is_empty()).collect();
    let meets = |operation: &At<OperationPattern>| match &operation.value {
        OperationPattern::Http { method: own, template } => {
            own.is_none_or(|own| own.place() == method.place()) && meet(template.pieces(), &route)
        }
        OperationPattern::Grpc { .. } | OperationPattern::App { .. } => false,
    };
    rule.takes_every_operation() || rule.operations.iter().any(meets)
}

/// Whether a template and a route of a router have a path in common.
fn meet(template: &[Piece], route: &[&str]) -> bool {
    let is_rest = |segment: &str| segment.starts_with("{*") || segment == "**";
    match (template.split_first(), route.split_first()) {
        (None, None) => true,
        (Some((Piece::Rest, _)), Some(_)) => true,
        (Some(_), Some((segment, _))) if is_rest(segment) => true,
        (Some((Piece::Literal(text), template)), Some((segment, route))) => {
            (segment == text || segment.starts_with('{') || *segment == "*") && meet(template, route)
        }
        (Some((Piece::One(_), template)), Some((_, route))) => meet(template, route),
        (None, Some(_)) | (Some(_), None) => false,
    }
}
