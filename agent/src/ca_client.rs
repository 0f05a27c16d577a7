//! ca_client
