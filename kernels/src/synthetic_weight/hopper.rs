//! Draws rows of a synthetic weight on Hopper: blocks take the rows in turn, threads 16 bytes of a row at a time.
//!
//! ```text
//! out[r, c] = draw first + r · cols + c, if c < cols and r · cols + c < n; else 0
//! ```
//!
//! Bound by integer arithmetic: two products and three shifts of 64 bits per value, about forty instructions in total,
//! fifty with the division for int8; 4, 2 or 1 bytes are written per value and none read. An H100, with 128 lanes per SM at
//! 1.7 GHz, computes about 6 · 10¹¹ values per second. This uses a fifth of the memory bandwidth as int8 and most of it as
//! f32.
//!
//! The product and the sum are rounded separately, and subnormals are kept, so that the bits are identical on every device.
//!
//! 1. find the row's address and its number of values
//! 2. draw 16 bytes of values; int8 in the order of [`crate::hopper::weight`]
//! 3. convert to the format and store

use super::Spec;
use crate::kernel::{Blocks, Cost, Extent, Grid, Launch, Operand, Param, Source, hopper_body};

/// The slots match [`jamba_plan::synthetic::DrawnRows::args`].
pub(super) fn launch(spec: &Spec) -> Launch {
    let numbers =
        ["key", "scale", "offset", "normal", "first", "n", "cols", "stride", "rows", "run", "run_stride", "unit"];
    let params = [Param::write("out", spec.format, &[])].into_iter().chain(numbers.map(Param::scalar));
    Launch {
        op: "synthetic_weight",
        symbol: format!("synthetic_weight_{}_sm90", spec.format.name()),
        operands: params.map(|param| Operand::new(param, Source::Caller, Extent::fixed(0))).collect(),
        // Runs when a plan is opened, not in a step.
        cost: Cost::default(),
        grid: Some(Grid::along_x(Blocks::PerSm(4), 256, 0)),
        body: hopper_body!(spec, emit),
    }
}

#[cfg(feature = "emit")]
pub(crate) use emit::emit;

#[cfg(feature = "emit")]
mod emit;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Elem;
    use jamba_plan::synthetic::DrawnRows;

    #[test]
    fn the_parameters_are_those_of_drawn_rows() {
        assert_eq!(launch(&Spec { format: Elem::Bf16 }).operands.len(), DrawnRows::N_ARGS);
    }
}
