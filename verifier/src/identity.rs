//! The current SVID and trust bundles, kept up to date.
