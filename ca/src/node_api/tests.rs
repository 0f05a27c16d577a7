//! Node API tests.
