//! X.509-SVIDs: parsing and verification.
