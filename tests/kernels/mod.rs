//! Every kernel against the scalar reference, on all its odd shapes.

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
