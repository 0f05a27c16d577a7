//! The system clock, and time as an argument.
