//! Is a directory memory that never reaches a disk? Only then are keys put there.

use std::{
    io::BufRead,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use procfs::process::MountInfos;

/// Why the state that survives a restart is not kept. The texts stand in `status`, `doctor` and the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    #[error("`{path}` is not on tmpfs or ramfs; give `--runtime-dir` a directory that is, for example below /run")]
    OnDisk { path: PathBuf },
    #[error(
        "swap is on, and `{path}` could be swapped to a disk; turn swap off, or mount a tmpfs there with the option `noswap`"
    )]
    Swappable { path: PathBuf },
    #[error("whether swap is on cannot be told: {reason}")]
    SwapUnknown { reason: String },
    #[error(transparent)]
    Directory(#[from] crate::state_file::StateError),
    #[error("cannot look at the file system of `{path}`: {source}")]
    Look {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the boot id cannot be read: {reason}")]
    BootId { reason: String },
}

/// The nearest directory on the way up that is there already: what a missing directory would be created in.
pub(crate) fn nearest_existing(path: &Path) -> PathBuf {
    path.ancestors().find(|ancestor| ancestor.is_dir()).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Checks an open directory: memory-backed, and either never swapped or no swap is on.
pub(crate) fn check(path: &Path, fd: BorrowedFd<'_>) -> Result<(), NotKept> {
    let look = |errno: rustix::io::Errno| NotKept::Look { path: path.into(), source: errno.into() };
    let swap = || -> Result<bool, NotKept> {
        let swaps = std::fs::File::open("/proc/swaps")
            .and_then(|file| std::io::BufReader::new(file).lines().collect::<Result<Vec<_>, _>>());
        match swaps {
            Ok(lines) => Ok(swap_is_on(&lines)),
            // A kernel built without swap has no such file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && Path::new("/proc/self").exists() => Ok(false),
            Err(error) => Err(NotKept::SwapUnknown { reason: format!("cannot read /proc/swaps: {error}") }),
        }
    };
    decide(path, memory_backed(fd).map_err(look)?, swap, || mounted_noswap(fd))
}

fn decide(
    path: &Path,
    backing: Backing,
    swap_is_on: impl FnOnce() -> Result<bool, NotKept>,
    noswap: impl FnOnce() -> bool,
) -> Result<(), NotKept> {
    match backing {
        Backing::Ramfs => Ok(()),
        Backing::Other => Err(NotKept::OnDisk { path: path.into() }),
        Backing::Tmpfs if noswap() || !swap_is_on()? => Ok(()),
        Backing::Tmpfs => Err(NotKept::Swappable { path: path.into() }),
    }
}

/// What a file system keeps its content in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Backing {
    Tmpfs,
    Ramfs,
    Other,
}

pub(crate) fn memory_backed(fd: BorrowedFd<'_>) -> Result<Backing, rustix::io::Errno> {
    let kind = rustix::fs::fstatfs(fd)?.f_type;
    // The field's type differs between architectures; the magic numbers fit into all of them.
    Ok(match u64::try_from(kind).unwrap_or(0) & 0xffff_ffff {
        TMPFS_MAGIC => Backing::Tmpfs,
        RAMFS_MAGIC => Backing::Ramfs,
        _ => Backing::Other,
    })
}

/// `/proc/swaps`: a heading, and a line for each area in use. zram counts: it may be backed by a disk.
fn swap_is_on(lines: &[String]) -> bool {
    lines.iter().skip(1).any(|line| !line.trim().is_empty())
}

/// Was the tmpfs mounted with `noswap` (Linux 6.4)?
fn mounted_noswap(fd: BorrowedFd<'_>) -> bool {
    use rustix::fs::{AtFlags, StatxFlags};
    let Ok(statx) = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) else { return false };
    let Ok(mounts) = procfs::process::Process::myself().and_then(|process| process.mountinfo()) else { return false };
    has_noswap(&mounts, statx.stx_mnt_id)
}

fn has_noswap(mounts: &MountInfos, id: u64) -> bool {
    mounts
        .iter()
        .find(|mount| u64::try_from(mount.mnt_id).is_ok_and(|known| known == id))
        .is_some_and(|mount| mount.super_options.contains_key("noswap"))
}

/// This boot of this machine (and container, where it has one of its own).
pub(crate) fn boot_id() -> Result<String, NotKept> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| NotKept::BootId { reason: error.to_string() })?;
    let id = text.trim();
    if id.is_empty() || id.len() > 64 {
        return Err(NotKept::BootId { reason: "it is empty or too long".into() });
    }
    Ok(id.to_owned())
}

const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn swap_is_read_from_proc_swaps() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority".to_owned();
        let lines = |more: &[&str]| {
            let mut lines = vec![heading.clone()];
            lines.extend(more.iter().map(|line| (*line).to_owned()));
            lines
        };
        assert!(!swap_is_on(&lines(&[])));
        assert!(swap_is_on(&lines(&["/dev/dm-1  partition\t8388604\t0\t-2"])));
        assert!(swap_is_on(&lines(&["/dev/zram0  partition\t8388604\t0\t100"])));
        assert!(!swap_is_on(&[]));
    }

    #[test]
    fn keys_lie_only_where_no_disk_gets_them() {
        let cases = [
            (Backing::Ramfs, true, false, "kept"),
            (Backing::Tmpfs, false, false, "kept"),
            (Backing::Tmpfs, true, true, "kept"),
            (
                Backing::Tmpfs,
                true,
                false,
                "swap is on, and `/x` could be swapped to a disk; turn swap off, or mount a tmpfs there with the option `noswap`",
            ),
            (
                Backing::Other,
                false,
                true,
                "`/x` is not on tmpfs or ramfs; give `--runtime-dir` a directory that is, for example below /run",
            ),
        ];
        for (backing, swap, noswap, expected) in cases {
            let decided = decide(Path::new("/x"), backing, || Ok(swap), || noswap);
            let said = decided.map_or_else(|why| why.to_string(), |()| "kept".to_owned());
            assert_eq!(said, expected, "{backing:?} swap={swap} noswap={noswap}");
        }
    }

    #[test]
    fn the_option_noswap_is_seen_on_its_mount_alone() {
        use procfs::FromBufRead;
        let text = "84 65 0:39 / /run rw,relatime shared:5 - tmpfs none rw,size=1024k\n\
                    85 65 0:40 / /run/bonafide-state rw,relatime - tmpfs none rw,size=1024k,noswap\n";
        let mounts = MountInfos::from_buf_read(text.as_bytes()).unwrap();
        assert!(has_noswap(&mounts, 85) && !has_noswap(&mounts, 84) && !has_noswap(&mounts, 86));
        let here = std::fs::File::open("/dev/shm").unwrap();
        assert!(!mounted_noswap(here.as_fd()), "no system mounts /dev/shm so");
    }

    #[test]
    fn only_memory_is_memory() {
        let shm = std::fs::File::open("/dev/shm").expect("every Linux has /dev/shm");
        assert_eq!(memory_backed(shm.as_fd()).unwrap(), Backing::Tmpfs);
        let proc = std::fs::File::open("/proc").unwrap();
        assert_eq!(memory_backed(proc.as_fd()).unwrap(), Backing::Other);
        assert!(matches!(check(Path::new("/proc"), proc.as_fd()), Err(NotKept::OnDisk { .. })));
    }
}
