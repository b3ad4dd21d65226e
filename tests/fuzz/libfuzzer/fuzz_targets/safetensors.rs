//! See `jambac_fuzz::checkpoints::safetensors`.
#![no_main]
use jambac_fuzz::checkpoints;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("safetensors", &checkpoints::safetensors_files()), |data: &[u8]| checkpoints::safetensors(data));
