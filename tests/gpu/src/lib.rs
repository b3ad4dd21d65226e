//! jambac-gpu-bench: kernels and plans on a GPU, checked and timed. It needs no compiler, no LLVM and no network where it runs:
//! its program, plans and recorded cases of kernels are carried there (`run.py`).

pub mod cases;
pub mod checks;
pub mod draws;
pub mod times;
