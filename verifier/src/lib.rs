//! Provable identity for services: SPIFFE IDs, X.509-SVID and JWT-SVID verification, and rustls servers and
//! clients whose connections never outlive the credentials they were made with.
#![cfg_attr(
    not(all(feature = "serve", feature = "workload-api")),
    allow(rustdoc::broken_intra_doc_links, reason = "the documents name what other features bring")
)]

#[cfg(feature = "workload-api")]
pub mod agent_tokens;
pub mod api_key;
pub mod authenticate;
#[cfg(feature = "limits")]
pub mod authorization;
pub mod caller;
pub mod clock;
#[cfg(feature = "workload-api")]
pub mod credential;
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "workload-api")]
mod generated;
#[cfg(feature = "tower")]
pub mod http;
pub mod identity;
#[cfg(feature = "jwt")]
pub mod jwt;
pub mod key_records;
#[cfg(feature = "tokio")]
pub mod lifetime;
#[cfg(feature = "limits")]
pub mod limits;
pub mod on_behalf_of;
#[cfg(feature = "policy-file")]
pub mod policy;
pub mod record;
#[cfg(feature = "serve")]
pub mod serve;
pub mod shared_secret;
pub mod spiffe;
mod strict_json;
pub mod tls;
#[cfg(feature = "jwt")]
pub mod txn_tokens;
pub mod user;
pub mod x509;
