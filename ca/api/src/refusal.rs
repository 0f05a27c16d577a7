//! A refusal on the wire: a gRPC status that carries a reason code for programs and a sentence for people.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::reason::Reason;

/// The domain of the `google.rpc.ErrorInfo` in every refusal.
pub const ERROR_DOMAIN: &str = "bonafide";

/// The status that says: refused for `reason`; `message` is one line for the operator and holds no internals; asking
/// again after `retry_after` may help, and without one it will not.
#[must_use]
pub fn refusal(reason: Reason, message: impl Into<String>, retry_after: Option<Duration>) -> Status {
    let message: String = message.into();
    let mut details = ErrorDetails::with_error_info(reason.code(), ERROR_DOMAIN, HashMap::new());
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(reason.status_code(), message, details)
}

/// A refusal as it was received. Everything in it came from the other side; the texts are bounded and have no
/// control characters.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Refusal {
    /// The reason, if this program knows its code.
    pub reason: Option<Reason>,
    /// The code as it was sent.
    pub code: String,
    /// One line for the operator.
    pub message: String,
    /// When asking again may help; `None`: it will not.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// The refusal in `status`; `None` if it carries none of ours (another server, a proxy, the transport).
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Self> {
        let details = status.check_error_details().ok()?;
        let info = details.error_info()?;
        if info.domain != ERROR_DOMAIN {
            return None;
        }
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        Some(Self {
            reason: Reason::from_code(&info.reason),
            code: printable(&info.reason, MAX_CODE),
            message: printable(status.message(), MAX_MESSAGE),
            retry_after: retry_after.map(|delay| delay.min(MAX_RETRY_AFTER)),
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// At most `limit` characters of `text`, each control character as its escape (T-31).
fn printable(text: &str, limit: usize) -> String {
    let mut printable = String::new();
    for c in text.chars().take(limit) {
        if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

const MAX_CODE: usize = 64;
const MAX_MESSAGE: usize = 2_000;
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn every_reason_goes_over_the_wire_and_back() {
        for reason in Reason::ALL {
            for retry_after in [None, Some(Duration::from_millis(1500))] {
                let status = refusal(*reason, "because", retry_after);
                assert_eq!(status.code(), reason.status_code());
                let back = Refusal::from_status(&status).unwrap();
                assert_eq!(
                    (back.reason, back.code.as_str(), back.message.as_str(), back.retry_after),
                    (Some(*reason), reason.code(), "because", retry_after)
                );
            }
        }
    }

    #[test]
    fn foreign_statuses_are_no_refusals_of_ours() {
        assert_eq!(Refusal::from_status(&Status::unavailable("proxy")), None);
        let other_domain = ErrorDetails::with_error_info("quota", "example.org", HashMap::new());
        let status = Status::with_error_details(Code::Unavailable, "no", other_domain);
        assert_eq!(Refusal::from_status(&status), None);
        let garbage = Status::with_details(Code::Unavailable, "no", vec![0xff; 20].into());
        assert_eq!(Refusal::from_status(&garbage), None);
    }

    #[test]
    fn what_was_sent_is_bounded_and_printable() {
        let details = ErrorDetails::with_error_info("new-code\x1b[2J", ERROR_DOMAIN, HashMap::new());
        let status = Status::with_error_details(Code::Unavailable, "a\x1b[2Jb\n\u{202e}".repeat(5000), details);
        let back = Refusal::from_status(&status).unwrap();
        assert_eq!((back.reason, back.code.as_str()), (None, "new-code\\u{1b}[2J"));
        assert!(back.message.len() < 20_000 && !back.message.chars().any(char::is_control), "T-31");
        assert!(!back.message.contains('\u{202e}'), "T-31 bidi");
    }
}
