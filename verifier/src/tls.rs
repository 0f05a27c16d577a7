//! rustls configurations from an identity.

mod peer_set;

pub use self::peer_set::{Members, PeerSet, PeerSetError};
