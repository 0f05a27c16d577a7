//! A Unix socket for the user that the program runs as.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

use super::{Incoming, Origin, PrepareError, Prepared};

/// Connections of the program's own user, and of root: for what is looked at on this machine alone, such as
/// [`EdgesReport`](crate::record::EdgesReport). Nobody else can open the socket, and who came by a descriptor of it is refused.
///
/// Requests carry nothing in their extensions. The socket's file is removed with this, unless another one has taken its place.
#[derive(Debug)]
pub struct UnixIncoming {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
    owner: u32,
}

impl UnixIncoming {
    /// Binds `path` with mode 0600, in the place of a socket that a killed process left behind.
    ///
    /// # Errors
    /// When something else is there, or the system refuses.
    pub fn bind(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        if let Ok(found) = fs::symlink_metadata(&path)
            && !found.file_type().is_socket()
        {
            let what = format!("`{}` is there and is not a socket; move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        // Under another name first: a socket is never there with other rights, and never before it listens.
        let aside = aside(&path);
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&aside)?;
        fs::set_permissions(&aside, Permissions::from_mode(0o600))?;
        let found = fs::symlink_metadata(&aside)?;
        fs::rename(&aside, &path)?;
        Ok(Self { listener, path, inode: (found.dev(), found.ino()), owner: found.uid() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

impl Incoming for UnixIncoming {
    type Raw = UnixStream;
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    fn origin(&self, stream: &UnixStream) -> Option<Origin> {
        stream.peer_cred().ok().map(|peer| Origin::User(peer.uid()))
    }

    async fn prepare(&self, stream: UnixStream) -> Result<Prepared<UnixStream>, PrepareError> {
        let peer = stream.peer_cred().map_err(|error| PrepareError::broken("no-peer", error))?;
        if peer.uid() != self.owner && peer.uid() != 0 {
            let who = format!("uid {}", peer.uid());
            return Err(
                PrepareError::refused("another-user", "this socket is for its own user and root").from_remote(who)
            );
        }
        Ok(Prepared::new(stream))
    }
}

impl Drop for UnixIncoming {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if found.is_ok_and(|inode| inode == self.inode) {
            // One that stays behind is replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_are_private_replace_dead_ones_and_leave_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.sock");
        let first = UnixIncoming::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let second = UnixIncoming::bind(&path).unwrap();
        drop(first);
        assert!(second.path().exists(), "the newer socket stays");
        let (_client, accepted) = tokio::join!(UnixStream::connect(&path), second.accept());
        assert!(second.prepare(accepted.unwrap()).await.is_ok());
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(UnixIncoming::bind(&path).unwrap_err().to_string().contains("is not a socket"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    /// The mode of the file keeps others out; who comes by a descriptor nevertheless is told apart by the kernel.
    #[tokio::test]
    async fn another_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut incoming = UnixIncoming::bind(folder.path().join("report.sock")).unwrap();
        let path = incoming.path().to_owned();
        let (_client, accepted) = tokio::join!(UnixStream::connect(&path), incoming.accept());
        let accepted = accepted.unwrap();
        let own = incoming.owner;
        incoming.owner = own + 1;
        let verdict = incoming.prepare(accepted).await.map(drop).map_err(|error| error.code());
        assert_eq!(verdict, if own == 0 { Ok(()) } else { Err("another-user") });
    }
}
