//! See `jambac_fuzz::plans::frame`.
#![no_main]
use jambac_fuzz::plans;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("plan_frame", &plans::no_edits()), |data: &[u8]| plans::frame(data));
