//! clock_guard
