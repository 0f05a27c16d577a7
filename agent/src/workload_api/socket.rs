//! The Unix socket: where it lies, and what each connection on it is bound to.

use std::{
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bonafide_ca_api::{Reason, SelectorKind};
use bonafide_verifier::{
    clock::Clock,
    lifetime::{EndReason, Lifetime},
    serve::{Incoming, Origin, PrepareError, Prepared, Protocol},
};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::{
    admission::{Admission, ConnectionSlot},
    authority::PlainAuthority,
    caller::Recent,
};
use crate::{
    attest::{Attestor, Binding, NameOf, Peer, PeerError},
    view::{View, ViewStore},
};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error(
        "the socket path `{path}` is {length} bytes long, a Unix socket's may have at most {limit}; choose a shorter `--socket`"
    )]
    TooLong { path: PathBuf, length: usize, limit: usize },
    #[error("the socket path `{path}` must be absolute")]
    Relative { path: PathBuf },
    #[error("another agent answers at `{path}`; stop it, or choose another `--socket`")]
    InUse { path: PathBuf },
    #[error("`{path}` is there and is not a socket; nothing was changed")]
    NotASocket { path: PathBuf },
    #[error(
        "the directory `{directory}` of the socket can be written by others, who could put their own socket there; close it with `chmod go-w`"
    )]
    OpenDirectory { directory: PathBuf },
    #[error(
        "the directory `{directory}` of the socket belongs to uid {owner}, who could put another socket there; choose one of root's or the agent's own"
    )]
    ForeignDirectory { directory: PathBuf, owner: u32 },
    #[error("cannot {doing} `{path}`")]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A bound socket. It is removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl Socket {
    /// Binds under a name aside, opens it to everybody, and renames: nobody ever meets a socket that is not ready. The
    /// directory is created with 0755 if it is not there.
    pub(crate) fn bind(path: &Path) -> Result<Socket, BindError> {
        if !path.is_absolute() {
            return Err(BindError::Relative { path: path.to_owned() });
        }
        let aside = aside(path);
        let length = path.as_os_str().len();
        let limit = MAX_PATH - (aside.as_os_str().len() - length);
        if length > limit {
            return Err(BindError::TooLong { path: path.to_owned(), length, limit });
        }
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| BindError::Io { doing, path, source }
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        create_open_directory(directory).map_err(io("create the directory", directory))?;
        check_directory(directory)?;
        check_free(path)?;
        match std::fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io("remove the remains of an earlier start at", &aside)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&aside).map_err(io("bind the socket", &aside))?;
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&aside, open).map_err(io("open to everybody", &aside))?;
        let there = std::fs::symlink_metadata(&aside).map_err(io("look at", &aside))?;
        std::fs::rename(&aside, path).map_err(io("put the socket in its place at", path))?;
        Ok(Socket { listener, path: path.to_owned(), inode: (there.dev(), there.ino()) })
    }

    /// Whether the path still leads to this socket (F-20): someone may have removed it, or put another there.
    pub(crate) fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.inode)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_in_place() {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Every workload must get through, whatever this process's umask: each directory that is not there is made with 0755.
fn create_open_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        create_open_directory(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)),
        // Somebody else made it meanwhile; what it is is looked at next.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whoever can write the directory can put a socket of his own where workloads look. A sticky directory such as `/tmp` lets
/// others create entries, not replace ours. Where each user has a group of his own, directories are writable by it by default
/// (umask 002, as on Ubuntu): that is nobody else.
fn check_directory(directory: &Path) -> Result<(), BindError> {
    let there = std::fs::metadata(directory).map_err(|source| BindError::Io {
        doing: "look at",
        path: directory.to_owned(),
        source,
    })?;
    const STICKY: u32 = 0o1000;
    let written_by_others = there.mode() & 0o002 != 0 || there.mode() & 0o020 != 0 && !is_own_group(there.gid());
    if written_by_others && there.mode() & STICKY == 0 {
        return Err(BindError::OpenDirectory { directory: directory.to_owned() });
    }
    let owner = there.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(BindError::ForeignDirectory { directory: directory.to_owned(), owner });
    }
    Ok(())
}

/// Whether this process's user alone is in the group, which has his name.
fn is_own_group(gid: u32) -> bool {
    use nix::unistd::{Gid, Group, User, geteuid};
    let (Ok(Some(user)), Ok(Some(group))) = (User::from_uid(geteuid()), Group::from_gid(Gid::from_raw(gid))) else {
        return false;
    };
    user.gid == group.gid && user.name == group.name && group.mem.iter().all(|member| *member == user.name)
}

/// A socket on which nobody answers is what an agent that was killed left behind.
fn check_free(path: &Path) -> Result<(), BindError> {
    let io = |source| BindError::Io { doing: "look at", path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(there) if !there.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        // A full backlog, say: something is there.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse { path: path.to_owned() }),
        Err(error) => Err(io(error)),
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(ASIDE);
    aside.into()
}

/// `sockaddr_un` has 108 bytes, one of them the end.
const MAX_PATH: usize = 107;
const ASIDE: &str = ".new";

/// One connection: who made it, and its place in the counts. Every request on it holds one.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(super) recent: Recent,
    _slot: ConnectionSlot,
}

/// Accepts workloads.
#[derive(Debug)]
pub(crate) struct Workloads {
    pub(crate) socket: Arc<Socket>,
    pub(crate) binding: Binding,
    pub(crate) admission: Admission,
    pub(crate) attestor: Arc<Attestor>,
    pub(crate) views: ViewStore,
    pub(crate) clock: Arc<dyn Clock>,
    /// When a refusal was last logged as one, on the boot clock: who floods the socket shall not flood the log.
    pub(crate) logged: Mutex<Option<Duration>>,
}

impl Incoming for Workloads {
    type Raw = UnixStream;
    type Io = PlainAuthority;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.socket.listener.accept().await?.0)
    }

    fn origin(&self, stream: &UnixStream) -> Option<Origin> {
        Some(Origin::User(stream.peer_cred().ok()?.uid()))
    }

    async fn prepare(&self, stream: UnixStream) -> Result<Prepared<PlainAuthority>, PrepareError> {
        let peer = Peer::of(&stream.as_fd(), self.binding).map_err(|error| match error {
            // Who connects and leaves at once is no news.
            PeerError::Ended { .. } => PrepareError::broken(error.reason().code(), error),
            error => self.refused(error.reason(), error),
        })?;
        let who = peer.credentials();
        let remote = format!("pid {}, uid {}", who.pid, who.uid);
        let stranger = self.is_stranger(who.uid).await;
        let slot = self
            .admission
            .connection(who, stranger, self.clock.boot())
            .map_err(|full| self.refused(Reason::TooManyCalls, full).from_remote(remote))?;
        let connection = Arc::new(Connection { peer, recent: Recent::default(), _slot: slot });
        let bound = connection.clone();
        let lifetime = Lifetime::ends_with(async move {
            bound.peer.ended().await;
            EndReason::Other("process-ended")
        });
        Ok(Prepared::new(PlainAuthority::new(stream))
            .with(connection)
            .lifetime(lifetime)
            .protocol(Some(Protocol::Http2)))
    }
}

impl Workloads {
    /// The first refusal in a while is a warning, the others are not.
    fn refused(&self, reason: Reason, error: impl std::error::Error + Send + Sync + 'static) -> PrepareError {
        let now = self.clock.boot();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_some_and(|at| now < at + LOG_PAUSE) {
            return PrepareError::broken(reason.code(), error);
        }
        *logged = Some(now);
        PrepareError::refused(reason.code(), error)
    }

    /// Whether no service names this user. Root and the agent's own user are never strangers: they run the commands that
    /// tell what is wrong. Neither is anybody before the first state has come.
    async fn is_stranger(&self, uid: u32) -> bool {
        let view = self.views.snapshot();
        if uid == 0 || uid == rustix::process::geteuid().as_raw() || view.position().is_none() {
            return false;
        }
        let number = uid.to_string();
        if names_user(&view, SelectorKind::UnixUid, &number) {
            return false;
        }
        let by_name = view.services().iter().flat_map(|service| &service.selectors);
        if !by_name.into_iter().any(|selector| selector.kind() == SelectorKind::UnixUser) {
            return true;
        }
        match self.attestor.name_of(NameOf::User(uid)).await {
            Some(name) => !names_user(&view, SelectorKind::UnixUser, &name),
            None => true,
        }
    }
}

fn names_user(view: &View, kind: SelectorKind, value: &str) -> bool {
    let mut selectors = view.services().iter().flat_map(|service| &service.selectors);
    selectors.any(|selector| selector.kind() == kind && selector.value() == value)
}

/// Each connection takes up to three files (socket, pidfd, directory). Raises the soft limit as far as it goes, and says how many
/// connections fit.
pub(crate) fn connections_that_fit(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let files = now.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let fit = (files.saturating_sub(FILES_FOR_ELSE) / 3).max(16);
    if fit < wanted {
        warn!(files, connections = fit, "the limit of open files is low; fewer workloads can connect (LimitNOFILE=)");
    }
    fit.min(wanted)
}

const FILES_FOR_ELSE: usize = 256;
const LOG_PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        crate::testing::open_directory()
    }

    #[tokio::test]
    async fn the_socket_is_open_to_all_and_its_directory_is_not() {
        let directory = directory();
        let path = directory.path().join("run/s");
        let socket = Socket::bind(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&path), 0o666);
        assert_eq!(mode(path.parent().unwrap()) & 0o022, 0);
        assert!(socket.is_in_place());
        assert!(matches!(Socket::bind(&path), Err(BindError::InUse { .. })), "another agent lives");
        assert!(socket.is_in_place(), "and was left alone");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_killed_agent_left_is_replaced_and_nothing_else() {
        let directory = directory();
        let path = directory.path().join("s");
        // A listener whose file outlives it, as after `kill -9`.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(std::os::unix::net::UnixListener::bind(aside(&path)).unwrap());
        let socket = Socket::bind(&path).unwrap();
        let second = directory.path().join("file");
        std::fs::write(&second, "precious").unwrap();
        assert!(matches!(Socket::bind(&second), Err(BindError::NotASocket { .. })));
        assert_eq!(std::fs::read(&second).unwrap(), b"precious");
        // F-20: removed while it is served, and replaced by someone.
        std::fs::remove_file(&path).unwrap();
        assert!(!socket.is_in_place());
        std::fs::write(&path, "another's").unwrap();
        drop(socket);
        assert_eq!(std::fs::read(&path).unwrap(), b"another's");
    }

    #[tokio::test]
    async fn paths_that_cannot_be() {
        let directory = directory();
        let fits = |length: usize| {
            let base = directory.path().as_os_str().len() + 1;
            directory.path().join("x".repeat(length - base))
        };
        let limit = MAX_PATH - ASIDE.len();
        assert!(Socket::bind(&fits(limit)).is_ok());
        let error = Socket::bind(&fits(limit + 1)).unwrap_err();
        assert!(matches!(error, BindError::TooLong { length, limit: l, .. } if length == limit + 1 && l == limit));
        assert!(matches!(Socket::bind(Path::new("s")), Err(BindError::Relative { .. })));
        let open = directory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        crate::testing::set_mode(&open, 0o777);
        assert!(matches!(Socket::bind(&open.join("s")), Err(BindError::OpenDirectory { .. })));
        // The own group's is ours, any other one's is not.
        crate::testing::set_mode(&open, 0o775);
        let own = std::fs::metadata(&open).unwrap().gid();
        assert_eq!(Socket::bind(&open.join("s")).is_ok(), is_own_group(own));
        if rustix::process::geteuid().is_root() {
            assert!(is_own_group(0), "root's");
            std::os::unix::fs::chown(&open, None, Some(crate::testing::OTHER_UID)).unwrap();
            assert!(matches!(Socket::bind(&open.join("s")), Err(BindError::OpenDirectory { .. })));
            std::os::unix::fs::chown(&open, None, Some(own)).unwrap();
        }
        crate::testing::set_mode(&open, 0o1777);
        assert!(Socket::bind(&open.join("s")).is_ok(), "sticky, like /tmp");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&open, Some(crate::testing::OTHER_UID), None).unwrap();
            let error = Socket::bind(&open.join("t")).unwrap_err();
            assert!(matches!(error, BindError::ForeignDirectory { owner: crate::testing::OTHER_UID, .. }), "{error}");
        }
    }
}
