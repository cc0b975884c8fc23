//! The binary: parses arguments, starts tracing, runs.

fn main() {}
