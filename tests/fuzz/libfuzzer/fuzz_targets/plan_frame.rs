//! See `jambac_fuzz::TARGETS`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| (jambac_fuzz::target("plan_frame").check)(data));
