//! svid_cache
