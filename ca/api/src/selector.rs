//! Selectors: facts about a process that attestation finds and a service demands.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A fact about a process, such as `unix:user:photo`. The value is valid for its kind and in its one canonical
/// form, so two selectors say the same exactly if they are equal. Cloning is cheap.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Selector {
    kind: SelectorKind,
    value: Arc<str>,
}

/// What a selector looks at.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum SelectorKind {
    /// `unix:uid`: the numeric user, decimal.
    UnixUid,
    /// `unix:gid`: the numeric primary group, decimal.
    UnixGid,
    /// `unix:user`: the user's name, resolved on the node.
    UnixUser,
    /// `unix:group`: the primary group's name, resolved on the node.
    UnixGroup,
    /// `unix:supplementary-gid`: one of the numeric supplementary groups, decimal.
    UnixSupplementaryGid,
    /// `unix:path`: the executable, as an absolute path.
    UnixPath,
    /// `unix:sha256`: SHA-256 of the executable, 64 lower-case hexadecimal digits.
    UnixSha256,
}

impl SelectorKind {
    /// Every kind, in the order that help texts show.
    pub const ALL: [Self; 7] = [
        Self::UnixUid,
        Self::UnixGid,
        Self::UnixUser,
        Self::UnixGroup,
        Self::UnixSupplementaryGid,
        Self::UnixPath,
        Self::UnixSha256,
    ];

    /// The kind as it is written, `unix:uid`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnixUid => "unix:uid",
            Self::UnixGid => "unix:gid",
            Self::UnixUser => "unix:user",
            Self::UnixGroup => "unix:group",
            Self::UnixSupplementaryGid => "unix:supplementary-gid",
            Self::UnixPath => "unix:path",
            Self::UnixSha256 => "unix:sha256",
        }
    }
}

impl fmt::Display for SelectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Selector {
    /// How many selectors a service can have.
    pub const MAX_COUNT: usize = 32;
    /// The longest value, in bytes: Linux paths end there.
    pub const MAX_VALUE_LENGTH: usize = 4095;

    /// Reads `KIND:VALUE`, for example `unix:user:photo`.
    ///
    /// # Errors
    /// [`SelectorError`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        // Only ASCII colons are looked for: what stands before the second one is the kind.
        let mut colons = text.match_indices(':').map(|(at, _)| at);
        let (Some(_), Some(second)) = (colons.next(), colons.next()) else {
            return Err(SelectorError::Form { text: shortened(text) });
        };
        let (kind, value) = text.split_at(second);
        let kind = SelectorKind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or_else(|| SelectorError::Kind { kind: shortened(kind) })?;
        Self::new(kind, value.strip_prefix(':').unwrap_or_default())
    }

    /// A selector of `kind` with `value`.
    ///
    /// # Errors
    /// [`SelectorError`] says which rule the value breaks.
    pub fn new(kind: SelectorKind, value: &str) -> Result<Self, SelectorError> {
        if value.is_empty() {
            return Err(SelectorError::Empty { kind });
        }
        if value.len() > Self::MAX_VALUE_LENGTH {
            return Err(SelectorError::TooLong { kind, length: value.len(), limit: Self::MAX_VALUE_LENGTH });
        }
        match kind {
            SelectorKind::UnixUid | SelectorKind::UnixGid | SelectorKind::UnixSupplementaryGid => {
                check_number(kind, value)?;
            }
            SelectorKind::UnixUser | SelectorKind::UnixGroup => check_name(kind, value)?,
            SelectorKind::UnixPath => check_path(value)?,
            SelectorKind::UnixSha256 => check_sha256(value)?,
        }
        Ok(Self { kind, value: value.into() })
    }

    /// What it looks at.
    #[must_use]
    pub fn kind(&self) -> SelectorKind {
        self.kind
    }

    /// The value that must be found.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether it names the user, as every service must: the user is the boundary between processes, the rest
    /// only narrows it.
    #[must_use]
    pub fn is_user(&self) -> bool {
        match self.kind {
            SelectorKind::UnixUid | SelectorKind::UnixUser => true,
            SelectorKind::UnixGid
            | SelectorKind::UnixGroup
            | SelectorKind::UnixSupplementaryGid
            | SelectorKind::UnixPath
            | SelectorKind::UnixSha256 => false,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Why a text is not a selector.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// Not `KIND:VALUE`.
    #[error("`{text}` is not a selector; write one like `unix:user:photo` or `unix:uid:1000`")]
    Form {
        /// The start of what was given.
        text: String,
    },
    /// A kind that does not exist.
    #[error(
        "there is no selector `{kind}`; known are unix:uid, unix:gid, unix:user, unix:group, unix:supplementary-gid, \
         unix:path and unix:sha256"
    )]
    Kind {
        /// What stands before the value.
        kind: String,
    },
    /// No value.
    #[error("`{kind}` has no value")]
    Empty {
        /// The kind.
        kind: SelectorKind,
    },
    /// A value longer than any such fact.
    #[error("the value of `{kind}` is {length} bytes long, at most {limit} are allowed")]
    TooLong {
        /// The kind.
        kind: SelectorKind,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not a user or group number.
    #[error(
        "`{kind}` takes a number from 0 to 4294967294 in plain decimal, not `{value}`; for a name use unix:user or unix:group"
    )]
    Number {
        /// The kind.
        kind: SelectorKind,
        /// The start of the value.
        value: String,
    },
    /// A number where a name is meant: the node would look for a user of that name.
    #[error("`{kind}:{value}` is a number; use `{}:{value}`", if *kind == SelectorKind::UnixUser { "unix:uid" } else { "unix:gid" })]
    NameIsNumber {
        /// The kind.
        kind: SelectorKind,
        /// The value.
        value: String,
    },
    /// A byte that no user or group name has.
    #[error("the name in `{kind}` has `{}` at position {at}, which no user or group name has", byte.escape_ascii())]
    NameByte {
        /// The kind.
        kind: SelectorKind,
        /// The byte.
        byte: u8,
        /// Where, counted from 0.
        at: usize,
    },
    /// A path that is relative, or that the kernel would print in another way.
    #[error("`unix:path` takes an absolute path as the kernel prints it, without {what}: `{value}`")]
    Path {
        /// What it must not have.
        what: &'static str,
        /// The start of the value.
        value: String,
    },
    /// Not a hash.
    #[error(
        "`unix:sha256` takes 64 hexadecimal digits in lower case, as `sha256sum FILE` prints them; `{value}` is not that"
    )]
    Sha256 {
        /// The start of the value.
        value: String,
    },
}

fn check_number(kind: SelectorKind, value: &str) -> Result<(), SelectorError> {
    // One canonical form, and not (uid_t)-1, which the kernel uses for "no user".
    match value.parse::<u32>() {
        Ok(number) if number != u32::MAX && number.to_string() == value => Ok(()),
        _ => Err(SelectorError::Number { kind, value: shortened(value) }),
    }
}

fn check_name(kind: SelectorKind, value: &str) -> Result<(), SelectorError> {
    if value.len() > MAX_NAME_LENGTH {
        return Err(SelectorError::TooLong { kind, length: value.len(), limit: MAX_NAME_LENGTH });
    }
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SelectorError::NameIsNumber { kind, value: shortened(value) });
    }
    for (at, byte) in value.bytes().enumerate() {
        // Directory services name users `DOMAIN\user` or `user@example.org`; a colon, a slash or a blank never is in one.
        let allowed = byte.is_ascii_alphanumeric() || b"_.@\\$".contains(&byte) || at > 0 && b"-+".contains(&byte);
        if !allowed {
            return Err(SelectorError::NameByte { kind, byte, at });
        }
    }
    Ok(())
}

fn check_path(value: &str) -> Result<(), SelectorError> {
    let error = |what| Err(SelectorError::Path { what, value: shortened(value) });
    let Some(rest) = value.strip_prefix('/') else { return error("a relative start") };
    if value.chars().any(char::is_control) {
        return error("control characters");
    }
    for segment in rest.split('/') {
        match segment {
            "" => return error("an empty segment"),
            "." | ".." => return error("`.` or `..`"),
            _ => {}
        }
    }
    if value.ends_with(" (deleted)") {
        return error("` (deleted)` at its end, which the kernel adds to removed files");
    }
    Ok(())
}

fn check_sha256(value: &str) -> Result<(), SelectorError> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if value.len() == 64 && digits { Ok(()) } else { Err(SelectorError::Sha256 { value: shortened(value) }) }
}

/// What an error shows of a text that may be of any length and hold anything.
fn shortened(text: &str) -> String {
    let start: String = text.chars().take(80).collect();
    start.escape_debug().to_string()
}

/// User and group names: longer than any login name, enough for those of directory services.
const MAX_NAME_LENGTH: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_by_kind() {
        use SelectorKind::*;
        let hash = "0123456789abcdef".repeat(4);
        let sha = format!("unix:sha256:{hash}");
        let upper = format!("unix:sha256:{}", hash.to_uppercase());
        let short = format!("unix:sha256:{}", &hash[1..]);
        let number = |kind, value: &str| Err(SelectorError::Number { kind, value: value.into() });
        let path = |what, value: &str| Err(SelectorError::Path { what, value: value.into() });
        let cases: &[(&str, Result<(), SelectorError>)] = &[
            ("unix:uid:0", Ok(())),
            ("unix:uid:1000", Ok(())),
            ("unix:uid:4294967294", Ok(())),
            ("unix:uid:4294967295", number(UnixUid, "4294967295")),
            ("unix:uid:4294967296", number(UnixUid, "4294967296")),
            ("unix:uid:-1", number(UnixUid, "-1")),
            ("unix:uid:+1", number(UnixUid, "+1")),
            ("unix:uid:01", number(UnixUid, "01")),
            ("unix:uid:1000 ", number(UnixUid, "1000 ")),
            ("unix:uid:photo", number(UnixUid, "photo")),
            ("unix:uid:", Err(SelectorError::Empty { kind: UnixUid })),
            ("unix:gid:100", Ok(())),
            ("unix:supplementary-gid:100", Ok(())),
            ("unix:supplementary-gid:x", number(UnixSupplementaryGid, "x")),
            ("unix:user:photo", Ok(())),
            ("unix:user:_apt", Ok(())),
            ("unix:user:EXAMPLE\\photo", Ok(())),
            ("unix:user:photo@example.org", Ok(())),
            ("unix:user:machine$", Ok(())),
            ("unix:user:1000", Err(SelectorError::NameIsNumber { kind: UnixUser, value: "1000".into() })),
            ("unix:group:100", Err(SelectorError::NameIsNumber { kind: UnixGroup, value: "100".into() })),
            ("unix:user:a:b", Err(SelectorError::NameByte { kind: UnixUser, byte: b':', at: 1 })),
            ("unix:user:-x", Err(SelectorError::NameByte { kind: UnixUser, byte: b'-', at: 0 })),
            ("unix:group:a b", Err(SelectorError::NameByte { kind: UnixGroup, byte: b' ', at: 1 })),
            ("unix:user:a\nb", Err(SelectorError::NameByte { kind: UnixUser, byte: b'\n', at: 1 })),
            ("unix:path:/usr/bin/photo", Ok(())),
            ("unix:path:/opt/a b:c/Ü", Ok(())),
            ("unix:path:photo", path("a relative start", "photo")),
            ("unix:path:/", path("an empty segment", "/")),
            ("unix:path:/a/", path("an empty segment", "/a/")),
            ("unix:path:/a//b", path("an empty segment", "/a//b")),
            ("unix:path:/a/./b", path("`.` or `..`", "/a/./b")),
            ("unix:path:/a/../b", path("`.` or `..`", "/a/../b")),
            ("unix:path:/a\n", path("control characters", "/a\\n")),
            (
                "unix:path:/a (deleted)",
                path("` (deleted)` at its end, which the kernel adds to removed files", "/a (deleted)"),
            ),
            (&sha, Ok(())),
            (&upper, Err(SelectorError::Sha256 { value: hash.to_uppercase() })),
            (&short, Err(SelectorError::Sha256 { value: hash[1..].into() })),
            ("", Err(SelectorError::Form { text: String::new() })),
            ("photo", Err(SelectorError::Form { text: "photo".into() })),
            ("unix:user", Err(SelectorError::Form { text: "unix:user".into() })),
            ("unix:User:photo", Err(SelectorError::Kind { kind: "unix:User".into() })),
            ("docker:label:a", Err(SelectorError::Kind { kind: "docker:label".into() })),
        ];
        for (input, expected) in cases {
            let selector = Selector::parse(input);
            if let Ok(selector) = &selector {
                assert_eq!(selector.to_string(), *input, "prints what it parsed");
            }
            assert_eq!(selector.map(drop), *expected, "{input:?}");
        }
    }

    #[test]
    fn only_users_are_users() {
        for kind in SelectorKind::ALL {
            let value = match kind {
                SelectorKind::UnixPath => "/a".to_owned(),
                SelectorKind::UnixSha256 => "0".repeat(64),
                SelectorKind::UnixUser | SelectorKind::UnixGroup => "a".to_owned(),
                SelectorKind::UnixUid | SelectorKind::UnixGid | SelectorKind::UnixSupplementaryGid => "1".to_owned(),
            };
            let expected = matches!(kind, SelectorKind::UnixUid | SelectorKind::UnixUser);
            assert_eq!(Selector::new(kind, &value).unwrap().is_user(), expected, "{kind}");
        }
    }

    #[test]
    fn values_are_bounded() {
        for (length, fits) in [(4095, true), (4096, false), (409_500, false)] {
            let value = format!("/{}", "a".repeat(length - 1));
            assert_eq!(Selector::new(SelectorKind::UnixPath, &value).is_ok(), fits, "T-08: {length}");
        }
        for (length, fits) in [(255, true), (256, false)] {
            assert_eq!(Selector::new(SelectorKind::UnixUser, &"a".repeat(length)).is_ok(), fits, "T-08: {length}");
        }
        let error = Selector::parse(&"x".repeat(1 << 20)).unwrap_err().to_string();
        assert!(error.len() < 200, "an error does not repeat a megabyte");
    }
}
