//! The audit log: no certificate leaves and nothing changes without a record in a hash chain.
//!
//! [`record`] makes records, [`chain`] hashes and signs them, [`list`] and [`verify`] read them again. Records are
//! written by the [store](crate::store) alone, in the transaction of the change they tell of; each group of records
//! that was written together ends in a head signed by the issuing authority.

pub(crate) mod chain;
mod kind;
pub(crate) mod list;
mod record;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

pub(crate) use self::{
    chain::{Head, HeadSigner},
    kind::Kind,
    list::{Entry, Filter, last_expiry, page},
    record::{JwtIssued, Record, SvidKind, TokenIssued, Who, X509Issued, sha256},
    verify::{VerifyError, verify_file},
};
