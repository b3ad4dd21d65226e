//! Rows of a synthetic weight on Hopper: blocks take the rows in turn, threads 16 bytes of a row at a time.
//!
//!     out[r, c] = draw first + r · cols + c, where c < cols and r · cols + c < n; else 0
//!
//! Bound by integer arithmetic: for each value two products and three shifts of 64 bits, some forty instructions in all, fifty
//! where int8 divides; 4, 2 or 1 bytes are written for it and none read. 132 multiprocessors of 128 lanes at 1.7 GHz make
//! some 6 · 10¹¹ values a second, which takes a fifth of memory's rate as int8 and most of it as f32.
//!
//! The product and the sum are rounded separately, and subnormals kept, so that the bits are the same on every device.
//!
//! 1. the row's address, and its number of values
//! 2. the draws of 16 bytes; int8 in the order of [`crate::hopper::weight`]
//! 3. as the format stores them

use crate::kernel::{Cost, Counts, Elem, Param};
use jamba_plan::format::{Blocks, Launch};

/// What the kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// What values are stored as: f32, bf16 or int8.
    pub format: Elem,
}

impl Spec {
    pub(crate) fn symbol(&self) -> String {
        format!("synthetic_weight_{}_sm90", self.format.name())
    }

    /// Those of [`jamba_plan::synthetic::DrawnRows::args`].
    pub(crate) fn params(&self) -> Vec<Param> {
        let numbers =
            ["key", "scale", "offset", "normal", "first", "n", "cols", "stride", "rows", "run", "run_stride", "unit"];
        [Param::write("out", self.format, &[])].into_iter().chain(numbers.map(Param::scalar)).collect()
    }

    /// Of a step: it belongs to none.
    pub(crate) fn cost(&self, _: Counts) -> Cost {
        Cost::default()
    }

    pub(crate) fn launch(&self) -> Launch {
        Launch::along_x(Blocks::PerSm(4), 256, 0)
    }
}

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit;

#[cfg(test)]
mod tests {
    use super::*;
    use jamba_plan::synthetic::DrawnRows;

    #[test]
    fn the_parameters_are_those_of_drawn_rows() {
        assert_eq!(Spec { format: Elem::Bf16 }.params().len(), DrawnRows::N_ARGS);
    }
}
