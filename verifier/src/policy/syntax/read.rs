//! From text to rules.

use std::{collections::HashSet, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
    value::{Datetime, Offset},
};

use super::{
    super::{
        Policy,
        condition::Condition,
        finding::{Findings, nearest},
        operation::{OperationPattern, TemplateError},
    },
    Accept, At, CallerPattern, DEFAULT_PROOF, File, Limit, Mode, Role, Rule, RuleEffect, UserPattern, UserRule,
};
use crate::{
    caller::{ProofKind, RoleName},
    clock::Timestamp,
    spiffe::{Pattern, SpiffeId, TrustDomain},
    user::{IssuerName, UserId},
};

/// The tables of a file that are its test cases.
pub(in crate::policy) type Cases<'t> = Vec<Spanned<DeValue<'t>>>;

/// Reads a file. Whatever it finds wrong it says; the result is good only when there was no error.
pub(in crate::policy) fn read<'t>(
    text: &'t str,
    trust_domain: &TrustDomain,
    findings: &mut Findings,
) -> (File, Cases<'t>) {
    let mut file = File { mode: Mode::Enforce, accept: Accept::default(), roles: Vec::new(), rules: Vec::new() };
    let mut cases = Vec::new();
    if text.len() > Policy::MAX_BYTES {
        let message = format!("the file has {} bytes, at most {} are taken", text.len(), Policy::MAX_BYTES);
        findings.error(&(0..0), "too-large", message);
        return (file, cases);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let message = error.message().split('\n').collect::<Vec<_>>().join(", ");
        findings.error(&error.span().unwrap_or(0..0), "syntax", message);
    }
    if findings.has_errors() {
        return (file, cases);
    }
    let whole = table.span();
    let mut reader = Reader { trust_domain, findings };
    let mut version = false;
    for (key, value) in table.into_inner() {
        let span = value.span();
        match key.get_ref().as_ref() {
            "version" => {
                version = true;
                reader.version(&value);
            }
            "mode" => file.mode = reader.mode(&value),
            "accept" => file.accept = reader.accept(&value),
            "roles" => file.roles = reader.roles(&value),
            "allow" => reader.rules(&value, RuleEffect::Allow, &mut file.rules),
            "deny" => reader.rules(&value, RuleEffect::Deny, &mut file.rules),
            "case" => match value.into_inner() {
                DeValue::Array(array) => cases.extend(array),
                _ => {
                    reader.findings.error(&span, "wrong-type", "`case` is written `[[case]]`");
                }
            },
            other => reader.unknown(key.span(), other, FILE_KEYS, "in a policy file"),
        }
    }
    if !version {
        reader
            .findings
            .error(
                &(whole.start..whole.start),
                "no-version",
                "the file does not say which version of the language it is in",
            )
            .suggest("begin it with `version = 1`");
    }
    file.rules.sort_by_key(|rule| rule.span.start);
    reader.names(&file);
    (file, cases)
}

const FILE_KEYS: &[&str] = &["version", "mode", "accept", "roles", "allow", "deny", "case"];
const RULE_KEYS: &[&str] = &[
    "name",
    "callers",
    "users",
    "http",
    "grpc",
    "app",
    "proof",
    "weaker-than",
    "via",
    "user",
    "scope",
    "when",
    "limit",
    "mode",
    "audit",
];
/// The most entries of one list.
const MAX_LIST: usize = 10_000;
/// The longest text in a rule, in bytes.
const MAX_TEXT: usize = 8192;
/// The longest name of a rule, in bytes.
const MAX_NAME: usize = 200;
const MAX_ROLES: usize = 10_000;
const MAX_LIMITS: usize = 8;

struct Reader<'r> {
    trust_domain: &'r TrustDomain,
    findings: &'r mut Findings,
}

type Value<'t> = Spanned<DeValue<'t>>;

impl Reader<'_> {
    fn unknown(&mut self, span: Range<usize>, key: &str, known: &[&str], place: &str) {
        let shown: String = key.chars().take(64).collect();
        let message = format!("`{}` is not known {place}", shown.escape_debug());
        let finding = self.findings.error(&span, "unknown-key", message);
        match nearest(key, known.iter().copied()) {
            Some(meant) => finding.suggest(format!("did you mean `{meant}`?")),
            None => finding.suggest(format!("known are {}", known.join(", "))),
        }
    }

    fn wrong_type(&mut self, value: &Value<'_>, key: &str, wanted: &str) {
        let message = format!("`{key}` is {wanted}, here it is {}", a(value.get_ref().type_str()));
        self.findings.error(&value.span(), "wrong-type", message);
    }

    fn version(&mut self, value: &Value<'_>) {
        match value.get_ref().as_integer() {
            Some(number) if number.radix() == 10 && number.as_str() == "1" => {}
            Some(number) => {
                let shown: String = number.as_str().chars().take(20).collect();
                self.findings
                    .error(
                        &value.span(),
                        "unknown-version",
                        format!("version `{shown}` of the language is not known here"),
                    )
                    .suggest("this program reads version 1; a newer file needs a newer program");
            }
            None => self.wrong_type(value, "version", "a number"),
        }
    }

    fn text<'v>(&mut self, value: &'v Value<'_>, key: &str) -> Option<&'v str> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(value, key, "a text");
            return None;
        };
        if text.len() > MAX_TEXT {
            let message = format!("`{key}` has {} bytes, at most {MAX_TEXT} are taken", text.len());
            self.findings.error(&value.span(), "too-large", message);
            return None;
        }
        Some(text)
    }

    fn truth(&mut self, value: &Value<'_>, key: &str) -> bool {
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(value, key, "true or false");
            false
        })
    }

    /// The texts of a list, each with its place.
    fn list<'v>(&mut self, value: &'v Value<'_>, key: &str) -> Vec<At<&'v str>> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(value, key, "a list of texts");
            return Vec::new();
        };
        if array.len() > MAX_LIST {
            let message = format!("`{key}` has {} entries, at most {MAX_LIST} are taken", array.len());
            self.findings.error(&value.span(), "too-large", message);
            return Vec::new();
        }
        let mut seen = HashSet::new();
        let mut texts = Vec::with_capacity(array.len());
        for entry in array {
            let Some(text) = self.text(entry, key) else { continue };
            if seen.insert(text) {
                texts.push(At { value: text, span: entry.span() });
            } else {
                let message = format!("`{}` stands twice in `{key}`", shown(text));
                self.findings.warning(&entry.span(), "twice", message);
            }
        }
        texts
    }

    /// A word out of a few.
    fn word<T: Copy>(&mut self, value: &Value<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(value, key)?;
        if let Some((_, found)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*found);
        }
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let message = format!("`{}` is no value of `{key}`", shown(text));
        let finding = self.findings.error(&value.span(), "unknown-value", message);
        match nearest(text, known.iter().copied()) {
            Some(meant) => finding.suggest(format!("did you mean `{meant}`?")),
            None => finding.suggest(format!("one of {} is", known.join(", "))),
        }
        None
    }

    fn mode(&mut self, value: &Value<'_>) -> Mode {
        self.word(value, "mode", &[("enforce", Mode::Enforce), ("shadow", Mode::Shadow)]).unwrap_or_default()
    }

    fn proof(&mut self, value: &Value<'_>, key: &str) -> Option<ProofKind> {
        self.word(value, key, &ProofKind::ALL.map(|kind| (kind.as_str(), kind)))
    }

    fn accept(&mut self, value: &Value<'_>) -> Accept {
        let mut accept = Accept::default();
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(value, "accept", "a table");
            return accept;
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "shared-secret" => {
                    accept.shared_secret = self.until(value, "shared-secret");
                    accept.shared_secret_at = key.span().start;
                }
                "api-key" => {
                    accept.api_key = self.until(value, "api-key");
                    accept.api_key_at = key.span().start;
                }
                always if ProofKind::parse(always).is_some() => {
                    let message = format!("`{always}` is always accepted");
                    self.findings
                        .error(&key.span(), "always-accepted", message)
                        .suggest("leave it out; what a rule takes at least is its `proof`");
                }
                other => self.unknown(key.span(), other, &["shared-secret", "api-key"], "in `[accept]`"),
            }
        }
        accept
    }

    /// `{ until = 2027-03-31 }`: the whole of that day, in UTC.
    fn until(&mut self, value: &Value<'_>, kind: &str) -> Option<Timestamp> {
        let Some(table) = value.get_ref().as_table() else {
            let message = format!("`{kind}` is accepted until a date, always");
            self.findings
                .error(&value.span(), "wrong-type", message)
                .suggest(format!("write `{kind} = {{ until = 2027-03-31 }}`"));
            return None;
        };
        let mut until = None;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "until" => match value.get_ref().as_datetime().map(end_of) {
                    Some(Some(end)) => until = Some(end),
                    Some(None) => {
                        self.findings
                            .error(
                                &value.span(),
                                "wrong-date",
                                "`until` is a date, or a date and a time with an offset",
                            )
                            .suggest("write `2027-03-31` or `2027-03-31T12:00:00Z`");
                    }
                    None => self.wrong_type(value, "until", "a date without quotes"),
                },
                other => self.unknown(key.span(), other, &["until"], "here"),
            }
        }
        if until.is_none() && !self.findings.has_errors() {
            let message = format!("`{kind}` is accepted until a date, always");
            self.findings
                .error(&value.span(), "no-date", message)
                .suggest(format!("write `{kind} = {{ until = 2027-03-31 }}`"));
        }
        until
    }

    fn roles(&mut self, value: &Value<'_>) -> Vec<Role> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(value, "roles", "a table");
            return Vec::new();
        };
        if table.len() > MAX_ROLES {
            let message = format!("{} roles, at most {MAX_ROLES} are taken", table.len());
            self.findings.error(&value.span(), "too-large", message);
            return Vec::new();
        }
        let mut roles = Vec::with_capacity(table.len());
        for (key, value) in table {
            let name = match RoleName::parse(key.get_ref()) {
                Ok(name) => name,
                Err(error) => {
                    self.findings.error(&key.span(), "wrong-role", error.to_string());
                    continue;
                }
            };
            let mut members = Vec::new();
            let mut users = Vec::new();
            for entry in self.list(value, "roles") {
                if is_user(entry.value) {
                    users.extend(self.user_pattern(&entry).map(|value| At { value, span: entry.span }));
                    continue;
                }
                match self.caller(&entry) {
                    Some(CallerPattern::Role(role)) => {
                        let message = format!("`role:{role}` is a member of `{name}`: roles have no roles");
                        self.findings.error(&entry.span, "wrong-caller", message).suggest("name the callers");
                    }
                    Some(member) => members.push(At { value: member, span: entry.span }),
                    None => {}
                }
            }
            roles.push(Role { name, members, users });
        }
        roles
    }

    /// `corp:SUBJECT`, `corp` or `corp:*` for everybody of an issuer, or `role:name`.
    fn user_pattern(&mut self, entry: &At<&str>) -> Option<UserPattern> {
        let text = entry.value;
        let read = match text.split_once(':') {
            Some(("role", name)) => RoleName::parse(name).map(UserPattern::Role).map_err(|error| error.to_string()),
            Some((issuer, "*")) => {
                IssuerName::parse(issuer).map(UserPattern::Issuer).map_err(|error| error.to_string())
            }
            None => IssuerName::parse(text).map(UserPattern::Issuer).map_err(|error| error.to_string()),
            Some(_) => UserId::parse(text).map(UserPattern::Id).map_err(|error| error.to_string()),
        };
        let refused = |error| {
            let finding =
                self.findings.error(&entry.span, "wrong-user", format!("`{}` names no users: {error}", shown(text)));
            finding.suggest("write `ISSUER:SUBJECT` for one, `ISSUER` for everybody of an issuer, `role:name` for a role; services are named in `callers`");
        };
        read.map_err(refused).ok()
    }

    /// `/path`, a whole SPIFFE ID, a pattern of either, or `role:name`.
    fn caller(&mut self, entry: &At<&str>) -> Option<CallerPattern> {
        let text = entry.value;
        if let Some(name) = text.strip_prefix("role:") {
            return RoleName::parse(name)
                .map(CallerPattern::Role)
                .map_err(|error| {
                    self.findings.error(&entry.span, "wrong-role", error.to_string());
                })
                .ok();
        }
        let whole =
            if text.starts_with('/') { format!("spiffe://{}{text}", self.trust_domain) } else { text.to_owned() };
        let read = if whole.contains('*') {
            Pattern::parse(&whole).map(CallerPattern::Pattern).map_err(|error| error.to_string())
        } else {
            SpiffeId::parse(&whole).map_err(|error| error.to_string()).and_then(|id| match id.path() {
                "" => Err("only workloads are callers, and their SPIFFE IDs have a path; `/**` after it means all of the trust domain".to_owned()),
                _ => Ok(CallerPattern::Id(id)),
            })
        };
        match read {
            Ok(caller) => Some(caller),
            Err(error) => {
                let message = format!("`{}` is no caller: {error}", shown(text));
                let finding = self.findings.error(&entry.span, "wrong-caller", message);
                if !text.contains("://") && !text.starts_with('/') {
                    finding.suggest(
                        "write `/path` for your own trust domain, `spiffe://…` for another, `role:name` for a role",
                    );
                }
                None
            }
        }
    }

    fn rules(&mut self, value: &Value<'_>, effect: RuleEffect, rules: &mut Vec<Rule>) {
        let word = effect.as_str();
        let Some(array) = value.get_ref().as_array() else {
            let message = format!("`{word}` is written `[[{word}]]`");
            self.findings.error(&value.span(), "wrong-type", message);
            return;
        };
        if rules.len() + array.len() > Policy::MAX_RULES {
            let message = format!("more than {} rules", Policy::MAX_RULES);
            self.findings.error(&value.span(), "too-large", message);
            return;
        }
        for entry in array {
            match entry.get_ref().as_table() {
                Some(table) => rules.push(self.rule(entry.span(), table, effect)),
                None => self.wrong_type(entry, word, "a table for each rule"),
            }
        }
    }

    fn rule(&mut self, span: Range<usize>, table: &DeTable<'_>, effect: RuleEffect) -> Rule {
        let mut rule = Rule {
            name: String::new(),
            effect,
            mode: Mode::Enforce,
            callers: Vec::new(),
            users: Vec::new(),
            operations: Vec::new(),
            proof: DEFAULT_PROOF,
            weaker_than: None,
            via: Vec::new(),
            user: UserRule::Any,
            scope: None,
            when: None,
            limits: Vec::new(),
            audit: false,
            span: span.clone(),
        };
        let denies = effect == RuleEffect::Deny;
        let mut given = HashSet::new();
        let mut when = None;
        for (key, value) in table {
            let key_span = key.span();
            let key = key.get_ref().as_ref();
            given.insert(key);
            match key {
                "name" => rule.name = self.rule_name(value),
                "callers" => rule.callers = self.callers(value),
                "users" => rule.users = self.users(value),
                "http" => self.operations(value, key, OperationPattern::http, &mut rule.operations),
                "grpc" => self.operations(value, key, OperationPattern::grpc, &mut rule.operations),
                "app" => self.operations(value, key, OperationPattern::app, &mut rule.operations),
                "proof" if denies => {
                    self.findings
                        .error(&key_span, "not-in-deny", "a deny rule takes no `proof`")
                        .suggest("raise `proof` in the allow rules, or deny callers whose proof is `weaker-than` one");
                }
                "weaker-than" if !denies => {
                    self.findings
                        .error(&key_span, "not-in-allow", "`weaker-than` is for deny rules")
                        .suggest("an allow rule names the weakest proof that it takes: `proof`");
                }
                "proof" => rule.proof = self.proof(value, key).unwrap_or(DEFAULT_PROOF),
                "weaker-than" => rule.weaker_than = self.proof(value, key),
                "via" => rule.via = self.via(value),
                "user" => rule.user = self.user(value, denies),
                "scope" => rule.scope = self.scope(value),
                "when" => when = Some(value),
                "limit" if denies => {
                    self.findings
                        .error(&key_span, "not-in-deny", "a deny rule allows nothing that could be limited")
                        .suggest("leave `limit` out");
                }
                "limit" => rule.limits = self.limits(value),
                "mode" => rule.mode = self.mode(value),
                "audit" => rule.audit = self.truth(value, key),
                other => self.unknown(key_span, other, RULE_KEYS, &format!("in `[[{}]]`", effect.as_str())),
            }
        }
        if let Some(value) = when {
            rule.when = self.when(value, &rule);
        }
        self.check_rule(&rule, &given);
        rule
    }

    /// What the keys of a rule say together.
    fn check_rule(&mut self, rule: &Rule, given: &HashSet<&str>) {
        let word = rule.effect.as_str();
        if !given.contains("name") {
            self.findings
                .error(&rule.span, "no-name", format!("a `[[{word}]]` without a name"))
                .suggest("name it for what it is for: records and explanations show the name");
        }
        if rule.effect == RuleEffect::Allow {
            if !given.contains("callers") && !given.contains("users") {
                self.findings
                    .error(
                        &rule.span,
                        "no-callers",
                        format!("the rule `{}` does not say whom it allows something", shown(&rule.name)),
                    )
                    .suggest(
                        "add `callers`; `[\"/**\"]` is every service of your trust domain; or `users`, at an edge",
                    );
            }
            let only_users = rule.callers.is_empty() && !rule.users.is_empty();
            if only_users && (rule.user == UserRule::Absent || rule.strength() > ProofKind::IdToken.strength()) {
                self.findings
                    .error(
                        &rule.span,
                        "never-matches",
                        format!(
                            "the rule `{}` is for users alone and asks for what no user has: to have no user, or a proof stronger than a token",
                            shown(&rule.name)
                        ),
                    )
                    .suggest("leave `user` and `proof` out, or name services in `callers`");
            }
            if ["http", "grpc", "app"].iter().all(|key| !given.contains(key)) {
                self.findings
                    .error(
                        &rule.span,
                        "no-operations",
                        format!("the rule `{}` does not say what it allows", shown(&rule.name)),
                    )
                    .suggest("add `http`, `grpc` or `app`; `http = [\"* /**\"]` is every path but `/`");
            }
            if rule.user == UserRule::Absent && rule.scope.is_some() {
                self.findings
                    .error(
                        &rule.span,
                        "never-matches",
                        format!("the rule `{}` asks for a scope and for no user: nothing has both", shown(&rule.name)),
                    )
                    .suggest("leave one of `scope` and `user = \"forbidden\"` out");
            }
        }
        if rule.weaker_than == Some(ProofKind::ApiKey) {
            self.findings
                .error(
                    &rule.span,
                    "never-matches",
                    format!("the rule `{}` is for proofs weaker than an API key: there are none", shown(&rule.name)),
                )
                .suggest("name a stronger one in `weaker-than`");
        }
        let lists =
            [("callers", rule.callers.is_empty()), ("users", rule.users.is_empty()), ("via", rule.via.is_empty())];
        let empty = lists.iter().filter(|(_, empty)| *empty).map(|(key, _)| *key);
        let empty = empty.chain(["http", "grpc", "app"].into_iter().filter(|_| rule.operations.is_empty()));
        for key in empty.filter(|key| given.contains(key)).collect::<Vec<_>>() {
            // An empty list in a deny rule must not mean "everything".
            if !self.findings.has_errors() {
                self.findings
                    .error(
                        &rule.span,
                        "never-matches",
                        format!("`{key}` of the rule `{}` is empty: nothing matches", shown(&rule.name)),
                    )
                    .suggest(if rule.effect == RuleEffect::Deny {
                        "leave the key out to mean everything"
                    } else {
                        "name at least one, or remove the rule"
                    });
            }
        }
    }

    fn rule_name(&mut self, value: &Value<'_>) -> String {
        let Some(name) = self.text(value, "name") else { return String::new() };
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            self.findings.error(
                &value.span(),
                "wrong-name",
                format!("a rule's name has 1 to {MAX_NAME} bytes and no control characters"),
            );
        }
        name.to_owned()
    }

    fn callers(&mut self, value: &Value<'_>) -> Vec<At<CallerPattern>> {
        let entries = self.list(value, "callers");
        let read =
            entries.into_iter().filter_map(|entry| self.caller(&entry).map(|value| At { value, span: entry.span }));
        read.collect()
    }

    fn users(&mut self, value: &Value<'_>) -> Vec<At<UserPattern>> {
        let entries = self.list(value, "users");
        let read = entries
            .into_iter()
            .filter_map(|entry| self.user_pattern(&entry).map(|value| At { value, span: entry.span }));
        read.collect()
    }

    fn via(&mut self, value: &Value<'_>) -> Vec<CallerPattern> {
        let mut via = Vec::new();
        for entry in self.list(value, "via") {
            if entry.value == "direct" {
                via.push(CallerPattern::Direct);
                continue;
            }
            match self.caller(&entry) {
                Some(CallerPattern::Role(_)) => {
                    self.findings.error(
                        &entry.span,
                        "wrong-caller",
                        "a proxy is named by its SPIFFE ID; roles are the caller's",
                    );
                }
                Some(proxy) => via.push(proxy),
                None => {}
            }
        }
        via
    }

    fn operations(
        &mut self,
        value: &Value<'_>,
        key: &str,
        read: impl Fn(&str) -> Result<OperationPattern, TemplateError>,
        operations: &mut Vec<At<OperationPattern>>,
    ) {
        for entry in self.list(value, key) {
            match read(entry.value) {
                Ok(value) => operations.push(At { value, span: entry.span }),
                Err(error) => {
                    let finding = self.findings.error(
                        &entry.span,
                        "wrong-operation",
                        format!("`{}`: {error}", shown(entry.value)),
                    );
                    if let TemplateError::Method { word } = &error {
                        if word == "HEAD" {
                            finding.suggest("write GET");
                        } else if let Some(method) = super::super::Method::parse(&word.to_uppercase()) {
                            finding.suggest(format!("write {method}"));
                        }
                    }
                }
            }
        }
    }

    fn user(&mut self, value: &Value<'_>, denies: bool) -> UserRule {
        // "required" in a deny rule could be read both ways, so it has words of its own.
        let words: &[(&str, UserRule)] = if denies {
            &[("any", UserRule::Any), ("present", UserRule::Present), ("absent", UserRule::Absent)]
        } else {
            &[("any", UserRule::Any), ("required", UserRule::Present), ("forbidden", UserRule::Absent)]
        };
        self.word(value, "user", words).unwrap_or_default()
    }

    fn scope(&mut self, value: &Value<'_>) -> Option<String> {
        if value.get_ref().is_array() {
            self.findings.error(&value.span(), "wrong-type", "`scope` is a text, here it is a list").suggest(
                "for all of several write them with blanks between, `\"a b\"`; for one of several write two rules",
            );
            return None;
        }
        let text = self.text(value, "scope")?;
        // RFC 6749 §3.3.
        let word = |word: &str| !word.is_empty() && word.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
        if text.split(' ').all(word) {
            return Some(text.to_owned());
        }
        self.findings
            .error(&value.span(), "wrong-scope", format!("`{}` is no scope", shown(text)))
            .suggest("a scope is words of printable ASCII, one blank between two");
        None
    }

    fn limits(&mut self, value: &Value<'_>) -> Vec<Limit> {
        let entries = match value.get_ref() {
            DeValue::String(_) => {
                self.text(value, "limit").map(|text| At { value: text, span: value.span() }).into_iter().collect()
            }
            _ => self.list(value, "limit"),
        };
        if entries.len() > MAX_LIMITS {
            self.findings.error(&value.span(), "too-large", format!("a rule has at most {MAX_LIMITS} limits"));
        }
        let mut limits = Vec::new();
        for entry in entries {
            match Limit::parse(entry.value) {
                Some(limit) => limits.push(limit),
                None => self
                    .findings
                    .error(&entry.span, "wrong-limit", format!("`{}` is no limit", shown(entry.value)))
                    .suggest("write `100/s burst 200`, `5/min per user` or `10000/day per rule`; units are s, min, h and day (which has no burst)"),
            }
        }
        // Counted in this order; see [`LimitBy`].
        limits.sort_by_key(|limit| limit.by);
        limits
    }

    fn when(&mut self, value: &Value<'_>, rule: &Rule) -> Option<Condition> {
        let text = self.text(value, "when")?;
        let operations: Vec<_> = rule.operations.iter().map(|operation| &operation.value).collect();
        match Condition::parse(text, &operations) {
            Ok(condition) => Some(condition),
            Err(error) => {
                let finding = self.findings.error(&value.span(), error.code(), format!("`when`: {error}"));
                if let Some(suggestion) = error.suggestion() {
                    finding.suggest(suggestion);
                }
                None
            }
        }
    }

    /// Names of rules are unique, roles are known.
    fn names(&mut self, file: &File) {
        let mut names = HashSet::new();
        for rule in &file.rules {
            if !rule.name.is_empty() && !names.insert(rule.name.as_str()) {
                let message = format!("two rules are named `{}`", shown(&rule.name));
                self.findings.error(&rule.span, "twice", message).suggest("give each its own name");
            }
        }
        let known: HashSet<&str> = file.roles.iter().map(|role| role.name.as_str()).collect();
        let mut told = HashSet::new();
        let of_services = file.rules.iter().flat_map(|rule| &rule.callers).filter_map(|caller| match &caller.value {
            CallerPattern::Role(role) => Some((role, &caller.span, "a key's record")),
            CallerPattern::Id(_) | CallerPattern::Pattern(_) | CallerPattern::Direct => None,
        });
        let of_users = file.rules.iter().flat_map(|rule| &rule.users).filter_map(|user| match &user.value {
            UserPattern::Role(role) => Some((role, &user.span, "an issuer's claim")),
            UserPattern::Id(_) | UserPattern::Issuer(_) => None,
        });
        for (role, span, giver) in of_services.chain(of_users) {
            if known.contains(role.as_str()) || !told.insert(role) {
                continue;
            }
            let message = format!("the role `{role}` is not in `[roles]`: only {giver} can grant it");
            let finding = self.findings.warning(span, "unknown-role", message);
            let declare = format!("if that does, say so with `{role} = []` in `[roles]`");
            match nearest(role.as_str(), known.iter().copied()) {
                Some(meant) => finding.suggest(format!("did you mean `{meant}`? {declare}")),
                None => finding.suggest(declare),
            }
        }
    }
}

/// Whether an entry of a role is meant for users: `corp:charlie`, `corp:*`. A bare word is not: most likely it is a path without its `/`.
fn is_user(entry: &str) -> bool {
    entry.split_once(':').is_some_and(|(issuer, _)| IssuerName::parse(issuer).is_ok())
}

/// The first moment after what is written: after the whole day for a date alone.
fn end_of(written: &Datetime) -> Option<Timestamp> {
    moment(written, time::Date::next_day)
}

/// The moment that is written, the beginning of the day for a date alone.
pub(in crate::policy) fn start_of(written: &Datetime) -> Option<Timestamp> {
    moment(written, Some)
}

fn moment(written: &Datetime, of_day: impl Fn(time::Date) -> Option<time::Date>) -> Option<Timestamp> {
    let date = written.date?;
    let month = time::Month::try_from(date.month).ok()?;
    let date = time::Date::from_calendar_date(i32::from(date.year), month, date.day).ok()?;
    let seconds = match (written.time, written.offset) {
        (None, None) => of_day(date)?.midnight().assume_utc().unix_timestamp(),
        (Some(at), Some(offset)) => {
            let at = time::Time::from_hms(at.hour, at.minute, at.second.unwrap_or(0)).ok()?;
            let minutes = match offset {
                Offset::Z => 0,
                Offset::Custom { minutes } => i64::from(minutes),
            };
            date.with_time(at).assume_utc().unix_timestamp().checked_sub(minutes * 60)?
        }
        _ => return None,
    };
    Some(Timestamp::from_unix_seconds(seconds))
}

/// A text from the file, short and harmless in a message (T-31).
fn shown(text: &str) -> String {
    let short: String = text.chars().take(100).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{}{more}", short.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"))
}

/// With its article.
fn a(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}
