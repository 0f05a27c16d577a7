//! Tests of a policy: requests, and what the answer is to be.
//!
//! ```toml
//! [[case]]
//! name   = "an exporter reads"
//! caller = "/export"          # or a user who calls: "corp:charlie"
//! op     = "GET /v1/config/x"
//! proof  = "api-key"          # x509, or for a user id-token, when left out; also roles, asserted, via, user, scope, facts, at
//! expect = "allow"            # or "deny", "second-stage"
//! rule   = "exporters read their limits"
//! ```

use toml::{Spanned, de::DeValue};

use super::{
    Access, Explanation, Facts, Operation, Policy, PolicyErrors, User,
    finding::{Findings, nearest},
    syntax,
};
use crate::{
    caller::{Caller, Proof, ProofKind, RoleName, Roles},
    clock::Timestamp,
    spiffe::{SpiffeId, TrustDomain},
    user::{Facts as Presented, IssuerName, PresentedUser, UserId, UserIdError},
};

/// What came of one case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Its line.
    pub line: usize,
    /// The answer as expected, `allow by a rule`.
    pub expected: String,
    /// The answer as it is.
    pub found: String,
    /// Whether they agree.
    pub passed: bool,
    /// Why the answer is what it is.
    pub explanation: Explanation,
}

/// A request, as owned values: what a person writes in a test or on a command line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Query {
    /// Who calls: a service or a user.
    pub caller: Caller,
    /// The user that a service calls for: who, and for what.
    pub user: Option<(String, String)>,
    /// What it wants, as [`Operation::parse`] reads it.
    pub operation: String,
    /// What the handler knows.
    pub facts: Option<Facts>,
    /// When.
    pub at: Timestamp,
}

/// Why a query cannot be asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The caller or the proxy is no SPIFFE ID.
    #[error("`{}` is no caller: {source}; write `/path` or `spiffe://…` for a service, `ISSUER:SUBJECT` for a user", .text.escape_debug())]
    Caller {
        /// What was given, shortened.
        text: String,
        /// Why.
        source: crate::spiffe::SpiffeIdError,
    },
    /// The caller is meant to be a user, and is none.
    #[error("`{}` is no user: {source}; write `ISSUER:SUBJECT`, such as `corp:charlie`", .text.escape_debug())]
    User {
        /// What was given, shortened.
        text: String,
        /// Why.
        source: UserIdError,
    },
    /// A proof that the caller's kind never has.
    #[error("`{proof}` proves {}, and the caller is {}", if proof.is_of_users() { "a user" } else { "a service" }, if proof.is_of_users() { "a service" } else { "a user" })]
    ProofOfOther {
        /// The kind.
        proof: ProofKind,
    },
    /// A user who calls acts for nobody else.
    #[error("the caller is a user, who calls for nobody else; leave the other user out")]
    TwoUsers,
    /// A scope that belongs to nobody.
    #[error("a scope without a user: a service's own credential has none")]
    ScopeWithoutUser,
    /// A role that is none.
    #[error(transparent)]
    Role(#[from] crate::caller::RoleNameError),
    /// More roles than a credential can have.
    #[error("{count} roles, at most {} are taken", Roles::MOST)]
    TooManyRoles {
        /// How many.
        count: usize,
    },
    /// An operation that is none.
    #[error(transparent)]
    Operation(#[from] super::OperationError),
}

/// The parts of a query about the caller, as texts.
#[derive(Clone, Copy, Debug)]
pub struct CallerText<'a> {
    /// `/path` of the trust domain, a whole SPIFFE ID, or a user: `ISSUER:SUBJECT`.
    pub id: &'a str,
    /// How it proves that: when left out, a service by its X.509-SVID, a user by an ID token.
    pub proof: Option<ProofKind>,
    /// The scope of a user's own token; none is unknown.
    pub scope: Option<&'a str>,
    /// Roles that its record grants, or a user's issuer says.
    pub roles: &'a [String],
    /// Roles that its credential asserts, if it does.
    pub asserted: Option<&'a [String]>,
    /// The proxy that it comes through.
    pub via: Option<&'a str>,
}

impl Query {
    /// A query about a request that nobody has made: the caller has proved nothing, so this is for explaining alone.
    ///
    /// # Errors
    /// At the first text that is not what it should be.
    pub fn new(
        trust_domain: &TrustDomain,
        caller: CallerText<'_>,
        operation: &str,
        at: Timestamp,
    ) -> Result<Self, QueryError> {
        let id = |text: &str| {
            let whole = if text.starts_with('/') { format!("spiffe://{trust_domain}{text}") } else { text.to_owned() };
            SpiffeId::parse(&whole)
                .map_err(|source| QueryError::Caller { text: text.chars().take(200).collect(), source })
        };
        let roles = |names: &[String]| {
            if names.len() > Roles::MOST {
                return Err(QueryError::TooManyRoles { count: names.len() });
            }
            Ok(names.iter().map(|name| RoleName::parse(name)).collect::<Result<Roles, _>>()?)
        };
        Operation::parse(operation)?;
        let is_user = caller.id.split_once(':').is_some_and(|(issuer, _)| IssuerName::parse(issuer).is_ok());
        let kind = caller.proof.unwrap_or(if is_user { ProofKind::IdToken } else { ProofKind::X509Svid });
        if kind.is_of_users() != is_user {
            return Err(QueryError::ProofOfOther { proof: kind });
        }
        let key_id = "a query".into();
        let mut made = if is_user {
            let text = || caller.id.chars().take(200).collect();
            let user = Presented {
                id: UserId::parse(caller.id).map_err(|source| QueryError::User { text: text(), source })?,
                roles: roles(caller.roles)?,
                scope: caller.scope.map(Into::into),
                kind,
                key_id,
                token_id: None,
                valid_until: Timestamp::MAX,
            };
            Caller::of_user(PresentedUser::new(user))
        } else if caller.scope.is_some() {
            return Err(QueryError::ScopeWithoutUser);
        } else {
            Caller::new(id(caller.id)?, Proof { kind, key_id }, Timestamp::MAX)
                .with_roles(roles(caller.roles)?, caller.asserted.map(roles).transpose()?)
        };
        if let Some(via) = caller.via {
            made = made.with_via(id(via)?);
        }
        Ok(Self { caller: made, user: None, operation: operation.to_owned(), facts: None, at })
    }

    /// Asks a policy.
    ///
    /// # Errors
    /// When the operation is none ([`Query::new`] has looked), or a user calls for another one.
    pub fn explain(&self, policy: &Policy) -> Result<Explanation, QueryError> {
        let user = match (self.caller.presented_user(), &self.user) {
            (Some(_), Some(_)) => return Err(QueryError::TwoUsers),
            (Some(user), None) => Some(User::from(user)),
            (None, Some((sub, scope))) => Some(User { sub, scope: Some(scope) }),
            (None, None) => None,
        };
        let operation = Operation::parse(&self.operation)?;
        Ok(policy.explain(&Access { caller: &self.caller, user, operation, facts: self.facts.as_ref(), at: self.at }))
    }
}

impl Policy {
    /// The most cases of one file.
    pub const MAX_CASES: usize = 100_000;

    /// Runs the `[[case]]`s of a text: the policy's own, or another file of the same form that holds only cases.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn test(
        &self,
        cases: &str,
        trust_domain: &TrustDomain,
        at: Timestamp,
    ) -> Result<Vec<CaseResult>, PolicyErrors> {
        let mut findings = Findings::default();
        let (_, tables) = syntax::read(cases, trust_domain, &mut findings);
        if tables.len() > Self::MAX_CASES {
            let message = format!("{} cases, at most {} are taken", tables.len(), Self::MAX_CASES);
            findings.error(&(0..0), "too-large", message);
        }
        let mut results = Vec::new();
        if !findings.has_errors() {
            for table in &tables {
                let read = Case::read(table, trust_domain, at, &mut findings);
                if let Some(case) = read.filter(|_| !findings.has_errors()) {
                    results.extend(case.run(self, cases, table.span().start));
                }
            }
        }
        findings.finish(cases)?;
        Ok(results)
    }
}

struct Case {
    name: String,
    query: Query,
    expect: &'static str,
    rule: Option<String>,
}

const KEYS: &[&str] =
    &["name", "caller", "op", "proof", "roles", "asserted", "via", "user", "scope", "facts", "at", "expect", "rule"];

impl Case {
    fn read(
        table: &Spanned<DeValue<'_>>,
        trust_domain: &TrustDomain,
        at: Timestamp,
        findings: &mut Findings,
    ) -> Option<Self> {
        let whole = table.span();
        let Some(entries) = table.get_ref().as_table() else {
            findings.error(&whole, "wrong-type", "a case is a table");
            return None;
        };
        for key in entries.keys() {
            let word = key.get_ref().as_ref();
            if !KEYS.contains(&word) {
                let shown: String = word.chars().take(64).collect();
                let finding = findings.error(
                    &key.span(),
                    "unknown-key",
                    format!("`{}` is not known in a case", shown.escape_debug()),
                );
                finding.suggest(match nearest(word, KEYS.iter().copied()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("known are {}", KEYS.join(", ")),
                });
            }
        }
        let mut text = |key: &str, needed: bool| -> Option<String> {
            match entries.get(key).map(|value| (value.get_ref().as_str(), value.span())) {
                Some((Some(text), _)) => Some(text.to_owned()),
                Some((None, span)) => {
                    findings.error(&span, "wrong-type", format!("`{key}` is a text"));
                    None
                }
                None if needed => {
                    findings.error(&whole, "no-value", format!("a case without `{key}`"));
                    None
                }
                None => None,
            }
        };
        let (caller, op, expect) = (text("caller", true), text("op", true), text("expect", true));
        let (proof, via, user, scope) =
            (text("proof", false), text("via", false), text("user", false), text("scope", false));
        let (name, rule) = (text("name", false), text("rule", false));
        let mut names = |key: &str| -> Option<Vec<String>> {
            let value = entries.get(key)?;
            let texts = value
                .get_ref()
                .as_array()
                .map(|array| array.iter().map(|one| one.get_ref().as_str().map(str::to_owned)).collect());
            match texts {
                Some(Some(texts)) => Some(texts),
                Some(None) | None => {
                    findings.error(&value.span(), "wrong-type", format!("`{key}` is a list of texts"));
                    None
                }
            }
        };
        let (roles, asserted) = (names("roles").unwrap_or_default(), names("asserted"));
        let expect = expect.and_then(|word| {
            let known = ["allow", "deny", "second-stage"].into_iter().find(|known| *known == word);
            if known.is_none() {
                findings
                    .error(&whole, "unknown-value", format!("`{}` is no answer", word.escape_debug()))
                    .suggest("one of allow, deny, second-stage is");
            }
            known
        });
        let kind = proof.as_deref().map(ProofKind::parse);
        if kind == Some(None) {
            let known = ProofKind::ALL.map(ProofKind::as_str).join(", ");
            findings
                .error(&whole, "unknown-value", "`proof` names no kind of credential")
                .suggest(format!("one of {known} is"));
        }
        let facts = entries.get("facts").and_then(|value| {
            let facts = facts(value.get_ref());
            if facts.is_none() {
                findings.error(
                    &value.span(),
                    "wrong-type",
                    format!(
                        "`facts` is a table of at most {} texts, whole numbers, truth values and lists of texts",
                        Facts::MOST
                    ),
                );
            }
            facts
        });
        let at = entries.get("at").map_or(Some(at), |value| {
            let at = value.get_ref().as_datetime().and_then(syntax::start_of);
            if at.is_none() {
                findings.error(&value.span(), "wrong-date", "`at` is a date, or a date and a time with an offset");
            }
            at
        });
        let (caller, op, at, expect) = (caller?, op?, at?, expect?);
        let caller = CallerText {
            id: &caller,
            proof: kind.flatten(),
            scope: scope.as_deref().filter(|_| user.is_none()),
            roles: &roles,
            asserted: asserted.as_deref(),
            via: via.as_deref(),
        };
        let mut query = match Query::new(trust_domain, caller, &op, at) {
            Ok(query) => query,
            Err(error) => {
                findings.error(&whole, "wrong-case", error.to_string());
                return None;
            }
        };
        query.user = user.map(|user| (user, scope.unwrap_or_default()));
        if query.user.is_some() && query.caller.user().is_some() {
            findings.error(&whole, "wrong-case", QueryError::TwoUsers.to_string());
        }
        query.facts = facts;
        Some(Self { name: name.unwrap_or_else(|| op.clone()), query, expect, rule })
    }

    fn run(self, policy: &Policy, text: &str, start: usize) -> Option<CaseResult> {
        let explanation = self.query.explain(policy).ok()?;
        let effect = explanation.decision.effect.as_str();
        let by = |rule: Option<&String>| rule.map(|rule| format!(" by `{rule}`")).unwrap_or_default();
        let rule_differs = self.rule.is_some() && self.rule != explanation.rule;
        Some(CaseResult {
            name: self.name,
            line: text.get(..start)?.bytes().filter(|byte| *byte == b'\n').count() + 1,
            expected: format!("{}{}", self.expect, by(self.rule.as_ref())),
            found: format!("{effect}{}", by(explanation.rule.as_ref())),
            passed: effect == self.expect && !rule_differs,
            explanation,
        })
    }
}

fn facts(value: &DeValue<'_>) -> Option<Facts> {
    let table = value.as_table()?;
    if table.len() > Facts::MOST {
        return None;
    }
    let mut facts = Facts::default();
    for (name, value) in table {
        let name = name.get_ref().to_string();
        facts = match value.get_ref() {
            DeValue::String(text) => facts.with(name, &**text),
            DeValue::Boolean(truth) => facts.with(name, *truth),
            DeValue::Integer(number) => facts.with(name, number.to_string().parse::<i64>().ok()?),
            DeValue::Array(array) => {
                let texts: Option<Vec<String>> =
                    array.iter().map(|one| one.get_ref().as_str().map(str::to_owned)).collect();
                facts.with(name, texts?)
            }
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => return None,
        };
    }
    Some(facts)
}
