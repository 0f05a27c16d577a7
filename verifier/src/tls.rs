//! rustls configurations from an identity.
