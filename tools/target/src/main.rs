//! The target as a program.

fn main() {}
