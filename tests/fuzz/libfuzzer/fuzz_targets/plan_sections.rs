//! See `jambac_fuzz::plans::sections`.
#![no_main]
use jambac_fuzz::plans;
libfuzzer_sys::fuzz_target!(init: jambac_fuzz::keep("plan_sections", &plans::no_edits()), |data: &[u8]| plans::sections(data));
