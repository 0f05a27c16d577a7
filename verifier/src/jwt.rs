//! JWT-SVIDs: verification (JWT-SVID, RFC 7515, RFC 7519), and the pieces that a CA signs them with; transaction tokens; tokens about users.
//!
//! A JWT-SVID is a bearer token: who sees it can use it until it expires, with every service in its audience. Between
//! services prefer X.509-SVIDs; take JWT-SVIDs where TLS ends before the service does.

pub mod access_token;
pub mod delegation;
mod error;
mod jws;
mod key_set;
mod scope;
pub mod self_signed;
pub(crate) mod shared_secret;
mod token;
pub mod txn_token;
pub mod user_issuers;
pub mod user_token;

#[cfg(test)]
mod tests;

pub use error::{JwtError, Part};
pub use jws::{Algorithm, SigningInput};
pub(crate) use jws::{Compact, cut};
pub use key_set::to_jwks;
pub use scope::{is_scope, is_scope_word};
pub use shared_secret::{Claimed, mint as mint_shared_secret_token};
pub use token::{LEEWAY, MAX_AUDIENCES, MAX_NUMBER, MAX_TOKEN_BYTES, UnverifiedJwt, VerifiedJwt, verify};
