//! See `jambac_fuzz::plans::records`.
#![no_main]
use jambac_fuzz::plans;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("plan_run", &plans::no_edits()), |data: &[u8]| plans::records(data));
