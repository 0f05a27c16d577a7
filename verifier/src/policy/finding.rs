//! What is wrong with a policy's text, and where.

use std::{fmt, ops::Range};

/// Something in a policy's text that its author should look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Whether the policy is refused for it.
    pub severity: Severity,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// A stable word.
    pub code: &'static str,
    /// What is wrong, with the value.
    pub message: String,
    /// What to do.
    pub suggestion: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// It is taken.
    Warning,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// `3:7: error: … (unknown-key); did you mean …?`, in one line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {} ({})", self.line, self.column, self.severity.as_str(), self.message, self.code)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; {suggestion}"),
            None => Ok(()),
        }
    }
}

/// Why a policy's text is refused: at least one error, and the warnings found on the way, by line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PolicyErrors(Vec<Finding>);

impl PolicyErrors {
    /// What was found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }
}

/// One line each.
impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

/// The most findings that are told; a file with more has one cause.
const MOST: usize = 100;

/// Findings as they are made, by place in the text.
#[derive(Default)]
pub(super) struct Findings(Vec<(usize, Finding)>);

impl Findings {
    pub(super) fn error(&mut self, at: &Range<usize>, code: &'static str, message: impl Into<String>) -> &mut Finding {
        self.add(at.start, Severity::Error, code, message.into())
    }

    pub(super) fn warning(
        &mut self,
        at: &Range<usize>,
        code: &'static str,
        message: impl Into<String>,
    ) -> &mut Finding {
        self.add(at.start, Severity::Warning, code, message.into())
    }

    fn add(&mut self, at: usize, severity: Severity, code: &'static str, message: String) -> &mut Finding {
        // Errors are kept before warnings: a policy that is refused says why.
        if self.0.len() >= MOST {
            let spare = self.0.iter().rposition(|(_, finding)| finding.severity == Severity::Warning);
            self.0.remove(spare.unwrap_or(MOST - 1));
        }
        let finding = Finding { severity, line: 0, column: 0, code, message, suggestion: None };
        &mut self.0.push_mut((at, finding)).1
    }

    pub(super) fn has_errors(&self) -> bool {
        self.0.iter().any(|(_, finding)| finding.severity == Severity::Error)
    }

    /// The warnings, or what is wrong.
    pub(super) fn finish(mut self, text: &str) -> Result<Vec<Finding>, PolicyErrors> {
        self.0.sort_by_key(|(at, finding)| (*at, finding.severity));
        let failed = self.has_errors();
        let findings = self.0.into_iter().map(|(at, mut finding)| {
            (finding.line, finding.column) = position(text, at);
            finding
        });
        let findings: Vec<_> = findings.collect();
        if failed { Err(PolicyErrors(findings)) } else { Ok(findings) }
    }
}

impl Finding {
    pub(super) fn suggest(&mut self, suggestion: impl Into<String>) {
        self.suggestion = Some(suggestion.into());
    }
}

/// Line and column of an offset, from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count();
    (before.bytes().filter(|byte| *byte == b'\n').count() + 1, column + 1)
}

/// The known word that was probably meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: String = word.chars().take(64).collect();
    let near = known.into_iter().map(|known| (distance(&word.to_lowercase(), known), known)).min()?;
    (near.0 <= 1 + word.chars().count() / 4).then_some(near.1)
}

/// How many letters to put in, leave out, change or swap.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut two_above = above.clone();
    for (row, from) in a.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, to) in b.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&above, column) + usize::from(from != to)).min(at(&above, column + 1) + 1);
            best = best.min(at(&line, column) + 1);
            let swapped = row > 0 && column > 0 && a.get(row - 1) == Some(to) && b.get(column - 1) == Some(from);
            if swapped {
                best = best.min(at(&two_above, column - 1) + 1);
            }
            line.push(best);
        }
        two_above = std::mem::replace(&mut above, line);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_were_probably_meant() {
        let known = ["callers", "http", "grpc", "proof"];
        for (word, meant) in
            [("caller", Some("callers")), ("htpt", Some("http")), ("HTTP", Some("http")), ("limits", None), ("", None)]
        {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn places_count_lines_and_characters() {
        assert_eq!(position("ab\ncd", 4), (2, 2));
        assert_eq!(position("ä = 1", 3), (1, 3));
        assert_eq!(position("", 9), (1, 1));
    }

    #[test]
    fn errors_are_kept_before_warnings() {
        let mut findings = Findings::default();
        for at in 0..MOST {
            findings.warning(&(at..at), "w", "w");
        }
        findings.error(&(3..3), "e", "e").suggest("mend it");
        let errors = findings.finish("a\nb\nc").unwrap_err();
        assert_eq!(errors.findings().len(), MOST);
        assert!(errors.to_string().contains("2:2: error: e (e); mend it"), "{errors}");
    }
}
