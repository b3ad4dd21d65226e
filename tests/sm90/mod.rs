//! Kernels for sm_90a compared with the scalar reference on a simulated GPU, and assembled by ptxas if it is installed.

mod assembly;
mod attention;
mod attention_mutants;
mod combine;
mod drawn_plan;
mod experts;
pub mod harness;
mod matmul;
mod matmul_mutants;
mod pages;
mod picks;
mod plan;
mod record;
mod recurrent;
mod row_wise;
mod sample;
mod synthetic_weight;
mod ties;
pub mod toolkit;
mod unfused;
