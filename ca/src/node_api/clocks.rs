//! Two parties that meet compare clocks, and say so when they differ.

use bonafide_ca_api::{NodeName, generated::node::AgentInfo};
use bonafide_verifier::clock::Timestamp;
use tracing::warn;

use super::Limits;

/// By how many milliseconds the node's clock is ahead of this CA's; negative: behind. A difference above the limit is told.
pub(super) fn compare(agent: Option<&AgentInfo>, now: Timestamp, node: &NodeName, limits: &Limits) -> i64 {
    // An agent that says no time is not compared.
    let Some(agent) = agent.filter(|agent| agent.now_ms != 0) else {
        return 0;
    };
    let ahead_ms = agent.now_ms.saturating_sub(now.unix_millis());
    if u128::from(ahead_ms.unsigned_abs()) > limits.clock_difference.as_millis() {
        let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
        warn!(node = %node, difference_ms = ahead_ms, node_clock = %Timestamp::from_unix_millis(agent.now_ms), ca_clock = %now,
              "the clock of a node is {direction} this CA's; SVIDs will look expired or not yet valid on one side");
    }
    ahead_ms
}

/// What the agent calls its version, as it may be shown: bounded, and nothing but printable ASCII.
pub(super) fn version_of(agent: Option<&AgentInfo>) -> String {
    agent.map_or_else(String::new, |agent| {
        agent.version.chars().filter(char::is_ascii_graphic).take(MAX_VERSION).collect()
    })
}

const MAX_VERSION: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_has_a_sign() {
        let node = NodeName::parse("n1").unwrap();
        let now = Timestamp::from_unix_seconds(1_790_000_000);
        let difference = |now_ms| {
            let agent = AgentInfo { version: String::new(), now_ms };
            compare(Some(&agent), now, &node, &Limits::default())
        };
        assert_eq!(difference(now.unix_millis() + 11_000), 11_000);
        assert_eq!(difference(now.unix_millis() - 11_000), -11_000);
        assert_eq!(difference(i64::MIN), i64::MIN, "nothing overflows");
        assert_eq!(difference(0), 0, "no clock told");
        assert_eq!(compare(None, now, &node, &Limits::default()), 0);
    }

    #[test]
    fn t_31_a_version_cannot_paint_the_terminal() {
        let agent = AgentInfo { version: format!("1.0\u{1b}[2J\n{}", "x".repeat(100)), now_ms: 0 };
        let shown = version_of(Some(&agent));
        assert!(shown.starts_with("1.0[2Jxxx"));
        assert_eq!(shown.len(), MAX_VERSION);
    }
}
