//! See `jambac_fuzz::texts::sampler`.
#![no_main]
use jambac_fuzz::texts;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("sampler", &texts::token_lists()), |data: &[u8]| texts::sampler(data));
