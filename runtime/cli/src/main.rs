//! `jamba`.
fn main() {}
