//! What only Hopper has, on a simulated GPU: configs, mutants, pages, sampling, whole plans, and the assembly of ptxas if it is
//! installed. (`kernels` compares every case with the reference.)

mod assembly;
mod attention;
mod attention_mutants;
mod combine;
mod drawn_plan;
mod experts;
mod matmul;
mod matmul_mutants;
mod pages;
mod picks;
mod plan;
mod predict;
mod record;
mod sample;
mod synthetic_weight;
mod ties;
mod unfused;
