//! `jambac`.
fn main() {}
