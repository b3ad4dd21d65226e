//! jambac-benches: kernels against the peaks of the machine they run on. `cargo bench` prints the table; `results` keeps what
//! was recorded.

pub mod roofline;
