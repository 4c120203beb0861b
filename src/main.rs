//! The `taskflow` binary: parses, builds, runs, drains.
fn main() {}
