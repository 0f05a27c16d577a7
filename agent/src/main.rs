//! The `bonafide-agent` program.

fn main() {}
