//! Tests that need more than one crate, in one binary. `tests/README.md` lists what each module proves.

mod arguments;
mod batching;
mod constrained;
mod digests;
mod fixtures;
mod gguf;
mod heads;
mod hostile;
mod inspect;
mod integers;
mod kernels;
mod lora;
mod models;
mod oracle;
mod packed;
mod quality;
mod quantized;
mod questions;
mod same_bits;
mod sm90;
mod state;
mod synthetic;
mod tidy;
mod tour;
mod transformers;
