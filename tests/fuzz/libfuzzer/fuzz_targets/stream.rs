//! See `jambac_fuzz::texts::stream`.
#![no_main]
use jambac_fuzz::texts;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("stream", &texts::token_lists()), |data: &[u8]| texts::stream(data));
