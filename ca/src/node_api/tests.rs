//! The node API over real sockets and real TLS, with the clock in the test's hand.

mod delegating;
mod issuing;
mod joining;
mod messages;
mod peers;
mod renewing;
mod rig;
mod syncing;
