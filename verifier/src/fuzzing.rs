//! Properties of everything that parses what a stranger sends, as plain functions over bytes.
