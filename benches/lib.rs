//! jambac-benches: kernels against the peaks of the machine they run on, and formats of weights against f32. `cargo bench`
//! prints the tables; `results` keeps what was recorded.

pub mod quality;
pub mod roofline;
