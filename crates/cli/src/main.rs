//! The `landfast` binary.

fn main() {}
