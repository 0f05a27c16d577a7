//! The settings file: TOML, with exactly the keys that exist.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use toml::de::{DeTable, DeValue};

use super::SettingsError;
use super::layers::{Given, Literal};

/// The values of a settings file, with where each stands.
#[derive(Debug, Default)]
pub(crate) struct FileLayer {
    values: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    origin: String,
    values: Vec<(String, Literal)>,
}

impl FileLayer {
    /// The largest file that is read.
    pub(crate) const MAX_LENGTH: u64 = 64 * 1024;

    /// Reads the file at `path`, which must be a regular file that not everybody can write, of at most
    /// [`FileLayer::MAX_LENGTH`] bytes. `own_uid` and root may own it.
    ///
    /// # Errors
    /// [`SettingsError::File`] with the path and, for its content, line and column.
    pub(crate) fn read(path: &Path, own_uid: u32, names: &[&'static str]) -> Result<Self, SettingsError> {
        let name = path.display().to_string();
        let error = |problem: String| SettingsError::File { at: name.clone(), problem };
        // Not blocking, so that a FIFO at that path does not hold the start.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(|cause| error(format!("cannot be opened: {cause}")))?;
        check_file(&file, own_uid).map_err(error)?;
        let mut bytes = Vec::new();
        file.take(Self::MAX_LENGTH + 1)
            .read_to_end(&mut bytes)
            .map_err(|cause| error(format!("cannot be read: {cause}")))?;
        if bytes.len() as u64 > Self::MAX_LENGTH {
            return Err(error(format!("is larger than {} bytes", Self::MAX_LENGTH)));
        }
        let text = String::from_utf8(bytes).map_err(|cause| {
            error(format!("is not UTF-8: the first wrong byte is at offset {}", cause.utf8_error().valid_up_to()))
        })?;
        Self::parse(&name, &text, names)
    }

    /// Takes the text of a file called `name`.
    ///
    /// # Errors
    /// [`SettingsError::File`] for what is not TOML, for a key that is not one of `names`, and for a value that is no
    /// string, number, truth value or list of these.
    pub(crate) fn parse(name: &str, text: &str, names: &[&'static str]) -> Result<Self, SettingsError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let at = |span: Option<Range<usize>>| position(name, text, span.map_or(0, |span| span.start));
        let table = DeTable::parse(text).map_err(|cause| SettingsError::File {
            at: at(cause.span()),
            problem: cause.message().lines().collect::<Vec<_>>().join(" "),
        })?;
        let mut layer = Self::default();
        for (key, value) in table.get_ref() {
            let at = at(Some(key.span()));
            let key = key.get_ref().as_ref();
            if !names.contains(&key) {
                return Err(SettingsError::File { at, problem: unknown(key, names) });
            }
            let values = match value.get_ref() {
                DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref())).collect(),
                single => scalar(single).map(|value| vec![value]),
            };
            let values = values.map_err(|kind| SettingsError::File {
                at: at.clone(),
                problem: format!("`{key}` takes a string, number, truth value or a list of these, not a {kind}"),
            })?;
            layer.values.insert(key.to_owned(), Entry { origin: format!("{at}: {key}"), values });
        }
        Ok(layer)
    }

    /// The values under `name`.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<Given>, SettingsError> {
        let Some(entry) = self.values.get(name) else { return Ok(Vec::new()) };
        let given = |(value, literal): &(String, Literal)| Given {
            origin: entry.origin.clone(),
            value: value.clone(),
            literal: *literal,
        };
        Ok(entry.values.iter().map(given).collect())
    }
}

fn check_file(file: &File, own_uid: u32) -> Result<(), String> {
    let metadata = file.metadata().map_err(|cause| format!("cannot be looked at: {cause}"))?;
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    if metadata.uid() != 0 && metadata.uid() != own_uid {
        return Err(format!("belongs to uid {}; it must belong to root or to uid {own_uid}", metadata.uid()));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(format!(
            "can be written by everybody (mode {:03o}); run `chmod o-w` on it",
            metadata.mode() & 0o777
        ));
    }
    Ok(())
}

fn scalar(value: &DeValue<'_>) -> Result<(String, Literal), &'static str> {
    match value {
        DeValue::String(text) => Ok((text.to_string(), Literal::Text)),
        DeValue::Integer(number) if number.radix() == 10 => Ok((number.as_str().replace('_', ""), Literal::Number)),
        DeValue::Boolean(truth) => Ok((truth.to_string(), Literal::Truth)),
        other => Err(other.type_str()),
    }
}

/// `name:line:column`, counted from 1.
fn position(name: &str, text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{name}:{line}:{column}")
}

fn unknown(key: &str, names: &[&'static str]) -> String {
    let key: String = key.chars().take(80).collect();
    let nearest = names.iter().map(|name| (distance(&key, name), name)).min().filter(|(distance, _)| *distance <= 3);
    match nearest {
        Some((_, name)) => format!("there is no setting `{}`; did you mean `{name}`?", key.escape_debug()),
        None => format!("there is no setting `{}`; `bonafide-ca run --help` lists them", key.escape_debug()),
    }
}

/// How many characters to change, add or leave out to get from one word to the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((b, pair), left) in other.iter().zip(row.windows(2)).zip(0..) {
            let &[diagonal, above] = pair else { continue };
            let left = next.get(left).copied().unwrap_or(usize::MAX);
            next.push((above + 1).min(left + 1).min(diagonal + usize::from(a != *b)));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NAMES: &[&str] = &["x509-ttl", "advertise", "accept-clock", "max-nodes"];

    fn parsed(text: &str) -> Result<FileLayer, String> {
        FileLayer::parse("ca.toml", text, NAMES).map_err(|error| error.to_string())
    }

    #[test]
    fn values_know_where_they_stand() {
        let text = "# a comment\r\nx509-ttl = \"1h\"\nadvertise = [\"a:1\", \"b:2\"]\naccept-clock = true\n  max-nodes = 1_000\n";
        let layer = parsed(text).unwrap();
        let of = |name: &str| -> Vec<(String, String)> {
            layer.values(name).unwrap().into_iter().map(|given| (given.origin, given.value)).collect()
        };
        assert_eq!(of("x509-ttl"), [("ca.toml:2:1: x509-ttl".to_owned(), "1h".to_owned())]);
        assert_eq!(of("advertise").len(), 2);
        assert_eq!(of("accept-clock")[0].1, "true");
        assert_eq!(of("max-nodes"), [("ca.toml:5:3: max-nodes".to_owned(), "1000".to_owned())]);
        assert!(parsed("").is_ok() && parsed("\u{feff}x509-ttl = \"1h\"").is_ok());
    }

    #[test]
    fn bad_files_say_line_and_column() {
        let deep = "[".repeat(100_000);
        let cases: &[(&str, &str)] = &[
            ("x509_ttl = '1h'", "ca.toml:1:1: there is no setting `x509_ttl`; did you mean `x509-ttl`?"),
            (
                "\n\nfrobnicate = 1",
                "ca.toml:3:1: there is no setting `frobnicate`; `bonafide-ca run --help` lists them",
            ),
            ("[run]\nx509-ttl = '1h'", "ca.toml:1:2: there is no setting `run`; `bonafide-ca run --help` lists them"),
            (
                "max-nodes = 1.5",
                "ca.toml:1:1: `max-nodes` takes a string, number, truth value or a list of these, not a float",
            ),
            (
                "x509-ttl = { a = 1 }",
                "ca.toml:1:1: `x509-ttl` takes a string, number, truth value or a list of these, not a table",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text).unwrap_err(), *expected, "{text}");
        }
        for text in
            ["x509-ttl = '1h'\nx509-ttl = '2h'", "x509-ttl", "x509-ttl = ", &deep, &format!("x509-ttl = {deep}")]
        {
            let error = parsed(text).unwrap_err();
            assert!(error.starts_with("ca.toml:") && !error.contains('\n') && error.len() < 300, "T-32: {error}");
        }
    }

    #[test]
    fn unfit_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.toml");
        let own = nix::unistd::geteuid().as_raw();
        let problem = |path: &Path| FileLayer::read(path, own, NAMES).unwrap_err().to_string();
        assert!(problem(&path).contains("cannot be opened"));
        assert!(problem(dir.path()).contains("is not a regular file"));
        std::fs::write(&path, "x509-ttl = '1h'").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o646)).unwrap();
        assert!(problem(&path).contains("can be written by everybody (mode 646)"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(FileLayer::read(&path, own, NAMES).is_ok());
        std::fs::write(&path, [b'#', 0xff]).unwrap();
        assert!(problem(&path).contains("is not UTF-8: the first wrong byte is at offset 1"));
        std::fs::write(&path, "#".repeat(65_537)).unwrap();
        assert!(problem(&path).contains("is larger than 65536 bytes"));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(problem(&fifo).contains("is not a regular file"));
    }
}
