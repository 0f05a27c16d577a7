//! Connections that carry neither HTTP nor gRPC: who is at the other end, and whether they may be there.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use super::{Attempt, Authorization, Granted, Refused};
use crate::{
    authenticate::{NoHeaders, Presented},
    caller::Caller,
    policy::{CanonicalPath, Facts, Operation},
    record::RecordedOperation,
    x509::VerifiedPeer,
};

/// The action that a rule names for a connection as a whole: `app = ["connect /orders"]`.
pub const CONNECT: &str = "connect";

/// A connection's permission. It lasts as long as the connection: whoever has that follows [`ConnectionGrant::ended`].
#[derive(Clone)]
pub struct ConnectionGrant {
    authorization: Authorization,
    granted: Granted,
    /// What stands behind `connect` in the rule that is asked.
    resource: Arc<str>,
}

impl Authorization {
    /// Decides on a connection as a whole, from who is at its other end; and records that. `resource` is the server's own name for what it
    /// offers, as rules name it: `/orders` for `app = ["connect /orders"]`.
    ///
    /// ```no_run
    /// use bonafide_verifier::{authorization::Authorization, policy::CanonicalPath, tls::{AcceptError, Acceptor, Peer}};
    /// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
    ///
    /// /// An echo over mutual TLS, for callers of whom the policy says `app = ["connect /echo"]`.
    /// async fn run(listener: TcpListener, acceptor: Acceptor, authorization: Authorization) -> std::io::Result<()> {
    ///     loop {
    ///         let (socket, _) = listener.accept().await?;
    ///         // The handshake is in the connection's own task: a client that stalls holds up nobody.
    ///         tokio::spawn(connection(socket, acceptor.clone(), authorization.clone()));
    ///     }
    /// }
    ///
    /// async fn connection(socket: TcpStream, acceptor: Acceptor, authorization: Authorization) -> Result<(), AcceptError> {
    ///     let address = socket.peer_addr().ok().map(|address| address.ip());
    ///     let mut stream = acceptor.accept(socket).await?;
    ///     let Peer::Svid(peer) = stream.peer().clone() else { return Ok(()) };
    ///     let Ok(echo) = CanonicalPath::parse("/echo") else { return Ok(()) };
    ///     // Refused, and recorded: closing is all that can be said in a protocol of one's own.
    ///     let Ok(grant) = authorization.authorize_connection(&peer, address, echo) else { return Ok(()) };
    ///     let (closing, mut buffer) = (stream.closing(), [0; 1024]);
    ///     let (mut closing, mut ended) = (std::pin::pin!(closing), std::pin::pin!(grant.ended()));
    ///     loop {
    ///         tokio::select! {
    ///             // A credential is about to end, or the policy has changed its mind.
    ///             _ = &mut closing => return Ok(()),
    ///             () = &mut ended => return Ok(()),
    ///             read = stream.read(&mut buffer) => match read {
    ///                 Ok(count) if count > 0 => drop(stream.write_all(&buffer[..count]).await),
    ///                 _ => return Ok(()),
    ///             },
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// When the peer may not be there; then the connection is to be closed.
    pub fn authorize_connection(
        &self,
        peer: &VerifiedPeer,
        address: Option<IpAddr>,
        resource: CanonicalPath<'_>,
    ) -> Result<ConnectionGrant, Refused> {
        let at = self.clock().now();
        let attempt = Attempt {
            presented: Presented { connection: Some(peer), session: None, headers: &NoHeaders, address, at },
            operation: Operation::App { action: CONNECT, resource },
            recorded: RecordedOperation::Connection,
            trace: None,
        };
        let granted = self.authorize(&attempt)?;
        let grant = ConnectionGrant { authorization: self.clone(), granted, resource: Arc::from(resource.as_str()) };
        if grant.granted.waits_for_facts {
            // There is no handler that could be forgotten: what is known of a connection is known.
            grant.check(CONNECT, resource, &Facts::default())?;
        }
        Ok(grant)
    }

    /// Waits until a permission is gone: the caller's credential has ended, or the policy of the day says another thing. It is looked at every
    /// `period`, and at the end of the caller's credential and of the user's.
    pub(crate) async fn until_ended(&self, granted: &Granted, period: Duration, still_holds: impl Fn() -> bool) {
        let clock = self.clock();
        loop {
            let now = clock.now();
            // A user whose token has ended is looked at once more, as everything then is.
            let of_user = granted.on_behalf_of.as_ref().map(|user| user.valid_until()).filter(|end| now < *end);
            let of_caller = granted.caller.valid_until();
            let left = of_user.map_or(of_caller, |end| end.min(of_caller)).since(now);
            // A little later than the end, not just before it.
            clock.sleep_for(left.saturating_add(Duration::from_millis(1)).min(period)).await;
            if !still_holds() {
                return;
            }
        }
    }
}

impl ConnectionGrant {
    /// How often it is looked at.
    pub const PERIOD: Duration = Duration::from_secs(10);

    /// Who is at the other end.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.granted.caller
    }

    /// Asks whether the caller may do something within the connection: a command of the protocol, by the program's own words.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn check(&self, action: &str, resource: CanonicalPath<'_>, facts: &Facts) -> Result<(), Refused> {
        let (operation, recorded) =
            (Operation::App { action, resource }, RecordedOperation::App { action, resource: "" });
        self.authorization.authorize_with(&self.granted, operation, recorded, facts)
    }

    /// Whether it still holds: the credential has not ended, and the policy of now says the same.
    #[must_use]
    pub fn still_holds(&self) -> bool {
        let Ok(resource) = CanonicalPath::parse(&self.resource) else { return false };
        let operation = Operation::App { action: CONNECT, resource };
        self.authorization.still_granted(&self.granted, operation, RecordedOperation::Connection).is_ok()
    }

    /// Waits until it is gone; looked at every [`ConnectionGrant::PERIOD`] and at the credential's end. May be dropped at any time.
    pub async fn ended(&self) {
        self.authorization.until_ended(&self.granted, Self::PERIOD, || self.still_holds()).await;
    }
}

impl fmt::Debug for ConnectionGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionGrant")
            .field("caller", self.caller())
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}
