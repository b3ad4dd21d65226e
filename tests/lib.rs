//! jambac-tests has no library: `main.rs` is its one test binary.
