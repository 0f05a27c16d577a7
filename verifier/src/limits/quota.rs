//! Daily limits, and the file by which they survive a restart.

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, Read, Write},
    num::NonZeroU32,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::Counted;
use crate::{caller::CallerId, clock::Timestamp, spiffe::SpiffeId, user::UserId};

/// How much of each daily limit is used up today (UTC).
///
/// At most [`Quotas::MOST`] are counted in a day, and as many of users; whoever comes after that has used up theirs: a quota that is not counted
/// would be none. Users are counted by themselves, so that no number of them uses up the quota of a service.
#[derive(Clone)]
pub struct Quotas(Arc<Shared>);

struct Shared {
    file: Option<PathBuf>,
    today: Mutex<Today>,
}

#[derive(Default)]
struct Today {
    /// Days since 1970.
    day: i64,
    used: HashMap<Key, u32>,
    /// How many of `used` are of users.
    of_users: usize,
    unsaved: bool,
}

/// What is counted together, as in [`Counted`].
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    rule: String,
    caller: Option<CallerId>,
    user: Option<String>,
}

impl Key {
    fn counted(&self) -> Counted<'_> {
        Counted { rule: &self.rule, caller: self.caller.as_ref(), user: self.user.as_deref() }
    }
}

/// Why quotas cannot be kept in a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaFileError {
    /// It cannot be read or written.
    #[error("the quota file `{}` cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What stands in it is not what was written. It is left as it is.
    #[error("the quota file `{}` is damaged: {problem}; move it away to begin the day anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// As it stands in the file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    day: i64,
    used: Vec<StoredCount>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredCount {
    rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    used: u32,
}

const FILE_VERSION: u32 = 1;
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
const DAY_MILLIS: i64 = 86_400_000;

impl Quotas {
    /// The most that are counted in a day.
    pub const MOST: usize = 100_000;

    /// Quotas that a restart forgets.
    #[must_use]
    pub fn in_memory() -> Self {
        Self(Arc::new(Shared { file: None, today: Mutex::default() }))
    }

    /// Quotas that go on where this file says; it need not be there yet. Someone has to call [`Quotas::save`] now and then (what was
    /// counted since is forgotten by a crash) and before the end.
    ///
    /// # Errors
    /// When the file cannot be read or is not one of ours.
    pub fn in_file(path: impl Into<PathBuf>) -> Result<Self, QuotaFileError> {
        let path = path.into();
        let today = read(&path)?;
        Ok(Self(Arc::new(Shared { file: Some(path), today: Mutex::new(today) })))
    }

    /// Counts one of `count` a day. Gives the time until midnight when there is none left.
    pub(super) fn take(&self, counted: &Counted<'_>, count: NonZeroU32, now: Timestamp) -> Result<(), Duration> {
        let day = now.unix_millis().div_euclid(DAY_MILLIS);
        let mut today = self.lock();
        // A clock that was set back begins no new day.
        if day > today.day {
            *today = Today { day, used: HashMap::new(), of_users: 0, unsaved: true };
        }
        let midnight = Timestamp::from_unix_millis((today.day + 1).saturating_mul(DAY_MILLIS));
        let key = Key {
            rule: counted.rule.to_owned(),
            caller: counted.caller.cloned(),
            user: counted.user.map(str::to_owned),
        };
        let by_user = counted.is_by_user();
        let kept = if by_user { today.of_users } else { today.used.len() - today.of_users };
        match today.used.get_mut(&key) {
            Some(used) if *used < count.get() => *used += 1,
            None if kept < Self::MOST => {
                today.of_users += usize::from(by_user);
                today.used.insert(key, 1);
            }
            Some(_) | None => return Err(midnight.since(now)),
        }
        today.unsaved = true;
        Ok(())
    }

    /// Writes what was counted since the last time, if there is a file. Blocks for the disk.
    ///
    /// # Errors
    /// When it cannot be written; the next call tries again.
    pub fn save(&self) -> Result<(), QuotaFileError> {
        let Some(path) = &self.0.file else { return Ok(()) };
        let mut today = self.lock();
        if !today.unsaved {
            return Ok(());
        }
        let stored = Stored {
            version: FILE_VERSION,
            day: today.day,
            used: today
                .used
                .iter()
                .map(|(key, used)| StoredCount {
                    rule: key.rule.clone(),
                    caller: key.caller.as_ref().map(|id| id.as_str().to_owned()),
                    user: key.user.clone(),
                    used: *used,
                })
                .collect(),
        };
        today.unsaved = false;
        drop(today);
        write(path, &stored).map_err(|source| {
            self.lock().unsaved = true;
            QuotaFileError::Io { path: path.clone(), what: "written", source }
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Today> {
        self.0.today.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quotas").field("file", &self.0.file).field("counted", &self.lock().used.len()).finish()
    }
}

fn read(path: &Path) -> Result<Today, QuotaFileError> {
    let io_error = |source| QuotaFileError::Io { path: path.to_owned(), what: "read", source };
    let damaged = |problem: String| QuotaFileError::Damaged { path: path.to_owned(), problem };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Today::default()),
        Err(error) => return Err(io_error(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(io_error)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(damaged(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    let stored: Stored = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if stored.version != FILE_VERSION {
        return Err(damaged(format!("its version is {}, known is {FILE_VERSION}", stored.version)));
    }
    if stored.used.len() > 2 * Quotas::MOST {
        return Err(damaged(format!("it counts more than {} quotas", 2 * Quotas::MOST)));
    }
    let mut used = HashMap::with_capacity(stored.used.len());
    for count in stored.used {
        let caller = count.caller.map(|id| caller(&id)).transpose().map_err(damaged)?;
        used.insert(Key { rule: count.rule, caller, user: count.user }, count.used);
    }
    let of_users = used.keys().filter(|key| key.counted().is_by_user()).count();
    Ok(Today { day: stored.day, used, of_users, unsaved: false })
}

/// No text is both: see [`CallerId::as_str`].
fn caller(text: &str) -> Result<CallerId, String> {
    if text.starts_with("spiffe:") {
        SpiffeId::parse(text).map(CallerId::Service).map_err(|error| error.to_string())
    } else {
        UserId::parse(text).map(CallerId::User).map_err(|error| error.to_string())
    }
}

/// Aside, synced, renamed: a crash leaves the old one or the new one.
fn write(path: &Path, stored: &Stored) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&serde_json::to_vec(stored)?)?;
    file.sync_data()?;
    fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: NonZeroU32 = NonZeroU32::new(2).unwrap();

    fn counted(user: &str) -> Counted<'_> {
        Counted { rule: "r", caller: None, user: Some(user) }
    }

    fn hour(hour: i64) -> Timestamp {
        Timestamp::from_unix_seconds(hour * 3600)
    }

    #[test]
    fn a_quota_survives_a_restart_and_ends_at_midnight() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas.json");
        let quotas = Quotas::in_file(&path).unwrap();
        quotas.take(&counted("john"), COUNT, hour(24)).unwrap();
        quotas.take(&counted("john"), COUNT, hour(25)).unwrap();
        quotas.save().unwrap();
        let quotas = Quotas::in_file(&path).unwrap();
        assert_eq!(quotas.take(&counted("john"), COUNT, hour(26)), Err(Duration::from_secs(22 * 3600)));
        quotas.take(&counted("mary"), COUNT, hour(26)).unwrap();
        // A user who calls and a service are as they were, too.
        for text in ["corp:john", "spiffe://example.org/a"] {
            let caller = caller(text).unwrap();
            let counted = Counted { rule: "r", caller: Some(&caller), user: None };
            quotas.take(&counted, NonZeroU32::MIN, hour(26)).unwrap();
            quotas.save().unwrap();
            let quotas = Quotas::in_file(&path).unwrap();
            assert!(quotas.take(&counted, NonZeroU32::MIN, hour(26)).is_err(), "{text}");
        }
        // The clock set back a day gives nothing; the next day does.
        assert!(quotas.take(&counted("john"), COUNT, hour(2)).is_err());
        quotas.take(&counted("john"), COUNT, hour(48)).unwrap();
    }

    #[test]
    fn f_14_a_file_that_is_not_ours_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas.json");
        for text in [
            "",
            "{}",
            r#"{"version":2,"day":1,"used":[]}"#,
            r#"{"version":1,"day":1,"used":[],"more":1}"#,
            r#"{"version":1,"day":1,"used":[{"rule":"r","caller":"nobody","used":1}]}"#,
            r#"{"version":1,"day":1,"used":[{"rule":"r","used":-1}]}"#,
        ] {
            fs::write(&path, text).unwrap();
            let error = Quotas::in_file(&path).unwrap_err();
            assert!(matches!(error, QuotaFileError::Damaged { .. }), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn quotas_are_saved_only_when_something_was_counted_and_again_after_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none").join("quotas.json");
        let quotas = Quotas::in_file(&path).unwrap();
        quotas.save().unwrap();
        quotas.take(&counted("john"), COUNT, hour(24)).unwrap();
        assert!(matches!(quotas.save(), Err(QuotaFileError::Io { what: "written", .. })));
        fs::create_dir(path.parent().unwrap()).unwrap();
        quotas.save().unwrap();
        assert!(path.exists());
    }
}
