//! What is no mistake in the language, and probably not meant.

use std::time::Duration;

use super::{
    finding::Findings,
    syntax::{File, Mode, RuleEffect},
};
use crate::{
    caller::{ProofKind, Strength},
    clock::Timestamp,
};

/// How long before the end of an `[accept]` date the warnings begin.
pub(super) const NOTICE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Credentials that are soon, or no longer, accepted, and rules that take what the file does not.
pub(super) fn dates(file: &File, text: &str, at: Timestamp, findings: &mut Findings) {
    for kind in [ProofKind::SharedSecret, ProofKind::ApiKey] {
        let place = text.find("[accept]").map_or(0..0, |start| start..start);
        match file.accept.until(kind) {
            Some(until) if at >= until => {
                findings
                    .warning(&place, "accept-ended", format!("`{kind}` has not been accepted since {until}"))
                    .suggest("remove the line, and raise the `proof` of the rules that still take it");
            }
            Some(until) if at >= until.saturating_sub(NOTICE) => {
                findings
                    .warning(&place, "accept-ends-soon", format!("`{kind}` is refused from {until} on"))
                    .suggest("see in the records who still uses it");
            }
            Some(_) => {}
            None => {
                let taker = file.rules.iter().find(|rule| {
                    rule.effect == RuleEffect::Allow && rule.mode == Mode::Enforce && rule.strength() == kind.strength()
                });
                let stronger = kind.strength() == Strength::ApiKey && file.accept.shared_secret.is_some();
                if let Some(rule) = taker {
                    let mut message =
                        format!("the rule `{}` takes `{kind}`, the file does not accept any", rule.name.escape_debug());
                    if stronger {
                        message.push_str(" (only `shared-secret`)");
                    }
                    findings
                        .warning(&rule.span, "not-accepted", message)
                        .suggest(format!("add `{kind} = {{ until = … }}` to `[accept]`, or raise the rule's `proof`"));
                }
            }
        }
    }
}
