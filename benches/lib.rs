//! jambac-benches: kernels against the peaks of the machine, and weight formats against f32. `cargo bench` prints the tables;
//! `results` holds recorded measurements.

pub mod quality;
pub mod roofline;
