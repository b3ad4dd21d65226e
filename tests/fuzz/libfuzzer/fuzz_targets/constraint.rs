//! See `jambac_fuzz::texts::constraint`.
#![no_main]
use jambac_fuzz::texts;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("constraint", &texts::constraints()), |data: &[u8]| texts::constraint(data));
