//! What commands print: text for people, JSON with stable names for programs.

use std::io::{self, Write};

use bonafide_verifier::clock::Timestamp;
use serde_json::Value;

use super::Failure;

/// How a command prints.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people.
    Text,
    /// One JSON value, its names are stable.
    Json,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct OutputArguments {
    /// text for people, json for programs.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(super) output: Output,
}

impl OutputArguments {
    /// Prints one of the two.
    pub(super) fn print(self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Result<(), Failure> {
        match self.output {
            Output::Text => print(&text()),
            Output::Json => print(&format!("{:#}\n", json())),
        }
    }
}

/// Writes to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::Failed(format!("cannot write to standard output: {error}")),
    })
}

/// Writes to standard error, where a closed one is nobody's problem.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "bonafide-agent: {text}");
}

/// Aligned `name  value` lines; a name that is empty continues the one above.
pub(super) fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// What came from elsewhere, without what would move a terminal's cursor (T-31). Line breaks stay where asked for.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let bidi = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if (c.is_control() && c != '\n') || bidi { c.escape_default().collect::<Vec<_>>() } else { vec![c] }
        })
        .collect()
}

/// A time as RFC 3339; null for 0, which stands for never on the wire.
pub(super) fn time_json(millis: i64) -> Value {
    match millis {
        0 => Value::Null,
        millis => Value::String(Timestamp::from_unix_millis(millis).to_string()),
    }
}

/// A span in the largest unit that keeps it readable: `3 d 4 h`, `12 min`, `8 s`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `2026-11-23T09:00:00Z (in 52 min)`, or how long ago it was.
pub(super) fn when(at: Timestamp, now: Timestamp) -> String {
    let (ahead, behind) = (at.since(now).as_secs(), now.since(at).as_secs());
    if ahead > 0 { format!("{at} (in {})", span(ahead)) } else { format!("{at} ({} ago)", span(behind)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_31_what_is_printed_moves_no_cursor() {
        assert_eq!(printable("a\x1b[2Jb\r\u{202e}\nc"), "a\\u{1b}[2Jb\\r\\u{202e}\nc");
    }

    #[test]
    fn spans_are_readable() {
        let cases = [
            (8, "8 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h 0 min"),
            (90_000, "25 h 0 min"),
            (180_000, "2 d 2 h"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(span(seconds), expected);
        }
        let now = Timestamp::from_unix_seconds(1_000_000);
        assert_eq!(when(Timestamp::from_unix_seconds(1_000_060), now), "1970-01-12T13:47:40Z (in 60 s)");
        assert_eq!(when(Timestamp::from_unix_seconds(999_990), now), "1970-01-12T13:46:30Z (10 s ago)");
    }
}
