//! jambac-gpu-bench: checks and times kernels and plans on a GPU. The GPU machine needs no compiler, no LLVM and no network:
//! `run.py` packs the program, plans and recorded launches.

pub mod cases;
pub mod checks;
pub mod constants;
pub mod draws;
pub mod times;
pub mod variants;
