//! See `jambac_fuzz::checkpoints::gguf`.
#![no_main]
use jambac_fuzz::checkpoints;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("gguf", &checkpoints::gguf_files()), |data: &[u8]| checkpoints::gguf(data));
