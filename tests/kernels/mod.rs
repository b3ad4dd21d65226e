//! Every kernel against the scalar reference, on all its odd shapes.

mod grouped_linear;
mod harness;
mod linear;
mod row_wise;
