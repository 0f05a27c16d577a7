//! Who may give commands: the owner of this process and root, as the kernel names the peer of the socket.

use std::io;
use std::time::Duration;

use bonafide_verifier::serve::{Incoming, Origin, PrepareError, Prepared, Protocol};
use nix::unistd::{Uid, User};
use tokio::net::UnixStream;

use crate::audit::Who;
use crate::local_socket::LocalSocket;

/// The administrator at the other end of a connection. Only [`AdminIncoming`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Administrator {
    uid: u32,
    user: Option<String>,
}

impl Administrator {
    /// As the audit log names it.
    pub(crate) fn who(&self) -> Who {
        Who::Admin { uid: self.uid, user: self.user.clone() }
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self { uid: 0, user: Some("root".to_owned()) }
    }
}

/// Connections to the admin socket.
#[derive(Debug)]
pub(crate) struct AdminIncoming {
    socket: LocalSocket,
    owner: u32,
}

impl AdminIncoming {
    /// Takes commands on `socket` from root and from the user who runs this process.
    pub(crate) fn new(socket: LocalSocket) -> Self {
        Self { socket, owner: nix::unistd::geteuid().as_raw() }
    }
}

impl Incoming for AdminIncoming {
    type Raw = UnixStream;
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().await
    }

    fn origin(&self, raw: &UnixStream) -> Option<Origin> {
        raw.peer_cred().ok().map(|peer| Origin::User(peer.uid()))
    }

    async fn prepare(&self, raw: UnixStream) -> Result<Prepared<UnixStream>, PrepareError> {
        let peer = raw.peer_cred().map_err(|error| PrepareError::broken("no-peer", error))?;
        let uid = peer.uid();
        if !may_command(uid, self.owner) {
            let why = format!("uid {uid} is neither root nor the owner of this process (uid {})", self.owner);
            return Err(PrepareError::refused("not-administrator", why).from_remote(format_args!("uid {uid}")));
        }
        let administrator = Administrator { uid, user: user_name(uid).await };
        Ok(Prepared::new(raw).with(administrator).protocol(Some(Protocol::Http2)))
    }
}

/// The socket's mode says the same; this holds also for a socket that was passed on, or a directory that was opened up.
fn may_command(uid: u32, owner: u32) -> bool {
    uid == owner || uid == 0
}

/// The name of a user, if the system tells it in time: only the number counts.
async fn user_name(uid: u32) -> Option<String> {
    let looked_up = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid)));
    let user = tokio::time::timeout(NAME_TIMEOUT, looked_up).await.ok()?.ok()?.ok()??;
    Some(user.name.chars().take(64).collect())
}

const NAME_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_owner_alone() {
        for (uid, owner, expected) in
            [(0, 1000, true), (1000, 1000, true), (0, 0, true), (1000, 0, false), (999, 1000, false)]
        {
            assert_eq!(may_command(uid, owner), expected, "uid {uid}, owner {owner}");
        }
    }

    #[tokio::test]
    async fn the_kernel_names_the_administrator() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let incoming = AdminIncoming::new(LocalSocket::bind(&path).unwrap());
        let client = UnixStream::connect(&path).await.unwrap();
        let raw = incoming.accept().await.unwrap();
        let own = nix::unistd::geteuid().as_raw();
        assert_eq!(incoming.origin(&raw), Some(Origin::User(own)));
        assert!(incoming.prepare(raw).await.is_ok());
        // Somebody else's: only root may command it.
        let others = AdminIncoming { socket: incoming.socket, owner: own + 1 };
        let second = UnixStream::connect(&path).await.unwrap();
        let raw = others.accept().await.unwrap();
        let refused = others.prepare(raw).await.err().map(|error| error.code());
        assert_eq!(refused, (own != 0).then_some("not-administrator"));
        drop((client, second));
    }
}
