//! One server loop.
