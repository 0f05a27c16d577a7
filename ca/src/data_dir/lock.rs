//! One process at a time.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    libc,
};

use super::DataDirError;

/// Held for as long as the value lives; the kernel lets go of it when the process ends in any way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the directory, or says who has it.
    pub(super) fn take(directory: &Path) -> Result<Self, DataDirError> {
        let path = directory.join(FILE);
        let failed = |source| DataDirError::Io { what: "lock", path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(failed)?;
                file.rewind().map_err(failed)?;
                writeln!(&mut *file, "{}", std::process::id()).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let read = (&mut file).take(32).read_to_string(&mut text);
                let holder = match text.trim().parse::<u32>() {
                    Ok(pid) if read.is_ok() => format!("process {pid}"),
                    _ => "another process".to_owned(),
                };
                Err(DataDirError::InUse { path: directory.to_owned(), holder })
            }
            Err((_, error)) => Err(failed(error.into())),
        }
    }
}

/// The lock's name in the directory.
pub(super) const FILE: &str = "lock";
