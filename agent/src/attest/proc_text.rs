//! Reads what the kernel prints about a process under `/proc/PID`: bytes, since a process chooses its own name and
//! need not choose UTF-8 (W-11). Not the `procfs` crate: it reads lines of UTF-8 and so fails for such a name, and it
//! parses some fifty fields into a map where three are needed at each message.

/// What `/proc/PID/status` says that is looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Status {
    /// The effective user.
    pub(crate) uid: u32,
    /// The effective group.
    pub(crate) gid: u32,
    /// Supplementary groups, in the kernel's order (ascending).
    pub(crate) groups: Vec<u32>,
}

/// Why a text under `/proc` was not understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ProcTextError {
    #[error("`{field}` is missing in what the kernel printed")]
    Missing { field: &'static str },
    #[error("`{field}` is not a number in what the kernel printed")]
    NotANumber { field: &'static str },
    #[error("more than {limit} supplementary groups")]
    TooManyGroups { limit: usize },
}

/// The kernel's own bound, `NGROUPS_MAX`.
pub(crate) const MAX_GROUPS: usize = 65_536;

/// Reads `/proc/PID/status`. The `Name:` line comes first and the kernel escapes line ends in it, so no process can
/// write a `Uid:` line of its own.
pub(crate) fn status(text: &[u8]) -> Result<Status, ProcTextError> {
    let line = |field: &'static str, label: &[u8]| {
        text.split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(label))
            .ok_or(ProcTextError::Missing { field })
    };
    // Real, effective, saved, file system.
    let effective = |field, label| {
        let value = words(line(field, label)?).nth(1).ok_or(ProcTextError::Missing { field })?;
        number(value).ok_or(ProcTextError::NotANumber { field })
    };
    let uid = effective("Uid", b"Uid:")?;
    let gid = effective("Gid", b"Gid:")?;
    let mut groups = Vec::new();
    for word in words(line("Groups", b"Groups:")?) {
        if groups.len() == MAX_GROUPS {
            return Err(ProcTextError::TooManyGroups { limit: MAX_GROUPS });
        }
        groups.push(number(word).ok_or(ProcTextError::NotANumber { field: "Groups" })?);
    }
    Ok(Status { uid, gid, groups })
}

/// The start time in `/proc/PID/stat`, in clock ticks since boot. The second field is the process's name in
/// parentheses, and may itself hold parentheses and blanks: what follows the last `)` is the kernel's.
pub(crate) fn start_time(stat: &[u8]) -> Result<u64, ProcTextError> {
    const FIELD: &str = "starttime";
    let end = stat.iter().rposition(|byte| *byte == b')').ok_or(ProcTextError::Missing { field: "comm" })?;
    let rest = stat.get(end + 1..).unwrap_or_default();
    // proc(5): starttime is field 22, the first word after the name is field 3.
    let word = words(rest).nth(22 - 3).ok_or(ProcTextError::Missing { field: FIELD })?;
    number(word).ok_or(ProcTextError::NotANumber { field: FIELD })
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t' | b'\n')).filter(|word| !word.is_empty())
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    // `from_str` would take a sign, which the kernel never prints here.
    if !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stat(name: &[u8]) -> Vec<u8> {
        let mut text = b"1234 (".to_vec();
        text.extend_from_slice(name);
        text.extend_from_slice(
            b") S 1 1234 1234 0 -1 4194560 99 0 0 0 1 2 3 4 20 0 1 0 778899 2719744 225 18446744073709551615 1 1\n",
        );
        text
    }

    #[test]
    fn w_11_names_do_not_move_the_start_time() {
        let names: &[&[u8]] = &[
            b"photo",
            b"a) R 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            b")",
            b"((",
            b"two words",
            b"line\nend",
            b"../../etc",
            b"\xff\xfe",
            b"",
        ];
        for name in names {
            assert_eq!(start_time(&stat(name)), Ok(778_899), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn w_11_broken_stat_is_an_error() {
        let cases: &[(&[u8], ProcTextError)] = &[
            (b"", ProcTextError::Missing { field: "comm" }),
            (b"1 (x", ProcTextError::Missing { field: "comm" }),
            (b"1 (x)", ProcTextError::Missing { field: "starttime" }),
            (b"1 (x) S 1 2 3", ProcTextError::Missing { field: "starttime" }),
            (
                b"1 (x) 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 -5",
                ProcTextError::NotANumber { field: "starttime" },
            ),
            (
                b"1 (x) 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 99999999999999999999",
                ProcTextError::NotANumber { field: "starttime" },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(start_time(text), Err(expected.clone()), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn w_11_status_by_bytes() {
        let text = b"Name:\t\xff\xfe\\nUid:\t0\t0\t0\t0\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nGroups:\t4 24 27 \nVmSize:\t1 kB\n";
        assert_eq!(status(text), Ok(Status { uid: 1001, gid: 6, groups: vec![4, 24, 27] }));
        let none = b"Name:\tx\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n";
        assert_eq!(status(none), Ok(Status { uid: 0, gid: 0, groups: vec![] }));
    }

    #[test]
    fn w_11_broken_status_is_an_error() {
        let cases: &[(&[u8], ProcTextError)] = &[
            (b"", ProcTextError::Missing { field: "Uid" }),
            (b"Uid:\t1\nGid:\t1\t1\nGroups:\n", ProcTextError::Missing { field: "Uid" }),
            (b"Uid:\t1\t-1\t1\t1\nGid:\t1\t1\nGroups:\n", ProcTextError::NotANumber { field: "Uid" }),
            (b"Uid:\t1\t4294967296\nGid:\t1\t1\nGroups:\n", ProcTextError::NotANumber { field: "Uid" }),
            (b"Uid:\t1\t1\nGroups:\n", ProcTextError::Missing { field: "Gid" }),
            (b"Uid:\t1\t1\nGid:\t1\t1\n", ProcTextError::Missing { field: "Groups" }),
            (b"Uid:\t1\t1\nGid:\t1\t1\nGroups:\t1 x\n", ProcTextError::NotANumber { field: "Groups" }),
        ];
        for (text, expected) in cases {
            assert_eq!(status(text), Err(expected.clone()), "{}", text.escape_ascii());
        }
        let many = format!("Uid:\t1\t1\nGid:\t1\t1\nGroups:\t{}\n", "7 ".repeat(MAX_GROUPS + 1));
        assert_eq!(status(many.as_bytes()), Err(ProcTextError::TooManyGroups { limit: MAX_GROUPS }));
    }

    #[test]
    fn own_process_is_understood() {
        let read = |name: &str| std::fs::read(format!("/proc/self/{name}")).unwrap();
        let found = status(&read("status")).unwrap();
        assert_eq!(found.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(found.gid, nix::unistd::getegid().as_raw());
        assert!(start_time(&read("stat")).unwrap() > 0);
    }

    proptest! {
        #[test]
        fn never_panics(data in proptest::collection::vec(any::<u8>(), 0..2048)) {
            crate::fuzzing::proc_text(&data);
        }

        #[test]
        fn any_name_is_passed_over(name in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(start_time(&stat(&name)), Ok(778_899));
        }
    }
}
