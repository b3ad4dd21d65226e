//! See `jambac_fuzz::checkpoints::small_texts`.
#![no_main]
use jambac_fuzz::checkpoints;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("small_texts", &checkpoints::some_small_texts()), |data: &[u8]| checkpoints::small_texts(data));
