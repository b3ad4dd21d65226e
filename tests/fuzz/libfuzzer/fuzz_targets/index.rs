//! See `jambac_fuzz::checkpoints::index`.
#![no_main]
use jambac_fuzz::checkpoints;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("index", &checkpoints::indexes()), |data: &[u8]| checkpoints::index(data));
