//! Conditions of rules: `when = "resource.owner == user.sub"`.
//!
//! A condition is an expression of Cedar over four records: `caller`, `user`, `params` (the variables of the path, decoded) and `resource` (the
//! handler's facts). It is run only for rules that match in everything else. With the feature `cedar` off, a policy that has one is
//! refused when it is read.

#[cfg(feature = "cedar")]
mod evaluate;

use super::{Access, operation::OperationPattern, syntax::Rule};

/// A condition that could be read.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    /// As it stands in the file.
    text: String,
    uses: Uses,
    #[cfg(feature = "cedar")]
    expression: cedar_policy::Expression,
}

/// Which of the four records a condition mentions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Uses {
    caller: bool,
    user: bool,
    params: bool,
    resource: bool,
}

/// What came of a condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(not(feature = "cedar"), allow(dead_code, reason = "conditions use it"))]
pub(super) enum Outcome {
    True,
    False,
    /// It could not be evaluated, or to something other than true or false.
    Error,
}

/// Why a text is no condition.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ConditionError {
    #[cfg_attr(feature = "cedar", expect(dead_code, reason = "what a program without Cedar says"))]
    #[error("this program is built without conditions")]
    NotBuilt,
    #[error("the condition has {length} bytes, at most {MAX_BYTES} are taken")]
    TooLong { length: usize },
    #[error("brackets are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("`{name}` is not known in a condition")]
    UnknownName { name: String },
    #[error("`{record}.{name}` does not exist")]
    UnknownAttribute { record: &'static str, name: String, known: &'static [&'static str] },
    #[error("`params.{name}`: `{operation}` has no `{{{name}}}`")]
    NoSuchParameter { name: String, operation: String },
    #[error("`params.{name}`: a rule for everything has no path to take it from")]
    NoPath { name: String },
    #[error("a comment or a text does not end")]
    Unended,
    #[error("{0}")]
    #[cfg_attr(not(feature = "cedar"), expect(dead_code, reason = "what Cedar says"))]
    Syntax(String),
}

impl ConditionError {
    /// A stable word.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NotBuilt => "no-conditions",
            Self::TooLong { .. } | Self::TooDeep => "too-large",
            Self::UnknownName { .. }
            | Self::UnknownAttribute { .. }
            | Self::NoSuchParameter { .. }
            | Self::NoPath { .. } => "unknown-name",
            Self::Unended | Self::Syntax(_) => "wrong-condition",
        }
    }

    /// What to do.
    pub(super) fn suggestion(&self) -> Option<String> {
        match self {
            Self::NotBuilt => Some("build `bonafide-verifier` with its feature `cedar`".to_owned()),
            Self::TooLong { .. } | Self::TooDeep => Some("split the rule, or move the check into a fact".to_owned()),
            Self::UnknownName { .. } => Some(
                "a condition is about `caller`, `user`, `params` and `resource`, in the language of Cedar".to_owned(),
            ),
            Self::UnknownAttribute { known, .. } => Some(format!("known are {}", known.join(", "))),
            Self::NoSuchParameter { .. } => {
                Some("name the variable in every operation of the rule, or write two rules".to_owned())
            }
            Self::NoPath { .. } => Some("add `http` or `app` to the rule".to_owned()),
            Self::Unended | Self::Syntax(_) => None,
        }
    }
}

/// The longest condition, in bytes.
const MAX_BYTES: usize = 2048;
/// The deepest brackets.
const MAX_DEPTH: usize = 32;

/// `id`, `path` and `trust_domain` are a service's, `user`, `issuer` and `subject` a user's: of the other kind they are missing, which is "no" for an
/// allow rule and "yes" for a deny rule.
const CALLER: &[&str] =
    &["id", "path", "trust_domain", "user", "issuer", "subject", "roles", "asserted", "proof", "via"];
const USER: &[&str] = &["sub", "scope"];
/// Words of Cedar that may stand alone.
const WORDS: &[&str] = &["true", "false", "if", "then", "else", "has", "like"];
/// Functions of Cedar.
const FUNCTIONS: &[&str] = &["ip", "decimal", "datetime", "duration"];

impl Condition {
    /// Reads a condition of a rule with these operations.
    pub(super) fn parse(text: &str, operations: &[&OperationPattern]) -> Result<Self, ConditionError> {
        if text.len() > MAX_BYTES {
            return Err(ConditionError::TooLong { length: text.len() });
        }
        let (rewritten, uses) = rewrite(text, Some(operations), "params")?;
        Self::compile(text, &rewritten, uses)
    }

    #[cfg(feature = "cedar")]
    fn compile(text: &str, rewritten: &str, uses: Uses) -> Result<Self, ConditionError> {
        let expression = evaluate::parse(rewritten).map_err(ConditionError::Syntax)?;
        Ok(Self { text: text.to_owned(), uses, expression })
    }

    #[cfg(not(feature = "cedar"))]
    fn compile(_: &str, _: &str, _: Uses) -> Result<Self, ConditionError> {
        Err(ConditionError::NotBuilt)
    }

    /// Whether it is about the resource, which only the handler knows.
    pub(super) fn needs_facts(&self) -> bool {
        self.uses.resource
    }

    /// As it stands in the file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// With feature `cedar`: whether it holds for a request that the rule matches. Of several paths of the rule that match one is enough.
    #[cfg(feature = "cedar")]
    pub(super) fn evaluate(&self, rule: &Rule, access: &Access<'_>) -> Outcome {
        evaluate::evaluate(self, rule, access)
    }

    /// There are no conditions without Cedar; if there were, they would fail.
    #[cfg(not(feature = "cedar"))]
    pub(super) fn evaluate(&self, _: &Rule, _: &Access<'_>) -> Outcome {
        Outcome::Error
    }
}

/// A condition that could be read, as Cedar knows it, with the variables of the path in `context.{params}`.
#[cfg(feature = "cedar")]
pub(super) fn in_cedar(text: &str, params: &str) -> String {
    rewrite(text, None, params).map_or_else(|_| "false".to_owned(), |(rewritten, _)| rewritten)
}

/// Finds the four records, and writes them as Cedar knows them: `user.sub` is `context.user.sub`. Without operations it does not check
/// which attributes there are.
fn rewrite(
    text: &str,
    operations: Option<&[&OperationPattern]>,
    params: &str,
) -> Result<(String, Uses), ConditionError> {
    let mut out = String::with_capacity(text.len() * 2);
    let mut uses = Uses::default();
    let mut rest = text;
    let mut depth = 0_usize;
    // What stood before, blanks and comments apart.
    let mut before = Before::Other;
    let mut record = "";
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => quoted(rest).ok_or(ConditionError::Unended)?,
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            'a'..='z' | 'A'..='Z' | '_' => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
            }
            _ => first.len_utf8(),
        };
        let (token, tail) = rest.split_at(length);
        rest = tail;
        if token.starts_with("//") || first.is_whitespace() {
            out.push_str(token);
            continue;
        }
        if first.is_ascii_alphabetic() || first == '_' {
            match before {
                Before::Dot | Before::Has => {
                    if let Some(operations) = operations.filter(|_| before == Before::Dot) {
                        check_attribute(record, token, operations)?;
                    }
                    out.push_str(token);
                    record = "";
                    before = Before::Other;
                }
                Before::Other => {
                    out.push_str(&word(token, rest, params, &mut uses)?);
                    record = token;
                    before = if token == "has" { Before::Has } else { Before::Other };
                }
            }
            continue;
        }
        match first {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(ConditionError::TooDeep);
        }
        before = if first == '.' { Before::Dot } else { Before::Other };
        if first != '.' {
            record = "";
        }
        out.push_str(token);
    }
    Ok((out, uses))
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Before {
    Dot,
    Has,
    Other,
}

/// The length of a quoted text.
fn quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// A word that begins something.
fn word(token: &str, rest: &str, params: &str, uses: &mut Uses) -> Result<String, ConditionError> {
    let next = rest.trim_start();
    let is_key = next.starts_with(':') && !next.starts_with("::");
    if is_key || WORDS.contains(&token) || (FUNCTIONS.contains(&token) && next.starts_with('(')) {
        return Ok(token.to_owned());
    }
    match token {
        "caller" => uses.caller = true,
        "user" => uses.user = true,
        "params" => uses.params = true,
        "resource" => uses.resource = true,
        _ => return Err(ConditionError::UnknownName { name: token.to_owned() }),
    }
    Ok(format!("context.{}", if token == "params" { params } else { token }))
}

fn check_attribute(record: &str, name: &str, operations: &[&OperationPattern]) -> Result<(), ConditionError> {
    let (record, known) = match record {
        "caller" => ("caller", CALLER),
        "user" => ("user", USER),
        "params" => {
            if operations.is_empty() {
                return Err(ConditionError::NoPath { name: name.to_owned() });
            }
            let without = |operation: &&&OperationPattern| {
                !operation.template().is_some_and(|template| template.names().any(|known| known == name))
            };
            return match operations.iter().find(without) {
                Some(operation) => {
                    Err(ConditionError::NoSuchParameter { name: name.to_owned(), operation: operation.to_string() })
                }
                None => Ok(()),
            };
        }
        _ => return Ok(()),
    };
    if known.contains(&name) {
        Ok(())
    } else {
        Err(ConditionError::UnknownAttribute { record, name: name.to_owned(), known })
    }
}
