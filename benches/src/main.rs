//! Throughput against testpmd.

fn main() {}
