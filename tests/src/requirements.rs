//! Which tests show which requirement: reads the numbers that tests name (`X509-02`, `T-01`, `ID-05..07`) out of the
//! source tree and writes them into the last column of `tests/REQUIREMENTS.md`.
//!
//! A test names a number in its own name (`x509_02_two_uri_sans`), in its text, in the comment above it, or in a
//! table or helper of the same file's test code that it uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    ops::Range,
    path::Path,
};

use crate::repository;

/// The document, from the repository's root.
pub const FILE: &str = "tests/REQUIREMENTS.md";

/// The kinds of number there are.
const PREFIXES: [&str; 17] =
    ["CORE", "ID", "X509", "JWT", "WIT", "WEP", "WAPI", "TDB", "FED", "BEP", "BRK", "STAB", "A", "T", "W", "F", "I"];

/// Number of a requirement -> the tests that name it, as `file: function`.
pub type Shown = BTreeMap<String, BTreeSet<(String, String)>>;

/// A row of the document's tables.
#[derive(Debug)]
pub struct Row {
    /// `X509-02`
    pub number: String,
    /// Why it does not apply, or which part is still to come; empty for what tests show.
    pub status: String,
    /// The generated column.
    pub tests: String,
}

/// The rows of all tables of `document`.
pub fn rows(document: &str) -> Vec<Row> {
    document.lines().filter_map(cells).map(|[number, _, status, tests]| Row { number, status, tests }).collect()
}

/// `document` with the last column of its tables written anew.
pub fn with_tests(document: &str, shown: &Shown) -> String {
    let mut written = String::with_capacity(document.len());
    for line in document.lines() {
        match cells(line) {
            None => written.push_str(line),
            Some([number, text, status, _]) => {
                let tests = shown.get(&number).map(describe).unwrap_or_default();
                written.push_str(&format!("| {number} | {text} | {status} | {tests} |"));
            }
        }
        written.push('\n');
    }
    written
}

/// The four cells of a requirement's row; `None` for every other line.
fn cells(line: &str) -> Option<[String; 4]> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    let mut cells = inner.split('|').map(|cell| cell.trim().to_owned());
    let row = [cells.next()?, cells.next()?, cells.next()?, cells.next()?];
    let [number, ..] = &row;
    let (prefix, digits) = number.split_once('-')?;
    let known = PREFIXES.contains(&prefix) && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (known && cells.next().is_none()).then_some(row)
}

fn describe(tests: &BTreeSet<(String, String)>) -> String {
    let mut by_file: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (file, function) in tests {
        by_file.entry(file).or_default().push(format!("`{function}`"));
    }
    let files: Vec<_> = by_file.iter().map(|(file, functions)| format!("{file}: {}", functions.join(", "))).collect();
    files.join("; ")
}

/// Reads every Rust file of the repository.
///
/// # Errors
/// A file or folder that cannot be read.
pub fn scan(root: &Path) -> io::Result<Shown> {
    let mut shown = Shown::new();
    for path in repository::files(root, "rs")? {
        if path.ends_with(file!()) {
            continue; // the numbers in this file's own tests are mere examples
        }
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        for (test, numbers) in tests_in(&fs::read_to_string(&path)?, is_test_file(&name)) {
            for number in numbers {
                shown.entry(number).or_default().insert((name.clone(), test.clone()));
            }
        }
    }
    Ok(shown)
}

/// Files that hold nothing but test code.
fn is_test_file(name: &str) -> bool {
    name.split('/').any(|part| part == "tests" || part == "tests.rs")
}

/// A function, constant or macro, with the comments and attributes above it.
struct Item {
    name: String,
    whole: Range<usize>,
    is_test: bool,
}

/// The tests of one file, each with the numbers it names.
fn tests_in(source: &str, all_test_code: bool) -> Vec<(String, BTreeSet<String>)> {
    let code = without_text(source);
    let items = items(source, &code);
    let test_code = if all_test_code { std::iter::once(0..code.len()).collect() } else { test_modules(&code) };
    let in_tests = |item: &Item| test_code.iter().any(|range| range.contains(&item.whole.start));
    let mut found = Vec::new();
    for (index, item) in items.iter().enumerate().filter(|(_, item)| item.is_test) {
        let mut open = vec![index];
        let mut used = BTreeSet::from([index]);
        let mut numbers = numbers_in_name(&item.name);
        while let Some(next) = open.pop().and_then(|index| items.get(index)) {
            numbers.extend(numbers_in(source.get(next.whole.clone()).unwrap_or_default()));
            let words: BTreeSet<&str> = words(code.get(next.whole.clone()).unwrap_or_default()).collect();
            for (other, helper) in items.iter().enumerate() {
                let usable = !helper.is_test && in_tests(helper) && words.contains(helper.name.as_str());
                if usable && used.insert(other) {
                    open.push(other);
                }
            }
        }
        found.push((item.name.clone(), numbers));
    }
    found
}

/// The words of Rust code.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The bodies of `#[cfg(test)] mod …`.
fn test_modules(code: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("#[cfg(test)]") {
        let rest = code.get(start..).unwrap_or_default();
        if let Some(open) = rest.find(['{', ';']).filter(|&at| rest.as_bytes().get(at) == Some(&b'{')) {
            found.push(start..closing(code, start + open));
        }
    }
    found
}

fn items(source: &str, code: &str) -> Vec<Item> {
    let mut items = Vec::new();
    for keyword in ["fn", "const", "static", "macro_rules!"] {
        for (at, _) in code.match_indices(keyword) {
            let before = code.get(..at).unwrap_or_default().chars().next_back();
            let after = code.get(at + keyword.len()..).unwrap_or_default();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '\'' | '*'))
                || !after.starts_with(char::is_whitespace)
            {
                continue;
            }
            let Some(name) = words(after).next().filter(|name| after.trim_start().starts_with(name)) else { continue };
            if matches!(name, "fn" | "unsafe" | "async" | "_") {
                continue;
            }
            let Some(end) = end_of_item(code, at, keyword) else { continue };
            let start = start_of_item(source, at);
            let above = code.get(start..at).unwrap_or_default();
            let is_test = keyword == "fn" && ["test]", "test("].iter().any(|mark| above.contains(mark));
            items.push(Item { name: name.to_owned(), whole: start..end, is_test });
        }
    }
    items
}

/// Where the comments and attributes above the item at `at` begin.
fn start_of_item(source: &str, at: usize) -> usize {
    let mut start = source.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    while let Some(above) = start.checked_sub(1).and_then(|end| source.get(..end)) {
        let line_start = above.rfind('\n').map_or(0, |newline| newline + 1);
        let line = above.get(line_start..).unwrap_or_default().trim();
        if !(line.starts_with("//") && !line.starts_with("//!") || line.starts_with("#[")) {
            break;
        }
        start = line_start;
    }
    start
}

/// The end of a function's body, or of a constant's value; `None` for a function without a body.
fn end_of_item(code: &str, at: usize, keyword: &str) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'{' if depth == 0 && !matches!(keyword, "const" | "static") => return Some(closing(code, offset)),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b';' if depth == 0 => return matches!(keyword, "const" | "static").then_some(offset),
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

/// The place after the bracket that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return offset + 1;
        }
    }
    code.len()
}

/// `source` with the insides of comments, strings and character literals blanked, every byte in its place.
fn without_text(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = bytes.get(at..).unwrap_or_default();
        let length = match byte {
            b'/' if rest.starts_with(b"//") => rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with(b"/*") => block_comment(rest),
            b'r' if !word_before(&code) => raw_string(rest).unwrap_or(1),
            b'"' => string(rest),
            b'\'' => character(rest),
            _ => 1,
        };
        if length == 1 {
            code.push(byte);
        } else {
            code.extend(rest.iter().take(length).map(|&b| if b == b'\n' { b'\n' } else { b' ' }));
        }
        at += length;
    }
    String::from_utf8(code).unwrap_or_default()
}

fn word_before(code: &[u8]) -> bool {
    code.last().is_some_and(|&byte| byte != b'b' && (byte.is_ascii_alphanumeric() || byte == b'_'))
}

fn block_comment(rest: &[u8]) -> usize {
    rest.windows(2).position(|pair| pair == b"*/").map_or(rest.len(), |end| end + 2)
}

fn string(rest: &[u8]) -> usize {
    let mut escaped = false;
    for (offset, &byte) in rest.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return offset + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest.iter().skip(1).take_while(|&&byte| byte == b'#').count();
    (rest.get(1 + hashes) == Some(&b'"')).then_some(())?;
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let inside = rest.get(2 + hashes..)?;
    let length = inside.windows(end.len()).position(|window| window == end)?;
    Some(2 + hashes + length + end.len())
}

/// A character literal, or the quote alone of a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return rest.iter().skip(3).position(|&byte| byte == b'\'').map_or(1, |end| end + 4);
    }
    let text = rest.get(1..rest.len().min(6)).unwrap_or_default();
    let first = std::str::from_utf8(text)
        .or_else(|error| std::str::from_utf8(text.get(..error.valid_up_to()).unwrap_or_default()));
    let width = first.ok().and_then(|text| text.chars().next()).map_or(1, char::len_utf8);
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 1 }
}

/// The numbers that a text names: `X509-02`, `ID-05..07`, `X509-24, -25`, `I3`.
fn numbers_in(text: &str) -> BTreeSet<String> {
    let mut numbers = BTreeSet::new();
    for prefix in PREFIXES {
        for (at, _) in text.match_indices(prefix) {
            let before = text.get(..at).unwrap_or_default().chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '-' | '_')) {
                continue;
            }
            let mut rest = text.get(at + prefix.len()..).unwrap_or_default();
            if prefix == "I" {
                let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                let number = rest.get(..digits).and_then(|digits| digits.parse().ok());
                let ends =
                    !rest.get(digits..).unwrap_or_default().starts_with(|c: char| c.is_alphanumeric() || c == '_');
                numbers.extend(
                    number.filter(|number: &u32| ends && (1..=10).contains(number)).map(|n| format!("I-{n:02}")),
                );
            }
            let Some((first, after)) = rest.strip_prefix('-').and_then(two_digits) else { continue };
            numbers.insert(format!("{prefix}-{first:02}"));
            rest = after;
            loop {
                let next = [", -", "/", ", ", "/-"].iter().find_map(|mark| two_digits(rest.strip_prefix(mark)?));
                let range = ["..", "..-", "–"].iter().find_map(|mark| two_digits(rest.strip_prefix(mark)?));
                let full = rest.strip_prefix("..").and_then(|rest| rest.strip_prefix(prefix)?.strip_prefix('-'));
                if let Some((last, after)) = range.or_else(|| full.and_then(two_digits)) {
                    numbers.extend((first..=last).map(|number| format!("{prefix}-{number:02}")));
                    rest = after;
                } else if let Some((number, after)) = next {
                    numbers.insert(format!("{prefix}-{number:02}"));
                    rest = after;
                } else {
                    break;
                }
            }
        }
    }
    numbers
}

/// Exactly two digits at the beginning, and what follows.
fn two_digits(text: &str) -> Option<(u32, &str)> {
    let digits = text.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let rest = text.get(2..)?;
    (!rest.starts_with(|c: char| c.is_alphanumeric())).then_some((digits.parse().ok()?, rest))
}

/// The numbers in a function's name: `x509_02_two_uri_sans`, `kill_at_each_write_f01`. The one-letter kinds count at
/// the beginning, or written together (`f01`): `after_a_10_second_pause` names nothing.
fn numbers_in_name(name: &str) -> BTreeSet<String> {
    let parts: Vec<&str> = name.split('_').collect();
    let mut numbers = BTreeSet::new();
    for (index, part) in parts.iter().enumerate() {
        for prefix in PREFIXES {
            let lower = prefix.to_lowercase();
            let together = part.strip_prefix(lower.as_str()).filter(|rest| rest.len() == 2);
            let apart = parts.get(index + 1).filter(|_| *part == lower && (index == 0 || prefix.len() > 1));
            let digits = together.or(apart.copied()).filter(|digits| digits.len() == 2);
            numbers.extend(
                digits.and_then(|digits| digits.parse().ok()).map(|number: u32| format!("{prefix}-{number:02}")),
            );
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_way_they_are_written() {
        let cases: &[(&str, &[&str])] = &[
            ("see ID-05..07 and ID-18", &["ID-05", "ID-06", "ID-07", "ID-18"]),
            ("T-09, T-10", &["T-09", "T-10"]),
            ("JWT-11, -16", &["JWT-11", "JWT-16"]),
            ("X509-24/25", &["X509-24", "X509-25"]),
            ("X509-01..X509-03", &["X509-01", "X509-02", "X509-03"]),
            ("I3 holds, SHA-25, UTF-08, TLS-01-004, T-1, XID-01, W-123", &["I-03"]),
        ];
        for (text, expected) in cases {
            let expected: BTreeSet<String> = expected.iter().map(|number| (*number).to_owned()).collect();
            assert_eq!(numbers_in(text), expected, "{text}");
        }
        let name = numbers_in_name("x509_02_and_f01_after_a_10_second_pause");
        assert_eq!(name, BTreeSet::from(["F-01".to_owned(), "X509-02".to_owned()]));
    }

    #[test]
    fn a_test_names_what_its_tables_name() {
        let source = r##"
//! About STAB-01.
/// ID-02 is kept here.
fn production() { let c = '{'; let s = "}"; }
#[cfg(test)]
mod tests {
    const CASES: &[(&str, u8)] = &[("ID-09 owner", 1)];
    fn check(row: &str) { /* ID-11 */ }
    /// Regression: ID-01.
    #[test]
    fn table() { production(); for c in CASES { check(r#"ID-03 " } "#); } }
    #[tokio::test(flavor = "multi_thread")]
    async fn other() { let life: &'static str = "ID-04"; }
}
"##;
        let found = tests_in(source, false);
        let expect = |numbers: &[&str]| numbers.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(
            found,
            [
                ("table".to_owned(), expect(&["ID-01", "ID-03", "ID-09", "ID-11"])),
                ("other".to_owned(), expect(&["ID-04"])),
            ]
        );
    }
}
