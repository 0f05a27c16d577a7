//! The process at the other end of a connection, held so that it cannot be taken for another one.
//!
//! The kernel notes who calls `connect` and keeps it: user, group and PID (SO_PEERCRED), and since Linux 6.5 the
//! process itself (SO_PEERPIDFD). A PID alone may be given to a new process at any time. So a [`Peer`] holds a pidfd
//! and an open directory `/proc/PID`, which stays that of one process: once the process has ended, every read
//! through it fails, whoever has the PID then (W-04).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use bonafide_ca_api::Reason;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, openat},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::proc_text::{self, MAX_GROUPS, ProcTextError, Status};

/// How a connection is tied to the process that made it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Binding {
    /// The kernel names the process that called `connect` (SO_PEERPIDFD, Linux 6.5 and later).
    PeerPidfd,
    /// A pidfd opened by PID when the connection is accepted, and start times compared. Racy: if the process that
    /// connected has ended before the agent accepted, and its PID went to a process of the same user and group
    /// meanwhile, then that one's executable is attested. Only by an explicit `--attest-by-pid`.
    ByPid,
    /// Nothing but the user and group at `connect`: what an older kernel vouches for.
    UserOnly,
}

/// User, group and PID as the kernel noted them at `connect`, translated into the agent's namespaces (W-06).
/// The user is the *effective* user: a setuid-root program connects as root, whoever started it (W-09).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: i32,
}

/// Who connected.
#[derive(Debug)]
pub(crate) struct Peer {
    credentials: Credentials,
    process: Option<Arc<Process>>,
}

/// A process, held by pidfd and by its directory under `/proc`.
#[derive(Debug)]
pub(crate) struct Process {
    pidfd: AsyncFd<OwnedFd>,
    directory: OwnedFd,
}

/// Why a process cannot be attested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// W-07: it lives in a PID namespace that the agent does not see.
    #[error(
        "the process that connected is in a PID namespace the agent cannot see; run the agent in the host's namespace"
    )]
    InvisiblePid,
    /// W-03, W-04: it is gone, and whoever talks now is someone else.
    #[error("the process that connected (pid {pid}) has ended")]
    Ended { pid: i32 },
    /// W-02.
    #[error(
        "the process connected as uid {connected_uid}, gid {connected_gid} and now runs as uid {uid}, gid {gid}; \
         connect after the change of user"
    )]
    ChangedUser { connected_uid: u32, connected_gid: u32, uid: u32, gid: u32 },
    /// F-20: `hidepid`, or `/proc` is not there.
    #[error("cannot read `/proc/{pid}/{file}`; is `/proc` mounted with hidepid?")]
    Unreadable {
        pid: i32,
        file: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot understand `/proc/{pid}/{file}`")]
    Text {
        pid: i32,
        file: &'static str,
        #[source]
        source: ProcTextError,
    },
    #[error("cannot ask the kernel who connected")]
    Kernel(#[source] io::Error),
    /// F-19: that says nothing about the process.
    #[error("the agent has no file descriptors or memory left to look at the process (pid {pid}): {error}; ask again")]
    Exhausted { pid: i32, error: String },
}

/// Whether the agent or its host has run out of something. Whoever asks again may be told.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}

impl PeerError {
    /// The reason code, for logs and the wire.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            PeerError::InvisiblePid => Reason::ProcessInvisible,
            PeerError::Ended { .. } => Reason::ProcessEnded,
            PeerError::ChangedUser { .. } => Reason::UserChanged,
            PeerError::Unreadable { .. } | PeerError::Text { .. } | PeerError::Kernel(_) => Reason::ProcessUnreadable,
            PeerError::Exhausted { .. } => Reason::AgentExhausted,
        }
    }

    fn kernel(error: io::Error, pid: i32) -> PeerError {
        if is_exhaustion(&error) {
            return PeerError::Exhausted { pid, error: error.to_string() };
        }
        PeerError::Kernel(error)
    }
}

impl Binding {
    /// What this kernel offers; `by_pid` allows the racy way where it offers no better one.
    pub(crate) fn detect(by_pid: bool) -> io::Result<Binding> {
        let (one, _other) = std::os::unix::net::UnixStream::pair()?;
        match getsockopt(&one, sockopt::PeerPidfd) {
            Ok(_) => Ok(Binding::PeerPidfd),
            Err(_) if by_pid => Ok(Binding::ByPid),
            Err(_) => Ok(Binding::UserOnly),
        }
    }
}

impl Peer {
    /// Asks the kernel who made this connection, and takes hold of the process.
    pub(crate) fn of(socket: &impl AsFd, binding: Binding) -> Result<Peer, PeerError> {
        let noted = getsockopt(socket, sockopt::PeerCredentials).map_err(|error| PeerError::Kernel(error.into()))?;
        let credentials = Credentials { uid: noted.uid(), gid: noted.gid(), pid: noted.pid() };
        if credentials.pid <= 0 {
            return Err(PeerError::InvisiblePid);
        }
        let process = match binding {
            Binding::PeerPidfd => {
                let pidfd = getsockopt(socket, sockopt::PeerPidfd).map_err(|error| match error {
                    // The process was reaped before the kernel made a pidfd for it (before Linux 6.16).
                    nix::errno::Errno::ESRCH | nix::errno::Errno::EINVAL | nix::errno::Errno::ENODATA => {
                        PeerError::Ended { pid: credentials.pid }
                    }
                    error => PeerError::kernel(error.into(), credentials.pid),
                })?;
                Some(Process::hold(pidfd, credentials.pid)?)
            }
            Binding::ByPid => Some(Process::hold_by_pid(credentials)?),
            Binding::UserOnly => None,
        };
        Ok(Peer { credentials, process: process.map(Arc::new) })
    }

    /// A process named by root or the agent's user for `whoami --pid`.
    pub(crate) fn named(pid: i32) -> Result<Peer, PeerError> {
        let process = Process::open(pid)?;
        let status = process.status(pid)?;
        let credentials = Credentials { uid: status.uid, gid: status.gid, pid };
        Ok(Peer { credentials, process: Some(Arc::new(process)) })
    }

    pub(crate) fn credentials(&self) -> Credentials {
        self.credentials
    }

    /// `None` where the kernel vouches for the user alone.
    pub(crate) fn process(&self) -> Option<&Arc<Process>> {
        self.process.as_ref()
    }

    /// The process as it is now, if it is alive and still has the user and group it connected with (W-02).
    pub(crate) fn status(&self, process: &Process) -> Result<Status, PeerError> {
        let Credentials { uid: connected_uid, gid: connected_gid, pid } = self.credentials;
        let status = process.status(pid)?;
        if (status.uid, status.gid) != (connected_uid, connected_gid) {
            return Err(PeerError::ChangedUser { connected_uid, connected_gid, uid: status.uid, gid: status.gid });
        }
        Ok(status)
    }

    /// Whether the process that connected is alive; nothing is known of it where only the user is.
    pub(crate) fn check_alive(&self) -> Result<(), PeerError> {
        match &self.process {
            Some(process) => process.check_alive(self.credentials.pid),
            None => Ok(()),
        }
    }

    /// Completes when the process that connected has ended. May be dropped and called again.
    pub(crate) async fn ended(&self) {
        match &self.process {
            // An error of the poller says no more about the process: taken as its end.
            Some(process) => drop(process.pidfd.readable().await),
            None => std::future::pending().await,
        }
    }
}

impl Process {
    /// The directory is opened between the pidfd and a look at it: while the process of the pidfd lives, its PID
    /// names no other one, so the directory is its own.
    fn hold(pidfd: OwnedFd, pid: i32) -> Result<Process, PeerError> {
        let opened = open_directory(pid);
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types whose descriptor may change; an `OwnedFd`'s does not"
        )]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE).map_err(|error| PeerError::kernel(error, pid))?;
        check_alive(&pidfd, pid)?;
        let directory = opened.map_err(|error| match error {
            // It lives, and is hidden from us (hidepid=2).
            PeerError::Ended { pid } => {
                PeerError::Unreadable { pid, file: "status", source: io::ErrorKind::NotFound.into() }
            }
            error => error,
        })?;
        Ok(Process { pidfd, directory })
    }

    fn open(pid: i32) -> Result<Process, PeerError> {
        let gone = || PeerError::Ended { pid };
        let number = rustix::process::Pid::from_raw(pid).ok_or_else(gone)?;
        let pidfd =
            rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty()).map_err(|error| match error {
                rustix::io::Errno::SRCH | rustix::io::Errno::INVAL => gone(),
                error => PeerError::kernel(error.into(), pid),
            })?;
        Process::hold(pidfd, pid)
    }

    /// See [`Binding::ByPid`] for what this cannot rule out.
    fn hold_by_pid(credentials: Credentials) -> Result<Process, PeerError> {
        let Credentials { uid: connected_uid, gid: connected_gid, pid } = credentials;
        let before = start_time(&open_directory(pid)?, pid)?;
        let process = Process::open(pid)?;
        let after = start_time(&process.directory, pid)?;
        let status = process.status(pid)?;
        if before != after {
            return Err(PeerError::Ended { pid });
        }
        if (status.uid, status.gid) != (connected_uid, connected_gid) {
            return Err(PeerError::ChangedUser { connected_uid, connected_gid, uid: status.uid, gid: status.gid });
        }
        Ok(process)
    }

    /// `/proc/PID` of this process and no other.
    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    fn status(&self, pid: i32) -> Result<Status, PeerError> {
        let text = read(&self.directory, pid, "status").map_err(|error| match error {
            // It lives, and is hidden from us (hidepid=2): the kernel then says that there is no such file.
            PeerError::Ended { pid } if self.check_alive(pid).is_ok() => {
                PeerError::Unreadable { pid, file: "status", source: io::ErrorKind::NotFound.into() }
            }
            error => error,
        })?;
        proc_text::status(&text).map_err(|source| PeerError::Text { pid, file: "status", source })
    }

    fn check_alive(&self, pid: i32) -> Result<(), PeerError> {
        check_alive(&self.pidfd, pid)
    }
}

fn check_alive(pidfd: &AsyncFd<OwnedFd>, pid: i32) -> Result<(), PeerError> {
    // A pidfd is readable from the end of the process on. Asked of the kernel, not of the runtime's notes.
    let mut look = [PollFd::new(pidfd.get_ref(), PollFlags::IN)];
    match poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(0) => Ok(()),
        Ok(_) => Err(PeerError::Ended { pid }),
        Err(error) => Err(PeerError::kernel(error.into(), pid)),
    }
}

fn open_directory(pid: i32) -> Result<OwnedFd, PeerError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).map_err(|error| failure(error, pid, ""))
}

fn start_time(directory: &OwnedFd, pid: i32) -> Result<u64, PeerError> {
    let text = read(directory, pid, "stat")?;
    proc_text::start_time(&text).map_err(|source| PeerError::Text { pid, file: "stat", source })
}

/// Reads one of the kernel's own files of a process. These never block on anything outside the kernel.
fn read(directory: &OwnedFd, pid: i32, file: &'static str) -> Result<Vec<u8>, PeerError> {
    let failed = |error| failure(error, pid, file);
    let opened = openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let mut text = Vec::with_capacity(USUAL_LENGTH);
    loop {
        if text.spare_capacity_mut().is_empty() {
            if text.len() >= MAX_LENGTH {
                let source = ProcTextError::TooManyGroups { limit: MAX_GROUPS };
                return Err(PeerError::Text { pid, file, source });
            }
            text.reserve(text.len());
        }
        if rustix::io::read(&opened, rustix::buffer::spare_capacity(&mut text)).map_err(failed)? == 0 {
            return Ok(text);
        }
    }
}

fn failure(error: rustix::io::Errno, pid: i32, file: &'static str) -> PeerError {
    match error {
        // The directory is not there (any more), or its process has ended.
        rustix::io::Errno::NOENT | rustix::io::Errno::SRCH => PeerError::Ended { pid },
        error => {
            let source = io::Error::from(error);
            if is_exhaustion(&source) {
                return PeerError::Exhausted { pid, error: source.to_string() };
            }
            PeerError::Unreadable { pid, file, source }
        }
    }
}

/// `status` is about 1.5 KiB, and each group takes at most 11 bytes.
const USUAL_LENGTH: usize = 4096;
const MAX_LENGTH: usize = 16 * 1024 + 11 * MAX_GROUPS;

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    /// F-19: a workload is not told that it may have nothing because the agent cannot look.
    #[test]
    fn f_19_running_out_is_the_agents_fault_and_passes() {
        let cases = [
            (Errno::MFILE, Reason::AgentExhausted),
            (Errno::NFILE, Reason::AgentExhausted),
            (Errno::NOMEM, Reason::AgentExhausted),
            (Errno::ACCESS, Reason::ProcessUnreadable),
            (Errno::SRCH, Reason::ProcessEnded),
            (Errno::NOENT, Reason::ProcessEnded),
        ];
        for (errno, reason) in cases {
            assert_eq!(failure(errno, 7, "status").reason(), reason, "{errno}");
        }
        assert_eq!(PeerError::kernel(Errno::MFILE.into(), 7).reason(), Reason::AgentExhausted);
        assert_eq!(PeerError::kernel(Errno::INVAL.into(), 7).reason(), Reason::ProcessUnreadable);
    }
}
