//! The file of key records, read without pity: TOML, version 1.

use std::time::Duration;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    KeyKind, KeyRecord, KeyRecordFlaw, KeyRecords, KeyRecordsError, Keyed, MAX_FILE_BYTES, MAX_RECORDS, MAX_SECRETS,
    MOST_LIFETIME, Position, Secrets,
    wrapping::{MEMBER, Wrapping},
};
use crate::{
    api_key::SecretHash,
    caller::{RoleName, Roles},
    clock::Timestamp,
    shared_secret::SharedSecret,
    spiffe::{SpiffeId, TrustDomain},
};

impl KeyRecords {
    /// Reads a file of key records whose shared secrets, if it has any, are not wrapped.
    ///
    /// ```
    /// use bonafide_verifier::{key_records::KeyRecords, spiffe::TrustDomain};
    ///
    /// let records = KeyRecords::parse(
    ///     r#"
    ///         version = 1
    ///         [[key]]
    ///         id = "export"
    ///         kind = "api-key"
    ///         owner = "spiffe://example.org/export"
    ///         audience = "spiffe://example.org/config"
    ///         roles = ["reader"]
    ///         expires = 2027-03-31T00:00:00Z
    ///         [[key.secret]]
    ///         id = "export.1"
    ///         sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    ///         created = 2026-11-24T00:00:00Z
    ///     "#,
    ///     &TrustDomain::parse("example.org")?,
    /// )?;
    /// assert_eq!(records.records().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn parse(text: &str, trust_domain: &TrustDomain) -> Result<Self, KeyRecordsError> {
        Self::parse_wrapped(text, trust_domain, None)
    }

    /// The same with the key that shared secrets are wrapped under.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn parse_wrapped(
        text: &str,
        trust_domain: &TrustDomain,
        wrapping: Option<&Wrapping>,
    ) -> Result<Self, KeyRecordsError> {
        let wrong = |(offset, flaw)| KeyRecordsError { at: Position::of(text, offset), flaw };
        if text.len() > MAX_FILE_BYTES {
            return Err(wrong((0, KeyRecordFlaw::TooLarge { bytes: text.len() })));
        }
        // What the parser says is left out: it could quote a line that holds a secret.
        let file = DeTable::parse(text)
            .map_err(|error| wrong((error.span().map_or(0, |span| span.start), KeyRecordFlaw::Syntax)))?;
        let (records, starts) = read_file(&file, wrapping).map_err(wrong)?;
        Self::new(trust_domain.clone(), records)
            .map_err(|(index, flaw)| wrong((starts.get(index).copied().unwrap_or_default(), flaw)))
    }
}

impl KeyRecords {
    /// Reads a file for a tool that is of no trust domain itself: the owners' is that of the first of them. None without any record.
    ///
    /// # Errors
    /// As [`KeyRecords::parse`].
    pub fn parse_of_first_owner(text: &str, wrapping: Option<&Wrapping>) -> Result<Option<Self>, KeyRecordsError> {
        let first = DeTable::parse(text.get(..MAX_FILE_BYTES).unwrap_or(text)).ok().and_then(|file| {
            let keys = file.get_ref().get("key")?.get_ref().as_array()?;
            let owner = keys.first()?.get_ref().as_table()?.get("owner")?.get_ref().as_str()?;
            SpiffeId::parse(owner).ok()
        });
        match first {
            Some(owner) => Self::parse_wrapped(text, owner.trust_domain(), wrapping).map(Some),
            None => {
                // Whatever is wrong with it is wrong in any trust domain; a file without records has none.
                let any = TrustDomain::parse("x")
                    .map_err(|_| KeyRecordsError { at: Position::of(text, 0), flaw: KeyRecordFlaw::Syntax })?;
                Self::parse_wrapped(text, &any, wrapping).map(|_| None)
            }
        }
    }
}

/// An offset and what is wrong there.
pub(super) type Wrong = (usize, KeyRecordFlaw);

/// The records, and where each begins.
fn read_file(file: &Spanned<DeTable<'_>>, wrapping: Option<&Wrapping>) -> Result<(Vec<KeyRecord>, Vec<usize>), Wrong> {
    let file = Members { start: file.span().start, table: file.get_ref() };
    file.only(&["version", MEMBER, "key"])?;
    if file.table.contains_key(MEMBER) {
        file.text(MEMBER)?;
    }
    let version = file.required("version")?;
    if whole(version) != Some(1) {
        return Err((version.span().start, KeyRecordFlaw::Version));
    }
    let (mut records, mut starts) = (Vec::new(), Vec::new());
    for entry in file.tables("key", MAX_RECORDS, |_| KeyRecordFlaw::TooMany)? {
        starts.push(entry.start);
        records.push(read_record(&entry, wrapping)?);
    }
    Ok((records, starts))
}

fn read_record(record: &Members<'_, '_>, wrapping: Option<&Wrapping>) -> Result<KeyRecord, Wrong> {
    let (kind_at, kind) = record.text("kind")?;
    let kind = KeyKind::parse(kind).ok_or((kind_at, KeyRecordFlaw::Kind))?;
    record.only(match kind {
        KeyKind::SharedSecret => {
            &["id", "kind", "owner", "audience", "subject", "roles", "max-lifetime-s", "expires", "secret"]
        }
        KeyKind::ApiKey => &["id", "kind", "owner", "audience", "roles", "expires", "secret"],
    })?;
    let (owner_at, owner) = record.text("owner")?;
    let owner = SpiffeId::parse(owner).map_err(|error| (owner_at, KeyRecordFlaw::Owner { error }))?;
    let subject = match record.table.get("subject") {
        Some(_) => record.text("subject")?.1,
        None => owner.as_str(),
    };
    let most_lifetime = match record.table.get("max-lifetime-s") {
        Some(seconds) => {
            let expected = "a number of seconds";
            let wrong = (seconds.span().start, KeyRecordFlaw::Type { member: "max-lifetime-s", expected });
            Duration::from_secs(whole(seconds).ok_or(wrong)?)
        }
        None => MOST_LIFETIME,
    };
    let secrets = record.tables("secret", MAX_SECRETS, |count| KeyRecordFlaw::Secrets { count })?;
    Ok(KeyRecord {
        id: record.text("id")?.1.into(),
        audience: record.text("audience")?.1.into(),
        subject: subject.into(),
        roles: read_roles(record)?,
        most_lifetime,
        expires_at: record.date("expires")?,
        secrets: match kind {
            KeyKind::SharedSecret => {
                let read = |entry| read_shared_secret(entry, wrapping);
                Secrets::Shared(secrets.iter().map(read).collect::<Result<_, _>>()?)
            }
            KeyKind::ApiKey => Secrets::ApiKey(secrets.iter().map(read_hash).collect::<Result<_, _>>()?),
        },
        owner,
    })
}

pub(super) fn read_roles(record: &Members<'_, '_>) -> Result<Roles, Wrong> {
    let Some(value) = record.table.get("roles") else { return Ok(Roles::default()) };
    let wrong = |at| (at, KeyRecordFlaw::Type { member: "roles", expected: "a list of the names of roles" });
    let names = value.get_ref().as_array().ok_or_else(|| wrong(value.span().start))?;
    if names.len() > Roles::MOST {
        return Err((value.span().start, KeyRecordFlaw::TooManyRoles { count: names.len() }));
    }
    let role = |name: &Spanned<DeValue<'_>>| {
        let text = name.get_ref().as_str().ok_or_else(|| wrong(name.span().start))?;
        RoleName::parse(text).map_err(|error| (name.span().start, KeyRecordFlaw::Role(error)))
    };
    names.iter().map(role).collect()
}

/// Wrapped, as we write it, or as it is: a secret that the other side made is put in by hand.
fn read_shared_secret(entry: &Members<'_, '_>, wrapping: Option<&Wrapping>) -> Result<Keyed<SharedSecret>, Wrong> {
    let is_wrapped = entry.table.contains_key("wrapped");
    entry.only(&["id", if is_wrapped { "wrapped" } else { "value" }, "created"])?;
    let key_id = entry.text("id")?.1;
    let secret = if is_wrapped {
        let (at, wrapped) = entry.text("wrapped")?;
        let wrapping = wrapping.ok_or((at, KeyRecordFlaw::NoWrappingKey))?;
        wrapping.key.unwrap(key_id, wrapped).ok_or((at, KeyRecordFlaw::Wrapped))?
    } else {
        let (at, value) = entry.text("value")?;
        SharedSecret::parse(value).map_err(|error| (at, KeyRecordFlaw::Secret(error)))?
    };
    Ok(Keyed { key_id: key_id.into(), secret, created_at: entry.date("created")? })
}

fn read_hash(entry: &Members<'_, '_>) -> Result<Keyed<SecretHash>, Wrong> {
    entry.only(&["id", "sha256", "created"])?;
    let (at, digits) = entry.text("sha256")?;
    let secret = hash(digits).ok_or((at, KeyRecordFlaw::Hash))?;
    Ok(Keyed { key_id: entry.text("id")?.1.into(), secret, created_at: entry.date("created")? })
}

fn hash(digits: &str) -> Option<SecretHash> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(SecretHash::from_bytes(bytes))
}

pub(super) fn whole(value: &Spanned<DeValue<'_>>) -> Option<u64> {
    let integer = value.get_ref().as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A table and where it begins.
pub(super) struct Members<'t, 'i> {
    pub(super) start: usize,
    pub(super) table: &'t DeTable<'i>,
}

impl<'t, 'i> Members<'t, 'i> {
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Wrong> {
        match self.table.keys().find(|name| !known.contains(&name.get_ref().as_ref())) {
            Some(name) => {
                let member = name.get_ref().chars().take(64).collect();
                Err((name.span().start, KeyRecordFlaw::UnknownMember { member }))
            }
            None => Ok(()),
        }
    }

    pub(super) fn required(&self, member: &'static str) -> Result<&'t Spanned<DeValue<'i>>, Wrong> {
        self.table.get(member).ok_or((self.start, KeyRecordFlaw::Missing { member }))
    }

    pub(super) fn text(&self, member: &'static str) -> Result<(usize, &'t str), Wrong> {
        let value = self.required(member)?;
        let start = value.span().start;
        let text = value.get_ref().as_str();
        text.map(|text| (start, text)).ok_or((start, KeyRecordFlaw::Type { member, expected: "a string" }))
    }

    /// A date, a time and an offset, so that it is one moment.
    pub(super) fn date(&self, member: &'static str) -> Result<Timestamp, Wrong> {
        let value = self.required(member)?;
        let expected = "a date and time with its offset, such as 2027-03-31T00:00:00Z";
        let written = value.get_ref().as_datetime().map(ToString::to_string);
        written
            .and_then(|written| OffsetDateTime::parse(&written, &Rfc3339).ok())
            .map(|at| Timestamp::from_unix_seconds(at.unix_timestamp()))
            .ok_or((value.span().start, KeyRecordFlaw::Type { member, expected }))
    }

    /// `[[member]]`, none if it is absent.
    fn tables(
        &self,
        member: &'static str,
        most: usize,
        too_many: impl Fn(usize) -> KeyRecordFlaw,
    ) -> Result<Vec<Members<'t, 'i>>, Wrong> {
        let Some(value) = self.table.get(member) else { return Ok(Vec::new()) };
        let wrong = |at: usize| (at, KeyRecordFlaw::Type { member, expected: "a list of tables" });
        let entries = value.get_ref().as_array().ok_or_else(|| wrong(value.span().start))?;
        if entries.len() > most {
            return Err((value.span().start, too_many(entries.len())));
        }
        let table = |entry: &'t Spanned<DeValue<'i>>| {
            let start = entry.span().start;
            entry.get_ref().as_table().map(|table| Members { start, table }).ok_or_else(|| wrong(start))
        };
        entries.iter().map(table).collect()
    }
}
