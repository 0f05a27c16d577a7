//! Properties of what this crate parses, as plain functions over bytes.
