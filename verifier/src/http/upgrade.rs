//! Requests after which a handler speaks another protocol on their connection: a WebSocket, for one.

use http::Request;

use super::Grant;

/// The connection of a request that asks for another protocol, where it came in through [`serve`](crate::serve::serve()). A server loop
/// of another kind knows nothing of permissions: there a handler ends what it took over when [`Grant::ended`] says so.
#[derive(Clone, Debug)]
pub struct Upgrade {
    #[cfg(feature = "serve")]
    connection: Option<crate::serve::TakenOver>,
}

impl Upgrade {
    #[cfg_attr(not(feature = "serve"), allow(unused_variables, reason = "only our own server loop says anything"))]
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self {
            #[cfg(feature = "serve")]
            connection: request.extensions().get().cloned(),
        }
    }

    /// The handler has taken it over: it is cut when the permission ends.
    #[cfg_attr(not(feature = "serve"), allow(unused_variables, reason = "only our own server loop says anything"))]
    pub(super) fn follow(&self, grant: Grant) {
        #[cfg(feature = "serve")]
        if let Some(connection) = &self.connection {
            connection.until(async move { grant.ended().await });
        }
    }
}
