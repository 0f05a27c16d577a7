//! Unix sockets in the data directory: bound under another name with mode 0600, then renamed, so that a socket is
//! never there with other rights, and one that a killed process left behind is replaced.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// A listening socket. Its file is removed when this is dropped, unless another one has taken its place.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket.
#[derive(Clone, Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl LocalSocket {
    /// Binds `path`, replacing a socket that is there; anything else that is there is an error.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Ok(metadata) = fs::symlink_metadata(path)
            && !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
        {
            let what = format!("`{}` is there and is not a socket; move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        let aside = path.with_extension("new");
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&aside)?;
        fs::set_permissions(&aside, Permissions::from_mode(0o600))?;
        fs::rename(&aside, path)?;
        let file = SocketFile { path: path.to_owned(), inode: inode(path)? };
        Ok(Self { listener, file })
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Its file, to look at now and then.
    pub(crate) fn file(&self) -> SocketFile {
        self.file.clone()
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        if self.file.is_in_place() {
            // A socket that stays behind is replaced by the next start.
            let _ = fs::remove_file(&self.file.path);
        }
    }
}

impl SocketFile {
    /// Whether the socket can still be reached by its name.
    pub(crate) fn is_in_place(&self) -> bool {
        inode(&self.path).is_ok_and(|inode| inode == self.inode)
    }

    /// Its name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_are_private_replace_dead_ones_and_leave_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let first = LocalSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let second = LocalSocket::bind(&path).unwrap();
        assert!(!first.file().is_in_place() && second.file().is_in_place());
        drop(first);
        assert!(path.exists(), "the newer socket stays");
        UnixStream::connect(&path).await.unwrap();
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(LocalSocket::bind(&path).unwrap_err().to_string().contains("is not a socket"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
