//! The `bonafide-ca` program.

fn main() {}
