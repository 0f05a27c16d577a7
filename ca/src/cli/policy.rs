//! `bonafide-ca policy`: looks at the policy file of a service. Reads files and nothing else; no CA is asked.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bonafide_verifier::caller::ProofKind;
use bonafide_verifier::clock::{Clock as _, SystemClock, Timestamp};
use bonafide_verifier::policy::{CallerText, Fact, Facts, Finding, Loaded, Policy, PolicyErrors, Query};
use bonafide_verifier::spiffe::TrustDomain;
use clap::{Args, Subcommand};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Failure;
use super::output::{self, Output};

/// Check, explain, test and compare the policy files of services
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    Check(Check),
    Explain(Box<Explain>),
    Test(Test),
    Diff(Diff),
}

impl PolicyCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check(check) => check.run(),
            Self::Explain(explain) => explain.run(),
            Self::Test(test) => test.run(),
            Self::Diff(diff) => diff.run(),
        }
    }
}

/// What paths and dates in a policy mean.
#[derive(Args, Debug)]
struct Meant {
    /// The trust domain that paths such as `/photo` are of. Matters where whole SPIFFE IDs of it are written too
    #[arg(long, value_name = "NAME", env = "BONAFIDE_TRUST_DOMAIN", default_value = "example.org", value_parser = TrustDomain::parse)]
    trust_domain: TrustDomain,
    /// As if it were then, `2027-03-31T12:00:00Z`; now when left out
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    at: Option<Timestamp>,
}

impl Meant {
    fn at(&self) -> Timestamp {
        self.at.unwrap_or_else(|| SystemClock.now())
    }
}

fn read_time(text: &str) -> Result<Timestamp, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(|at| Timestamp::from_unix_seconds(at.unix_timestamp()))
        .map_err(|error| format!("{error}; write `2027-03-31T12:00:00Z`"))
}

/// Check a policy file, and say what to do about what is wrong
///
/// Prints FILE:LINE:COLUMN, what is wrong and a suggestion. Exit code 0: the file is good, perhaps with warnings. 3: a service refuses it. 1: it
/// cannot be read.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca policy check policy.toml
  bonafide-ca policy check policy.toml --at 2027-04-01T00:00:00Z --output json")]
pub(crate) struct Check {
    /// The policy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    meant: Meant,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Checked {
    file: String,
    good: bool,
    version: Option<String>,
    rules: usize,
    findings: Vec<ShownFinding>,
}

#[derive(Serialize)]
struct ShownFinding {
    severity: &'static str,
    line: usize,
    column: usize,
    code: &'static str,
    message: String,
    suggestion: Option<String>,
    #[serde(skip)]
    text: String,
}

impl ShownFinding {
    fn of(finding: &Finding) -> Self {
        Self {
            severity: finding.severity.as_str(),
            line: finding.line,
            column: finding.column,
            code: finding.code,
            message: finding.message.clone(),
            suggestion: finding.suggestion.clone(),
            text: finding.to_string(),
        }
    }
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let text = read(&self.file)?;
        let parsed = Policy::parse(&text, &self.meant.trust_domain, self.meant.at());
        let (loaded, findings) = match &parsed {
            Ok(loaded) => (Some(loaded), loaded.warnings.as_slice()),
            Err(errors) => (None, errors.findings()),
        };
        let checked = Checked {
            file: shown(&self.file),
            good: loaded.is_some(),
            version: loaded.map(|loaded| loaded.policy.version().to_string()),
            rules: loaded.map_or(0, |loaded| loaded.policy.rules().count()),
            findings: findings.iter().map(ShownFinding::of).collect(),
        };
        self.output.print(&checked, |checked| {
            let mut lines: Vec<_> =
                checked.findings.iter().map(|f| output::printable(&format!("{}:{}", checked.file, f.text))).collect();
            if let Some(version) = &checked.version {
                lines.push(format!("{}: good, {} rules, version {version}", checked.file, checked.rules));
            }
            lines.join("\n")
        })?;
        parsed.map(drop).map_err(|errors| refused(&self.file, &errors))
    }
}

/// Say whether a request is allowed, by which rule, or which rule comes nearest and what differs
///
/// Exit code 0 whatever the answer is.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca policy explain policy.toml --caller /export --op 'GET /v1/config/x'
  bonafide-ca policy explain policy.toml --caller /export --op config.v1.Config/Get --proof api-key
  bonafide-ca policy explain policy.toml --caller /photo --op 'PUT /v1/images/1' --user corp:charlie
  bonafide-ca policy explain policy.toml --caller corp:charlie --op 'GET /v1/images/1'")]
pub(crate) struct Explain {
    /// The policy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Who calls: `/path` of the trust domain, a whole SPIFFE ID, or a user with no service in front: `ISSUER:SUBJECT`
    #[arg(long, value_name = "ID")]
    caller: String,
    /// What it wants: `GET /v1/x`, `package.Service/Method`, or `app ACTION /resource`
    #[arg(long = "op", value_name = "OPERATION")]
    operation: String,
    /// How it proves who it is: x509, jwt-svid, access-token, shared-secret, api-key; a user: id-token, user-access-token, session. When left out: x509,
    /// or id-token
    #[arg(long, value_name = "KIND", value_parser = read_proof)]
    proof: Option<ProofKind>,
    /// A role that the record of its key grants, or a user's issuer says; repeatable
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A role that its credential asserts, if it asserts any; repeatable
    #[arg(long = "asserted", value_name = "ROLE")]
    asserted: Vec<String>,
    /// The trusted proxy that it comes through
    #[arg(long, value_name = "ID")]
    via: Option<String>,
    /// The user that a service acts for
    #[arg(long, value_name = "SUBJECT")]
    user: Option<String>,
    /// The scope of the user's token. When left out, that of a user who calls is unknown, which is not unlimited
    #[arg(long, value_name = "WORDS")]
    scope: Option<String>,
    /// A fact about the resource, `NAME=VALUE`; repeatable. With any, it is the second stage that is asked
    #[arg(long = "fact", value_name = "NAME=VALUE")]
    facts: Vec<String>,
    #[command(flatten)]
    meant: Meant,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Explained {
    answer: &'static str,
    why: Option<&'static str>,
    rule: Option<String>,
    matching: Vec<String>,
    nearest: Vec<Near>,
    shadow: Option<&'static str>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct Near {
    rule: String,
    differences: Vec<String>,
}

fn read_proof(word: &str) -> Result<ProofKind, String> {
    let known = ProofKind::ALL.map(ProofKind::as_str).join(", ");
    ProofKind::parse(word).ok_or_else(|| format!("one of {known}"))
}

impl Explain {
    fn run(self) -> Result<(), Failure> {
        let (_, loaded) = load(&self.file, &self.meant)?;
        let caller = CallerText {
            id: &self.caller,
            proof: self.proof,
            scope: self.scope.as_deref().filter(|_| self.user.is_none()),
            roles: &self.roles,
            asserted: (!self.asserted.is_empty()).then_some(self.asserted.as_slice()),
            via: self.via.as_deref(),
        };
        let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
        let mut query = Query::new(&self.meant.trust_domain, caller, &self.operation, self.meant.at())
            .map_err(|error| usage(&error))?;
        query.user = self.user.map(|user| (user, self.scope.unwrap_or_default()));
        if !self.facts.is_empty() {
            let mut facts = Facts::default();
            for fact in &self.facts {
                let (name, value) = fact
                    .split_once('=')
                    .ok_or_else(|| Failure::Usage(format!("`{}` is no fact; write NAME=VALUE", fact.escape_debug())))?;
                facts = facts.with(name, read_fact(value));
            }
            query.facts = Some(facts);
        }
        let explanation = query.explain(&loaded.policy).map_err(|error| usage(&error))?;
        let decision = explanation.decision;
        let why = match decision.effect {
            bonafide_verifier::policy::Effect::Deny(why) => Some(why.code()),
            bonafide_verifier::policy::Effect::Allow | bonafide_verifier::policy::Effect::AllowIfSecondStage => None,
        };
        let explained = Explained {
            answer: decision.effect.as_str(),
            why,
            text: explanation.to_string(),
            rule: explanation.rule,
            matching: explanation.matching,
            nearest: explanation
                .nearest
                .into_iter()
                .map(|near| Near { rule: near.rule, differences: near.differences })
                .collect(),
            shadow: decision.shadow.map(|shadow| shadow.effect.as_str()),
        };
        self.output
            .print(&explained, |explained| explained.text.lines().map(output::printable).collect::<Vec<_>>().join("\n"))
    }
}

/// `true`, a whole number, or a text.
fn read_fact(value: &str) -> Fact {
    match (value.parse::<bool>(), value.parse::<i64>()) {
        (Ok(truth), _) => Fact::Bool(truth),
        (_, Ok(number)) => Fact::Integer(number),
        _ => Fact::Text(value.to_owned()),
    }
}

/// Run the `[[case]]`s of a policy file, or of another file, and show what differs
///
/// Exit code 0: every case is answered as it expects. 3: one is not.
#[derive(Args, Debug)]
#[command(after_help = "\
A case:
  [[case]]
  caller = \"/export\"
  op     = \"GET /v1/config/x\"
  proof  = \"api-key\"    # x509, or for a user (\"corp:charlie\") id-token, when left out; also roles, asserted, via, user, scope, facts, at
  expect = \"allow\"      # or deny, second-stage
  rule   = \"exporters read their limits\"

Examples:
  bonafide-ca policy test policy.toml
  bonafide-ca policy test policy.toml --cases cases.toml")]
pub(crate) struct Test {
    /// The policy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Another file with the cases; it begins with `version = 1` too
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    meant: Meant,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Tested {
    passed: usize,
    failed: Vec<FailedCase>,
}

#[derive(Serialize)]
struct FailedCase {
    file: String,
    line: usize,
    name: String,
    expected: String,
    found: String,
    explanation: String,
}

impl Test {
    fn run(self) -> Result<(), Failure> {
        let (text, loaded) = load(&self.file, &self.meant)?;
        let (file, text) = match &self.cases {
            Some(cases) => (cases, read(cases)?),
            None => (&self.file, text),
        };
        let results = loaded
            .policy
            .test(&text, &self.meant.trust_domain, self.meant.at())
            .map_err(|errors| told(file, &errors))?;
        if results.is_empty() {
            return Err(Failure::Usage(format!("`{}` has no `[[case]]`", shown(file))));
        }
        let count = results.len();
        let failed: Vec<_> = results
            .into_iter()
            .filter(|result| !result.passed)
            .map(|result| FailedCase {
                file: shown(file),
                line: result.line,
                name: result.name,
                expected: result.expected,
                found: result.found,
                explanation: result.explanation.to_string(),
            })
            .collect();
        let tested = Tested { passed: count - failed.len(), failed };
        self.output.print(&tested, |tested| {
            let mut lines = Vec::new();
            for case in &tested.failed {
                let line = format!("{}:{}: {}", case.file, case.line, case.name);
                lines.push(output::printable(&line));
                lines.push(output::printable(&format!("  - {}", case.expected)));
                lines.push(output::printable(&format!("  + {}", case.found)));
                lines.extend(case.explanation.lines().skip(1).map(|line| output::printable(&format!("    {line}"))));
            }
            lines.push(format!("{} passed, {} failed", tested.passed, tested.failed.len()));
            lines.join("\n")
        })?;
        match tested.failed.len() {
            0 => Ok(()),
            failed => {
                let message = format!("{failed} of {count} cases are not answered as they expect");
                Err(Failure::Refused { message, code: "cases-failed".to_owned() })
            }
        }
    }
}

/// Say which callers may do what only under one of two policies
///
/// Asks both about one representative of each pattern and variable, written `any`. Exit code 0, whether there are differences or not.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca policy diff policy.toml policy.new.toml
  bonafide-ca policy diff policy.toml policy.new.toml --output json | jq '.changes | length'")]
pub(crate) struct Diff {
    /// The policy as it is
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The policy as it is to be
    #[arg(value_name = "NEW")]
    new: PathBuf,
    #[command(flatten)]
    meant: Meant,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Compared {
    changes: Vec<Change>,
    complete: bool,
}

#[derive(Serialize)]
struct Change {
    caller: String,
    operation: String,
    proofs: Vec<&'static str>,
    user_scope: Option<String>,
    before: String,
    after: String,
}

impl Diff {
    fn run(self) -> Result<(), Failure> {
        let (_, old) = load(&self.old, &self.meant)?;
        let (_, new) = load(&self.new, &self.meant)?;
        let found = old.policy.differences(&new.policy, &self.meant.trust_domain, self.meant.at());
        let changes = found.changes.into_iter().map(|change| Change {
            caller: change.caller,
            operation: change.operation,
            proofs: change.proofs.into_iter().map(ProofKind::as_str).collect(),
            user_scope: change.scope,
            before: change.before,
            after: change.after,
        });
        let compared = Compared { changes: changes.collect(), complete: found.complete };
        self.output.print(&compared, |compared| {
            if compared.changes.is_empty() {
                return "no caller may do more or less".to_owned();
            }
            let rows = compared.changes.iter().map(|change| {
                let user = match change.user_scope.as_deref() {
                    None => String::new(),
                    Some("") => "no scope".to_owned(),
                    Some(scope) => scope.to_owned(),
                };
                let proofs = change.proofs.join(",");
                let (before, after) = (change.before.clone(), change.after.clone());
                vec![change.caller.clone(), change.operation.clone(), proofs, user, before, after]
            });
            let mut text = output::table(&["CALLER", "OPERATION", "PROOF", "USER", "BEFORE", "AFTER"], rows);
            if !compared.complete {
                text.push_str("\nthe policies are too large to ask everything: there may be more");
            }
            text
        })
    }
}

fn shown(path: &Path) -> String {
    output::printable(&path.display().to_string())
}

/// A policy file's text, at most as much as a policy may have.
fn read(path: &Path) -> Result<String, Failure> {
    let failed = |what: &dyn std::fmt::Display| Failure::Failed(format!("cannot read `{}`: {what}", shown(path)));
    let mut bytes = Vec::new();
    let most = u64::try_from(Policy::MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(|error| failed(&error))?;
    String::from_utf8(bytes).map_err(|error| failed(&error.utf8_error()))
}

fn load(path: &Path, meant: &Meant) -> Result<(String, Loaded), Failure> {
    let text = read(path)?;
    let loaded = Policy::parse(&text, &meant.trust_domain, meant.at()).map_err(|errors| told(path, &errors))?;
    Ok((text, loaded))
}

/// Tells on standard error what is wrong, then refuses.
fn told(path: &Path, errors: &PolicyErrors) -> Failure {
    for finding in errors.findings() {
        // With standard error closed there is nobody to tell.
        let _ = output::to_stderr(&output::printable(&format!("{}:{finding}", shown(path))));
    }
    refused(path, errors)
}

fn refused(path: &Path, errors: &PolicyErrors) -> Failure {
    let wrong = errors.findings().iter().filter(|finding| finding.severity.as_str() == "error").count();
    Failure::Refused {
        message: format!("`{}` is refused, {wrong} {}", shown(path), if wrong == 1 { "error" } else { "errors" }),
        code: "policy-refused".to_owned(),
    }
}
