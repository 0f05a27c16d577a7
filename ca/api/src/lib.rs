//! The wire contract of the Bonafide CA: its node API and its admin API, and the words that both sides of
//! them share: node names, labels, placements, selectors, the invitation, reason codes, reserved identities.
//!
//! The CA and its agents depend on this crate, a server that verifies callers does not. Everything here is
//! plain data: what parses is valid, and no function does IO.

mod ca_address;
#[doc(hidden)]
pub mod fuzzing;
pub mod generated;
mod identity;
mod invitation;
mod labels;
mod mint_chain;
mod node_name;
mod placement;
mod reason;
mod refusal;
mod selector;
pub mod token_exchange;
mod token_keys;

pub use ca_address::{CaAddress, CaAddressError};
pub use identity::{RESERVED_SEGMENT, ca_id, node_id, node_name_of};
pub use invitation::{Invitation, InvitationError, InvitationSecret};
pub use labels::{LabelError, Labels};
pub use mint_chain::MintChain;
pub use node_name::{NodeName, NodeNameError};
pub use placement::{Placement, PlacementError};
pub use reason::{Area, Reason};
pub use refusal::{ERROR_DOMAIN, Refusal, refusal};
pub use selector::{Selector, SelectorError, SelectorKind};
pub use token_keys::token_keys_digest;
