//! Every kernel compared with the scalar reference, for all cases with odd shapes.

mod attention;
mod experts;
mod grouped_linear;
pub mod harness;
mod integer;
mod levels;
mod linear;
mod linear_swiglu;
mod recurrent;
mod routing;
mod row_wise;
mod split_linear;
pub mod steps;
