//! What commands print: tables for people, JSON for programs. A reader that went away is not an error.

use std::io::{self, Write};
use std::time::Duration;

use bonafide_verifier::clock::Timestamp;
use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::Failure;

/// How a command prints.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Print a table for people or JSON for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// Columns for people
    Table,
    /// One JSON document
    Json,
}

impl Output {
    /// Prints `value` as JSON, or what `text` makes of it.
    pub(crate) fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        match self.output {
            Format::Table => print(&text(value)),
            Format::Json => {
                let json = serde_json::to_string_pretty(value)
                    .map_err(|error| Failure::Failed(format!("cannot write the answer as JSON: {error}")))?;
                print(&json)
            }
        }
    }
}

/// Writes `text` and a line end, if it has none, to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    settle(write_line(io::stdout().lock(), text))
}

/// Writes bytes as they are to standard output.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    settle(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Writes `text` and a line end to standard error.
pub(crate) fn to_stderr(text: &str) -> io::Result<()> {
    write_line(io::stderr().lock(), text)
}

/// Columns under their headers, left-aligned, two blanks between.
pub(crate) fn table(headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(headers.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { printable(cell) }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Names and values, one a line.
pub(crate) fn list(entries: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let entries: Vec<_> = entries.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    entries.iter().map(|(name, value)| format!("{name:width$}  {}", printable(value))).collect::<Vec<_>>().join("\n")
}

/// A time from the wire, where 0 is "never".
pub(crate) fn time(millis: i64) -> Option<String> {
    (millis != 0).then(|| Timestamp::from_unix_millis(millis).to_string())
}

/// How long before `now` that was: `12s ago`, `3h ago`.
pub(crate) fn ago(millis: i64, now: Timestamp) -> String {
    if millis == 0 {
        return "never".to_owned();
    }
    let then = Timestamp::from_unix_millis(millis);
    if then > now { format!("in {}", short(then.since(now))) } else { format!("{} ago", short(now.since(then))) }
}

/// A duration in its largest unit.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `text` without anything that a terminal would obey (T-31).
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let hidden = c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let (escaped, plain) = if hidden { (Some(c.escape_default()), None) } else { (None, Some(c)) };
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

fn write_line(mut to: impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        to.write_all(b"\n")?;
    }
    to.flush()
}

/// A reader that has seen enough, as `head`, closes the pipe: done.
fn settle(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_stay_on_their_line() {
        let rows = [vec!["web-1".to_owned(), "\x1b[2Jlive\n".to_owned()], vec!["n".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "STATE"], rows), "NAME   STATE\nweb-1  \\u{1b}[2Jlive\\n\nn      -");
        assert_eq!(
            list([("name", "web-1".into()), ("a", "b".into()), ("none", String::new())]),
            "name  web-1\na     b"
        );
    }

    #[test]
    fn times_in_words() {
        let now = Timestamp::from_unix_millis(1_800_000_000_000);
        let at = |seconds: i64| 1_800_000_000_000 + seconds * 1000;
        for (millis, expected) in [
            (0, "never"),
            (at(-5), "5s ago"),
            (at(-300), "5m ago"),
            (at(-10_800), "3h ago"),
            (at(-864_000), "10d ago"),
            (at(60), "in 60s"),
        ] {
            assert_eq!(ago(millis, now), expected);
        }
    }
}
