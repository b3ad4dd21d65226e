//! See `jambac_fuzz::plans::state`.
#![no_main]
use jambac_fuzz::plans;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("state", &plans::no_edits()), |data: &[u8]| plans::state(data));
