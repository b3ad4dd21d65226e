//! See `jambac_fuzz::texts::ptx`.
#![no_main]
use jambac_fuzz::texts;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("ptx", &texts::ptx_texts()), |data: &[u8]| texts::ptx(data));
