//! Where a setting's value comes from: flag, then environment, then file. The environment and the file's text
//! are passed in; nothing here reads either by itself.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::SettingsError;
use super::file::FileLayer;

/// A value as it was given, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Given {
    /// `--x509-ttl`, `BONAFIDE_X509_TTL` or `ca.toml:3:1: x509-ttl`.
    pub(crate) origin: String,
    /// The text.
    pub(crate) value: String,
    /// How it was written.
    pub(crate) literal: Literal,
}

/// How a value was written: flags and variables are text, a file's values are of TOML's types.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Literal {
    Text,
    Number,
    Truth,
}

impl Given {
    fn text(origin: &str, value: &str) -> Self {
        Self { origin: origin.to_owned(), value: value.to_owned(), literal: Literal::Text }
    }

    /// Refuses a number or truth value where the setting is something else: `trust-domain = 5` is a slip, not a name.
    pub(crate) fn of(self, wanted: Literal) -> Result<Self, SettingsError> {
        if self.literal == Literal::Text || self.literal == wanted {
            return Ok(self);
        }
        Err(self.refuse(match wanted {
            Literal::Text => "must be a string, in quotation marks",
            Literal::Number => "must be a number",
            Literal::Truth => "must be `true` or `false`",
        }))
    }

    /// The error that tells value, origin and bound: ``BONAFIDE_X509_TTL=`1s`: must be ...``.
    pub(crate) fn refuse(&self, bound: impl Into<String>) -> SettingsError {
        SettingsError::Value {
            origin: self.origin.clone(),
            value: self.value.escape_debug().take(200).collect(),
            bound: bound.into(),
        }
    }
}

/// Every value that was given, by layer. A setting has one name everywhere: `x509-ttl` is the flag `--x509-ttl`, the variable
/// `BONAFIDE_X509_TTL` and the file's key `x509-ttl`.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    flags: BTreeMap<&'static str, Vec<String>>,
    environment: BTreeMap<&'static str, String>,
    file: FileLayer,
}

impl Layers {
    /// Takes the flags that were given, by name.
    pub(crate) fn from_flags(flags: impl IntoIterator<Item = (&'static str, Vec<String>)>) -> Self {
        let flags = flags.into_iter().filter(|(_, values)| !values.is_empty()).collect();
        Self { flags, ..Self::default() }
    }

    /// Adds the environment. Empty variables count as unset.
    ///
    /// # Errors
    /// A variable that is not UTF-8.
    pub(crate) fn add_environment(
        &mut self,
        names: &[&'static str],
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), SettingsError> {
        for name in names {
            let key = variable_name(name);
            let Some(value) = variable(&key).filter(|value| !value.is_empty()) else { continue };
            let value = value.into_string().map_err(|value| SettingsError::Value {
                origin: key,
                value: value.to_string_lossy().escape_debug().take(200).collect(),
                bound: "must be UTF-8".to_owned(),
            })?;
            self.environment.insert(name, value);
        }
        Ok(())
    }

    /// Adds the file.
    pub(crate) fn add_file(&mut self, file: FileLayer) {
        self.file = file;
    }

    /// The value of a setting that has one.
    pub(crate) fn one(&self, name: &'static str) -> Result<Option<Given>, SettingsError> {
        let mut values = match (self.flags.get(name), self.environment.get(name)) {
            (None, Some(value)) => vec![Given::text(&variable_name(name), value)],
            _ => self.many(name)?,
        };
        match (values.pop(), values.pop()) {
            (None, _) => Ok(None),
            (Some(value), None) => Ok(Some(value)),
            (Some(second), Some(_)) => Err(second.refuse("takes one value, more were given")),
        }
    }

    /// The values of a setting that may have several; those of the first layer that has any. A variable holds
    /// them with commas between.
    pub(crate) fn many(&self, name: &'static str) -> Result<Vec<Given>, SettingsError> {
        if let Some(values) = self.flags.get(name) {
            let origin = format!("--{name}");
            return Ok(values.iter().map(|value| Given::text(&origin, value)).collect());
        }
        if let Some(values) = self.environment.get(name) {
            let origin = variable_name(name);
            let split = values.split(',').map(str::trim).filter(|value| !value.is_empty());
            return Ok(split.map(|value| Given::text(&origin, value)).collect());
        }
        self.file.values(name)
    }
}

/// The environment variable of a setting.
pub(crate) fn variable_name(name: &str) -> String {
    format!("BONAFIDE_{}", name.replace('-', "_").to_ascii_uppercase())
}
